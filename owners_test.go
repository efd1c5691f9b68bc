package caddyoauth_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyoauth/caddyoauth"
)

// twoDrives starts a site with two connections of one client, whose API says whose account it is.
func twoDrives(t *testing.T, calls bool) (*peopleSite, *me) {
	t.Helper()
	api := newMe(t, jane)
	options := ""
	if calls {
		options = api.calls("")
	}
	p := &peopleSite{auth: newAuthServer(t), up: newUpstream(t, nil)}
	p.site = run(t, setup{
		connections: p.auth.connection("drive", options) + p.auth.connection("second", options) +
			strings.Replace(p.auth.connection("other", "token_param x 1\n"+options), "/token\n", "/t/other/token\n", 1),
		site: basicAuth + "oauth2_connect\n",
	})
	return p, api
}

// also returns who else holds the account, by what an operator sees.
func (p *peopleSite) also(connection, subject string) []caddyoauth.Owner {
	p.t.Helper()
	view, err := p.app().View(p.t.Context(), caddyoauth.Ref{Connection: connection, Subject: subject})
	if err != nil {
		p.t.Fatal(err)
	}
	return view.Also
}

// notes returns how many notes about accounts are stored.
func (p *peopleSite) notes() int { p.t.Helper(); return p.stored("/accounts/") }

// TestOneAccountTwice: whoever connects an account that is connected already is told so, operators see by whom, visitors do not.
func TestOneAccountTwice(t *testing.T) {
	p, api := twoDrives(t, true)
	alice, bob := p.as("alice"), p.as("bob")
	const shown = "also connected elsewhere"
	alice.connect(toDrive).wantTo(t, doneDrive)
	if a := alice.open(doneDrive); strings.Contains(a.body, shown) || len(p.also("drive", "alice")) != 0 {
		t.Error("the first is not the only one")
	}
	bob.connect(toDrive).wantTo(t, doneDrive)
	for _, b := range []*browser{alice, bob} {
		for _, path := range []string{doneDrive, "/connect", endDrive} {
			a := b.open(path)
			a.want(t, http.StatusOK, shown)
			if other := map[string]string{"alice": "bob", "bob": "alice"}[b.user]; strings.Contains(a.body, other) {
				t.Errorf("%s shows a visitor who %s is", path, other)
			}
		}
	}
	if got := p.also("drive", "alice"); !slices.Equal(got, []caddyoauth.Owner{{Connection: "drive", Subject: "bob"}}) {
		t.Errorf("alice's account is also connected as %v", got)
	}
	said := ""
	for line := range strings.Lines(logged.String()) {
		if strings.Contains(line, "the same account is connected more than once") {
			said += line
		}
	}
	if said == "" || strings.Contains(said, "alice") || strings.Contains(said, "bob") {
		t.Errorf("the log does not say so, or names a person: %s", said)
	}
	alice.connect("/connect/authorize/second").wantTo(t, "/connect/done/second")
	alice.connect("/connect/authorize/other").wantTo(t, "/connect/done/other")
	if got := p.also("second", "alice"); len(got) != 2 || slices.Contains(got, caddyoauth.Owner{Connection: "other", Subject: "alice"}) {
		t.Errorf("the second is also connected as %v: an account at another server is another account", got)
	}
	if result, err := p.app().TestCall(t.Context(), caddyoauth.Ref{Connection: "second", Subject: "alice"}); err != nil || len(result.Also) != 2 || result.SameToken {
		t.Errorf("on demand: %+v, %v", result, err)
	}
	p.auth.change(func() { p.auth.ended[3] = true }) // the consent of alice's second, at the provider
	_, _ = p.app().Refresh(t.Context(), caddyoauth.Ref{Connection: "second", Subject: "alice"})
	if got := p.also("drive", "alice"); len(got) != 1 {
		t.Errorf("also connected as %v, one of which the provider has ended", got)
	}
	alice.connect("/connect/authorize/second").wantTo(t, "/connect/done/second")
	bob.visit(http.MethodPost, endDrive).wantTo(t, doneDrive)
	if got := p.also("drive", "alice"); !slices.Equal(got, []caddyoauth.Owner{{Connection: "second", Subject: "alice"}}) {
		t.Errorf("after bob has left: %v", got)
	}
	api.says(http.StatusOK, `{"user":{"id":43,"email":"joe@example.com"}}`)
	alice.connect("/connect/authorize/second").wantTo(t, "/connect/done/second")
	if got := p.also("drive", "alice"); len(got) != 0 {
		t.Errorf("after another account was connected: %v", got)
	}
	second := caddyoauth.Ref{Connection: "second", Subject: "alice"}
	view, err := p.app().View(t.Context(), second)
	if err == nil {
		_, err = p.app().RollBack(t.Context(), second, view.Generation-1)
	}
	if got := p.also("drive", "alice"); err != nil || len(got) != 1 {
		t.Errorf("after the second went back to the same account: %v, %v", got, err)
	}
	p.reload()
	p.client.CloseIdleConnections() // a POST is not sent again over another one
	for _, name := range []string{"drive", "second", "other"} {
		alice.visit(http.MethodPost, "/connect/disconnect/"+name)
	}
	if n := p.notes(); n != 0 {
		t.Errorf("%d notes are left of accounts that nobody has connected", n)
	}
}

