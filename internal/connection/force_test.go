package connection_test

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/connection"
	"github.com/caddyoauth/caddyoauth/internal/connection/storetest"
	"github.com/caddyoauth/caddyoauth/internal/oauth"
	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// force replaces the token set and expects that generation.
func (i *instance) force(want uint64) *connection.Published {
	i.t.Helper()
	p, err := i.Refresh(i.t.Context(), i.set, "operator")
	if err != nil {
		i.t.Fatalf("force a refresh: %v", err)
	}
	is(i.t, "generation", p.Generation(), want)
	return p
}

func TestForcedRefresh(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := authorized(t, time.Hour)
		i.force(2) // nothing was in memory
		i.force(3)
		i.called(2)
		stored := i.store.Get(alice).Current
		is(t, "reason", stored.Reason, connection.ReasonForced)
		is(t, "by", stored.By, "operator")
		is(t, "last used", i.Snapshot().LastUsed.IsZero(), true)
		later(2 * time.Hour)
		i.generation(4)
		is(t, "the next one is by nobody", i.store.Get(alice).Current.By, "")
	})
}

// TestForcedRefreshOfWhatAnotherInstanceHas: the storage knows a generation that this process does not. That one is not the answer.
func TestForcedRefreshOfWhatAnotherInstanceHas(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := authorized(t, time.Hour)
		i.generation(1)
		o := i.another()
		o.force(2)
		i.force(3)
		i.called(2)
	})
}

// TestForcedRefreshesShareOneExchange, with each other and with what is under way.
func TestForcedRefreshesShareOneExchange(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := authorized(t, 10*time.Second) // due
		i.server.change(func(s *server) { s.delay = time.Second })
		i.generation(1)
		synctest.Wait()
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() { i.force(2) })
		}
		all.Wait()
		i.called(1)
	})
}

// TestForcedRefreshDoesNotWaitForAPause, but for one that the server asked for.
func TestForcedRefreshDoesNotWaitForAPause(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := authorized(t, time.Hour)
		i.server.fail(oauth.Misconfigured, "invalid_client")
		for range 3 {
			_, err := i.Refresh(t.Context(), i.set, "operator")
			var u *connection.Unavailable
			is(t, "refused", errors.As(err, &u) && u.Code == "invalid_client", true)
		}
		i.called(3)
		i.server.failWith(&oauth.Error{Class: oauth.RetryLater, Code: "slow_down", RetryAfter: time.Minute})
		for range 3 {
			if _, err := i.Refresh(t.Context(), i.set, "operator"); err == nil {
				t.Fatal("it was refreshed")
			}
		}
		i.called(4)
		i.generation(1)
		i.server.heal()
		later(time.Minute + time.Second)
		i.force(2)
	})
}

// TestForcedRefreshThatChangesNothing: the server answers with the token that it gave before, and that is the answer.
func TestForcedRefreshThatChangesNothing(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t)
		i.generation(1)
		same := i.token().TokenSet()
		i.server.change(func(s *server) {
			s.answer = func(int, exchange) (*oauth.TokenResponse, error) {
				return &oauth.TokenResponse{AccessToken: same.AccessToken, TokenType: "Bearer", SentAt: time.Now(), ExpiresAt: same.ExpiresAt}, nil
			}
		})
		i.force(1)
		i.called(2)
	})
}

func TestForcedRefreshWithoutStorage(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := authorized(t, time.Hour)
		i.store.Change(func(f *storetest.Faults) { f.Load = &storetest.Fault{Err: errDown, Times: 1} })
		_, err := i.Refresh(t.Context(), i.set, "operator")
		is(t, "a failure of storage", errors.Is(err, connection.ErrStorage) && errors.Is(err, errDown), true)
		i.called(0)
	})
}

// TestForcedRefreshOfNothing: without a consent there is nothing to ask with.
func TestForcedRefreshOfNothing(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t, people)
		_, err := i.Refresh(t.Context(), i.set, "operator")
		var u *connection.Unavailable
		is(t, "needs a person", errors.As(err, &u) && u.Status.NeedsPerson(), true)
		i.called(0)
	})
}

// TestRefreshTokensEnd: what is known of it is kept as long as it is about the same refresh token.
func TestRefreshTokensEnd(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t, people)
		resp := consent("one")
		resp.RefreshExpiresAt = time.Now().Add(90 * 24 * time.Hour)
		end := resp.RefreshExpiresAt
		if _, err := i.Apply(t.Context(), i.set, connection.Authorized(resp, nil, i.set, "")); err != nil {
			t.Fatal(err)
		}
		answer := func(alter func(*oauth.TokenResponse)) {
			i.server.change(func(s *server) {
				s.answer = func(n int, x exchange) (*oauth.TokenResponse, error) {
					resp := s.token(n, x)
					alter(resp)
					return resp, nil
				}
			})
		}
		endIs := func(what string, want time.Time) {
			t.Helper()
			is(t, what, i.store.Get(alice).Current.RefreshExpiresAt.Equal(want), true)
		}
		answer(func(r *oauth.TokenResponse) { r.RefreshToken = secret.Text{} })
		i.force(2)
		endIs("none came", end)
		answer(func(r *oauth.TokenResponse) { r.RefreshToken = resp.RefreshToken })
		i.force(3)
		endIs("the same came", end)
		answer(func(r *oauth.TokenResponse) { r.RefreshToken, r.RefreshExpiresAt = secret.Text{}, end.Add(time.Hour) })
		i.force(4)
		endIs("the server says anew", end.Add(time.Hour))
		answer(func(*oauth.TokenResponse) {})
		i.force(5)
		endIs("another one came, of which nothing is said", time.Time{})
	})
}
