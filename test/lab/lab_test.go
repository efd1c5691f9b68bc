//go:build integration

package lab

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"
)

// grant is what the token endpoint answered, with the members the tests look at.
type grant struct {
	status      int
	AccessToken string `json:"access_token"`
	TokenType   string `json:"token_type"`
	ExpiresIn   int    `json:"expires_in"`
	Error       string `json:"error"`
}

// ask sends a client credentials request (RFC 6749 4.4.2) with plain net/http.
func ask(c *http.Client, endpoint, id, secret string, form url.Values) (grant, error) {
	if form == nil {
		form = url.Values{}
	}
	form.Set("grant_type", "client_credentials")
	if secret == "" {
		form.Set("client_id", id)
	}
	req, err := http.NewRequest(http.MethodPost, endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return grant{}, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if secret != "" {
		req.SetBasicAuth(url.QueryEscape(id), url.QueryEscape(secret)) // RFC 6749 2.3.1
	}
	resp, err := c.Do(req)
	if err != nil {
		return grant{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return grant{}, err
	}
	got := grant{status: resp.StatusCode}
	// Not every answer of a fault is JSON.
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "application/json") && len(body) > 0 {
		err = json.Unmarshal(body, &got)
	}
	return got, err
}

// mtlsClient shows the named certificate, or none if the name is empty.
func mtlsClient(t *testing.T, op *OP, name string) *http.Client {
	t.Helper()
	ca, err := os.ReadFile(op.CAFile())
	if err != nil {
		t.Fatal(err)
	}
	conf := &tls.Config{RootCAs: x509.NewCertPool()}
	if !conf.RootCAs.AppendCertsFromPEM(ca) {
		t.Fatal("no certificate in ca.pem")
	}
	if name != "" {
		certFile, keyFile := op.Cert(name)
		cert, err := tls.LoadX509KeyPair(certFile, keyFile)
		if err != nil {
			t.Fatal(err)
		}
		// Not Certificates: that would hold back a certificate whose CA the server did not name.
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true}, Timeout: 10 * time.Second}
}

func TestClientSecrets(t *testing.T) {
	t.Parallel()
	op := StartOP(t, Options{AccessTokenTTL: 7 * time.Second})
	for _, tc := range []struct {
		name, id, secret string
		status, ttl      int
	}{
		{"plain", ClientBasic, Secret, 200, 7},
		{"the odd id and secret, form-encoded", ClientOdd, OddSecret, 200, 7},
		{"an hour", ClientLong, Secret, 200, 3600},
		{"a second", Client1s, Secret, 200, 1},
		{"wrong secret", ClientBasic, "wrong", 401, 0},
	} {
		got, err := ask(client, op.TokenEndpoint(), tc.id, tc.secret, nil)
		if err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
		if got.status != tc.status || got.ExpiresIn != tc.ttl || (got.AccessToken != "") != (tc.status == 200) {
			t.Errorf("%s: status %d, expires_in %d, error %q; want %d, %d", tc.name, got.status, got.ExpiresIn, got.Error, tc.status, tc.ttl)
		}
	}

	// The trap must be one: the same odd pair without the encoding is refused.
	req, _ := http.NewRequest(http.MethodPost, op.TokenEndpoint(), strings.NewReader("grant_type=client_credentials"))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(ClientOdd, OddSecret)
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode < 400 {
		t.Errorf("the odd pair without form-encoding: status %d, want a refusal", resp.StatusCode)
	}

	stats := op.Stats(t)
	if stats.TokenRequests() != 6 || stats.Issued() != 4 || stats.Outcome(ClientBasic, "200") != 1 {
		t.Errorf("6 requests, 4 tokens, 1 of them for %s expected, counted %+v", ClientBasic, stats)
	}
	op.Reset(t)
	if stats := op.Stats(t); stats.TokenRequests() != 0 || stats.Issued() != 0 {
		t.Errorf("counters after a reset: %+v", stats)
	}
}

func TestResourceGivesJWT(t *testing.T) {
	t.Parallel()
	op := StartOP(t, Options{})
	got, err := ask(client, op.TokenEndpoint(), ClientBasic, Secret, url.Values{"resource": {"https://api.lab/?ttl=9"}, "scope": {"api:read"}})
	if err != nil {
		t.Fatal(err)
	}
	if got.status != 200 || got.ExpiresIn != 9 || strings.Count(got.AccessToken, ".") != 2 {
		t.Errorf("status %d, expires_in %d, error %q; want a JWT of 9 s", got.status, got.ExpiresIn, got.Error)
	}
}

