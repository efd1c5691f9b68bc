package caddyoauth

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/connection"
	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// TestRecordGoldens reads what earlier versions stored. A file in testdata/records is never changed or removed: if this test
// fails, stored tokens have become unreadable.
func TestRecordGoldens(t *testing.T) {
	t.Parallel()
	want := map[string]connection.Record{"v1.json": fullRecord(), "v1-minimal.json": minimalRecord(), "v1-failing.json": failingRecord(), "v1-consent.json": consentRecord(), "v1-root.json": rootRecord(), "v1-ends.json": endsRecord(), "v1-origin.json": originRecord()}
	files := goldens(t, "records")
	if len(files) != len(want) {
		t.Fatalf("found %d goldens, know %d", len(files), len(want))
	}
	for file, raw := range files {
		rec, err := decodeRecord(raw)
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		if !sameRecord(rec, want[file]) {
			t.Errorf("%s: decodes to something else", file)
		}
		again, err := encodeRecord(rec)
		if err != nil {
			t.Errorf("%s: %v", file, err)
		}
		if string(again) != string(bytes.TrimSpace(raw)) {
			t.Errorf("%s: is written differently today:\n%s", file, again)
		}
	}
}

// goldens are the stored forms in a folder of testdata, by file name. There are some.
func goldens(tb testing.TB, folder string) map[string][]byte {
	tb.Helper()
	files, err := filepath.Glob("testdata/" + folder + "/*.json")
	if err != nil || len(files) == 0 {
		tb.Fatalf("there are no goldens of %s, %v", folder, err)
	}
	found := make(map[string][]byte)
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			tb.Fatal(err)
		}
		found[filepath.Base(file)] = raw
	}
	return found
}

func at2026(minute int) time.Time { return time.Date(2026, 3, 1, 12, minute, 0, 123456789, time.UTC) }

func fullRecord() connection.Record {
	return connection.Record{
		ID:          connection.ID{Tenant: "acme", Connection: "drive", Subject: "user@example.com"},
		Fingerprint: "00112233445566778899aabbccddeeff", Status: connection.StatusActive, UpdatedAt: at2026(3),
		Current: connection.TokenSet{
			Generation: 7, AccessToken: secret.New("access \"<&>\u2028é"), RefreshToken: secret.New("refresh"), TokenType: "Bearer",
			Scope: "a b", IssuedAt: at2026(1), ExpiresAt: at2026(59), Reason: connection.ReasonAhead, Nonce: "0123456789abcdef",
			Response: secret.New(`{"expires_in":3480,"instance_url":"https://x.example"}`),
		},
		Intent:  &connection.Intent{Generation: 7, RefreshDigest: "ab12", Nonce: "fedcba9876543210", At: at2026(2), Repeated: true},
		Failure: &connection.Failure{Code: "invalid_client", At: at2026(3), Attempts: 3},
	}
}

func consentRecord() connection.Record {
	rec := fullRecord()
	rec.Intent, rec.Failure, rec.Current.Reason, rec.Current.By = nil, nil, connection.ReasonAuthorized, "jane"
	rec.Current.Consent = &connection.Consent{
		Requested: []string{"a", "b"}, Fields: map[string]string{"region": "eu"}, Callback: map[string]string{"realmId": "4620816365"},
		AccountID: "u-17", Label: "Jane's Drive", Found: map[string]string{"xero_tenant_id": "70784a63"},
	}
	return rec
}

func rootRecord() connection.Record {
	rec := consentRecord()
	rec.Current.Root, rec.Current.RefreshExpiresAt = 5, at2026(90)
	return rec
}

func endsRecord() connection.Record {
	rec := rootRecord()
	rec.Current.RefreshIssuedAt, rec.Current.AuthorizedAt = at2026(1), at2026(0)
	return rec
}

func originRecord() connection.Record {
	rec := endsRecord()
	rec.Current.Consent.Origin = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
	return rec
}

func minimalRecord() connection.Record {
	return connection.Record{
		ID: connection.ID{Connection: "api"}, Fingerprint: "ffeeddccbbaa99887766554433221100", Status: connection.StatusPending, UpdatedAt: at2026(0),
	}
}

