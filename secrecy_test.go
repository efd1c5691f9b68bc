package caddyoauth_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestScanFindsWhatItLooksFor is the control of every other test here: it logs a token on purpose.
func TestScanFindsWhatItLooksFor(t *testing.T) {
	up := newUpstream(t, nil)
	s := run(t, setup{options: "header X-Api-Token", site: "oauth2_inject api\n" + plain(up, "")})
	s.get("/").want(t, http.StatusOK, "GET")
	found := leaks(logged.String())
	logged.reset() // not for the scan at the end
	if len(found) == 0 {
		t.Fatal("the flat form's custom header is in reverse_proxy's debug log, and the search did not find it")
	}
	if strings.Contains(found[0], seed) {
		t.Error("the search prints what it found")
	}
}

// carriers are the headers that tokens travel in here, with the option that says so.
var carriers = map[string]string{"Authorization": "", "X-Api-Token": "header X-Api-Token"}

// TestNothingPrintsTheToken has everything in Caddy that prints requests print one (trap 1).
func TestNothingPrintsTheToken(t *testing.T) {
	for header, option := range carriers {
		echo := fmt.Sprintf("[{http.request.header.%s}|{header.%[1]s}|{http.vars.token}|{http.reverse_proxy.header.%[1]s}]", header)
		page := fmt.Sprintf("handle_response {\n header Content-Type text/html\n templates\n respond `%s {{.Req.Header}} {{placeholder \"http.request.header.%s\"}}`\n }", echo, header)
		around := fmt.Sprintf("log_append token %q\n handle_errors {\n respond `error %s`\n }\n", echo, echo)
		for name, inject := range forms {
			t.Run(name+" "+header+" answered", func(t *testing.T) {
				up := newUpstream(t, nil)
				s := run(t, setup{options: option, site: around + inject(up, page)})
				s.get("/").want(t, http.StatusOK, "[|")
				if got := up.last(t).header.Get(header); !strings.HasSuffix(got, token(1)) {
					t.Error("the upstream got no token, so this test proves nothing")
				}
			})
			t.Run(name+" "+header+" dead upstream", func(t *testing.T) {
				up := &upstream{url: "http://" + freeAddress(t)}
				s := run(t, setup{options: option, site: around + inject(up, "")})
				s.get("/").want(t, http.StatusBadGateway, "error [|")
				if s.idp.issued.Load() != 1 {
					t.Error("there was no token, so this test proves nothing")
				}
				for _, line := range []string{"upstream roundtrip", "handled request", "http.log.trace"} {
					if !strings.Contains(logged.String(), line) {
						t.Errorf("the log has no %q, so this test proves less than it says", line)
					}
				}
			})
		}
	}
}

// TestTraceHidesInlineSecrets: tracing prints the configuration of every handler that a request passes.
func TestTraceHidesInlineSecrets(t *testing.T) {
	up, idp := newUpstream(t, nil), newIDP(t)
	inline := fmt.Sprintf("token_endpoint %s\n client_id caddy\n client_secret %s\n token_param extra %sparam\n", idp.URL, clientSecret, seed)
	for name, directive := range map[string]string{
		"block":         "oauth2_inject {\n" + inline + "reverse_proxy " + proxyBlock(up, "http", "") + "\n}\n",
		"via transport": "oauth2_inject {\n" + inline + "via transport\n}\n" + injectingProxy(up, ""),
	} {
		t.Run(name, func(t *testing.T) {
			s := run(t, setup{idp: idp, site: directive})
			s.get("/").want(t, http.StatusOK, "GET")
			if !strings.Contains(logged.String(), `"inline_`) {
				t.Error("the trace does not name the connection")
			}
		})
	}
}

// TestOtherServersGetNoToken sends requests on to servers that the token is not for (trap 2).
func TestOtherServersGetNoToken(t *testing.T) {
	for header, option := range carriers {
		for name, inject := range forms {
			t.Run(name+" "+header+" handle_response", func(t *testing.T) {
				up, other := newUpstream(t, nil), newUpstream(t, nil)
				s := run(t, setup{options: option, site: inject(up, "handle_response {\n reverse_proxy "+other.addr+"\n }")})
				s.get("/").want(t, http.StatusOK, "GET")
				noToken(t, other)
				if !strings.Contains(up.last(t).header.Get(header), token(1)) {
					t.Error("the upstream got no token")
				}
			})
			t.Run(name+" "+header+" forward_auth behind", func(t *testing.T) {
				up, guard := newUpstream(t, nil), newUpstream(t, nil)
				// In block form, forward_auth is behind a block that the request passes through.
				prepare := viaDirective
				if name == "block" {
					prepare = "oauth2_inject api {\n reverse_proxy /never " + up.addr + "\n }\n"
				}
				s := run(t, setup{options: option, site: "route {\n " + prepare + "forward_auth " + guard.addr + " {\n uri /auth\n }\n" + inject(up, "") + "}"})
				s.get("/").want(t, http.StatusOK, "GET")
				noToken(t, guard)
				if !strings.Contains(up.last(t).header.Get(header), token(1)) {
					t.Error("the upstream got no token")
				}
			})
		}
	}
}

