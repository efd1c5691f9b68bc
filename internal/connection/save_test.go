package connection_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/connection"
	"github.com/caddyoauth/caddyoauth/internal/connection/storetest"
	"github.com/caddyoauth/caddyoauth/internal/oauth"
)

func TestIntentIsWrittenBeforeAsking(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := authorized(t, -time.Hour)
		var intent *connection.Intent
		i.server.answer = func(n int, x exchange) (*oauth.TokenResponse, error) {
			intent = i.store.Get(alice).Intent
			return i.server.token(n, x), nil
		}
		i.token()
		if intent == nil {
			t.Fatal("the token endpoint was asked before the intent was stored")
		}
		old := record(0)
		is(t, "intent's generation", intent.Generation, 1)
		is(t, "intent's digest", intent.RefreshDigest, old.Current.RefreshToken.Digest())
		is(t, "intent's process", intent.Nonce, "process-1")
		is(t, "intent after success", i.store.Get(alice).Intent, nil)
	})
}

func TestNothingIsSentWhenTheIntentCannotBeWritten(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := authorized(t, -time.Hour)
		i.store.Change(func(f *storetest.Faults) { f.Save = &storetest.Fault{Err: errDown} })
		i.refused(connection.StatusFailing, "storage")
		is(t, "requests without a token", i.traffic(time.Hour, time.Second), 3600)
		i.called(0)
		is(t, "locks held", i.store.Held(), 0)
		is(t, "storage errors", i.Stats().StorageErrors.Load() > 0, true)
		i.store.Change(func(f *storetest.Faults) { f.Save = nil })
		later(5 * time.Minute)
		i.generation(2)
		is(t, "recoveries", i.told(connection.KindRecovered), 1)
	})
}

// The store has the new token set at the moment a waiter gets it.
func TestSaveBeforePublish(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := authorized(t, -time.Hour)
		i.store.Change(func(f *storetest.Faults) { f.Latency = 50 * time.Millisecond })
		i.store.Change(func(f *storetest.Faults) {
			f.OnSave = func(rec connection.Record) {
				if p := i.Current(); rec.Current.Generation == 2 && p != nil && p.Generation() == 2 {
					t.Error("a token set was published before it was saved")
				}
			}
		})
		p := i.generation(2)
		is(t, "the stored set is the published one", i.store.Get(alice).Current.AccessToken.Equal(p.TokenSet().AccessToken), true)
		generations, _ := i.store.History(t.Context(), alice)
		is(t, "history", fmt.Sprint(generations), "[1]")
	})
}

// outage lets the intent pass and then fails every save until it is taken away.
func outage(i *instance) {
	i.store.Change(func(f *storetest.Faults) {
		f.OnSave = func(connection.Record) {
			i.store.Change(func(f *storetest.Faults) { f.OnSave, f.Save = nil, &storetest.Fault{Err: errDown} })
		}
	})
}

func TestSaveThatFailsForAWhile(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := authorized(t, -time.Hour)
		outage(i)
		time.AfterFunc(2*time.Second, func() { i.store.Change(func(f *storetest.Faults) { f.Save = nil }) })
		began := time.Now()
		i.generation(2)
		if took := time.Since(began); took < 2*time.Second || took >= connection.DefaultUnsavedAfter {
			t.Fatalf("the token was held back for %v", took)
		}
		is(t, "tokens served unsaved", i.told(connection.KindUnsaved), 0)
		is(t, "stored generation", i.store.Get(alice).Current.Generation, 2)
	})
}

func TestSaveThatFailsLong(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := authorized(t, -time.Hour)
		outage(i)
		began := time.Now()
		i.generation(2)
		if took := time.Since(began); took < connection.DefaultUnsavedAfter || took > 2*connection.DefaultUnsavedAfter {
			t.Fatalf("the token was held back for %v, want little more than %v", took, connection.DefaultUnsavedAfter)
		}
		is(t, "unsaved", i.Snapshot().Unsaved, true)
		is(t, "tokens served unsaved", i.told(connection.KindUnsaved), 1)
		is(t, "locks held", i.store.Held(), 1)
		is(t, "requests without a token while unsaved", i.traffic(50*time.Minute, time.Second), 0)
		is(t, "next refresh while unsaved", i.NextRefresh(i.set).IsZero(), true)
		later(2 * time.Hour) // expired; still no rotation, for the old one is not stored
		i.refused(connection.StatusFailing, "storage")
		is(t, "rejection while unsaved", i.Rejected(t.Context(), i.set, i.Current()), nil)
		i.called(1)

		i.store.Change(func(f *storetest.Faults) { f.Save = nil })
		later(10 * time.Second)
		is(t, "unsaved", i.Snapshot().Unsaved, false)
		is(t, "tokens saved at last", i.told(connection.KindSaved), 1)
		is(t, "stored generation", i.store.Get(alice).Current.Generation, 2)
		is(t, "locks held", i.store.Held(), 0)
		is(t, "locks lost", i.Stats().LocksLost.Load(), 0)
		generations, _ := i.store.History(t.Context(), alice)
		is(t, "history after a late save", fmt.Sprint(generations), "[1]")
		i.generation(3)
		is(t, "refresh token sent", i.server.last().refresh, "refresh-1")
	})
}

