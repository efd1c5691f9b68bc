package connection_test

import (
	"errors"
	"testing"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/connection"
	"github.com/caddyoauth/caddyoauth/internal/connection/storetest"
	"github.com/caddyoauth/caddyoauth/internal/oauth"
)

var found = connection.Consent{AccountID: "42", Label: "Jane", Found: map[string]string{"tenant": "T1"}}

// learn applies what a test call of that generation found.
func (i *instance) learn(generation uint64, found connection.Consent) error {
	i.t.Helper()
	_, err := i.Apply(i.t.Context(), i.set, connection.Learned(generation, found))
	return err
}

// account returns what is known of the account, by the published token set and by the stored one.
func (i *instance) account() (published, stored string) {
	i.t.Helper()
	text := func(c *connection.Consent) string {
		if c == nil {
			return ""
		}
		return c.AccountID + " " + c.Label + " " + c.Found["tenant"]
	}
	return text(i.token().TokenSet().Consent), text(i.store.Get(alice).Current.Consent)
}

func TestLearned(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t, people)
		i.authorize("one")
		before := i.Snapshot()
		later(time.Minute)
		is(t, "error", i.learn(1, found), nil)
		published, stored := i.account()
		is(t, "published", published, "42 Jane T1")
		is(t, "stored", stored, "42 Jane T1")
		after := i.Snapshot()
		is(t, "generation", after.Generation, 1)
		is(t, "the time of the refresh", after.RefreshAt, before.RefreshAt)
		is(t, "archived", i.store.Use().Archives, 0)
		is(t, "told of a change", i.told(connection.KindChanged), 1) // of the consent
		saves := i.store.Use().Saves
		is(t, "the same again", i.learn(1, found), nil)
		is(t, "the same again saved", i.store.Use().Saves, saves)
		is(t, "more", i.learn(1, connection.Consent{Found: map[string]string{"other": "x"}}), nil)
		published, _ = i.account()
		is(t, "what was known before", published, "42 Jane T1")
		later(57 * time.Minute)
		i.token()
		later(time.Second)
		i.generation(2)
		published, stored = i.account()
		is(t, "published after a refresh", published, "42 Jane T1")
		is(t, "stored after a refresh", stored, "42 Jane T1")
	})
}

// TestLearnedTooLate: what was found with one token says nothing about the tokens after it, which may be another account's.
func TestLearnedTooLate(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t, people)
		i.authorize("one")
		i.authorize("two")
		is(t, "busy", errors.Is(i.learn(1, found), connection.ErrBusy), true)
		published, stored := i.account()
		is(t, "published", published, "")
		is(t, "stored", stored, "")
		if _, err := i.Apply(t.Context(), i.set, connection.Disconnected("jane")); err != nil {
			t.Fatal(err)
		}
		is(t, "after the end", errors.Is(i.learn(3, found), connection.ErrBusy), true)
		is(t, "looked again after the end", i.reread() != nil, true)
		is(t, "status", i.store.Get(alice).Status, connection.StatusDisconnected)
		i.refused(connection.StatusDisconnected, "disconnected")
	})
}

func (i *instance) reread() error {
	_, err := i.Apply(i.t.Context(), i.set, connection.Reread())
	return err
}

// TestLearnedElsewhere: another instance takes over what was learned, without writing and without asking.
func TestLearnedElsewhere(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t, people)
		i.authorize("one")
		other := i.another()
		other.generation(1)
		is(t, "error", i.learn(1, found), nil)
		published, _ := other.account()
		is(t, "before", published, "")
		saves := i.store.Use().Saves
		is(t, "looked again", other.reread(), nil)
		published, _ = other.account()
		is(t, "after", published, "42 Jane T1")
		is(t, "saved", i.store.Use().Saves, saves)
		is(t, "nobody is there", newInstance(t, people).reread() != nil, true)
		i.called(0)
	})
}

// TestLookAgain: whoever misses something looks at the storage, but not each time.
func TestLookAgain(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t, people)
		i.authorize("one")
		other := i.another()
		is(t, "nothing is published", other.LookAgain(t.Context(), other.set), nil)
		before := other.generation(1)
		look := func(what string, locks int) *connection.Published {
			t.Helper()
			used := i.store.Use().Locks
			p := other.LookAgain(t.Context(), other.set)
			is(t, what, i.store.Use().Locks-used, locks)
			return p
		}
		is(t, "so soon after the first look", look("locks", 0), before)
		later(10 * time.Second)
		is(t, "nothing learned", look("locks after a pause", 1).TokenSet().Consent, nil)
		is(t, "error", i.learn(1, found), nil)
		look("locks at once", 0)
		later(10 * time.Second)
		is(t, "learned", look("locks after another", 1).TokenSet().Consent.Label, "Jane")
		i.store.Change(func(f *storetest.Faults) { f.Load = &storetest.Fault{Err: errDown} })
		later(10 * time.Second)
		is(t, "without storage", other.LookAgain(t.Context(), other.set).TokenSet().Consent.Label, "Jane")
	})
}

// TestLearnedWithoutStorage: what cannot be saved is not learned, and the token goes on being used.
func TestLearnedWithoutStorage(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t, people)
		i.authorize("one")
		i.store.Change(func(f *storetest.Faults) { f.Save = &storetest.Fault{Err: errDown} })
		is(t, "error", errors.Is(i.learn(1, found), connection.ErrStorage), true)
		published, stored := i.account()
		is(t, "published", published, "")
		is(t, "stored", stored, "")
		is(t, "status", i.Snapshot().Status, connection.StatusActive)
	})
}

// TestLearnedDuringAnOutage: a test call that works says nothing about the token endpoint, which is left alone as before.
func TestLearnedDuringAnOutage(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := authorized(t, 9*time.Minute)
		i.server.fail(oauth.RetryLater, "server_error")
		i.token()
		later(6 * time.Minute)
		i.token()
		later(time.Second)
		before := i.Snapshot()
		is(t, "status", before.Status, connection.StatusFailing)
		is(t, "error", i.learn(1, found), nil)
		after := i.Snapshot()
		is(t, "status after", after.Status, connection.StatusFailing)
		is(t, "the next attempt", after.NextAttempt, before.NextAttempt)
		is(t, "failures", after.Failure.Attempts, before.Failure.Attempts)
	})
}

// TestLearnedAfterTheEnd: what is left of a withdrawn consent's last token does not bring the connection back.
func TestLearnedAfterTheEnd(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := authorized(t, 9*time.Minute)
		i.server.fail(oauth.Revoked, "invalid_grant")
		i.token()
		later(6 * time.Minute)
		i.token()
		later(5 * time.Second)
		is(t, "stored status", i.store.Get(alice).Status, connection.StatusRevoked)
		for _, err := range []error{i.learn(1, found), i.reread()} {
			is(t, "busy", errors.Is(err, connection.ErrBusy), true)
		}
		is(t, "status", i.Snapshot().Status, connection.StatusRevoked)
	})
}

// TestRefreshAfterFailedChange: a background refresh that fell due while a change was under way is not forgotten.
func TestRefreshAfterFailedChange(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t, people)
		i.authorize("one")
		later(57 * time.Minute)
		i.store.Change(func(f *storetest.Faults) { f.Latency = time.Second })
		go func() { _ = i.learn(7, found) }()
		later(100 * time.Millisecond)
		i.token() // due, but the change is in the air
		later(10 * time.Second)
		i.called(0)
		i.store.Change(func(f *storetest.Faults) { f.Latency = 0 })
		i.token()
		later(time.Second)
		i.called(1)
	})
}
