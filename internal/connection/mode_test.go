package connection_test

import (
	"context"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/connection"
	"github.com/caddyoauth/caddyoauth/internal/connection/storetest"
	"github.com/caddyoauth/caddyoauth/internal/oauth"
	"github.com/caddyoauth/caddyoauth/internal/secret"
)

func mode(m connection.Mode) func(*connection.Settings) {
	return func(s *connection.Settings) { s.Policy.Mode = m }
}

// TestOn401 uses a token for as long as the API takes it, also in the next process, whatever its answer said.
func TestOn401(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := authorized(t, -time.Hour, mode(connection.ModeOn401))
		for range 24 {
			i.generation(1)
			i.RefreshIfDue(i.set)
			later(time.Hour)
		}
		is(t, "next refresh", i.NextRefresh(i.set).IsZero() || i.NextRefresh(i.set).After(time.Now().AddDate(100, 0, 0)), true)
		is(t, "refresh shown", i.Snapshot().RefreshAt.IsZero(), true)
		is(t, "status", i.peek().Status, connection.StatusActive)
		i.called(0)

		p := i.generation(1)
		next := i.Rejected(t.Context(), i.set, p)
		is(t, "replayed with", next != nil && next.Generation() == 2, true)
		i.called(1)
		later(time.Minute)
		i.Suspect(i.set, i.generation(2)) // as in the flat form
		i.generation(3)
		i.called(2)
		is(t, "another process", i.another().generation(3).Generation(), 3)
		i.called(2)
		i.sent()
	})
}

// TestOn401DoesNotHammer: an API that refuses every token, and a server that gives the same again, cost one request per cool-down.
func TestOn401DoesNotHammer(t *testing.T) {
	for name, answer := range map[string]func(i *instance) func(int, exchange) (*oauth.TokenResponse, error){
		"new tokens": func(*instance) func(int, exchange) (*oauth.TokenResponse, error) { return nil },
		"the same token": func(i *instance) func(int, exchange) (*oauth.TokenResponse, error) {
			return func(_ int, x exchange) (*oauth.TokenResponse, error) {
				return &oauth.TokenResponse{AccessToken: secret.New("access-0"), TokenType: "Bearer", SentAt: x.at, ExpiresAt: x.at.Add(-time.Hour)}, nil
			}
		},
		"no answer": func(*instance) func(int, exchange) (*oauth.TokenResponse, error) {
			return func(int, exchange) (*oauth.TokenResponse, error) {
				return nil, &oauth.Error{Class: oauth.RetryLater, Code: "server_error"}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				i := authorized(t, -time.Hour, mode(connection.ModeOn401))
				i.server.answer = answer(i)
				for range 600 {
					i.Rejected(t.Context(), i.set, i.token())
					later(100 * time.Millisecond)
				}
				if got := i.server.calls(); got < 2 || got > 10 {
					t.Errorf("the token endpoint was asked %d times in a minute", got)
				}
			})
		})
	}
}

// TestOn401WithoutRefreshToken: it is good until it is refused, and then a person is needed.
func TestOn401WithoutRefreshToken(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t, people, mode(connection.ModeOn401))
		resp := consent("one")
		resp.RefreshToken = secret.Text{}
		if _, err := i.Apply(t.Context(), i.set, connection.Authorized(resp, nil, i.set, "")); err != nil {
			t.Fatal(err)
		}
		later(24 * time.Hour)
		p := i.generation(1)
		is(t, "status", i.peek().Status, connection.StatusActive)
		is(t, "replayed with", i.Rejected(t.Context(), i.set, p), nil)
		i.called(0)
	})
}

func TestEveryRequest(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := authorized(t, time.Hour, mode(connection.ModeEveryRequest))
		for generation := range uint64(5) {
			i.generation(generation + 2)
		}
		i.called(5)
		is(t, "reason", i.store.Get(alice).Current.Reason, connection.ReasonRequested)
		for range 120 { // nothing happens in the background
			i.RefreshIfDue(i.set)
			later(time.Minute)
		}
		i.called(5)
		i.generation(7)
		is(t, "replayed with", i.Rejected(t.Context(), i.set, i.generation(8)).Generation(), 9)
		i.sent()
	})
}

