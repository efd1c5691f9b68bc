package caddyoauth

import (
	"context"
	"errors"
	"io/fs"
	"sync"

	"github.com/caddyserver/certmagic"
	"github.com/prometheus/client_golang/prometheus"
)

// meteredStorage is the storage of one configuration: it counts the operations that fail, and outlives its configuration.
//
// Requests go on after a reload has ended theirs, and many storage modules close their client then. So whatever begins after the end
// goes to the same storage as the configuration in use has it, and the end waits for what is under way, held locks among it: a lock
// can often be released only by the client that has it.
type meteredStorage struct {
	certmagic.Storage
	failures *prometheus.CounterVec // by operation
	next     func() *meteredStorage // who goes on after the end; nil = nobody

	mu    sync.Mutex // guards the fields below; never held across I/O
	ended bool
	uses  int                   // operations under way, and locks
	locks map[string][]heldLock // by name
	idle  chan struct{}         // closed when there are no more uses; nil when nobody waits
}

// heldLock is a lock with the storage that can release it.
type heldLock struct {
	at   certmagic.Storage
	done func()
}

// use returns the storage for one operation; done is called after it.
func (s *meteredStorage) use() (at certmagic.Storage, done func()) {
	s.mu.Lock()
	if s.ended && s.next != nil {
		s.mu.Unlock()
		if next := s.next(); next != nil && next != s {
			return next.use()
		}
		s.mu.Lock()
	}
	defer s.mu.Unlock()
	s.uses++
	return s.Storage, s.done
}

func (s *meteredStorage) done() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.uses--; s.uses == 0 && s.idle != nil {
		close(s.idle)
		s.idle = nil
	}
}

// end has everything that begins from now on go elsewhere, and waits for what is under way.
func (s *meteredStorage) end(ctx context.Context) error {
	s.mu.Lock()
	s.ended = true
	if s.uses == 0 {
		s.mu.Unlock()
		return nil
	}
	if s.idle == nil {
		s.idle = make(chan struct{})
	}
	idle := s.idle
	s.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// hasEnded reports whether end was called.
func (s *meteredStorage) hasEnded() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}

// storageOperations are those that are counted.
var storageOperations = []string{"store", "load", "delete", "list", "stat", "lock", "unlock"}

// count counts a failure. That nothing is stored is none, nor is a caller who has left.
func (s *meteredStorage) count(operation string, err error) error {
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, context.Canceled) {
		s.failures.WithLabelValues(operation).Inc()
	}
	return err
}

// Store implements certmagic.Storage.
func (s *meteredStorage) Store(ctx context.Context, key string, value []byte) error {
	at, done := s.use()
	defer done()
	return s.count("store", at.Store(ctx, key, value))
}

// Load implements certmagic.Storage.
func (s *meteredStorage) Load(ctx context.Context, key string) ([]byte, error) {
	at, done := s.use()
	defer done()
	value, err := at.Load(ctx, key)
	return value, s.count("load", err)
}

// Delete implements certmagic.Storage.
func (s *meteredStorage) Delete(ctx context.Context, key string) error {
	at, done := s.use()
	defer done()
	return s.count("delete", at.Delete(ctx, key))
}

// List implements certmagic.Storage.
func (s *meteredStorage) List(ctx context.Context, prefix string, recursive bool) ([]string, error) {
	at, done := s.use()
	defer done()
	keys, err := at.List(ctx, prefix, recursive)
	return keys, s.count("list", err)
}

// Stat implements certmagic.Storage.
func (s *meteredStorage) Stat(ctx context.Context, key string) (certmagic.KeyInfo, error) {
	at, done := s.use()
	defer done()
	info, err := at.Stat(ctx, key)
	return info, s.count("stat", err)
}

// Lock implements certmagic.Storage.
func (s *meteredStorage) Lock(ctx context.Context, name string) error {
	at, done := s.use()
	if err := s.count("lock", at.Lock(ctx, name)); err != nil {
		done()
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.locks == nil {
		s.locks = make(map[string][]heldLock)
	}
	s.locks[name] = append(s.locks[name], heldLock{at, done})
	return nil
}

// Unlock implements certmagic.Storage.
func (s *meteredStorage) Unlock(ctx context.Context, name string) error {
	s.mu.Lock()
	held := s.locks[name]
	var lock heldLock
	if last := len(held) - 1; last > 0 { // a lock is not a fence: two may hold it
		lock, s.locks[name] = held[last], held[:last]
	} else if last == 0 {
		lock = held[0]
		delete(s.locks, name)
	}
	s.mu.Unlock()
	if lock.at == nil {
		lock.at, lock.done = s.use()
	}
	defer lock.done()
	return s.count("unlock", lock.at.Unlock(ctx, name))
}

// Interface guard.
var _ certmagic.Storage = (*meteredStorage)(nil)
