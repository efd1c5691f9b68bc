package oauth

import (
	"bytes"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/secret"
)

var tlsVersions = map[string]uint16{"TLS 1.2": tls.VersionTLS12, "TLS 1.3": tls.VersionTLS13}

// TestRenewedCertificate: files replaced between two exchanges, and during one.
func TestRenewedCertificate(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	for name, version := range tlsVersions {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			arrived, release := make(chan struct{}), make(chan struct{})
			srv := ca.serveTLS(t, version, func(w http.ResponseWriter, r *http.Request) {
				_ = r.ParseForm()
				if r.PostForm.Get("refresh_token") == "slow" {
					close(arrived)
					<-release
				}
				tokenNamed(w, r)
			})
			cert := files(t, ca.valid(t, "first"))
			c := newTestClient(t, Config{TokenEndpoint: srv.URL, Method: TLSClientAuth, Certificate: cert, RootCAs: ca.pool})
			if got := accessToken(t, c); got != "first" {
				t.Errorf("server saw %q", got)
			}
			slow := make(chan string, 1)
			go func() {
				token, err := c.Refresh(t.Context(), secret.New("slow"))
				if err != nil {
					slow <- err.Error()
					return
				}
				slow <- token.AccessToken.Reveal()
			}()
			<-arrived
			rewrite(t, cert, ca.valid(t, "second"))
			if got := accessToken(t, c); got != "second" {
				t.Errorf("after renewal the server saw %q", got)
			}
			close(release)
			if got := <-slow; got != "first" {
				t.Errorf("the exchange under way ended with %q", got)
			}
		})
	}
}

// TestRefusedCertificate: under TLS 1.3 the refusal comes after the request was written, and must still be told apart
// from a lost answer. Repeated, because the alert races with the write.
func TestRefusedCertificate(t *testing.T) {
	t.Parallel()
	ca, other := newAuthority(t), newAuthority(t)
	for name, version := range tlsVersions {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var requests atomic.Int32
			srv := ca.serveTLS(t, version, func(http.ResponseWriter, *http.Request) { requests.Add(1) })
			with := newTestClient(t, Config{
				TokenEndpoint: srv.URL, Method: TLSClientAuth, Certificate: files(t, other.valid(t, "stranger")), RootCAs: ca.pool,
			})
			without := newTestClient(t, Config{TokenEndpoint: srv.URL, RootCAs: ca.pool})
			for range 25 {
				token, err := with.Refresh(t.Context(), secret.New("rt"))
				e := mustFail(t, token, err)
				expect(t, e, Misconfigured, "certificate_refused")
				if !strings.Contains(e.Error(), "refused the client certificate") {
					t.Error(e)
				}
				token, err = without.ClientCredentials(t.Context())
				e = mustFail(t, token, err)
				expect(t, e, Misconfigured, "certificate_refused")
				if !strings.Contains(e.Error(), "set client_certificate") {
					t.Error(e)
				}
			}
			if requests.Load() != 0 {
				t.Error("the server handled a request of an unknown client")
			}
		})
	}
}

// TestCertificateTravelsWithAnyMethod: a secret and a certificate together are how bound tokens are had (RFC 8705
// section 3).
func TestCertificateTravelsWithAnyMethod(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	srv := ca.serveTLS(t, tls.VersionTLS13, func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		_, _, basic := r.BasicAuth()
		_, _ = fmt.Fprintf(w, `{"access_token":"basic=%t id=%s cn=%s"}`, basic, r.PostForm.Get("client_id"),
			r.TLS.PeerCertificates[0].Subject.CommonName)
	})
	cert := files(t, ca.valid(t, "c"))
	for method, want := range map[Method]string{
		ClientSecretBasic:       "basic=true id= cn=c",
		ClientSecretPost:        "basic=false id=caddy cn=c",
		TLSClientAuth:           "basic=false id=caddy cn=c",
		SelfSignedTLSClientAuth: "basic=false id=caddy cn=c",
		None:                    "basic=false id=caddy cn=c",
	} {
		cfg := Config{TokenEndpoint: srv.URL, Method: method, Certificate: cert, RootCAs: ca.pool, Secret: fixed("s")}
		if got := accessToken(t, newTestClient(t, cfg)); got != want {
			t.Errorf("%s: %q, want %q", method, got, want)
		}
	}
}

