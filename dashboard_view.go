package caddyoauth

import (
	"cmp"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/api"
	"github.com/caddyoauth/caddyoauth/internal/connection"
)

const (
	maxStreams  = 64 // browsers that are told news at the same time
	streamLooks = 10 // how often a stream looks before it ends
	streamPause = 3 * time.Second

	shownConnections = 200 // on the overview; the API has them all
	shownSubjects    = 100
	shownEvents      = 20
)

//go:embed templates/dashboard.js
var dashboardScript string

// dashboardPolicy is that of all pages, and allows the one script, which counts down and fetches what is new from this site.
var dashboardPolicy = strings.Replace(pagePolicy, "form-action", fmt.Sprintf("script-src 'sha256-%s'; connect-src 'self'; form-action", digestOfScript()), 1)

func digestOfScript() string {
	sum := sha256.Sum256([]byte(dashboardScript))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// standingRow is a connection, or one subject of it, as the pages show it.
type standingRow struct {
	Name, Tenant, Provider string
	Href                   string
	Tone, State, Advice    string
	Code                   string
	api.Token
	Renews bool     // it has ended, and is refreshed when it is used next
	Counts []string // of the subjects in memory, by state
	Pulse  *pulseView
	Alarm  bool
	rank   int
}

// stateWords says of each status how bad it is, and what to do.
var stateWords = map[string]struct {
	tone, state, advice string
	rank                int
}{
	"misconfigured":          {"failed", "Refused", "The provider refuses the client. Correct the configuration; a secret or certificate file is read again by itself.", 0},
	"lost_rotation":          {"ended", "Lost rotation", "A new refresh token was lost on its way. A person has to connect the account again.", 1},
	"revoked":                {"ended", "Revoked", "The consent is gone. A person has to connect the account again.", 2},
	"failing":                {"weak", "Failing", "The provider cannot be asked at the moment. This is tried again by itself.", 3},
	"expiring":               {"weak", "Ends soon", "What refreshes it ends soon. A person has to connect the account again before.", 4},
	"authorization_required": {"off", "Not connected", "A person has to connect the account.", 5},
	"not_connected":          {"off", "Not connected", "A person has to connect the account.", 5},
	"disconnected":           {"off", "Disconnected", "It was ended on purpose.", 7},
	"pending":                {"off", "Ready", "The first token is fetched when it is needed.", 8},
	"per_subject":            {"on", "One for each person", "", 9},
	"active":                 {"on", "Active", "", 9},
	"connected":              {"on", "Active", "", 9},
}

// lastAlarm is the rank up to which a state needs somebody.
const lastAlarm = 5

// describe puts a status into words.
func (row *standingRow) describe(status string) {
	words, known := stateWords[status]
	if !known {
		words.tone, words.state, words.rank = "weak", status, 6
	}
	row.Tone, row.State, row.Advice, row.rank = words.tone, words.state, words.advice, words.rank
	row.Alarm = row.rank <= lastAlarm
	if row.Renews = words.tone == "on" && row.Renewable && row.ExpiresAt != nil && row.ExpiresAt.Before(time.Now()); row.Renews {
		row.State, row.Advice = "Resting", "It has ended while nobody used it, and is refreshed when it is used next."
	}
}

// rows returns the connections that the visitor may see, what needs somebody first.
func (v *operatorVisit) rows() ([]standingRow, error) {
	var all []api.Secret
	if err := v.ask(http.MethodGet, "/v1/secrets?secret_type=oauth2&per_page="+strconv.Itoa(shownConnections), &all); err != nil {
		return nil, err
	}
	rows := make([]standingRow, 0, len(all))
	for _, one := range all {
		var detail api.SecretDetail
		if err := v.ask(http.MethodGet, spot{id: one.ID}.api(), &detail); err != nil {
			var gone *api.Error
			if errors.As(err, &gone) && gone.Status == http.StatusNotFound {
				continue // it was removed meanwhile
			}
			return nil, err
		}
		rows = append(rows, v.rowOf(detail))
	}
	slices.SortStableFunc(rows, func(a, b standingRow) int { return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(a.Name, b.Name)) })
	return rows, nil
}

