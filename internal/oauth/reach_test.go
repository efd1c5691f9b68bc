package oauth

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// TestReach: an address is judged after the name was resolved, and one that is refused gets not even a connection.
func TestReach(t *testing.T) {
	t.Parallel()
	accepted := make(chan struct{}, 10)
	addr := rawServer(t, func(net.Conn) { accepted <- struct{}{} })
	_, port, _ := net.SplitHostPort(addr)
	var asked []string
	refuse := func(to netip.AddrPort) error {
		asked = append(asked, to.Addr().Unmap().String())
		return errors.New("loopback")
	}
	for _, host := range []string{"127.0.0.1", "localhost", "[::ffff:127.0.0.1]"} {
		asked = nil
		c := newTestClient(t, Config{TokenEndpoint: "http://" + host + ":" + port, Reach: refuse})
		token, err := c.ClientCredentials(t.Context())
		expect(t, mustFail(t, token, err), Misconfigured, "address_not_allowed")
		if len(asked) == 0 || !strings.Contains(strings.Join(asked, " "), "127.0.0.1") {
			t.Errorf("%s: asked for %v", host, asked)
		}
	}
	if len(accepted) != 0 {
		t.Error("a connection was opened")
	}
	endpoint := serve(t, answer(http.StatusOK, "application/json", goodToken))
	if got := accessToken(t, newTestClient(t, Config{TokenEndpoint: endpoint, Reach: func(netip.AddrPort) error { return nil }})); got != "at-1" {
		t.Errorf("got %q", got)
	}
}

// TestCertificateInMemory: the pair works as from files, and what is wrong with one is said without showing it.
func TestCertificateInMemory(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	srv := ca.serveTLS(t, tls.VersionTLS13, tokenNamed)
	held := func(pair pemPair) *Certificate {
		return &Certificate{Chain: string(pair.cert), Key: secret.New(string(pair.key)), Name: "billing"}
	}
	good := ca.valid(t, "held")
	if got := accessToken(t, newTestClient(t, Config{TokenEndpoint: srv.URL, Method: TLSClientAuth, RootCAs: ca.pool, Certificate: held(good)})); got != "held" {
		t.Errorf("the server saw %q", got)
	}
	for code, pair := range map[string]pemPair{
		"certificate_mismatch":   {good.cert, ca.valid(t, "other").key},
		"certificate_expired":    ca.issue(t, "x", -2*time.Hour, -time.Hour),
		"certificate_unreadable": {[]byte("seeded"), good.key},
	} {
		_, err := held(pair).Load()
		var e *Error
		if !errors.As(err, &e) || e.Code != code || !strings.Contains(e.Error(), "billing") || strings.Contains(e.Error(), "seeded") {
			t.Errorf("got %v, want %s and the name", err, code)
		}
	}
}
