package caddyoauth

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddyoauth/caddyoauth/internal/connection"
)

// The tests here are of the parts behind the pages on which people connect their accounts.

func emptyEngine() *engine {
	return &engine{
		sources: make(map[sourceKey]*connection.Source), breakers: make(map[string]*connection.Breaker), keys: make(map[string]*keySource),
	}
}

// TestSubjectBounds: a subject is never guessed, shortened or repaired.
func TestSubjectBounds(t *testing.T) {
	t.Parallel()
	c := &activeConnection{engine: emptyEngine(), subject: "{test.subject}", key: sourceKey{id: connection.ID{Tenant: "acme", Connection: "drive"}}}
	for subject, works := range map[string]bool{
		"alice": true, strings.Repeat("a", 512): true, "Älice": true, "{http.auth.user.id}": true, " alice": true,
		"": false, strings.Repeat("a", 513): false, "a\xff": false,
	} {
		repl := caddy.NewReplacer()
		repl.Set("test.subject", subject)
		source, err := c.forSubject(repl)
		if (err == nil) != works || err != nil && !errors.Is(err, errNoSubject) {
			t.Errorf("%.20q: %v", subject, err)
		}
		if works && source.ID() != (connection.ID{Tenant: "acme", Connection: "drive", Subject: subject}) {
			t.Errorf("%.20q became %+v", subject, source.ID())
		}
	}
	if _, err := c.forSubject(caddy.NewReplacer()); !errors.Is(err, errNoSubject) {
		t.Errorf("an unknown placeholder: %v", err)
	}
}

// pendingOf is an authorization under way as beginAuthorization stores it.
func pendingOf(tenant string, left time.Duration) pendingV1 {
	return pendingV1{
		Version: 1, Tenant: tenant, Connection: "drive", Subject: "alice", Identity: "alice", Browser: browserDigest("cookie"),
		Verifier: "seeded-verifier", ExpiresAt: time.Now().Add(left),
	}
}

var alice = visitor{identity: "alice", browser: "cookie"}

// TestExpiredPending: what took too long cannot be finished, and is gone.
func TestExpiredPending(t *testing.T) {
	t.Parallel()
	store := storeIn(t, t.TempDir())
	state := strings.Repeat("s", 43)
	for left, want := range map[time.Duration]error{-time.Second: errPendingUnknown, time.Minute: nil} {
		if err := store.putPending(t.Context(), state, pendingOf("", left)); err != nil {
			t.Fatal(err)
		}
		_, err := store.takePendingAt(t.Context(), pendingKey("", state), alice)
		if !errors.Is(err, want) || want == nil && err != nil {
			t.Errorf("%v left: %v, want %v", left, err, want)
		}
		if _, err := store.takePendingAt(t.Context(), pendingKey("", state), alice); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%v left: it is still there: %v", left, err)
		}
	}
}

