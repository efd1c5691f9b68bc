package connection_test

import (
	"context"
	"testing"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/connection"
	"github.com/caddyoauth/caddyoauth/internal/connection/storetest"
	"github.com/caddyoauth/caddyoauth/internal/oauth"
	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// crashed returns a process that finds the intent of one that died while it asked.
func crashed(t *testing.T) *instance {
	i := authorized(t, -time.Hour)
	rec := record(-time.Hour)
	rec.Intent = &connection.Intent{
		Generation: 1, RefreshDigest: rec.Current.RefreshToken.Digest(), Nonce: "dead", At: time.Now().Add(-time.Hour),
	}
	i.store.Put(rec)
	return i
}

func TestCrashAfterIntent(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := crashed(t)
		i.store.Change(func(f *storetest.Faults) {
			f.OnSave = func(rec connection.Record) {
				if rec.Intent != nil && !rec.Intent.Repeated {
					t.Error("the intent does not say that the exchange before it is unknown")
				}
			}
		})
		i.generation(2)
		i.called(1)
		is(t, "refresh token sent", i.server.last().refresh, "refresh-0")
		is(t, "exchanges that were repeated", i.told(connection.KindRepeated), 1)
		is(t, "intent after success", i.store.Get(alice).Intent, nil)
	})
}

func TestDeadRefreshToken(t *testing.T) {
	for name, c := range map[string]struct {
		start  func(*testing.T) *instance
		status connection.Status
	}{
		"revoked":       {func(t *testing.T) *instance { return authorized(t, -time.Hour) }, connection.StatusRevoked},
		"lost rotation": {crashed, connection.StatusLostRotation},
	} {
		t.Run(name, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				i := c.start(t)
				i.server.fail(oauth.Revoked, "invalid_grant")
				u := i.refused(c.status, "invalid_grant")
				is(t, "needs a person", u.Status.NeedsPerson(), true)
				is(t, "status", i.Snapshot().Status, c.status)
				stored := i.store.Get(alice)
				is(t, "stored status", stored.Status, c.status)
				is(t, "intent", stored.Intent, nil)
				is(t, "refresh token kept", stored.Current.RefreshToken.Equal(secret.New("refresh-0")), true)
				i.called(1)

				i.traffic(24*time.Hour, time.Minute)
				i.refused(c.status, string(c.status))
				i.called(1)
				o := i.another()
				o.refused(c.status, string(c.status))
				i.called(1)
			})
		})
	}
}

// The access token of a connection that was ended may have hours left in storage; a new process must not take it up.
func TestEndedConnectionIsNotAdopted(t *testing.T) {
	for _, status := range []connection.Status{
		connection.StatusDisconnected, connection.StatusRevoked, connection.StatusLostRotation, connection.StatusAuthorizationRequired,
	} {
		t.Run(string(status), func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				i := authorized(t, time.Hour)
				rec := record(time.Hour)
				rec.Status = status
				i.store.Put(rec)
				i.refused(status, string(status))
				i.called(0)
				is(t, "saves", i.store.Use().Saves, 0)
			})
		})
	}
}

// Without a refresh token there is nothing to ask with, and nothing to write down.
func TestNobodyHasAuthorizedYet(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t, people)
		i.refused(connection.StatusAuthorizationRequired, "authorization_required")
		i.called(0)
		is(t, "saves", i.store.Use().Saves, 0)
		i.store.Put(record(time.Hour)) // somebody has
		later(time.Minute)
		i.generation(1)
	})
}

func TestInvalidGrantWhenAnotherHasWon(t *testing.T) {
	for name, when := range map[string]time.Duration{"before the answer": 0, "just after it": 500 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				i := authorized(t, -time.Hour)
				i.server.answer = func(int, exchange) (*oauth.TokenResponse, error) {
					time.AfterFunc(when, func() { i.store.Put(theirs(2, time.Now())) })
					if when == 0 {
						time.Sleep(time.Millisecond)
					}
					return nil, &oauth.Error{Class: oauth.Revoked, Code: "invalid_grant"}
				}
				i.generation(2)
				is(t, "status", i.Snapshot().Status, connection.StatusActive)
				is(t, "stored status", i.store.Get(alice).Status, connection.StatusActive)
				is(t, "adoptions", i.told(connection.KindAdopted), 1)
			})
		})
	}
}

