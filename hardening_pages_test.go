package caddyoauth_test

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The tests here are named by what an attacker tries against the pages on which people connect their accounts.

// wantPageHeaders fails the test unless the page stays out of caches, frames and the Referer of other sites.
func wantPageHeaders(t *testing.T, a answer) {
	t.Helper()
	policy := a.header.Get("Content-Security-Policy")
	for _, part := range []string{"default-src 'none'", "form-action 'self'", "base-uri 'none'", "frame-ancestors 'none'"} {
		if !strings.Contains(policy, part) {
			t.Errorf("the policy %q lacks %s", policy, part)
		}
	}
	for name, want := range map[string]string{
		"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Cross-Origin-Opener-Policy": "same-origin",
	} {
		if a.header.Get(name) != want {
			t.Errorf("%s is %q, want %q", name, a.header.Get(name), want)
		}
	}
	if referrer := a.header.Get("Referrer-Policy"); referrer != "no-referrer" && referrer != "same-origin" {
		t.Errorf("Referrer-Policy is %q", referrer)
	}
	for _, foreign := range []string{"<script", "<img", "<link", "<iframe", "http-equiv"} {
		if strings.Contains(a.body, foreign) {
			t.Errorf("the page has %s", foreign)
		}
	}
}

// TestPageHeaders: every answer of the pages has them, redirects included.
func TestPageHeaders(t *testing.T) {
	p := runPeople(t, "")
	alice := p.as("alice")
	back := alice.consent(toDrive)
	for _, path := range []string{"/connect", "/connect/", doneDrive, endDrive, "/connect/done/none", toDrive, "/connect/authorize/none", "/connect/none", "/connect/callback", back, back} {
		a := alice.open(path)
		wantPageHeaders(t, a)
		if want := path == endDrive; (a.header.Get("Referrer-Policy") == "same-origin") != want {
			t.Errorf("%s: Referrer-Policy is %q", path, a.header.Get("Referrer-Policy"))
		}
	}
	wantPageHeaders(t, alice.visit(http.MethodPost, endDrive))
}

// TestCrossSitePost: no other site can end a connection, or begin one by POST. GET ends nothing.
func TestCrossSitePost(t *testing.T) {
	p := runPeople(t, "")
	alice := p.as("alice")
	alice.connect(toDrive).wantTo(t, doneDrive)
	for _, headers := range [][]string{
		{"Sec-Fetch-Site: cross-site"}, {"Sec-Fetch-Site: same-site"}, {"Origin: https://evil.example"}, {"Origin: null"},
		{"Sec-Fetch-Site: cross-site", "Origin: http://" + p.addr}, {"Origin: http://" + p.addr + ".evil.example"},
	} {
		alice.visit(http.MethodPost, endDrive, headers...).want(t, http.StatusForbidden, "Not from another site")
		alice.visit(http.MethodPost, toDrive, headers...).want(t, http.StatusForbidden, "Not from another site")
	}
	alice.open(endDrive).want(t, http.StatusOK, "Disconnect drive?") // asks, and ends nothing
	for _, method := range []string{http.MethodHead, http.MethodPut, http.MethodDelete, http.MethodOptions, "PROPFIND"} {
		alice.visit(method, endDrive).want(t, http.StatusNotFound, "")
	}
	alice.open("/files").want(t, http.StatusOK, "GET")
	if len(p.auth.revoked) != 0 {
		t.Error("the provider was told of an end")
	}
	alice.visit(http.MethodPost, endDrive, "Sec-Fetch-Site: same-origin", "Origin: http://"+p.addr).wantTo(t, doneDrive)
}

// TestCrossSiteLink: another site, or another host of the same one, may lead people to a connection, but they go on by themselves.
func TestCrossSiteLink(t *testing.T) {
	p := runPeople(t, "")
	alice := p.as("alice")
	for _, from := range []string{"cross-site", "same-site"} {
		led := alice.visit(http.MethodGet, toDrive+"?return_to=/files", "Sec-Fetch-Site: "+from)
		led.want(t, http.StatusOK, "Another site has led you here")
		if led.header.Get("Location") != "" || !strings.Contains(led.body, toDrive+"?return_to=%2Ffiles") {
			t.Errorf("the page does not offer the way: %s", led.body)
		}
	}
	for _, from := range []string{"none", "same-origin"} {
		alice.visit(http.MethodGet, toDrive, "Sec-Fetch-Site: "+from).want(t, http.StatusSeeOther, "")
	}
}

