package connection

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/oauth"
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

	mu      sync.Mutex // guards the fields below; never held across I/O
	flight  *flight
	status  Status
	failure *Failure
	retryAt time.Time // no attempt before this
	lastErr error     // what requests are told until then
	pauseOf *Settings // the Settings that the pause is for, because it may be their fault; nil = for all
}

// want is what a flight is asked for.
type want struct {
	reason Reason
	newer  uint64 // only a generation above this one will do
	change Change // what to do instead of refreshing; nil = refresh
	by     string // who wants it; "" for what nobody asked for
}

// flight is the one refresh under way. result and err are written before done is closed.
type flight struct {
	want   want
	done   chan struct{}
	over   chan struct{} // closed when the next flight may begin: after done if the result has yet to be saved
	result *Published
	err    error
}

// NewSource returns the source of one ID. fingerprint is a digest of what its tokens depend on; live gives the Settings to go
// on with when those that a caller holds are closed.
func NewSource(id ID, fingerprint string, live func() *Settings) *Source {
	return &Source{id: id, fingerprint: fingerprint, live: live, status: StatusPending}
}

// ID returns whose tokens these are.
func (s *Source) ID() ID { return s.id }

// Token returns a usable token set. With one at hand it takes no lock, does no I/O and allocates nothing; when the background
// refresh is due it starts it and goes on with the current token. Only without a usable token does it wait, until the refresh
// is done, ctx ends, or the time-out of the policy has passed. Errors are *Unavailable or ctx's own.
func (s *Source) Token(ctx context.Context, set *Settings) (*Published, error) {
	now := time.Now()
	if second := now.Unix(); s.lastUsed.Load() != second {
		s.lastUsed.Store(second)
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
	if set.Tasks.Closed() {
		if set = s.live(); set == nil {
			return nil, s.unavailable(codeClosed)
		}
	}
	if set.Tasks.isStopped() {
		// The configuration is ending: the request's own draining must cover the flight, so the waiter may not leave it.
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
		if f.want.change != nil {
			ready = f.over // what a change has left is looked at in the next round
		}
		select {
		case <-ready:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-timeout.C:
			return nil, s.unavailable(codeTimeout)
		}
		if f.want.change != nil {
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

// join returns the flight under way or starts one, unless what w asks for was published since the caller looked. During the
// pause after a failure it returns that failure.
func (s *Source) join(set *Settings, w want) (*flight, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.flight != nil {
		return s.flight, nil
	}
	now := time.Now()
	if p := s.published.Load(); p != nil && p.satisfies(w, now) {
		return &flight{done: closed, result: p}, nil
	}
	if s.lastErr != nil && now.Before(s.retryAt) && s.paused(set) && (w.reason != ReasonForced || askedFor(s.lastErr)) {
		return nil, s.lastErr
	}
	return s.launch(set, w), nil
}

// launch starts a flight. The caller holds mu.
func (s *Source) launch(set *Settings, w want) *flight {
	f := &flight{done: make(chan struct{}), over: make(chan struct{}), want: w}
	s.flight = f
	set.Tasks.enter()
	go s.fly(f, set, w)
	return f
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

// fly runs one refresh to its end, on its own context.
func (s *Source) fly(f *flight, set *Settings, w want) {
	defer set.Tasks.leave()
	was, recovering := s.before()
	r := &refresh{source: s, set: set, want: w, flight: f, began: time.Now(), was: was}
	ctx, cancel := context.WithTimeout(context.Background(), 4*set.Policy.lease()+set.Policy.Timeout)
	defer cancel()
	run := r.run
	if w.change != nil {
		run = r.apply
	}
	p, err := run(ctx)
	switch {
	case err != nil && w.change != nil:
		s.settleUnchanged(f, err)
		return
	case err != nil:
		s.settleFailure(r, err)
		return
	case p == nil:
		s.settleEnded(r)
	default:
		s.settle(f, p, true)
	}
	if recovering && p != nil {
		r.event(Event{Kind: KindRecovered, Status: StatusActive, Generation: p.Generation()})
	}
	for _, e := range r.told {
		r.event(e)
	}
}

// settle publishes what a flight brought, the only place that does, and wakes the waiters. final frees the way for the next flight; without it
// the flight goes on to save what it has published.
func (s *Source) settle(f *flight, p *Published, final bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.published.Load(); old == nil || p.Generation() >= old.Generation() {
		s.published.Store(p)
	}
	s.status, s.failure, s.lastErr, s.retryAt = StatusActive, nil, nil, time.Time{}
	if final {
		defer s.land(f)
	}
	if !f.resolved() {
		f.result = p
		close(f.done)
	}
}

// land frees the way for the next flight. The caller holds mu.
func (s *Source) land(f *flight) {
	s.flight = nil
	close(f.over)
}

// settleEnded takes back what was published, after a change that left no token.
func (s *Source) settleEnded(r *refresh) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := &Unavailable{ID: s.id, Status: StatusDisconnected, Code: string(StatusDisconnected), RetryAt: time.Now().Add(refusedBase)}
	s.published.Store(nil)
	s.status, s.failure, s.lastErr, s.retryAt, s.pauseOf = StatusDisconnected, nil, u, u.RetryAt, nil
	close(r.flight.done)
	s.land(r.flight)
}

// settleUnchanged ends a change that failed. It says nothing about the token that is there.
func (s *Source) settleUnchanged(f *flight, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !f.resolved() {
		f.err = err
		close(f.done)
	}
	s.land(f)
}

// settleFailure starts the pause after a failed attempt and wakes the waiters. The current token goes on being served.
func (s *Source) settleFailure(r *refresh, err error) {
	s.mu.Lock()
	attempts := 1
	if s.failure != nil {
		attempts += s.failure.Attempts
	}
	u := s.classify(err, attempts)
	s.hasten(u, err)
	s.status, s.lastErr, s.retryAt, s.pauseOf = u.Status, u, u.RetryAt, nil
	if u.Status == StatusMisconfigured || u.Code == codeStorage {
		s.pauseOf = r.set // who corrects the configuration and reloads does not wait
	}
	s.failure = &Failure{Code: u.Code, At: time.Now(), Attempts: attempts}
	switch p := s.published.Load(); {
	case p == nil:
	case r.want.reason == ReasonRejected && (u.Status == StatusRevoked || u.Status == StatusLostRotation):
		s.published.Store(nil) // refused by the resource server, and its consent withdrawn: nothing is left to be served
	default:
		s.published.Store(p.postponed(s.retryAt))
	}
	if !r.flight.resolved() {
		r.flight.err = u
		close(r.flight.done)
	}
	s.land(r.flight)
	s.mu.Unlock()
	s.stats.Failures.Add(1)
	r.event(Event{Kind: KindFailed, Status: u.Status, RetryAt: u.RetryAt, Err: u})
}

// hasten shortens the pause while a token is still usable: one that lives for seconds would otherwise run out during the first
// pause, and an outage that was shorter than the token would be noticed. A pause that the server asked for is kept.
func (s *Source) hasten(u *Unavailable, err error) {
	p := s.published.Load()
	if p == nil || u.Status != StatusFailing || askedFor(err) {
		return
	}
	left := time.Until(p.usableUntil)
	if soon := time.Now().Add(max(left/2, hastyPause)); left > hastyPause && soon.Before(u.RetryAt) {
		u.RetryAt = soon
	}
}

// askedFor reports whether the pause after this failure is one that the server asked for.
func askedFor(err error) bool {
	var reply *oauth.Error
	return errors.As(err, &reply) && reply.RetryAfter > 0
}

func (f *flight) resolved() bool {
	select {
	case <-f.done:
		return true
	default:
		return false
	}
}

// ahead starts the background refresh of p, unless the configuration is ending or a pause after a failure is on.
func (s *Source) ahead(set *Settings, p *Published) {
	if set.Tasks.isStopped() {
		if set = s.live(); set == nil || set.Tasks.isStopped() {
			p.refreshing.Store(false)
			return
		}
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
