package oauth

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// discovered is an authorization server that says where its endpoints are, and counts what comes.
type discovered struct {
	*httptest.Server
	metadata atomic.Int64
	document atomic.Pointer[map[string]any]
	status   atomic.Int64  // of the metadata; 0 = fine
	hold     chan struct{} // not nil: metadata is shown when it is closed
	asked    chan url.Values
}

func newDiscovered(t *testing.T) *discovered {
	t.Helper()
	d := &discovered{asked: make(chan url.Values, 16)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+oidcPath, func(w http.ResponseWriter, _ *http.Request) {
		d.metadata.Add(1)
		if d.hold != nil {
			<-d.hold
		}
		if status := d.status.Load(); status != 0 {
			w.WriteHeader(int(status))
			return
		}
		_ = json.NewEncoder(w).Encode(*d.document.Load())
	})
	mux.HandleFunc("POST /{where}", func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		r.PostForm.Set("where", r.PathValue("where"))
		if user, _, has := r.BasicAuth(); has {
			r.PostForm.Set("basic", user)
		}
		d.asked <- r.PostForm
		if strings.HasPrefix(r.PathValue("where"), "gone") {
			http.NotFound(w, r)
			return
		}
		_, _ = io.WriteString(w, goodToken)
	})
	d.Server = httptest.NewServer(mux)
	t.Cleanup(d.Close)
	d.says(map[string]any{"token_endpoint": d.URL + "/token"})
	return d
}

// says sets the document, besides its issuer.
func (d *discovered) says(document map[string]any) {
	document["issuer"] = d.URL
	d.document.Store(&document)
}

