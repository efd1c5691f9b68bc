package connection_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/connection"
	"github.com/caddyoauth/caddyoauth/internal/connection/storetest"
	"github.com/caddyoauth/caddyoauth/internal/oauth"
)

func TestStopWaitsForTheFlight(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t)
		i.server.delay = 10 * time.Second
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, _ = i.Token(ctx, i.set)

		old, began := i.set, time.Now()
		i.set = i.settings()
		i.live = i.set
		hurried, enough := context.WithTimeout(t.Context(), time.Second)
		defer enough()
		if err := old.Tasks.Stop(hurried); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("stop in the middle of a flight: got %v", err)
		}
		if err := old.Tasks.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		is(t, "time that the flight had left", time.Since(began), 9*time.Second)
		old.Tasks.Close()
		old.Tasks.Close()
		is(t, "saved before stop returned", i.store.Get(alice).Current.Generation, 1)
		i.generation(1)
		i.called(1)
	})
}

// The flight that a request of the old configuration began is the one that a request of the new one waits for.
func TestFlightIsSharedOverAReload(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t)
		i.server.delay = 5 * time.Second
		go func(old *connection.Settings) { _, _ = i.Token(context.Background(), old) }(i.set)
		synctest.Wait()
		old := i.set
		i.set = i.settings()
		i.live = i.set
		i.generation(1)
		i.called(1)
		if err := old.Tasks.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

func TestNoBackgroundFlightAfterStop(t *testing.T) {
	for name, live := range map[string]func(i *instance) *connection.Settings{
		"nothing is live":                    func(*instance) *connection.Settings { return nil },
		"only the stopping one is live":      func(i *instance) *connection.Settings { return i.set },
		"another one that stops too is live": func(i *instance) *connection.Settings { return stopped(i) },
	} {
		t.Run(name, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				i := newInstance(t)
				i.generation(1)
				if err := i.set.Tasks.Stop(t.Context()); err != nil {
					t.Fatal(err)
				}
				i.live = live(i)
				later(time.Until(i.Snapshot().RefreshAt) + time.Second)
				for range 10 {
					i.generation(1)
					i.RefreshIfDue(i.set)
					synctest.Wait()
				}
				i.called(1)
				later(time.Hour)
				i.generation(2) // a request that has no token gets one all the same
				i.called(2)
			})
		})
	}
}

func stopped(i *instance) *connection.Settings {
	s := i.settings()
	_ = s.Tasks.Stop(context.Background())
	return s
}

// Requests that are still served under the old configuration keep the token fresh through the new one.
func TestBackgroundFlightGoesOnUnderTheNextConfiguration(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t)
		i.generation(1)
		i.live = i.settings(func(s *connection.Settings) { s.Nonce = "next" })
		if err := i.set.Tasks.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		later(time.Until(i.Snapshot().RefreshAt) + time.Second)
		i.generation(1)
		synctest.Wait()
		is(t, "who refreshed", i.generation(2).TokenSet().Nonce, "next")
	})
}

// While a configuration ends, the request is what keeps its storage open: it may not leave its flight.
func TestWaiterStaysWhileTheConfigurationEnds(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t)
		i.server.delay = 5 * time.Second
		if err := i.set.Tasks.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		if _, err := i.Token(ctx, i.set); err != nil {
			t.Fatal(err)
		}
		is(t, "time that the request waited", time.Since(began), 5*time.Second)
	})
}

func TestClosedConfiguration(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t)
		i.set.Tasks.Close()
		i.live = nil
		i.refused(connection.StatusFailing, "closed")
		is(t, "storage operations after close", i.store.Use(), storetest.Use{})

		next := new(storetest.Memory)
		i.live = i.settings(func(s *connection.Settings) { s.Store = next })
		i.generation(1)
		is(t, "storage operations after close", i.store.Use(), storetest.Use{})
		is(t, "generation in the live storage", next.Get(alice).Current.Generation, 1)
	})
}

