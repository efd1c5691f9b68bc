package caddyoauth_test

import (
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// found writes down a connection whose endpoints are found by discovery.
func (a *authServer) found(name, options string) string {
	return fmt.Sprintf("connection %s {\n issuer %s\n client_id caddy\n client_secret %s\n %s\n}\n", name, a.URL, clientSecret, options)
}

// runFound starts a site whose connection "drive" is found by discovery, for people.
func runFound(t *testing.T, metadata map[string]any) *peopleSite {
	t.Helper()
	p := &peopleSite{auth: newAuthServer(t), up: newUpstream(t, nil)}
	p.auth.describes(metadata)
	p.site = run(t, setup{
		connections: p.auth.found("drive", "subject {http.auth.user.id}"),
		site:        basicAuth + "oauth2_connect\noauth2_inject drive {\n reverse_proxy " + p.up.url + "\n}\n",
	})
	return p
}

// TestDiscoveredConnection: with the preset for any server nothing but the issuer is known. People connect, tokens are refreshed and
// revoked, all at the endpoints that its metadata name.
func TestDiscoveredConnection(t *testing.T) {
	auth, up := newAuthServer(t), newUpstream(t, nil)
	secure := httptest.NewTLSServer(auth.Config.Handler) // a preset's issuer is https
	t.Cleanup(secure.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	auth.describes(map[string]any{
		"issuer": secure.URL, "token_endpoint": secure.URL + "/token", "authorization_endpoint": secure.URL + "/authorize?fixed=1",
		"revocation_endpoint": secure.URL + "/revoke", "scopes_supported": []string{"openid", "offline_access"},
	})
	s := run(t, setup{
		connections: fmt.Sprintf("connection drive {\n provider oidc {\n issuer %s\n }\n client_id caddy\n client_secret %s\n subject {http.auth.user.id}\n tls {\n ca %s\n }\n}\n",
			secure.URL, clientSecret, ca),
		site: basicAuth + "oauth2_connect\noauth2_inject drive {\n reverse_proxy " + up.url + "\n}\n",
	})
	if auth.reads() != 0 {
		t.Error("the server was asked when the configuration was loaded")
	}
	alice := s.as("alice")
	a := alice.open(toDrive)
	to, err := url.Parse(a.header.Get("Location"))
	if err != nil || !strings.HasPrefix(to.String(), secure.URL+"/authorize?fixed=1&") {
		t.Fatalf("people are sent to %s, %v", to, err)
	}
	if q := to.Query(); q.Get("scope") != "openid offline_access" || q.Get("prompt") != "consent" || q.Get("code_challenge_method") != "S256" || q.Get("nonce") == "" {
		t.Errorf("asked for %v", q)
	}
	alice.open(alice.follow(strings.Replace(to.String(), secure.URL, auth.URL, 1))).wantTo(t, "/connect/done/drive")
	up.demand.Store(2)
	alice.open("/").want(t, http.StatusOK, "GET")
	alice.visit(http.MethodPost, endDrive)
	if !auth.wasRevoked(seed + "refresh-2") {
		t.Error("the server was not told of the end")
	}
	if n := auth.reads(); n != 1 {
		t.Errorf("the metadata were read %d times", n)
	}
	if logs := logged.String(); !strings.Contains(logs, "endpoints were found") || !strings.Contains(logs, `"hosts":["`+secure.Listener.Addr().String()+`"]`) {
		t.Error("the log does not say which hosts were found")
	}
}

// TestDiscoveryLater: a server that is down when Caddy starts keeps nothing from starting. Requests wait no longer than for any
// other trouble, and go through once it is there.
func TestDiscoveryLater(t *testing.T) {
	auth, up := newAuthServer(t), newUpstream(t, nil)
	s := run(t, setup{
		connections: auth.found("mail", "grant password\nusername jane\npassword "+accountPassword),
		site:        "oauth2_inject mail {\n reverse_proxy " + up.url + "\n}\n",
	})
	a := s.get("/")
	a.want(t, http.StatusServiceUnavailable, "unavailable")
	if a.header.Get("Retry-After") == "" {
		t.Error("the answer does not say when to try again")
	}
	status := s.app().Status().Connections
	if got := status[len(status)-1]; got.Connection != "mail" || got.Status != "failing" || got.Error != "metadata_unavailable" {
		t.Errorf("the status is %+v", got)
	}
	untouched(t, up)
	auth.describes(nil)
	eventually(t, "the first token", func() bool { return s.get("/").status == http.StatusOK })
	if n, _ := auth.signedIn(); n != 1 {
		t.Errorf("the password was sent %d times", n)
	}
}

// TestMetadataAreShared by connections, and outlive reloads.
func TestMetadataAreShared(t *testing.T) {
	auth, up := newAuthServer(t), newUpstream(t, nil)
	auth.describes(nil)
	account := "grant password\nusername jane\npassword " + accountPassword
	with := setup{
		connections: auth.found("one", account) + auth.found("two", account+"\nscopes x"),
		site:        "oauth2_inject /1/* one {\n reverse_proxy " + up.url + "\n}\noauth2_inject /2/* two {\n reverse_proxy " + up.url + "\n}\n",
	}
	s := run(t, with)
	s.get("/1/").want(t, http.StatusOK, "GET")
	s.reload()
	s.get("/2/").want(t, http.StatusOK, "GET")
	s.reload()
	s.get("/1/").want(t, http.StatusOK, "GET")
	if n := auth.reads(); n != 1 {
		t.Errorf("the metadata were read %d times", n)
	}
	if n, _ := auth.signedIn(); n != 2 { // the fingerprint depends on the issuer alone: a reload loses nothing
		t.Errorf("the password was sent %d times", n)
	}
}

// TestHostileMetadata: a document that speaks for another server, leads elsewhere in the clear, or is none, costs a request its token
// and nothing else. Nobody is asked where it leads.
func TestHostileMetadata(t *testing.T) {
	other := newAuthServer(t)
	for name, document := range map[string]map[string]any{
		"another issuer":     {"issuer": "https://evil.example"},
		"no issuer":          {"issuer": nil},
		"endpoint in clear":  {"token_endpoint": "http://evil.example/token"},
		"alias in clear":     {"mtls_endpoint_aliases": map[string]string{"token_endpoint": "http://evil.example/token"}},
		"endpoint is a file": {"token_endpoint": "file:///etc/passwd"},
		"with a password":    {"token_endpoint": "https://u:p@evil.example/"},
		"no endpoint":        {"token_endpoint": nil, "authorization_endpoint": nil},
		"huge":               {"x": strings.Repeat("a", 1<<20)},
	} {
		t.Run(name, func(t *testing.T) {
			auth, up := newAuthServer(t), newUpstream(t, nil)
			auth.describes(document)
			s := run(t, setup{
				connections: auth.found("mail", "grant password\nusername jane\npassword "+accountPassword),
				site:        "oauth2_inject mail {\n reverse_proxy " + up.url + "\n}\n",
			})
			s.get("/").want(t, http.StatusBadGateway, "client-refused")
			untouched(t, up)
			if n, _ := auth.signedIn(); n != 0 {
				t.Error("the password was sent")
			}
			if strings.Contains(logged.String(), "evil") {
				t.Error("the document's text was logged")
			}
		})
	}
	t.Run("redirect", func(t *testing.T) {
		up := newUpstream(t, nil)
		hop := httptest.NewServer(http.RedirectHandler(other.URL+"/.well-known/openid-configuration", http.StatusFound))
		t.Cleanup(hop.Close)
		s := run(t, setup{
			connections: fmt.Sprintf("connection mail {\n issuer %s\n client_id caddy\n}\n", hop.URL),
			site:        "oauth2_inject mail {\n reverse_proxy " + up.url + "\n}\n",
		})
		s.get("/").want(t, http.StatusBadGateway, "client-refused")
		if other.reads() != 0 {
			t.Error("the redirect was followed")
		}
	})
}

// TestIssuerAnnounced (RFC 9207): a server that says it names itself on the way back must do so, and by its own name.
func TestIssuerAnnounced(t *testing.T) {
	p := runFound(t, map[string]any{"authorization_response_iss_parameter_supported": true})
	alice := p.as("alice")
	for issuer, code := range map[string]string{"": "issuer_missing", "https://evil.example": "issuer_mismatch", p.auth.URL + "/": "issuer_mismatch"} {
		p.auth.change(func() { p.auth.issuer = issuer })
		alice.connect(toDrive).want(t, http.StatusBadGateway, code)
	}
	alice.wantNothing(p, 0)
	p.auth.change(func() { p.auth.issuer = p.auth.URL })
	alice.connect(toDrive).wantTo(t, "/connect/done/drive")
}

// TestIssuerNotAnnounced: a server that does not say so need not do so, but if it does, then by its own name.
func TestIssuerNotAnnounced(t *testing.T) {
	p := runFound(t, nil)
	p.as("alice").connect(toDrive).wantTo(t, "/connect/done/drive")
	p.auth.change(func() { p.auth.issuer = "https://evil.example" })
	p.as("bob").connect(toDrive).want(t, http.StatusBadGateway, "issuer_mismatch")
}

// TestIssuerOfAllTenants: at Microsoft's issuer for all tenants, the one that answers is a tenant of it and nobody else.
func TestIssuerOfAllTenants(t *testing.T) {
	auth := newAuthServer(t)
	auth.describes(map[string]any{"issuer": auth.URL + "/{tenantid}/v2.0", "authorization_response_iss_parameter_supported": true})
	s := run(t, setup{
		connections: strings.Replace(auth.found("drive", "subject {http.auth.user.id}"), auth.URL, auth.URL+"/common/v2.0", 1),
		site:        basicAuth + "oauth2_connect\nrespond ok\n",
	})
	for _, issuer := range []string{"/a/b/v2.0", "/v2.0", "/{tenantid}/v2.0", "/t-1/v1.0"} {
		auth.change(func() { auth.issuer = auth.URL + issuer })
		s.as("alice").connect(toDrive).want(t, http.StatusBadGateway, "issuer_mismatch")
	}
	auth.change(func() { auth.issuer = auth.URL + "/9188040d-6c67-4c5b-b112-36a304b66dad/v2.0" })
	s.as("alice").connect(toDrive).wantTo(t, "/connect/done/drive")
}

// TestMixUpOfTwoServers: the code of one server, brought to the state of another, reaches neither of their token endpoints.
func TestMixUpOfTwoServers(t *testing.T) {
	honest, evil, up := newAuthServer(t), newAuthServer(t), newUpstream(t, nil)
	for _, a := range []*authServer{honest, evil} {
		a.describes(map[string]any{"authorization_response_iss_parameter_supported": true})
		a.issuer = a.URL
	}
	s := run(t, setup{
		connections: honest.found("drive", "subject {http.auth.user.id}") + evil.found("evil", "subject {http.auth.user.id}"),
		site:        basicAuth + "oauth2_connect\nreverse_proxy " + up.url + "\n",
	})
	alice := s.as("alice")
	query := func(back string) url.Values {
		u, err := url.Parse(back)
		if err != nil {
			t.Fatal(err)
		}
		return u.Query()
	}
	for name, change := range map[string]func(stolen url.Values){
		"its issuer as well": func(url.Values) {},
		"no issuer":          func(stolen url.Values) { stolen.Del("iss") },
		"both issuers":       func(stolen url.Values) { stolen.Add("iss", evil.URL) },
	} {
		stolen, own := query(alice.consent(toDrive)), query(alice.consent("/connect/authorize/evil"))
		stolen.Set("state", own.Get("state"))
		change(stolen)
		if a := alice.open("/connect/callback?" + stolen.Encode()); a.status != http.StatusBadGateway {
			t.Errorf("%s: got %d %s", name, a.status, a.body)
		}
	}
	for _, a := range []*authServer{honest, evil} {
		if n, _ := a.counts(); n != 0 {
			t.Errorf("%d codes were tried", n)
		}
	}
	alice.connect(toDrive).wantTo(t, "/connect/done/drive")
}
