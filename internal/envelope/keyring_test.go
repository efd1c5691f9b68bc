package envelope_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/caddyoauth/caddyoauth/internal/envelope"
	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// testKey is a key of 32 times the same byte.
func testKey(t testing.TB, fill byte) envelope.KeyEncryptionKey {
	t.Helper()
	text := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{fill}, 32))
	kek, err := envelope.NewKey(secret.New(text))
	if err != nil {
		t.Fatal(err)
	}
	return kek
}

func newRing(t testing.TB, keks ...envelope.KeyEncryptionKey) (*envelope.KeyRing, []byte) {
	t.Helper()
	ring, wrapped, err := envelope.New(t.Context(), keks)
	if err != nil {
		t.Fatal(err)
	}
	return ring, wrapped
}

// openRing opens a keyset and reports whether the first key did it.
func openRing(ctx context.Context, wrapped []byte, keks []envelope.KeyEncryptionKey) (*envelope.KeyRing, bool, error) {
	ring, by, err := envelope.Open(ctx, wrapped, keks)
	return ring, by == 0, err
}

// errDown is what keyService answers while it is down.
var errDown = errors.New("key service is down")

// keyService stands for a guest module: it wraps with a key of its own under a URL-like id and fails on demand.
type keyService struct {
	envelope.KeyEncryptionKey
	id                   string
	wrapErr, unwrapErr   error
	unwrapped, plaintext []byte
	calls                int
}

func (s *keyService) ID() string { return s.id }

func (s *keyService) Wrap(ctx context.Context, plaintext, associatedData []byte) ([]byte, error) {
	if s.wrapErr != nil {
		return nil, s.wrapErr
	}
	if s.plaintext != nil { // a guest that wraps something else, or a keyset some other program made
		plaintext = s.plaintext
	}
	return s.KeyEncryptionKey.Wrap(ctx, plaintext, associatedData)
}

func (s *keyService) Unwrap(ctx context.Context, ciphertext, associatedData []byte) ([]byte, error) {
	s.calls++
	if s.unwrapErr != nil {
		return nil, s.unwrapErr
	}
	if s.unwrapped != nil {
		return s.unwrapped, nil
	}
	return s.KeyEncryptionKey.Unwrap(ctx, ciphertext, associatedData)
}

// TestSeveralKeys: the first wraps, all open.
func TestSeveralKeys(t *testing.T) {
	t.Parallel()
	a, b, c := testKey(t, 1), testKey(t, 2), testKey(t, 3)
	ring, wrapped := newRing(t, a, b)
	sealed := seal(t, ring)
	for name, test := range map[string]struct {
		keks    []envelope.KeyEncryptionKey
		primary bool
		want    error
	}{
		"alone":              {[]envelope.KeyEncryptionKey{a}, true, nil},
		"first":              {[]envelope.KeyEncryptionKey{a, b}, true, nil},
		"previous":           {[]envelope.KeyEncryptionKey{b, a}, false, nil},
		"last of three":      {[]envelope.KeyEncryptionKey{b, c, a}, false, nil},
		"second never wraps": {[]envelope.KeyEncryptionKey{b}, false, envelope.ErrWrongKey},
		"others":             {[]envelope.KeyEncryptionKey{c, b}, false, envelope.ErrWrongKey},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			opened, primary, err := openRing(t.Context(), wrapped, test.keks)
			if !errors.Is(err, test.want) || primary != test.primary {
				t.Fatalf("got primary %v, error %v; want %v, %v", primary, err, test.primary, test.want)
			}
			if err != nil {
				if !strings.Contains(err.Error(), a.ID()) {
					t.Errorf("the error does not name the key that is wanted, %s: %v", a.ID(), err)
				}
				return
			}
			if got, err := opened.Open(sealed, place); err != nil || !bytes.Equal(got, record) {
				t.Errorf("the opened ring does not open records: %v", err)
			}
		})
	}
}

// TestRewrap walks a change of keys: the new key first, the old one behind it, then the old one gone.
func TestRewrap(t *testing.T) {
	t.Parallel()
	before, after := testKey(t, 1), testKey(t, 2)
	ring, wrapped := newRing(t, before)
	sealed := seal(t, ring)

	ring, primary, err := openRing(t.Context(), wrapped, []envelope.KeyEncryptionKey{after, before})
	if err != nil || primary {
		t.Fatalf("got primary %v, %v", primary, err)
	}
	if wrapped, err = ring.Rewrap(t.Context(), after); err != nil {
		t.Fatal(err)
	}
	ring, primary, err = openRing(t.Context(), wrapped, []envelope.KeyEncryptionKey{after})
	if err != nil || !primary {
		t.Fatalf("got primary %v, %v", primary, err)
	}
	if got, err := ring.Open(sealed, place); err != nil || !bytes.Equal(got, record) {
		t.Errorf("a record sealed before the change does not open: %v", err)
	}
	if _, _, err := openRing(t.Context(), wrapped, []envelope.KeyEncryptionKey{before}); !errors.Is(err, envelope.ErrWrongKey) {
		t.Errorf("the old key still opens, or: %v", err)
	}
}

