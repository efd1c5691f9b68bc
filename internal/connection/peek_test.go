package connection_test

import (
	"errors"
	"testing"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/connection"
	"github.com/caddyoauth/caddyoauth/internal/connection/storetest"
	"github.com/caddyoauth/caddyoauth/internal/oauth"
	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// peek looks, and checks that looking neither asks the provider nor counts as a use, and reads once.
func (i *instance) peek() connection.State {
	i.t.Helper()
	asked, used, reads := i.server.calls(), i.Snapshot().LastUsed, i.store.Use().Loads
	state, err := i.Peek(i.t.Context(), i.set)
	if err != nil {
		i.t.Fatalf("peek: %v", err)
	}
	is(i.t, "requests to the provider", i.server.calls(), asked)
	is(i.t, "last used", i.Snapshot().LastUsed, used)
	is(i.t, "reads of the storage", i.store.Use().Loads, reads+1)
	return state
}

func TestPeekIntoStorage(t *testing.T) {
	for name, c := range map[string]struct {
		machine bool
		change  func(*connection.Record) // nil = nothing is stored
		want    connection.Status
		renew   bool
	}{
		"nobody has connected":          {want: connection.StatusAuthorizationRequired},
		"a machine that asked for none": {machine: true, want: connection.StatusPending, renew: true},
		"connected":                     {change: func(*connection.Record) {}, want: connection.StatusActive, renew: true},
		"lapsed, but will refresh": {change: func(rec *connection.Record) {
			rec.Current.ExpiresAt = time.Now().Add(-time.Hour)
		}, want: connection.StatusActive, renew: true},
		"lapsed, with nothing to refresh with": {change: func(rec *connection.Record) {
			rec.Current.ExpiresAt, rec.Current.RefreshToken = time.Now().Add(-time.Hour), secret.Text{}
		}, want: connection.StatusAuthorizationRequired},
		"nothing to refresh with, but good": {change: func(rec *connection.Record) {
			rec.Current.RefreshToken = secret.Text{}
		}, want: connection.StatusActive},
		"revoked": {change: func(rec *connection.Record) { rec.Status = connection.StatusRevoked }, want: connection.StatusRevoked, renew: true},
		"disconnected": {change: func(rec *connection.Record) {
			rec.Status, rec.Current = connection.StatusDisconnected, connection.TokenSet{Generation: 2}
		}, want: connection.StatusDisconnected},
		"failing": {change: func(rec *connection.Record) {
			rec.Status, rec.Failure = connection.StatusFailing, &connection.Failure{Code: "server_error", At: time.Now(), Attempts: 3}
		}, want: connection.StatusFailing, renew: true},
	} {
		t.Run(name, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				i := newInstance(t, people)
				if c.machine {
					i.set.Grant = oauth.GrantClientCredentials
				}
				if c.change != nil {
					rec := record(time.Hour)
					c.change(&rec)
					i.store.Put(rec)
				}
				state := i.peek()
				is(t, "status", state.Status, c.want)
				is(t, "renewable", state.Renewable, c.renew)
				is(t, "ID", state.ID, alice)
				is(t, "saves", i.store.Use().Saves, 0)
			})
		})
	}
}

// TestPeekIntoMemory: the later word counts, whoever has it.
func TestPeekIntoMemory(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := authorized(t, time.Hour)
		i.generation(1)
		state := i.peek()
		is(t, "refreshed at", state.RefreshAt, i.Snapshot().RefreshAt)
		is(t, "last used", state.LastUsed.IsZero(), false)

		o := i.another()
		o.force(2)
		state = i.peek()
		is(t, "another instance's generation", state.Generation, 2)
		is(t, "reason and by", string(state.Reason)+state.By, "forcedoperator")
		is(t, "refreshed at", state.RefreshAt.IsZero(), true) // it is of the generation before

		later(time.Minute)
		i.store.Change(func(f *storetest.Faults) { f.Lock = &storetest.Fault{Err: errDown} })
		if _, err := i.Refresh(t.Context(), i.set, ""); err == nil {
			t.Fatal("no failure")
		}
		state = i.peek()
		is(t, "a failure that only this process knows", state.Status, connection.StatusFailing)
		is(t, "its code", state.Failure.Code, "storage")
		is(t, "next attempt", state.NextAttempt.After(time.Now()), true)

		i.store.Change(func(f *storetest.Faults) { f.Lock = nil })
		later(time.Minute)
		o.force(3)
		state = i.peek()
		is(t, "it is over since", state.Status, connection.StatusActive)
		is(t, "and has no failure", state.Failure, nil)
	})
}

// TestPeekOfAnUnsavedSet: a storage that cannot be written has not seen the latest one.
func TestPeekOfAnUnsavedSet(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := authorized(t, -time.Hour)
		i.store.Change(func(f *storetest.Faults) { f.OnSave = failSecondSave(i) })
		_, _ = i.Token(t.Context(), i.set)
		later(10 * time.Second)
		state := i.peek()
		is(t, "generation", state.Generation, 2)
		is(t, "unsaved", state.Unsaved, true)
		is(t, "busy", state.Busy, true)
		is(t, "status", state.Status, connection.StatusActive)
	})
}

func TestPeekWithoutStorage(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := authorized(t, time.Hour)
		i.generation(1)
		i.store.Change(func(f *storetest.Faults) { f.Load = &storetest.Fault{Err: errDown} })
		state, err := i.Peek(t.Context(), i.set)
		is(t, "the error is of storage", errors.Is(err, connection.ErrStorage), true)
		is(t, "what this process knows", state.Generation, 1)
	})
}