// A refresh token is dead only when it is known to be the stored one.
func TestInvalidGrantThatCannotBeConfirmed(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := authorized(t, -time.Hour)
		i.server.answer = func(int, exchange) (*oauth.TokenResponse, error) {
			i.store.Change(func(f *storetest.Faults) { f.Load = &storetest.Fault{Err: errDown, Times: 2} })
			return nil, &oauth.Error{Class: oauth.Revoked, Code: "invalid_grant"}
		}
		i.refused(connection.StatusFailing, "storage")
		is(t, "stored status", i.store.Get(alice).Status, connection.StatusActive)
		is(t, "the intent stays", i.store.Get(alice).Intent != nil, true)
		i.server.fail(oauth.Revoked, "invalid_grant")
		later(time.Minute)
		i.refused(connection.StatusLostRotation, "invalid_grant")
	})
}

func TestUnknownOutcome(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := authorized(t, -time.Hour)
		i.server.fail(oauth.UnknownOutcome, "truncated")
		i.refused(connection.StatusFailing, "truncated")
		is(t, "the intent stays", i.store.Get(alice).Intent != nil, true)
		i.server.fail(oauth.RetryLater, "server_error")
		later(time.Minute)
		i.refused(connection.StatusFailing, "server_error")
		is(t, "the intent stays after a refusal to serve", i.store.Get(alice).Intent != nil, true)
		i.server.heal()
		later(5 * time.Minute)
		i.generation(2)
		is(t, "intent after success", i.store.Get(alice).Intent, nil)
		is(t, "failure after success", i.store.Get(alice).Failure, nil)
		is(t, "exchanges that were repeated", i.told(connection.KindRepeated), 2)

		i.server.fail(oauth.UnknownOutcome, "truncated")
		later(2 * time.Hour)
		i.refused(connection.StatusFailing, "truncated")
		i.server.fail(oauth.Revoked, "invalid_grant")
		later(time.Minute)
		i.refused(connection.StatusLostRotation, "invalid_grant")
	})
}

// Anything else that a failed write of the outcome could do would be worse than asking once more.
func TestOutcomeThatCannotBeWritten(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := authorized(t, -time.Hour)
		i.server.answer = func(int, exchange) (*oauth.TokenResponse, error) {
			i.store.Change(func(f *storetest.Faults) { f.Save = &storetest.Fault{Err: errDown, Times: 1} })
			return nil, &oauth.Error{Class: oauth.RetryLater, Code: "slow_down", RetryAfter: 10 * time.Minute}
		}
		u := i.refused(connection.StatusFailing, "slow_down")
		is(t, "pause", time.Until(u.RetryAt), 10*time.Minute)
		is(t, "the intent stays", i.store.Get(alice).Intent != nil, true)
	})
}

func TestChangedFingerprint(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t)
		i.generation(1)
		later(time.Minute)
		changed := connection.NewSource(alice, "f2", func() *connection.Settings { return i.live })
		p, err := changed.Token(t.Context(), i.set)
		if err != nil {
			t.Fatal(err)
		}
		is(t, "generation counts on", p.Generation(), 2)
		is(t, "stored fingerprint", i.store.Get(alice).Fingerprint, "f2")
		i.called(2)
		again, _ := changed.Token(t.Context(), i.set)
		is(t, "token set", again, p)
	})
}

func TestRefreshNeverRunsOnARequestsContext(t *testing.T) {
	virtual(t, func(t *testing.T) {
		type key struct{}
		i := newInstance(t)
		ctx, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "request"))
		if _, err := i.Token(ctx, i.set); err != nil {
			t.Fatal(err)
		}
		cancel()
		is(t, "value of the request's context", i.server.last().context.Value(key{}), nil)
		is(t, "the exchange has a deadline", i.server.last().deadline > 0, true)
	})
}
