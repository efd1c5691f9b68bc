package connection

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// Unavailable says that there is no usable token, and why. Its text is safe to show to operators.
type Unavailable struct {
	ID      ID
	Status  Status
	Code    string    // error code of RFC 6749 section 5.2, or one of ours
	RetryAt time.Time // zero when waiting does not help
	Err     error     // the cause; nil when there is none beyond the code
}

// Error names the connection, the status and the cause.
func (e *Unavailable) Error() string {
	text := fmt.Sprintf("no usable token for connection %q: %s (%s)", e.ID.Connection, e.Status, e.Code)
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

// Unwrap returns the cause.
func (e *Unavailable) Unwrap() error { return e.Err }

// Source gives out the token of one ID and keeps it fresh. There is one per ID, fingerprint and storage in a process; it
// outlives configurations. The zero value is not usable; call NewSource.
type Source struct {
	id          ID
	fingerprint string
	live        func() *Settings // Settings of the newest live configuration that has this source; nil when there is none
	published   atomic.Pointer[Published]
	lastUsed    atomic.Int64 // unix seconds
	stats       Stats
	born        time.Time

	mu       sync.Mutex // guards the fields below; never held across I/O
	flight   *flight
	launched uint64 // flights so far
	status   Status
	failure  *Failure
	retryAt  time.Time // no attempt before this
	lastErr  error     // what requests are told until then
	lookedAt time.Time // when LookAgain looked last
	soughtAt time.Time // when the storage was last soughtAt into for a refusal that stands
	pauseOf  *Settings // the Settings that the pause is for, because it may be their fault; nil = for all
}

// NewSource returns the source of one ID. fingerprint is a digest of what its tokens depend on; live gives the Settings to go
// on with when those that a caller holds are closed.
func NewSource(id ID, fingerprint string, live func() *Settings) *Source {
	return &Source{id: id, fingerprint: fingerprint, live: live, status: StatusPending, born: time.Now()}
}

// ID returns whose tokens these are.
func (s *Source) ID() ID { return s.id }

// Token returns a usable token set. With one at hand it takes no lock, does no I/O and allocates nothing; when the background
// refresh is due it starts it and goes on with the current token. Only without a usable token does it wait, until the refresh
// is done, ctx ends, or the time-out of the policy has passed. Errors are *Unavailable or ctx's own.
func (s *Source) Token(ctx context.Context, set *Settings) (*Published, error) {
	now := time.Now()
	s.stats.Uses.Add(1)
	if second := now.Unix(); s.lastUsed.Load() != second {
		s.lastUsed.Store(second)
	}
	if set.Policy.Mode == ModeEveryRequest {
		return s.latest(ctx, set)
	}
	p := s.published.Load()
	if p == nil || !p.Usable(now) || p.suspect.Load() {
		return s.obtain(ctx, set, p)
	}
	if now.After(p.refreshAt) && p.refreshing.CompareAndSwap(false, true) {
		s.ahead(set, p)
	}
	return p, nil
}

// Current returns what is published, usable or not; nil when nothing is.
func (s *Source) Current() *Published { return s.published.Load() }

// obtain is the slow path of Token: p is missing, out of time, or suspect.
func (s *Source) obtain(ctx context.Context, set *Settings, p *Published) (*Published, error) {
	w := want{reason: ReasonFirst}
	switch {
	case p != nil && p.suspect.Load():
		w = want{reason: ReasonRejected, newer: p.Generation()}
	case p != nil:
		w = want{reason: ReasonExpired}
	}
	result, err := s.await(ctx, set, w)
	if err != nil && p != nil && p.Usable(time.Now()) && ctx.Err() == nil {
		// Suspect, but the refresh did not help: the resource server has the last word on it.
		return p, nil
	}
	return result, err
}

// await joins the flight under way, or starts one, until a result satisfies w.
func (s *Source) await(ctx context.Context, set *Settings, w want) (*Published, error) {
	switch set = s.onward(set); {
	case set.Tasks.Closed():
		return nil, s.unavailable(codeClosed)
	case set.Tasks.isStopped():
		// The last configuration is ending: the request's own draining must cover the flight, so the waiter may not leave it.
		ctx = context.WithoutCancel(ctx)
	}
	timeout := time.NewTimer(set.Policy.Timeout + time.Second)
	defer timeout.Stop()
	for range 3 { // again when the flight that was joined had begun for something else
		f, err := s.join(set, w)
		if err != nil {
			return nil, err
		}
		ready := f.done
		if !f.serves(w) {
			ready = f.over // what it has left is looked at in the next round
		}
		select {
		case <-ready:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-timeout.C:
			return nil, s.unavailable(codeTimeout)
		}
		if !f.serves(w) {
			continue
		}
		if f.err != nil {
			return nil, f.err
		}
		if f.result.satisfies(w, time.Now()) {
			return f.result, nil
		}
		if f.result.unsaved {
			return nil, s.unavailable(codeStorage) // no further rotation until it is saved
		}
		if f.want.newer >= w.newer {
			if w.reason == ReasonForced {
				return f.result, nil // the server gave the same token again: that is its answer
			}
			break
		}
	}
	return nil, s.unavailable(codeSuperseded)
}

// onward returns the settings to begin something under. Once a configuration ends, that is the next one, if it has this source: requests
// come to the old one a little longer, and would keep it from ending.
func (s *Source) onward(set *Settings) *Settings {
	if set.Tasks.isStopped() {
		if next := s.live(); next != nil && !next.Tasks.isStopped() {
			return next
		}
	}
	return set
}

// join returns the flight under way or starts one, unless what w asks for was published since the caller looked. During the
// pause after a failure it returns that failure.
func (s *Source) join(set *Settings, w want) (*flight, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.flight != nil {
		return s.flight, nil
	}
	now := time.Now()
	if p := s.published.Load(); p != nil && p.satisfies(w, now) && w.reason != ReasonRequested {
		return &flight{done: closed, result: p}, nil
	}
	if s.lastErr != nil && now.Before(s.retryAt) && s.paused(set) && (w.reason != ReasonForced || askedFor(s.lastErr)) {
		return nil, s.lastErr
	}
	return s.launch(set, w), nil
}

// paused reports whether the pause after a failure is for these Settings. One that ends is bound by any, or the two of a reload
// would take turns without a pause.
func (s *Source) paused(set *Settings) bool {
	return s.pauseOf == nil || s.pauseOf == set || set.Tasks.isStopped()
}

// closed is the done channel of what is there without a flight.
var closed = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// ahead starts the background refresh of p, unless the configuration is ending or a pause after a failure is on.
func (s *Source) ahead(set *Settings, p *Published) {
	if set = s.onward(set); set.Tasks.isStopped() {
		p.refreshing.Store(false)
		return
	}
	// An error is the pause after a failure; the failed flight has published a copy of p that is due after it.
	_, _ = s.join(set, want{reason: ReasonAhead, newer: p.Generation()})
}

// RefreshIfDue starts the background refresh when its time has come and the connection is in use.
func (s *Source) RefreshIfDue(set *Settings) {
	p := s.published.Load()
	if p == nil || !s.inUse(set) {
		return
	}
	if now := time.Now(); !now.Before(p.refreshAt) && p.refreshing.CompareAndSwap(false, true) {
		s.ahead(set, p)
	}
}

// NextRefresh returns when RefreshIfDue has something to do; zero when nothing is due because there is no token, the
// connection is not in use, or the refresh is under way.
func (s *Source) NextRefresh(set *Settings) time.Time {
	p := s.published.Load()
	if p == nil || p.refreshing.Load() || !s.inUse(set) {
		return time.Time{}
	}
	return p.refreshAt
}

// inUse reports whether a request asked for the token within the policy's IdleAfter.
func (s *Source) inUse(set *Settings) bool {
	return time.Since(time.Unix(s.lastUsed.Load(), 0)) <= set.Policy.IdleAfter
}
