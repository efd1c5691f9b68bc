package caddyoauth

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/connection"
	"github.com/caddyoauth/caddyoauth/internal/pages"
)

// problem is what a client is told when there is no token: a problem detail (RFC 9457) or a small page. It holds no technical
// detail; that is in the log.
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	// Authorize is where a person can connect the account that is missing; "" when that is not what is wrong.
	Authorize string `json:"authorize_url,omitempty"`

	frame    `json:"-"` // of the page
	Provider string     `json:"-"` // what is to be connected, in words

	code       string // for the placeholder {http.oauth2_inject.error}
	retryAfter int    // seconds; 0 = waiting does not help
}

// The problems. `docs` explains each to operators.
var (
	problemPerson = problem{
		Type: "urn:caddyoauth:authorization-required", Title: "Authorization required", Status: http.StatusForbidden,
		Detail: "This service is not connected to the account that the request needs. A person has to connect it first.",
		code:   "authorization_required",
	}
	problemRefused = problem{
		Type: "urn:caddyoauth:client-refused", Title: "Connection refused by the provider", Status: http.StatusBadGateway,
		Detail: "The provider does not accept this service as a client. Its operator has to correct the configuration.",
		code:   "misconfigured",
	}
	problemLater = problem{
		Type: "urn:caddyoauth:temporarily-unavailable", Title: "Temporarily unavailable", Status: http.StatusServiceUnavailable,
		Detail: "The access that the request needs cannot be renewed at the moment. Please try again in a little while.",
		code:   "temporarily_unavailable", retryAfter: 1,
	}
	problemHost = problem{
		Type: "urn:caddyoauth:host-not-allowed", Title: "Destination not allowed", Status: http.StatusBadGateway,
		Detail: "The request was about to travel to a server that must not receive its credentials.",
		code:   "host_not_allowed",
	}
	problemRequest = problem{
		Type: "urn:caddyoauth:request-not-allowed", Title: "Request not allowed", Status: http.StatusForbidden,
		Detail: "This service does not make requests of this kind on behalf of an account.",
		code:   "request_not_allowed",
	}
	problemIncomplete = problem{
		Type: "urn:caddyoauth:incomplete-connection", Title: "Incomplete connection", Status: http.StatusBadGateway,
		Detail: "The connection lacks something that the request needs. Connecting the account again may bring it; the operator finds its name in the log.",
		code:   "incomplete_connection",
	}
	problemSubject = problem{
		Type: "urn:caddyoauth:unknown-person", Title: "Unknown person", Status: http.StatusForbidden,
		Detail: "The request does not say for whom it is made. Please sign in first.",
		code:   "subject_required",
	}
	problemUnknown = problem{
		Type: "urn:caddyoauth:unknown-connection", Title: "Unknown connection", Status: http.StatusForbidden,
		Detail: "The request does not belong to any connection of this service.",
		code:   "unknown_connection",
	}
)

// errNoSubject means that the request does not say whose token it should travel with.
var errNoSubject = errors.New("the subject is empty or not known")

// problemOf is the one table from an error to what a client is told.
func problemOf(err error) problem {
	var unavailable *connection.Unavailable
	var unknown *unknownFact
	switch {
	case errors.As(err, &unknown):
		return problemIncomplete
	case errors.Is(err, errNoSubject):
		return problemSubject
	case errors.Is(err, errNotAllowed):
		return problemRequest
	case !errors.As(err, &unavailable):
		return problemUnknown
	}
	switch {
	case unavailable.Status.NeedsPerson():
		return problemPerson
	case unavailable.Status == connection.StatusMisconfigured:
		return problemRefused
	}
	later := problemLater
	if wait := time.Until(unavailable.RetryAt); wait > 0 {
		later.retryAfter = int(wait/time.Second) + 1
	}
	return later
}

// Tone is that of the mark on the page.
func (p problem) Tone() string {
	switch p.code {
	case problemLater.code:
		return "weak"
	case problemRefused.code, problemIncomplete.code, problemHost.code:
		return "failed"
	}
	return "off"
}

func (p problem) setRetryAfter(header http.Header) {
	if p.retryAfter > 0 {
		header.Set("Retry-After", strconv.Itoa(p.retryAfter))
	}
}

// render returns the body in the form that the client asked for, and sets the headers that go with it.
func (p problem) render(header http.Header, accept string) []byte {
	header.Set("Cache-Control", "no-store")
	header.Add("Vary", "Accept")
	p.setRetryAfter(header)
	if prefersHTML(accept) {
		var page strings.Builder
		if err := pages.Execute(&page, "problem.html", p); err == nil {
			header.Set("Content-Type", "text/html; charset=utf-8")
			header.Set("Content-Security-Policy", pages.Policy)
			header.Set("X-Content-Type-Options", "nosniff")
			return []byte(page.String())
		}
	}
	header.Set("Content-Type", "application/problem+json")
	body, err := json.Marshal(p)
	if err != nil {
		return fmt.Appendf(nil, `{"status":%d}`, p.Status)
	}
	return append(body, '\n')
}

func (p problem) write(w http.ResponseWriter, r *http.Request) {
	p.Site = r.Host
	body := p.render(w.Header(), r.Header.Get("Accept"))
	w.WriteHeader(p.Status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body)
	}
}

// prefersHTML reports whether a browser is asking: only they name text/html.
func prefersHTML(accept string) bool {
	for entry := range strings.SplitSeq(accept, ",") {
		kind, _, _ := strings.Cut(entry, ";")
		switch strings.TrimSpace(kind) {
		case "text/html", "application/xhtml+xml":
			return true
		case "application/json", "application/problem+json":
			return false
		}
	}
	return false
}
