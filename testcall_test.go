package caddyoauth_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/caddyoauth/caddyoauth"
	"github.com/caddyoauth/caddyoauth/internal/connection"
)

// me is an API that tells whose token it is.
type me struct {
	*upstream
	status atomic.Int64
	body   atomic.Pointer[string]
}

func newMe(t *testing.T, body string) *me {
	t.Helper()
	m := new(me)
	m.says(http.StatusOK, body)
	m.upstream = newUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(int(m.status.Load()))
		_, _ = io.WriteString(w, *m.body.Load())
	})
	return m
}

func (m *me) says(status int, body string) {
	m.status.Store(int64(status))
	m.body.Store(&body)
}

const jane = `{"user":{"id":42,"email":"jane@example.com"},"orgs":[{"id":"T1"}]}`

// calls writes down the test call of that API.
func (m *me) calls(more string) string {
	return fmt.Sprintf("test_call GET %s/me {\nid user.id\nlabel user.name user.email\n%s\n}\n", m.url, more)
}

var drive = caddyoauth.Ref{Connection: "drive", Subject: "alice", By: "operator"}

// TestTestCall: after connecting, the pages and the operations know whose account it is, and headers may be made of it.
func TestTestCall(t *testing.T) {
	t.Setenv("TEST_CALL", "yes")
	api := newMe(t, jane)
	p := runPeople(t, "scopes files.read\nheader X-Org {token.org}\nheader Accept application/json\n"+api.calls("keep org orgs.0.id\nheader X-Test {env.TEST_CALL}\nheader Accept text/plain"))
	alice := p.as("alice")
	alice.connect(toDrive).wantTo(t, doneDrive)
	alice.open(doneDrive).want(t, http.StatusOK, "jane@example.com")
	alice.open("/connect").want(t, http.StatusOK, "jane@example.com")
	called := api.last(t)
	if called.method != "GET" || called.uri != "/me" || called.header.Get("Authorization") != bearer(1) || called.header.Get("X-Test") != "yes" ||
		called.header.Get("X-Org") != "" || called.header.Get("Accept") != "text/plain" {
		t.Errorf("the API got %s %s %v", called.method, called.uri, mask(called.header.Values("X-Test")))
	}
	view, err := p.app().View(t.Context(), drive)
	if err != nil || view.AccountID != "42" || view.Label != "jane@example.com" || view.Generation != 1 {
		t.Errorf("the view is %+v, %v", view, err)
	}
	alice.open("/").want(t, http.StatusOK, "GET")
	if got := p.up.last(t).header.Get("X-Org"); got != "T1" {
		t.Errorf("X-Org is %q", got)
	}
	api.says(http.StatusOK, `{"user":{"id":42,"name":"Jane"},"orgs":[{"id":"T2"}]}`)
	result, err := p.app().TestCall(t.Context(), drive)
	if err != nil || !result.OK || result.AccountID != "42" || result.Label != "Jane" || result.Status != http.StatusOK || result.Fault != "" || len(result.Unfound) > 0 {
		t.Errorf("on demand: %+v, %v", result, err)
	}
	alice.open("/").want(t, http.StatusOK, "GET")
	if got := p.up.last(t).header.Get("X-Org"); got != "T2" {
		t.Errorf("X-Org is %q", got)
	}
	p.up.demand.Store(2) // a refresh
	alice.open("/").want(t, http.StatusOK, "GET")
	if got := p.up.last(t).header.Get("X-Org"); got != "T2" {
		t.Errorf("after a refresh X-Org is %q", got)
	}
	if n := p.stored("/history/"); n != 1 {
		t.Errorf("%d generations are in the history, want the one before the refresh alone", n)
	}
}

