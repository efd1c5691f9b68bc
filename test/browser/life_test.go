//go:build integration

package browser

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/caddyoauth/caddyoauth/test/lab"
)

// TestWholeLife: connected in a browser, refreshed 200 times under concurrent load with a restart in between, withdrawn at the
// authorization server, and connected again. The server rotates its refresh tokens and ends a consent when one comes twice; it never
// has to.
func TestWholeLife(t *testing.T) {
	t.Parallel()
	s := startSite(t, func(s *site) string {
		return s.connection("drive", "token_endpoint "+s.op.TokenEndpoint(), secret, ofPerson, scopes, "refresh every_request")
	})
	jane := s.as(t, "jane")
	jane.connects("jane", "drive")
	s.load(t, "jane", 100)
	s.caddy.Stop(t)
	s.caddy = lab.StartCaddy(t, s.dir, s.global, s.sites())
	s.load(t, "jane", 200)
	stats := s.op.Stats(t)
	if refused := stats.Outcome(lab.ClientWeb, "400"); refused > 0 || stats.Events["grant.revoked"] > 0 || len(s.seen()) < 200 {
		t.Fatalf("%d tokens, %d refused refreshes, %d revoked consents: %+v", len(s.seen()), refused, stats.Events["grant.revoked"], stats.Errors)
	}

	s.op.Withdraw(t)
	if status := jane.open("/files"); status != http.StatusForbidden {
		t.Errorf("after the consent was withdrawn: status %d", status)
	}
	jane.reads("Connect drive to go on")
	jane.open("/connect")
	jane.reads("Needs you again", "The provider has ended this connection")
	jane.inspect("ended")
	if subjects := s.caddy.Status(t, "drive").Subjects; subjects["revoked"] != 1 {
		t.Errorf("the admin endpoint says %v", subjects)
	}
	jane.press("Reconnect drive")
	if status := jane.agrees("jane"); status != http.StatusOK || jane.at() != "/connect/done/drive" {
		t.Fatalf("connecting again ended with status %d at %s", status, jane.at())
	}
	if status := jane.open("/files"); status != http.StatusOK {
		t.Errorf("after connecting again: status %d", status)
	}
	kept, err := filepath.Glob(filepath.Join(s.dir, "data", "caddy", "oauth2_inject", "tenants", "*", "connections", "*", "*", "history", "*.json"))
	if err != nil || len(kept) != 10 {
		t.Errorf("%d generations are kept, %v", len(kept), err)
	}
	s.keepsSecrets(t, jane)
	s.caddy.Stop(t)
	s.caddy.KeepsSecrets(t, append(s.seen(), lab.Secret)...)
}

// load sends requests for somebody, eight at a time, until so many refreshes were answered.
func (s *site) load(t *testing.T, user string, refreshes int) {
	t.Helper()
	authority, err := os.ReadFile(s.op.CAFile())
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authority)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}, Timeout: patience}
	defer client.CloseIdleConnections()
	get := func() error {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+"/files", nil)
		if err != nil {
			return err
		}
		req.AddCookie(&http.Cookie{Name: "user", Value: user})
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("status %d", resp.StatusCode)
		}
		return nil
	}
	deadline := time.Now().Add(2 * time.Minute)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for len(s.seen()) < refreshes && time.Now().Before(deadline) {
				if err := get(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	if len(s.seen()) < refreshes {
		t.Fatalf("only %d tokens came to the API", len(s.seen()))
	}
}
