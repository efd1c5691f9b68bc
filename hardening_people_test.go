package caddyoauth_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
)

// The tests here are named by what an attacker tries against people who connect their accounts. Codes, tokens and the client
// secret are seeded: every test also ends with a search for them in all logs and pages.

// wantNothing fails the test unless the person has no connection, and no code was tried more often than said.
func (b *browser) wantNothing(p *peopleSite, exchanges int) {
	b.t.Helper()
	if got, _ := p.auth.counts(); got != exchanges {
		b.t.Errorf("%d codes were tried, want %d", got, exchanges)
	}
	b.open("/files").want(b.t, http.StatusForbidden, "authorization-required")
}

// TestStateFixation: a state that somebody else began, or that this person began in another browser, connects nothing, and stays
// good for its owner.
func TestStateFixation(t *testing.T) {
	p := runPeople(t, "")
	attacker, victim, elsewhere := p.as("bob"), p.as("alice"), p.as("alice")
	back := attacker.consent(toDrive)
	victim.open("/connect") // has a cookie of its own
	victim.open(back).want(t, http.StatusForbidden, "This was begun elsewhere")
	victim.cookies["oauth2_connect"] = attacker.cookies["oauth2_connect"] // even so
	victim.open(back).want(t, http.StatusForbidden, "This was begun elsewhere")
	victim.wantNothing(p, 0)
	attacker.open(back).wantTo(t, doneDrive)

	own := victim.consent(toDrive)
	elsewhere.open(own).want(t, http.StatusForbidden, "This was begun elsewhere")
	elsewhere.open("/connect")
	elsewhere.open(own).want(t, http.StatusForbidden, "This was begun elsewhere")
	victim.wantNothing(p, 1)
	victim.open(own).wantTo(t, doneDrive)
}

// TestLoginCSRF: a link with the attacker's code and state does not connect the victim to the attacker's account.
func TestLoginCSRF(t *testing.T) {
	p := runPeople(t, "")
	attacker, victim := p.as("bob"), p.as("alice")
	back := attacker.consent(toDrive)
	for _, headers := range [][]string{nil, {"Sec-Fetch-Site: cross-site"}, {"Origin: https://evil.example"}} {
		victim.visit(http.MethodGet, back, headers...).want(t, http.StatusForbidden, "Nothing was connected")
	}
	victim.open("/connect/callback?code="+seed+"code-1").want(t, http.StatusBadGateway, "callback_incomplete")
	victim.wantNothing(p, 0)
}

// TestCodeInjection: somebody else's code with one's own state fails at the server, by PKCE, and nothing is stored.
func TestCodeInjection(t *testing.T) {
	p := runPeople(t, "")
	stolen, _ := url.Parse(p.as("alice").consent(toDrive))
	attacker := p.as("bob")
	own, _ := url.Parse(attacker.consent(toDrive))
	query := own.Query()
	query.Set("code", stolen.Query().Get("code"))
	attacker.open("/connect/callback?"+query.Encode()).want(t, http.StatusBadGateway, "invalid_grant")
	attacker.wantNothing(p, 1)
	if n := p.stored("current.json"); n != 0 {
		t.Errorf("%d records were stored", n)
	}
	attacker.open(own.RequestURI()).want(t, http.StatusBadRequest, "Please begin again")
}

// TestMixUp: an answer that names another issuer than the configured one is refused before its code goes anywhere.
func TestMixUp(t *testing.T) {
	p := runPeople(t, "issuer https://idp.example")
	alice := p.as("alice")
	for _, issuer := range []string{"https://evil.example", "https://idp.example/", "https://IDP.example"} {
		p.auth.change(func() { p.auth.issuer = issuer })
		alice.connect(toDrive).want(t, http.StatusBadGateway, "issuer_mismatch")
	}
	alice.wantNothing(p, 0)
	p.auth.change(func() { p.auth.issuer = "https://idp.example" })
	alice.connect(toDrive).wantTo(t, doneDrive)
}

