package connection_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/connection"
	"github.com/caddyoauth/caddyoauth/internal/connection/storetest"
	"github.com/caddyoauth/caddyoauth/internal/oauth"
	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// consent is what the token endpoint gives for an authorization code.
func consent(name string) *oauth.TokenResponse {
	return &oauth.TokenResponse{
		AccessToken: secret.New("access-" + name), RefreshToken: secret.New("refresh-" + name), TokenType: "Bearer",
		SentAt: time.Now(), ExpiresAt: time.Now().Add(time.Hour),
	}
}

// authorize carries out the change after a person has authorized.
func (i *instance) authorize(name string) *connection.Published {
	i.t.Helper()
	p, err := i.Apply(i.t.Context(), i.set, connection.Authorized(consent(name), nil, i.set, "jane"))
	if err != nil {
		i.t.Fatalf("authorize: %v", err)
	}
	return p
}

func TestAuthorizedFromNothing(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t, people)
		i.refused(connection.StatusAuthorizationRequired, "authorization_required")
		p := i.authorize("one")
		is(t, "generation", p.Generation(), 1)
		is(t, "the token", i.token().TokenSet().AccessToken.Reveal(), "access-one")
		stored := i.store.Get(alice)
		is(t, "stored by", stored.Current.By, "jane")
		is(t, "stored reason", stored.Current.Reason, connection.ReasonAuthorized)
		is(t, "stored status", stored.Status, connection.StatusActive)
		is(t, "told", i.told(connection.KindChanged), 1)
		i.called(0)
		later(57 * time.Minute)
		i.token() // due: the refresh uses the refresh token of the consent
		later(time.Second)
		i.called(1)
		is(t, "refresh token sent", i.server.last().refresh, "refresh-one")
		i.generation(2)
	})
}

// TestAuthorizedBringsBack: a revoked connection works again, with its history, and without the old consent's refresh token.
func TestAuthorizedBringsBack(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := authorized(t, -time.Hour)
		i.server.fail(oauth.Revoked, "invalid_grant")
		i.refused(connection.StatusRevoked, "invalid_grant")
		i.server.heal()
		p := i.authorize("two")
		is(t, "generation", p.Generation(), 2)
		is(t, "status", i.Snapshot().Status, connection.StatusActive)
		is(t, "the token", i.token().TokenSet().AccessToken.Reveal(), "access-two")
		history, err := i.store.History(t.Context(), alice)
		is(t, "history", err == nil && len(history) == 1 && history[0] == 1, true)
	})
}

// TestAuthorizedWithoutRefreshToken must not take over the refresh token of the consent before.
func TestAuthorizedWithoutRefreshToken(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := authorized(t, time.Hour)
		resp := consent("bare")
		resp.RefreshToken = secret.Text{}
		p, err := i.Apply(t.Context(), i.set, connection.Authorized(resp, nil, i.set, ""))
		is(t, "error", err, nil)
		is(t, "no refresh token", p.TokenSet().RefreshToken.IsZero(), true)
	})
}

// TestTokenWithoutEnd: a person's token that says nothing of its end, and cannot be refreshed, is used until it is refused.
func TestTokenWithoutEnd(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t, people)
		resp := consent("endless")
		resp.RefreshToken, resp.ExpiresAt = secret.Text{}, time.Time{}
		if _, err := i.Apply(t.Context(), i.set, connection.Authorized(resp, nil, i.set, "")); err != nil {
			t.Fatal(err)
		}
		later(5 * 365 * 24 * time.Hour)
		p := i.generation(1)
		is(t, "replay after a 401", i.Rejected(t.Context(), i.set, p), nil)
		i.called(0)
	})
}