func (v *operatorVisit) rowOf(detail api.SecretDetail) standingRow {
	row := standingRow{
		Name: detail.Name, Tenant: detail.Tenant, Provider: deref(detail.Provider), Href: v.path + spot{id: detail.ID}.page(), Code: detail.ConnectionError,
	}
	status := deref(detail.ConnectionStatus)
	if detail.Token != nil {
		row.Token = *detail.Token
		status, row.Code = detail.Token.Status, cmp.Or(detail.Token.Code, row.Code)
	}
	row.describe(status)
	if c := v.connectionOf(detail.ID); c != nil {
		row.Pulse = viewPulse(v.app.engine.pulseOf(c.key.id), time.Now())
		if c.subject != "" {
			row.count(c.status().Subjects)
		}
	}
	return row
}

// count sums up the subjects in memory. What is wrong with one of them is shown, and is no alarm for all.
func (row *standingRow) count(subjects map[string]int) {
	for _, status := range sortedNames(subjects) {
		words := stateWords[status]
		row.Counts = append(row.Counts, fmt.Sprintf("%d %s", subjects[status], strings.ToLower(cmp.Or(words.state, status))))
		if words.rank <= 4 && words.tone != "" && row.rank > words.rank {
			row.Tone, row.rank, row.Alarm = words.tone, words.rank, true
		}
	}
}

// connectionOf returns the running connection with that ID; nil if there is none.
func (v *operatorVisit) connectionOf(id string) *activeConnection {
	ref, err := apiTokens{v.app}.ref(api.Ref{ID: id})
	if err != nil {
		return nil
	}
	c, _ := v.app.active.get(ref.Connection)
	return c
}

// dashboardFrame is what all pages of the dashboard have.
type dashboardFrame struct {
	frame
	Title, Home string
	Seen        string // a digest of what the page shows; "" = the page does not follow the news
}

func (v *operatorVisit) frameOf(title string) dashboardFrame {
	return dashboardFrame{frame: frame{Site: v.r.Host, Who: v.caller.Name}, Title: title, Home: v.path}
}

// overview shows all connections.
func (v *operatorVisit) overview() error {
	rows, err := v.rows()
	if err != nil {
		return v.refused(err)
	}
	data := struct {
		dashboardFrame
		Rows          []standingRow
		Well, Trouble int
	}{v.frameOf("Connections"), rows, 0, 0}
	for _, row := range rows {
		if row.Alarm {
			data.Trouble++
		} else {
			data.Well++
		}
	}
	data.Seen = digestOfRows(rows)
	return render(v.w, http.StatusOK, "dashboard.html", data)
}

// digest changes whenever the overview would look different.
func (v *operatorVisit) digest() (string, error) {
	rows, err := v.rows()
	return digestOfRows(rows), err
}

func digestOfRows(rows []standingRow) string {
	sum := sha256.New()
	for _, row := range rows {
		fmt.Fprintf(sum, "%q %q %d %d %v\n", row.Href, row.State, row.Generation, row.Attempts, row.Counts)
	}
	return hex.EncodeToString(sum.Sum(nil)[:8])
}

// deed is a button that does something.
type deed struct{ Action, Label, ID string }

