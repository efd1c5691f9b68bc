package api

import (
	"sync"
	"time"
)

// limiter counts requests by caller: a bucket that holds one minute's worth and fills evenly. It is bounded, since callers come
// and go.
type limiter struct {
	mu      sync.Mutex // guards the field below
	buckets map[string]*bucket
}

type bucket struct {
	left float64
	at   time.Time
}

// maxBuckets bounds the callers that are counted at once. Whoever is dropped begins with a full bucket.
const maxBuckets = 10_000

func newLimiter() *limiter { return &limiter{buckets: make(map[string]*bucket)} }

// wait takes one request from the caller's bucket, or returns how long the caller has to wait for the next.
func (l *limiter) wait(caller string, perMinute int) time.Duration {
	if perMinute <= 0 {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	rate, full := float64(perMinute)/float64(time.Minute), float64(perMinute)
	b := l.buckets[caller]
	if b == nil {
		l.makeRoom(now)
		b = &bucket{left: full, at: now}
		l.buckets[caller] = b
	}
	b.left, b.at = min(full, b.left+float64(now.Sub(b.at))*rate), now
	if b.left < 1 {
		return time.Duration((1 - b.left) / rate)
	}
	b.left--
	return 0
}

// makeRoom drops who has been away for a minute, whose bucket is full again; and anybody, if all are here.
func (l *limiter) makeRoom(now time.Time) {
	if len(l.buckets) < maxBuckets {
		return
	}
	for caller, b := range l.buckets {
		if now.Sub(b.at) > time.Minute {
			delete(l.buckets, caller)
		}
	}
	for caller := range l.buckets {
		if len(l.buckets) < maxBuckets {
			return
		}
		delete(l.buckets, caller)
	}
}
