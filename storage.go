package caddyoauth

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/caddyoauth/caddyoauth/internal/connection"
	"github.com/caddyoauth/caddyoauth/internal/envelope"
)

// How many superseded token sets are kept of each ID.
const (
	defaultHistory = 10
	maxHistory     = 1000
)

// unlockTimeout bounds the release of a storage lock, whose flight cannot end before it.
const unlockTimeout = 10 * time.Second

// recordStore keeps sealed records in Caddy's storage. It holds no state of its own.
type recordStore struct {
	storage certmagic.Storage
	keys    *keySource
	history int
}

// Load implements connection.Store.
func (s *recordStore) Load(ctx context.Context, id connection.ID) (connection.Record, error) {
	return s.load(ctx, recordKey(id), id)
}

func (s *recordStore) load(ctx context.Context, key string, id connection.ID) (connection.Record, error) {
	rec, err := s.open(ctx, key)
	if err != nil {
		return connection.Record{}, err
	}
	if rec.ID != id {
		return connection.Record{}, fmt.Errorf("%w: it belongs to another connection or subject", connection.ErrUnreadable)
	}
	return rec, nil
}

// open reads a record without knowing whose it is.
func (s *recordStore) open(ctx context.Context, key string) (connection.Record, error) {
	plain, err := s.unseal(ctx, key)
	if err != nil {
		return connection.Record{}, err
	}
	rec, err := decodeRecord(plain)
	if err != nil {
		return connection.Record{}, fmt.Errorf("%w: %w", connection.ErrUnreadable, err)
	}
	return rec, nil
}

// Save implements connection.Store.
func (s *recordStore) Save(ctx context.Context, rec connection.Record) error {
	return s.save(ctx, recordKey(rec.ID), rec)
}

func (s *recordStore) save(ctx context.Context, key string, rec connection.Record) error {
	plain, err := encodeRecord(rec)
	if err != nil {
		return fmt.Errorf("encode the record: %w", err)
	}
	return s.seal(ctx, key, plain)
}

// unseal is the reverse of seal. Its error is connection.ErrNotFound when nothing is stored there.
func (s *recordStore) unseal(ctx context.Context, key string) ([]byte, error) {
	for {
		sealed, err := s.storage.Load(ctx, key)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, connection.ErrNotFound
		}
		if err != nil {
			return nil, err
		}
		ring, err := s.keys.ring(ctx, s.storage)
		if err != nil {
			return nil, err
		}
		plain, err := ring.Open(sealed, []byte(key))
		if errors.Is(err, envelope.ErrWrongKey) && s.keys.learned(ctx, s.storage, ring) {
			continue // with the new keyset; the record too may be another one by now
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", connection.ErrUnreadable, err)
		}
		return plain, nil
	}
}

// put is the only place that writes to storage. What it is given is sealed already.
func put(ctx context.Context, storage certmagic.Storage, key string, sealed []byte) error {
	return storage.Store(ctx, key, sealed)
}

// Archive implements connection.Store.
func (s *recordStore) Archive(ctx context.Context, rec connection.Record) error {
	id := rec.ID
	if err := s.save(ctx, historyKey(id, rec.Current.Generation), rec); err != nil {
		return err
	}
	generations, err := s.generations(ctx, id)
	if err != nil {
		return err
	}
	for len(generations) > s.history {
		if err := s.remove(ctx, historyKey(id, generations[0])); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		generations = generations[1:]
	}
	return nil
}

// list returns the keys below one; none if it is not there. File storage says fs.ErrNotExist then, other storages return an empty list.
// But file storage also says so when a file vanishes while it walks, such as the temporary file of a write: what is there would seem
// to be gone. So it is asked again as long as there is something.
func (s *recordStore) list(ctx context.Context, key string, recursive bool) ([]string, error) {
	for i := 0; ; i++ {
		keys, err := s.storage.List(ctx, key, recursive)
		if !errors.Is(err, fs.ErrNotExist) {
			return keys, err
		}
		if _, gone := s.storage.Stat(ctx, key); errors.Is(gone, fs.ErrNotExist) {
			return nil, nil
		}
		if i == listRetries {
			return nil, err
		}
	}
}

// generations lists what is in the history, oldest first. File storage lists left-over temporary files as well.
func (s *recordStore) generations(ctx context.Context, id connection.ID) ([]uint64, error) {
	keys, err := s.list(ctx, historyDir(id), false)
	if err != nil {
		return nil, err
	}
	var generations []uint64
	for _, key := range keys {
		name, found := strings.CutSuffix(path.Base(key), recordsExt)
		if generation, err := strconv.ParseUint(name, 10, 64); found && err == nil {
			generations = append(generations, generation)
		}
	}
	slices.Sort(generations)
	return generations, nil
}

