package caddyoauth_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// connectAt serves the pages for connections of people, with a redirect URI that is known without a request.
const connectAt = basicAuth + "oauth2_connect {\n connections drive drive@staging mail\n redirect_base http://localhost:PORT\n}\n"

// TestAPIOfPeople follows a connection that people authorize: each has a token set of their own.
func TestAPIOfPeople(t *testing.T) {
	a := runAPI(t, "", "route /connect* {\n"+connectAt+"}\nroute /files {\n"+basicAuth+"oauth2_inject drive {\n reverse_proxy UPSTREAM\n}\n}\n")
	made := a.call("POST", "/v1/secrets", strings.Replace(a.people("drive", `,"subject":"{http.auth.user.id}"`), `{`, `{"secret_type":"oauth2",`, 1)).is(http.StatusCreated)
	if got := made.get("redirect_uri"); !strings.HasPrefix(got, "http://localhost:") || !strings.HasSuffix(got, "/connect/callback") || made.get("connection_status") != "per_subject" {
		t.Errorf("got %s", made.body)
	}
	one := "/v1/secrets/" + made.get("id")
	link := a.call("POST", one+"/subjects/alice/authorize", "").is(http.StatusOK).get("authorize_url")
	if !strings.HasSuffix(link, "/connect/authorize/drive") {
		t.Fatalf("got %s", link)
	}
	a.call("POST", one+"/refresh", "").failed(http.StatusConflict, "conflict")
	a.call("POST", one+"/subjects/alice/refresh", "").failed(http.StatusConflict, "conflict")
	a.call("GET", one+"/subjects", "").is(http.StatusOK)
	alice := a.as("alice")
	alice.connectAs(t, a)
	alice.open("/files").want(t, http.StatusOK, "GET /files")
	listed := a.call("GET", one+"/subjects", "").is(http.StatusOK)
	if !strings.Contains(listed.body, `"subject":"alice"`) || listed.Meta.Total != 1 {
		t.Errorf("got %s", listed.body)
	}
	got := a.call("GET", one+"/subjects/alice", "").is(http.StatusOK)
	if got.get("status") != "active" || got.get("uses") != "1" || got.get("generation") != "1" {
		t.Errorf("got %s", got.body)
	}
	if got := a.call("POST", one+"/subjects/alice/refresh", "").is(http.StatusOK); got.get("generation") != "2" || got.get("by") != "" && got.get("by") != "alice" {
		t.Errorf("got %s", got.body)
	}
	if got := a.call("GET", one+"/subjects/alice/versions", "").is(http.StatusOK); strings.Count(got.body, `"version"`) != 2 {
		t.Errorf("got %s", got.body)
	}
	a.call("POST", one+"/subjects/alice/versions/7/rollback", "").is(http.StatusConflict)
	a.call("POST", one+"/subjects/alice/versions/x/rollback", "").failed(http.StatusNotFound, "not_found")
	a.call("POST", one+"/subjects/alice/test", "").failed(http.StatusConflict, "conflict")
	a.call("GET", one+"/subjects/bob", "").is(http.StatusOK) // nobody can tell who exists: bob has simply not connected
	revoked := a.call("POST", one+"/subjects/alice/revoke", "").is(http.StatusOK)
	if revoked.get("revoked") != "1" || !a.auth.wasRevoked(seed+"refresh-2") {
		t.Errorf("got %s", revoked.body)
	}
	alice.open("/files").want(t, http.StatusForbidden, "authorization-required")
	alice.connectAs(t, a)
	ended := a.call("DELETE", one, "", "If-Match: *").is(http.StatusOK)
	if ended.get("revoked") != "1" || ended.get("deleted") != "true" || !a.auth.wasRevoked(seed+"refresh-3") {
		t.Errorf("got %s", ended.body)
	}
	alice.open("/files").want(t, http.StatusForbidden, "unknown-connection")
}

