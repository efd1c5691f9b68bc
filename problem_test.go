package caddyoauth_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
)

// failures are ways to have no token, and what clients are told (DESIGN section 4: fail closed).
var failures = map[string]struct {
	endpoint   func(*idp)
	connection string // what the client names
	status     int
	code       string
	retryAfter bool
}{
	"endpoint down":    {func(i *idp) { i.says(500, "{}") }, "api", 503, "temporarily_unavailable", true},
	"endpoint busy":    {func(i *idp) { i.says(429, `{"error":"slow_down"}`) }, "api", 503, "temporarily_unavailable", true},
	"client refused":   {func(i *idp) { i.says(401, `{"error":"invalid_client"}`) }, "api", 502, "misconfigured", false},
	"scope refused":    {func(i *idp) { i.says(400, `{"error":"invalid_scope"}`) }, "api", 502, "misconfigured", false},
	"no such name":     {func(*idp) {}, "nobody", 403, "unknown_connection", false},
	"empty name":       {func(*idp) {}, "", 403, "unknown_connection", false},
	"path for a name":  {func(*idp) {}, "../api", 403, "unknown_connection", false},
	"placeholder name": {func(*idp) {}, "{http.vars.name}", 403, "unknown_connection", false},
}

// chosen are the forms with a connection that the client chooses.
func chosen(up *upstream) map[string]string {
	named := strings.NewReplacer("oauth2_inject api", "oauth2_inject {http.request.header.X-Team}")
	return map[string]string{"block": named.Replace(block(up, "")), "via transport": named.Replace(via(up, "")), "flat": named.Replace(flat(up, ""))}
}

// TestFailClosed: without a token the next handler is not reached.
func TestFailClosed(t *testing.T) {
	for name, tt := range failures {
		up := newUpstream(t, nil)
		for form, site := range chosen(up) {
			t.Run(name+" "+form, func(t *testing.T) {
				s := run(t, setup{quiet: form == "flat", site: site})
				tt.endpoint(s.idp)
				a := s.get("/", "X-Team: "+tt.connection)
				a.want(t, tt.status, "")
				untouched(t, up)
				var detail struct {
					Type, Title, Detail string
					Status              int
				}
				if err := json.Unmarshal([]byte(a.body), &detail); err != nil || detail.Status != tt.status || detail.Type == "" || detail.Title == "" || detail.Detail == "" {
					t.Errorf("the problem detail is %q, %v", a.body, err)
				}
				if a.header.Get("Content-Type") != "application/problem+json" || a.header.Get("Cache-Control") != "no-store" {
					t.Errorf("the headers are %v", a.header)
				}
				wantRetryAfter(t, a, tt.retryAfter)
				for _, technical := range []string{s.idp.URL, s.idp.Listener.Addr().String(), "invalid_", "connection \""} {
					if strings.Contains(a.body, technical) {
						t.Errorf("the client is told %q", technical)
					}
				}
			})
		}
	}
}

func wantRetryAfter(t *testing.T, a answer, want bool) {
	t.Helper()
	value := a.header.Get("Retry-After")
	if seconds, err := strconv.Atoi(value); want && (err != nil || seconds < 1) || !want && value != "" {
		t.Errorf("Retry-After is %q, want one: %t", value, want)
	}
}

// TestRetryAfterOfTheEndpoint is what clients are told, too.
func TestRetryAfterOfTheEndpoint(t *testing.T) {
	s := run(t, setup{site: block(newUpstream(t, nil), "")})
	s.idp.answers(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "90")
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	for range 3 {
		a := s.get("/")
		a.want(t, http.StatusServiceUnavailable, "")
		if seconds, _ := strconv.Atoi(a.header.Get("Retry-After")); seconds < 80 || seconds > 180 {
			t.Errorf("Retry-After is %q, want about the endpoint's 90", a.header.Get("Retry-After"))
		}
	}
	if asked := s.idp.asked.Load(); asked != 1 {
		t.Errorf("%d token requests within the pause that the endpoint asked for", asked)
	}
}