// A machine's token that expired unsaved is worth nothing, and holding on to it would keep the next from being fetched.
func TestUnsavedMachineTokenIsGivenUpWhenItExpires(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t)
		i.server.life = time.Minute
		outage(i)
		i.generation(1)
		later(2 * time.Minute)
		is(t, "token sets given up", i.told(connection.KindSaveDropped), 1)
		is(t, "locks held", i.store.Held(), 0)
		i.store.Change(func(f *storetest.Faults) { f.Save = nil })
		later(time.Minute)
		i.generation(2)
		i.called(2)
	})
}

func TestProcessEndGivesUpAnUnsavedToken(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := authorized(t, -time.Hour)
		outage(i)
		i.generation(2)
		i.live = nil
		i.set.Tasks.Close()
		synctest.Wait()
		is(t, "token sets given up", i.told(connection.KindSaveDropped), 1)
		is(t, "locks held", i.store.Held(), 0)
		if err := i.set.Tasks.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		is(t, "unsaved", i.Snapshot().Unsaved, true)
		_, err := i.Token(t.Context(), i.set)
		is(t, "a token that is at hand is served to the end", err, nil)
	})
}

func TestUnsavedTokenGoesThroughTheNextConfiguration(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := authorized(t, -time.Hour)
		outage(i)
		i.generation(2)
		next := new(storetest.Memory)
		i.live = i.settings(people, func(s *connection.Settings) { s.Store = next })
		i.set.Tasks.Close()
		synctest.Wait()
		is(t, "generation in the next storage", next.Get(alice).Current.Generation, 2)
		is(t, "token sets given up", i.told(connection.KindSaveDropped), 0)
		is(t, "unsaved", i.Snapshot().Unsaved, false)
	})
}

// A process that gave up saving still knows the refresh token that is alive.
func TestUnsavedRefreshTokenIsTheOneToGoOnWith(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := authorized(t, -time.Hour)
		outage(i)
		i.generation(2)
		i.live = nil
		i.set.Tasks.Close()
		later(2 * time.Hour)
		i.store.Change(func(f *storetest.Faults) { f.Save = nil })
		i.set = i.settings(people)
		i.live = i.set
		i.generation(3)
		is(t, "refresh token sent", i.server.last().refresh, "refresh-1")
		is(t, "exchanges that were repeated", i.told(connection.KindRepeated), 0)
	})
}

func TestHistoryErrorCostsHistoryOnly(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := authorized(t, -time.Hour)
		i.store.Change(func(f *storetest.Faults) { f.Archive = &storetest.Fault{Err: errDown} })
		i.generation(2)
		is(t, "history errors", i.told(connection.KindHistory), 1)
		is(t, "status", i.Snapshot().Status, connection.StatusActive)
	})
}

// A record that does not open may be another key's: it is never written over.
func TestUnreadableRecordIsNeverOverwritten(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t)
		i.store.Change(func(f *storetest.Faults) { f.Load = &storetest.Fault{Err: connection.ErrUnreadable} })
		i.refused(connection.StatusFailing, "storage")
		i.traffic(time.Hour, time.Minute)
		is(t, "saves", i.store.Use().Saves, 0)
		i.called(0)
	})
}

// The same for a record that stopped opening while the token endpoint was asked.
func TestRecordThatBecameUnreadableIsNotOverwritten(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := authorized(t, -time.Hour)
		i.server.answer = func(n int, x exchange) (*oauth.TokenResponse, error) {
			i.store.Change(func(f *storetest.Faults) { f.Load = &storetest.Fault{Err: connection.ErrUnreadable} })
			time.AfterFunc(3*time.Second, func() { i.store.Change(func(f *storetest.Faults) { f.Load = nil }) })
			return i.server.token(n, x), nil
		}
		began := time.Now()
		i.generation(2)
		is(t, "saved only after it opened again", time.Since(began) >= 3*time.Second, true)
		is(t, "stored generation", i.store.Get(alice).Current.Generation, 2)
	})
}

// Waiting for locks uses up a flight's time; what the exchange gave must be stored and archived all the same.
func TestExchangeAtTheEndOfTheFlightsTime(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := authorized(t, -time.Hour, func(s *connection.Settings) { s.Policy.Timeout = time.Second })
		i.store.Change(func(f *storetest.Faults) { f.Latency = 1700 * time.Millisecond })
		i.server.delay = 900 * time.Millisecond
		_, _ = i.Token(t.Context(), i.set) // flight's time: 9 s
		later(30 * time.Second)
		i.generation(2)
		i.called(1)
		is(t, "history errors", i.told(connection.KindHistory), 0)
		is(t, "storage errors", i.Stats().StorageErrors.Load(), 0)
	})
}