// connectAs connects the account on the pages, whose redirect URI names another host than the one that is asked.
func (b *browser) connectAs(t *testing.T, a *restSite) {
	t.Helper()
	to := b.open("/connect/authorize/drive")
	if to.status != http.StatusSeeOther {
		t.Fatalf("got %d %s", to.status, to.body)
	}
	resp, err := b.client.Get(to.header.Get("Location"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	_, path, _ := strings.Cut(resp.Header.Get("Location"), "/connect/")
	if back := b.open("/connect/" + path); back.status != http.StatusSeeOther {
		t.Fatalf("got %d %s", back.status, back.body)
	}
}

// TestAPIEnvironments: one secret, and in each environment the client and endpoints of its own; never those of another one.
func TestAPIEnvironments(t *testing.T) {
	staging := newIDP(t)
	staging.issued.Store(100)
	a := runAPI(t, "", `
	route /staging {
		oauth2_inject billing {
			environment staging
			reverse_proxy UPSTREAM
		}
	}
	route /production {
		oauth2_inject billing {
			environment production
			reverse_proxy UPSTREAM
		}
	}
	route /development {
		oauth2_inject billing {
			environment development
			reverse_proxy UPSTREAM
		}
	}
	route /named {
		oauth2_inject billing@staging {
			reverse_proxy UPSTREAM
		}
	}
	`)
	made := a.call("POST", "/v1/secrets/oauth2", a.machine("billing", fmt.Sprintf(`,"environments":{"staging":{"client_secret":%q,"token_url":"%s/token"}}`, clientSecret, staging.URL))).is(http.StatusCreated)
	for path, number := range map[string]int64{"/production": 1, "/staging": 101, "/named": 101, "/with/billing": 1} {
		a.get(path).want(t, http.StatusOK, "GET")
		if got := a.up.last(t).header.Get("Authorization"); got != bearer(number) {
			t.Errorf("%s travelled with another token", path)
		}
	}
	a.get("/development").want(t, http.StatusForbidden, "unknown-connection")
	a.get("/with/billing@staging").want(t, http.StatusForbidden, "unknown-connection") // a placeholder leads into no environment
	one := "/v1/secrets/" + made.get("id")
	if got := a.call("GET", one, "").is(http.StatusOK); !strings.Contains(got.body, `"staging":{"options":{"token_url":"`+staging.URL) {
		t.Errorf("got %s", got.body)
	}
	a.call("POST", one+"/refresh?environment=staging", "").is(http.StatusOK)
	if got := staging.asked.Load(); got != 2 {
		t.Errorf("the token endpoint of staging was asked %d times", got)
	}
	a.call("POST", one+"/refresh?environment=other", "").failed(http.StatusBadRequest, "validation_error", "environment")
	a.call("PATCH", one, `{"environments":{"staging":{"subject":"x"},"production":{"client_id":"y"},"a b":{}}}`, "If-Match: *").
		failed(http.StatusBadRequest, "validation_error", "environments.a b", "environments.production", "environments.staging.subject")
	a.call("PATCH", one, `{"environments":{"staging":null}}`, "If-Match: *").is(http.StatusOK)
	a.get("/staging").want(t, http.StatusForbidden, "unknown-connection")
	a.get("/production").want(t, http.StatusOK, "GET")
}

// TestAPIKeepsSecretsInPlace: whoever may change a connection cannot have its secret sent somewhere else.
func TestAPIKeepsSecretsInPlace(t *testing.T) {
	evil := newIDP(t)
	a := runAPI(t, "", "")
	one := "/v1/secrets/" + a.call("POST", "/v1/secrets/oauth2", a.machine("billing", `,"token_params":{"key":"`+seed+`param"}`)).is(http.StatusCreated).get("id")
	for _, change := range []string{
		`"token_url":"` + evil.URL + `/token"`, `"revocation_endpoint":"` + evil.URL + `/revoke"`, `"allow_hosts":["127.0.0.1"]`,
		`"auth_url":"` + evil.URL + `/"`, `"issuer":"` + evil.URL + `"`, `"quirks":{"refresh_endpoint":"` + evil.URL + `/refresh"}`,
	} {
		a.call("PATCH", one, "{"+change+"}", "If-Match: *").failed(http.StatusBadRequest, "validation_error", "client_secret", "token_params")
		a.call("PATCH", one, `{"client_secret":"`+clientSecret+`",`+change+"}", "If-Match: *").failed(http.StatusBadRequest, "validation_error", "token_params")
	}
	a.call("PATCH", one, `{"environments":{"staging":{"token_url":"`+evil.URL+`/token"}}}`, "If-Match: *").
		failed(http.StatusBadRequest, "validation_error", "client_secret", "token_params")
	a.call("PATCH", one, `{"environments":{"staging":{"token_url":"`+evil.URL+`/token","client_secret":"`+seed+`x"}}}`, "If-Match: *").
		failed(http.StatusBadRequest, "validation_error", "token_params")
	if evil.asked.Load() != 0 {
		t.Error("the other place was asked")
	}
	a.call("PATCH", one, `{"client_id":"caddy","scopes":["x"],"token_url":"`+a.idp.URL+`/token"}`, "If-Match: *").is(http.StatusOK) // the same place
	a.call("PATCH", one, `{"client_secret":"`+clientSecret+`","token_params":{},"token_url":"`+evil.URL+`/token"}`, "If-Match: *").is(http.StatusOK)
	if evil.asked.Load() == 0 {
		t.Error("with its secrets the connection did not move")
	}
	public := "/v1/secrets/" + a.call("POST", "/v1/secrets/oauth2", strings.Replace(a.machine("public", `,"client_auth":"none"`), `"client_secret":"`+clientSecret+`",`, "", 1)).is(http.StatusCreated).get("id")
	a.call("PATCH", public, `{"token_url":"`+evil.URL+`/token"}`, "If-Match: *").failed(http.StatusBadRequest, "validation_error", "environments.production")
}

// TestAPIReadsNothingOfTheServer: what an API caller writes is taken to the letter.
func TestAPIReadsNothingOfTheServer(t *testing.T) {
	t.Setenv("TEST_API_SECRET", seed+"environment")
	var forms []string
	a := runAPI(t, "", "")
	a.idp.answers(func(w http.ResponseWriter, r *http.Request) {
		id, password, _ := r.BasicAuth()
		_ = r.ParseForm()
		forms = append(forms, id+" "+password+" "+r.PostForm.Encode())
		a.idp.grant(w, r)
	})
	body := strings.NewReplacer(`"caddy"`, `"{env.TEST_API_SECRET}"`, clientSecret, "{file./etc/hostname}").Replace(
		a.machine("billing", `,"scopes":["{env.TEST_API_SECRET}"],"audience":"{env.TEST_API_SECRET}","token_params":{"x":"{env.TEST_API_SECRET}"},"header":{"name":"X-Token"},"allow":[{"methods":["GET"],"paths":["/with/*"]}]`))
	a.call("POST", "/v1/secrets/oauth2", body).is(http.StatusCreated)
	if len(forms) != 1 || strings.Contains(forms[0], seed) || strings.Count(forms[0], "TEST_API_SECRET") != 4 || !strings.Contains(forms[0], "file./etc/hostname") && !strings.Contains(forms[0], "file.%2Fetc%2Fhostname") {
		t.Errorf("the token endpoint got %q", forms)
	}
	for _, field := range []string{
		`"subject":"{env.TEST_API_SECRET}"`, `"subject":"{http.request.header.Cookie}"`, `"subject":"x"`, `"client_certificate":{"certificate":"/etc/passwd","key":"/etc/passwd"}`,
		`"tls":{"ca":["/etc/passwd"]}`, `"client_key":{"file":"/etc/passwd"}`, `"insecure_http":true`, `"tenant":"other"`,
	} {
		got := a.call("POST", "/v1/secrets/oauth2", a.machine("other", ","+field)).is(http.StatusBadRequest)
		if name := strings.Trim(strings.SplitN(field, ":", 2)[0], `"`); got.Error.Field != name {
			t.Errorf("%s: got %s", field, got.body)
		}
	}
}

// TestAPIEndpointsStayOutside: without a list of the operator's, an endpoint is at a public address and speaks TLS, or there is none.
func TestAPIEndpointsStayOutside(t *testing.T) {
	a := runAPI(t, "poll_interval 1s", "")
	for _, url := range []string{
		a.idp.URL + "/token", "http://localhost:2019/load", "https://localhost/x", "https://127.0.0.1/x", "https://[::1]/x", "https://10.1.2.3/x", "https://169.254.169.254/latest",
		"https://192.168.1.1/", "https://[fd00::1]/", "https://[::ffff:127.0.0.1]/", "https://[64:ff9b::7f00:1]/", "https://0.0.0.0/", "https://100.64.0.1/", "http://example.com/token",
	} {
		body := strings.Replace(a.machine("billing", ""), a.idp.URL+"/token", url, 1)
		a.call("POST", "/v1/secrets/oauth2", body).failed(http.StatusBadRequest, "validation_error", "token_url")
	}
	// A public name may lead to an address that is none: it is looked at when it is dialled.
	body := strings.Replace(a.machine("billing", ""), a.idp.URL+"/token", "https://loopback.test:1/token", 1)
	made := a.call("POST", "/v1/secrets/oauth2", body).is(http.StatusCreated)
	if made.get("connection_status") == "connected" {
		t.Errorf("got %s", made.body)
	}
	if a.idp.asked.Load() != 0 {
		t.Error("an address inside was asked")
	}
}

// TestAPIFirstToken: the answer says whether a machine's connection works, or why not.
func TestAPIFirstToken(t *testing.T) {
	a := runAPI(t, "", "")
	a.idp.says(http.StatusUnauthorized, `{"error":"invalid_client","error_description":"`+seed+`words"}`)
	made := a.call("POST", "/v1/secrets/oauth2", a.machine("refused", "")).is(http.StatusCreated)
	if made.get("connection_status") != "misconfigured" || made.get("connection_error") != "invalid_client" {
		t.Errorf("got %s", made.body)
	}
	a.idp.says(http.StatusServiceUnavailable, `{}`)
	made = a.call("POST", "/v1/secrets/oauth2", a.machine("down", `,"timeout":"5s"`)).is(http.StatusCreated)
	if made.get("connection_status") != "failing" || made.get("connection_error") == "" {
		t.Errorf("got %s", made.body)
	}
	a.idp.answers(nil)
	began := time.Now()
	a.call("POST", "/v1/secrets/"+made.get("id")+"/refresh", "").is(http.StatusOK)
	if got := a.call("GET", "/v1/secrets?connection_status=connected", "").is(http.StatusOK); got.names() != "down" {
		t.Errorf("%s later: %s", time.Since(began), got.body)
	}
}

// TestAPICertificates: a certificate is kept as a secret of its own, shown to the token endpoint, renewed in place, and never given back.
func TestAPICertificates(t *testing.T) {
	chain, key := selfSigned(t, "first")
	var seen []string
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.TLS.PeerCertificates[0].Subject.CommonName)
		fmt.Fprintf(w, `{"access_token":"%stoken-%d","token_type":"Bearer","expires_in":3600}`, seed, len(seen))
	}))
	server.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	server.StartTLS()
	t.Cleanup(server.Close)
	authority := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	a := runAPI(t, "", "")
	certificate := func(name, chain, key string) string {
		body := map[string]string{"secret_type": "certificate", "name": name, "certificate": chain}
		if key != "" {
			body["private_key"] = key
		}
		text, _ := json.Marshal(body)
		return string(text)
	}
	made := a.call("POST", "/v1/secrets", certificate("mtls", chain, key)).is(http.StatusCreated)
	if made.get("secret_type") != "certificate" || made.get("provider") != "null" || made.get("connection_status") != "null" {
		t.Errorf("got %s", made.body)
	}
	ca := a.call("POST", "/v1/secrets", certificate("ca", authority, "")).is(http.StatusCreated)
	one := "/v1/secrets/" + made.get("id")
	detail := a.call("GET", one, "").is(http.StatusOK)
	for _, text := range []string{`"subject":"CN=first"`, `"has_key":true`, `"chain_length":1`, `"fingerprint":"`} {
		if !strings.Contains(detail.body, text) {
			t.Errorf("no %s in %s", text, detail.body)
		}
	}
	if strings.Contains(detail.body, "PRIVATE") || strings.Contains(detail.body, strings.Split(key, "\n")[1]) {
		t.Error("the key was shown")
	}
	body := func(mtls, ca string) string {
		return fmt.Sprintf(`{"name":"billing","provider":"custom","grant_type":"client_credentials","client_id":"caddy","token_url":%q,"mtls_certificate_id":%q,"ca_certificate_id":%q}`,
			server.URL+"/token", mtls, ca)
	}
	nobody := "00000000-0000-4000-8000-000000000000"
	a.call("POST", "/v1/secrets/oauth2", body(nobody, nobody)).failed(http.StatusBadRequest, "validation_error", "ca_certificate_id", "mtls_certificate_id")
	a.call("POST", "/v1/secrets/oauth2", body(ca.get("id"), ca.get("id"))).failed(http.StatusBadRequest, "validation_error", "mtls_certificate_id") // it has no key
	conn := a.call("POST", "/v1/secrets/oauth2", body(made.get("id"), ca.get("id"))).is(http.StatusCreated)
	if conn.get("connection_status") != "connected" || conn.get("mtls_certificate_id") != made.get("id") {
		t.Errorf("got %s", conn.body)
	}
	a.call("DELETE", one, "", "If-Match: *").failed(http.StatusConflict, "conflict")
	chain2, key2 := selfSigned(t, "second")
	a.call("PATCH", one, certificate("mtls", chain2, key), "If-Match: *").failed(http.StatusBadRequest, "validation_error", "private_key")
	a.call("PATCH", one, certificate("mtls", chain2, key2), "If-Match: *").is(http.StatusOK)
	a.call("POST", "/v1/secrets/"+conn.get("id")+"/refresh", "").is(http.StatusOK)
	if strings.Join(seen, " ") != "first second" {
		t.Errorf("the server saw %q", seen)
	}
	a.call("POST", one+"/refresh", "").failed(http.StatusConflict, "conflict")
	a.call("DELETE", "/v1/secrets/"+conn.get("id"), "", "If-Match: *").is(http.StatusOK)
	a.call("DELETE", one, "", "If-Match: *").is(http.StatusOK)
}

