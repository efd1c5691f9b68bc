package envelope

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/caddyoauth/caddyoauth/internal/secret"
)

const (
	words   = "seeded words nobody knows"
	purpose = "associated data"
)

// newTestPassphrase derives as cheaply as is allowed.
func newTestPassphrase(t testing.TB, text string) *passphrase {
	t.Helper()
	kek, err := NewPassphrase(secret.New(text), MinIterations)
	if err != nil {
		t.Fatal(err)
	}
	return kek.(*passphrase)
}

func TestPassphraseBounds(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		text       string
		iterations int
		ok         bool
	}{
		"default":            {words, 0, true},
		"lowest":             {words, MinIterations, true},
		"highest":            {words, MaxIterations, true},
		"below the lowest":   {words, MinIterations - 1, false},
		"above the highest":  {words, MaxIterations + 1, false},
		"negative":           {words, -1, false},
		"twelve characters":  {"äöüäöüäöüäöü", 0, true},
		"eleven characters":  {"äöüäöüäöüäö", 0, false}, // of 22 bytes
		"nothing":            {"", 0, false},
		"one word of a file": {"seeded\n", 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			kek, err := NewPassphrase(secret.New(test.text), test.iterations)
			if (err == nil) != test.ok {
				t.Fatalf("got %v, want ok = %v", err, test.ok)
			}
			if err != nil {
				if test.text != "" && strings.Contains(err.Error(), strings.TrimSpace(test.text)) {
					t.Errorf("the error echoes the passphrase: %v", err)
				}
				return
			}
			if test.iterations == 0 && kek.(*passphrase).iterations != 600_000 {
				t.Errorf("the default is %d iterations", kek.(*passphrase).iterations)
			}
		})
	}
}

func TestPassphrase(t *testing.T) {
	t.Parallel()
	right, wrong := newTestPassphrase(t, words), newTestPassphrase(t, words+".")
	wrapped, err := right.Wrap(t.Context(), []byte("keyset"), []byte(purpose))
	if err != nil {
		t.Fatal(err)
	}
	again, err := right.Wrap(t.Context(), []byte("keyset"), []byte(purpose))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(wrapped[8:headerSize], again[8:headerSize]) {
		t.Error("two wrappings share a salt")
	}
	// Another number of iterations in the configuration must not lock anybody out.
	later := newTestPassphrase(t, words)
	later.iterations = DefaultIterations
	if got, err := later.Unwrap(t.Context(), wrapped, []byte(purpose)); err != nil || string(got) != "keyset" {
		t.Errorf("stored iterations are not used: %v", err)
	}
	if _, err := right.Unwrap(t.Context(), wrapped, []byte("another use")); !errors.Is(err, ErrWrongKey) {
		t.Errorf("another use: got %v", err)
	}
	if _, err := wrong.Unwrap(t.Context(), wrapped, []byte(purpose)); !errors.Is(err, ErrWrongKey) {
		t.Errorf("wrong passphrase: got %v", err)
	}
	if len(wrong.derived) != 0 {
		t.Error("a key that opened nothing is kept: hostile files could fill the memory")
	}
	flipped := bytes.Clone(wrapped)
	flipped[7] ^= 1 // the iterations, still within their bounds
	if _, err := right.Unwrap(t.Context(), flipped, []byte(purpose)); !errors.Is(err, ErrWrongKey) {
		t.Errorf("changed header: got %v", err)
	}
}

// TestPassphraseHeaderRefused runs on a canceled context: whoever gets past the header to a derivation gets that error.
func TestPassphraseHeaderRefused(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	whole := func(iterations uint32) []byte {
		header := binary.BigEndian.AppendUint32([]byte(passphraseMagic), iterations)
		return append(header, make([]byte, saltSize+nonceSize+tagSize)...)
	}
	for name, test := range map[string]struct {
		wrapped []byte
		want    error
	}{
		"nothing":                 {nil, ErrWrongKey},
		"wrapped by a key":        {append([]byte{tinkPrefix}, make([]byte, 80)...), ErrWrongKey},
		"magic only":              {[]byte(passphraseMagic), ErrMalformed},
		"cut short":               {whole(MinIterations)[:headerSize+nonceSize+tagSize-1], ErrMalformed},
		"no iterations":           {whole(0), ErrMalformed},
		"downgrade":               {whole(MinIterations - 1), ErrMalformed},
		"burning processor time":  {whole(MaxIterations + 1), ErrMalformed},
		"as many as can be asked": {whole(1<<32 - 1), ErrMalformed},
		"lowest, canceled":        {whole(MinIterations), context.Canceled},
		"highest, canceled":       {whole(MaxIterations), context.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := newTestPassphrase(t, words).Unwrap(ctx, test.wrapped, nil); !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}

// TestPassphraseCache: one salt is derived once, and the memory for it is bounded. A derivation under a canceled context
// fails, so what works there came from the cache.
func TestPassphraseCache(t *testing.T) {
	t.Parallel()
	kek := newTestPassphrase(t, words)
	wrapped, err := kek.Wrap(t.Context(), []byte("keyset"), nil)
	if err != nil {
		t.Fatal(err)
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			if _, err := kek.Unwrap(canceled, wrapped, nil); err != nil {
				t.Errorf("derived again: %v", err)
			}
		})
	}
	group.Wait()
	for i := range 3 * maxDerived {
		kek.remember([headerSize]byte{byte(i)}, nil)
		if len(kek.derived) > maxDerived {
			t.Fatalf("the cache holds %d keys", len(kek.derived))
		}
	}
}

// FuzzPassphraseHeader: whatever the bytes, nothing is derived outside the bounds.
func FuzzPassphraseHeader(f *testing.F) {
	f.Add([]byte(passphraseMagic))
	f.Add(append([]byte(passphraseMagic+"\x00\x01\x86\xa0"), make([]byte, 60)...))
	f.Add(append([]byte(passphraseMagic+"\xff\xff\xff\xff"), make([]byte, 60)...))
	f.Fuzz(func(t *testing.T, data []byte) {
		header, rest, err := splitHeader(data)
		if err != nil {
			if !errors.Is(err, ErrWrongKey) && !errors.Is(err, ErrMalformed) {
				t.Errorf("unexpected error: %v", err)
			}
			return
		}
		if n := iterationsOf(header); n < MinIterations || n > MaxIterations {
			t.Errorf("%d iterations accepted", n)
		}
		if !bytes.Equal(append(header[:], rest...), data) {
			t.Error("bytes were lost")
		}
	})
}