// TestOpenRedirect: whatever return_to says, the browser stays on this site; what is refused leads to the list.
func TestOpenRedirect(t *testing.T) {
	p := runPeople(t, "")
	alice := p.as("alice")
	for _, to := range []string{
		"//evil.example", `/\evil.example`, `\\evil.example`, "http://evil.example", "https:evil.example", "javascript:alert(1)", "evil.example",
		"/a\r\nSet-Cookie: x=1", "/\tevil", "///evil.example", "/%zz", "/" + strings.Repeat("a", 2048), "", " /a", "?a",
	} {
		alice.connect(toDrive+"?return_to="+url.QueryEscape(to)).wantTo(t, doneDrive)
	}
	for to, want := range map[string]string{
		"/%2Fevil.example": "/%2Fevil.example", "/%5Cevil.example": "/%5Cevil.example", "/a/..//evil.example": "/evil.example",
		"/..//evil.example": "/evil.example", "/@evil.example": "/@evil.example", "/a%0d%0aSet-Cookie:x": "/a%0d%0aSet-Cookie:x", "/a?b=//c#d": "/a?b=//c#d",
	} {
		a := alice.connect(toDrive + "?return_to=" + url.QueryEscape(to))
		a.wantTo(t, want)
		if location, err := url.Parse(a.header.Get("Location")); err != nil || location.Host != "" || strings.HasPrefix(location.Path, "//") && location.RawPath == "" {
			t.Errorf("%q leads to %q", to, location)
		}
		if len(a.header.Values("Set-Cookie")) > 1 {
			t.Errorf("%q set a cookie", to)
		}
	}
}

// TestSubjectSpoofing: no header of the client says whose token it is; whoever is unknown gets neither pages nor tokens.
func TestSubjectSpoofing(t *testing.T) {
	p := runPeople(t, "")
	p.as("alice").connect(toDrive).wantTo(t, doneDrive)
	bob := p.as("bob")
	for _, header := range []string{
		"X-User: alice", "X-Remote-User: alice", "Remote-User: alice", "X-Forwarded-User: alice", "http.auth.user.id: alice", "X-Caddy-User: alice",
		"Forwarded: for=alice", "X-Auth-Request-User: alice",
	} {
		bob.visit(http.MethodGet, "/files", header).want(t, http.StatusForbidden, "authorization-required")
		bob.visit(http.MethodGet, "/connect", header).want(t, http.StatusOK, "Not connected")
		bob.visit(http.MethodPost, endDrive, header).wantTo(t, doneDrive)
	}
	p.as("alice").open("/files").want(t, http.StatusOK, "GET")
}

// TestNoAuthentication: where nobody is known, the pages and the connection of people are closed, whatever the path.
func TestNoAuthentication(t *testing.T) {
	auth, up := newAuthServer(t), newUpstream(t, nil)
	s := run(t, setup{
		connections: auth.connection("drive", ""),
		site:        "oauth2_connect\noauth2_inject drive {\n reverse_proxy " + up.url + "\n}\n",
	})
	nobody := s.as("")
	for _, path := range []string{"/connect", "/connect/", toDrive, "/connect/callback?code=" + seed + "code-1&state=" + strings.Repeat("a", 43), "/connect/x"} {
		a := nobody.open(path)
		a.want(t, http.StatusForbidden, "Please sign in")
		wantPageHeaders(t, a)
		if a.header.Get("Set-Cookie") != "" {
			t.Errorf("%s sets a cookie for nobody", path)
		}
	}
	nobody.visit(http.MethodPost, endDrive).want(t, http.StatusForbidden, "Please sign in")
	nobody.open("/files").want(t, http.StatusForbidden, "unknown-person")
	untouched(t, up)
	if n, _ := auth.counts(); n != 0 || len(auth.asked) != 0 {
		t.Error("the authorization server was asked")
	}
}

// TestCookieTossing: cookies that somebody else set for the browser do not make a foreign state one's own.
func TestCookieTossing(t *testing.T) {
	p := runPeople(t, "")
	alice := p.as("alice")
	back := alice.consent(toDrive)
	cookie := "oauth2_connect=" + alice.cookies["oauth2_connect"]
	p.cookieless("alice", back, "oauth2_connect="+strings.Repeat("a", 43)+"; "+cookie).want(t, http.StatusForbidden, "begun elsewhere")
	for _, hostile := range []string{
		"oauth2_connect=", "oauth2_connect=" + strings.Repeat("a", 8000), "oauth2_connect=short", "__Host-oauth2_connect=" + alice.cookies["oauth2_connect"],
		"oauth2_connect=\"" + alice.cookies["oauth2_connect"] + "x\"",
	} {
		a := p.cookieless("alice", back, hostile)
		a.want(t, http.StatusForbidden, "begun elsewhere")
		if set, err := http.ParseSetCookie(a.header.Get("Set-Cookie")); err != nil || len(set.Value) != 43 || !set.HttpOnly || set.SameSite != http.SameSiteLaxMode {
			t.Errorf("%.40q was answered with the cookie %v", hostile, set)
		}
	}
	alice.wantNothing(p, 0)
	p.cookieless("alice", back, cookie+"; oauth2_connect="+strings.Repeat("a", 43)).wantTo(t, doneDrive)
}

