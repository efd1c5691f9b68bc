package connection

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// The four ways in which an exchange ends. All of them leave a record behind that says what is known, and none of them writes
// over a later generation.

// gain ends an exchange that gave a new token set: it is saved, then published.
func (r *refresh) gain(ctx context.Context, rec Record, next TokenSet) (*Published, error) {
	old := rec
	rec = refreshed(rec, next, time.Now())
	p := r.set.publish(rec, time.Now())
	p.wanted(r.want.reason)
	if err := r.save(rec, p); err != nil {
		return nil, err
	}
	p = r.compare(ctx, rec, p)
	r.archive(ctx, refreshed(old, old.Current, old.UpdatedAt)) // how it ended is known
	r.source.stats.Refreshes.Add(1)
	r.later(Event{Kind: KindRefreshed, Status: StatusActive, Generation: p.Generation(), ExpiresAt: p.ExpiresAt()})
	return p, nil
}

// unchanged ends an exchange that gave the same token with no more lifetime: the next attempt waits for half of what is left.
// The server has said that the token is good, so it is used up to its end, or each request near it would ask again.
func (r *refresh) unchanged(ctx context.Context, rec Record, next TokenSet) (*Published, error) {
	now := time.Now()
	rec = refreshed(rec, rec.Current, now)
	if err := r.write(ctx, rec); err != nil {
		r.source.stats.StorageErrors.Add(1)
		return nil, &storageError{fmt.Errorf("clear the intent: %w", err)}
	}
	p := r.set.publish(rec, now)
	p.wanted(r.want.reason)
	if r.set.Policy.Mode == ModeAhead {
		p.usableUntil = rec.Current.ExpiresAt
		if next.ExpiresAt.After(p.usableUntil) {
			p.usableUntil = next.ExpiresAt
		}
		p.refreshAt = now.Add(max(p.usableUntil.Sub(now)/2, minRefreshGap))
	}
	r.source.stats.Unchanged.Add(1)
	r.later(Event{Kind: KindUnchanged, Status: StatusActive, Generation: rec.Current.Generation, ExpiresAt: rec.Current.ExpiresAt})
	return p, nil
}

// unusable ends an exchange that gave a token that cannot be used. A refresh token that came with it is kept all the same: the
// one that was sent may be dead, and the consent with it.
func (r *refresh) unusable(ctx context.Context, rec Record, next TokenSet, err error) (*Published, error) {
	if next.RefreshToken.Equal(rec.Current.RefreshToken) {
		return r.refused(ctx, rec, err)
	}
	old := rec
	rec = failed(rec, err, time.Now())
	rec.Current, rec.Intent = rotated(old.Current, next), nil
	if saveErr := r.save(rec, r.set.publish(rec, time.Now())); saveErr != nil {
		return nil, errors.Join(err, saveErr)
	}
	r.archive(ctx, refreshed(old, old.Current, old.UpdatedAt))
	return nil, err
}

// refused ends an exchange that gave err. It is written down only if the generation is still the stored one: another instance
// may have won, and its token set must not be lost. A dead refresh token is believed at the second look.
func (r *refresh) refused(ctx context.Context, rec Record, err error) (*Published, error) {
	next := failed(rec, err, time.Now())
	stored, loadErr := r.load(ctx)
	if next.Status.NeedsPerson() {
		if loadErr != nil || stored.Current.Generation == rec.Current.Generation {
			wait(reloadPause, nil)
			stored, loadErr = r.load(ctx)
		}
		err = &Unavailable{ID: rec.ID, Status: next.Status, Code: next.Failure.Code, RetryAt: time.Now().Add(refusedBase), Err: err}
	}
	if loadErr != nil {
		r.source.stats.StorageErrors.Add(1)
		if next.Status.NeedsPerson() { // not known, so not true: the intent stays, and the next attempt asks once more
			return nil, loadErr
		}
		return nil, errors.Join(err, loadErr)
	}
	if stored.Current.Generation != rec.Current.Generation {
		if p := r.adopt(stored); p != nil {
			return p, nil
		}
		return nil, errSuperseded
	}
	if saveErr := r.write(ctx, next); saveErr != nil {
		// The intent stays in the stored record, which makes the next attempt ask once more: safe, and all that is lost.
		r.source.stats.StorageErrors.Add(1)
		return nil, errors.Join(err, fmt.Errorf("write down the failure: %w", saveErr))
	}
	return nil, err
}
