package oauth

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/caddyoauth/caddyoauth/internal/secret"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const goodToken = `{"access_token":"at-1","token_type":"Bearer","expires_in":3600}`

// fixed is a secret that never changes.
func fixed(s string) func() (secret.Text, error) {
	return func() (secret.Text, error) { return secret.New(s), nil }
}

func newTestClient(t *testing.T, cfg Config) *Client {
	t.Helper()
	if cfg.ClientID == "" {
		cfg.ClientID = "caddy"
	}
	if cfg.Method == "" && cfg.Secret == nil {
		cfg.Secret = fixed("s3cret-of-the-client")
	}
	c, err := NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.CloseIdle)
	return c
}

// serve starts a plain token endpoint.
func serve(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv.URL + "/token"
}

// answer is a handler with a fixed answer.
func answer(status int, contentType, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// mustFail returns the *Error in err.
func mustFail(t *testing.T, token *TokenResponse, err error) *Error {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("got token %v, error %v; want an *Error", token, err)
	}
	if token != nil {
		t.Error("an error came with a token")
	}
	return e
}

// expect compares class and code.
func expect(t *testing.T, e *Error, class Class, code string) {
	t.Helper()
	if e.Class != class || e.Code != code {
		t.Errorf("got %v %q (%v), want %v %q", e.Class, e.Code, e, class, code)
	}
}

// rawServer accepts connections and hands each to serve, which need not speak anything.
func rawServer(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serve(conn)
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr().String()
}

// authority issues certificates for a test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test ca"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &authority{cert, key, pool}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// pemPair is a certificate and its key.
type pemPair struct{ cert, key []byte }

func (a *authority) issue(t *testing.T, name string, from, to time.Duration) pemPair {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(from), NotAfter: time.Now().Add(to),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pemPair{
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
	}
}

// valid issues a pair that is good for an hour.
func (a *authority) valid(t *testing.T, name string) pemPair {
	t.Helper()
	return a.issue(t, name, -time.Hour, time.Hour)
}

// files writes a pair and returns where it is.
func files(t *testing.T, pair pemPair) *Certificate {
	t.Helper()
	dir := t.TempDir()
	c := &Certificate{CertFile: filepath.Join(dir, "client.crt"), KeyFile: filepath.Join(dir, "client.key")}
	rewrite(t, c, pair)
	return c
}

func rewrite(t *testing.T, c *Certificate, pair pemPair) {
	t.Helper()
	for name, data := range map[string][]byte{c.CertFile: pair.cert, c.KeyFile: pair.key} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// serveTLS starts a token endpoint that demands certificates of a, under one TLS version.
func (a *authority) serveTLS(t *testing.T, version uint16, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	pair := a.valid(t, "server")
	own, err := tls.X509KeyPair(pair.cert, pair.key)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(h)
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.TLS = &tls.Config{
		Certificates: []tls.Certificate{own}, ClientCAs: a.pool, ClientAuth: tls.RequireAndVerifyClientCert,
		MinVersion: version, MaxVersion: version,
	}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv
}

// tokenNamed answers with the common name of the client's certificate as the token.
func tokenNamed(w http.ResponseWriter, r *http.Request) {
	_, _ = fmt.Fprintf(w, `{"access_token":%q}`, r.TLS.PeerCertificates[0].Subject.CommonName)
}

// accessToken runs the client credentials grant and returns the token.
func accessToken(t *testing.T, c *Client) string {
	t.Helper()
	token, err := c.ClientCredentials(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return token.AccessToken.Reveal()
}