// cookieless sends a GET with a Cookie header as it is given.
func (p *peopleSite) cookieless(user, path, cookie string) answer {
	p.t.Helper()
	return p.as(user).visit(http.MethodGet, path, "Cookie: "+cookie)
}

// TestSecureCookie: where people come by https, the cookie has the prefix that keeps other hosts and http from setting it.
func TestSecureCookie(t *testing.T) {
	auth := newAuthServer(t)
	s := run(t, setup{
		connections: auth.connection("drive", ""),
		site:        basicAuth + "oauth2_connect {\n redirect_base https://app.example\n}\nrespond ok\n",
	})
	a := s.as("alice").open("/connect")
	a.want(t, http.StatusOK, "https://app.example/connect/callback")
	set, err := http.ParseSetCookie(a.header.Get("Set-Cookie"))
	if err != nil || set.Name != "__Host-oauth2_connect" || !set.Secure || !set.HttpOnly || set.Path != "/" || set.Domain != "" {
		t.Errorf("the cookie is %v, %v", set, err)
	}
	s.as("alice").open(toDrive)
	if location := s.as("alice").open(toDrive).header.Get("Location"); !strings.Contains(location, url.QueryEscape("https://app.example/connect/callback")) {
		t.Errorf("the way to the provider is %s", location)
	}
}

// TestCallbackReplay: a way back works once. The second use asks nobody anything.
func TestCallbackReplay(t *testing.T) {
	p := runPeople(t, "")
	alice := p.as("alice")
	back := alice.consent(toDrive)
	alice.open(back).wantTo(t, doneDrive)
	for range 3 {
		alice.open(back).want(t, http.StatusBadRequest, "Please begin again")
	}
	if n, _ := p.auth.counts(); n != 1 {
		t.Errorf("%d codes were tried", n)
	}
	if n := p.stored("/pending/"); n != 0 {
		t.Errorf("%d authorizations are still under way", n)
	}
	alice.open("/files").want(t, http.StatusOK, "GET")
}

// TestCallbackRace: of many uses at the same time one wins.
func TestCallbackRace(t *testing.T) {
	p := runPeople(t, "")
	alice := p.as("alice")
	back := alice.consent(toDrive)
	statuses := make(chan int, 8)
	var all sync.WaitGroup
	for range cap(statuses) {
		req := p.request(http.MethodGet, back, nil)
		req.SetBasicAuth("alice", "open sesame")
		req.AddCookie(&http.Cookie{Name: "oauth2_connect", Value: alice.cookies["oauth2_connect"]})
		all.Go(func() {
			if a, err := p.try(req); err == nil {
				statuses <- a.status
			}
		})
	}
	all.Wait()
	close(statuses)
	count := make(map[int]int)
	for status := range statuses {
		count[status]++
	}
	if n, _ := p.auth.counts(); n != 1 || count[http.StatusSeeOther] != 1 || count[http.StatusBadRequest] != 7 {
		t.Errorf("%d codes were tried, the answers were %v", n, count)
	}
}

// TestTwoTabs: two authorizations in one browser do not disturb each other, in either order.
func TestTwoTabs(t *testing.T) {
	p := runPeople(t, "")
	alice := p.as("alice")
	first, second := alice.consent(toDrive+"?return_to=/one"), alice.consent(toDrive+"?return_to=/two")
	alice.open(second).wantTo(t, "/two")
	alice.open(first).wantTo(t, "/one")
	alice.open("/files").want(t, http.StatusOK, "GET")
	if got := p.up.last(t).header.Get("Authorization"); got != bearer(2) {
		t.Error("it is not the last consent that counts")
	}
}