func TestOpenWrappedRefuses(t *testing.T) {
	t.Parallel()
	kek := testKey(t, 1)
	_, wrapped := newRing(t, kek)
	edit := func(old, replacement string) []byte {
		t.Helper()
		edited := strings.Replace(string(wrapped), old, replacement, 1)
		if edited == string(wrapped) {
			t.Fatalf("%q is not in the file", old)
		}
		return []byte(edited)
	}
	for name, test := range map[string]struct {
		wrapped []byte
		want    error
	}{
		"another id, right key": {edit(kek.ID(), "key:00000000"), nil}, // the id is a hint only
		"one bit":               {withKeyset(t, wrapped, func(k []byte) []byte { k[len(k)-1] ^= 1; return k }), envelope.ErrTampered},
		"key prefix":            {withKeyset(t, wrapped, func(k []byte) []byte { k[5] ^= 1; return k }), envelope.ErrWrongKey},
		"not protobuf":          {withKeyset(t, wrapped, func([]byte) []byte { return []byte{0xff, 0xff} }), envelope.ErrMalformed},
		"cut inside":            {withKeyset(t, wrapped, func(k []byte) []byte { return k[:len(k)/2] }), envelope.ErrMalformed},
		"no keyset":             {withKeyset(t, wrapped, func([]byte) []byte { return nil }), envelope.ErrMalformed},
		"unprintable id":        {edit(kek.ID(), `a\u001bb`), envelope.ErrMalformed},
		"no id":                 {edit(kek.ID(), ""), envelope.ErrMalformed},
		"long id":               {edit(kek.ID(), strings.Repeat("k", 257)), envelope.ErrMalformed},
		"empty":                 {nil, envelope.ErrMalformed},
		"cut short":             {wrapped[:len(wrapped)-1], envelope.ErrMalformed},
		"trailing bytes":        {append(bytes.Clone(wrapped), "{}"...), envelope.ErrMalformed},
		"unknown version":       {edit(`"version":1`, `"version":2`), envelope.ErrMalformed},
		"unknown field":         {edit(`"version":1`, `"version":1,"x":{}`), envelope.ErrMalformed},
		"repeated field":        {edit(`"version":1`, `"keyset":"","version":1`), envelope.ErrMalformed},
		"too large":             {append(bytes.Clone(wrapped), bytes.Repeat([]byte("\n"), envelope.MaxSize)...), envelope.ErrMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ring, _, err := openRing(t.Context(), test.wrapped, []envelope.KeyEncryptionKey{kek})
			if !errors.Is(err, test.want) || (ring == nil) == (err == nil) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}

// TestForeignKeys: what a key service answers is told apart from "wrong key", because only one of them is over by itself.
func TestForeignKeys(t *testing.T) {
	t.Parallel()
	const id = "kms://eu/keys/1?a=1&b=<2>"
	service := &keyService{KeyEncryptionKey: testKey(t, 9), id: id}
	_, wrapped := newRing(t, service)
	other, canceled := testKey(t, 1), context.Canceled
	_, wrappedByOther := newRing(t, other)
	if !bytes.Contains(wrapped, []byte(id)) {
		t.Errorf("the id is not written as it is: %s", wrapped)
	}
	down := func(err error) *keyService {
		return &keyService{KeyEncryptionKey: testKey(t, 9), id: id, unwrapErr: err}
	}
	for name, test := range map[string]struct {
		wrapped   []byte
		keks      []envelope.KeyEncryptionKey
		want, not error
	}{
		"up":                     {wrapped, []envelope.KeyEncryptionKey{other, service}, nil, nil},
		"down":                   {wrapped, []envelope.KeyEncryptionKey{other, down(errDown)}, errDown, envelope.ErrWrongKey},
		"canceled in the call":   {wrapped, []envelope.KeyEncryptionKey{down(canceled)}, canceled, envelope.ErrWrongKey},
		"says not mine":          {wrapped, []envelope.KeyEncryptionKey{down(envelope.ErrWrongKey)}, envelope.ErrWrongKey, nil},
		"down and not asked for": {wrappedByOther, []envelope.KeyEncryptionKey{down(errDown)}, envelope.ErrWrongKey, nil},
		"down, told as a remark": {wrappedByOther, []envelope.KeyEncryptionKey{down(errDown)}, errDown, nil},
		"down and not needed":    {wrappedByOther, []envelope.KeyEncryptionKey{down(errDown), other}, nil, nil},
		"answers nonsense": {
			wrapped, []envelope.KeyEncryptionKey{&keyService{id: id, unwrapped: []byte("nonsense")}}, envelope.ErrMalformed, nil,
		},
		"answers an empty keyset": {
			wrapped, []envelope.KeyEncryptionKey{&keyService{id: id, unwrapped: []byte{}}}, envelope.ErrMalformed, nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, _, err := openRing(t.Context(), test.wrapped, test.keks)
			if !errors.Is(err, test.want) || (test.not != nil && errors.Is(err, test.not)) {
				t.Errorf("got %v, want %v and not %v", err, test.want, test.not)
			}
		})
	}
}

// TestNamedKeyFirst: a key service is not called for a file that names another key at hand.
func TestNamedKeyFirst(t *testing.T) {
	t.Parallel()
	service := &keyService{KeyEncryptionKey: testKey(t, 9), id: "kms:1"}
	kek := testKey(t, 1)
	_, wrapped := newRing(t, kek)
	if _, primary, err := openRing(t.Context(), wrapped, []envelope.KeyEncryptionKey{service, kek}); err != nil || primary {
		t.Fatalf("got primary %v, %v", primary, err)
	}
	if service.calls != 0 {
		t.Errorf("the key the file does not name was asked %d times", service.calls)
	}
}

func TestCanceled(t *testing.T) {
	t.Parallel()
	_, wrapped := newRing(t, testKey(t, 1))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err := openRing(ctx, wrapped, []envelope.KeyEncryptionKey{testKey(t, 2)})
	if !errors.Is(err, context.Canceled) || errors.Is(err, envelope.ErrWrongKey) {
		t.Errorf("got %v, want canceled and nothing said about the key", err)
	}
}

// TestKeysRefused: what the configuration got wrong is not a state of the stored file.
func TestKeysRefused(t *testing.T) {
	t.Parallel()
	base := testKey(t, 9)
	_, wrapped := newRing(t, base)
	for name, keks := range map[string][]envelope.KeyEncryptionKey{
		"no key":          nil,
		"nil key":         {base, nil},
		"no id":           {&keyService{KeyEncryptionKey: base}, base},
		"id with a space": {base, &keyService{KeyEncryptionKey: base, id: "a b"}},
		"id not ASCII":    {base, &keyService{KeyEncryptionKey: base, id: "schlüssel"}},
		"id too long":     {base, &keyService{KeyEncryptionKey: base, id: strings.Repeat("k", 257)}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, _, err := envelope.New(t.Context(), keks); err == nil {
				t.Error("New takes it")
			}
			_, _, err := openRing(t.Context(), wrapped, keks)
			if err == nil || errors.Is(err, envelope.ErrWrongKey) || errors.Is(err, envelope.ErrMalformed) {
				t.Errorf("Open: got %v, want an error about the configuration", err)
			}
		})
	}
}