// detail shows one connection, or one subject of it.
func (v *operatorVisit) detail(at spot) error {
	var detail api.SecretDetail
	if err := v.ask(http.MethodGet, spot{id: at.id}.api(), &detail); err != nil {
		return v.refused(err)
	}
	data := struct {
		dashboardFrame
		standingRow
		RedirectURI string
		Versions    []versionRow
		Subjects    []standingRow
		More        int
		Events      []api.AuditEvent
		Deeds       []deed
		Revoke      string
		MayRollBack bool
		Notice      string
	}{dashboardFrame: v.frameOf(detail.Name), standingRow: v.rowOf(detail), RedirectURI: deref(detail.RedirectURI)}
	if at.subject != "" {
		if err := v.ask(http.MethodGet, at.api(), &data.Token); err != nil {
			return v.refused(err)
		}
		data.Code, data.Counts = data.Token.Code, nil
		data.describe(data.Status)
	}
	role := v.caller.Role(detail.Tenant, deref(detail.CollectionID))
	whole := at.subject == "" && detail.Token == nil && deref(detail.ConnectionStatus) == "per_subject"
	if whole {
		rows, more, err := v.subjects(at)
		if err != nil {
			return v.refused(err)
		}
		data.Subjects, data.More = rows, more
	} else {
		versions, err := v.versions(at)
		if err != nil {
			return v.refused(err)
		}
		data.Versions, data.Deeds, data.Revoke, data.MayRollBack = versions, v.deeds(at, role, data.standingRow), "", role >= api.Admin
		if role >= api.Admin && data.Generation > 0 {
			data.Revoke = v.path + at.page() + "/revoke"
		}
	}
	if role >= api.Admin {
		data.Events = v.eventsOf(at)
	}
	data.Notice = doneWords[v.r.URL.Query().Get("done")]
	return render(v.w, http.StatusOK, "dashboard_one.html", data)
}

// deeds are the buttons that this role gets for that state.
func (v *operatorVisit) deeds(at spot, role api.Role, row standingRow) []deed {
	if role < api.Operator {
		return nil
	}
	c := v.connectionOf(at.id)
	base := v.path + at.page()
	var deeds []deed
	if c != nil && c.needsPerson() {
		label := "Reauthorize"
		if row.Generation == 0 || row.Status == string(connection.StatusDisconnected) {
			label = "Connect"
		}
		deeds = append(deeds, deed{base + "/authorize", label, "authorize"})
	}
	deeds = append(deeds, deed{base + "/refresh", "Refresh now", "refresh"})
	if c != nil && c.call != nil {
		deeds = append(deeds, deed{base + "/test", "Test", "test"})
	}
	return deeds
}

// versionRow is a generation in the history.
type versionRow struct {
	api.Version
	RollBack string // where a form posts to that brings it back; "" = it cannot be
}

func (v *operatorVisit) versions(at spot) ([]versionRow, error) {
	var all []api.Version
	if err := v.ask(http.MethodGet, at.api()+"/versions", &all); err != nil {
		return nil, err
	}
	c := v.connectionOf(at.id)
	rows := make([]versionRow, 0, len(all))
	for _, one := range all {
		row := versionRow{Version: one}
		if !one.Current && c != nil && c.needsPerson() && one.Reason != string(connection.ReasonDisconnected) {
			row.RollBack = v.path + at.page() + "/rollback/" + strconv.FormatUint(one.Version, 10)
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// subjects lists whose token sets there are.
func (v *operatorVisit) subjects(at spot) (rows []standingRow, more int, err error) {
	var all []api.Token
	if err := v.ask(http.MethodGet, at.api()+"/subjects?per_page=200", &all); err != nil {
		return nil, 0, err
	}
	for _, one := range all {
		row := standingRow{Token: one, Name: one.Subject, Code: one.Code, Href: v.path + spot{id: at.id, subject: one.Subject}.page()}
		row.describe(one.Status)
		rows = append(rows, row)
	}
	slices.SortStableFunc(rows, func(a, b standingRow) int { return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(a.Name, b.Name)) })
	shown := min(len(rows), shownSubjects)
	return rows[:shown], len(rows) - shown, nil
}

// eventsOf returns what was done to a connection of late.
func (v *operatorVisit) eventsOf(at spot) []api.AuditEvent {
	var all []api.AuditEvent
	if err := v.ask(http.MethodGet, "/v1/audit?per_page=200&target="+url.QueryEscape(at.id), &all); err != nil {
		return nil // it is for administrators of the whole tenant
	}
	all = slices.DeleteFunc(all, func(e api.AuditEvent) bool { return e.Target != at.id || e.Subject != at.subject })
	return all[:min(len(all), shownEvents)]
}

// pauseFor waits, and reports whether to go on: neither context has ended.
func pauseFor(ctx, other context.Context, pause time.Duration) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
	case <-other.Done():
	}
	return false
}

func deref(text *string) string {
	if text == nil {
		return ""
	}
	return *text
}

func sortedNames(m map[string]int) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
