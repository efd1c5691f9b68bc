package storetest

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/connection"
)

// taken takes a lock that must be free.
func taken(t *testing.T, s connection.Store, id connection.ID, generation uint64) func() error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), long)
	t.Cleanup(cancel) // it lives as long as the lock
	unlock, err := s.Lock(ctx, id, generation)
	if err != nil {
		t.Fatalf("take a lock that should be free: %v", err)
	}
	return unlock
}

// refused tries to take a lock that must be held.
func refused(t *testing.T, s connection.Store, id connection.ID, generation uint64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), short)
	defer cancel()
	if _, err := s.Lock(ctx, id, generation); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("take a lock that is held: got %v, want the context's error", err)
	}
}

func released(t *testing.T, unlock func() error) {
	t.Helper()
	if err := unlock(); err != nil {
		t.Fatalf("release the lock: %v", err)
	}
}

func lockExcludes(t *testing.T, s connection.Store) {
	unlock := taken(t, s, someone, 1)
	refused(t, s, someone, 1)
	released(t, unlock)
	released(t, taken(t, s, someone, 1))
}

func lockNames(t *testing.T, s connection.Store) {
	defer released(t, taken(t, s, someone, 1))
	released(t, taken(t, s, someone, 2))
	released(t, taken(t, s, connection.ID{Tenant: someone.Tenant, Connection: someone.Connection, Subject: "bob"}, 1))
	refused(t, s, someone, 1)
}

// lockContention counts who is inside.
func lockContention(t *testing.T, s connection.Store) {
	const contenders = 3
	var inside, count atomic.Int32
	var wg sync.WaitGroup
	for range contenders {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), long)
			defer cancel()
			unlock, err := s.Lock(ctx, someone, 5)
			if err != nil {
				t.Errorf("take the lock: %v", err)
				return
			}
			if inside.Add(1) != 1 {
				t.Error("two hold the lock at once")
			}
			time.Sleep(time.Millisecond) // a chance for a second one to come in
			count.Add(1)
			inside.Add(-1)
			if err := unlock(); err != nil {
				t.Errorf("release the lock: %v", err)
			}
		})
	}
	wg.Wait()
	if count.Load() != contenders {
		t.Fatalf("%d of %d contenders had the lock", count.Load(), contenders)
	}
}

func lateUnlock(t *testing.T, s connection.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	unlock, err := s.Lock(ctx, someone, 1)
	if err != nil {
		t.Fatalf("take the lock: %v", err)
	}
	cancel()
	released(t, unlock)
	released(t, taken(t, s, someone, 1))
}
