//go:build integration

package browser

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/envelope"
	hidden "github.com/caddyoauth/caddyoauth/internal/secret"
)

// consentAges makes the consent behind a connection older than it is, as if its token had been refreshed all that time. No real server
// gives consents that end within the time of a test, and nobody is told of the end of shorter ones.
func (s *site) consentAges(t *testing.T, connection string, by time.Duration) {
	t.Helper()
	storage := filepath.Join(s.dir, "data", "caddy")
	read := func(name string) []byte {
		content, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return content
	}
	kek, err := envelope.NewPassphrase(hidden.New(passphrase), 0)
	if err != nil {
		t.Fatal(err)
	}
	ring, _, err := envelope.Open(t.Context(), read(filepath.Join(storage, "oauth2_inject", "keyset.json")), []envelope.KeyEncryptionKey{kek})
	if err != nil {
		t.Fatal(err)
	}
	records, err := filepath.Glob(filepath.Join(storage, "oauth2_inject", "tenants", "*", "connections", "*", "*", "current.json"))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(records, func(file string) bool {
		key, err := filepath.Rel(storage, file)
		if err != nil {
			t.Fatal(err)
		}
		bound := []byte(filepath.ToSlash(key)) // a record is sealed for its place
		plain, err := ring.Open(read(file), bound)
		if err != nil {
			t.Fatal(err)
		}
		older := aged(t, plain, connection, by)
		if older == nil {
			return false
		}
		sealed, err := ring.Seal(older, bound)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, sealed, 0o600); err != nil {
			t.Fatal(err)
		}
		return true
	}) {
		t.Fatalf("%s has no record", connection)
	}
}

// aged returns the record with an older consent; nil if it is another connection's.
func aged(t *testing.T, plain []byte, connection string, by time.Duration) []byte {
	t.Helper()
	var record map[string]any
	if err := json.Unmarshal(plain, &record); err != nil || record["connection"] != connection {
		return nil
	}
	current := record["current"].(map[string]any)
	for _, name := range []string{"authorized_at", "refresh_issued_at", "refresh_expires_at"} {
		at, err := time.Parse(time.RFC3339Nano, current[name].(string))
		if err != nil {
			t.Fatal(err)
		}
		current[name] = at.Add(-by)
	}
	older, err := json.Marshal(record)
	if err != nil {
		t.Fatal(err)
	}
	return older
}