// TestEveryRequestSharesWhatBeganAfterItAsked: who comes while an exchange is under way does not get what that brings, and all who
// come meanwhile share the next.
func TestEveryRequestSharesWhatBeganAfterItAsked(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := authorized(t, time.Hour, mode(connection.ModeEveryRequest))
		i.server.change(func(s *server) { s.delay = time.Second })
		var all sync.WaitGroup
		ask := func(want uint64) {
			all.Go(func() {
				asked := time.Now()
				p, err := i.Token(context.Background(), i.set)
				switch {
				case err != nil:
					t.Error(err)
				case p.Generation() != want:
					t.Errorf("got generation %d, want %d", p.Generation(), want)
				case p.TokenSet().IssuedAt.Before(asked):
					t.Error("the token was asked for before the request came")
				}
			})
			synctest.Wait()
		}
		ask(2)
		time.Sleep(500 * time.Millisecond)
		for range 50 {
			ask(3)
		}
		time.Sleep(time.Second)
		ask(4)
		all.Wait()
		i.called(3)
		i.sent()
	})
}

// TestEveryRequestFailsClosed: yesterday's token is not what was asked for.
func TestEveryRequestFailsClosed(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := authorized(t, time.Hour, mode(connection.ModeEveryRequest))
		i.generation(2)
		i.server.fail(oauth.RetryLater, "server_error")
		for range 100 {
			i.refused(connection.StatusFailing, "server_error")
		}
		i.called(2)
		i.server.heal()
		later(time.Minute)
		i.generation(3)
	})
}

// TestEveryRequestWithoutRefreshToken: there is nothing to ask with, so what is there is used.
func TestEveryRequestWithoutRefreshToken(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := authorized(t, time.Hour, mode(connection.ModeEveryRequest))
		rec := record(time.Hour)
		rec.Current.RefreshToken = secret.Text{}
		i.store.Put(rec)
		i.generation(1)
		i.generation(1)
		i.called(0)
	})
}

// TestEveryRequestInManyInstances: nobody is refused because another instance was faster, and no refresh token is sent twice.
func TestEveryRequestInManyInstances(t *testing.T) {
	virtual(t, func(t *testing.T) {
		first := authorized(t, time.Hour, mode(connection.ModeEveryRequest))
		first.server.change(func(s *server) { s.delay = 100 * time.Millisecond })
		first.store.Change(func(f *storetest.Faults) { f.Latency = 5 * time.Millisecond })
		var all sync.WaitGroup
		for n := range 4 {
			i := first.another()
			i.set.Nonce = strconv.Itoa(n)
			for range 5 {
				all.Go(func() {
					for range 5 {
						if _, err := i.Token(context.Background(), i.set); err != nil {
							t.Error(err)
						}
					}
				})
			}
		}
		all.Wait()
		first.sent()
	})
}

// TestOn401HeedsNoClock: what had expired when it arrived, by one of two clocks, is used as well.
func TestOn401HeedsNoClock(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := authorized(t, -time.Hour, mode(connection.ModeOn401))
		i.server.life = -time.Hour
		i.force(2)
		i.generation(2)
	})
}

// TestEveryRequestAmongChanges: what a change brings, or takes away, is not what a request asked for.
func TestEveryRequestAmongChanges(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := authorized(t, time.Hour, mode(connection.ModeEveryRequest))
		i.server.change(func(s *server) { s.delay = time.Second })
		i.store.Change(func(f *storetest.Faults) { f.Latency = 10 * time.Millisecond })
		for range 3 {
			i.authorize("again")
			var all sync.WaitGroup
			ask := func() {
				if p, err := i.Token(context.Background(), i.set); err == nil && (p == nil || p.TokenSet().Reason != connection.ReasonRequested) {
					t.Errorf("a request got %v", p)
				}
			}
			all.Go(ask)
			synctest.Wait()
			all.Go(func() { // is the first to go on when the flight above is over
				_, _ = i.Apply(context.Background(), i.set, connection.Disconnected("jane"))
			})
			synctest.Wait()
			for range 10 {
				all.Go(ask)
			}
			all.Wait()
		}
	})
}
