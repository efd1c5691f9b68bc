package connection_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/connection"
	"github.com/caddyoauth/caddyoauth/internal/connection/storetest"
	"github.com/caddyoauth/caddyoauth/internal/oauth"
)

func TestClassesOfFailure(t *testing.T) {
	for _, c := range []struct {
		class  oauth.Class
		status connection.Status
		least  time.Duration // of the pause after the first failure
		most   time.Duration
	}{
		{oauth.RetryLater, connection.StatusFailing, time.Second, 2 * time.Second},
		{oauth.UnknownOutcome, connection.StatusFailing, time.Second, 2 * time.Second},
		{oauth.Unrecognized, connection.StatusFailing, time.Second, 2 * time.Second},
		{oauth.Misconfigured, connection.StatusMisconfigured, 30 * time.Second, 30 * time.Second},
		{oauth.Revoked, connection.StatusRevoked, 30 * time.Second, 30 * time.Second},
	} {
		t.Run(c.class.String(), func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				i := authorized(t, -time.Hour)
				i.server.fail(c.class, "code")
				u := i.refused(c.status, "code")
				if pause := time.Until(u.RetryAt); pause < c.least || pause > c.most {
					t.Fatalf("the pause is %v, want %v to %v", pause, c.least, c.most)
				}
				snap := i.Snapshot()
				is(t, "status", snap.Status, c.status)
				is(t, "failure", *snap.Failure, connection.Failure{Code: "code", At: snap.Failure.At, Attempts: 1})
				is(t, "next attempt", snap.NextAttempt, u.RetryAt)
				is(t, "stored status", i.store.Get(alice).Status, c.status)
				is(t, "failures told", i.told(connection.KindFailed), 1)
				var cause *oauth.Error
				is(t, "the cause is kept", errors.As(u, &cause) && cause.Class == c.class, true)
			})
		})
	}
}

func TestRetryAfterIsHonoured(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t)
		i.server.failWith(&oauth.Error{Class: oauth.RetryLater, Code: "slow_down", RetryAfter: 7 * time.Minute})
		u := i.refused(connection.StatusFailing, "slow_down")
		is(t, "pause", time.Until(u.RetryAt), 7*time.Minute)
		i.server.heal()
		is(t, "requests without a token", i.traffic(7*time.Minute, time.Second), 420)
		i.called(1)
		i.generation(1)
	})
}

func TestCurrentTokenIsServedWhileRefreshingFails(t *testing.T) {
	for _, class := range []oauth.Class{oauth.RetryLater, oauth.Misconfigured, oauth.Revoked} {
		t.Run(class.String(), func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				i := authorized(t, 10*time.Minute)
				p := i.generation(1)
				i.server.fail(class, "code")
				is(t, "requests without a token", i.traffic(10*time.Minute-5*time.Second, 100*time.Millisecond), 0)
				if i.server.calls() == 0 {
					t.Fatal("no background refresh was tried")
				}
				is(t, "status", i.Snapshot().Status == connection.StatusActive, false)
				is(t, "the current token", i.Current().TokenSet().AccessToken.Equal(p.TokenSet().AccessToken), true)
				later(5 * time.Second)
				if _, err := i.Token(t.Context(), i.set); err == nil {
					t.Fatal("an expired token was given out")
				}
			})
		})
	}
}

// TestShortOutageOfShortTokens: a token that lives for seconds must not run out during the first pause.
func TestShortOutageOfShortTokens(t *testing.T) {
	for round := range 20 { // the pause is left to chance
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				i := newInstance(t)
				i.server.change(func(s *server) { s.life = 9 * time.Second })
				i.generation(1)
				i.server.fail(oauth.RetryLater, "server_error")
				for i.server.calls() < 2 {
					i.token()
					later(10 * time.Millisecond)
				}
				i.server.heal()
				is(t, "requests without a token", i.traffic(8*time.Second, 10*time.Millisecond), 0)
			})
		})
	}
}

func TestRecovery(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t)
		is(t, "status at first", i.Snapshot().Status, connection.StatusPending)
		for n, status := range []connection.Status{connection.StatusMisconfigured, connection.StatusFailing} {
			i.server.fail([]oauth.Class{oauth.Misconfigured, oauth.RetryLater}[n], "code")
			i.refused(status, "code")
			i.server.heal()
			later(5 * time.Minute)
			i.token()
			is(t, "status", i.Snapshot().Status, connection.StatusActive)
			is(t, "failure", i.Snapshot().Failure, nil)
			is(t, "recoveries", i.told(connection.KindRecovered), n+1)
			later(2 * time.Hour)
		}
		i.token()
		is(t, "recoveries without a failure", i.told(connection.KindRecovered), 2)
	})
}

