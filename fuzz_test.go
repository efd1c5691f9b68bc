package caddyoauth

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyoauth/caddyoauth/internal/connection"
)

// FuzzCaddyfile: whatever the global option and the directive are given, they answer with a configuration that can be read
// back, or with an error.
func FuzzCaddyfile(f *testing.F) {
	goldens, err := filepath.Glob("testdata/adapt/*.caddyfiletest")
	if err != nil || len(goldens) == 0 {
		f.Fatal(err)
	}
	for _, golden := range goldens {
		raw, err := os.ReadFile(golden)
		if err != nil {
			f.Fatal(err)
		}
		text, _, _ := strings.Cut(string(raw), goldenSeparator)
		f.Add(text)
	}
	f.Add("{\noauth2_inject {\nconnection a {\ntls {\n")
	f.Add("a\noauth2_inject {\nreverse_proxy {\ntransport oauth2_inject {\nallow_hosts\n}\n}\n}")
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "import") || strings.Contains(text, "{$") {
			return // Caddy's own, and they read files
		}
		adapted, err := adaptText(text)
		if err != nil {
			return
		}
		var config struct {
			Apps struct {
				App *App `json:"oauth2_inject"`
			} `json:"apps"`
		}
		if err := json.Unmarshal(adapted, &config); err != nil {
			t.Fatalf("the adapted configuration does not read back: %v", err)
		}
		if config.Apps.App == nil {
			return
		}
		for name, conn := range config.Apps.App.Connections {
			if name == "" || conn == nil || conn.TokenEndpoint == "" && conn.Issuer == "" && conn.Provider == nil && conn.Grant != "implicit" || conn.ClientID == "" || strings.ContainsAny(name, "{}") {
				t.Errorf("connection %q was accepted", name)
			}
		}
	})
}

// FuzzDecodeRecord: a record that decodes is written back to one that decodes to the same. Nothing panics.
func FuzzDecodeRecord(f *testing.F) {
	for _, raw := range goldens(f, "records") {
		f.Add(raw)
	}
	f.Add([]byte(`{"version":1,"connection":"a","current":{"generation":1,"response":null}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		rec, err := decodeRecord(raw)
		if err != nil {
			return
		}
		plain, err := encodeRecord(rec)
		if err != nil {
			return // a year beyond 9999
		}
		again, err := decodeRecord(plain)
		if err != nil {
			t.Fatalf("what was written does not read back: %v", err)
		}
		if again.ID != rec.ID || again.Fingerprint != rec.Fingerprint || again.Status != rec.Status {
			t.Error("identity or status changed")
		}
		if rec.Current.Generation > 0 && (!again.Current.AccessToken.Equal(rec.Current.AccessToken) || !again.Current.RefreshToken.Equal(rec.Current.RefreshToken)) {
			t.Error("a token changed")
		}
	})
}

// FuzzStorageKeys: two IDs have the same keys only if they are the same, and no key leaves its place.
func FuzzStorageKeys(f *testing.F) {
	for _, text := range hostileTexts {
		f.Add(text, "api", "", "", "api", text)
		f.Add("", text+"a", "b", "", text, "ab")
	}
	f.Fuzz(func(t *testing.T, tenant, name, subject, otherTenant, otherName, otherSubject string) {
		one := connection.ID{Tenant: tenant, Connection: name, Subject: subject}
		other := connection.ID{Tenant: otherTenant, Connection: otherName, Subject: otherSubject}
		checkKeyShape(t, one, 1)
		checkKeyShape(t, other, 18446744073709551615)
		if same := one == other; (recordKey(one) == recordKey(other)) != same || (lockName(one, 1) == lockName(other, 1)) != same {
			t.Errorf("%+q and %+q run into each other", one, other)
		}
	})
}