// TestTestCallFails: what is at fault is said, and the connection stays.
func TestTestCallFails(t *testing.T) {
	for name, tt := range map[string]struct {
		status        int
		body          string
		fault, code   string
		missing       []string
		shown         string // on the page after connecting; "" = there is none
		requiredScope string
	}{
		"token":         {401, `{"error":"invalid_token"}`, "token", "invalid_token", nil, "does not accept the token", "files.read"},
		"scope":         {403, `{}`, "scope", "", []string{"profile"}, "lacks the scopes profile", "profile"},
		"scope granted": {403, `{}`, "scope", "", nil, "does not allow this call", "files.read"},
		"not the token": {401, `{}`, "scope", "", []string{"profile"}, "lacks the scopes profile", "profile"},
		"api":           {500, `{}`, "api", "", nil, "", "files.read"},
		"limit":         {429, ``, "api", "", nil, "", "profile"},
		"flood":         {200, `{"a":"` + strings.Repeat("x", 2<<20) + `"}`, "api", "response_too_large", nil, "", "files.read"},
		"echo":          {401, `{"error":"` + token(1) + `"}`, "token", "unreadable_code", nil, "does not accept", "files.read"},
		"markup":        {403, `{"error":"<script>"}`, "scope", "unreadable_code", nil, "does not allow this call", "files.read"},
	} {
		t.Run(name, func(t *testing.T) {
			api := newMe(t, tt.body)
			api.status.Store(int64(tt.status))
			p := runPeople(t, "scopes files.read\n"+api.calls("scopes "+tt.requiredScope))
			alice := p.as("alice")
			a := alice.connect(toDrive + "?return_to=/files")
			if tt.shown == "" {
				a.wantTo(t, "/files")
			} else {
				a.want(t, http.StatusOK, tt.shown)
				if !strings.Contains(a.body, `href="/files"`) || strings.Contains(a.body, "<script>") {
					t.Errorf("the page does not lead on, or holds foreign text: %s", a.body)
				}
			}
			alice.open("/").want(t, http.StatusOK, "GET")
			result, err := p.app().TestCall(t.Context(), drive)
			if err != nil || result.OK || result.Fault != tt.fault || result.Code != tt.code || !slices.Equal(result.Missing, tt.missing) || result.Detail == "" {
				t.Errorf("got %+v, %v", result, err)
			}
			text, _ := json.Marshal(result)
			if len(leaks(string(text))) > 0 {
				t.Error("the result holds a secret")
			}
			if view, err := p.app().View(t.Context(), drive); err != nil || view.Status != "active" || view.AccountID != "" {
				t.Errorf("the view is %+v, %v", view, err)
			}
		})
	}
}

// TestTestCallRepairs: what was not to be had when somebody connected can be had later, without connecting again.
func TestTestCallRepairs(t *testing.T) {
	api := newMe(t, "")
	api.says(http.StatusServiceUnavailable, "")
	call := fmt.Sprintf("test_call GET %s/connections {\nid 0.tenantId\nlabel 0.tenantName\nkeep xero_tenant_id 0.tenantId\n}\n", api.url)
	p := runPreset(t, "xero", "", call)
	alice := p.as("alice")
	alice.connect(toDrive).wantTo(t, doneDrive)
	alice.open("/").want(t, http.StatusBadGateway, "incomplete-connection")
	untouched(t, p.up)
	api.says(http.StatusOK, `[{"tenantId":"a/b","tenantName":"Ink & Co <b>"}]`)
	if result, err := p.app().TestCall(t.Context(), drive); err != nil || !result.OK || result.AccountID != "a%2Fb" || result.Label != "Ink & Co <b>" {
		t.Errorf("got %+v, %v", result, err)
	}
	alice.open("/").want(t, http.StatusOK, "GET")
	if got := p.up.last(t).header.Get("Xero-Tenant-Id"); got != "a/b" {
		t.Errorf("the tenant is %q", got)
	}
	alice.open("/connect").want(t, http.StatusOK, "Ink &amp; Co &lt;b&gt;")
}

