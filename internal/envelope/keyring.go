package envelope

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/aead/aesgcm"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/tink"
)

// KeyRing is an opened data keyset. [New] and [Open] make one; the zero value does not work. It never changes and is safe
// for concurrent use.
type KeyRing struct {
	handle  *keyset.Handle
	aead    tink.AEAD
	primary uint32              // id of the key that seals
	ids     map[uint32]struct{} // ids of the keys that open
	order   []uint32            // ids of all keys, as the keyset has them
	catalog *catalog            // nil in a keyset from before there were catalogs
}

// wrappedKeyset is the stored form of a data keyset. Field order is part of the format (see decode).
type wrappedKeyset struct {
	Version int    `json:"version"`
	KEK     string `json:"key_encryption_key"` // ID of the key that opens it: a hint, not trusted
	// Catalog is bound to the keyset: it is part of the associated data.
	Catalog *catalog `json:"catalog,omitempty"`
	Keyset  []byte   `json:"keyset"` // Tink's EncryptedKeyset, binary
}

func (w *wrappedKeyset) version() int { return w.Version }

// purpose is the associated data of the keyset. The catalog is in it as a digest, because key services bound its length.
func (c *catalog) purpose() ([]byte, error) {
	if c == nil {
		return []byte(keysetDomain), nil
	}
	text, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encode catalog of the keyset: %w", err)
	}
	digest := sha256.Sum256(text)
	return bind(keysetDomain, digest[:]), nil
}

// New makes a fresh data keyset and wraps it with the first key. The caller stores wrapped before it seals anything with
// the ring: records outlive the process only if the keyset does.
func New(ctx context.Context, keks []KeyEncryptionKey) (ring *KeyRing, wrapped []byte, err error) {
	if err := checkKeys(keks); err != nil {
		return nil, nil, fmt.Errorf("create keyset: %w", err)
	}
	handle, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
	if err != nil {
		return nil, nil, fmt.Errorf("create keyset: %w", err)
	}
	first, err := newRing(handle, nil)
	if err != nil {
		return nil, nil, fmt.Errorf("create keyset: %w", err)
	}
	made := catalog{Keys: []catalogEntry{{first.primary, time.Now()}}}
	if ring, err = first.changed(keyset.NewManagerFromHandle(handle), made); err != nil {
		return nil, nil, fmt.Errorf("create keyset: %w", err)
	}
	if wrapped, err = ring.Rewrap(ctx, keks[0]); err != nil {
		return nil, nil, err
	}
	return ring, wrapped, nil
}

// Open unwraps a stored keyset: first with the keys the file names, then with all others. by says which of keks opened it; if
// that is not the first, the caller may [KeyRing.Rewrap] the keyset with the first and store the result.
//
// The error wraps [ErrMalformed], [ErrTampered] or [ErrWrongKey], or, when the key the file names could not be asked, what
// that key answered. It never leads to a new keyset by itself: that would orphan every record.
func Open(ctx context.Context, wrapped []byte, keks []KeyEncryptionKey) (ring *KeyRing, by int, err error) {
	if err := checkKeys(keks); err != nil {
		return nil, -1, fmt.Errorf("open keyset: %w", err)
	}
	var file wrappedKeyset
	if err := decode(wrapped, &file); err != nil {
		return nil, -1, fmt.Errorf("open keyset: %w", err)
	}
	if checkID(file.KEK) != nil || len(file.Keyset) == 0 {
		return nil, -1, fmt.Errorf("open keyset: %w (bad key id or no keyset)", ErrMalformed)
	}
	var tried failures
	for _, i := range namedFirst(keks, file.KEK) {
		if err := ctx.Err(); err != nil {
			return nil, -1, fmt.Errorf("open keyset: %w", err)
		}
		ring, err := unwrap(ctx, file, keks[i])
		if err == nil {
			return ring, i, nil
		}
		tried = append(tried, failure{keks[i].ID(), err})
	}
	return nil, -1, fmt.Errorf("open keyset wrapped by %q: %w", file.KEK, tried.verdict(file.KEK))
}

// Rewrap wraps the same data keyset with kek. Records stay as they are.
//
// What kek made is opened again before it is handed out: a key service that may encrypt but not decrypt is found now, not
// at the next start, when the only copy of the keyset is the one nobody can open.
func (r *KeyRing) Rewrap(ctx context.Context, kek KeyEncryptionKey) (wrapped []byte, err error) {
	if err := checkKeys([]KeyEncryptionKey{kek}); err != nil {
		return nil, fmt.Errorf("wrap keyset: %w", err)
	}
	purpose, err := r.catalog.purpose()
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	adapter := &kekAEAD{kek: kek}
	if err := r.handle.WriteWithContext(ctx, keyset.NewBinaryWriter(&out), adapter, purpose); err != nil {
		return nil, fmt.Errorf("wrap keyset with %q: %w", kek.ID(), adapter.cause(err))
	}
	file := wrappedKeyset{Version: formatVersion, KEK: kek.ID(), Catalog: r.catalog, Keyset: out.Bytes()}
	if _, err := unwrap(ctx, file, kek); err != nil {
		return nil, fmt.Errorf("check keyset just wrapped with %q, the key must be allowed to decrypt too: %w", kek.ID(), err)
	}
	if wrapped, err = encode(&file); err != nil {
		return nil, fmt.Errorf("wrap keyset with %q: %w", kek.ID(), err)
	}
	return wrapped, nil
}

