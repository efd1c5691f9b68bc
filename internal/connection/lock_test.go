package connection_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/connection"
	"github.com/caddyoauth/caddyoauth/internal/connection/storetest"
	"github.com/caddyoauth/caddyoauth/internal/oauth"
	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// lease is how long a lock is waited for under the default policy.
const lease = 2 * connection.DefaultTimeout

func TestDeadHolderWithoutIntentIsTakenOver(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := authorized(t, -time.Hour)
		i.store.Seize(alice, 1)
		i.refused(connection.StatusFailing, "timeout")
		later(lease)
		i.generation(2)
		is(t, "lock take-overs", i.Stats().TakeOvers.Load(), 1)
		is(t, "events of a take-over", i.told(connection.KindTakenOver), 1)
		i.called(1)
	})
}

func TestDeadHolderWithOldIntentIsTakenOver(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := authorized(t, -time.Hour)
		rec := record(-time.Hour)
		rec.Intent = &connection.Intent{Generation: 1, RefreshDigest: rec.Current.RefreshToken.Digest(), Nonce: "dead", At: time.Now()}
		i.store.Put(rec)
		i.store.Seize(alice, 1)
		_, _ = i.Token(t.Context(), i.set)
		later(lease)
		i.generation(2)
		is(t, "lock take-overs", i.Stats().TakeOvers.Load(), 1)
		is(t, "exchanges that were repeated", i.told(connection.KindRepeated), 1)
		is(t, "refresh token sent", i.server.last().refresh, "refresh-0")
	})
}

func TestLiveHolderIsWaitedFor(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := authorized(t, -time.Hour)
		i.store.Seize(alice, 1)
		_, _ = i.Token(t.Context(), i.set)
		rec := record(-time.Hour)
		rec.Intent = &connection.Intent{Generation: 1, RefreshDigest: rec.Current.RefreshToken.Digest(), Nonce: "alive", At: time.Now()}
		i.store.Put(rec) // the holder asks now
		later(lease - connection.DefaultTimeout - time.Second)
		i.refused(connection.StatusFailing, "busy")
		i.called(0)
		is(t, "lock take-overs", i.Stats().TakeOvers.Load(), 0)
	})
}

func TestGenerationOfADeadHolderIsAdopted(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := authorized(t, -time.Hour)
		i.store.Seize(alice, 1)
		_, _ = i.Token(t.Context(), i.set)
		next := record(time.Hour)
		next.Current.Generation = 2
		i.store.Put(next) // saved, but the lock was never released
		later(lease)
		i.generation(2)
		i.called(0)
		is(t, "adoptions", i.Stats().Adoptions.Load(), 1)
		is(t, "lock take-overs", i.Stats().TakeOvers.Load(), 0)
	})
}

// watchedLock tells whether the context of a held lock ended before the lock was released.
type watchedLock struct {
	*storetest.Memory
	lapsed int
}

func (w *watchedLock) Lock(ctx context.Context, id connection.ID, generation uint64) (func() error, error) {
	unlock, err := w.Memory.Lock(ctx, id, generation)
	if err != nil {
		return nil, err
	}
	return func() error {
		if ctx.Err() != nil {
			w.lapsed++
		}
		return unlock()
	}, nil
}

// Redis storages renew the lease of a lock until the context that it was taken with ends.
func TestLeaseIsRenewedWhileTheLockIsHeld(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t)
		watched := &watchedLock{Memory: i.store}
		i.set.Store = watched
		i.server.delay = 14 * time.Second
		i.store.Change(func(f *storetest.Faults) { f.OnSave = failSecondSave(i) })
		_, _ = i.Token(t.Context(), i.set)
		later(5 * time.Minute)
		i.generation(1)
		is(t, "locks whose context ended while they were held", watched.lapsed, 0)
		is(t, "locks taken and released", i.store.Use().Locks == i.store.Use().Unlocks && i.store.Held() == 0, true)
	})
}

// failSecondSave lets the intent pass and the new token set fail for a minute, longer than the lock may be waited for.
func failSecondSave(i *instance) func(connection.Record) {
	return func(connection.Record) {
		i.store.Change(func(f *storetest.Faults) {
			f.OnSave = nil
			f.Save = &storetest.Fault{Err: errDown}
		})
		time.AfterFunc(time.Minute, func() { i.store.Change(func(f *storetest.Faults) { f.Save = nil }) })
	}
}

func TestUnlockErrorIsCounted(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t)
		i.store.Change(func(f *storetest.Faults) { f.Unlock = &storetest.Fault{Err: errDown} })
		i.generation(1)
		is(t, "locks lost", i.Stats().LocksLost.Load(), 1)
		is(t, "events of a lost lock", i.told(connection.KindLockLost), 1)
	})
}

func TestLockError(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t)
		i.store.Change(func(f *storetest.Faults) { f.Lock = &storetest.Fault{Err: errDown} })
		i.refused(connection.StatusFailing, "storage")
		i.called(0)
	})
}

// theirs is what another instance that got past the lock stored.
func theirs(generation uint64, issued time.Time) connection.Record {
	rec := record(time.Hour)
	rec.Current.Generation, rec.Current.AccessToken = generation, secret.New("access-theirs")
	rec.Current.RefreshToken, rec.Current.IssuedAt = secret.New("refresh-theirs"), issued
	return rec
}

