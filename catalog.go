package caddyoauth

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"sync"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/connection"
)

// How instances learn of what others made.
const (
	// defaultPoll is how often the index is read. It is one small file.
	defaultPoll = 2 * time.Second
	// fullScan is how often every entry is read, whatever the index says: a storage lock that failed may have cost the index a line.
	fullScan = 5 * time.Minute
	// changeTimeout bounds one change, the wait for the storage lock included.
	changeTimeout = 15 * time.Second
)

// What a change may end with, besides the errors of operations.
var (
	errNameTaken = errors.New("the name is taken")
	errRevision  = errors.New("it was changed meanwhile")
)

// catalog is what was made at run time, as this process knows it. It outlives configurations, so that a reload forgets nothing; the
// storage is the truth. Each entry has a record of its own. The index says which there are and in which revision: whoever polls
// reads that alone, and then only what has changed.
type catalog struct {
	turn chan struct{} // holds one token: who reads or writes storage; a channel, since it is held across I/O and must heed contexts

	index   []byte    // sealed, as it was last read; guarded by turn
	scanned time.Time // guarded by turn

	mu      sync.Mutex        // guards the fields below; never held across I/O
	entries map[string]*entry // by storage key
	version uint64            // counts what was learned; 0 = nothing was read yet
}

func newCatalog() *catalog {
	c := &catalog{turn: make(chan struct{}, 1), entries: make(map[string]*entry)}
	c.turn <- struct{}{}
	return c
}

// indexV1 is the stored form of the index: the revision of each entry, by the last part of its key.
type indexV1 struct {
	Version int                `json:"version"`
	Entries map[string]indexed `json:"entries"`
}

type indexed struct {
	ID       string `json:"id"`
	Revision uint64 `json:"revision"`
	Nonce    string `json:"nonce"`
}

func indexedOf(e *entry) indexed { return indexed{ID: e.ID, Revision: e.Revision, Nonce: e.Nonce} }

// all returns the entries, sorted by key, and the version that they are of.
func (c *catalog) all() ([]*entry, uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []*entry
	for _, key := range slices.Sorted(maps.Keys(c.entries)) {
		all = append(all, c.entries[key])
	}
	return all, c.version
}

// learn replaces what is known.
func (c *catalog) learn(change func(entries map[string]*entry)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	next := maps.Clone(c.entries)
	change(next)
	if c.version == 0 || !maps.Equal(next, c.entries) {
		c.entries = next
		c.version++
	}
}

// take waits for the turn; give gives it back.
func (c *catalog) take(ctx context.Context) error {
	select {
	case <-c.turn:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *catalog) give() { c.turn <- struct{}{} }

// sync reads what has changed in storage. An entry that cannot be read stays as it was known; the error says so, after all others
// were read.
func (c *catalog) sync(ctx context.Context, store *recordStore) error {
	if err := c.take(ctx); err != nil {
		return err
	}
	defer c.give()
	return c.catchUp(ctx, store, time.Since(c.scanned) >= fullScan)
}

// catchUp reads what has changed by what the index says, or everything if that is due. The caller has the turn.
func (c *catalog) catchUp(ctx context.Context, store *recordStore, due bool) error {
	sealed, err := store.storage.Load(ctx, indexKey)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if !due && bytes.Equal(sealed, c.index) {
		return nil
	}
	index, err := store.index(ctx)
	if err != nil {
		due = true // what there is can be told without the index
	}
	wanted, err := c.stale(ctx, store, index, due)
	if err != nil {
		return err
	}
	found, err := store.entriesAt(ctx, wanted)
	if err != nil && len(found) == 0 {
		return err // nothing could be read, which does not mean that there is nothing
	}
	c.learn(func(entries map[string]*entry) {
		for key, e := range found {
			if e == nil {
				delete(entries, key)
			} else if known := entries[key]; known == nil || indexedOf(known) != indexedOf(e) {
				entries[key] = e
			}
		}
	})
	if err != nil {
		return err
	}
	if c.index = sealed; due {
		c.scanned = time.Now()
	}
	return nil
}

// stale returns the keys to read: those whose line in the index differs from what is known, or all.
func (c *catalog) stale(ctx context.Context, store *recordStore, index map[string]indexed, all bool) ([]string, error) {
	c.mu.Lock()
	known := maps.Clone(c.entries)
	c.mu.Unlock()
	keys := make(map[string]bool)
	for key, line := range index {
		if e := known[key]; all || e == nil || indexedOf(e) != line {
			keys[key] = true
		}
	}
	for key := range known {
		if _, listed := index[key]; all || !listed {
			keys[key] = true // removed, or lost from the index: its record tells
		}
	}
	if all {
		listed, err := store.entryKeys(ctx)
		if err != nil {
			return nil, err
		}
		for _, key := range listed {
			keys[key] = true
		}
	}
	return slices.Sorted(maps.Keys(keys)), nil
}

// change replaces one entry: under the storage lock it is loaded again, changed, stored, and loaded once more, since a lock is not
// a fence. alter gets nil when there is none, and returns nil to remove it; it may look at all entries, which are those of this moment,
// so that a bound holds and what is in use stays, whichever instance is asked. The nonce, revision and times of what it returns are
// set here.
func (c *catalog) change(ctx context.Context, store *recordStore, key string, alter func(*entry) (*entry, error)) (*entry, error) {
	ctx, cancel := context.WithTimeout(ctx, changeTimeout)
	defer cancel()
	if err := c.take(ctx); err != nil {
		return nil, err
	}
	defer c.give()
	if err := store.storage.Lock(ctx, entryLock); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBusy, err)
	}
	defer func() { _ = store.storage.Unlock(context.WithoutCancel(ctx), entryLock) }()
	_ = c.catchUp(ctx, store, false) // what cannot be read stays as it was known; the entry itself is read below
	current, err := store.entry(ctx, key)
	if err != nil && !errors.Is(err, connection.ErrNotFound) {
		return nil, fmt.Errorf("%w: %w", ErrStorage, err)
	}
	next, err := alter(current)
	if err != nil {
		return nil, err
	}
	ctx = context.WithoutCancel(ctx) // from here on it is done, or half done
	if next != nil {
		next.stamp(current)
	}
	if err := store.putEntry(ctx, key, next); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrStorage, err)
	}
	stored, err := store.entry(ctx, key)
	switch {
	case errors.Is(err, connection.ErrNotFound) && next == nil:
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrStorage, err)
	case next == nil || indexedOf(stored) != indexedOf(next):
		return nil, errRevision // somebody else wrote meanwhile, although we held the lock
	}
	c.learn(func(entries map[string]*entry) {
		if entries[key] = next; next == nil {
			delete(entries, key)
		}
	})
	return next, store.putIndexed(ctx, key, next)
}

