package caddyoauth_test

import (
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
)

const toOld = "/connect/authorize/old"

// runImplicit starts a site whose visitors connect "drive" with a code, and "old" with the implicit grant.
func runImplicit(t *testing.T) *peopleSite {
	t.Helper()
	p := &peopleSite{auth: newAuthServer(t), up: newUpstream(t, nil)}
	old := fmt.Sprintf("connection old {\n authorization_endpoint %s/authorize\n client_id caddy\n grant implicit\n scopes openid files\n subject {http.auth.user.id}\n}\n", p.auth.URL)
	p.site = run(t, setup{
		connections: p.auth.connection("drive", "") + old,
		site:        basicAuth + "oauth2_connect\noauth2_inject /drive/* drive {\n reverse_proxy " + p.up.url + "\n}\noauth2_inject old {\n reverse_proxy " + p.up.url + "\n}\n",
	})
	return p
}

// fragment goes to the authorization server by way of that path, and returns what stands behind the # of the way back.
func (b *browser) fragment(path string) string {
	b.t.Helper()
	a := b.open(path)
	if a.status != http.StatusSeeOther {
		b.t.Fatalf("%s: got %d %q, want the way to the provider", path, a.status, a.body)
	}
	resp, err := b.client.Get(a.header.Get("Location"))
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	back, err := url.Parse(resp.Header.Get("Location"))
	if err != nil || back.Host != b.addr || back.RequestURI() != "/connect/callback" || back.Fragment == "" {
		b.t.Fatalf("the provider sends people to a place without a fragment, %v", err)
	}
	return back.EscapedFragment()
}

// handOver sends a fragment as the page does.
func (b *browser) handOver(fragment string, headers ...string) answer {
	b.t.Helper()
	body := url.Values{"fragment": {fragment}}.Encode()
	req := b.request(http.MethodPost, "/connect/callback", strings.NewReader(body), append(headers, "Content-Type: application/x-www-form-urlencoded")...)
	if b.user != "" {
		req.SetBasicAuth(b.user, "open sesame")
	}
	for name, value := range b.cookies {
		req.AddCookie(&http.Cookie{Name: name, Value: value})
	}
	return b.do(req)
}

// TestImplicitJourney: from the Connect button to the API, to the end of the token, and back to the button. Nothing is refreshed, and
// the token endpoint is never asked.
func TestImplicitJourney(t *testing.T) {
	p := runImplicit(t)
	p.auth.change(func() { p.auth.lifetime = 3 })
	if warnings := fmt.Sprint(p.app().Status().Warnings); !strings.Contains(warnings, `connection "old" uses the grant implicit`) || strings.Contains(warnings, "drive") {
		t.Errorf("the warnings are %s", warnings)
	}
	if !strings.Contains(logged.String(), "uses the grant implicit") {
		t.Error("nothing was logged of the grant")
	}
	alice := p.as("alice")
	alice.open("/x").want(t, http.StatusForbidden, `"authorize_url":"/connect/authorize/old?return_to=%2Fx"`)
	fragment := alice.fragment(toOld + "?return_to=/x")
	asked := p.auth.lastAsked(t)
	for name, want := range map[string]string{
		"response_type": "token", "client_id": "caddy", "scope": "openid files", "code_challenge": "", "nonce": "", "redirect_uri": "http://" + p.addr + "/connect/callback",
	} {
		if asked.Get(name) != want {
			t.Errorf("%s is %q, want %q", name, asked.Get(name), want)
		}
	}
	alice.open("/connect/callback").want(t, http.StatusOK, "One moment")
	alice.handOver(fragment).wantTo(t, "/x")
	alice.open("/x").want(t, http.StatusOK, "GET /x")
	if got := p.up.last(t).header.Get("Authorization"); got != bearer(1) {
		t.Error("the request did not travel with the token")
	}
	p.as("bob").open("/x").want(t, http.StatusForbidden, "authorization-required")
	alice.open("/connect").want(t, http.StatusOK, "Connected")
	eventually(t, "the end of the token", func() bool { return alice.open("/x").status == http.StatusForbidden })
	alice.open("/x").want(t, http.StatusForbidden, "authorization-required")
	alice.handOver(alice.fragment(toOld)).wantTo(t, "/connect/done/old")
	alice.open("/x").want(t, http.StatusOK, "GET /x")
	p.reload()
	alice.open("/x").want(t, http.StatusOK, "GET /x")
	p.stored("")
	if n, _ := p.auth.counts(); n != 0 {
		t.Errorf("the token endpoint was asked %d times", n)
	}
}

