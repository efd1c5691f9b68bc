package connection_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/connection"
	"github.com/caddyoauth/caddyoauth/internal/connection/storetest"
)

func TestFastPath(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t)
		first := i.generation(1)
		used := i.store.Use()
		i.store.Change(func(f *storetest.Faults) {
			f.Load, f.Save = &storetest.Fault{Err: errDown}, &storetest.Fault{Err: errDown}
		})
		is(t, "requests without a token", i.traffic(50*time.Minute, time.Second), 0)
		is(t, "the published token set", i.token() == first, true)
		is(t, "storage operations on the fast path", i.store.Use(), used)
		i.called(1)
	})
}

func TestFastPathAllocatesNothing(t *testing.T) {
	i := newInstance(t)
	i.token()
	ctx := t.Context()
	if n := testing.AllocsPerRun(1000, func() { _, _ = i.Token(ctx, i.set) }); n != 0 {
		t.Fatalf("the fast path allocates %v times, want 0", n)
	}
}

// storm asks for a token from many goroutines at once and expects each to be answered with a usable one.
func storm(t *testing.T, n int, sources ...*instance) {
	t.Helper()
	var wg sync.WaitGroup
	var refused atomic.Int64
	for k := range n {
		i := sources[k%len(sources)]
		wg.Go(func() {
			if p, err := i.Token(t.Context(), i.set); err != nil || !p.Usable(time.Now()) {
				refused.Add(1)
			}
		})
	}
	wg.Wait()
	is(t, "requests without a usable token", refused.Load(), 0)
}

func TestOneRequestForAll(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t)
		i.server.delay = 2 * time.Second
		storm(t, callers, i)
		i.called(1)
		later(2 * time.Hour) // nobody refreshed in the background
		storm(t, callers, i)
		i.called(2)
		i.generation(2)
		synctest.Wait()
		is(t, "locks held", i.store.Held(), 0)
	})
}

func TestOneRequestForTwoInstances(t *testing.T) {
	virtual(t, func(t *testing.T) {
		a := authorized(t, -time.Hour)
		b := a.another()
		a.server.delay = 2 * time.Second
		storm(t, 1000, a, b)
		a.called(1)
		later(2 * time.Hour)
		storm(t, 1000, b, a)
		a.called(2)
		is(t, "token set", a.token().TokenSet().AccessToken.Equal(b.token().TokenSet().AccessToken), true)
		is(t, "adoptions", a.Stats().Adoptions.Load()+b.Stats().Adoptions.Load(), 2)
	})
}

func TestBackgroundRefresh(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t)
		p := i.generation(1)
		left := p.ExpiresAt().Sub(i.Snapshot().RefreshAt)
		if left > 5*time.Minute || left < 5*time.Minute*3/4 {
			t.Fatalf("the background refresh is due %v before expiry, want between 3m45s and 5m", left)
		}
		i.server.change(func(s *server) { s.delay = 14 * time.Second })
		later(time.Until(i.Snapshot().RefreshAt) + time.Second)
		is(t, "token while the endpoint is slow", i.token(), p)
		synctest.Wait()
		i.called(2)
		began := time.Now()
		is(t, "requests without a token", i.traffic(13*time.Second, 100*time.Millisecond), 0)
		is(t, "the current token", i.token(), p)
		if took := time.Since(began); took > 14*time.Second {
			t.Fatalf("a slow token endpoint delayed requests that had a token: %v for 13 s of traffic", took)
		}
		later(2 * time.Second)
		next := i.generation(2)
		is(t, "reason", next.TokenSet().Reason, connection.ReasonAhead)
		i.called(2)
	})
}

func TestBackgroundRefreshForever(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := authorized(t, -time.Hour)
		i.server.life, i.server.delay = 20*time.Second, time.Second
		i.token()
		is(t, "requests without a token", i.traffic(30*time.Minute, 50*time.Millisecond), 0)
		if calls := i.server.calls(); calls < 90 || calls > 121 {
			t.Fatalf("%d token requests in 90 lifetimes, want 90 to 121", calls)
		}
		is(t, "refresh token sent", i.server.last().refresh != "refresh-0", true)
	})
}

func TestWaiterMayLeave(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t)
		i.server.delay = 10 * time.Second
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		_, err := i.Token(ctx, i.set)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Second {
			t.Fatalf("a waiter with one second left after %v with %v", time.Since(began), err)
		}
		later(9 * time.Second)
		i.generation(1)
		i.called(1)
		is(t, "deadline of the exchange", i.server.last().deadline, connection.DefaultTimeout)
	})
}

// A waiter without a deadline of its own is not held for ever.
func TestWaiterIsNotHeldForEver(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t)
		i.store.Change(func(f *storetest.Faults) { f.Latency = 9 * time.Second })
		began := time.Now()
		i.refused(connection.StatusFailing, "timeout")
		is(t, "time that the request waited", time.Since(began), connection.DefaultTimeout+time.Second)
		later(time.Minute)
		i.generation(1)
	})
}

func TestEveryStepHasADeadline(t *testing.T) {
	for name, hang := range map[string]time.Duration{"storage": time.Hour, "token endpoint": 0} {
		t.Run(name, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				i := newInstance(t)
				i.store.Change(func(f *storetest.Faults) { f.Latency = hang })
				i.server.delay = time.Hour
				_, _ = i.Token(t.Context(), i.set)
				drained := time.Now()
				if err := i.set.Tasks.Stop(t.Context()); err != nil || time.Since(drained) > time.Minute {
					t.Fatalf("the flight went on for %v, %v", time.Since(drained), err)
				}
			})
		})
	}
}

func TestIdle(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t, func(s *connection.Settings) { s.Policy.IdleAfter = 3 * time.Hour })
		is(t, "next refresh before first use", i.NextRefresh(i.set).IsZero(), true)
		i.RefreshIfDue(i.set)
		i.token()
		used := time.Now()
		for time.Since(used) < 12*time.Hour { // as the refresh loop does
			i.RefreshIfDue(i.set)
			later(time.Minute)
		}
		calls := i.server.calls()
		if calls < 3 || calls > 4 {
			t.Fatalf("%d token requests for a connection that went idle after 3 lifetimes", calls)
		}
		is(t, "next refresh of an idle connection", i.NextRefresh(i.set).IsZero(), true)
		is(t, "last use", i.Snapshot().LastUsed.Equal(used), true)
		i.token()
		i.called(calls + 1)
		is(t, "next refresh of a used one", i.NextRefresh(i.set).Equal(i.Snapshot().RefreshAt), true)
		later(time.Until(i.NextRefresh(i.set)))
		i.RefreshIfDue(i.set)
		is(t, "next refresh while one is under way", i.NextRefresh(i.set).IsZero(), true)
		synctest.Wait()
		i.called(calls + 2)
	})
}
