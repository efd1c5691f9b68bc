package envelope

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/keyset"
)

// DataKey describes one key of a [KeyRing], without the key.
type DataKey struct {
	ID      uint32
	Created time.Time // zero if it is not known
	Primary bool      // seals; the others only open
	Next    bool      // is to seal as soon as all holders of the keyset know it
}

// catalog says about a keyset what may be known without opening it. It stands in the clear beside the keyset and is bound
// to it, so that it cannot be changed by itself. A keyset in which nothing has been changed since before there were catalogs
// has none. Field order is part of the format (see decode).
type catalog struct {
	Revision uint64         `json:"revision"` // counts the changes; a lower one comes from a backup
	Primary  uint32         `json:"primary"`
	Next     uint32         `json:"next,omitempty"` // the key that was added and does not seal yet
	Keys     []catalogEntry `json:"keys"`
	Retired  []uint32       `json:"retired,omitempty"` // removed on purpose: tells it from "lost"
}

type catalogEntry struct {
	ID      uint32    `json:"id"`
	Created time.Time `json:"created,omitzero"`
}

// maxRetired is how many removed keys a catalog remembers. An instance that slept through more rotations keeps a key that
// nothing uses any more, and the next rotation removes that again.
const maxRetired = 64

// created returns when a key was made, as far as the catalog knows.
func (c *catalog) created(id uint32) time.Time {
	if c != nil {
		for _, entry := range c.Keys {
			if entry.ID == id {
				return entry.Created
			}
		}
	}
	return time.Time{}
}

func (c *catalog) revision() uint64 {
	if c == nil {
		return 0
	}
	return c.Revision
}

func (c *catalog) retired() []uint32 {
	if c == nil {
		return nil
	}
	return c.Retired
}

// describes reports whether the catalog says of the keyset what is in it.
func (c *catalog) describes(r *KeyRing) bool {
	if c == nil {
		return true
	}
	ids := make([]uint32, 0, len(c.Keys))
	for _, entry := range c.Keys {
		ids = append(ids, entry.ID)
	}
	return c.Primary == r.primary && c.Revision > 0 && c.Next != r.primary && (c.Next == 0 || r.Holds(c.Next)) && slices.Equal(ids, r.order)
}

// KeyOf returns which data key an envelope was sealed with, as the envelope says. It opens nothing and proves nothing.
func KeyOf(envelope []byte) (uint32, error) {
	var s sealed
	if err := decode(envelope, &s); err != nil {
		return 0, err
	}
	if len(s.Ciphertext) < prefixSize || binary.BigEndian.Uint32(s.Ciphertext[1:]) != s.KeyID {
		return 0, fmt.Errorf("%w (it contradicts itself about its key)", ErrTampered)
	}
	return s.KeyID, nil
}

// Primary returns the id of the data key that seals.
func (r *KeyRing) Primary() uint32 { return r.primary }

// Holds reports whether the ring opens what that data key has sealed.
func (r *KeyRing) Holds(id uint32) bool {
	_, ok := r.ids[id]
	return ok
}

// Next returns the id of the data key that was added and does not seal yet; 0 when there is none.
func (r *KeyRing) Next() uint32 {
	if r.catalog == nil {
		return 0
	}
	return r.catalog.Next
}

// Revision counts the changes of the keyset.
func (r *KeyRing) Revision() uint64 { return r.catalog.revision() }

// Keys describes the data keys, in the order in which they came in.
func (r *KeyRing) Keys() []DataKey {
	keys := make([]DataKey, 0, len(r.order))
	for _, id := range r.order {
		keys = append(keys, DataKey{
			ID: id, Created: r.catalog.created(id), Primary: id == r.primary, Next: id == r.Next(),
		})
	}
	return keys
}

// Add returns a ring with one more data key, which opens and does not yet seal: other holders of the keyset have to learn it
// first.
func (r *KeyRing) Add(now time.Time) (*KeyRing, error) {
	for range 8 { // an id that was retired would look removed; to draw one even once takes 2^26 rotations
		manager := keyset.NewManagerFromHandle(r.handle)
		id, err := manager.Add(aead.AES256GCMKeyTemplate())
		if err != nil {
			return nil, fmt.Errorf("add data key: %w", err)
		}
		if !slices.Contains(r.catalog.retired(), id) {
			return r.changed(manager, catalog{Next: id, Keys: []catalogEntry{{id, now}}, Retired: r.catalog.retired()})
		}
	}
	return nil, errors.New("add data key: no free id was found")
}

// Promote returns a ring in which that data key seals.
func (r *KeyRing) Promote(id uint32) (*KeyRing, error) {
	manager := keyset.NewManagerFromHandle(r.handle)
	if err := manager.SetPrimary(id); err != nil {
		return nil, fmt.Errorf("promote data key %d: %w", id, err)
	}
	return r.changed(manager, catalog{Retired: r.catalog.retired()})
}

