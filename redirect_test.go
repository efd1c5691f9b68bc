package caddyoauth_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// asBrowser are the headers of a browser that opens a page.
var asBrowser = []string{"Accept: text/html,application/xhtml+xml,*/*;q=0.8", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document"}

// runRedirecting starts a site with two connections that lead browsers to the provider.
func runRedirecting(t *testing.T, more string) *peopleSite {
	t.Helper()
	p := &peopleSite{auth: newAuthServer(t), up: newUpstream(t, nil)}
	inject := func(name string) string {
		return "oauth2_inject /" + name + "/* " + name + " {\n redirect_to_connect\n reverse_proxy " + p.up.url + "\n}\n"
	}
	p.site = run(t, setup{
		connections: p.auth.connection("drive", "") + p.auth.connection("mail", ""),
		site:        basicAuth + "oauth2_connect\n" + inject("drive") + inject("mail") + more,
	})
	return p
}

// TestRedirectToConnect: a browser is led to the provider and back, once; an account that is there is used.
func TestRedirectToConnect(t *testing.T) {
	p := runRedirecting(t, "")
	alice := p.as("alice")
	a := alice.visit(http.MethodGet, "/drive/files?q=1", asBrowser...)
	a.wantTo(t, toDrive+"?return_to=%2Fdrive%2Ffiles%3Fq%3D1")
	set, err := http.ParseSetCookie(a.header.Get("Set-Cookie"))
	if err != nil || !set.HttpOnly || set.SameSite != http.SameSiteLaxMode || set.MaxAge <= 0 || a.header.Get("Cache-Control") != "no-store" {
		t.Errorf("the cookie is %v, %v; Cache-Control is %q", set, err, a.header.Get("Cache-Control"))
	}
	alice.connect(a.header.Get("Location")).wantTo(t, "/drive/files?q=1")
	alice.visit(http.MethodGet, "/drive/files?q=1", asBrowser...).want(t, http.StatusOK, "GET")
	alice.visit(http.MethodGet, "/mail/inbox", asBrowser...).wantTo(t, "/connect/authorize/mail?return_to=%2Fmail%2Finbox") // being led to one does not keep from another
}

// TestRedirectLoop: who comes back without an account, because the provider or they themselves said no, or because the account did not
// last, gets the page.
func TestRedirectLoop(t *testing.T) {
	p := runRedirecting(t, "")
	alice := p.as("alice")
	p.auth.change(func() { p.auth.says = url.Values{"error": {"access_denied"}} })
	to := alice.visit(http.MethodGet, "/drive/files", asBrowser...).header.Get("Location")
	alice.connect(to).want(t, http.StatusForbidden, "You did not give your consent")
	for range 3 {
		a := alice.visit(http.MethodGet, "/drive/files", asBrowser...)
		a.want(t, http.StatusForbidden, "Connect drive to go on")
		if a.header.Get("Location") != "" {
			t.Fatal("it leads on in a circle")
		}
	}
	p.auth.change(func() { p.auth.says = nil })
	alice.connect(toDrive).wantTo(t, doneDrive)
	p.auth.endAll() // at once
	p.up.demand.Store(2)
	for range 3 {
		if a := alice.visit(http.MethodGet, "/drive/files", asBrowser...); a.status == http.StatusSeeOther {
			t.Fatal("it leads on in a circle")
		}
	}
}

// TestRedirectNavigationsOnly: everything but somebody who opens a page is told what is missing, as without the option.
func TestRedirectNavigationsOnly(t *testing.T) {
	p := runRedirecting(t, "")
	html := asBrowser[0]
	for name, headers := range map[string][]string{
		"program": nil, "anything": {"Accept: */*"}, "script that wants JSON": {"Accept: application/json, text/html", "Sec-Fetch-Mode: cors"},
		"script that wants HTML": {html, "Sec-Fetch-Mode: cors", "Sec-Fetch-Dest: empty"}, "frame": {html, "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: iframe"},
		"loading ahead": append([]string{"Sec-Purpose: prefetch;prerender"}, asBrowser...), "old script": {html, "X-Requested-With: XMLHttpRequest"},
		"image": {"Accept: image/avif,*/*", "Sec-Fetch-Mode: no-cors", "Sec-Fetch-Dest: image"},
	} {
		a := p.as("alice").visit(http.MethodGet, "/drive/files", headers...)
		if a.status != http.StatusForbidden || a.header.Get("Location") != "" || strings.Contains(a.header.Get("Set-Cookie"), "redirected") {
			t.Errorf("%s: got %d to %q", name, a.status, a.header.Get("Location"))
		}
	}
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodHead, http.MethodPatch} {
		if a := p.as("alice").visit(method, "/drive/files", asBrowser...); a.status != http.StatusForbidden || a.header.Get("Location") != "" {
			t.Errorf("%s: got %d to %q", method, a.status, a.header.Get("Location"))
		}
	}
	untouched(t, p.up)
}

// TestRedirectBeforeErrorRoutes: where the option is given, it goes before the site's own error pages, which get all the rest.
func TestRedirectBeforeErrorRoutes(t *testing.T) {
	p := runRedirecting(t, "handle_errors {\n respond \"ours: {http.oauth2_inject.error}\"\n}\n")
	alice := p.as("alice")
	alice.open("/drive/files").want(t, http.StatusForbidden, "ours: authorization_required")
	alice.visit(http.MethodGet, "/drive/files", asBrowser...).wantTo(t, toDrive+"?return_to=%2Fdrive%2Ffiles")
	alice.visit(http.MethodGet, "/drive/files", asBrowser...).want(t, http.StatusForbidden, "ours: authorization_required")
}

// TestRedirectNowhere: without pages to lead to, and for nobody, it is the page that says what is wrong.
func TestRedirectNowhere(t *testing.T) {
	auth, up := newAuthServer(t), newUpstream(t, nil)
	s := run(t, setup{connections: auth.connection("drive", ""), site: "basic_auth /in/* {\n alice $2a$04$FOvSlwF5xWTpNlK5iWAu0eBCEooL4NKTHzhlMT9drTpVOl7Q7.qxC\n}\n" +
		"oauth2_inject drive {\n redirect_to_connect\n reverse_proxy " + up.url + "\n}\n"})
	s.as("alice").visit(http.MethodGet, "/in/x", asBrowser...).want(t, http.StatusForbidden, "Authorization required")
	s.as("").visit(http.MethodGet, "/out", asBrowser...).want(t, http.StatusForbidden, "Unknown person")
	untouched(t, up)
}
