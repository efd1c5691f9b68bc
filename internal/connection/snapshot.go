package connection

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/oauth"
)

// Stats counts what a source did since the process started.
type Stats struct {
	Uses          atomic.Int64 // requests that asked for the token
	Requests      atomic.Int64 // exchanges with the token endpoint
	Refreshes     atomic.Int64 // new generations obtained
	Adoptions     atomic.Int64 // token sets taken over from storage
	Unchanged     atomic.Int64 // refreshes that gave the same token
	Failures      atomic.Int64 // flights that failed
	TakeOvers     atomic.Int64 // storage locks whose holder was taken to be dead
	LocksLost     atomic.Int64 // storage locks that did not exclude others
	StorageErrors atomic.Int64 // storage operations of a flight that failed
}

// Stats returns the counters.
func (s *Source) Stats() *Stats { return &s.stats }

// Snapshot is what may be shown of a source.
type Snapshot struct {
	ID          ID
	Status      Status
	Generation  uint64
	IssuedAt    time.Time
	ExpiresAt   time.Time
	RefreshAt   time.Time
	LastUsed    time.Time // zero when never
	Uses        int64     // requests that asked for the token since the process started
	Failure     *Failure  // nil when the last attempt succeeded
	NextAttempt time.Time // end of the pause after a failure; zero when there is none
	Unsaved     bool
	Busy        bool // a refresh or a change is under way
}

// Snapshot returns the source's present state.
func (s *Source) Snapshot() Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	snap := Snapshot{ID: s.id, Status: s.status, Failure: s.failure, NextAttempt: s.retryAt, Busy: s.flight != nil}
	snap.Uses = s.stats.Uses.Load()
	if used := s.lastUsed.Load(); used != 0 {
		snap.LastUsed = time.Unix(used, 0)
	}
	if p := s.published.Load(); p != nil {
		snap.Generation, snap.IssuedAt, snap.ExpiresAt = p.set.Generation, p.set.IssuedAt, p.set.ExpiresAt
		if _, soon := p.Ending(time.Now()); soon && s.status == StatusActive {
			snap.Status = StatusExpiring
		}
		if snap.Unsaved = p.unsaved; p.refreshAt != never {
			snap.RefreshAt = p.refreshAt
		}
	}
	return snap
}

// IdleSince returns when a request asked last, or when the source was made if none has.
func (s *Source) IdleSince() time.Time {
	if used := s.lastUsed.Load(); used != 0 {
		return time.Unix(used, 0)
	}
	return s.born
}

// before returns the status that a flight begins with, and whether the attempt before it failed.
func (s *Source) before() (status Status, failing bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status, s.failure != nil
}

// unavailable builds the error for a waiter that got no answer.
func (s *Source) unavailable(code string) *Unavailable {
	return &Unavailable{ID: s.id, Status: StatusFailing, Code: code, RetryAt: time.Now().Add(backoffBase)}
}

// Codes of our own that say more than that an attempt failed.
const (
	codeStorage    = "storage"    // every failure of storage
	codeBusy       = "busy"       // another instance is at it
	codeTimeout    = "timeout"    // the flight goes on, the waiter does not
	codeSuperseded = "superseded" // what was obtained was not what was waited for
	codeClosed     = "closed"     // the configuration has ended
)

// Busy reports whether trying again in a moment is likely to help: the attempt did not fail, it was not ours or is not over.
func (e *Unavailable) Busy() bool {
	return e.Code == codeBusy || e.Code == codeTimeout || e.Code == codeSuperseded || e.Code == codeClosed
}

// classify turns a failed attempt into what requests are told, and until when they are told it. Nobody reads error text.
func (s *Source) classify(err error, attempts int) *Unavailable {
	now := time.Now()
	var known *Unavailable
	if errors.As(err, &known) {
		return known
	}
	u := &Unavailable{ID: s.id, Status: StatusFailing, Code: "internal", Err: err}
	var reply *oauth.Error
	switch {
	case errors.As(err, &reply) && reply.Class == oauth.Misconfigured:
		u.Status, u.Code = StatusMisconfigured, reply.Code
		u.RetryAt = now.Add(max(reply.RetryAfter, backoff(refusedBase, refusedMax, attempts-1)))
	case errors.As(err, &reply):
		u.Code = reply.Code
		u.RetryAt = now.Add(max(reply.RetryAfter, backoff(backoffBase, backoffMax, attempts)))
	case errors.Is(err, ErrStorage):
		u.Code = codeStorage
		u.RetryAt = now.Add(backoff(backoffBase, backoffMax, attempts))
	default:
		u.RetryAt = now.Add(backoff(backoffBase, backoffMax, attempts))
	}
	return u
}
