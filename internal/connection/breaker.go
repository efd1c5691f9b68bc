package connection

import (
	"sync"
	"time"
)

// breakerThreshold is how many temporary failures in a row, over all connections of one token endpoint, open its breaker.
const breakerThreshold = 5

// Breaker keeps a thousand connections from hammering one token endpoint that is down. All Settings with the same token
// endpoint share one. While it is open only one exchange per pause is let through, as a probe. The zero value is closed.
type Breaker struct {
	mu       sync.Mutex // guards all fields; never held across I/O
	failures int        // in a row, without those that were under way when a pause began
	openedAt time.Time  // when the present pause began
	openTill time.Time
	probing  bool // one exchange is let through; openTill is the longest that it may take
}

// blocked returns when to try again if no exchange may be made now, else the zero time.
func (b *Breaker) blocked(now time.Time) time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.until(now)
}

// until is blocked for those who hold mu. A probe is usually answered long before its time is up, so others look soon.
func (b *Breaker) until(now time.Time) time.Time {
	switch {
	case b.failures < breakerThreshold || !now.Before(b.openTill):
		return time.Time{}
	case b.probing:
		return now.Add(backoffBase)
	}
	return b.openTill
}

// take is blocked for those who go on to make the exchange. One that is let through while the breaker is open is the probe: it
// moves the end of the pause so that no other is let through meanwhile, for at most timeout.
func (b *Breaker) take(now time.Time, timeout time.Duration) time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	if at := b.until(now); !at.IsZero() {
		return at
	}
	if b.failures >= breakerThreshold {
		b.openTill, b.probing = now.Add(timeout), true
	}
	return time.Time{}
}

// report tells the outcome of an exchange and when it began: temporary means that the endpoint itself is in trouble. A failure
// of an exchange that began before the present pause says nothing new, or a thousand of them would make the pause endless.
func (b *Breaker) report(began time.Time, temporary bool, retryAfter time.Duration) {
	now := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	if !temporary {
		b.failures, b.openedAt, b.openTill, b.probing = 0, time.Time{}, time.Time{}, false
		return
	}
	if b.failures >= breakerThreshold && !began.After(b.openedAt) {
		if asked := now.Add(retryAfter); asked.After(b.openTill) {
			b.openTill = asked
		}
		return
	}
	b.failures++
	if b.failures >= breakerThreshold {
		b.openedAt, b.probing = now, false
		b.openTill = now.Add(max(retryAfter, backoff(backoffBase, backoffMax, b.failures-breakerThreshold+1)))
	}
}

// Forgettable reports whether nothing is lost with this breaker: it is closed, or its pause is over.
func (b *Breaker) Forgettable(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !now.Before(b.openTill)
}