func (d *discovered) client(t *testing.T, cfg Config, discovery Discovery) *Client {
	t.Helper()
	if discovery.Metadata == nil {
		metadata, err := NewMetadata(DiscoverConfig{Issuer: d.URL, Timeout: 5 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		discovery.Metadata = metadata
	}
	cfg.Discovery = &discovery
	return newTestClient(t, cfg)
}

// where returns the path of the request that came, and its form.
func (d *discovered) where(t *testing.T, path string) url.Values {
	t.Helper()
	select {
	case form := <-d.asked:
		if form.Get("where") != path {
			t.Errorf("the request went to /%s, want /%s", form.Get("where"), path)
		}
		return form
	default:
		t.Fatal("no request came")
		return nil
	}
}

// age makes the document that much older.
func (m *Metadata) age(by time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.readAt, m.retryAt = m.readAt.Add(-by), m.retryAt.Add(-by)
}

// TestEndpointsAreFoundWhenNeeded: not before, once for all, and for every kind of request.
func TestEndpointsAreFoundWhenNeeded(t *testing.T) {
	t.Parallel()
	d := newDiscovered(t)
	d.says(map[string]any{"token_endpoint": d.URL + "/token", "revocation_endpoint": d.URL + "/revoke", "authorization_endpoint": d.URL + "/authorize?a=b"})
	c := d.client(t, Config{Username: "u", Password: fixed("p")}, Discovery{})
	if d.metadata.Load() != 0 {
		t.Fatal("the server was asked before anybody needed it")
	}
	for path, call := range map[string]func(context.Context) error{
		"token": func(ctx context.Context) error {
			_, err := c.ClientCredentials(ctx)
			d.where(t, "token")
			_, err2 := c.Refresh(ctx, secret.New("r"))
			d.where(t, "token")
			_, err3 := c.Password(ctx)
			d.where(t, "token")
			_, err4 := c.ExchangeCode(ctx, CodeExchange{Code: secret.New("c"), RedirectURI: callback})
			return errors.Join(err, err2, err3, err4)
		},
		"revoke": func(ctx context.Context) error { return c.Revoke(ctx, secret.New("r"), "") },
	} {
		if err := call(t.Context()); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		d.where(t, path)
	}
	located, server, err := c.At(t.Context())
	if err != nil || server.Issuer != d.URL {
		t.Fatal(err, server)
	}
	to, err := located.AuthorizationURL(AuthorizationRequest{RedirectURI: callback, State: goodState})
	if err != nil || !strings.HasPrefix(to, d.URL+"/authorize?a=b&") {
		t.Errorf("people are sent to %q, %v", to, err)
	}
	if again, _, _ := c.At(t.Context()); again != located {
		t.Error("the same document gives another client")
	}
	if n := d.metadata.Load(); n != 1 {
		t.Errorf("the metadata were read %d times", n)
	}
}

// TestConfiguredEndpointsWin over those of the document.
func TestConfiguredEndpointsWin(t *testing.T) {
	t.Parallel()
	d := newDiscovered(t)
	d.says(map[string]any{"token_endpoint": d.URL + "/other", "authorization_endpoint": "https://other.example/", "revocation_endpoint": d.URL + "/other"})
	c := d.client(t, Config{TokenEndpoint: d.URL + "/own", RevocationEndpoint: d.URL + "/own", AuthorizationEndpoint: "https://own.example/"}, Discovery{})
	if _, err := c.ClientCredentials(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.where(t, "own")
	if err := c.Revoke(t.Context(), secret.New("r"), ""); err != nil {
		t.Fatal(err)
	}
	d.where(t, "own")
	located, _, _ := c.At(t.Context())
	if to, err := located.AuthorizationURL(AuthorizationRequest{RedirectURI: callback, State: goodState}); err != nil || !strings.HasPrefix(to, "https://own.example/") {
		t.Errorf("people are sent to %q, %v", to, err)
	}
}

// TestOneDiscoveryAtATime: all who wait share one reading, whoever leaves meanwhile.
func TestOneDiscoveryAtATime(t *testing.T) {
	t.Parallel()
	d := newDiscovered(t)
	d.hold = make(chan struct{})
	metadata, err := NewMetadata(DiscoverConfig{Issuer: d.URL})
	if err != nil {
		t.Fatal(err)
	}
	leaving, leave := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() { // the one that asks leaves: it asks to the end all the same
		if _, err := metadata.Server(leaving, nil); err != nil {
			t.Errorf("the one that asked: %v", err)
		}
	})
	for d.metadata.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	impatient, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err = metadata.Server(impatient, nil)
	expect(t, mustFail(t, nil, err), RetryLater, "timeout")
	for range 8 {
		all.Go(func() {
			if _, err := metadata.Server(t.Context(), nil); err != nil {
				t.Error(err)
			}
		})
	}
	leave()
	close(d.hold)
	all.Wait()
	if n := d.metadata.Load(); n != 1 {
		t.Errorf("the metadata were read %d times", n)
	}
}

// TestMetadataAge: a document is read again after a day. While the server is down the last good one stays in use, and the server is
// not asked at every turn.
func TestMetadataAge(t *testing.T) {
	t.Parallel()
	d := newDiscovered(t)
	var news []News
	listen := func(n News) { news = append(news, n) }
	metadata, err := NewMetadata(DiscoverConfig{Issuer: d.URL})
	if err != nil {
		t.Fatal(err)
	}
	reads := func(want int64, endpoint string, told int) {
		t.Helper()
		for range 3 {
			server, err := metadata.Server(t.Context(), listen)
			if err != nil || server.TokenEndpoint != d.URL+endpoint {
				t.Fatalf("got %+v, %v", server, err)
			}
		}
		if got := d.metadata.Swap(0); got != want || len(news) != told {
			t.Errorf("read %d times, told %d times; want %d and %d", got, len(news), want, told)
		}
	}
	reads(1, "/token", 1)
	d.says(map[string]any{"token_endpoint": d.URL + "/new"})
	metadata.age(metadataFresh - time.Minute)
	reads(0, "/token", 1)
	metadata.age(time.Minute)
	reads(1, "/new", 2)
	d.status.Store(503)
	metadata.age(metadataFresh)
	reads(1, "/new", 3)
	metadata.age(metadataRetry - time.Second)
	reads(0, "/new", 3)
	metadata.age(time.Second)
	reads(1, "/new", 4)
	d.status.Store(0)
	metadata.age(metadataRetry)
	reads(1, "/new", 5)
	if news[0].Old != nil || news[0].New == nil || news[1].Old.TokenEndpoint != d.URL+"/token" || news[1].New.TokenEndpoint != d.URL+"/new" ||
		news[2].New != nil || news[2].Err == nil || news[2].Old != news[1].New {
		t.Errorf("the news were %+v", news)
	}
}

// TestAStaleDocumentKeepsNobodyWaiting: one reads it again, the others go on with it.
func TestAStaleDocumentKeepsNobodyWaiting(t *testing.T) {
	t.Parallel()
	d := newDiscovered(t)
	metadata, _ := NewMetadata(DiscoverConfig{Issuer: d.URL})
	if _, err := metadata.Server(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	metadata.age(metadataFresh)
	metadata.turn <- struct{}{} // somebody is asking
	if server, err := metadata.Server(t.Context(), nil); err != nil || server.TokenEndpoint != d.URL+"/token" {
		t.Errorf("got %+v, %v", server, err)
	}
	<-metadata.turn
}

// TestMetadataFailure: while there is no document the failure is remembered for a moment, or for as long as the server asks.
func TestMetadataFailure(t *testing.T) {
	t.Parallel()
	d := newDiscovered(t)
	d.status.Store(503)
	c := d.client(t, Config{}, Discovery{Listen: func(News) { t.Error("a failure that everybody is told of is no news") }})
	for range 3 {
		token, err := c.ClientCredentials(t.Context())
		expect(t, mustFail(t, token, err), RetryLater, "metadata_unavailable")
	}
	if n := d.metadata.Load(); n != 1 { // the RFC 8414 address is a 404 of the mux
		t.Errorf("the metadata were read %d times", n)
	}
	d.status.Store(0)
	c.cfg.Discovery.Listen = nil
	c.cfg.Discovery.Metadata.age(metadataPause)
	if _, err := c.ClientCredentials(t.Context()); err != nil {
		t.Error(err)
	}
	m := &Metadata{}
	m.settle(nil, &Error{RetryAfter: time.Minute})
	if left := time.Until(m.retryAt); left < 50*time.Second {
		t.Errorf("asked again in %s", left)
	}
}

// TestMovedEndpointIsFound: a document whose endpoint is gone is read again early, but not at every request.
func TestMovedEndpointIsFound(t *testing.T) {
	t.Parallel()
	d := newDiscovered(t)
	d.says(map[string]any{"token_endpoint": d.URL + "/gone"})
	c := d.client(t, Config{}, Discovery{})
	fails := func(reads int64) {
		t.Helper()
		if _, err := c.ClientCredentials(t.Context()); err == nil {
			t.Fatal("it works")
		}
		d.where(t, "gone")
		if got := d.metadata.Swap(0); got != reads {
			t.Errorf("the metadata were read %d times, want %d", got, reads)
		}
	}
	fails(1)
	fails(0) // too young to be wrong
	c.cfg.Discovery.Metadata.age(metadataDoubt + time.Second)
	fails(0)
	fails(1)
	d.says(map[string]any{"token_endpoint": d.URL + "/token"})
	c.cfg.Discovery.Metadata.age(metadataDoubt + time.Second)
	fails(0)
	if _, err := c.ClientCredentials(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.where(t, "token")
}

// TestMetadataChooses what was left open: the way in which the secret is sent, and scopes that are asked for where they are known.
func TestMetadataChooses(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		methods  []string
		byServer bool
		want     Method
	}{
		{nil, true, ClientSecretBasic},
		{[]string{"client_secret_post"}, true, ClientSecretPost},
		{[]string{"client_secret_post", "client_secret_basic"}, true, ClientSecretBasic},
		{[]string{"private_key_jwt"}, true, ClientSecretBasic},
		{[]string{"client_secret_post"}, false, ClientSecretBasic},
	} {
		d := newDiscovered(t)
		d.says(map[string]any{"token_endpoint": d.URL + "/token", "token_endpoint_auth_methods_supported": tc.methods})
		c := d.client(t, Config{}, Discovery{MethodByServer: tc.byServer})
		if _, err := c.ClientCredentials(t.Context()); err != nil {
			t.Fatal(err)
		}
		form := d.where(t, "token")
		if got := map[bool]Method{true: ClientSecretBasic, false: ClientSecretPost}[form.Get("basic") != ""]; got != tc.want {
			t.Errorf("%v: sent with %s, want %s", tc.methods, got, tc.want)
		}
	}
	for supported, want := range map[string]string{"": "a b", "openid a": "a b", "offline_access": "a offline_access b"} {
		d := newDiscovered(t)
		document := map[string]any{"token_endpoint": d.URL + "/token"}
		if supported != "" {
			document["scopes_supported"] = strings.Fields(supported)
		}
		d.says(document)
		c := d.client(t, Config{Scopes: []string{"a", "offline_access", "b"}}, Discovery{OptionalScopes: []string{"offline_access"}})
		if _, err := c.ClientCredentials(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := d.where(t, "token").Get("scope"); got != want {
			t.Errorf("supported %q: asked for %q, want %q", supported, got, want)
		}
	}
}

// TestCertificatesGoToTheAliases (RFC 8705 section 5): a client with a certificate uses the endpoints that ask for one.
func TestCertificatesGoToTheAliases(t *testing.T) {
	t.Parallel()
	server := &Server{
		Issuer: "https://idp.example", TokenEndpoint: "https://idp.example/token", RevocationEndpoint: "https://idp.example/revoke",
		MTLSEndpointAliases: MTLSEndpointAliases{TokenEndpoint: "https://mtls.example/token"},
	}
	base := Config{Discovery: &Discovery{}}
	if got := base.at(server); got.TokenEndpoint != "https://idp.example/token" {
		t.Errorf("without a certificate: %s", got.TokenEndpoint)
	}
	base.Certificate = &Certificate{}
	if got := base.at(server); got.TokenEndpoint != "https://mtls.example/token" || got.RevocationEndpoint != "https://idp.example/revoke" {
		t.Errorf("with one: %s, %s", got.TokenEndpoint, got.RevocationEndpoint)
	}
	server.RevocationEndpoint = "http://127.0.0.1/revoke"
	if got := base.at(server); got.RevocationEndpoint != "" || got.TokenEndpoint != "https://mtls.example/token" {
		t.Errorf("a revocation endpoint in the clear: %s, %s", got.TokenEndpoint, got.RevocationEndpoint)
	}
	base.TokenEndpoint = "https://own.example/token"
	if got := base.at(server); got.TokenEndpoint != "https://own.example/token" {
		t.Errorf("with an endpoint of its own: %s", got.TokenEndpoint)
	}
}

// TestAttackSSRFByMetadata: a server outside cannot lead this one to addresses inside, nor to http, nor to anything that is no
// endpoint. A server that is itself inside may name its neighbours.
func TestAttackSSRFByMetadata(t *testing.T) {
	t.Parallel()
	inside := []string{
		"localhost", "LOCALHOST.", "x.localhost", "127.0.0.1:8443", "127.9.9.9", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "[::]",
		"10.0.0.1", "172.16.5.5", "192.168.1.1:8443", "[::ffff:10.0.0.1]", "[fd00::1]", "[fe80::1]", "[fe80::1%25eth0]", "169.254.169.254",
		"100.64.0.1", "224.0.0.1", "[ff02::1]", "255.255.255.255",
	}
	outside := []string{"idp.example", "93.184.216.34", "[2606:2800::1]", "10.example", "192.168.1.1.nip.example", "172.32.0.1", "100.128.0.1"}
	fields := []string{"token_endpoint", "authorization_endpoint", "revocation_endpoint", "userinfo_endpoint"}
	document := func(issuer, field, host string) map[string]any {
		object := map[string]any{"issuer": issuer, "token_endpoint": "https://idp.example/t"}
		object[field] = "https://" + host + "/"
		return object
	}
	for _, field := range fields {
		for _, host := range inside {
			for issuer, refused := range map[string]bool{"https://idp.example": true, "https://93.184.216.34": true, "https://10.1.1.1": false, "https://localhost": false} {
				_, failure := serverFrom(document(issuer, field, host), &DiscoverConfig{Issuer: issuer}, 200)
				if (failure != nil) != refused {
					t.Errorf("%s of %s at %s: %v", field, issuer, host, failure)
				}
			}
		}
		for _, host := range outside {
			if _, failure := serverFrom(document("https://idp.example", field, host), &DiscoverConfig{Issuer: "https://idp.example"}, 200); failure != nil {
				t.Errorf("%s at %s: %v", field, host, failure)
			}
		}
	}
	alias := document("https://idp.example", "x", "y")
	alias["mtls_endpoint_aliases"] = map[string]any{"token_endpoint": "https://169.254.169.254/"}
	if _, failure := serverFrom(alias, &DiscoverConfig{Issuer: "https://idp.example"}, 200); failure == nil {
		t.Error("an alias leads inside")
	}
}

// TestIssuerForAllTenants: Microsoft's metadata for all tenants have a mark where the tenant will be.
func TestIssuerForAllTenants(t *testing.T) {
	t.Parallel()
	const marked = "https://login.example/{tenantid}/v2.0"
	for got, same := range map[string]bool{
		"https://login.example/common/v2.0": true, "https://login.example/9188040d-6c67-4c5b-b112-36a304b66dad/v2.0": true,
		"https://login.example//v2.0": false, "https://login.example/a/b/v2.0": false, "https://login.example/a/v2.0/": false, "https://login.example/v2.0": false,
		"https://evil.example/a/v2.0": false, "https://login.example/a?x=/v2.0": false, "https://login.example/%2e/v2.0": false, marked: false,
	} {
		if sameIssuer(marked, got) != same {
			t.Errorf("%s: want %v", got, same)
		}
	}
	for issuer, ok := range map[string]bool{
		"https://login.example/common/v2.0": true, "https://login.example/common/v1.0": false, "https://evil.example/common/v2.0": false,
	} {
		object := map[string]any{"issuer": marked, "token_endpoint": "https://login.example/t"}
		if _, failure := serverFrom(object, &DiscoverConfig{Issuer: issuer}, 200); (failure == nil) != ok {
			t.Errorf("asked %s: %v", issuer, failure)
		}
	}
	for _, hostile := range []string{"https://{tenantid}", "https://{tenantid}/common/v2.0", "https://x{tenantid}/common/v2.0", "{tenantid}"} {
		object := map[string]any{"issuer": hostile, "token_endpoint": "https://login.example/t"}
		if _, failure := serverFrom(object, &DiscoverConfig{Issuer: strings.Replace(hostile, tenantMark, "login.example", 1)}, 200); failure == nil {
			t.Errorf("%s: the mark stands for a host", hostile)
		}
	}
	claims := IDClaims{Issuer: "https://login.example/t-1/v2.0", Tenant: "t-1", Audience: []string{"c"}, ExpiresAt: time.Now().Add(time.Hour)}
	if err := claims.Check(marked, "c", "", time.Now()); err != nil {
		t.Error(err)
	}
	claims.Tenant = "t-2"
	if err := claims.Check(marked, "c", "", time.Now()); err == nil {
		t.Error("issuer and tenant differ, and nobody minds")
	}
	response := &AuthorizationResponse{Issuer: "https://login.example/t-1/v2.0"}
	if err := response.CheckIssuer(marked, true); err != nil {
		t.Error(err)
	}
	if got := (&Config{Issuer: marked, TokenEndpoint: "https://login.example/t"}).assertionAudience(); got != "https://login.example/t" {
		t.Errorf("an assertion is for %s", got)
	}
}

// TestMetadataThatDoNotFit: a document that is right, for which no client can be made, is the operator's to look at.
func TestMetadataThatDoNotFit(t *testing.T) {
	t.Parallel()
	d := newDiscovered(t)
	d.says(map[string]any{"token_endpoint": d.URL + "/token", "authorization_endpoint": d.URL + "/a?state=evil"})
	token, err := d.client(t, Config{}, Discovery{}).ClientCredentials(t.Context())
	expect(t, mustFail(t, token, err), Misconfigured, "invalid_metadata")
	d = newDiscovered(t)
	d.says(map[string]any{"authorization_endpoint": d.URL + "/a"}) // a server with the implicit grant only
	c := d.client(t, Config{}, Discovery{})
	token, err = c.ClientCredentials(t.Context())
	expect(t, mustFail(t, token, err), Misconfigured, "no_token_endpoint")
	if err := c.Revoke(t.Context(), secret.New("r"), ""); err == nil || !slices.Contains([]string{"no_revocation_endpoint"}, mustFail(t, nil, err).Code) {
		t.Errorf("revoked at nobody: %v", err)
	}
	if _, err := NewMetadata(DiscoverConfig{Issuer: "http://idp.example"}); err == nil {
		t.Error("an issuer in the clear was accepted")
	}
}
