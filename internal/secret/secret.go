// Package secret holds the one type that tokens, client secrets, codes, verifiers and keys travel in.
//
// It keeps a secret out of logs, errors, JSON and panics by construction: a [Text] cannot be printed and refuses to be
// marshalled. It does not protect memory, and it does not encrypt. It imports the standard library only.
package secret

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
)

// redacted is what every printing verb shows of a [Text].
const redacted = "[redacted]"

// ErrMarshal is returned when a [Text] is about to be encoded. An error, not a redaction: a redacting encoder would one
// day be called by the code that stores tokens, and would store the word instead of the token.
var ErrMarshal = errors.New("marshal secret: a secret leaves only through Reveal")

// Text is one secret string. The zero value is "no secret".
//
// The string stands behind a pointer because fmt may not call methods on unexported fields: a plain string in such a
// field is printed as it is, a pointer is printed as an address.
type Text struct{ p *string }

// New wraps s. The empty string gives the zero value.
func New(s string) Text {
	if s == "" {
		return Text{}
	}
	return Text{p: &s}
}

// Reveal returns the secret itself. It is the only way out; its call sites are listed in the guard test.
func (t Text) Reveal() string {
	if t.p == nil {
		return ""
	}
	return *t.p
}

// IsZero reports whether there is no secret.
func (t Text) IsZero() bool { return t.p == nil }

// Equal reports, in time that does not depend on the contents, whether both hold the same secret.
func (t Text) Equal(other Text) bool {
	return subtle.ConstantTimeCompare([]byte(t.Reveal()), []byte(other.Reveal())) == 1
}

// Digest returns the SHA-256 of the secret in lower-case hex, or "" for the zero value. It identifies a secret of high
// entropy without giving it away; it is not for passwords.
func (t Text) Digest() string {
	if t.p == nil {
		return ""
	}
	sum := sha256.Sum256([]byte(*t.p))
	return hex.EncodeToString(sum[:])
}

// String returns a constant.
func (Text) String() string { return redacted }

// GoString returns a constant, for %#v.
func (Text) GoString() string { return redacted }

// Format writes a constant for every verb.
func (Text) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue returns a constant, for log/slog.
func (Text) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText always fails with [ErrMarshal]; encoding/json and zap's reflection encoder call it.
func (Text) MarshalText() ([]byte, error) { return nil, ErrMarshal }

// MarshalBinary always fails with [ErrMarshal]; encoding/gob calls it.
func (Text) MarshalBinary() ([]byte, error) { return nil, ErrMarshal }

// Interface guards.
var (
	_ fmt.Formatter  = Text{}
	_ fmt.GoStringer = Text{}
	_ slog.LogValuer = Text{}
)
