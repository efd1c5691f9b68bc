package caddyoauth_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// The tests in this file are named by what an attacker tries: a client, mostly, or a token endpoint gone bad.

// allForms are all ways to write the directive.
var allForms = map[string]form{"block": block, "via transport": via, "flat": flat}

// raw sends bytes and returns the response, for what net/http would not send.
func (s *site) raw(request string) answer {
	s.t.Helper()
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	go func() { _, _ = io.WriteString(conn, strings.ReplaceAll(request, "HOST", s.addr)) }()
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		s.t.Fatalf("read the response: %v", err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	fmt.Fprintf(&s.seen, "%v %s\n", resp.Header, body)
	return answer{status: resp.StatusCode, header: resp.Header, body: string(body)}
}

// overCarriers runs a test on one Caddy for every header that carries tokens and every form.
func overCarriers(t *testing.T, test func(t *testing.T, s *site, up *upstream, header string)) {
	for header, option := range carriers {
		for form, inject := range allForms {
			t.Run(form+" "+header, func(t *testing.T) {
				up := newUpstream(t, nil)
				s := run(t, setup{quiet: form == "flat", options: option, site: inject(up, "")})
				test(t, s, up, header)
			})
		}
	}
}

// TestSmuggledTokenHeader: in whatever way a client writes the header, the upstream gets the token alone.
func TestSmuggledTokenHeader(t *testing.T) {
	overCarriers(t, func(t *testing.T, s *site, up *upstream, header string) {
		for _, lines := range []string{"%s: evil", "%s: evil\r\n%[1]s: evil2", "%s: evil\r\nConnection: close, %[1]s", "%s:\r\n evil", "%s: "} {
			for _, name := range []string{header, strings.ToLower(header), strings.ToUpper(header)} {
				s.raw("GET / HTTP/1.1\r\nHost: HOST\r\n"+fmt.Sprintf(lines, name)+"\r\n\r\n").want(t, http.StatusOK, "GET")
				if got := up.last(t).header[header]; len(got) != 1 || !strings.HasSuffix(got[0], token(1)) {
					t.Errorf("%q as %s: the upstream got %d values, and not just the token", lines, name, len(got))
				}
				if strings.Contains(fmt.Sprint(up.last(t).header), "evil") {
					t.Errorf("%q as %s: the client's value reached the upstream", lines, name)
				}
			}
		}
	})
}

// TestConnectionListStripping: reverse_proxy drops every header that the client's Connection names (trap 3).
func TestConnectionListStripping(t *testing.T) {
	overCarriers(t, func(t *testing.T, s *site, up *upstream, header string) {
		for _, list := range []string{header, strings.ToLower(header), "close, " + header + " , x", header + "\r\nConnection: " + header, ",," + header + ","} {
			s.raw("GET / HTTP/1.1\r\nHost: HOST\r\nConnection: "+list+"\r\n\r\n").want(t, http.StatusOK, "GET")
			if got := up.last(t).header.Get(header); !strings.HasSuffix(got, token(1)) {
				t.Errorf("%q: the client had the token taken off", list)
			}
		}
	})
}

// TestHostSteering: nothing that a request says about hosts decides where it goes.
func TestHostSteering(t *testing.T) {
	evil := newUpstream(t, nil)
	for form, inject := range allForms {
		for name, request := range map[string]string{
			"forwarded":       "GET / HTTP/1.1\r\nHost: HOST\r\nX-Forwarded-Host: EVIL\r\nForwarded: host=EVIL\r\nX-Original-Host: EVIL\r\nX-Forwarded-Server: EVIL\r\n\r\n",
			"absolute target": "GET http://HOST/ HTTP/1.1\r\nHost: EVIL\r\n\r\n",
			"userinfo":        "GET http://EVIL@HOST/ HTTP/1.1\r\nHost: HOST\r\n\r\n",
			"path":            "GET //EVIL/ HTTP/1.1\r\nHost: HOST\r\n\r\n",
			"path with @":     "GET /@EVIL/..//EVIL HTTP/1.1\r\nHost: HOST\r\n\r\n",
		} {
			t.Run(form+" "+name, func(t *testing.T) {
				up := newUpstream(t, nil)
				s := run(t, setup{quiet: form == "flat", site: inject(up, "")})
				s.raw(strings.ReplaceAll(request, "EVIL", evil.addr)).want(t, http.StatusOK, "GET")
				if got := up.last(t).header.Get("Authorization"); got != bearer(1) {
					t.Error("the upstream got no token")
				}
				untouched(t, evil)
			})
		}
	}
}

// TestOversizedHeader: Caddy's own limit answers, and the next request is served.
func TestOversizedHeader(t *testing.T) {
	for form, inject := range allForms {
		t.Run(form, func(t *testing.T) {
			up := newUpstream(t, nil)
			s := run(t, setup{quiet: form == "flat", site: inject(up, "")})
			large := strings.Repeat("x", 2<<20)
			for _, header := range []string{"Authorization: " + large, "X-" + large + ": 1", "Connection: " + strings.Repeat("a,", 1<<20)} {
				s.raw("GET / HTTP/1.1\r\nHost: HOST\r\n"+header+"\r\n\r\n").want(t, http.StatusRequestHeaderFieldsTooLarge, "")
			}
			untouched(t, up)
			// Below the limit, which is 16 KiB, a long list does no harm.
			s.raw("GET / HTTP/1.1\r\nHost: HOST\r\nConnection: "+strings.Repeat("a,", 4<<10)+"\r\n\r\n").want(t, http.StatusOK, "GET")
		})
	}
}

// TestBadTokens: a token that no header can carry is refused where it arrives. It never gets near a request.
func TestBadTokens(t *testing.T) {
	for name, bad := range map[string]any{
		"CRLF":        seed + "a\r\nX-Evil: 1",
		"line feed":   seed + "a\nX-Evil: 1",
		"carriage":    seed + "a\rb",
		"NUL":         seed + "a\x00b",
		"tab":         seed + "a\tb",
		"DEL":         seed + "a\x7fb",
		"beyond":      seed + "ä",
		"empty":       "",
		"number":      7,
		"object":      map[string]string{"token": seed + "a"},
		"null":        nil,
		"end of line": seed + "a\n",
	} {
		for form, inject := range map[string]form{"block": block, "flat": flat} {
			t.Run(name+" "+form, func(t *testing.T) {
				up := newUpstream(t, nil)
				s := run(t, setup{quiet: form == "flat", site: inject(up, "")})
				body, err := json.Marshal(map[string]any{"access_token": bad, "expires_in": 3600})
				if err != nil {
					t.Fatal(err)
				}
				s.idp.says(http.StatusOK, string(body))
				if a := s.get("/"); a.status != http.StatusServiceUnavailable && a.status != http.StatusBadGateway {
					t.Errorf("got %d", a.status)
				}
				untouched(t, up)
			})
		}
	}
}

// TestLongToken: what a header can carry arrives whole; some servers issue tokens of many kilobytes.
func TestLongToken(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			long := seed + strings.Repeat("x", 32<<10)
			up := upstreamOf(t, kind, nil)
			s := run(t, setup{site: block(up, "")})
			s.idp.says(http.StatusOK, `{"access_token":"`+long+`","expires_in":3600}`)
			s.get("/").want(t, http.StatusOK, "GET")
			if up.last(t).header.Get("Authorization") != "Bearer "+long {
				t.Error("the token did not arrive whole")
			}
		})
	}
}

