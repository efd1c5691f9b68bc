package caddyoauth_test

import (
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// TestQueryInjection puts the token into the query once, and leaves all else of it as the client wrote it.
func TestQueryInjection(t *testing.T) {
	for _, tt := range []struct{ query, want string }{
		{"", "?"},
		{"?", "?"},
		{"?a=1", "?a=1&"},
		{"?b=%20x+y&a=2&b=%2f%2F&c", "?b=%20x+y&a=2&b=%2f%2F&c&"},
		{"?access_token=mine", "?"},
		{"?access_token", "?"},
		{"?access%5Ftoken=mine&a=1", "?a=1&"},
		{"?a=1&access_token=x&access_token=y&z=/?:@", "?a=1&z=/?:@&"},
		{"?access_token[]=1&Access_Token=2&xaccess_token=3", "?access_token[]=1&Access_Token=2&xaccess_token=3&"},
		{"?%zz=1&a=%", "?%zz=1&a=%&"},
	} {
		for form, inject := range forms {
			t.Run(form+" "+tt.query, func(t *testing.T) {
				up := newUpstream(t, nil)
				s := run(t, setup{options: "query access_token", site: inject(up, "")})
				s.get("/path%2Fx"+tt.query).want(t, http.StatusOK, "GET")
				if got, want := up.last(t).uri, "/path%2Fx"+tt.want+"access_token="+token(1); got != want {
					t.Errorf("the upstream got %s, want %s", strings.ReplaceAll(got, seed, ""), strings.ReplaceAll(want, seed, ""))
				}
				if up.last(t).header.Get("Authorization") != "" {
					t.Error("there is a header as well")
				}
			})
		}
	}
}

// TestQueryTokenIsEscaped: a token may hold characters that mean something in a query.
func TestQueryTokenIsEscaped(t *testing.T) {
	up := newUpstream(t, nil)
	s := run(t, setup{options: "query key", site: block(up, "")})
	s.idp.says(http.StatusOK, `{"access_token":"`+seed+`a+b/c==&admin=1#x y%41","expires_in":3600}`)
	s.get("/?q=1").want(t, http.StatusOK, "GET")
	if got, want := up.last(t).uri, "/?q=1&key="+seed+"a%2Bb%2Fc%3D%3D%26admin%3D1%23x+y%2541"; got != want {
		t.Errorf("the upstream got %s", strings.ReplaceAll(got, seed, ""))
	}
}

// TestQueryTokenIsNotInErrors: whatever goes wrong on the way to the upstream, no error names the URL.
func TestQueryTokenIsNotInErrors(t *testing.T) {
	garbage, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := garbage.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Read(make([]byte, 4096))
			_, _ = io.WriteString(conn, "this is not HTTP\r\n\r\n")
			_ = conn.Close()
		}
	}()
	defer func() {
		_ = garbage.Close()
		<-done
	}()
	for _, to := range []string{"http://" + freeAddress(t), "http://" + garbage.Addr().String(), "h2c://" + garbage.Addr().String(),
		"https://" + garbage.Addr().String(), "http://no-such-host.invalid"} {
		for form, inject := range forms {
			t.Run(form+" "+to, func(t *testing.T) {
				s := run(t, setup{options: "query access_token", site: "handle_errors {\n respond `{err.message} {http.error}`\n }\n" + inject(&upstream{url: to}, "")})
				s.get("/?a=1").want(t, http.StatusBadGateway, "")
				if s.idp.issued.Load() != 1 {
					t.Error("there was no token, so this proves nothing")
				}
			})
		}
	}
}

// TestHeaderTemplates are filled in literally.
func TestHeaderTemplates(t *testing.T) {
	for option, want := range map[string][2]string{
		"":                                        {"Authorization", bearer(1)},
		`header Authorization "token {token}"`:    {"Authorization", "token " + token(1)},
		`header x-api-key`:                        {"X-Api-Key", token(1)},
		`header X-Key "key={token};v=1"`:          {"X-Key", "key=" + token(1) + ";v=1"},
		`header Cookie "session={token}"`:         {"Cookie", "session=" + token(1)},
		`header X-Key "{env.HOME} {token} {$A:}"`: {"X-Key", "{env.HOME} " + token(1) + " "},
	} {
		t.Run(option, func(t *testing.T) {
			up := newUpstream(t, nil)
			s := run(t, setup{options: option, site: block(up, "")})
			s.get("/", want[0]+": client").want(t, http.StatusOK, "GET")
			if got := up.last(t).header[want[0]]; len(got) != 1 || strings.TrimSpace(got[0]) != strings.TrimSpace(want[1]) {
				t.Errorf("%s is %s", want[0], mask(got))
			}
		})
	}
}

// TestClientAuthorization: what a client shows to this site is not for the upstream's owner, unless it is said so.
func TestClientAuthorization(t *testing.T) {
	for _, tt := range []struct{ options, want string }{
		{"", bearer(1)},
		{"forward_authorization", bearer(1)}, // the token travels in that header itself
		{"header X-Api-Token", ""},
		{"header X-Api-Token\n forward_authorization", "Basic client"},
		{"query key", ""},
		{"query key\n forward_authorization", "Basic client"},
	} {
		for form, inject := range allForms {
			if form == "flat" && strings.HasPrefix(tt.options, "query") {
				continue // refused at load
			}
			t.Run(form+" "+tt.options, func(t *testing.T) {
				up := newUpstream(t, nil)
				s := run(t, setup{quiet: form == "flat", options: tt.options, site: inject(up, "")})
				s.get("/", "Authorization: Basic client").want(t, http.StatusOK, "GET")
				if got := up.last(t).header.Get("Authorization"); got != tt.want {
					t.Errorf("the upstream got Authorization %s, want %s", mask([]string{got}), mask([]string{tt.want}))
				}
			})
		}
	}
}
