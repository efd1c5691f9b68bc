package caddyoauth

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/connection"
	"github.com/caddyoauth/caddyoauth/internal/oauth"
	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// The tests of the loop run in virtual time: hours pass at once, and to the second.

// loopLab is a refresh loop over sources in memory.
type loopLab struct {
	*refreshLoop
	t         *testing.T
	mu        sync.Mutex
	all       []scheduledSource
	asked     []time.Duration // since the beginning, by all clients
	began     time.Time
	fails     atomic.Bool
	lifetime  time.Duration
	records   map[connection.ID]connection.Record
	scheduled atomic.Int64 // how often the loop looked
}

func newLoopLab(t *testing.T, lifetime time.Duration) *loopLab {
	lab := &loopLab{t: t, began: time.Now(), lifetime: lifetime, records: make(map[connection.ID]connection.Record)}
	lab.refreshLoop = newRefreshLoop(func() []scheduledSource {
		lab.scheduled.Add(1)
		lab.mu.Lock()
		defer lab.mu.Unlock()
		return lab.all
	})
	t.Cleanup(lab.stop)
	return lab
}

// add gives the loop one more source.
func (l *loopLab) add(name string, policy connection.Policy) scheduledSource {
	s := scheduledSource{
		source: connection.NewSource(connection.ID{Connection: name}, "f", func() *connection.Settings { return nil }),
		settings: connection.Settings{
			Store: l, Client: l, Policy: policy, Grant: oauth.GrantClientCredentials, Observe: func(connection.Event) { l.wake() },
		}.Complete(),
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, s)
	return s
}

func (l *loopLab) ClientCredentials(context.Context) (*oauth.TokenResponse, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked = append(l.asked, time.Since(l.began))
	if l.fails.Load() {
		return nil, &oauth.Error{Class: oauth.RetryLater, Code: "temporarily_unavailable"}
	}
	return &oauth.TokenResponse{
		AccessToken: secret.New(fmt.Sprint("token-", len(l.asked))), TokenType: "Bearer", SentAt: time.Now(), ExpiresAt: time.Now().Add(l.lifetime),
	}, nil
}

func (l *loopLab) Password(context.Context) (*oauth.TokenResponse, error) {
	return nil, errors.New("not this grant")
}

func (l *loopLab) Refresh(context.Context, secret.Text) (*oauth.TokenResponse, error) {
	return nil, errors.New("not this grant")
}

func (l *loopLab) Load(_ context.Context, id connection.ID) (connection.Record, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	rec, ok := l.records[id]
	if !ok {
		return rec, connection.ErrNotFound
	}
	return rec, nil
}

func (l *loopLab) Save(_ context.Context, rec connection.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.records[rec.ID] = rec
	return nil
}

func (l *loopLab) Archive(context.Context, connection.Record) error { return nil }

func (l *loopLab) Lock(context.Context, connection.ID, uint64) (func() error, error) {
	return func() error { return nil }, nil
}

// times returns when the token endpoint was asked.
func (l *loopLab) times() []time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]time.Duration(nil), l.asked...)
}

func nothingFirst(context.Context) {}

// TestLoopRefreshesWithoutTraffic: one request, then hours of silence; the token never runs out, and is never asked for early.
func TestLoopRefreshesWithoutTraffic(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		lab := newLoopLab(t, time.Hour)
		s := lab.add("api", connection.Policy{RefreshBefore: 5 * time.Minute})
		lab.start(nothingFirst)
		if _, err := s.source.Token(t.Context(), s.settings); err != nil {
			t.Fatal(err)
		}
		for range 10 * 60 {
			time.Sleep(time.Minute)
			synctest.Wait()
			if !s.source.Current().Usable(time.Now()) {
				t.Fatalf("after %v the token is not usable", time.Since(lab.began))
			}
		}
		asked := lab.times()
		if len(asked) < 10 || len(asked) > 12 {
			t.Fatalf("asked at %v", asked)
		}
		for i := 1; i < len(asked); i++ { // 5 minutes before the hour, less a quarter of that by chance
			if gap := asked[i] - asked[i-1]; gap < 55*time.Minute || gap > 57*time.Minute {
				t.Errorf("refresh %d came %v after the one before", i, gap)
			}
		}
	})
}