// A flight saves the new token set, and archives the one before it a moment later: in between that is nowhere.
const (
	archiveLooks  = 4                      // how often the history is read until it has the generation before the current one
	archivePause  = 250 * time.Millisecond // between two looks
	archiveWithin = 5 * time.Second        // how old a record is that nothing is archived beside any more; the gap will stay
)

// records returns everything that is kept of an ID, the current record at the end. What another instance removes meanwhile is
// left out.
func (s *recordStore) records(ctx context.Context, id connection.ID) ([]connection.Record, error) {
	for look := 1; ; look++ {
		all, err := s.look(ctx, id)
		if err != nil || look == archiveLooks || !moving(all, time.Now()) {
			return all, err
		}
		if !sleep(ctx, archivePause) {
			return nil, ctx.Err()
		}
	}
}

// look reads the current record first. If it is replaced meanwhile, the history has it, or what replaces it, as well.
func (s *recordStore) look(ctx context.Context, id connection.ID) ([]connection.Record, error) {
	current, err := s.Load(ctx, id)
	stored := err == nil
	if err != nil && !errors.Is(err, connection.ErrNotFound) {
		return nil, err
	}
	generations, err := s.generations(ctx, id)
	if err != nil {
		return nil, err
	}
	var all []connection.Record
	for _, generation := range generations {
		if stored && generation == current.Current.Generation {
			continue
		}
		rec, err := s.load(ctx, historyKey(id, generation), id)
		if errors.Is(err, connection.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, rec)
	}
	if stored {
		all = append(all, current)
	}
	return all, nil
}

// moving reports whether records may have been read in the middle of a change: the generation before the current one is missing, or
// one after it is there.
func moving(all []connection.Record, now time.Time) bool {
	last := len(all) - 1
	if last < 0 || now.Sub(all[last].UpdatedAt) > archiveWithin {
		return false
	}
	current := all[last].Current.Generation
	if last == 0 {
		return current > 1
	}
	before := all[last-1].Current.Generation
	return before > current || before+1 < current
}

// each visits the current records of a connection, of all subjects and of none, until the visitor returns an error. Their keys are
// digests, so each is opened to learn its subject. unreadable counts those that do not open.
func (s *recordStore) each(ctx context.Context, id connection.ID, visit func(connection.Record) error) (unreadable int, err error) {
	keys, err := s.list(ctx, connectionDir(id), true)
	if err != nil {
		return 0, err
	}
	for _, key := range keys {
		if path.Base(key) != recordFile {
			continue
		}
		rec, err := s.open(ctx, key)
		switch {
		case errors.Is(err, connection.ErrNotFound): // removed meanwhile
		case errors.Is(err, connection.ErrUnreadable), err == nil && recordKey(rec.ID) != key:
			unreadable++
		case err != nil:
			return unreadable, err
		default:
			if err := visit(rec); err != nil {
				return unreadable, err
			}
		}
	}
	return unreadable, nil
}

// forgetHistory removes the superseded token sets of an ID.
func (s *recordStore) forgetHistory(ctx context.Context, id connection.ID) error {
	generations, err := s.generations(ctx, id)
	if err != nil {
		return err
	}
	for _, generation := range generations {
		if err := s.remove(ctx, historyKey(id, generation)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Lock implements connection.Store.
func (s *recordStore) Lock(ctx context.Context, id connection.ID, generation uint64) (func() error, error) {
	name := lockName(id, generation)
	if err := s.storage.Lock(ctx, name); err != nil {
		return nil, err
	}
	return func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), unlockTimeout)
		defer cancel()
		return s.storage.Unlock(ctx, name)
	}, nil
}

// unreadableHint returns what an operator can do about a record or keyset that does not open; "" for other errors.
func unreadableHint(err error) string {
	switch {
	case errors.Is(err, envelope.ErrWrongKey):
		return "add the key that it was sealed with as a further `encryption` line; nothing was overwritten"
	case errors.Is(err, envelope.ErrTampered), errors.Is(err, envelope.ErrMalformed):
		return "the stored data was damaged or moved; restore it from a backup, or delete it to begin anew; nothing was overwritten"
	default:
		return ""
	}
}

// Interface guard.
var _ connection.Store = (*recordStore)(nil)