// What another instance obtained ends our failure too.
func TestRecoveryByAdoption(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := authorized(t, -time.Hour)
		i.server.fail(oauth.RetryLater, "code")
		i.refused(connection.StatusFailing, "code")
		i.store.Put(theirs(2, time.Now()))
		later(5 * time.Second)
		i.generation(2)
		is(t, "recoveries", i.told(connection.KindRecovered), 1)
	})
}

// A dead connection costs one call for each pause, whatever the traffic, and the pauses grow.
func TestNegativeCaching(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t)
		i.server.fail(oauth.RetryLater, "server_error")
		for attempt := range 5 { // then the breaker has its say, below
			u := i.refused(connection.StatusFailing, "server_error")
			i.called(attempt + 1)
			used := i.store.Use()
			for range 1000 {
				is(t, "error during the pause", i.refused(connection.StatusFailing, "server_error"), u)
			}
			i.called(attempt + 1)
			is(t, "storage operations during the pause", i.store.Use(), used)
			pause := time.Until(u.RetryAt)
			if ceiling := min(time.Second<<min(attempt+1, 10), time.Minute); pause < time.Second || pause > ceiling {
				t.Fatalf("pause %d is %v, want 1s to %v", attempt+1, pause, ceiling)
			}
			later(pause)
		}
		is(t, "failures in a row", i.Snapshot().Failure.Attempts, 5)
	})
}

func TestNegativeCachingOverAnHour(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t)
		i.server.fail(oauth.RetryLater, "server_error")
		is(t, "requests without a token", i.traffic(time.Hour, 100*time.Millisecond), 36_000)
		if calls := i.server.calls(); calls > 180 { // half a minute apart on average, and by chance
			t.Fatalf("a dead token endpoint was asked %d times in an hour", calls)
		}
	})
}

// who is one of many connections of one token endpoint.
func who(i *instance, n int) *connection.Source {
	id := connection.ID{Connection: fmt.Sprintf("c%d", n)}
	return connection.NewSource(id, fingerprint, func() *connection.Settings { return i.set })
}

func TestBreaker(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t)
		i.server.delay = 100 * time.Millisecond
		i.server.fail(oauth.RetryLater, "server_error")
		var sources []*connection.Source
		for n := range 200 {
			sources = append(sources, who(i, n))
		}
		ask := func() (answered int) {
			for _, s := range sources {
				if _, err := s.Token(t.Context(), i.set); err == nil {
					answered++
				}
			}
			return answered
		}
		for end := time.Now().Add(time.Hour); time.Now().Before(end); later(time.Second) {
			is(t, "connections that got a token", ask(), 0)
		}
		if calls := i.server.calls(); calls > 180 { // half a minute apart on average, and by chance
			t.Fatalf("200 connections asked an endpoint that is down %d times in an hour", calls)
		}
		i.server.heal()
		began := time.Now()
		for ask() < len(sources) {
			later(time.Second)
			if time.Since(began) > 15*time.Minute {
				t.Fatal("the breaker does not close although the endpoint answers")
			}
		}
	})
}

// The failures of exchanges that were under way when the endpoint went down must not add up to a pause of minutes.
func TestShortOutageOfManyConnections(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t)
		i.server.delay = time.Second
		i.server.fail(oauth.RetryLater, "server_error")
		var sources []*connection.Source
		for n := range 300 {
			s := who(i, n)
			sources = append(sources, s)
			go func() { _, _ = s.Token(t.Context(), i.set) }()
		}
		later(2 * time.Second)
		i.server.heal()
		for range 10 {
			later(time.Second)
			for _, s := range sources {
				go func() { _, _ = s.Token(t.Context(), i.set) }()
			}
		}
		later(2 * time.Second)
		for _, s := range sources {
			if s.Current() == nil {
				t.Fatal("a connection has no token 10 s after an outage of 2 s")
			}
		}
	})
}

func TestErrorTexts(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := authorized(t, -time.Hour)
		i.store.Change(func(f *storetest.Faults) { f.Save = &storetest.Fault{Err: errDown} })
		_, err := i.Token(t.Context(), i.set)
		for _, part := range []string{`"drive"`, "failing", "storage", "nothing was sent", errDown.Error()} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("error text %q lacks %q", err, part)
			}
		}
		if strings.Contains(err.Error(), alice.Subject) || strings.HasSuffix(err.Error(), ": ") {
			t.Errorf("error text %q shows the subject, or ends in nothing", err)
		}
		is(t, "the cause is kept", errors.Is(err, errDown), true)
	})
}