// TestForgedResult: a link to a result says what is so, whatever it claims, and leads nowhere else.
func TestForgedResult(t *testing.T) {
	p := runPeople(t, "")
	alice := p.as("alice")
	alice.open(doneDrive+"?return_to=/files&connected=1").want(t, http.StatusOK, "drive is not connected")
	alice.connect(toDrive).wantTo(t, doneDrive)
	alice.open(doneDrive+"?return_to=/files").want(t, http.StatusOK, `href="/files">Continue</a>`)
	for _, to := range []string{"//evil.example", `/\evil.example`, "https://evil.example", "javascript:evil()", "/\tevil", "data:evil", `"><script>evil`} {
		a := alice.open(doneDrive + "?return_to=" + url.QueryEscape(to))
		a.want(t, http.StatusOK, "drive is connected")
		if strings.Contains(a.body, "evil") || strings.Contains(a.body, "Continue") {
			t.Errorf("%q is on the page", to)
		}
	}
	p.as("bob").open(doneDrive).want(t, http.StatusOK, "drive is not connected")
}

// TestCallbackBehindLapsedAuthentication: who is not signed in any more when they come back never reaches the pages, and Caddy logs the
// request and the failure of what stands in front of them. The README has the filter that keeps code and state out of both.
func TestCallbackBehindLapsedAuthentication(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, filter, found := strings.Cut(string(readme), "\t\tformat filter {")
	filter, _, ended := strings.Cut(filter, "\n\t\t}\n")
	if !found || !ended {
		t.Fatal("the README has no filter")
	}
	auth, up := newAuthServer(t), newUpstream(t, nil)
	s := run(t, setup{
		connections: auth.connection("drive", ""),
		site:        basicAuth + "oauth2_connect\noauth2_inject drive {\n reverse_proxy " + up.url + "\n}\n",
		format:      "filter {\n wrap json" + filter + "\n}",
	})
	alice := s.as("alice")
	back := alice.consent(toDrive)
	if a := s.as("").open(back); a.status != http.StatusUnauthorized {
		t.Fatalf("got %d, want 401", a.status)
	}
	state := regexp.MustCompile(`state=([\w-]{43})`).FindStringSubmatch(back)
	if logs := logged.String(); state == nil || strings.Contains(logs, state[1]) || strings.Count(logs, "/connect/callback?code=REDACTED") < 2 {
		t.Errorf("the state was logged, or the request not at all: %d", strings.Count(logs, "REDACTED"))
	}
	alice.open(back).wantTo(t, doneDrive) // still hers
}

// TestNotOffered: names that are not offered here, or are none of people, do not exist on the pages.
func TestNotOffered(t *testing.T) {
	auth, up := newAuthServer(t), newUpstream(t, nil)
	s := run(t, setup{
		connections: auth.connection("drive", "") + auth.connection("mail", ""),
		site:        basicAuth + "oauth2_connect /accounts/* {\n connections drive\n}\nreverse_proxy " + up.url + "\n",
	})
	alice := s.as("alice")
	page := alice.open("/accounts")
	page.want(t, http.StatusOK, "drive")
	for _, name := range []string{"mail", "api", "none", "", "drive/x", "../callback", "%2e%2e", "{http.request.host}", "<b>"} {
		if strings.Contains(page.body, "/authorize/"+name+`"`) {
			t.Errorf("the list offers %q", name)
		}
		for _, action := range []string{"authorize", "disconnect"} {
			a := alice.visit(http.MethodPost, "/accounts/"+action+"/"+url.PathEscape(name))
			a.want(t, http.StatusNotFound, "There is no such connection")
			if strings.Contains(a.body, "<b>") {
				t.Error("the name is on the page")
			}
		}
	}
	if a := alice.open("/accounts/authorize/drive"); a.status != http.StatusSeeOther || !strings.HasPrefix(a.header.Get("Location"), auth.URL) {
		t.Errorf("what is offered cannot be begun: %d %s", a.status, a.body)
	}
}