// selfSigned makes a certificate and its key, in PEM.
func selfSigned(t *testing.T, name string) (chain, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
}

// TestAPIOtherGrants: the password grant fetches its token at once, and the implicit grant needs no client secret.
func TestAPIOtherGrants(t *testing.T) {
	a := runAPI(t, "", "")
	made := a.call("POST", "/v1/secrets/oauth2", strings.Replace(a.machine("account", `,"username":"jane","password":"`+seed+`password"`), "client_credentials", "password", 1)).is(http.StatusCreated)
	if made.get("connection_status") != "connected" {
		t.Errorf("got %s", made.body)
	}
	if detail := a.call("GET", "/v1/secrets/"+made.get("id"), "").is(http.StatusOK); !strings.Contains(detail.body, `"secret_options":["client_secret","password"]`) || !strings.Contains(detail.body, `"username":"jane"`) {
		t.Errorf("got %s", detail.body)
	}
	a.call("POST", "/v1/secrets/oauth2", `{"name":"old","provider":"custom","grant_type":"implicit","client_id":"caddy","auth_url":"`+a.auth.URL+`/authorize"}`).is(http.StatusCreated)
	a.call("POST", "/v1/secrets/oauth2", `{"name":"older","provider":"custom","grant_type":"implicit","client_id":"caddy"}`).failed(http.StatusBadRequest, "validation_error", "auth_url")
	a.call("POST", "/v1/secrets/oauth2", strings.Replace(a.machine("account2", ""), "client_credentials", "password", 1)).failed(http.StatusBadRequest, "validation_error", "password", "username")
	a.call("POST", "/v1/secrets/oauth2", a.machine("account2", `,"username":"jane","password":"x"`)).failed(http.StatusBadRequest, "validation_error", "password", "username")
}

