package connection_test

import (
	"testing"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/connection"
	"github.com/caddyoauth/caddyoauth/internal/oauth"
	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// A server that gives the same token until it expires is asked less and less often, not in a loop.
func TestSameTokenUntilItExpires(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t)
		sameToken(i)
		i.token()
		is(t, "requests without a token", i.traffic(59*time.Minute+59*time.Second+900*time.Millisecond, 100*time.Millisecond), 0)
		if calls := i.server.calls(); calls > 16 {
			t.Fatalf("a server that gives the same token again was asked %d times in an hour", calls)
		}
		is(t, "generation", i.Snapshot().Generation, 1)
		is(t, "unchanged", i.Stats().Unchanged.Load() > 0, true)
		later(time.Second)
		i.generation(2)
	})
}

// The session ends at a fixed time: each token is new and none lives longer.
func TestNoLongerLifetime(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t)
		end := time.Now().Add(time.Hour)
		i.server.answer = func(n int, x exchange) (*oauth.TokenResponse, error) {
			resp := i.server.token(n, x)
			resp.ExpiresAt = end
			return resp, nil
		}
		i.token()
		i.traffic(time.Hour, 100*time.Millisecond)
		if calls := i.server.calls(); calls > 15 {
			t.Fatalf("tokens that end with a session cost %d requests in an hour", calls)
		}
	})
}

func TestExpiredOnArrival(t *testing.T) {
	for name, life := range map[string]time.Duration{"long ago": -time.Hour, "on the way": 500 * time.Millisecond, "all but": 1001 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				i := newInstance(t)
				i.server.delay, i.server.life = time.Second, life
				i.refused(connection.StatusFailing, "expired_on_arrival")
				i.called(1)
				i.refused(connection.StatusFailing, "expired_on_arrival")
				i.called(1)
			})
		})
	}
}

// The access token is useless, but the refresh token that came with it may be the only one that is alive.
func TestRefreshTokenOfAnUnusableAnswerIsKept(t *testing.T) {
	for name, c := range map[string]struct {
		spoil  func(*oauth.TokenResponse)
		status connection.Status
		code   string
	}{
		"expired":   {func(r *oauth.TokenResponse) { r.ExpiresAt = r.SentAt.Add(-time.Hour) }, connection.StatusFailing, "expired_on_arrival"},
		"key-bound": {func(r *oauth.TokenResponse) { r.TokenType = "DPoP" }, connection.StatusMisconfigured, "unsupported_token_type"},
	} {
		t.Run(name, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				i := authorized(t, -time.Hour)
				i.server.answer = func(n int, x exchange) (*oauth.TokenResponse, error) {
					resp := i.server.token(n, x)
					c.spoil(resp)
					return resp, nil
				}
				i.refused(c.status, c.code)
				stored := i.store.Get(alice)
				is(t, "stored refresh token is the new one", stored.Current.RefreshToken.Equal(secret.New("refresh-1")), true)
				is(t, "stored access token is the old one", stored.Current.AccessToken.Equal(secret.New("access-0")), true)
				is(t, "stored generation", stored.Current.Generation, 2)
				is(t, "stored status", stored.Status, c.status)
				is(t, "stored intent", stored.Intent, nil)
				i.server.heal()
				later(time.Minute)
				i.generation(3)
				is(t, "refresh token sent", i.server.last().refresh, "refresh-1")
			})
		})
	}
}

// The same in the background: the current token goes on being served, and the next refresh sends the right refresh token.
func TestUnusableAnswerInTheBackground(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := authorized(t, 10*time.Minute)
		i.generation(1)
		i.server.answer = func(n int, x exchange) (*oauth.TokenResponse, error) {
			resp := i.server.token(n, x)
			if n == 1 {
				resp.ExpiresAt = x.at.Add(-time.Second)
			}
			return resp, nil
		}
		is(t, "requests without a token", i.traffic(20*time.Minute, 100*time.Millisecond), 0)
		i.called(2)
		is(t, "refresh token sent", i.server.last().refresh, "refresh-1")
	})
}

func TestTokenTypes(t *testing.T) {
	for kind, refused := range map[string]bool{"Bearer": false, "bearer": false, "": false, "N_A": false, "dpop": true, "DPoP": true, "MAC": true, "pop": true} {
		t.Run(kind, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				i := newInstance(t)
				i.server.answer = func(n int, x exchange) (*oauth.TokenResponse, error) {
					resp := i.server.token(n, x)
					resp.TokenType = kind
					return resp, nil
				}
				if refused {
					i.refused(connection.StatusMisconfigured, "unsupported_token_type")
					return
				}
				is(t, "token type as sent", i.generation(1).TokenSet().TokenType, kind)
			})
		})
	}
}

func TestDefaultLifetime(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t, func(s *connection.Settings) { s.Policy.DefaultLifetime = 20 * time.Minute })
		i.server.delay = time.Second
		i.server.answer = func(n int, x exchange) (*oauth.TokenResponse, error) {
			resp := i.server.token(n, x)
			resp.ExpiresAt = time.Time{}
			return resp, nil
		}
		asked := time.Now()
		is(t, "expiry", i.generation(1).ExpiresAt().Sub(asked), 20*time.Minute)
	})
}

func TestRefreshTokenThatIsLeftOut(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := authorized(t, -time.Hour)
		i.server.answer = func(n int, x exchange) (*oauth.TokenResponse, error) {
			resp := i.server.token(n, x)
			resp.RefreshToken = secret.Text{}
			return resp, nil
		}
		i.generation(2)
		later(2 * time.Hour)
		i.generation(3)
		is(t, "refresh token sent", i.server.last().refresh, "refresh-0")
	})
}

// RFC 6749 section 4.4.3: a refresh token should not be included; some servers include one that nobody will use.
func TestRefreshTokenOfAMachineIsIgnored(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t)
		i.server.answer = func(n int, x exchange) (*oauth.TokenResponse, error) {
			resp := i.server.token(n, x)
			resp.RefreshToken = secret.New("refresh-unwanted")
			return resp, nil
		}
		i.generation(1)
		is(t, "refresh token kept", i.store.Get(alice).Current.RefreshToken.IsZero(), true)
		later(2 * time.Hour)
		i.generation(2)
		is(t, "refresh token sent", i.server.last().refresh, "")
	})
}

func TestShortLifetimes(t *testing.T) {
	for _, life := range []time.Duration{time.Second, 2 * time.Second, 5 * time.Second, time.Minute} {
		t.Run(life.String(), func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				i := newInstance(t)
				i.server.life, i.server.delay = life, 20*time.Millisecond
				is(t, "requests without a token", i.traffic(10*time.Minute, 50*time.Millisecond), 0)
				if calls, most := i.server.calls(), int(10*time.Minute/max(life*3/4, time.Second)*21/20); calls > most {
					t.Fatalf("%d token requests in ten minutes of tokens that live %v, want at most %d", calls, life, most)
				}
			})
		})
	}
}
