package envelope_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/caddyoauth/caddyoauth/internal/envelope"
)

// goldenRing opens with the key, which is cheap; the passphrase's own bytes have a fuzzer beside them.
func goldenRing(t testing.TB) *envelope.KeyRing {
	t.Helper()
	key, _ := goldenKEKs(t)
	ring, _, err := openRing(t.Context(), readGolden(t, "keyset-key.json"), []envelope.KeyEncryptionKey{key})
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

// expected reports whether err is one of the three errors callers branch on, and short enough for a log line whatever
// the input.
func expected(err error) bool {
	known := errors.Is(err, envelope.ErrMalformed) || errors.Is(err, envelope.ErrWrongKey) || errors.Is(err, envelope.ErrTampered)
	return known && len(err.Error()) < 800
}

// FuzzOpenSealed: no bytes but the sealed ones give a record, and that record is the sealed one.
func FuzzOpenSealed(f *testing.F) {
	ring := goldenRing(f)
	sealed := readGolden(f, "sealed.json")
	f.Add(sealed, place)
	f.Add(sealed, []byte(nil))
	f.Add(readGolden(f, "keyset-key.json"), place)
	f.Add(withCiphertext(f, sealed, func(c []byte) []byte { return c[:33] }), place)
	f.Add([]byte(`{"version":1,"cipher":"tink-aes256-gcm","key_id":1,"ciphertext":null}`), place)
	f.Add([]byte(`{"version":9}`), place)
	f.Fuzz(func(t *testing.T, data, associated []byte) {
		opened, err := ring.Open(data, associated)
		switch {
		case err == nil && (!bytes.Equal(opened, record) || !bytes.Equal(associated, place)):
			t.Error("a forged envelope opened")
		case err != nil && !expected(err):
			t.Errorf("unexpected error: %v", err)
		}
	})
}

// FuzzOpenWrapped: whatever opens is the golden keyset.
func FuzzOpenWrapped(f *testing.F) {
	key, _ := goldenKEKs(f)
	sealed := readGolden(f, "sealed.json")
	wrapped := readGolden(f, "keyset-key.json")
	f.Add(wrapped)
	f.Add(readGolden(f, "keyset-passphrase.json"))
	f.Add(readGolden(f, "keyset-catalog.json"))
	f.Add(sealed)
	other := readGolden(f, "sealed-catalog.json")
	f.Add(withKeyset(f, wrapped, func(k []byte) []byte { return k[:40] }))
	f.Add([]byte(`{"version":1,"key_encryption_key":"k","keyset":""}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		ring, primary, err := openRing(t.Context(), data, []envelope.KeyEncryptionKey{key})
		if err != nil {
			if ring != nil || primary || !expected(err) {
				t.Errorf("unexpected error: %v", err)
			}
			return
		}
		if !opens(t, ring, sealed) && !opens(t, ring, other) {
			t.Error("a forged keyset opened")
		}
	})
}
