package envelope_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
	tinkpb "github.com/tink-crypto/tink-go/v2/proto/tink_go_proto"

	"github.com/caddyoauth/caddyoauth/internal/envelope"
)

// clearKeyset gives Tink's binary form of a keyset with one key per template. The last key seals, the first is disabled if
// there are more.
func clearKeyset(t testing.TB, templates ...*tinkpb.KeyTemplate) []byte {
	t.Helper()
	manager := keyset.NewManager()
	var ids []uint32
	for _, template := range templates {
		id, err := manager.Add(template)
		if err != nil {
			t.Fatal(err)
		}
		if err := manager.SetPrimary(id); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	if len(ids) > 1 {
		if err := manager.Disable(ids[0]); err != nil {
			t.Fatal(err)
		}
	}
	handle, err := manager.Handle()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := insecurecleartextkeyset.Write(handle, keyset.NewBinaryWriter(&out)); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// withoutCatalog gives a keyset in the form from before there were catalogs, which says nothing about what is inside.
func withoutCatalog(t testing.TB) (*envelope.KeyRing, []byte) {
	t.Helper()
	ring, wrapped, err := envelope.New(t.Context(), []envelope.KeyEncryptionKey{testKey(t, 9)})
	if err != nil {
		t.Fatal(err)
	}
	return ring, withFile(t, wrapped, func(file *keysetFile) { file.Catalog = nil })
}

// TestKeysetsFromElsewhere: a keyset may hold several keys, but only of the kind this version makes. The key id is looked
// for in Tink's prefix, which the other kinds lack.
func TestKeysetsFromElsewhere(t *testing.T) {
	t.Parallel()
	ours := aead.AES256GCMKeyTemplate()
	for name, test := range map[string]struct {
		templates []*tinkpb.KeyTemplate
		want      error
	}{
		"one key":         {[]*tinkpb.KeyTemplate{ours}, nil},
		"three keys":      {[]*tinkpb.KeyTemplate{ours, ours, ours}, nil},
		"shorter key":     {[]*tinkpb.KeyTemplate{aead.AES128GCMKeyTemplate()}, envelope.ErrMalformed},
		"no prefix":       {[]*tinkpb.KeyTemplate{aead.AES256GCMNoPrefixKeyTemplate()}, envelope.ErrMalformed},
		"another cipher":  {[]*tinkpb.KeyTemplate{aead.ChaCha20Poly1305KeyTemplate()}, envelope.ErrMalformed},
		"one of them bad": {[]*tinkpb.KeyTemplate{ours, aead.AES128GCMKeyTemplate(), ours}, envelope.ErrMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			service := &keyService{KeyEncryptionKey: testKey(t, 9), id: "a", unwrapped: clearKeyset(t, test.templates...)}
			other, wrapped := withoutCatalog(t)
			ring, _, err := openRing(t.Context(), wrapped, []envelope.KeyEncryptionKey{service})
			if !errors.Is(err, test.want) {
				t.Fatalf("got %v, want %v", err, test.want)
			}
			if err != nil {
				return
			}
			if _, err := ring.Open(seal(t, other), place); !errors.Is(err, envelope.ErrWrongKey) {
				t.Errorf("a record of another keyset: got %v", err)
			}
			if opened, err := ring.Open(seal(t, ring), place); err != nil || !bytes.Equal(opened, record) {
				t.Errorf("a record of its own: %v", err)
			}
		})
	}
}

// TestDataKeys: in a keyset of several keys each enabled one opens what it sealed, and a disabled one is not held.
func TestDataKeys(t *testing.T) {
	t.Parallel()
	open := func(data []byte) *envelope.KeyRing {
		t.Helper()
		service := &keyService{KeyEncryptionKey: testKey(t, 9), id: "a", unwrapped: data}
		_, wrapped := withoutCatalog(t)
		ring, _, err := openRing(t.Context(), wrapped, []envelope.KeyEncryptionKey{service})
		if err != nil {
			t.Fatal(err)
		}
		return ring
	}
	ours := aead.AES256GCMKeyTemplate()
	data := clearKeyset(t, ours, ours, ours)
	handle, err := insecurecleartextkeyset.Read(keyset.NewBinaryReader(bytes.NewReader(data)))
	if err != nil {
		t.Fatal(err)
	}
	now := open(data)
	for i, want := range []error{envelope.ErrWrongKey, nil, nil} { // the first is disabled now, and sealed before
		entry, err := handle.Entry(i)
		if err != nil {
			t.Fatal(err)
		}
		manager := keyset.NewManagerFromHandle(handle)
		if err := errors.Join(manager.Enable(entry.KeyID()), manager.SetPrimary(entry.KeyID())); err != nil {
			t.Fatal(err)
		}
		earlier, err := manager.Handle()
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := insecurecleartextkeyset.Write(earlier, keyset.NewBinaryWriter(&out)); err != nil {
			t.Fatal(err)
		}
		if _, err := now.Open(seal(t, open(out.Bytes())), place); !errors.Is(err, want) {
			t.Errorf("key %d: got %v, want %v", i, err, want)
		}
	}
}