func TestMutualTLS(t *testing.T) {
	t.Parallel()
	op := StartOP(t, Options{})
	for _, tc := range []struct {
		client, cert string
		ok           bool
	}{
		{ClientTLS, CertTLS, true},
		{ClientTLS, CertTLS2, true},
		{ClientTLSSAN, CertTLS, true},
		{ClientTLSBound, CertTLS, true},
		{ClientSelf, CertSelf, true},
		{ClientSelf, CertSelf2, true},
		{ClientTLS, CertWrong, false},
		{ClientTLS, CertOtherCA, false},
		{ClientTLS, CertExpired, false},
		{ClientTLS, "", false},
		{ClientSelf, CertTLS, false},
	} {
		got, err := ask(mtlsClient(t, op, tc.cert), op.MTLSTokenEndpoint(), tc.client, "", nil)
		if err != nil {
			t.Fatalf("%s with %q: %v", tc.client, tc.cert, err)
		}
		if tc.ok != (got.status == 200) || tc.ok != (got.AccessToken != "") {
			t.Errorf("%s with certificate %q: status %d, error %q; want success %t", tc.client, tc.cert, got.status, got.Error, tc.ok)
		}
		if !tc.ok && got.Error != "invalid_client" {
			t.Errorf("%s with certificate %q: error %q, want invalid_client", tc.client, tc.cert, got.Error)
		}
	}
}

func TestHandshakeRefusesClient(t *testing.T) {
	t.Parallel()
	op := StartOP(t, Options{RequireClientCert: true})
	got, err := ask(mtlsClient(t, op, CertTLS), op.MTLSTokenEndpoint(), ClientTLS, "", nil)
	if err != nil || got.status != 200 {
		t.Fatalf("good certificate: status %d, %v", got.status, err)
	}
	for _, cert := range []string{"", CertOtherCA, CertExpired} {
		if got, err := ask(mtlsClient(t, op, cert), op.MTLSTokenEndpoint(), ClientTLS, "", nil); err == nil {
			t.Errorf("certificate %q: status %d, want a closed connection", cert, got.status)
		}
	}
}

func TestFaults(t *testing.T) {
	t.Parallel()
	op := StartOP(t, Options{})
	try := func() (grant, error) { return ask(client, op.TokenEndpoint(), ClientBasic, Secret, nil) }

	op.SetFaults(t, Fault{Times: 1, Status: 503, Headers: map[string]string{"Retry-After": "7"}, Body: "down"})
	if got, err := try(); err != nil || got.status != 503 {
		t.Errorf("status fault: %d, %v; want 503", got.status, err)
	}
	if got, err := try(); err != nil || got.status != 200 {
		t.Errorf("after a fault that acts once: %d, %v; want 200", got.status, err)
	}

	op.Reset(t)
	op.SetFaults(t, Fault{Times: 1, DropAfter: true}, Fault{Times: 1, DropBefore: true}, Fault{Times: 1, Truncate: true})
	for _, want := range []struct {
		fault  string
		issued int
	}{{"dropped after", 1}, {"dropped before", 1}, {"truncated", 2}} {
		if got, err := try(); !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s: status %d, error %v; want a connection that ends early", want.fault, got.status, err)
		}
		if stats := op.Stats(t); stats.Issued() != want.issued {
			t.Errorf("%s: %d tokens issued so far, want %d", want.fault, stats.Issued(), want.issued)
		}
	}

	op.SetFaults(t, Fault{DelayBefore: 300 * time.Millisecond, Patch: map[string]any{"expires_in": 1234}, Remove: []string{"token_type"}})
	for range 2 { // no Times: until it is replaced
		start := time.Now()
		got, err := try()
		if err != nil || got.status != 200 || got.ExpiresIn != 1234 || got.TokenType != "" {
			t.Errorf("patched answer: %d, expires_in %d, token_type %q, %v", got.status, got.ExpiresIn, got.TokenType, err)
		}
		if took := time.Since(start); took < 300*time.Millisecond {
			t.Errorf("delayed answer took %s, want at least 300ms", took)
		}
	}
	op.SetFaults(t)
	if got, err := try(); err != nil || got.TokenType != "Bearer" {
		t.Errorf("without faults: token_type %q, %v", got.TokenType, err)
	}
}

func TestIntrospection(t *testing.T) {
	t.Parallel()
	// The server counts from the full second before: a token of 3 s is active for more than 2.
	op := StartOP(t, Options{AccessTokenTTL: 3 * time.Second})
	got, err := ask(client, op.TokenEndpoint(), ClientBasic, Secret, nil)
	if err != nil || got.status != 200 {
		t.Fatalf("status %d, %v", got.status, err)
	}
	issued := time.Now()
	if !op.Introspect(t, got.AccessToken) && time.Since(issued) < 2*time.Second {
		t.Error("a new token is not active")
	}
	for op.Introspect(t, got.AccessToken) {
		if time.Since(issued) > 10*time.Second {
			t.Fatal("a token of 3 s is active after 10 s")
		}
		time.Sleep(50 * time.Millisecond) // the server's own clock, there is nothing to wait on
	}
	if op.Introspect(t, "no-such-token") {
		t.Error("an unknown token is active")
	}
}