// TestAPISigningKey: a key that is kept as a secret signs client assertions, and is never given back.
func TestAPISigningKey(t *testing.T) {
	_, key := selfSigned(t, "x")
	a := runAPI(t, "", "")
	var headers []string
	a.idp.answers(func(w http.ResponseWriter, r *http.Request) {
		head, _, _ := strings.Cut(r.FormValue("client_assertion"), ".")
		text, _ := base64.RawURLEncoding.DecodeString(head)
		headers = append(headers, string(text))
		a.idp.grant(w, r)
	})
	text, _ := json.Marshal(map[string]string{"secret_type": "certificate", "name": "signer", "private_key": key})
	made := a.call("POST", "/v1/secrets", string(text)).is(http.StatusCreated)
	if detail := a.call("GET", "/v1/secrets/"+made.get("id"), "").is(http.StatusOK); !strings.Contains(detail.body, `"certificate":{"chain_length":0,"has_key":true}`) {
		t.Errorf("got %s", detail.body)
	}
	body := strings.Replace(a.machine("billing", ""), `"client_secret":"`+clientSecret+`"`, `"client_key":{"id":"`+made.get("id")+`","kid":"k1"}`, 1)
	conn := a.call("POST", "/v1/secrets/oauth2", body).is(http.StatusCreated)
	if conn.get("connection_status") != "connected" || len(headers) != 1 || !strings.Contains(headers[0], `"kid":"k1"`) || !strings.Contains(headers[0], "ES256") {
		t.Errorf("got %s, and the server %q", conn.body, headers)
	}
	a.call("DELETE", "/v1/secrets/"+made.get("id"), "", "If-Match: *").failed(http.StatusConflict, "conflict")
	for _, wrong := range []string{`{"id":"00000000-0000-4000-8000-000000000000"}`, `{"id":"` + made.get("id") + `","alg":"RS256"}`, `{"file":"/etc/passwd"}`, `"x"`, `{}`} {
		a.call("POST", "/v1/secrets/oauth2", strings.Replace(strings.Replace(body, `{"id":"`+made.get("id")+`","kid":"k1"}`, wrong, 1), "billing", "other", 1)).is(http.StatusBadRequest)
	}
	a.call("POST", "/v1/secrets", `{"secret_type":"certificate","name":"bad","private_key":"x"}`).failed(http.StatusBadRequest, "validation_error", "private_key")
}

