package connection_test

import (
	"testing"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/connection"
	"github.com/caddyoauth/caddyoauth/internal/oauth"
	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// account makes the connection one of an account whose password is known.
func account(s *connection.Settings) { s.Grant = oauth.GrantPassword }

// refreshTokens are those that the server was sent, "" for a request with the password.
func (s *server) refreshTokens() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var sent []string
	for _, x := range s.asked {
		sent = append(sent, x.refresh)
	}
	return sent
}

func (i *instance) asked(want ...string) {
	i.t.Helper()
	got := i.server.refreshTokens()
	is(i.t, "requests", len(got), len(want))
	for n := range got {
		is(i.t, "what was sent", got[n], want[n])
	}
}

// TestPasswordUsesRefreshTokens: the password is sent once; then refresh tokens rotate as those of people do.
func TestPasswordUsesRefreshTokens(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t, account)
		i.server.answer = func(n int, x exchange) (*oauth.TokenResponse, error) {
			resp := i.server.token(n, x)
			resp.RefreshToken = secret.New([]string{"r1", "r2", "", "r4"}[n-1])
			return resp, nil
		}
		for range 4 {
			i.token()
			later(time.Hour)
		}
		i.asked("", "r1", "r2", "r2") // the third answer had none: the old one stays
	})
}

// TestPasswordWithoutRefreshToken: it is asked for anew, and a lifetime is assumed that ends.
func TestPasswordWithoutRefreshToken(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t, account)
		i.server.answer = func(n int, x exchange) (*oauth.TokenResponse, error) {
			resp := i.server.token(n, x)
			resp.ExpiresAt = time.Time{}
			return resp, nil
		}
		i.token()
		later(connection.DefaultLifetime)
		i.generation(2)
		i.asked("", "")
	})
}

// TestPasswordSurvivesDeadRefreshToken: nobody needs to be asked, so the password is sent in the same breath, and the dead refresh
// token is never sent again.
func TestPasswordSurvivesDeadRefreshToken(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t, account)
		i.store.Put(record(0))
		i.server.answer = func(n int, x exchange) (*oauth.TokenResponse, error) {
			if x.refresh != "" {
				return nil, &oauth.Error{Class: oauth.Revoked, Code: "invalid_grant"}
			}
			return i.server.token(n, x), nil // without a refresh token
		}
		i.generation(2)
		is(t, "status", i.Snapshot().Status, connection.StatusActive)
		is(t, "failures", i.told(connection.KindFailed), 0)
		later(time.Hour)
		i.generation(3)
		i.asked("refresh-0", "", "")
	})
}

// TestPasswordIsNotSentForOtherFailures: only a dead refresh token is a reason to begin anew.
func TestPasswordIsNotSentForOtherFailures(t *testing.T) {
	for _, class := range []oauth.Class{oauth.RetryLater, oauth.Misconfigured, oauth.UnknownOutcome, oauth.Unrecognized} {
		t.Run(class.String(), func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				i := newInstance(t, account)
				i.store.Put(record(0))
				i.server.answer = func(int, exchange) (*oauth.TokenResponse, error) {
					return nil, &oauth.Error{Class: class, Code: "x"}
				}
				if _, err := i.Token(t.Context(), i.set); err == nil {
					t.Fatal("there is a token")
				}
				i.asked("refresh-0")
			})
		})
	}
}

// TestImplicitEnds: the token is used up, nothing is asked, and then a person is needed.
func TestImplicitEnds(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t, func(s *connection.Settings) { s.Grant = oauth.GrantImplicit })
		is(t, "needs a person", i.set.NeedsPerson(), true)
		i.refused(connection.StatusAuthorizationRequired, "authorization_required")
		resp := &oauth.TokenResponse{
			AccessToken: secret.New("a"), RefreshToken: secret.New("r"), SentAt: time.Now(), ExpiresAt: time.Now().Add(time.Hour),
		}
		p, err := i.Apply(t.Context(), i.set, connection.Authorized(resp, nil, i.set, "alice"))
		if err != nil || !p.TokenSet().RefreshToken.IsZero() {
			t.Fatalf("a refresh token was kept, or %v", err)
		}
		is(t, "requests that failed", i.traffic(59*time.Minute, time.Minute), 0)
		is(t, "failures before its end", i.told(connection.KindFailed), 1)
		later(time.Minute)
		i.refused(connection.StatusAuthorizationRequired, "authorization_required")
		i.called(0)
	})
}
