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
	failures int
	openTill time.Time
}

// allow reports whether an exchange may be made now, and otherwise when to try again. A call that is allowed while the
// breaker is open is the probe: it moves the end of the pause so that no other is let through meanwhile.
func (b *Breaker) allow(now time.Time, timeout time.Duration) (ok bool, retryAt time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failures < breakerThreshold {
		return true, time.Time{}
	}
	if now.Before(b.openTill) {
		return false, b.openTill
	}
	b.openTill = now.Add(timeout)
	return true, time.Time{}
}

// report tells the outcome of an exchange: temporary means that the endpoint itself is in trouble.
func (b *Breaker) report(now time.Time, temporary bool, retryAfter time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !temporary {
		b.failures, b.openTill = 0, time.Time{}
		return
	}
	b.failures++
	if b.failures >= breakerThreshold {
		b.openTill = now.Add(max(retryAfter, backoff(backoffBase, b.failures-breakerThreshold+1)))
	}
}
