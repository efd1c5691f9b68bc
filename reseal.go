package caddyoauth

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"path"
	"strings"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/envelope"
)

const (
	// lockPatience is how long a writer waits for the lock of a record. What it has to write is newer than anything else, so it
	// then goes on without.
	lockPatience = 5 * time.Second
	// resealWindow is how long sealing anew may take from reading to writing. It is shorter than lockPatience and than the time
	// after which storages take a lock away from a holder that shows no sign of life: whoever was held up that long begins anew,
	// or it might write over what somebody else has written meanwhile.
	resealWindow = time.Second
	resealLock   = 2 * time.Second // how long the lock of a record is waited for, to seal it anew; file storage looks every second
	maxStuck     = 10              // how many records that cannot be sealed anew are named
	listRetries  = 20              // file storage fails to list a directory in which something is deleted meanwhile
)

// census says how many records each data key has sealed.
type census struct {
	at    time.Time
	total int
	byKey map[uint32]int
	stuck []string // storage keys of records that could not be sealed anew; they hold no user text
}

// errHeldUp means that sealing a record anew took too long to be written.
var errHeldUp = errors.New("seal the record anew: it was held up too long; it is tried again")

// seal stores bytes under a key. The associated data is that key: what is moved to another place, and with it to another
// connection, subject or tenant, does not open.
//
// A write that took long is followed by a look at the stored keyset: if the data key was removed from it meanwhile, it comes back.
func (s *recordStore) seal(ctx context.Context, key string, plain []byte) error {
	if !isRecord(key) {
		return fmt.Errorf("seal %s: it would not be found when the data key is replaced", key) // and would be lost with it
	}
	state, err := s.keys.state(ctx, s.storage, s.keys.rekeyPause()/3)
	if err != nil {
		return err
	}
	sealed, err := state.ring.Seal(plain, []byte(key))
	if err != nil {
		return err
	}
	if state.several() {
		defer s.lockRecord(ctx, key, lockPatience).unlock()
	}
	if err := put(ctx, s.storage, key, sealed); err != nil {
		return err
	}
	if _, err := s.keys.state(ctx, s.storage, s.keys.rekeyPause()*2/3); err != nil {
		return fmt.Errorf("look whether the data key is still there: %w", err)
	}
	return nil
}

// remove is the only place that deletes from storage. While records are sealed anew it takes the record's lock, or what is
// deleted might be written again.
func (s *recordStore) remove(ctx context.Context, key string) error {
	if state, err := s.keys.state(ctx, s.storage, s.keys.rekeyPause()/3); err != nil || state.several() {
		defer s.lockRecord(ctx, key, lockPatience).unlock()
	}
	return s.storage.Delete(ctx, key)
}

// recordHold is the lock under which what is stored under a key is replaced, with what is stored there.
type recordHold struct {
	held   bool      // false: the lock could not be had in time
	sealed []byte    // nil: nothing is stored
	at     time.Time // when that was looked at
	unlock func()
}

// lockRecord takes the lock of a record. Its name carries what is stored, for the same reason for which the name of a refresh's
// lock carries the generation: a lock that a killed process left behind can be kept alive for ever by another one. Who holds the
// lock of what is stored is the only one to replace it, so the names of any two who do are the same.
func (s *recordStore) lockRecord(ctx context.Context, key string, patience time.Duration) recordHold {
	lockCtx, cancel := context.WithTimeout(ctx, patience)
	none := recordHold{unlock: cancel}
	for {
		before, err := s.peek(lockCtx, key)
		if err != nil {
			return none
		}
		lock := recordLock(key, before)
		if err := s.storage.Lock(lockCtx, lock); err != nil {
			return none
		}
		unlock := func() { _ = s.storage.Unlock(context.WithoutCancel(ctx), lock) }
		at := time.Now()
		sealed, err := s.peek(lockCtx, key) // under the lock, the first thing is to load again
		if err == nil && bytes.Equal(sealed, before) {
			return recordHold{held: true, sealed: sealed, at: at, unlock: func() { unlock(); cancel() }}
		}
		unlock()
		if err != nil {
			return none
		}
	}
}

// peek returns what is stored under a key; nil when nothing is.
func (s *recordStore) peek(ctx context.Context, key string) ([]byte, error) {
	sealed, err := s.storage.Load(ctx, key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return sealed, err
}

// resealAll seals all that is stored with the primary key. It goes through the records in a random order, so that instances
// that do this at the same time share the work.
func (s *recordStore) resealAll(ctx context.Context, ring *envelope.KeyRing) (*census, error) {
	found, err := s.survey(ctx, func(key string, id uint32) (uint32, error) {
		if id == ring.Primary() || !ring.Holds(id) {
			return id, nil
		}
		return s.reseal(ctx, key, ring)
	})
	if err == nil {
		s.keys.counted.Store(found)
	}
	return found, err
}

// reseal seals one record with the primary key, and returns the key that it is sealed with afterwards.
func (s *recordStore) reseal(ctx context.Context, key string, ring *envelope.KeyRing) (uint32, error) {
	hold := s.lockRecord(ctx, key, resealLock)
	defer hold.unlock()
	switch {
	case !hold.held:
		return 0, errHeldUp
	case hold.sealed == nil:
		return 0, fs.ErrNotExist
	}
	id, err := envelope.KeyOf(hold.sealed)
	if err != nil || id == ring.Primary() {
		return id, err
	}
	plain, err := ring.Open(hold.sealed, []byte(key))
	if err != nil {
		return id, err
	}
	sealed, err := ring.Seal(plain, []byte(key))
	if err != nil {
		return id, err
	}
	if time.Since(hold.at) > resealWindow {
		return id, errHeldUp
	}
	return ring.Primary(), put(ctx, s.storage, key, sealed)
}

// survey looks at everything below the storage root, whatever it is, and counts by which data key it is sealed. visit may change
// that, and says what it is afterwards. Only what fails for the whole storage is an error.
func (s *recordStore) survey(ctx context.Context, visit func(key string, id uint32) (uint32, error)) (*census, error) {
	keys, err := s.list(ctx, storageRoot, true)
	if err != nil {
		return nil, fmt.Errorf("list all records: %w", err)
	}
	rand.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	found := &census{byKey: make(map[uint32]int)}
	for _, key := range keys {
		if !isRecord(key) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := s.count(ctx, found, key, visit); err != nil {
			return nil, err
		}
	}
	found.at = time.Now()
	return found, nil
}

// isRecord tells records from the keyset, from directories, and from what an interrupted write of file storage leaves behind.
func isRecord(key string) bool {
	return strings.HasPrefix(key, storageRoot+"/") && path.Ext(key) == recordsExt && key != keysetKey
}

// count adds one record to a census.
func (s *recordStore) count(ctx context.Context, found *census, key string, visit func(key string, id uint32) (uint32, error)) error {
	sealed, err := s.storage.Load(ctx, key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	id, err := envelope.KeyOf(sealed)
	if err != nil {
		return nil //nolint:nilerr // not one of ours, or damaged beyond being told apart from that
	}
	after, err := visit(key, id)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil // deleted meanwhile
	case err != nil && !errors.Is(err, errHeldUp) && !isUnreadable(err):
		return err
	case err != nil:
		if len(found.stuck) < maxStuck {
			found.stuck = append(found.stuck, key)
		}
		after = id
	}
	found.total++
	found.byKey[after]++
	return nil
}

// isUnreadable reports whether an error is about a sealed record itself.
func isUnreadable(err error) bool {
	return errors.Is(err, envelope.ErrWrongKey) || errors.Is(err, envelope.ErrTampered) || errors.Is(err, envelope.ErrMalformed)
}
