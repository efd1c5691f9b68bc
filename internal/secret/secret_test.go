package secret_test

import (
	"bytes"
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/caddyoauth/caddyoauth/internal/secret"
)

const seeded = "seeded-secret-7f3a"

type exported struct{ Token secret.Text }

type hidden struct{ token secret.Text }

// TestNeverPrinted walks every way in which Go code prints a value by accident.
func TestNeverPrinted(t *testing.T) {
	t.Parallel()
	text := secret.New(seeded)
	values := map[string]any{
		"value":            text,
		"pointer":          &text,
		"exported field":   exported{text},
		"unexported field": hidden{text},
		"pointer to both":  &hidden{text},
		"map":              map[string]secret.Text{"k": text},
		"map of hidden":    map[string]hidden{"k": {text}},
		"slice":            []any{text, hidden{text}},
		"error":            fmt.Errorf("wrap: %w", fmt.Errorf("token %v", text)),
	}
	for name, value := range values {
		var out bytes.Buffer
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d", "%T"} {
			fmt.Fprintf(&out, verb, value)
		}
		for _, handler := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
			slog.New(handler).Info("message", "key", value)
		}
		if encoded, err := json.Marshal(value); err == nil {
			out.Write(encoded)
		}
		if strings.Contains(out.String(), seeded) || strings.Contains(out.String(), fmt.Sprintf("%x", seeded)) {
			t.Errorf("%s: the secret was printed: %s", name, out.String())
		}
	}
}

// TestMarshalIsAnError: a redacting encoder would let the storage code write "[redacted]" in place of a token.
func TestMarshalIsAnError(t *testing.T) {
	t.Parallel()
	if _, err := json.Marshal(exported{secret.New(seeded)}); !errors.Is(err, secret.ErrMarshal) {
		t.Errorf("json: got %v, want ErrMarshal", err)
	}
	if err := gob.NewEncoder(&bytes.Buffer{}).Encode(exported{secret.New(seeded)}); !errors.Is(err, secret.ErrMarshal) {
		t.Errorf("gob: got %v, want ErrMarshal", err)
	}
}

func TestText(t *testing.T) {
	t.Parallel()
	a, b, none := secret.New("a"), secret.New("b"), secret.New("")
	switch {
	case a.Reveal() != "a" || none.Reveal() != "":
		t.Error("Reveal does not return what was put in")
	case a.IsZero() || !none.IsZero():
		t.Error("IsZero is wrong")
	case !a.Equal(secret.New("a")) || a.Equal(b) || a.Equal(none) || !none.Equal(secret.Text{}):
		t.Error("Equal is wrong")
	case len(a.Digest()) != 64 || a.Digest() == b.Digest() || none.Digest() != "":
		t.Error("Digest is wrong")
	}
}