var scriptTag = regexp.MustCompile(`<script nonce="([^"]+)">`)

// TestImplicitPage: its one script is allowed by a value that is another one each time; all other pages allow none. It is there for
// those who may connect in this way.
func TestImplicitPage(t *testing.T) {
	p := runImplicit(t)
	alice, seen := p.as("alice"), make(map[string]bool)
	for range 3 {
		a := alice.open("/connect/callback")
		tag := scriptTag.FindStringSubmatch(a.body)
		policy := a.header.Get("Content-Security-Policy")
		if tag == nil || strings.Count(a.body, "<script") != 1 || !strings.Contains(policy, "; script-src 'nonce-"+tag[1]+"'") || seen[tag[1]] || len(tag[1]) != 22 {
			t.Fatalf("the script is %v, the policy %q", tag, policy)
		}
		seen[tag[1]] = true
		if strings.Contains(policy, "unsafe") || !strings.Contains(policy, "default-src 'none'") || a.header.Get("Cache-Control") != "no-store" {
			t.Errorf("the headers are %v", a.header)
		}
	}
	for _, path := range []string{"/connect", "/connect/callback?state=x", "/connect/none", "/connect/done/old"} {
		if a := alice.open(path); strings.Contains(a.body, "<script") || strings.Contains(a.header.Get("Content-Security-Policy"), "script-src") {
			t.Errorf("%s has a script", path)
		}
	}
	q := runPeople(t, "")
	q.as("alice").open("/connect/callback").want(t, http.StatusBadGateway, "callback_incomplete")
}

// TestImplicitStateFixation: a fragment works for who began, in the browser where it was begun, and once. Another's visit does not use
// it up.
func TestImplicitStateFixation(t *testing.T) {
	p := runImplicit(t)
	mallory, alice, elsewhere := p.as("bob"), p.as("alice"), p.as("alice")
	theirs := mallory.fragment(toOld)
	alice.open("/connect")
	alice.handOver(theirs).want(t, http.StatusForbidden, "begun elsewhere")
	own := alice.fragment(toOld)
	elsewhere.open("/connect")
	elsewhere.handOver(own).want(t, http.StatusForbidden, "begun elsewhere")
	alice.open("/x").want(t, http.StatusForbidden, "authorization-required")
	alice.handOver(own).wantTo(t, "/connect/done/old")
	for range 2 {
		alice.handOver(own).want(t, http.StatusBadRequest, "Please begin again")
	}
	mallory.handOver(theirs).wantTo(t, "/connect/done/old")
	if n := p.stored("/pending/"); n != 0 {
		t.Errorf("%d authorizations are still under way", n)
	}
}

func stateOf(t *testing.T, fragment string) string {
	t.Helper()
	values, err := url.ParseQuery(fragment)
	if err != nil || values.Get("state") == "" {
		t.Fatal("there is no state", err)
	}
	return values.Get("state")
}

// TestImplicitCrossSite: another site's page cannot hand a token over, and its try does not use the state up.
func TestImplicitCrossSite(t *testing.T) {
	p := runImplicit(t)
	alice := p.as("alice")
	own := alice.fragment(toOld)
	for _, header := range []string{"Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: same-site", "Origin: https://evil.example", "Origin: null"} {
		alice.handOver(own, header).want(t, http.StatusForbidden, "Not from another site")
	}
	alice.handOver(own, "Sec-Fetch-Site: same-origin", "Origin: http://"+p.addr).wantTo(t, "/connect/done/old")
}