// Retire returns a ring without that data key. What it has sealed does not open any more.
func (r *KeyRing) Retire(id uint32) (*KeyRing, error) {
	manager := keyset.NewManagerFromHandle(r.handle)
	if err := manager.Delete(id); err != nil {
		return nil, fmt.Errorf("retire data key %d: %w", id, err)
	}
	retired := append(slices.Clone(r.catalog.retired()), id)
	return r.changed(manager, catalog{Next: r.Next(), Retired: retired[max(0, len(retired)-maxRetired):]})
}

// Merge compares the stored keyset with the ring that a running program has, and returns the one to go on with. changed says
// that it is neither the stored one nor just older, and has to be stored.
//
// A stored keyset may know more (another instance has changed it) or less (it came from a backup, or its writer had lost the
// lock). No key is given up unless a later revision says that it was retired, and the ring's own primary not even then: this
// program may have sealed with it a moment ago.
func (r *KeyRing) Merge(stored *KeyRing) (merged *KeyRing, changed bool, err error) {
	later := stored.Revision() > r.Revision()
	manager, next := keyset.NewManagerFromHandle(stored.handle), catalog{Next: stored.Next()}
	for i := range r.handle.Len() {
		entry, err := r.handle.Entry(i)
		if err != nil {
			return nil, false, fmt.Errorf("merge keysets: %w", err)
		}
		id := entry.KeyID()
		retired := later && id != r.primary && slices.Contains(stored.catalog.retired(), id)
		if !r.Holds(id) || stored.Holds(id) || retired {
			continue
		}
		if _, err := manager.AddKey(entry.Key()); err != nil {
			return nil, false, fmt.Errorf("merge keysets: %w", err)
		}
		next.Keys = append(next.Keys, catalogEntry{id, r.catalog.created(id)})
	}
	same := stored.Revision() == r.Revision() && slices.Equal(stored.order, r.order) && stored.primary == r.primary
	if len(next.Keys) == 0 && (later || same) {
		return stored, false, nil
	}
	if !later {
		if err := manager.SetPrimary(r.primary); err != nil {
			return nil, false, fmt.Errorf("merge keysets: %w", err)
		}
		next.Next = r.Next()
	}
	next.Revision = max(stored.Revision(), r.Revision())
	next.Retired = append(slices.Clone(r.catalog.retired()), stored.catalog.retired()...)
	merged, err = stored.changed(manager, next)
	return merged, true, err
}

// changed returns the ring of the manager's keyset as the next revision: of r, or of a later one that change names. change has
// the keys that are new, the next key and what was retired.
func (r *KeyRing) changed(manager *keyset.Manager, change catalog) (*KeyRing, error) {
	handle, err := manager.Handle()
	if err != nil {
		return nil, fmt.Errorf("change keyset: %w", err)
	}
	ring, err := newRing(handle, nil)
	if err != nil {
		return nil, fmt.Errorf("change keyset: %w", err)
	}
	next := &catalog{Revision: max(r.Revision(), change.Revision) + 1, Primary: ring.primary}
	if change.Next != ring.primary && ring.Holds(change.Next) {
		next.Next = change.Next
	}
	for _, id := range ring.order {
		made := change.created(id)
		if made.IsZero() {
			made = r.catalog.created(id)
		}
		next.Keys = append(next.Keys, catalogEntry{ID: id, Created: made.UTC().Truncate(time.Second)})
	}
	for _, id := range change.Retired {
		if !slices.Contains(ring.order, id) && !slices.Contains(next.Retired, id) {
			next.Retired = append(next.Retired, id)
		}
	}
	ring.catalog = next
	return ring, nil
}

// Inside is what a stored keyset says about itself without being opened: nothing of it is proven.
type Inside struct {
	KeyEncryptionKey string   // the id of the key that wraps it
	Revision         uint64   // 0 in a keyset without a catalog
	Primary          uint32   // 0 in a keyset without a catalog
	Keys             []uint32 // nil in a keyset without a catalog
}

// Look reads what a stored keyset says about itself.
func Look(wrapped []byte) (Inside, error) {
	var file wrappedKeyset
	if err := decode(wrapped, &file); err != nil {
		return Inside{}, fmt.Errorf("read keyset: %w", err)
	}
	inside := Inside{KeyEncryptionKey: file.KEK, Revision: file.Catalog.revision()}
	if file.Catalog != nil {
		inside.Primary = file.Catalog.Primary
		for _, entry := range file.Catalog.Keys {
			inside.Keys = append(inside.Keys, entry.ID)
		}
	}
	return inside, nil
}
