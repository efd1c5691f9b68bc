package connection

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/oauth"
	"github.com/caddyoauth/caddyoauth/internal/secret"
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

// Apply carries out a change: after the flight under way, under the storage lock, saved before it is published. It goes on when
// ctx ends, since what is to be saved cannot be had again; the caller then gets ctx's error. The result is nil when the change
// leaves no token.
func (s *Source) Apply(ctx context.Context, set *Settings, change Change) (*Published, error) {
	for {
		f, mine := s.takeOff(set, change)
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
func (s *Source) takeOff(set *Settings, change Change) (f *flight, mine bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.flight != nil {
		return s.flight, false
	}
	return s.launch(set, want{change: change}), true
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

// RefreshToken returns the refresh token, or where there is none the access token, for revocation; the zero value when there is
// nothing to revoke. It reads the storage, since another instance may know a later one. One that was obtained as another client, or
// elsewhere, is given to nobody.
func (s *Source) RefreshToken(ctx context.Context, set *Settings) (secret.Text, error) {
	rec, err := set.Store.Load(ctx, s.id)
	if errors.Is(err, ErrNotFound) {
		return secret.Text{}, nil
	}
	if err != nil {
		return secret.Text{}, err
	}
	if d := set.differs(s.fingerprint, rec); d != nil && d.client {
		return secret.Text{}, d
	}
	if rec.Current.RefreshToken.IsZero() {
		return rec.Current.AccessToken, nil
	}
	return rec.Current.RefreshToken, nil
}