// TestNothingInLogs: states, verifiers, nonces and cookies' digests stay out of logs and pages; codes and tokens are seeded, and
// looked for after every test.
func TestNothingInLogs(t *testing.T) {
	p := runPeople(t, "scopes openid files")
	alice := p.as("alice")
	back := alice.consent(toDrive)
	p.auth.change(func() { p.auth.says = url.Values{"error": {"access_denied"}} })
	alice.connect(toDrive)
	alice.open(back).wantTo(t, doneDrive)
	alice.open(back)
	p.as("bob").open(back)
	for _, variant := range []string{"/callback/", "//callback", "/callback//", "/callback/x", "/%63allback"} {
		alice.open(strings.Replace(back, "/callback", variant, 1))
	}
	logs := logged.String()
	for _, asked := range p.auth.asked {
		for _, name := range []string{"state", "nonce", "code_challenge"} {
			if asked.Get(name) != "" && strings.Contains(logs, asked.Get(name)) {
				t.Errorf("a %s was logged", name)
			}
		}
	}
	if !strings.Contains(logs, "a connection was authorized") || !strings.Contains(logs, "an authorization did not come about") {
		t.Error("what happened was not logged")
	}
}

// TestNeighbourHandlesErrors: the error routes of another site on the same listener do not swallow this site's answer, nor its link.
func TestNeighbourHandlesErrors(t *testing.T) {
	auth, up := newAuthServer(t), newUpstream(t, nil)
	s := run(t, setup{
		connections: auth.connection("drive", ""),
		site: basicAuth + "oauth2_connect\noauth2_inject drive {\n reverse_proxy " + up.url + "\n}\n}\n" +
			"http://neighbour.example:PORT {\n bind 127.0.0.1\n handle_errors {\n respond \"the neighbour's error page\"\n }\n",
	})
	a := s.as("alice").open("/files")
	a.want(t, http.StatusForbidden, `"authorize_url":"/connect/authorize/drive?return_to=%2Ffiles"`)
	if strings.Contains(a.body, "neighbour") {
		t.Error("the neighbour answered")
	}
}

// TestManyPending: there is an end to how many authorizations can be begun; those that were begun can be finished.
func TestManyPending(t *testing.T) {
	p := runPeople(t, "")
	alice := p.as("alice")
	back := alice.consent(toDrive)
	fillPending(t, p.dir)
	alice.open(toDrive).want(t, http.StatusServiceUnavailable, "That did not work")
	if !strings.Contains(logged.String(), "too many are under way") {
		t.Error("the reason was not logged")
	}
	alice.open(back).wantTo(t, doneDrive)
}

// TestOnePersonFillsPending: who begins over and over keeps nobody else from connecting.
func TestOnePersonFillsPending(t *testing.T) {
	p := runPeople(t, "")
	mallory, alice := p.as("bob"), p.as("alice")
	begun := 0
	for range 1100 {
		a := mallory.open(toDrive)
		if a.status == http.StatusTooManyRequests {
			a.want(t, http.StatusTooManyRequests, "That was too often")
			if a.header.Get("Retry-After") == "" {
				t.Error("nobody says when to try again")
			}
			break
		}
		begun++
	}
	if begun != 100 || p.stored("/pending/") != begun {
		t.Errorf("%d were begun, %d are stored", begun, p.stored("/pending/"))
	}
	alice.connect(toDrive).wantTo(t, doneDrive)
}

// fillPending puts as many files beside the one authorization under way as may be under way.
func fillPending(t *testing.T, storage string) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(storage, "oauth2_inject", "tenants", "*", "pending", "*.json"))
	if err != nil || len(found) != 1 {
		t.Fatalf("found %d authorizations under way, %v", len(found), err)
	}
	for i := range 1000 {
		if err := os.WriteFile(filepath.Join(filepath.Dir(found[0]), fmt.Sprintf("%032x.json", i)), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