// TestOneRefreshTokenTwice: also where nobody can say whose account it is, one refresh token in two hands is noticed, also after the
// one has used it.
func TestOneRefreshTokenTwice(t *testing.T) {
	p, _ := twoDrives(t, false)
	same := fmt.Sprintf(`{"access_token":"%s","token_type":"Bearer","expires_in":3600,"refresh_token":"%srefresh"}`, token(1), seed)
	p.auth.change(func() { p.auth.reply = same })
	alice, bob := p.as("alice"), p.as("bob")
	alice.connect(toDrive).wantTo(t, doneDrive)
	p.auth.change(func() { p.auth.reply, p.auth.refreshes[seed+"refresh"] = "", 1 })
	if _, err := p.app().Refresh(t.Context(), drive); err != nil {
		t.Fatal(err)
	}
	p.auth.change(func() { p.auth.reply = same })
	bob.connect("/connect/authorize/second").wantTo(t, "/connect/done/second")
	view, err := p.app().View(t.Context(), caddyoauth.Ref{Connection: "second", Subject: "bob"})
	if err != nil || !view.SameToken || len(view.Also) != 1 || !strings.Contains(logged.String(), `"same_refresh_token":true`) {
		t.Errorf("got %+v, %v", view, err)
	}
}

// TestAccountOfAnIDToken: without a test call an ID token says whose account it is.
func TestAccountOfAnIDToken(t *testing.T) {
	p := runPeople(t, "scopes openid\n")
	alice := p.as("alice")
	back := alice.consent(toDrive)
	claims := fmt.Sprintf(`{"iss":"https://idp.example","sub":"u-1","aud":"caddy","exp":%d,"nonce":%q,"email":"jane@example.com"}`,
		time.Now().Add(time.Hour).Unix(), p.auth.lastAsked(t).Get("nonce"))
	idToken := "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2ln"
	p.auth.change(func() { p.auth.more = fmt.Sprintf(`"id_token":%q`, idToken) })
	alice.open(back).wantTo(t, doneDrive)
	if view, err := p.app().View(t.Context(), drive); err != nil || view.AccountID != "u-1" || view.Label != "jane@example.com" {
		t.Errorf("got %+v, %v", view, err)
	}
}

// TestAttackNotes: a note that was damaged, or moved, neither opens nor keeps anybody from connecting.
func TestAttackNotes(t *testing.T) {
	p, _ := twoDrives(t, true)
	alice, bob := p.as("alice"), p.as("bob")
	alice.connect(toDrive).wantTo(t, doneDrive)
	files, err := filepath.Glob(filepath.Join(p.dir, "oauth2_inject", "tenants", "*", "accounts", "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("found %v, %v", files, err)
	}
	for _, file := range files {
		sealed, err := os.ReadFile(file)
		if err != nil || strings.Contains(string(sealed), "alice") || strings.Contains(string(sealed), "42") && strings.Contains(file, "alice") {
			t.Errorf("%s is in the clear, %v", file, err)
		}
		sealed[len(sealed)/2] ^= 1
		if err := os.WriteFile(file, sealed, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	bob.connect(toDrive).wantTo(t, doneDrive)
	bob.open("/connect").want(t, http.StatusOK, "jane@example.com")
	if view, err := p.app().View(t.Context(), drive); err != nil || view.Label == "" {
		t.Errorf("the view is %+v, %v", view, err)
	}
	if !strings.Contains(logged.String(), "could not find out who else holds an account") {
		t.Error("nothing was logged of it")
	}
}
