package connection

import (
	"context"
	"errors"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/oauth"
)

// A flight is one refresh or change under way. A source has one at a time, on a goroutine and a context of its own, and all that
// becomes of it is settled here.

// want is what a flight is asked for.
type want struct {
	reason Reason
	newer  uint64                          // only a generation above this one will do
	change Change                          // what to do instead of refreshing; nil = refresh
	look   bool                            // only what is stored will do: nobody is asked
	by     string                          // who wants it; "" for what nobody asked for
	first  func(context.Context, TokenSet) // called under the lock before a change, unless the tokens are another client's
	after  uint64                          // only a flight after this one will do
}

// flight is the one refresh under way. result and err are written before done is closed.
type flight struct {
	want   want
	number uint64
	done   chan struct{}
	over   chan struct{} // closed when the next flight may begin: after done if the result has yet to be saved
	result *Published
	err    error
}

// launch starts a flight. The caller holds mu.
func (s *Source) launch(set *Settings, w want) *flight {
	s.launched++
	f := &flight{done: make(chan struct{}), over: make(chan struct{}), want: w, number: s.launched}
	s.flight = f
	set.Tasks.enter()
	go s.fly(f, set, w)
	return f
}

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
	case err != nil && (w.change != nil || w.look):
		s.settleUnchanged(f, err)
		return
	case err != nil:
		s.settleFailure(r, err)
		return
	case p == nil:
		s.settleEnded(r)
	case r.amended:
		s.settleAmended(f, p)
		return
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

// settleUnchanged ends a change that failed, or a look that found nothing. It says nothing about the token that is there.
func (s *Source) settleUnchanged(f *flight, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !f.resolved() {
		f.err = err
		close(f.done)
	}
	if p := s.published.Load(); p != nil && p.refreshing.Load() && !p.unsaved {
		s.published.Store(p.postponed(p.refreshAt)) // its refresh joined this flight, and has yet to be
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

// serves reports whether what the flight brings can be what w asks for.
func (f *flight) serves(w want) bool {
	if w.reason == ReasonRequested {
		return f.want.reason == ReasonRequested && f.number > w.after
	}
	return f.want.change == nil && !f.want.look
}

func (f *flight) resolved() bool {
	select {
	case <-f.done:
		return true
	default:
		return false
	}
}