// TestAttackTestCall: an API that answers with what it was given does not get it stored or shown.
func TestAttackTestCall(t *testing.T) {
	for name, body := range map[string]string{
		"token as label": `{"user":{"id":42,"email":"` + token(1) + `"}}`,
		"piece of it":    `{"user":{"id":42,"email":"` + seed + `t"}}`,
		"inside a text":  `{"user":{"id":42,"email":"I am ` + token(1) + `!"}}`,
		"another token":  `{"user":{"id":42,"email":"eyJhbGciOiJub25lIn0.e30.c2ln"}}`,
		"control":        `{"user":{"id":42,"email":"\u0000\u001b\u202e"}}`,
		"an object":      `{"user":{"id":42,"email":{"a":"b"}}}`,
		"nothing":        `{"user":{"id":42}}`,
	} {
		t.Run(name, func(t *testing.T) {
			api := newMe(t, body)
			p := runPeople(t, api.calls(""))
			p.as("alice").connect(toDrive).wantTo(t, doneDrive)
			if view, err := p.app().View(t.Context(), drive); err != nil || view.AccountID != "42" || view.Label != "" {
				t.Errorf("the account is %q, %v", view.AccountID, err)
			}
		})
	}
	api := newMe(t, `{"user":{"id":"`+token(1)+`","email":"x"}}`)
	p := runPeople(t, api.calls("keep org user.id"))
	p.as("alice").connect(toDrive).wantTo(t, doneDrive)
	result, err := p.app().TestCall(t.Context(), drive)
	if err != nil || !result.OK || result.AccountID != "" || !slices.Equal(result.Unfound, []string{"user.id", "user.id"}) {
		t.Errorf("got %v %v, %v", result.OK, result.Unfound, err)
	}
}

// TestAttackTestCallHost: what the provider says does not send the token to a host that is not on the list.
func TestAttackTestCallHost(t *testing.T) {
	api := newMe(t, jane)
	_, port, _ := strings.Cut(api.addr, ":")
	for _, tt := range []struct{ host, code string }{
		{"127.0.0.2", "no_address"}, {"169.254.169.254", "no_address"}, {"evil.example@127.0.0.1", "no_address"}, {"", "no_address"},
	} {
		p := runPeople(t, "keep host\nallow_hosts 127.0.0.1 localhost\n"+strings.Replace(api.calls(""), api.url, "https://{token.host}:"+port, 1))
		p.auth.change(func() { p.auth.more = `"host":"` + tt.host + `"` })
		p.as("alice").connect(toDrive).wantTo(t, doneDrive)
		result, err := p.app().TestCall(t.Context(), drive)
		if err != nil || result.OK || result.Fault != "api" || result.Code != tt.code {
			t.Errorf("%s: got %+v, %v", tt.host, result, err)
		}
	}
	untouched(t, api.upstream)
}

// TestTestCallErrors: it cannot be made of what is not there.
func TestTestCallErrors(t *testing.T) {
	api := newMe(t, jane)
	p := runPeople(t, api.calls(""))
	if _, err := p.app().TestCall(t.Context(), caddyoauth.Ref{Connection: "none"}); !errors.Is(err, caddyoauth.ErrNotFound) {
		t.Errorf("unknown: %v", err)
	}
	if _, err := p.app().TestCall(t.Context(), caddyoauth.Ref{Connection: "api"}); !errors.Is(err, caddyoauth.ErrNoTestCall) {
		t.Errorf("without a test call: %v", err)
	}
	var unavailable *connection.Unavailable
	if _, err := p.app().TestCall(t.Context(), drive); !errors.As(err, &unavailable) || !unavailable.Status.NeedsPerson() {
		t.Errorf("not connected: %v", err)
	}
	untouched(t, api.upstream)
}

// TestTestCallOfAMachine: a connection without a person has an account as well.
func TestTestCallOfAMachine(t *testing.T) {
	api := newMe(t, jane)
	up := newUpstream(t, nil)
	s := run(t, setup{options: "header X-Org {token.org}\nquery key\n" + api.calls("keep org orgs.0.id"), site: block(up, "")})
	s.get("/").want(t, http.StatusBadGateway, "incomplete")
	if result, err := s.app().TestCall(t.Context(), caddyoauth.Ref{Connection: "api"}); err != nil || result.Label != "jane@example.com" {
		t.Errorf("got %+v, %v", result, err)
	}
	if got := api.last(t).uri; got != "/me?key="+token(1) {
		t.Error("the token does not travel in the query")
	}
	s.get("/").want(t, http.StatusOK, "GET")
}
