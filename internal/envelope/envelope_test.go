package envelope_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/caddyoauth/caddyoauth/internal/envelope"
)

var (
	record = []byte(`{"token":"seeded-token-51c0"}`)
	place  = []byte("tenants/a/connections/b/c/current.json")
)

// seal makes an envelope of record at place.
func seal(t testing.TB, ring *envelope.KeyRing) []byte {
	t.Helper()
	sealed, err := ring.Seal(record, place)
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}

func TestSealOpen(t *testing.T) {
	t.Parallel()
	ring, _ := newRing(t, testKey(t, 1))
	for name, plaintext := range map[string][]byte{
		"nothing": nil,
		"record":  record,
		"binary":  {0, 1, 2, 0xff, '\n'},
		"large":   bytes.Repeat([]byte("x"), 700_000),
	} {
		for _, associated := range [][]byte{nil, place} {
			sealed, err := ring.Seal(plaintext, associated)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			opened, err := ring.Open(sealed, associated)
			if err != nil || !bytes.Equal(opened, plaintext) {
				t.Errorf("%s: did not come back: %v", name, err)
			}
		}
	}
}

// TestSealedForm fixes the format: other tools may look at these fields.
func TestSealedForm(t *testing.T) {
	t.Parallel()
	ring, _ := newRing(t, testKey(t, 1))
	first, second := seal(t, ring), seal(t, ring)
	if bytes.Equal(first, second) {
		t.Error("sealing twice gave the same bytes: the nonce is reused")
	}
	if bytes.Contains(first, []byte("seeded")) || bytes.Contains(first, place) {
		t.Error("the envelope shows the record or its place")
	}
	var fields map[string]any
	if err := json.Unmarshal(first, &fields); err != nil {
		t.Fatal(err)
	}
	if len(fields) != 4 || fields["version"] != 1.0 || fields["cipher"] != "tink-aes256-gcm" ||
		fields["key_id"] != float64(keyID(t, first)) || fields["ciphertext"] == "" {
		t.Errorf("unexpected form: %v", fields)
	}
}

