package connection

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/oauth"
)

// Change makes another record the current one, other than by a refresh. It is pure, and gets the record as it is stored under
// the lock. What it returns is saved as a generation of its own, unless the generation is the same: then the tokens are too.
type Change func(rec Record, now time.Time) (Record, error)

// Authorized is the change after a person has authorized: the token response becomes the next generation, whatever state the
// connection was in. given is what came along, and may be nil; by is who did it.
func Authorized(resp *oauth.TokenResponse, given *Consent, set *Settings, by string) Change {
	return func(rec Record, now time.Time) (Record, error) {
		// Not rec.Current: a refresh token of the consent before must not live on in this one.
		root := rec.Current.Generation + 1
		next, err := accept(TokenSet{Generation: root - 1, Root: root, AuthorizedAt: resp.SentAt}, resp, set, now)
		if err != nil {
			return rec, err
		}
		next.Reason, next.By, next.Consent = ReasonAuthorized, by, given
		rec.Fingerprint = "" // that of the configuration that it is applied under
		return refreshed(rec, next, now), nil
	}
}

// Disconnected is the change that ends a connection: nothing but the count of generations stays. by is who did it.
func Disconnected(by string) Change {
	return func(rec Record, now time.Time) (Record, error) {
		rec.Current = TokenSet{Generation: rec.Current.Generation + 1, Reason: ReasonDisconnected, By: by, IssuedAt: now, ExpiresAt: now}
		rec.Status, rec.Intent, rec.Failure, rec.UpdatedAt = StatusDisconnected, nil, nil, now
		return rec, nil
	}
}

// End ends a connection. tell is called first, with the token set that is to be told of, if there may be anything to tell: under the
// storage lock, so that nobody refreshes with what the server is just being told of. It is not called for tokens that were obtained
// as another client, or elsewhere: they are nobody's business here.
func (s *Source) End(ctx context.Context, set *Settings, by string, tell func(context.Context, TokenSet)) error {
	_, err := s.carryOut(ctx, set, want{change: Disconnected(by), first: tell})
	return err
}

// Apply carries out a change: after the flight under way, under the storage lock, saved before it is published. It goes on when
// ctx ends, since what is to be saved cannot be had again; the caller then gets ctx's error. The result is nil when the change
// leaves no token.
func (s *Source) Apply(ctx context.Context, set *Settings, change Change) (*Published, error) {
	return s.carryOut(ctx, set, want{change: change})
}

func (s *Source) carryOut(ctx context.Context, set *Settings, w want) (*Published, error) {
	set = s.onward(set)
	for {
		f, mine := s.takeOff(set, w)
		select {
		case <-f.over:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if mine {
			return f.result, f.err
		}
	}
}

// takeOff starts a flight for the change, or returns the one that must end first.
func (s *Source) takeOff(set *Settings, w want) (f *flight, mine bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.flight != nil {
		return s.flight, false
	}
	return s.launch(set, w), true
}

// apply is run for a change: the same lock, the same order of steps, but nothing is asked.
func (r *refresh) apply(ctx context.Context) (*Published, error) {
	rec, err := r.stored(ctx)
	for range relocks {
		if err != nil {
			return nil, err
		}
		generation := rec.Current.Generation
		unlock, lockErr := r.lock(ctx, rec)
		if lockErr != nil && !errors.Is(lockErr, errSuperseded) {
			return nil, lockErr
		}
		rec, err = r.stored(ctx)
		if lockErr != nil {
			continue
		}
		if err == nil && rec.Current.Generation == generation {
			p, err := r.put(ctx, rec)
			unlock()
			return p, err
		}
		unlock()
	}
	return nil, errors.Join(err, ErrBusy)
}

// put saves the changed record, and archives the token set before it.
func (r *refresh) put(ctx context.Context, rec Record) (*Published, error) {
	if d := r.differs(rec); r.want.first != nil && (d == nil || !d.client) {
		r.want.first(ctx, rec.Current)
	}
	next, err := r.want.change(rec, time.Now())
	if err != nil {
		return nil, err
	}
	if next.Current.Generation == rec.Current.Generation {
		return r.amend(ctx, rec, next)
	}
	next.Fingerprint = cmp.Or(next.Fingerprint, r.source.fingerprint)
	if d := r.differs(next); d != nil && !next.Status.NeedsPerson() { // only an earlier generation can be of another configuration
		return nil, fmt.Errorf("%w: %w", ErrNoRollback, d)
	}
	r.want.reason = next.Current.Reason
	p := r.set.publish(next, time.Now())
	if err := r.save(next, p); err != nil {
		return nil, err
	}
	if next.Status.NeedsPerson() {
		p = nil
	} else {
		r.archive(ctx, rec) // with its status and an open outcome: a rollback must know of them
	}
	r.later(Event{Kind: KindChanged, Status: next.Status, Generation: next.Current.Generation, ExpiresAt: next.Current.ExpiresAt})
	return p, nil
}