// unwrap opens Tink's encrypted keyset with one key.
func unwrap(ctx context.Context, file wrappedKeyset, kek KeyEncryptionKey) (*KeyRing, error) {
	purpose, err := file.Catalog.purpose()
	if err != nil {
		return nil, err
	}
	adapter := &kekAEAD{kek: kek}
	handle, err := keyset.ReadWithContext(ctx, keyset.NewBinaryReader(bytes.NewReader(file.Keyset)), adapter, purpose)
	if err == nil {
		return newRing(handle, file.Catalog)
	}
	if adapter.err != nil {
		return nil, adapter.err
	}
	return nil, fmt.Errorf("%w (no Tink keyset inside)", ErrMalformed)
}

// newRing takes AES-256-GCM keys with Tink's prefix only. [KeyRing.Open] finds the key id in that prefix, and a keyset of
// other keys is not one this version wrote.
func newRing(handle *keyset.Handle, about *catalog) (*KeyRing, error) {
	ring := &KeyRing{handle: handle, catalog: about, ids: make(map[uint32]struct{})}
	for i := range handle.Len() {
		entry, err := handle.Entry(i)
		if err != nil {
			return nil, fmt.Errorf("read keyset: %w", err)
		}
		parameters, ok := entry.Key().Parameters().(*aesgcm.Parameters)
		if !ok || parameters.KeySizeInBytes() != keySize || parameters.Variant() != aesgcm.VariantTink {
			return nil, fmt.Errorf("%w (keyset holds a key that is not %s)", ErrMalformed, cipherName)
		}
		ring.order = append(ring.order, entry.KeyID())
		if entry.KeyStatus() == keyset.Enabled {
			ring.ids[entry.KeyID()] = struct{}{}
		}
		if entry.IsPrimary() {
			ring.primary = entry.KeyID()
		}
	}
	if !about.describes(ring) {
		return nil, fmt.Errorf("%w (its catalog is not that of the keyset)", ErrMalformed)
	}
	var err error
	if ring.aead, err = aead.New(handle); err != nil {
		return nil, fmt.Errorf("prepare keyset: %w", err)
	}
	return ring, nil
}

// namedFirst gives the order in which to try keks: those called id, then the rest, each in the given order. Several may
// share an ID (all passphrases do), and an ID may be wrong; it is a hint that saves calls and derivations.
func namedFirst(keks []KeyEncryptionKey, id string) []int {
	named, others := make([]int, 0, len(keks)), make([]int, 0, len(keks))
	for i, kek := range keks {
		if kek.ID() == id {
			named = append(named, i)
		} else {
			others = append(others, i)
		}
	}
	return append(named, others...)
}

// failure is what one key answered.
type failure struct {
	id  string
	err error
}

type failures []failure

// verdict makes one error of all answers. Damage that a key could tell from "not mine" comes first. Trouble of the very key
// the file names (a key service that is down) is passed on: it is not yet known whether the key is the wrong one. All else
// is [ErrWrongKey], with the trouble of other keys as a remark.
func (f failures) verdict(named string) error {
	var remark error
	for _, answer := range f {
		switch {
		case errors.Is(answer.err, ErrTampered), errors.Is(answer.err, ErrMalformed):
			return answer.err
		case errors.Is(answer.err, ErrWrongKey):
		case answer.id == named:
			return fmt.Errorf("ask key %q: %w", answer.id, answer.err)
		case remark == nil:
			remark = fmt.Errorf("ask key %q: %w", answer.id, answer.err)
		}
	}
	if remark != nil {
		return fmt.Errorf("%w (%w)", ErrWrongKey, remark)
	}
	return ErrWrongKey
}

// kekAEAD presents a [KeyEncryptionKey] to Tink for one call. Tink keeps only the text of an error, so err holds the
// error itself for errors.Is.
type kekAEAD struct {
	kek KeyEncryptionKey
	err error
}

func (a *kekAEAD) EncryptWithContext(ctx context.Context, plaintext, associatedData []byte) (ciphertext []byte, err error) {
	ciphertext, a.err = a.kek.Wrap(ctx, plaintext, associatedData)
	return ciphertext, a.err
}

func (a *kekAEAD) DecryptWithContext(ctx context.Context, ciphertext, associatedData []byte) (plaintext []byte, err error) {
	plaintext, a.err = a.kek.Unwrap(ctx, ciphertext, associatedData)
	return plaintext, a.err
}

// cause prefers the key's own error to Tink's text about it.
func (a *kekAEAD) cause(err error) error {
	if a.err != nil {
		return a.err
	}
	return err
}

// Interface guard.
var _ tink.AEADWithContext = (*kekAEAD)(nil)