// TestUnusableCertificate: the reason is named and nothing reaches the server.
func TestUnusableCertificate(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	good, another := ca.valid(t, "a"), ca.valid(t, "b")
	encrypted := pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte("x")})
	legacy := pem.EncodeToMemory(&pem.Block{
		Type: "RSA PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED"}, Bytes: []byte("x"),
	})
	damaged := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: []byte("seeded-key-bytes")})
	accepted := make(chan struct{}, 100)
	addr := rawServer(t, func(net.Conn) { accepted <- struct{}{} })
	for _, tc := range []struct {
		name string
		pair pemPair
		code string
		says string
	}{
		{"mismatch", pemPair{good.cert, another.key}, "certificate_mismatch", "does not belong to"},
		{"expired", ca.issue(t, "x", -2*time.Hour, -time.Hour), "certificate_expired", "expired at 20"},
		{"not yet valid", ca.issue(t, "x", time.Hour, 2*time.Hour), "certificate_not_yet_valid", "not valid before 20"},
		{"not PEM", pemPair{[]byte("hello"), good.key}, "certificate_unreadable", "client.crt holds no PEM certificate"},
		{"damaged certificate", pemPair{bytes.Replace(good.cert, []byte("M"), []byte("A"), 3), good.key}, "certificate_unreadable", "client.crt"},
		{"swapped", pemPair{good.key, good.cert}, "certificate_unreadable", "client.crt holds no PEM certificate"},
		{"no key", pemPair{good.cert, good.cert}, "certificate_unreadable", "client.key holds no PEM private key"},
		{"encrypted key", pemPair{good.cert, encrypted}, "certificate_unreadable", "client.key is encrypted"},
		{"encrypted key, old style", pemPair{good.cert, legacy}, "certificate_unreadable", "client.key is encrypted"},
		{"damaged key", pemPair{good.cert, damaged}, "certificate_unreadable", "client.key is damaged"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			c := newTestClient(t, Config{TokenEndpoint: "https://" + addr, Method: TLSClientAuth, Certificate: files(t, tc.pair)})
			token, err := c.Refresh(t.Context(), secret.New("rt"))
			e := mustFail(t, token, err)
			expect(t, e, Misconfigured, tc.code)
			if !strings.Contains(e.Error(), tc.says) || strings.Contains(e.Error(), "seeded") {
				t.Errorf("says %q, want %q in it", e, tc.says)
			}
		})
	}
	t.Cleanup(func() {
		if len(accepted) != 0 {
			t.Error("a connection was opened with an unusable certificate")
		}
	})
}

func TestMissingCertificateFiles(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	for _, missing := range []string{"client.crt", "client.key"} {
		cert := files(t, ca.valid(t, "a"))
		for _, name := range []string{cert.CertFile, cert.KeyFile} {
			if strings.HasSuffix(name, missing) {
				if err := os.Remove(name); err != nil {
					t.Fatal(err)
				}
			}
		}
		_, err := cert.Load()
		e := mustFail(t, nil, err)
		expect(t, e, Misconfigured, "certificate_unreadable")
		if !strings.Contains(e.Error(), missing) || !errors.Is(e, fs.ErrNotExist) {
			t.Errorf("%s: says %q", missing, e)
		}
	}
}

// TestLoadInTheMiddleOfARenewal: the certificate is new, the key is not yet.
func TestLoadInTheMiddleOfARenewal(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca := newAuthority(t) // inside: the bubble has a clock of its own
		before, after := ca.valid(t, "before"), ca.valid(t, "after")
		cert := &Certificate{CertFile: dir + "/crt", KeyFile: dir + "/key"}
		rewrite(t, cert, pemPair{after.cert, before.key})
		loaded := make(chan string, 1)
		go func() {
			pair, err := cert.Load()
			if err != nil {
				loaded <- err.Error()
				return
			}
			loaded <- pair.Leaf.Subject.CommonName
		}()
		synctest.Wait() // Load has seen the mismatch and waits
		rewrite(t, cert, after)
		if got := <-loaded; got != "after" {
			t.Errorf("loaded %q", got)
		}
	})
}

// TestServerCertificate: whom we talk to is checked before anything is said.
func TestServerCertificate(t *testing.T) {
	t.Parallel()
	ca, other := newAuthority(t), newAuthority(t)
	srv := ca.serveTLS(t, tls.VersionTLS13, tokenNamed)
	cert := files(t, ca.valid(t, "c"))
	for name, tc := range map[string]struct {
		endpoint string
		trust    *authority
		says     string
	}{
		"unknown authority": {srv.URL, other, "signed by an unknown authority"},
		"another host":      {strings.Replace(srv.URL, "127.0.0.1", "localhost", 1), ca, "not valid for this host"},
	} {
		c := newTestClient(t, Config{TokenEndpoint: tc.endpoint, Method: TLSClientAuth, Certificate: cert, RootCAs: tc.trust.pool})
		token, err := c.ClientCredentials(t.Context())
		e := mustFail(t, token, err)
		expect(t, e, Misconfigured, "server_certificate")
		var cause *tls.CertificateVerificationError
		if !strings.Contains(e.Error(), tc.says) || !errors.As(e, &cause) {
			t.Errorf("%s: %v", name, e)
		}
	}
}

// TestOldTLS: nothing below TLS 1.2 is spoken.
func TestOldTLS(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	srv := ca.serveTLS(t, tls.VersionTLS11, tokenNamed)
	c := newTestClient(t, Config{TokenEndpoint: srv.URL, Method: TLSClientAuth, Certificate: files(t, ca.valid(t, "c")), RootCAs: ca.pool})
	token, err := c.ClientCredentials(t.Context())
	expect(t, mustFail(t, token, err), RetryLater, "tls")
}
