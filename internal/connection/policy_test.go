package connection

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"
)

func TestDefaults(t *testing.T) {
	t.Parallel()
	want := Policy{
		RefreshBefore: DefaultRefreshBefore, DefaultLifetime: DefaultLifetime, Timeout: DefaultTimeout, IdleAfter: DefaultIdleAfter,
		RejectionCooldown: DefaultRejectionCooldown, UnsavedAfter: DefaultUnsavedAfter,
	}
	if got := (Policy{}).withDefaults(); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := (Policy{RefreshBefore: -1, DefaultLifetime: -1, Timeout: -1, IdleAfter: -1, RejectionCooldown: -1, UnsavedAfter: -1}).withDefaults(); got != want {
		t.Errorf("negative durations: got %+v, want %+v", got, want)
	}
	own := Policy{1, 2, 3, 4, 5, 6, ModeOn401, true, 7, 8, 9, 10, 11}
	if got := own.withDefaults(); got != own {
		t.Errorf("got %+v, want %+v", got, own)
	}
}

func TestWindow(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		life, before time.Duration
		chance       float64
		refresh, use time.Duration // after issue
	}{
		{time.Hour, 5 * time.Minute, 0, 55 * time.Minute, time.Hour - 5*time.Second},
		{time.Hour, 5 * time.Minute, 1, 56*time.Minute + 15*time.Second, time.Hour - 5*time.Second},
		{10 * time.Minute, 5 * time.Minute, 0, 8 * time.Minute, 10*time.Minute - 5*time.Second},
		{20 * time.Second, 5 * time.Minute, 0, 16 * time.Second, 19 * time.Second},
		{time.Hour, 10 * time.Second, 0, time.Hour - 10*time.Second, time.Hour - 2500*time.Millisecond},
		{time.Second, 5 * time.Minute, 0, 950 * time.Millisecond, 950 * time.Millisecond},
		{0, 5 * time.Minute, 0, 0, 0},
	} {
		set := TokenSet{IssuedAt: epoch, ExpiresAt: epoch.Add(c.life)}
		refreshAt, usableUntil := Policy{RefreshBefore: c.before}.window(set, c.chance)
		if got := refreshAt.Sub(epoch); got != c.refresh {
			t.Errorf("life %v, before %v, chance %v: refresh after %v, want %v", c.life, c.before, c.chance, got, c.refresh)
		}
		if got := usableUntil.Sub(epoch); got != c.use {
			t.Errorf("life %v, before %v, chance %v: usable for %v, want %v", c.life, c.before, c.chance, got, c.use)
		}
	}
}

func TestWindowHoldsForAnyLifetime(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	for range 100_000 {
		life := time.Duration(random.Int64N(int64(1) << random.IntN(56)))
		policy := Policy{RefreshBefore: time.Duration(random.Int64N(int64(1)<<random.IntN(50)) + 1)}
		set := TokenSet{IssuedAt: epoch, ExpiresAt: epoch.Add(life)}
		refreshAt, usableUntil := policy.window(set, random.Float64())
		switch {
		case refreshAt.Before(set.IssuedAt), refreshAt.After(usableUntil), usableUntil.After(set.ExpiresAt):
			t.Fatalf("life %v, %+v: refresh after %v, usable for %v", life, policy, refreshAt.Sub(epoch), usableUntil.Sub(epoch))
		case set.ExpiresAt.Sub(refreshAt) > max(life/5, 1):
			t.Fatalf("life %v, %+v: refreshed %v before expiry, more than a fifth", life, policy, set.ExpiresAt.Sub(refreshAt))
		case set.ExpiresAt.Sub(refreshAt) > policy.RefreshBefore:
			t.Fatalf("life %v, %+v: refreshed %v before expiry", life, policy, set.ExpiresAt.Sub(refreshAt))
		case refreshAt.Sub(epoch) < minRefreshGap && refreshAt.Before(usableUntil):
			t.Fatalf("life %v, %+v: refreshed %v after issue", life, policy, refreshAt.Sub(epoch))
		case set.ExpiresAt.Sub(usableUntil) > maxLeeway:
			t.Fatalf("life %v, %+v: given up %v before expiry", life, policy, set.ExpiresAt.Sub(usableUntil))
		}
	}
	set := TokenSet{IssuedAt: epoch, ExpiresAt: epoch.Add(-time.Hour)}
	if refreshAt, usableUntil := (Policy{}).withDefaults().window(set, 0.5); refreshAt.After(set.ExpiresAt) || usableUntil.After(set.ExpiresAt) {
		t.Error("a token that expired before it was issued is usable after its expiry")
	}
}