// TestStoredConnectionThatCannotBeUsed: one whose options do not hold any more is answered as a fault of the configuration, but not to who
// only tries names of other tenants.
func TestStoredConnectionThatCannotBeUsed(t *testing.T) {
	up, auth := newUpstream(t, nil), newAuthServer(t)
	with := setup{
		connections: "stored_connections {\n endpoints 127.0.0.1\n}\n",
		site: apiDirective + "route /named {\n oauth2_inject acme/billing {\n reverse_proxy " + up.url + "\n}\n}\nroute /any/* {\n oauth2_inject {http.request.header.X-Name} {\n reverse_proxy " + up.url +
			"\n}\n}\nrespond nothing 404",
	}
	s := run(t, with)
	a := &restSite{site: s, up: up, auth: auth}
	a.call("POST", "/v1/secrets/oauth2", a.machine("billing", ""), "X-Tenant: acme").is(http.StatusCreated)
	s.get("/named").want(t, http.StatusOK, "GET")
	with.connections = strings.Replace(with.connections, "127.0.0.1", "elsewhere.test", 1) // the operator thinks again
	with.idp = s.idp
	if err := caddy.Load(adapt(t, s.config(with)), true); err != nil {
		t.Fatal(err)
	}
	s.get("/named").want(t, http.StatusBadGateway, "client-refused")
	s.get("/any/x", "X-Name: acme/billing").want(t, http.StatusForbidden, "unknown-connection")
	s.get("/any/x", "X-Name: acme/none").want(t, http.StatusForbidden, "unknown-connection")
	if got := a.call("GET", "/v1/secrets", "", "X-Tenant: acme").is(http.StatusOK); !strings.Contains(got.body, `"connection_status":"misconfigured"`) || !strings.Contains(got.body, "invalid_options") {
		t.Errorf("got %s", got.body)
	}
	if !strings.Contains(logged.String(), "a stored connection cannot be used") {
		t.Error("the log says nothing of it")
	}
}