// TestChangeWaitsForTheFlight: a refresh under way is finished first, and the change builds on its generation.
func TestChangeWaitsForTheFlight(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := authorized(t, -time.Hour)
		i.server.change(func(s *server) { s.delay = 3 * time.Second })
		go func() { _, _ = i.Token(context.Background(), i.set) }()
		later(time.Second)
		began := time.Now()
		p := i.authorize("new")
		is(t, "waited", time.Since(began) >= 2*time.Second, true)
		is(t, "generation", p.Generation(), 3)
		is(t, "the token", i.token().TokenSet().AccessToken.Reveal(), "access-new")
	})
}

// TestChangeGoesOnWithoutItsCaller: what an authorization code was given for cannot be had again.
func TestChangeGoesOnWithoutItsCaller(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t, people)
		i.store.Change(func(f *storetest.Faults) { f.Latency = time.Second })
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err := i.Apply(ctx, i.set, connection.Authorized(consent("one"), nil, i.set, "jane"))
		is(t, "the caller has left", errors.Is(err, context.DeadlineExceeded), true)
		i.drain()
		is(t, "stored all the same", i.store.Get(alice).Current.AccessToken.Reveal(), "access-one")
	})
}

func TestDisconnected(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t, people)
		i.authorize("one")
		p, err := i.Apply(t.Context(), i.set, connection.Disconnected("jane"))
		is(t, "nothing is left", p == nil && err == nil, true)
		i.refused(connection.StatusDisconnected, "disconnected")
		later(time.Hour)
		i.refused(connection.StatusDisconnected, "disconnected")
		i.called(0)
		stored := i.store.Get(alice)
		is(t, "stored tokens", stored.Current.AccessToken.IsZero() && stored.Current.RefreshToken.IsZero(), true)
		is(t, "generation", i.authorize("two").Generation(), 3)
		is(t, "the token", i.token().TokenSet().AccessToken.Reveal(), "access-two")
	})
}

// TestFailedChangeDisturbsNobody: the token that is there goes on being used, and there is no pause.
func TestFailedChangeDisturbsNobody(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := authorized(t, time.Hour)
		i.generation(1)
		expired := consent("late")
		expired.ExpiresAt = time.Now().Add(-time.Second)
		if _, err := i.Apply(t.Context(), i.set, connection.Authorized(expired, nil, i.set, "jane")); err == nil {
			t.Fatal("an expired token was accepted")
		}
		is(t, "requests without a token", i.traffic(time.Minute, time.Second), 0)
		is(t, "status", i.Snapshot().Status, connection.StatusActive)
		i.generation(1)
	})
}

// TestDisconnectedWhileStorageFails: the server has been told, so it is tried for a while, and nothing is served meanwhile that was
// ended.
func TestDisconnectedWhileStorageFails(t *testing.T) {
	for down, works := range map[time.Duration]bool{10 * time.Second: true, time.Hour: false} {
		t.Run(down.String(), func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				i := newInstance(t, people)
				i.authorize("one")
				i.store.Change(func(f *storetest.Faults) { f.Save = &storetest.Fault{Err: errDown} })
				time.AfterFunc(down, func() { i.store.Change(func(f *storetest.Faults) { f.Save = nil }) })
				told, began := 0, time.Now()
				err := i.End(t.Context(), i.set, "jane", func(_ context.Context, set connection.TokenSet) {
					told++
					is(t, "the token that was told of", set.RefreshToken.Reveal(), "refresh-one")
				})
				is(t, "error: "+errorText(err), err == nil, works)
				is(t, "a failure of storage", works || errors.Is(err, connection.ErrStorage), true)
				is(t, "told", told, 1)
				is(t, "it took no longer than a lease", time.Since(began) <= lease+10*time.Second, true)
				is(t, "served from memory", i.told(connection.KindUnsaved), 0)
				if works {
					i.refused(connection.StatusDisconnected, "disconnected")
					return
				}
				i.generation(1) // it can be tried again
				later(2 * time.Hour)
				is(t, "error the second time", i.End(t.Context(), i.set, "jane", func(context.Context, connection.TokenSet) {}), nil)
				i.refused(connection.StatusDisconnected, "disconnected")
			})
		})
	}
}
