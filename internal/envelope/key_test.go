package envelope_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/caddyoauth/caddyoauth/internal/envelope"
	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// rawKey has bytes that differ between the two base64 alphabets.
var rawKey = bytes.Repeat([]byte{0xfb, 0xef, 0xbe, 0xff}, 8)

// TestKeySpellings: every spelling of one key is the same key.
func TestKeySpellings(t *testing.T) {
	t.Parallel()
	want, err := envelope.NewKey(secret.New(base64.StdEncoding.EncodeToString(rawKey)))
	if err != nil {
		t.Fatal(err)
	}
	_, wrapped := newRing(t, want)
	for name, text := range map[string]string{
		"standard":     base64.StdEncoding.EncodeToString(rawKey),
		"standard raw": base64.RawStdEncoding.EncodeToString(rawKey),
		"url":          base64.URLEncoding.EncodeToString(rawKey),
		"url raw":      base64.RawURLEncoding.EncodeToString(rawKey),
		"hex":          hex.EncodeToString(rawKey),
		"upper hex":    strings.ToUpper(hex.EncodeToString(rawKey)),
		"line break":   base64.StdEncoding.EncodeToString(rawKey) + "\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			kek, err := envelope.NewKey(secret.New(text))
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := openRing(t.Context(), wrapped, []envelope.KeyEncryptionKey{kek}); err != nil || kek.ID() != want.ID() {
				t.Errorf("another key, %s instead of %s: %v", kek.ID(), want.ID(), err)
			}
		})
	}
}

func TestKeyRefused(t *testing.T) {
	t.Parallel()
	encoded := base64.StdEncoding.EncodeToString(rawKey)
	for name, text := range map[string]string{
		"nothing":                     "",
		"white space":                 " \n",
		"words":                       "correct horse battery staple",
		"32 characters":               strings.Repeat("k", 32),
		"16 bytes":                    base64.StdEncoding.EncodeToString(rawKey[:16]),
		"31 bytes":                    base64.StdEncoding.EncodeToString(rawKey[:31]),
		"33 bytes":                    base64.StdEncoding.EncodeToString(append(bytes.Clone(rawKey), 0)),
		"63 hex digits":               hex.EncodeToString(rawKey)[1:],
		"64 digits, one not hex":      "g" + hex.EncodeToString(rawKey)[1:],
		"line break inside":           encoded[:20] + "\n" + encoded[20:],
		"43 characters, not a key":    strings.Repeat("b", 43),
		"alphabets mixed":             "-" + encoded[1:],
		"two keys":                    encoded + encoded,
		"with a trailing explanation": encoded + " # prod",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := envelope.NewKey(secret.New(text))
			if err == nil {
				t.Fatal("it was taken")
			}
			for part := range strings.FieldsSeq(text) {
				if strings.Contains(err.Error(), part) {
					t.Errorf("the error echoes the key: %v", err)
				}
			}
			if !strings.Contains(err.Error(), "32 bytes") {
				t.Errorf("the error does not say what is wanted: %v", err)
			}
		})
	}
}

func TestGenerateKey(t *testing.T) {
	t.Parallel()
	first, err := envelope.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	second, err := envelope.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	if first.Equal(second) {
		t.Error("two generated keys are the same")
	}
	if _, err := envelope.NewKey(first); err != nil {
		t.Errorf("NewKey refuses a generated key: %v", err)
	}
}

// TestKeyID: the id is stable for ever, differs between keys, and is not the start of a plain digest or of the key.
func TestKeyID(t *testing.T) {
	t.Parallel()
	if got := testKey(t, 1).ID(); got != "key:87480ba0" {
		t.Errorf("the id of a key has changed: %s", got)
	}
	if testKey(t, 1).ID() == testKey(t, 2).ID() {
		t.Error("two keys have one id")
	}
}

// TestKeyUnwrapRefuses: Unwrap sees bytes of other keys, of other programs, and of attackers.
func TestKeyUnwrapRefuses(t *testing.T) {
	t.Parallel()
	kek := testKey(t, 1)
	wrapped, err := kek.Wrap(t.Context(), record, place)
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(wrapped)
	flipped[30] ^= 1
	for name, test := range map[string]struct {
		wrapped, place []byte
		want           error
	}{
		"nothing":          {nil, place, envelope.ErrWrongKey},
		"another program":  {[]byte("vault:v1:abc"), place, envelope.ErrWrongKey},
		"prefix only":      {wrapped[:5], place, envelope.ErrMalformed},
		"less than a tag":  {wrapped[:32], place, envelope.ErrMalformed},
		"cut short":        {wrapped[:len(wrapped)-1], place, envelope.ErrTampered},
		"one bit":          {flipped, place, envelope.ErrTampered},
		"another use":      {wrapped, nil, envelope.ErrTampered},
		"as it was sealed": {wrapped, place, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := kek.Unwrap(t.Context(), test.wrapped, test.place); !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}

// TestNeverPrinted: a key that lands in a log line by accident shows nothing of itself.
func TestNeverPrinted(t *testing.T) {
	t.Parallel()
	kek, err := envelope.NewKey(secret.New(hex.EncodeToString(rawKey)))
	if err != nil {
		t.Fatal(err)
	}
	words, err := envelope.NewPassphrase(secret.New("seeded words nobody knows"), envelope.MinIterations)
	if err != nil {
		t.Fatal(err)
	}
	ring, _ := newRing(t, words) // leaves a derived key in the cache
	type holder struct{ kek, words, ring any }
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		for _, value := range []any{kek, words, ring, *ring, holder{kek, words, ring}} {
			fmt.Fprintf(&out, verb+"\n", value)
		}
	}
	for _, leak := range []string{
		"seeded", hex.EncodeToString([]byte("seeded")), hex.EncodeToString(rawKey[:4]), "251 239 190 255", "0xfb, 0xef", "[]byte{",
	} {
		if strings.Contains(out.String(), leak) {
			t.Errorf("printing shows %q", leak)
		}
	}
}
