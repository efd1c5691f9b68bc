package caddyoauth

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddyoauth/caddyoauth/internal/api"
)

func init() {
	caddy.RegisterModule(Dashboard{})
}

const defaultDashboardPath = "/dashboard"

// Dashboard serves pages on which operators see how all connections are, and act on them. It is a client of the REST API, without a
// network between them: what a visitor sees and may do, and what goes into the audit log, is decided there. Its options are those of
// the API on a site.
type Dashboard struct {
	// Path is where the pages are, without a slash at the end. Default: `/dashboard`.
	RestAPI

	streams *atomic.Int64 // news that are being sent
}

// CaddyModule returns the Caddy module information.
func (Dashboard) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.oauth2_dashboard", New: func() caddy.Module { return new(Dashboard) }}
}

// Provision checks the configuration.
func (h *Dashboard) Provision(ctx caddy.Context) error {
	h.streams = new(atomic.Int64)
	if h.Path == "" {
		h.Path = defaultDashboardPath
	}
	return h.RestAPI.Provision(ctx)
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (h *Dashboard) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	rest, ours := strings.CutPrefix(r.URL.EscapedPath(), h.path)
	if !ours || rest != "" && rest[0] != '/' {
		return next.ServeHTTP(w, r)
	}
	setPageHeaders(w.Header())
	w.Header().Set("Content-Security-Policy", dashboardPolicy)
	postsForms(w.Header())
	v := &operatorVisit{Dashboard: h, w: w, r: r}
	parts, ok := splitPath(rest)
	var err error
	if v.caller, err = h.app.rest.Visit(r, actionOf(r.Method, parts), h.access()); err != nil {
		return v.refused(err)
	}
	if !ok {
		return v.refused(api.NotFound())
	}
	return v.serve(parts)
}

// actionOf names what was tried, for the audit log, in words of ours.
func actionOf(method string, parts []string) string {
	if method == http.MethodPost {
		for _, deed := range []string{"refresh", "revoke", "rollback", "authorize", "test"} {
			if slices.Contains(parts, deed) {
				return "dashboard." + deed
			}
		}
	}
	return "dashboard.visit"
}

// splitPath takes a path apart, as it was escaped: a subject may hold a slash.
func splitPath(rest string) (parts []string, ok bool) {
	if rest = strings.Trim(rest, "/"); rest == "" {
		return nil, true
	}
	for part := range strings.SplitSeq(rest, "/") {
		text, err := url.PathUnescape(part)
		if err != nil || text == "" {
			return nil, false
		}
		parts = append(parts, text)
	}
	return parts, true
}

// operatorVisit is one request to the dashboard.
type operatorVisit struct {
	*Dashboard
	w      http.ResponseWriter
	r      *http.Request
	caller api.Caller
}

// serve finds what a path means: nothing, `news`, or a connection's ID, `for` and a subject where each has its own, and what to do.
func (v *operatorVisit) serve(parts []string) error {
	reads := v.r.Method == http.MethodGet || v.r.Method == http.MethodHead
	switch {
	case len(parts) == 0 && reads:
		return v.overview()
	case len(parts) == 1 && parts[0] == "news" && reads:
		return v.news()
	case len(parts) == 0:
		return v.refused(api.NotFound())
	}
	at := spot{id: parts[0]}
	parts = parts[1:]
	if len(parts) >= 2 && parts[0] == "for" {
		at.subject, parts = parts[1], parts[2:]
	}
	switch {
	case len(parts) == 0 && reads:
		return v.detail(at)
	case len(parts) == 1 && parts[0] == "revoke" && reads:
		return v.confirm(at)
	case len(parts) == 1 && !reads || len(parts) == 2 && parts[0] == "rollback" && !reads:
		return v.act(at, parts)
	}
	return v.refused(api.NotFound())
}

// spot is what a page is about: a connection, or one subject of it.
type spot struct{ id, subject string }

// page is the path of its page below the dashboard's.
func (s spot) page() string {
	path := "/" + url.PathEscape(s.id)
	if s.subject != "" {
		path += "/for/" + url.PathEscape(s.subject)
	}
	return path
}

// api is the path that the API has for it.
func (s spot) api() string {
	path := "/v1/secrets/" + url.PathEscape(s.id)
	if s.subject != "" {
		path += "/subjects/" + url.PathEscape(s.subject)
	}
	return path
}

// ask sends a request to the REST API as this visitor, and decodes `data` of its answer.
func (v *operatorVisit) ask(method, path string, into any) error {
	target, err := url.Parse(path)
	if err != nil {
		return api.NotFound()
	}
	r := v.r.Clone(v.r.Context())
	r.Method, r.URL, r.Body, r.ContentLength = method, target, http.NoBody, 0
	r.Header.Del("Idempotency-Key")
	answer := &kept{header: make(http.Header)}
	access := v.access()
	access.Limit = 0 // the visit was counted
	access.Identify = func(*http.Request) (api.Caller, error) { return v.caller, nil }
	v.app.rest.Serve(answer, r, target.EscapedPath(), access)
	var body struct {
		Data  json.RawMessage
		Error *struct{ Type, Message string }
	}
	if err := json.Unmarshal(answer.body.Bytes(), &body); err != nil {
		return fmt.Errorf("read the answer of the API: %w", err)
	}
	if body.Error != nil {
		return &api.Error{Status: answer.status, Type: body.Error.Type, Message: body.Error.Message}
	}
	return json.Unmarshal(body.Data, into)
}

// kept is an answer that stays in memory.
type kept struct {
	header http.Header
	status int
	body   bytes.Buffer
}

// Header implements http.ResponseWriter.
func (k *kept) Header() http.Header { return k.header }

// WriteHeader implements http.ResponseWriter.
func (k *kept) WriteHeader(status int) { k.status = status }

// Write implements http.ResponseWriter.
func (k *kept) Write(p []byte) (int, error) { return k.body.Write(p) }

// news tells the browser when something has changed, as server-sent events, so that it fetches the page anew. A stream ends by
// itself, and the browser opens another: it holds up neither a reload nor the end of the program.
func (v *operatorVisit) news() error {
	if v.streams.Add(1) > maxStreams {
		v.streams.Add(-1)
		v.w.Header().Set("Retry-After", "30")
		v.w.WriteHeader(http.StatusServiceUnavailable)
		return nil
	}
	defer v.streams.Add(-1)
	v.w.Header().Set("Content-Type", "text/event-stream")
	v.w.Header().Set("X-Accel-Buffering", "no")
	v.stream(v.r.Context())
	return nil
}

// stream looks again and again, and tells of differences.
func (v *operatorVisit) stream(ctx context.Context) {
	flusher := http.NewResponseController(v.w)
	before := cmp.Or(v.r.Header.Get("Last-Event-Id"), v.r.URL.Query().Get("seen")) // on the stream before this one, or on the page
	for range streamLooks {
		now, err := v.digest()
		if err != nil {
			return // the browser asks again, and gets a page that says it
		}
		text := ": nothing new\n\n"
		if now != before {
			text = "id: " + now + "\ndata: changed\n\n"
		}
		before = now
		if _, err := io.WriteString(v.w, text); err != nil || flusher.Flush() != nil || caddy.Exiting() {
			return // the browser is gone, or Caddy ends
		}
		if !pauseFor(ctx, v.app.loop.ctx, streamPause) {
			return
		}
	}
}

// Interface guards.
var (
	_ caddy.Provisioner           = (*Dashboard)(nil)
	_ caddyhttp.MiddlewareHandler = (*Dashboard)(nil)
	_ http.ResponseWriter         = (*kept)(nil)
)