// noToken fails the test when any request to the server held a secret, or when there was none.
func noToken(t *testing.T, u *upstream) {
	t.Helper()
	if len(u.requests()) == 0 {
		t.Error("the other server got no request, so this proves nothing")
	}
	for _, r := range u.requests() {
		if text := fmt.Sprint(r); strings.Contains(text, seed) {
			t.Errorf("%s %s brought a token to another server", r.method, r.uri)
		}
	}
}

// TestHeaderUpDoesNotWin: the proxy's own header operations come before the injection (trap 4).
func TestHeaderUpDoesNotWin(t *testing.T) {
	for header, option := range carriers {
		for name, inject := range forms {
			for _, op := range []string{"-" + header, header + " mine", "+" + header + " mine", header + " ^.*$ mine"} {
				t.Run(name+" "+op, func(t *testing.T) {
					up := newUpstream(t, nil)
					s := run(t, setup{options: option, site: inject(up, "header_up "+op)})
					s.get("/", header+": client").want(t, http.StatusOK, "GET")
					if got := up.last(t).header[header]; len(got) != 1 || !strings.HasSuffix(got[0], token(1)) {
						t.Errorf("the upstream got %d values of %s, and not just the token", len(got), header)
					}
				})
			}
		}
	}
}

// TestPlaceholdersShowMetadataOnly: none of them gives the token.
func TestPlaceholdersShowMetadataOnly(t *testing.T) {
	up := newUpstream(t, nil)
	var lines []string
	for _, name := range []string{"connection", "subject", "status", "expires_at", "error", "token", "access_token", "header"} {
		lines = append(lines, "header_up X-Meta-"+strings.ReplaceAll(name, "_", "-")+" [{http.oauth2_inject."+name+"}]")
	}
	s := run(t, setup{site: block(up, strings.Join(lines, "\n"))})
	s.get("/").want(t, http.StatusOK, "GET")
	got := up.last(t)
	if got.header.Get("Authorization") != bearer(1) {
		t.Error("the upstream got no token")
	}
	for name, want := range map[string]string{"connection": "[api]", "subject": "[]", "status": "[active]", "error": "[]"} {
		if value := got.header.Get("X-Meta-" + name); value != want {
			t.Errorf("{http.oauth2_inject.%s} is %q, want %q", name, value, want)
		}
	}
	expires, err := time.Parse("["+time.RFC3339+"]", got.header.Get("X-Meta-Expires-At"))
	if left := time.Until(expires); err != nil || left < 59*time.Minute || left > time.Hour+time.Minute {
		t.Errorf("{http.oauth2_inject.expires_at} is %q", got.header.Get("X-Meta-Expires-At"))
	}
	got.header.Del("Authorization")
	if strings.Contains(fmt.Sprint(got.header), seed) {
		t.Error("a placeholder gave the token")
	}
}

// TestPlaceholdersFollowLaterRewrites: the plan travels in the request's context, and Caddy's replacer must not keep looking at
// the request as it was before (trap 17).
func TestPlaceholdersFollowLaterRewrites(t *testing.T) {
	up := newUpstream(t, nil)
	meta := "header_up X-Meta \"{http.request.method} {http.request.uri} {http.request.header.X-Set}\""
	for name, proxy := range map[string]string{
		"via transport": injectingProxy(up, meta), "flat": plain(up, meta),
	} {
		t.Run(name, func(t *testing.T) {
			directive := "oauth2_inject api\n"
			if name == "via transport" {
				directive = viaDirective
			}
			s := run(t, setup{quiet: name == "flat", site: "route {\n" + directive + "method PATCH\n rewrite /new?a=b\n request_header X-Set yes\n" + proxy + "}"})
			s.get("/old").want(t, http.StatusOK, "PATCH /new")
			if got := up.last(t).header.Get("X-Meta"); got != "PATCH /new?a=b yes" {
				t.Errorf("the placeholders gave %q", got)
			}
		})
	}
}