// TestLoopLeavesIdleConnectionsAlone until they are used again.
func TestLoopLeavesIdleConnectionsAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		lab := newLoopLab(t, time.Hour)
		s := lab.add("api", connection.Policy{IdleAfter: 3 * time.Hour})
		never := lab.add("never", connection.Policy{})
		lab.start(nothingFirst)
		if _, err := s.source.Token(t.Context(), s.settings); err != nil {
			t.Fatal(err)
		}
		time.Sleep(48 * time.Hour)
		if n := len(lab.times()); n < 3 || n > 5 {
			t.Errorf("an idle connection was asked for %d times", n)
		}
		if never.source.Current() != nil {
			t.Error("a connection that nobody used was refreshed")
		}
		before := len(lab.times())
		if _, err := s.source.Token(t.Context(), s.settings); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if n := len(lab.times()) - before; n != 2 {
			t.Errorf("in use again: %d requests, want one for the token and one ahead of its expiry", n)
		}
	})
}

// TestLoopWakesForAShorterToken: it sleeps for the long-lived token when one with a short life is published.
func TestLoopWakesForAShorterToken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		lab := newLoopLab(t, 10*time.Second)
		s := lab.add("api", connection.Policy{})
		lab.start(nothingFirst)
		time.Sleep(time.Second) // the loop has found nothing and sleeps for a minute
		if _, err := s.source.Token(t.Context(), s.settings); err != nil {
			t.Fatal(err)
		}
		time.Sleep(9 * time.Second)
		if asked := lab.times(); len(asked) != 2 {
			t.Errorf("asked at %v; want the second before the first token's end", asked)
		}
	})
}

// TestLoopDoesNotSpin: a token endpoint that fails for an hour is asked with growing pauses, and the loop sleeps in between.
func TestLoopDoesNotSpin(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		lab := newLoopLab(t, 2*time.Hour)
		s := lab.add("api", connection.Policy{})
		lab.start(nothingFirst)
		if _, err := s.source.Token(t.Context(), s.settings); err != nil {
			t.Fatal(err)
		}
		lab.fails.Store(true)
		time.Sleep(4 * time.Hour)
		if n := len(lab.times()); n < 10 || n > 360 {
			t.Errorf("a failing endpoint was asked %d times in two hours", n)
		}
		if rounds := lab.scheduled.Load(); rounds > 1000 {
			t.Errorf("the loop looked %d times in four hours", rounds)
		}
		lab.fails.Store(false)
		time.Sleep(2*time.Minute + time.Second) // the longest pause of a connection, and that of the endpoint's breaker
		if !s.source.Current().Usable(time.Now()) {
			t.Error("the loop did not recover")
		}
	})
}

// TestLoopStops: stop waits for the loop, may be called often and without start, and nothing is refreshed after it.
func TestLoopStops(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		lab := newLoopLab(t, time.Hour)
		s := lab.add("api", connection.Policy{})
		var firsts atomic.Int64
		for range 3 {
			lab.start(func(ctx context.Context) {
				firsts.Add(1)
				<-ctx.Done() // it is cut short by stop
			})
		}
		synctest.Wait()
		var wait sync.WaitGroup
		for range 3 {
			wait.Go(lab.stop)
		}
		wait.Wait()
		lab.stop()
		lab.start(func(context.Context) { firsts.Add(1) })
		lab.wake()
		lab.wake()
		if _, err := s.source.Token(t.Context(), s.settings); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Hour)
		if n := len(lab.times()); n != 1 || firsts.Load() != 1 {
			t.Errorf("%d requests, first ran %d times", n, firsts.Load())
		}
		unstarted := newRefreshLoop(func() []scheduledSource { t.Error("it never started"); return nil })
		unstarted.stop()
		unstarted.start(func(context.Context) { t.Error("it started after its end") })
		unstarted.stop()
	})
}