// afterOurSave stores theirs right after the new token set was saved, between save and compare.
func afterOurSave(i *instance, rec connection.Record) {
	i.store.Change(func(f *storetest.Faults) {
		f.OnSave = func(saved connection.Record) {
			if saved.Current.Generation == 2 && !saved.Current.AccessToken.Equal(rec.Current.AccessToken) {
				i.store.Change(func(f *storetest.Faults) { f.OnSave = nil })
				i.store.Put(rec)
			}
		}
	})
}

func TestLostLockAfterTheSave(t *testing.T) {
	for name, c := range map[string]struct {
		generation uint64
		age        time.Duration
		theirsWins bool
	}{
		"a later generation wins":        {3, time.Minute, true},
		"the later of two wins":          {2, -time.Second, true},
		"the earlier of two is replaced": {2, time.Minute, false},
		"an older one is replaced":       {1, time.Hour, false},
	} {
		t.Run(name, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				i := authorized(t, -time.Hour)
				rec := theirs(c.generation, time.Now().Add(-c.age))
				afterOurSave(i, rec)
				p := i.token()
				is(t, "theirs was published", p.TokenSet().AccessToken.Equal(rec.Current.AccessToken), c.theirsWins)
				is(t, "the stored set is the published one", i.store.Get(alice).Current.AccessToken.Equal(p.TokenSet().AccessToken), true)
				is(t, "locks lost", i.Stats().LocksLost.Load(), 1)
			})
		})
	}
}

// duringOurExchange has another instance get past the lock while the token endpoint is asked.
func duringOurExchange(i *instance, rec connection.Record, err error) {
	i.server.answer = func(n int, x exchange) (*oauth.TokenResponse, error) {
		i.store.Put(rec)
		if err != nil {
			return nil, err
		}
		return i.server.token(n, x), nil
	}
}

func TestLostLockDuringTheExchange(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := authorized(t, -time.Hour)
		rec := theirs(3, time.Now())
		duringOurExchange(i, rec, nil)
		i.generation(3)
		is(t, "a later generation was kept", i.store.Get(alice).Current.RefreshToken.Equal(rec.Current.RefreshToken), true)
		is(t, "locks lost", i.Stats().LocksLost.Load(), 1)
	})
}

// A failure must not write the old refresh token over one that another instance got meanwhile.
func TestFailureDoesNotOverwriteALaterGeneration(t *testing.T) {
	for _, class := range []oauth.Class{oauth.RetryLater, oauth.Misconfigured, oauth.Revoked, oauth.UnknownOutcome, oauth.Unrecognized} {
		for name, left := range map[string]time.Duration{"usable": time.Hour, "expired": -time.Minute} {
			t.Run(class.String()+" "+name, func(t *testing.T) {
				virtual(t, func(t *testing.T) {
					i := authorized(t, -time.Hour)
					rec := theirs(2, time.Now())
					rec.Current.ExpiresAt = time.Now().Add(left)
					duringOurExchange(i, rec, &oauth.Error{Class: class, Code: "code"})
					if left > 0 {
						i.generation(2)
					} else {
						i.refused(connection.StatusFailing, "busy")
					}
					stored := i.store.Get(alice)
					is(t, "stored generation", stored.Current.Generation, 2)
					is(t, "stored status", stored.Status, connection.StatusActive)
					is(t, "refresh token kept", stored.Current.RefreshToken.Equal(rec.Current.RefreshToken), true)
				})
			})
		}
	}
}

// Both get the lock. The server has no rotation, so both exchanges succeed, and both processes end with one token set.
func TestLockThatExcludesNobody(t *testing.T) {
	virtual(t, func(t *testing.T) {
		a := newInstance(t)
		b := a.another()
		a.server.delay = time.Second
		a.store.Change(func(f *storetest.Faults) { f.NoExclusion, f.Latency = true, 10*time.Millisecond })
		storm(t, 10, a, b)
		synctest.Wait()
		is(t, "locks lost", a.Stats().LocksLost.Load()+b.Stats().LocksLost.Load() > 0, true)
		later(2 * time.Hour)
		storm(t, 10, a)
		later(time.Minute)
		storm(t, 10, b)
		is(t, "one token set in the end", a.token().TokenSet().AccessToken.Equal(b.token().TokenSet().AccessToken), true)
	})
}

// A storage that answers with what it held before must not make us send a refresh token that was used up.
func TestStaleReads(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := authorized(t, -time.Hour)
		for generation := range uint64(10) {
			i.generation(generation + 2)
			is(t, "refresh token sent again", i.server.last().refresh == "refresh-0", generation == 0)
			i.store.Change(func(f *storetest.Faults) { f.StaleLoads = 2 }) // the first load and the one under the lock
			later(2 * time.Hour)
		}
		seen := map[string]bool{}
		for _, x := range i.server.asked {
			is(t, "a refresh token was sent twice", seen[x.refresh], false)
			seen[x.refresh] = true
		}
	})
}

// The record may vanish or come back from a backup while a process runs; the count goes on, or it would never publish again.
func TestGenerationsDoNotGoBackwards(t *testing.T) {
	for name, change := range map[string]func(i *instance){
		"deleted":  func(i *instance) { i.store.Delete(alice) },
		"restored": func(i *instance) { i.store.Put(record(-time.Hour)) },
	} {
		t.Run(name, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				i := newInstance(t)
				for generation := range uint64(3) {
					i.generation(generation + 1)
					later(2 * time.Hour)
				}
				change(i)
				i.generation(4)
				is(t, "published generation", i.Snapshot().Generation, 4)
				is(t, "stored generation", i.store.Get(alice).Current.Generation, 4)
				i.called(4)
			})
		})
	}
}