func failingRecord() connection.Record {
	rec := minimalRecord()
	rec.Status = connection.StatusFailing
	rec.Intent = &connection.Intent{Nonce: "0123456789abcdef", At: at2026(4)}
	rec.Failure = &connection.Failure{Code: "endpoint_down", At: at2026(5), Attempts: 1}
	return rec
}

// sameRecord compares two records with their secrets.
func sameRecord(a, b connection.Record) bool {
	for _, pair := range [][2]secret.Text{
		{a.Current.AccessToken, b.Current.AccessToken}, {a.Current.RefreshToken, b.Current.RefreshToken}, {a.Current.Response, b.Current.Response},
	} {
		if !pair[0].Equal(pair[1]) {
			return false
		}
	}
	for _, rec := range []*connection.Record{&a, &b} {
		rec.Current.AccessToken, rec.Current.RefreshToken, rec.Current.Response = secret.Text{}, secret.Text{}, secret.Text{}
	}
	return reflect.DeepEqual(a, b)
}

// TestRecordKeepsEveryField fills every field that a record has, so that a new one cannot be forgotten in the stored form.
func TestRecordKeepsEveryField(t *testing.T) {
	t.Parallel()
	rec := fullRecord()
	intent, failure := rec.Intent, rec.Failure
	rec = originRecord() // has what came after the first golden was written
	rec.Intent, rec.Failure = intent, failure
	for _, value := range []any{rec, rec.ID, rec.Current, *rec.Intent, *rec.Failure, *rec.Current.Consent} {
		fields := reflect.ValueOf(value)
		for i := range fields.NumField() {
			if fields.Field(i).IsZero() {
				t.Errorf("the sample leaves %s.%s empty", fields.Type(), fields.Type().Field(i).Name)
			}
		}
	}
	plain, err := encodeRecord(rec)
	if err != nil {
		t.Fatal(err)
	}
	back, err := decodeRecord(plain)
	if err != nil || !sameRecord(back, rec) {
		t.Errorf("a field was lost on the way (%v)", err)
	}
}

// TestDecodeRecordRefuses looks at what must not be taken for a record, and that no error repeats what was read.
func TestDecodeRecordRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ text, want string }{
		"newer version":   {`{"version":2,"connection":"seeded-secret"}`, "version 2 is unknown to this program, which knows 1"},
		"no version":      {`{"connection":"seeded-secret"}`, "version 0 is unknown"},
		"no JSON":         {`seeded-secret`, "not JSON"},
		"empty":           {``, "not JSON"},
		"truncated":       {`{"version":1,"connection":"seeded-secret"`, "not JSON"},
		"two values":      {`{"version":1,"connection":"a"}{"version":1}`, "not JSON"},
		"wrong type":      {`{"version":1,"connection":"a","current":"seeded-secret"}`, "wrong type"},
		"bad time":        {`{"version":1,"connection":"a","updated_at":"seeded-secret"}`, "wrong type"},
		"no connection":   {`{"version":1,"subject":"seeded-secret"}`, "names no connection"},
		"negative number": {`{"version":1,"connection":"a","current":{"generation":-1,"access_token":"seeded-secret"}}`, "wrong type"},
	} {
		_, err := decodeRecord([]byte(c.text))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		} else if strings.Contains(err.Error(), "seeded-secret") {
			t.Errorf("%s: the error repeats what was read", name)
		}
	}
	// Fields that a later program adds without a new version are not an error.
	if _, err := decodeRecord([]byte(`{"version":1,"connection":"a","updated_at":"2026-03-01T12:00:00Z","later":{"a":1}}`)); err != nil {
		t.Errorf("an additional field: %v", err)
	}
}

// TestRecordCannotBeMarshalledByAccident: only encodeRecord gets the tokens out.
func TestRecordCannotBeMarshalledByAccident(t *testing.T) {
	t.Parallel()
	if text, err := json.Marshal(fullRecord()); err == nil {
		t.Errorf("a record with tokens was marshalled to %d bytes", len(text))
	}
}