// TestTokenForCode: where a code was asked for, a token that came through the browser could be anybody's; and the other way round.
func TestTokenForCode(t *testing.T) {
	p := runImplicit(t)
	alice := p.as("alice")
	code, err := url.Parse(alice.consent(toDrive))
	if err != nil {
		t.Fatal(err)
	}
	injected := url.Values{"access_token": {seed + "of-the-attacker"}, "token_type": {"bearer"}, "state": {code.Query().Get("state")}}
	alice.handOver(injected.Encode()).want(t, http.StatusForbidden, "That was another account")
	alice.open("/drive/").want(t, http.StatusForbidden, "authorization-required")

	fragment := alice.fragment(toOld)
	injected = url.Values{"code": {seed + "code-of-the-attacker"}, "state": {stateOf(t, fragment)}}
	alice.open("/connect/callback?"+injected.Encode()).want(t, http.StatusForbidden, "That was another account")
	alice.open("/x").want(t, http.StatusForbidden, "authorization-required")
	alice.open("/connect/callback?"+alice.fragment(toOld)).want(t, http.StatusBadGateway, "callback_incomplete") // a token in a query
	if n, _ := p.auth.counts(); n != 0 {
		t.Errorf("%d codes were tried", n)
	}
}

// TestHostileFragment: what cannot be an answer connects nothing, and leaves no trace on the page or in the log.
func TestHostileFragment(t *testing.T) {
	p := runImplicit(t)
	alice := p.as("alice")
	state := strings.Repeat("a", 43)
	for name, fragment := range map[string]string{
		"empty": "", "no token": "state=" + state, "no state": "access_token=evil", "two tokens": "access_token=evil&access_token=evil2&state=" + state,
		"token and error": "access_token=evil&error=evil&state=" + state, "large": "access_token=" + strings.Repeat("evil", 5<<10) + "&state=" + state,
		"larger than the form": strings.Repeat("evil", 20<<10), "escapes": "access_token=%zz&state=" + state, "line break": "access_token=evil%0d%0aX:y&state=" + state,
		"unknown state": "access_token=evil&state=" + state, "markup": "access_token=evil&state=%3Cscript%3Eevil", "issuer": "access_token=evil&iss=%0aevil&state=" + state,
	} {
		a := alice.handOver(fragment)
		if a.status < 400 || strings.Contains(a.body, "evil") {
			t.Errorf("%s: got %d %q", name, a.status, a.body)
		}
		wantPageHeaders(t, a)
	}
	p.auth.change(func() { p.auth.says = url.Values{"error": {"access_denied"}, "error_description": {"<b>evil</b>"}} })
	alice.handOver(alice.fragment(toOld)).want(t, http.StatusForbidden, "access_denied")
	alice.open("/connect/callback?"+alice.fragment(toOld)).want(t, http.StatusForbidden, "access_denied") // some send errors in the query
	p.auth.change(func() { p.auth.says = nil })
	fragment := alice.fragment(toOld)
	alice.handOver(strings.Replace(fragment, "token_type=bearer", "token_type=DPoP", 1)).want(t, http.StatusBadGateway, "unsupported_token_type")
	alice.open("/x").want(t, http.StatusForbidden, "authorization-required")
	if strings.Contains(logged.String(), "evil") {
		t.Error("something of it was logged")
	}
}

// TestImplicitMixUp: an answer that names another issuer is refused.
func TestImplicitMixUp(t *testing.T) {
	auth, up := newAuthServer(t), newUpstream(t, nil)
	auth.describes(map[string]any{"token_endpoint": nil, "authorization_response_iss_parameter_supported": true})
	s := run(t, setup{
		connections: fmt.Sprintf("connection old {\n issuer %s\n client_id caddy\n grant implicit\n subject {http.auth.user.id}\n}\n", auth.URL),
		site:        basicAuth + "oauth2_connect\noauth2_inject old {\n reverse_proxy " + up.url + "\n}\n",
	})
	alice := s.as("alice")
	for issuer, code := range map[string]string{"": "issuer_missing", "https://evil.example": "issuer_mismatch"} {
		auth.change(func() { auth.issuer = issuer })
		alice.handOver(alice.fragment(toOld)).want(t, http.StatusBadGateway, code)
	}
	auth.change(func() { auth.issuer = auth.URL })
	alice.handOver(alice.fragment(toOld)).wantTo(t, "/connect/done/old")
	alice.open("/").want(t, http.StatusOK, "GET")
}