func TestJitterSpreadsRefreshes(t *testing.T) {
	t.Parallel()
	set := TokenSet{IssuedAt: epoch, ExpiresAt: epoch.Add(time.Hour)}
	first, last := set.ExpiresAt, set.IssuedAt
	for range 1000 {
		p := publish(set, Policy{}.withDefaults(), epoch)
		first, last = earlier(first, p.refreshAt), later(last, p.refreshAt)
	}
	if spread := last.Sub(first); spread < time.Minute || spread > 75*time.Second {
		t.Errorf("1000 instances refresh within %v, want nearly 75 s", spread)
	}
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func TestBackoff(t *testing.T) {
	t.Parallel()
	for base, longest := range map[time.Duration]time.Duration{backoffBase: backoffMax, refusedBase: refusedMax} {
		for _, attempts := range []int{0, 1, 2, 5, 8, 9, 60, 1 << 40} {
			ceiling := longest
			if attempts < 9 {
				ceiling = min(base<<attempts, longest)
			}
			least, most := longest, time.Duration(0)
			for range 300 {
				pause := backoff(base, longest, attempts)
				least, most = min(least, pause), max(most, pause)
			}
			if least < base || most > ceiling {
				t.Errorf("backoff(%v, %d): %v to %v, want within %v to %v", base, attempts, least, most, base, ceiling)
			}
			if spread := ceiling - base; most-least < spread*3/4 {
				t.Errorf("backoff(%v, %d): %v to %v is no full jitter up to %v", base, attempts, least, most, ceiling)
			}
		}
	}
}

func TestBreakerStates(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var b Breaker
		may := func(want bool) {
			t.Helper()
			if at := b.take(time.Now(), 30*time.Second); at.IsZero() != want {
				t.Fatalf("let through: %t, want %t", at.IsZero(), want)
			} else if !want && !at.After(time.Now()) {
				t.Fatal("the next attempt may be made in the past")
			}
		}
		fail := func() { began := time.Now(); time.Sleep(time.Millisecond); b.report(began, true, 0) }
		for range breakerThreshold {
			may(true)
			fail()
		}
		may(false)
		time.Sleep(2 * time.Second) // the first pause is at most this
		if !b.blocked(time.Now()).IsZero() {
			t.Fatal("blocked after the pause")
		}
		may(true)  // the probe
		may(false) // nobody else
		if soon := time.Until(b.blocked(time.Now())); soon > backoffBase {
			t.Fatalf("others wait %v for the probe", soon)
		}
		time.Sleep(30 * time.Second)
		may(true) // the probe never came back
		began := time.Now()
		time.Sleep(time.Second)
		b.report(began, true, time.Minute) // Retry-After
		time.Sleep(59 * time.Second)
		may(false)
		time.Sleep(time.Second)
		may(true)
		b.report(time.Now(), false, 0)
		may(true)
		may(true)
		for range breakerThreshold - 1 { // counted anew
			fail()
		}
		may(true)
	})
}

// What was under way when the pause began does not lengthen it, but its Retry-After is heard.
func TestBreakerStragglers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var b Breaker
		began := time.Now()
		time.Sleep(time.Second)
		for range 1000 {
			b.report(began, true, 0)
		}
		if pause := time.Until(b.blocked(time.Now())); pause <= 0 || pause > 2*backoffBase {
			t.Fatalf("a thousand failures at once make a pause of %v", pause)
		}
		b.report(began, true, time.Minute)
		if pause := time.Until(b.blocked(time.Now())); pause != time.Minute {
			t.Fatalf("Retry-After of a minute makes a pause of %v", pause)
		}
	})
}