// indexError says that an entry was stored, and the index was not: other instances learn of it later.
type indexError struct{ err error }

func (e *indexError) Error() string { return "put it into the index: " + e.err.Error() }

func (e *indexError) Unwrap() error { return e.err }

// stamp sets what tells an entry from the one before.
func (e *entry) stamp(before *entry) {
	nonce := make([]byte, 8)
	_, _ = rand.Read(nonce) // never fails: crypto/rand aborts the program instead
	e.Nonce, e.UpdatedAt = hex.EncodeToString(nonce), time.Now().UTC()
	if before == nil {
		e.Revision, e.CreatedAt = 1, e.UpdatedAt
		return
	}
	e.ID, e.Revision, e.CreatedAt, e.CreatedBy = before.ID, before.Revision+1, before.CreatedAt, before.CreatedBy
}

// newID makes a random UUID (RFC 9562 section 5.4).
func newID() string {
	var id [16]byte
	_, _ = rand.Read(id[:])
	return formatID(id, 4)
}

// formatID writes 16 bytes as a UUID of that version.
func formatID(id [16]byte, version byte) string {
	id[6], id[8] = id[6]&0x0f|version<<4, id[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
}

// entry reads one entry.
func (s *recordStore) entry(ctx context.Context, key string) (*entry, error) {
	plain, err := s.unseal(ctx, key)
	if err != nil {
		return nil, err
	}
	e, err := decodeEntry(plain)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", connection.ErrUnreadable, err)
	}
	if entryKey(e.Tenant, e.Kind.space(), e.Name) != key {
		return nil, fmt.Errorf("%w: it belongs to another name", connection.ErrUnreadable)
	}
	return e, nil
}

// entriesAt reads many entries; nil for those that are not there.
func (s *recordStore) entriesAt(ctx context.Context, keys []string) (map[string]*entry, error) {
	found := make(map[string]*entry, len(keys))
	var failed []error
	for _, key := range keys {
		e, err := s.entry(ctx, key)
		if err != nil && !errors.Is(err, connection.ErrNotFound) {
			failed = append(failed, fmt.Errorf("read an entry: %w", err))
			continue
		}
		found[key] = e
	}
	return found, errors.Join(failed...)
}

// entryKeys lists what is stored, whatever the index says.
func (s *recordStore) entryKeys(ctx context.Context) ([]string, error) {
	listed, err := s.list(ctx, entryDir, false)
	if err != nil {
		return nil, err
	}
	var keys []string
	for _, key := range listed {
		if key = entryDir + "/" + path.Base(key); path.Ext(key) == recordsExt && key != indexKey {
			keys = append(keys, key)
		}
	}
	return keys, nil
}

// putEntry stores an entry, or removes it when there is none.
func (s *recordStore) putEntry(ctx context.Context, key string, e *entry) error {
	if e == nil {
		if err := s.remove(ctx, key); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	plain, err := encodeEntry(e)
	if err != nil {
		return fmt.Errorf("encode the entry: %w", err)
	}
	return s.seal(ctx, key, plain)
}

// index reads the index, by storage key.
func (s *recordStore) index(ctx context.Context) (map[string]indexed, error) {
	plain, err := s.unseal(ctx, indexKey)
	if errors.Is(err, connection.ErrNotFound) {
		return map[string]indexed{}, nil
	}
	if err != nil {
		return nil, err
	}
	var in indexV1
	if err := json.Unmarshal(plain, &in); err != nil || in.Version != 1 {
		return nil, fmt.Errorf("%w: the index is not of a known form", connection.ErrUnreadable)
	}
	lines := make(map[string]indexed, len(in.Entries))
	for name, line := range in.Entries {
		lines[entryDir+"/"+name] = line
	}
	return lines, nil
}

// putIndexed puts one entry's line into the index, or takes it out. The caller holds the storage lock. An index that cannot be
// read is begun anew: everybody reads all entries then.
func (s *recordStore) putIndexed(ctx context.Context, key string, e *entry) error {
	lines, err := s.index(ctx)
	if err != nil && !errors.Is(err, connection.ErrUnreadable) {
		return &indexError{err}
	}
	out := indexV1{Version: 1, Entries: make(map[string]indexed, len(lines)+1)}
	for other, line := range lines {
		out.Entries[path.Base(other)] = line
	}
	delete(out.Entries, path.Base(key))
	if e != nil {
		out.Entries[path.Base(key)] = indexedOf(e)
	}
	plain, err := json.Marshal(out)
	if err == nil {
		err = s.seal(ctx, indexKey, plain)
	}
	if err != nil {
		return &indexError{err}
	}
	return nil
}