// Closed in the middle of a flight: what it got goes where the next configuration will look for it.
func TestCloseInTheMiddleOfAFlight(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := authorized(t, -time.Hour)
		next := new(storetest.Memory)
		i.server.answer = func(n int, x exchange) (*oauth.TokenResponse, error) {
			i.live = i.settings(people, func(s *connection.Settings) { s.Store = next })
			i.set.Tasks.Close()
			return i.server.token(n, x), nil
		}
		i.generation(2)
		is(t, "generation in the next storage", next.Get(alice).Current.Generation, 2)
	})
}

// Who corrects a secret or a key and reloads does not wait for the end of a pause; who waits for a provider does.
func TestPauseOverAReload(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(i *instance)
		asked int
		ok    bool
	}{
		"client refused": {func(i *instance) { i.server.fail(oauth.Misconfigured, "invalid_client") }, 2, true},
		"storage": {func(i *instance) {
			i.store.Change(func(f *storetest.Faults) { f.Load = &storetest.Fault{Err: connection.ErrUnreadable} })
		}, 1, true},
		"endpoint down": {func(i *instance) {
			i.server.failWith(&oauth.Error{Class: oauth.RetryLater, Code: "slow_down", RetryAfter: time.Minute})
		}, 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				i := newInstance(t)
				c.spoil(i)
				if _, err := i.Token(t.Context(), i.set); err == nil {
					t.Fatal("no failure to wait for")
				}
				i.server.heal()
				i.store.Change(func(f *storetest.Faults) { f.Load = nil })
				if _, err := i.Token(t.Context(), i.set); err == nil {
					t.Fatal("the pause does not hold")
				}
				i.set = i.settings()
				i.live = i.set
				_, err := i.Token(t.Context(), i.set)
				is(t, "a token after the reload", err == nil, c.ok)
				i.called(c.asked)
			})
		})
	}
}

// The requests that the old configuration still serves must not take turns with those of the new one without a pause.
func TestTwoConfigurationsShareAPause(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t)
		i.server.fail(oauth.Misconfigured, "invalid_client")
		old := i.set
		i.set = i.settings()
		i.live = i.set
		if err := old.Tasks.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		for range 100 {
			_, _ = i.Token(t.Context(), i.set)
			_, _ = i.Token(t.Context(), old)
		}
		i.called(1)
	})
}

// Requests that come to a configuration while it ends begin their flights under the next one, or under constant load it would never end.
func TestEndingConfigurationBeginsNoFlights(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t, func(s *connection.Settings) { s.Policy.Mode = connection.ModeEveryRequest })
		i.server.delay = time.Second
		old := i.set
		next := new(storetest.Memory)
		i.set = i.settings(func(s *connection.Settings) { s.Policy, s.Nonce, s.Store = old.Policy, "next", next })
		i.live = i.set
		traffic, end := context.WithCancel(t.Context())
		for offset := range 4 {
			go func() {
				for later(time.Duration(offset) * 250 * time.Millisecond); traffic.Err() == nil; {
					_, _ = i.Token(traffic, old)
				}
			}()
		}
		later(5 * time.Second)
		began := time.Now()
		if err := old.Tasks.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		is(t, "the end took no longer than a flight", time.Since(began) <= 2*time.Second, true)
		later(5 * time.Second)
		is(t, "who refreshes", i.Current().TokenSet().Nonce, "next")
		end()
		later(5 * time.Second)
		generation := next.Get(alice).Current.Generation
		if _, err := i.Apply(t.Context(), old, connection.Disconnected("alice")); err != nil {
			t.Fatal(err)
		}
		is(t, "where changes go", next.Get(alice).Current.Generation > generation, true)
	})
}

// A configuration is often replaced because it cannot store: what it could not save is saved through the next one.
func TestSaveThroughTheNextConfiguration(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := authorized(t, -time.Hour)
		outage(i)
		go func() { _, _ = i.Token(context.Background(), i.set) }()
		later(3 * time.Second)
		old, next := i.set, new(storetest.Memory)
		next.Put(record(-time.Hour))
		i.set = i.settings(people, func(s *connection.Settings) { s.Store = next })
		i.live = i.set
		began := time.Now()
		if err := old.Tasks.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		is(t, "the end took no longer than a few attempts", time.Since(began) < 10*time.Second, true)
		is(t, "generation in the next storage", next.Get(alice).Current.Generation, 2)
		i.generation(2)
		i.called(1)
	})
}
