package dashboard

import (
	"net/http"
	"net/url"
	"strconv"

	"github.com/caddyoauth/caddyoauth/internal/api"
	"github.com/caddyoauth/caddyoauth/internal/pages"
)

const (
	shownEvents = 20 // on a connection's page
	shownTrail  = 50 // on one page of all
)

// audits reports whether the visitor may see who did what: an administrator of the whole tenant. Asking without being one would be an
// attempt that is denied.
func (v *visit) audits() bool { return v.caller.Role(v.caller.Tenant, "") >= api.Admin }

// eventsOf returns what was done to a connection of late.
func (v *visit) eventsOf(at spot) []api.AuditEvent {
	if !v.audits() {
		return nil
	}
	query := url.Values{"target": {at.id}, "per_page": {strconv.Itoa(shownEvents)}}
	if at.subject != "" {
		query.Set("subject", at.subject)
	}
	var events []api.AuditEvent
	if _, err := v.ask(http.MethodGet, "/v1/audit?"+query.Encode(), &events); err != nil {
		return nil // the rest of the page is worth seeing
	}
	for i := range events { // the page's title says these
		if events[i].Name = ""; at.subject != "" {
			events[i].Subject = ""
		}
	}
	return events
}

// trailPage is the page about the last changes and denied attempts, whatever they were about.
type trailPage struct {
	frame
	pager
	Events     []api.AuditEvent
	LeftOut    int
	Incomplete bool
}

// trail shows the last changes and denied attempts. It does not follow the news: who reads it would lose the line.
func (v *visit) trail() error {
	query := url.Values{"per_page": {strconv.Itoa(shownTrail)}}
	if page := v.r.URL.Query().Get("page"); page != "" {
		query.Set("page", page)
	}
	data := &trailPage{frame: v.frameOf("What was done", spot{})}
	data.News = ""
	sum, err := v.ask(http.MethodGet, "/v1/audit?"+query.Encode(), &data.Events)
	if err != nil {
		return v.refused(err)
	}
	data.pager, data.LeftOut, data.Incomplete = v.pagerOf(spot{id: "audit"}, sum), sum.LeftOut, sum.Incomplete
	return pages.Render(v.w, http.StatusOK, "dashboard_audit.html", data)
}