// TestProblemForms: browsers get a page, programs a problem detail, HEAD no body.
func TestProblemForms(t *testing.T) {
	for _, tt := range []struct{ method, accept, kind string }{
		{"GET", "", "application/problem+json"},
		{"GET", "*/*", "application/problem+json"},
		{"GET", "application/json, text/html", "application/problem+json"},
		{"GET", "text/html,application/xhtml+xml,*/*;q=0.8", "text/html; charset=utf-8"},
		{"POST", "text/html", "text/html; charset=utf-8"},
		{"HEAD", "text/html", "text/html; charset=utf-8"},
		{"HEAD", "", "application/problem+json"},
	} {
		for name, allowed := range map[string]string{"no token": "", "host refused": "allow_hosts elsewhere.test"} {
			t.Run(tt.method+" "+tt.accept+" "+name, func(t *testing.T) {
				up := newUpstream(t, nil)
				s := run(t, setup{options: allowed, site: block(up, "")})
				if allowed == "" {
					s.idp.says(http.StatusInternalServerError, "{}")
				}
				a := s.do(s.request(tt.method, "/", nil, "Accept: "+tt.accept))
				untouched(t, up)
				if a.header.Get("Content-Type") != tt.kind || a.header.Get("Vary") != "Accept" || a.status < 500 {
					t.Errorf("got %d %v", a.status, a.header)
				}
				if isPage := strings.Contains(a.body, "<html"); tt.method != "HEAD" && isPage != strings.HasPrefix(tt.kind, "text/html") {
					t.Errorf("the body is %q", a.body)
				}
				if tt.method == "HEAD" && a.body != "" {
					t.Errorf("HEAD has the body %q", a.body)
				}
			})
		}
	}
}

// TestErrorRoutesTakeOver with the right status, and with what may be said.
func TestErrorRoutesTakeOver(t *testing.T) {
	const routes = "handle_errors {\n respond `{err.status_code} {http.oauth2_inject.error} {http.oauth2_inject.connection} {http.oauth2_inject.status} [{http.oauth2_inject.expires_at}]`\n }\n"
	for name, tt := range failures {
		up := newUpstream(t, nil)
		for form, site := range chosen(up) {
			t.Run(name+" "+form, func(t *testing.T) {
				s := run(t, setup{quiet: form == "flat", site: routes + site})
				tt.endpoint(s.idp)
				a := s.get("/", "X-Team: "+tt.connection)
				known, state := "api", map[int]string{503: "failing", 502: "misconfigured"}[tt.status]
				if tt.status == http.StatusForbidden {
					known, state = "", "unknown"
				}
				a.want(t, tt.status, fmt.Sprintf("%d %s %s %s []", tt.status, tt.code, known, state))
				wantRetryAfter(t, a, tt.retryAfter)
				untouched(t, up)
			})
		}
	}
}

// TestChosenConnection: each client gets the token of the connection that it belongs to.
func TestChosenConnection(t *testing.T) {
	up, other := newUpstream(t, nil), newIDP(t)
	other.answers(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"access_token":"`+seed+`of-blue","expires_in":3600}`)
	})
	site := strings.ReplaceAll(block(up, ""), "oauth2_inject api", "oauth2_inject team_{http.request.header.X-Team}")
	s := run(t, setup{site: site, connections: fmt.Sprintf(`
		connection team_red {
			token_endpoint %s/token
			client_id red
		}
		connection team_blue {
			token_endpoint %s/token
			client_id blue
		}`, newIDP(t).URL, other.URL)})
	for team, want := range map[string]string{"red": bearer(1), "blue": "Bearer " + seed + "of-blue"} {
		s.get("/", "X-Team: "+team).want(t, http.StatusOK, "GET")
		if up.last(t).header.Get("Authorization") != want {
			t.Errorf("team %s travelled with another token", team)
		}
	}
	before := len(up.requests())
	for _, team := range []string{"", "green", "red,blue", "RED"} {
		s.get("/", "X-Team: "+team).want(t, http.StatusForbidden, "")
	}
	if len(up.requests()) != before {
		t.Error("a request without a connection reached the upstream")
	}
}