// TestWrapRefuses: a keyset nobody can open again must not be handed out.
func TestWrapRefuses(t *testing.T) {
	t.Parallel()
	base := testKey(t, 9)
	for name, test := range map[string]struct {
		kek  *keyService
		want error
	}{
		"cannot wrap":          {&keyService{KeyEncryptionKey: base, id: "a", wrapErr: errDown}, errDown},
		"cannot unwrap":        {&keyService{KeyEncryptionKey: base, id: "a", unwrapErr: errDown}, errDown},
		"wraps something else": {&keyService{KeyEncryptionKey: base, id: "a", plaintext: []byte("else")}, envelope.ErrMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ring, wrapped, err := envelope.New(t.Context(), []envelope.KeyEncryptionKey{test.kek})
			if ring != nil || wrapped != nil || !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}

// withKeyset edits the bytes inside a wrapped keyset and leaves all else as it is.
func withKeyset(t testing.TB, wrapped []byte, edit func([]byte) []byte) []byte {
	t.Helper()
	return withFile(t, wrapped, func(file *keysetFile) { file.Keyset = edit(file.Keyset) })
}

// keysetFile is the form of a wrapped keyset.
type keysetFile struct {
	Version int             `json:"version"`
	KEK     string          `json:"key_encryption_key"`
	Catalog json.RawMessage `json:"catalog,omitempty"`
	Keyset  []byte          `json:"keyset"`
}

func withFile(t testing.TB, wrapped []byte, edit func(*keysetFile)) []byte {
	t.Helper()
	var file keysetFile
	if err := json.Unmarshal(wrapped, &file); err != nil {
		t.Fatal(err)
	}
	edit(&file)
	edited, err := json.Marshal(file)
	if err != nil {
		t.Fatal(err)
	}
	return edited
}
