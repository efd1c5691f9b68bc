//go:build integration

package browser

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
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
	s.remembers(t, "jane", stats.Outcome(lab.ClientWeb, "200"))
	s.keepsSecrets(t, jane)
	s.caddy.Stop(t)
	s.caddy.KeepsSecrets(t, append(s.seen(), lab.Secret)...)
}

// remembers looks at the history of somebody who has connected again after more refreshes than are kept.
func (s *site) remembers(t *testing.T, user string, granted int) {
	t.Helper()
	out, notes, code := s.caddy.Command(t, "oauth2-inject", "--config", s.caddy.Config(), "history", "drive", "--subject", user, "--json")
	var versions []struct {
		Version            uint64
		Current            bool
		Status, Reason, By string
		Granted            []string  `json:"scopes_granted"`
		IssuedAt           time.Time `json:"issued_at"`
		ExpiresAt          time.Time `json:"expires_at"`
	}
	if err := json.Unmarshal([]byte(out), &versions); err != nil || code != 0 {
		t.Fatalf("history: exit code %d, %v\n%s", code, err, notes)
	}
	if len(versions) != 11 { // the current one, and the ten before it
		t.Fatalf("%d versions are kept: %s", len(versions), out)
	}
	now, consent, before := versions[0], versions[1], versions[2] // the request after connecting has replaced that token
	if !now.Current || now.Reason != "requested" || consent.Reason != "authorized" || consent.By != user || len(consent.Granted) == 0 {
		t.Errorf("the history begins with %+v and %+v", now, consent)
	}
	if before.Reason != "requested" || before.Version+1 != consent.Version || int(before.Version) != granted {
		t.Errorf("before the second consent there was %+v; %d exchanges were granted until then", before, granted)
	}
	for _, one := range versions {
		if one.IssuedAt.IsZero() || !one.ExpiresAt.After(one.IssuedAt) {
			t.Errorf("the history holds %+v", one)
		}
	}
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
