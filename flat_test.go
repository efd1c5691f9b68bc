package caddyoauth_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// The flat form puts the token on the request itself while the handlers below run, so Caddy may log it at debug level. These
// tests log as Caddy does by default; what must not happen is that the token outlives the handlers below.

// TestFlatHeaderIsTakenAway: handlers around the directive, and error routes, see the request without the token.
func TestFlatHeaderIsTakenAway(t *testing.T) {
	for header, option := range carriers {
		for name, to := range map[string]string{"answered": "", "dead upstream": "http://" + freeAddress(t)} {
			t.Run(header+" "+name, func(t *testing.T) {
				up := newUpstream(t, nil)
				status := http.StatusOK
				if to != "" {
					up.url, status = to, http.StatusBadGateway
				}
				s := run(t, setup{quiet: true, options: option, global: "order peek before oauth2_inject", site: fmt.Sprintf(
					"peek\nlog_append token {http.request.header.%s}\nhandle_errors {\n respond `error [{http.request.header.%[1]s}]`\n }\n%s", header, flat(up, ""))})
				a := s.get("/", header+": client", "Authorization: client")
				a.want(t, status, "")
				if status != http.StatusOK && a.body != "error []" {
					t.Errorf("the error route answered %q", strings.ReplaceAll(a.body, seed, "<SECRET>"))
				}
				if status == http.StatusOK && !strings.HasSuffix(up.last(t).header.Get(header), token(1)) {
					t.Error("the upstream got no token")
				}
				peeked.Lock()
				defer peeked.Unlock()
				if peeked.before.Get(header) != "client" {
					t.Error("the handler in front did not see the client's header, so this proves nothing")
				}
				if _, left := peeked.after[header]; left {
					t.Errorf("%s is still on the request after the handlers returned", header)
				}
			})
		}
	}
}

// TestFlatRefusal: a 401 passes, nothing is run again, and the next request has a new token.
func TestFlatRefusal(t *testing.T) {
	up := newUpstream(t, nil)
	up.demand.Store(2)
	s := run(t, setup{quiet: true, site: "handle /api/* {\n" + flat(up, "") + "}\nrespond other 404"})
	refusal := s.post("/api/x", "body")
	refusal.want(t, http.StatusUnauthorized, "the upstream's own refusal")
	if refusal.header.Get("Www-Authenticate") != challenge {
		t.Error("the upstream's challenge is gone")
	}
	wantTokens(t, up, 1)
	s.post("/api/x", "body").want(t, http.StatusOK, "POST /api/x 4 bytes")
	wantTokens(t, up, 1, 2)
	up.demand.Store(1000)
	for range 5 {
		s.get("/api/x").want(t, http.StatusUnauthorized, "the upstream's own refusal")
	}
	if asked := s.idp.asked.Load(); asked != 2 {
		t.Errorf("%d token requests; a new token that is refused as well must not cost one for each request", asked)
	}
}

// TestViaTransportWithoutTransport says once that nothing took the token.
func TestViaTransportWithoutTransport(t *testing.T) {
	up := newUpstream(t, nil)
	s := run(t, setup{site: viaDirective + plain(up, "")})
	for range 3 {
		s.get("/").want(t, http.StatusOK, "GET")
	}
	noToken(t, up)
	if n := strings.Count(logged.String(), "no transport took the token"); n != 1 {
		t.Errorf("it was said %d times", n)
	}
}

// TestTransportWithoutPlan passes requests as the http transport does, whatever they carry.
func TestTransportWithoutPlan(t *testing.T) {
	up := newUpstream(t, nil)
	s := run(t, setup{site: injectingProxy(up, "")})
	s.post("/", "body", "Authorization: Bearer client").want(t, http.StatusOK, "POST / 4 bytes")
	if got := up.last(t).header.Get("Authorization"); got != "Bearer client" || s.idp.asked.Load() != 0 {
		t.Errorf("the upstream got %q", got)
	}
}

// TestFlatRefusesWhatItCannotGuard when the configuration is read, with a way out.
func TestFlatRefusesWhatItCannotGuard(t *testing.T) {
	for _, option := range []string{"query access_token", "allow_hosts example.com"} {
		err := adaptError(t, setup{options: option, site: flat(&upstream{url: "127.0.0.1:1"}, "")})
		if err == nil || !strings.Contains(err.Error(), "via transport") {
			t.Errorf("%s: %v", option, err)
		}
	}
	t.Run("a connection that the client chooses", func(t *testing.T) {
		up := newUpstream(t, nil)
		s := run(t, setup{quiet: true, options: "query access_token", site: "oauth2_inject {http.request.header.X-Team}\n" + plain(up, "")})
		if a := s.get("/", "X-Team: api"); a.status < 400 {
			t.Errorf("got %d", a.status)
		}
		untouched(t, up)
	})
}

// TestFlatInFrontOfAnyHandler: what is below need not be a reverse_proxy.
func TestFlatInFrontOfAnyHandler(t *testing.T) {
	s := run(t, setup{quiet: true, site: "oauth2_inject api\nrespond /refuse own 401\nrespond hello"})
	s.get("/").want(t, http.StatusOK, "hello")
	s.get("/refuse").want(t, http.StatusUnauthorized, "own")
	s.get("/").want(t, http.StatusOK, "hello")
}