// TestPendingIsSwept: what nobody came back for does not stay.
func TestPendingIsSwept(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	store := storeIn(t, dir)
	for _, state := range []string{"one", "two"} {
		if err := store.putPending(t.Context(), state, pendingOf("", time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	old := filepath.Join(dir, filepath.FromSlash(pendingKey("", "one")))
	if err := os.Chtimes(old, time.Time{}, time.Now().Add(-pendingLifetime-time.Minute)); err != nil {
		t.Fatal(err)
	}
	if err := store.putPending(t.Context(), "three", pendingOf("", time.Minute)); err != nil {
		t.Fatal(err)
	}
	keys, err := store.storage.List(t.Context(), pendingDir(""), false)
	if err != nil || len(keys) != 2 {
		t.Errorf("there are %v, %v", keys, err)
	}
	if _, err := os.Stat(old); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the old one is still there: %v", err)
	}
}

// TestCrossTenantSwap: what is sealed for one tenant or state does not open as another's, and nothing of it is in the clear.
func TestCrossTenantSwap(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	store := storeIn(t, dir)
	if err := store.putPending(t.Context(), "state", pendingOf("attacker", time.Minute)); err != nil {
		t.Fatal(err)
	}
	sealed, err := store.storage.Load(t.Context(), pendingKey("attacker", "state"))
	if err != nil || bytes.Contains(sealed, []byte("seeded-")) || bytes.Contains(sealed, []byte("alice")) {
		t.Fatalf("it is in the clear, or %v", err)
	}
	for _, key := range []string{pendingKey("victim", "state"), pendingKey("attacker", "other"), pendingKey("", "state")} {
		if err := store.storage.Store(t.Context(), key, sealed); err != nil {
			t.Fatal(err)
		}
		if _, err := store.takePendingAt(t.Context(), key, alice); !errors.Is(err, connection.ErrUnreadable) {
			t.Errorf("%s: %v", key, err)
		}
	}
	ids := []connection.ID{{Tenant: "attacker", Connection: "drive", Subject: "bob"}, {Tenant: "victim", Connection: "drive", Subject: "alice"}, {Tenant: "attacker", Connection: "drive", Subject: "alice"}}
	if err := store.Save(t.Context(), storedRecord(ids[0], 1)); err != nil {
		t.Fatal(err)
	}
	if sealed, err = store.storage.Load(t.Context(), recordKey(ids[0])); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids[1:] {
		if err := store.storage.Store(t.Context(), recordKey(id), sealed); err != nil {
			t.Fatal(err)
		}
		if _, err := store.Load(t.Context(), id); !errors.Is(err, connection.ErrUnreadable) {
			t.Errorf("%+v: %v", id, err)
		}
	}
}

// TestPendingForeign: who did not begin it can neither finish nor end it.
func TestPendingForeign(t *testing.T) {
	t.Parallel()
	store := storeIn(t, t.TempDir())
	if err := store.putPending(t.Context(), "state", pendingOf("", time.Minute)); err != nil {
		t.Fatal(err)
	}
	for _, who := range []visitor{{}, {"bob", "cookie"}, {"alice", "other"}, {"alice", ""}, {"", "cookie"}, {"Alice", "cookie"}} {
		if _, err := store.takePendingAt(t.Context(), pendingKey("", "state"), who); !errors.Is(err, errPendingForeign) {
			t.Errorf("%+v: %v", who, err)
		}
	}
	if p, err := store.takePendingAt(t.Context(), pendingKey("", "state"), alice); err != nil || p.Subject != "alice" {
		t.Errorf("its owner: %v", err)
	}
}

// FuzzLocalPath: a way back that is accepted is one of this site, for net/http's redirect and for a browser.
func FuzzLocalPath(f *testing.F) {
	for _, seed := range []string{"/a?b#c", "//evil", `/\evil`, "/..//evil", "http://evil", "/a\r\nb", "/%2f", "/\u2028", "/ /evil", "/;//evil"} {
		f.Add(seed)
	}
	base, _ := url.Parse("https://app.example/connect/callback")
	f.Fuzz(func(t *testing.T, to string) {
		local := localPath(to)
		if local == "" {
			return
		}
		w := httptest.NewRecorder()
		http.Redirect(w, httptest.NewRequest(http.MethodGet, "https://app.example/connect/callback", nil), local, http.StatusSeeOther)
		location := w.Header().Get("Location")
		u, err := base.Parse(location)
		if err != nil || u.Host != "app.example" || u.Scheme != "https" || strings.HasPrefix(location, "//") || strings.ContainsAny(location, "\\\r\n\t") {
			t.Errorf("%q leads to %q", to, location)
		}
	})
}

// TestConnectProvision: what is wrong with the pages is said when the configuration is loaded.
func TestConnectProvision(t *testing.T) {
	t.Parallel()
	load := func(options string) error {
		return validate(fmt.Appendf(nil, `{"apps":{"oauth2_inject":{"connections":{
			"people":{"token_endpoint":"https://a.example","authorization_endpoint":"https://a.example","client_id":"a"},
			"machine":{"token_endpoint":"https://a.example","client_id":"a"}}},
			"http":{"servers":{"s":{"listen":["127.0.0.1:1"],"routes":[{"handle":[{"handler":"oauth2_connect"%s}]}]}}}}}`, options))
	}
	for options, want := range map[string]string{
		`,"path":"connect"`: "path:", `,"path":"/"`: "path:", `,"path":"/connect/"`: "path:", `,"path":"/{x}"`: "path:", `,"path":"/a*"`: "path:",
		`,"connections":["none"]`:                         `no connection is named "none"`,
		`,"connections":["machine"]`:                      `connection "machine" is not one that people authorize`,
		`,"redirect_base":"http://app.example"`:           "redirect_base:",
		`,"redirect_base":"app.example"`:                  "redirect_base:",
		`,"redirect_base":"https://app.example/"`:         "redirect_base:",
		`,"redirect_base":"https://app.example/x"`:        "redirect_base:",
		`,"redirect_base":"https://user@app.example"`:     "redirect_base:",
		`,"redirect_base":"https://app.example#x"`:        "redirect_base:",
		`,"redirect_base":"https://app.example?x"`:        "redirect_base:",
		`,"redirect_base":"ftp://localhost"`:              "redirect_base:",
		``:                                                "",
		`,"path":"/a/b","connections":["people"]`:         "",
		`,"redirect_base":"https://app.example:8443"`:     "",
		`,"redirect_base":"http://localhost:8080"`:        "",
		`,"identity":"{http.request.tls.client.subject}"`: "",
		`,"redirect_bse":"https://app.example"`:           `unknown field "redirect_bse"`,
	} {
		err := load(options)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", options, err, want)
		}
	}
}

// TestConnectPath: the first offer that has the connection.
func TestConnectPath(t *testing.T) {
	t.Parallel()
	s := new(activeSet)
	path := func(c *activeConnection) string {
		o, _ := s.offerOf(c)
		return o.path
	}
	mail, drive := &activeConnection{name: "mail"}, &activeConnection{name: "drive"}
	if got := path(drive); got != "" {
		t.Errorf("without an offer: %q", got)
	}
	s.offer(offer{path: "/mail", connections: []string{"mail", "acme/mail"}})
	s.offer(offer{path: "/all"})
	if path(mail) != "/mail" || path(drive) != "/all" {
		t.Errorf("got %q and %q", path(mail), path(drive))
	}
	for name, want := range map[string]string{"acme/mail": "/mail", "acme/drive": ""} {
		if got := path(&activeConnection{name: name, entry: &entry{Tenant: "acme"}}); got != want {
			t.Errorf("%s of a tenant is offered at %q, want %q", name, got, want)
		}
	}
	if got := connectLink("/c", "a/b?c", "/x?y=z&q"); got != "/c/authorize/a%2Fb%3Fc?return_to=%2Fx%3Fy%3Dz%26q" {
		t.Errorf("got %s", got)
	}
}