// TestEchoedSecrets: a token endpoint that repeats what it was sent in its errors does not get that into logs or answers.
func TestEchoedSecrets(t *testing.T) {
	for _, body := range []string{
		`{"error":"` + clientSecret + `"}`,
		`{"error":"invalid_client","error_description":"no client has the secret ` + clientSecret + `"}`,
		`{"error":"server_error","error_uri":"https://idp.test/?secret=` + clientSecret + `"}`,
		clientSecret,
		"<html>" + clientSecret + "</html>",
	} {
		for _, status := range []int{200, 302, 400, 401, 500} {
			t.Run(fmt.Sprintf("%d %.24s", status, strings.ReplaceAll(body, seed, "")), func(t *testing.T) {
				s := run(t, setup{site: "handle_errors {\n respond `{err.message} {http.error} {http.oauth2_inject.error}`\n }\n" + block(newUpstream(t, nil), "")})
				s.idp.answers(func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Location", "https://idp.test/?secret="+clientSecret)
					w.Header().Set("Retry-After", clientSecret)
					w.WriteHeader(status)
					_, _ = io.WriteString(w, body)
				})
				if a := s.get("/"); a.status < 500 {
					t.Errorf("got %d", a.status)
				}
			})
		}
	}
}

// TestPlaceholderInjection: what a client writes is never read as a placeholder, neither as a connection's name nor in the
// header that carries the token.
func TestPlaceholderInjection(t *testing.T) {
	up := newUpstream(t, nil)
	s := run(t, setup{site: strings.ReplaceAll(block(up, ""), "oauth2_inject api", "oauth2_inject {http.request.header.X-Team}")})
	s.idp.says(http.StatusOK, `{"access_token":"`+seed+`{http.request.header.X-Team}{env.HOME}","expires_in":3600}`)
	for _, name := range []string{"{http.request.header.X-Name}", "{{http.request.header.X-Name}}", "\\{api", "api{", "API"} {
		s.get("/", "X-Team: "+name, "X-Name: api").want(t, http.StatusForbidden, "")
	}
	untouched(t, up)
	s.get("/", "X-Team: api").want(t, http.StatusOK, "GET")
	if got := up.last(t).header.Get("Authorization"); got != "Bearer "+seed+"{http.request.header.X-Team}{env.HOME}" {
		t.Error("the token was changed on its way")
	}
}