// TestHostileCallback: what comes through the browser is refused without a trace of it on the page, and costs no token request.
func TestHostileCallback(t *testing.T) {
	p := runPeople(t, "")
	alice := p.as("alice")
	state := strings.Repeat("a", 43)
	for name, query := range map[string]string{
		"empty": "", "no state": "code=evil", "state alone": "state=" + state, "two states": "code=evil&state=" + state + "&state=" + state,
		"two codes": "code=evil&code=evil2&state=" + state, "code and error": "code=evil&error=evil&state=" + state, "large": "code=evil&x=" + strings.Repeat("evil", 3<<10) + "&state=" + state,
		"long code": "code=" + strings.Repeat("evil", 3<<10) + "&state=" + state, "escapes": "code=%zz&state=" + state, "semicolon": "code=evil;state=" + state,
		"state is a path": "code=evil&state=../../evil", "NUL": "code=evil%00&state=" + state, "state of another kind": "code=evil&state=%3Cscript%3Eevil", "unknown state": "code=evil&state=" + state,
		"issuer": "code=evil&iss=%0Aevil&state=" + state,
	} {
		a := alice.open("/connect/callback?" + query)
		if a.status < 400 || strings.Contains(a.body, "evil") {
			t.Errorf("%s: got %d %q", name, a.status, a.body)
		}
		wantPageHeaders(t, a)
	}
	alice.wantNothing(p, 0)
	if strings.Contains(logged.String(), "evil") {
		t.Error("something of it was logged")
	}
}

// TestProviderErrorText: a provider's error is explained in our words. Its code is shown if it is one, its description never.
func TestProviderErrorText(t *testing.T) {
	p := runPeople(t, "")
	alice := p.as("alice")
	for code, want := range map[string]string{
		"access_denied": "You did not give your consent", "invalid_scope": "The provider refuses this site", "temporarily_unavailable": "The provider has trouble",
		"login_required": "Please sign in at the provider", "custom_code": "The provider did not agree",
	} {
		p.auth.change(func() {
			p.auth.says = url.Values{"error": {code}, "error_description": {"<b>evil</b>"}, "error_uri": {"https://evil.example"}}
		})
		a := alice.connect(toDrive + "?return_to=/files")
		if !strings.Contains(a.body, want) || !strings.Contains(a.body, `<span class="code">`+code+`</span>`) || strings.Contains(a.body, "evil") {
			t.Errorf("%s: %s", code, a.body)
		}
		if !strings.Contains(a.body, `href="/connect/authorize/drive?return_to=%2Ffiles"`) {
			t.Errorf("%s: no way to try again", code)
		}
	}
	for _, code := range []string{"<script>evil</script>", `"><img src=evil>`, strings.Repeat("evil", 500), "evil\r\nX: y", "\u202eevil \u0000"} {
		p.auth.change(func() { p.auth.says = url.Values{"error": {code}} })
		a := alice.connect(toDrive)
		if a.status != http.StatusForbidden || strings.Contains(a.body, "evil") || !strings.Contains(a.body, "unreadable_code") {
			t.Errorf("%q: got %d %q", code, a.status, a.body)
		}
	}
	alice.wantNothing(p, 0)
	if n := p.stored("/pending/"); n != 0 {
		t.Errorf("%d authorizations are still under way", n)
	}
	if strings.Contains(logged.String(), "evil") {
		t.Error("something of it was logged")
	}
}

// TestHostileTokenResponse: tokens that cannot be ones, and identities that belong to somebody else, connect nothing.
func TestHostileTokenResponse(t *testing.T) {
	p := runPeople(t, "scopes openid")
	alice := p.as("alice")
	for _, reply := range []string{
		`{}`, `[]`, `<html>`, `{"access_token":""}`, `{"access_token":"` + seed + `a\r\nX: y","token_type":"Bearer"}`,
		`{"access_token":"` + seed + `a","token_type":"Bearer","id_token":"` + seed + `no.jwt"}`,
		fmt.Sprintf(`{"access_token":"%sa","token_type":"Bearer","id_token":%q}`, seed, "e30."+
			"eyJpc3MiOiJodHRwczovL2EiLCJzdWIiOiJhIiwiYXVkIjoiY2FkZHkiLCJleHAiOjk5OTk5OTk5OTksIm5vbmNlIjoiZm9yZWlnbiJ9.e30"),
	} {
		p.auth.change(func() { p.auth.reply = reply })
		if a := alice.connect(toDrive); a.status != http.StatusBadGateway {
			t.Errorf("%.60q: got %d", reply, a.status)
		}
	}
	alice.open("/files").want(t, http.StatusForbidden, "authorization-required")
}
