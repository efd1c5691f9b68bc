package caddyoauth_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// The tests here let people connect by presets whose servers want something out of the ordinary, at a server of our own.

// preset writes down a connection by a preset whose endpoints are moved to the server.
func (a *authServer) preset(name, params, options string) string {
	block := ""
	if params != "" {
		block = "{\n" + params + "\n}"
	}
	return a.connection("drive", "provider "+name+" "+block+"\nclient_auth client_secret_basic\nallow_hosts 127.0.0.1\n"+options)
}

// runPreset starts a site whose connection "drive" is by that preset.
func runPreset(t *testing.T, name, params, options string) *peopleSite {
	t.Helper()
	p := &peopleSite{auth: newAuthServer(t), up: newUpstream(t, nil)}
	p.site = run(t, setup{
		connections: p.auth.preset(name, params, options),
		site:        basicAuth + "oauth2_connect\noauth2_inject drive {\n reverse_proxy " + p.up.url + "\n}\n",
	})
	return p
}

// TestShopify: the way back is signed, and for the shop that was asked.
func TestShopify(t *testing.T) {
	p := runPreset(t, "shopify", "shop acme.myshopify.com", "scopes read_products\ntest_call off")
	alice := p.as("alice")
	for name, tt := range map[string]struct {
		signer, shop string
		status       int
		text         string
	}{
		"unsigned":     {"", "acme.myshopify.com", http.StatusBadGateway, "signature_missing"},
		"another key":  {"other", "acme.myshopify.com", http.StatusBadGateway, "signature_invalid"},
		"another shop": {clientSecret, "evil.myshopify.com", http.StatusForbidden, "another account"},
		"no shop":      {clientSecret, "", http.StatusForbidden, "another account"},
	} {
		p.auth.change(func() { p.auth.signer, p.auth.says = tt.signer, url.Values{"shop": {tt.shop}} })
		alice.connect(toDrive).want(t, tt.status, tt.text)
		if exchanges, _ := p.auth.counts(); exchanges != 0 {
			t.Fatalf("%s: the code was sent", name)
		}
	}
	p.auth.change(func() { p.auth.signer, p.auth.says = clientSecret, url.Values{"shop": {"acme.myshopify.com"}} })
	back := alice.consent(toDrive)
	alice.open(strings.Replace(back, "code=", "x=1&code=", 1)).want(t, http.StatusBadGateway, "signature_invalid")
	alice.connect(toDrive).wantTo(t, doneDrive)
	if p.auth.redeemed.Get("expiring") != "1" {
		t.Errorf("the code was exchanged with %v", p.auth.redeemed["expiring"])
	}
	alice.open("/").want(t, http.StatusOK, "GET")
	if got := p.up.last(t).header; got.Get("X-Shopify-Access-Token") != token(1) || got.Get("Authorization") != "" {
		t.Error("the token does not travel where Shopify wants it")
	}
}