// TestSealTooLarge: what could not be opened again must not be sealed.
func TestSealTooLarge(t *testing.T) {
	t.Parallel()
	ring, _ := newRing(t, testKey(t, 1))
	if _, err := ring.Seal(make([]byte, envelope.MaxSize), nil); err == nil || errors.Is(err, envelope.ErrMalformed) {
		t.Errorf("got %v, want an error about the size", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	ring, _ := newRing(t, testKey(t, 1))
	other, _ := newRing(t, testKey(t, 1))
	sealed := seal(t, ring)
	id := fmt.Sprintf(`"key_id":%d`, keyID(t, sealed))
	otherID := fmt.Sprintf(`"key_id":%d`, keyID(t, sealed)^1)
	edit := func(old, replacement string) []byte {
		t.Helper()
		edited := strings.Replace(string(sealed), old, replacement, 1)
		if edited == string(sealed) {
			t.Fatalf("%q is not in the envelope", old)
		}
		return []byte(edited)
	}
	for name, test := range map[string]struct {
		sealed, place []byte
		want          error
	}{
		"another place":            {sealed, []byte("tenants/a/connections/b/d/current.json"), envelope.ErrTampered},
		"no place":                 {sealed, nil, envelope.ErrTampered},
		"another keyset":           {seal(t, other), place, envelope.ErrWrongKey},
		"one bit of the data":      {withCiphertext(t, sealed, func(c []byte) []byte { c[20] ^= 1; return c }), place, envelope.ErrTampered},
		"one bit of the tag":       {withCiphertext(t, sealed, func(c []byte) []byte { c[len(c)-1] ^= 1; return c }), place, envelope.ErrTampered},
		"key id in the ciphertext": {withCiphertext(t, sealed, func(c []byte) []byte { c[1] ^= 1; return c }), place, envelope.ErrTampered},
		"prefix of the ciphertext": {withCiphertext(t, sealed, func(c []byte) []byte { c[0] = 0; return c }), place, envelope.ErrTampered},
		"data cut short":           {withCiphertext(t, sealed, func(c []byte) []byte { return c[:len(c)-1] }), place, envelope.ErrTampered},
		"less than a tag":          {withCiphertext(t, sealed, func(c []byte) []byte { return c[:32] }), place, envelope.ErrMalformed},
		"no ciphertext":            {withCiphertext(t, sealed, func([]byte) []byte { return nil }), place, envelope.ErrMalformed},
		"key id in the header":     {edit(id, otherID), place, envelope.ErrTampered},
		"key id beyond 32 bits":    {edit(id, `"key_id":4294967296`), place, envelope.ErrMalformed},
		"empty":                    {nil, place, envelope.ErrMalformed},
		"not JSON":                 {[]byte("\x00\x01 whatever"), place, envelope.ErrMalformed},
		"JSON null":                {[]byte("null"), place, envelope.ErrMalformed},
		"plain record":             {record, place, envelope.ErrMalformed},
		"cut short":                {sealed[:len(sealed)-2], place, envelope.ErrMalformed},
		"trailing bytes":           {append(bytes.Clone(sealed), '}'), place, envelope.ErrMalformed},
		"two envelopes":            {append(bytes.Clone(sealed), sealed...), place, envelope.ErrMalformed},
		"unknown version":          {edit(`"version":1`, `"version":2`), place, envelope.ErrMalformed},
		"unknown cipher":           {edit("tink-aes256-gcm", "tink-aes128-gcm"), place, envelope.ErrMalformed},
		"unknown field":            {edit(`"version":1`, `"version":1,"extra":1`), place, envelope.ErrMalformed},
		"repeated field":           {edit(`"version":1`, `"version":1,"version":1`), place, envelope.ErrMalformed},
		"field in another case":    {edit(`"version"`, `"Version"`), place, envelope.ErrMalformed},
		"line break in base64":     {edit(`"ciphertext":"`, `"ciphertext":"\n`), place, envelope.ErrMalformed},
		"negative key id":          {edit(id, `"key_id":-1`), place, envelope.ErrMalformed},
		"larger than the bound":    {append(bytes.Clone(sealed), bytes.Repeat([]byte(" "), envelope.MaxSize)...), place, envelope.ErrMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			opened, err := ring.Open(test.sealed, test.place)
			if err == nil || opened != nil {
				t.Fatal("it opened")
			}
			if !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
			if strings.Contains(err.Error(), "seeded") {
				t.Errorf("the error shows the record: %v", err)
			}
		})
	}
}

// TestOpenForgivesWhiteSpace: an editor or a tool may indent a file or end it with a line break.
func TestOpenForgivesWhiteSpace(t *testing.T) {
	t.Parallel()
	ring, _ := newRing(t, testKey(t, 1))
	var indented bytes.Buffer
	if err := json.Indent(&indented, seal(t, ring), "", "  "); err != nil {
		t.Fatal(err)
	}
	indented.WriteByte('\n')
	if opened, err := ring.Open(indented.Bytes(), place); err != nil || !bytes.Equal(opened, record) {
		t.Errorf("got %v", err)
	}
}

// TestMalformedNamesTheVersion: after a downgrade the operator has to learn the one harmless cause.
func TestMalformedNamesTheVersion(t *testing.T) {
	t.Parallel()
	ring, _ := newRing(t, testKey(t, 1))
	_, err := ring.Open([]byte(`{"version":7,"new":true}`), place)
	if !errors.Is(err, envelope.ErrMalformed) || !strings.Contains(err.Error(), "version 7") {
		t.Errorf("got %v, want the version named", err)
	}
}

// TestConcurrentUse is for the race detector.
func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	kek := testKey(t, 1)
	ring, _ := newRing(t, kek)
	var group sync.WaitGroup
	for worker := range 8 {
		group.Go(func() {
			associated := fmt.Appendf(nil, "place %d", worker)
			for range 20 {
				sealed, err := ring.Seal(record, associated)
				if err != nil {
					t.Error(err)
					return
				}
				if opened, err := ring.Open(sealed, associated); err != nil || !bytes.Equal(opened, record) {
					t.Errorf("worker %d: %v", worker, err)
				}
			}
			if _, err := ring.Rewrap(t.Context(), kek); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
}

// stored is the test's own view of an envelope, so that the format is written down twice.
type stored struct {
	Version    int    `json:"version"`
	Cipher     string `json:"cipher"`
	KeyID      uint32 `json:"key_id"`
	Ciphertext []byte `json:"ciphertext"`
}

// keyID takes the id from the ciphertext, where Tink puts it after a 0x01.
func keyID(t testing.TB, sealed []byte) uint32 {
	t.Helper()
	var form stored
	if err := json.Unmarshal(sealed, &form); err != nil {
		t.Fatal(err)
	}
	return binary.BigEndian.Uint32(form.Ciphertext[1:])
}

// withCiphertext edits the bytes inside an envelope and leaves its form intact.
func withCiphertext(t testing.TB, sealed []byte, edit func([]byte) []byte) []byte {
	t.Helper()
	var form stored
	if err := json.Unmarshal(sealed, &form); err != nil {
		t.Fatal(err)
	}
	form.Ciphertext = edit(form.Ciphertext)
	edited, err := json.Marshal(form)
	if err != nil {
		t.Fatal(err)
	}
	return edited
}

func BenchmarkSeal(b *testing.B) {
	for _, size := range []int{256, 4096} {
		b.Run(fmt.Sprintf("%dB", size), func(b *testing.B) {
			ring, _ := newRing(b, testKey(b, 1))
			plaintext := make([]byte, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := ring.Seal(plaintext, place); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkOpen(b *testing.B) {
	for _, size := range []int{256, 4096} {
		b.Run(fmt.Sprintf("%dB", size), func(b *testing.B) {
			ring, _ := newRing(b, testKey(b, 1))
			sealed, err := ring.Seal(make([]byte, size), place)
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := ring.Open(sealed, place); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
