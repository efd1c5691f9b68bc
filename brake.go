package caddyoauth

import (
	"maps"
	"slices"
	"sync"
	"time"
)

// maxBegun bounds how many authorizations one person may begin within pendingLifetime. How many may be under way in a tenant is
// bounded as well, so without this one person could keep all others from connecting.
const maxBegun = 100

// brake counts what people begin, in this process. The zero value is ready for use.
type brake struct {
	mu    sync.Mutex // guards begun
	begun map[beginner][]time.Time
}

// beginner is who begins authorizations.
type beginner struct{ tenant, identity string }

// admits reports whether somebody may begin one more, and counts it.
func (b *brake) admits(who beginner, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	over := func(at time.Time) bool { return now.Sub(at) >= pendingLifetime }
	if b.begun == nil {
		b.begun = make(map[beginner][]time.Time)
	}
	if len(b.begun) > maxPending { // rare, and then most of them are over
		maps.DeleteFunc(b.begun, func(_ beginner, times []time.Time) bool { return over(times[len(times)-1]) })
	}
	times := slices.DeleteFunc(b.begun[who], over)
	if len(times) >= maxBegun {
		b.begun[who] = times
		return false
	}
	b.begun[who] = append(times, now)
	return true
}
