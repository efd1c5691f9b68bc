// Package dashboard makes the pages on which operators see how all connections are, and act on them.
//
// It is a client of the REST API, without a network between them: whatever it shows is an answer to a request of the visitor's, and what
// a visitor sees and may do, and what goes into the audit log, is decided there. It knows nothing of tokens, storage or Caddy.
//
// It may import api, pages and the standard library.
package dashboard

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/api"
	"github.com/caddyoauth/caddyoauth/internal/pages"
)

// Settings is what the pages are made with.
type Settings struct {
	API     *api.API
	Access  api.Access      // how visitors come in; its prefix is where the pages are
	Changes func() uint64   // moves whenever something has changed in this process that a page may show
	Ended   <-chan struct{} // closed when the configuration has ended
	Exiting func() bool     // whether the program is about to end
}

// Board serves the pages.
type Board struct {
	Settings
	path string
	news newsroom
}

// New returns the pages.
func New(settings Settings) *Board {
	return &Board{Settings: settings, path: settings.Access.Prefix}
}

// Serve answers a request for what is below the path, which is escaped as it came.
func (b *Board) Serve(w http.ResponseWriter, r *http.Request, rest string) error {
	pages.SetHeaders(w.Header())
	w.Header().Set("Content-Security-Policy", pages.ScriptPolicy)
	pages.PostsForms(w.Header())
	v := &visit{Board: b, w: w, r: r}
	parts, ok := splitPath(rest)
	var err error
	if v.caller, err = b.API.Visit(r, actionOf(r.Method, parts), b.Access); err != nil {
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

// visit is one request to the dashboard.
type visit struct {
	*Board
	w      http.ResponseWriter
	r      *http.Request
	caller api.Caller
}

// serve finds what a path means: nothing, `audit`, or a connection's ID, `for` and a subject where each has its own, and then what to do.
// `news` follows the page that it is below.
func (v *visit) serve(parts []string) error {
	reads := v.r.Method == http.MethodGet || v.r.Method == http.MethodHead
	follows := len(parts) > 0 && parts[len(parts)-1] == "news" && reads
	if follows {
		parts = parts[:len(parts)-1]
	}
	if len(parts) == 1 && parts[0] == "audit" && reads && !follows {
		return v.trail()
	}
	var at spot
	if len(parts) > 0 {
		at.id, parts = parts[0], parts[1:]
	}
	if at.id != "" && len(parts) >= 2 && parts[0] == "for" {
		at.subject, parts = parts[1], parts[2:]
	}
	switch {
	case len(parts) == 0 && follows:
		return v.follow(at)
	case len(parts) == 0 && reads:
		return v.show(at)
	case len(parts) == 1 && parts[0] == "revoke" && reads:
		return v.confirm(at)
	case !follows && (len(parts) == 1 && !reads || len(parts) == 2 && parts[0] == "rollback" && !reads):
		return v.act(at, parts)
	}
	return v.refused(api.NotFound())
}

// spot is what a page is about: all connections, one, or one subject of it.
type spot struct{ id, subject string }

// page is the path of its page below the dashboard's.
func (s spot) page() string {
	path := ""
	if s.id != "" {
		path = "/" + url.PathEscape(s.id)
	}
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

// sums is what an answer says of all pages of a list.
type sums struct {
	Page           int
	PerPage        int `json:"per_page"`
	Total          int
	NeedsAttention int `json:"needs_attention"`
	Statuses       map[string]int
	LeftOut        int `json:"left_out"`
	Incomplete     bool
}

// ask sends a request to the REST API as this visitor, and decodes `data` of its answer.
func (v *visit) ask(method, path string, into any) (sums, error) {
	target, err := url.Parse(path)
	if err != nil {
		return sums{}, api.NotFound()
	}
	r := v.r.Clone(v.r.Context())
	r.Method, r.URL, r.Body, r.ContentLength = method, target, http.NoBody, 0
	r.Header.Del("Idempotency-Key")
	answer := &kept{header: make(http.Header)}
	access := v.Access
	access.Limit = 0 // the visit was counted
	access.Identify = func(*http.Request) (api.Caller, error) { return v.caller, nil }
	v.API.Serve(answer, r, target.EscapedPath(), access)
	var body struct {
		Data  json.RawMessage
		Meta  sums
		Error *struct{ Type, Message string }
	}
	if err := json.Unmarshal(answer.body.Bytes(), &body); err != nil {
		return sums{}, fmt.Errorf("read the answer of the API: %w", err)
	}
	if body.Error != nil {
		seconds, _ := strconv.Atoi(answer.header.Get("Retry-After"))
		return sums{}, &api.Error{Status: answer.status, Type: body.Error.Type, Message: body.Error.Message, RetryAfter: time.Duration(seconds) * time.Second}
	}
	return body.Meta, json.Unmarshal(body.Data, into)
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

// Interface guards.
var _ http.ResponseWriter = (*kept)(nil)
