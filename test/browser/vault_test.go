//go:build integration

package browser

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/envelope"
	hidden "github.com/caddyoauth/caddyoauth/internal/secret"
)

// vault opens what a site has sealed.
type vault struct {
	t       *testing.T
	storage string
	ring    *envelope.KeyRing
}

// vault opens the keyset once: a passphrase takes its time, on purpose.
func (s *site) vault(t *testing.T) *vault {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	v := &vault{t: t, storage: filepath.Join(s.dir, "data", "caddy"), ring: s.ring}
	if v.ring != nil {
		return v
	}
	kek, err := envelope.NewPassphrase(hidden.New(passphrase), 0)
	if err != nil {
		t.Fatal(err)
	}
	wrapped, err := os.ReadFile(filepath.Join(v.storage, "oauth2_inject", "keyset.json"))
	if err != nil {
		t.Fatal(err)
	}
	if v.ring, _, err = envelope.Open(context.Background(), wrapped, []envelope.KeyEncryptionKey{kek}); err != nil { // not the test's context: sites look back when they end
		t.Fatal(err)
	}
	s.ring = v.ring
	return v
}

// files are those of the storage that have such a path.
func (v *vault) files(pattern string) []string {
	v.t.Helper()
	files, err := filepath.Glob(filepath.Join(v.storage, "oauth2_inject", filepath.FromSlash(pattern)))
	if err != nil {
		v.t.Fatal(err)
	}
	return files
}

// place is what a file is sealed for: its storage key.
func (v *vault) place(file string) []byte {
	v.t.Helper()
	key, err := filepath.Rel(v.storage, file)
	if err != nil {
		v.t.Fatal(err)
	}
	return []byte(filepath.ToSlash(key))
}

// open reads what is stored there; nothing if it is gone.
func (v *vault) open(file string, into any) {
	v.t.Helper()
	sealed, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		v.t.Fatal(err)
	}
	plain, err := v.ring.Open(sealed, v.place(file))
	if err != nil {
		v.t.Fatal(err)
	}
	if err := json.Unmarshal(plain, into); err != nil {
		v.t.Fatal("what is stored is not JSON") // the error might show some of it
	}
}

func (v *vault) seal(file string, content any) {
	v.t.Helper()
	plain, err := json.Marshal(content)
	if err != nil {
		v.t.Fatal(err)
	}
	sealed, err := v.ring.Seal(plain, v.place(file))
	if err != nil {
		v.t.Fatal(err)
	}
	if err := os.WriteFile(file, sealed, 0o600); err != nil {
		v.t.Fatal(err)
	}
}

// consentAges makes the consent behind a connection older than it is, as if its token had been refreshed all that time. No real server
// gives consents that end within the time of a test, and nobody is told of the end of shorter ones.
func (s *site) consentAges(t *testing.T, connection string, by time.Duration) {
	t.Helper()
	v := s.vault(t)
	for _, file := range v.files("tenants/*/connections/*/*/current.json") {
		var record map[string]any
		if v.open(file, &record); record["connection"] != connection {
			continue
		}
		current := record["current"].(map[string]any)
		for _, name := range []string{"authorized_at", "refresh_issued_at", "refresh_expires_at"} {
			at, err := time.Parse(time.RFC3339Nano, current[name].(string))
			if err != nil {
				t.Fatal(err)
			}
			current[name] = at.Add(-by)
		}
		v.seal(file, record)
		return
	}
	t.Fatalf("%s has no record", connection)
}

// learn notes all that the storage keeps from everybody at this moment: tokens, also earlier ones, and what authorizations under way are
// proven with.
func (s *site) learn(t *testing.T) {
	t.Helper()
	v := s.vault(t)
	found := make(map[string]bool)
	for _, file := range append(v.files("tenants/*/connections/*/*/current.json"), v.files("tenants/*/connections/*/*/history/*.json")...) {
		var record struct {
			Current struct {
				AccessToken  string `json:"access_token"`
				RefreshToken string `json:"refresh_token"`
			} `json:"current"`
		}
		v.open(file, &record)
		found[record.Current.AccessToken], found[record.Current.RefreshToken] = true, true
	}
	for _, file := range v.files("tenants/*/pending/*.json") {
		var pending struct{ Verifier string }
		v.open(file, &pending)
		found[pending.Verifier] = true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for secret := range found {
		if secret != "" && !slices.Contains(s.known, secret) {
			s.known = append(s.known, secret)
		}
	}
}
