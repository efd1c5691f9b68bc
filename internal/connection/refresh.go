package connection

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/oauth"
)

const (
	storageTimeout = 10 * time.Second // one storage operation
	relocks        = 3                // how often the lock is taken for a generation that turned out to be replaced
	reloadPause    = time.Second      // between the two loads after invalid_grant
	saveRetryMax   = 5 * time.Second  // longest pause between two attempts to save
)

// errSuperseded means that the generation was replaced while its lock was waited for.
var errSuperseded = errors.New("generation was replaced meanwhile")

// storageError marks a failure of storage: nothing was sent because of it, and waiting may help.
type storageError struct{ err error }

func (e *storageError) Error() string { return "use storage: " + e.err.Error() }
func (e *storageError) Unwrap() error { return e.err }

// refresh is one flight's work: the steps from the lock to the published token set, in the order of run and replace.
type refresh struct {
	source *Source
	set    *Settings
	want   want
	flight *flight
	began  time.Time
	told   []Event // to be told once the result is published
}

// run adopts what another instance has stored, or replaces it under the lock of its generation.
func (r *refresh) run(ctx context.Context) (*Published, error) {
	rec, err := r.load(ctx)
	for range relocks {
		if err != nil {
			return nil, err
		}
		if p := r.adopt(rec); p != nil {
			return p, nil
		}
		if err := r.permitted(rec); err != nil {
			return nil, err
		}
		unlock, lockErr := r.lock(ctx, rec)
		if lockErr != nil && !errors.Is(lockErr, errSuperseded) {
			return nil, lockErr
		}
		generation := rec.Current.Generation
		rec, err = r.load(ctx) // under the lock, the first thing is to load again
		if lockErr == nil && err == nil && rec.Current.Generation == generation && !rec.Status.NeedsPerson() {
			p, err := r.replace(ctx, rec)
			unlock()
			return p, err
		}
		if lockErr == nil {
			unlock()
		}
	}
	if err != nil {
		return nil, err
	}
	return nil, &oauth.Error{Class: oauth.RetryLater, Code: "busy"}
}

// load returns the stored record, or an empty one when there is none. A token set that was obtained under another
// fingerprint is not ours to use, but its generation goes on counting.
func (r *refresh) load(ctx context.Context) (Record, error) {
	ctx, cancel := context.WithTimeout(ctx, storageTimeout)
	defer cancel()
	rec, err := r.store().Load(ctx, r.source.id)
	switch {
	case errors.Is(err, ErrNotFound):
		return Record{ID: r.source.id, Fingerprint: r.source.fingerprint, Status: StatusPending}, nil
	case err != nil:
		return Record{}, &storageError{fmt.Errorf("load the record: %w", err)}
	case rec.Fingerprint != r.source.fingerprint:
		return Record{
			ID: rec.ID, Fingerprint: r.source.fingerprint, Status: StatusPending,
			Current: TokenSet{Generation: rec.Current.Generation},
		}, nil
	}
	return rec, nil
}

// store returns the storage of the flight's configuration, or of the newest live one once that is closed.
func (r *refresh) store() Store {
	if r.set.Tasks.Closed() {
		if live := r.source.live(); live != nil {
			return live.Store
		}
	}
	return r.set.Store
}

// adopt publishes a stored token set that is good enough, or returns nil.
func (r *refresh) adopt(rec Record) *Published {
	if rec.Current.AccessToken.IsZero() || rec.Current.Generation <= r.want.newer {
		return nil
	}
	p := publish(rec.Current, r.set.Policy, time.Now())
	if !p.Usable(time.Now()) {
		return nil
	}
	p.afterRejection = r.want.reason == ReasonRejected
	r.source.stats.Adoptions.Add(1)
	r.later(Event{Kind: KindAdopted, Status: StatusActive, Generation: rec.Current.Generation, ExpiresAt: rec.Current.ExpiresAt})
	return p
}

// permitted reports why nothing may be sent now: a person is needed, or the endpoint's breaker is open.
func (r *refresh) permitted(rec Record) error {
	if rec.Status.NeedsPerson() {
		return &Unavailable{ID: rec.ID, Status: rec.Status, Code: string(rec.Status), RetryAt: time.Now().Add(refusedBase)}
	}
	if ok, retryAt := r.set.Breaker.allow(time.Now(), r.set.Policy.lease()); !ok {
		return &oauth.Error{Class: oauth.RetryLater, Code: "endpoint_down", RetryAfter: time.Until(retryAt)}
	}
	return nil
}

// lock takes the storage lock of the generation that is to be replaced. When it cannot be had by the deadline the record
// decides: replaced = errSuperseded; a young intent = somebody is asking; else the holder is dead and we take over.
func (r *refresh) lock(ctx context.Context, rec Record) (unlock func(), err error) {
	lockCtx, cancel := context.WithTimeout(ctx, r.set.Policy.lease())
	defer cancel()
	store := r.store()
	release, err := store.Lock(lockCtx, r.source.id, rec.Current.Generation)
	if err == nil {
		return func() {
			if err := release(); err != nil {
				r.lockLost(fmt.Errorf("release the storage lock: %w", err))
			}
		}, nil
	}
	if lockCtx.Err() == nil {
		return nil, &storageError{fmt.Errorf("take the storage lock: %w", err)}
	}
	stored, err := r.load(ctx)
	switch {
	case err != nil:
		return nil, err
	case stored.Current.Generation != rec.Current.Generation:
		return nil, errSuperseded
	case stored.Intent != nil && time.Since(stored.Intent.At) < r.set.Policy.lease():
		return nil, &oauth.Error{Class: oauth.RetryLater, Code: "busy"}
	}
	r.source.stats.TakeOvers.Add(1)
	r.event(Event{Kind: KindTakenOver, Generation: rec.Current.Generation})
	return func() {}, nil
}

// replace asks the token endpoint once for the set after rec's, with the intent written before and the result saved after.
func (r *refresh) replace(ctx context.Context, rec Record) (*Published, error) {
	if rec.openIntent() {
		r.event(Event{Kind: KindRepeated, Generation: rec.Current.Generation})
	}
	rec = intend(rec, r.set.Nonce, time.Now())
	if err := r.write(ctx, rec); err != nil {
		return nil, &storageError{fmt.Errorf("write the intent, so nothing was sent: %w", err)}
	}
	resp, err := r.set.ask(ctx, rec.Current)
	r.source.stats.Requests.Add(1)
	var next TokenSet
	if err == nil {
		next, err = accept(rec.Current, resp, r.set, time.Now())
	}
	r.report(err)
	if err != nil {
		return r.refused(ctx, rec, err)
	}
	next.Reason = r.want.reason
	if !gained(rec.Current, next) {
		return r.unchanged(ctx, rec)
	}
	old := rec.Current
	rec = refreshed(rec, next, time.Now())
	p := publish(next, r.set.Policy, time.Now())
	p.afterRejection = r.want.reason == ReasonRejected
	if err := r.save(rec, p); err != nil {
		return nil, err
	}
	p = r.compare(ctx, rec, p)
	r.archive(ctx, old)
	r.announce(rec)
	return p, nil
}

// report tells the endpoint's breaker how the exchange went.
func (r *refresh) report(err error) {
	var reply *oauth.Error
	if !errors.As(err, &reply) {
		r.set.Breaker.report(time.Now(), err != nil, 0)
		return
	}
	temporary := reply.Class == oauth.RetryLater || reply.Class == oauth.UnknownOutcome
	r.set.Breaker.report(time.Now(), temporary, reply.RetryAfter)
}

// refused ends an exchange that gave err. A dead refresh token is believed only if it is still the stored one.
func (r *refresh) refused(ctx context.Context, rec Record, err error) (*Published, error) {
	next := failed(rec, err, time.Now())
	if next.Status.NeedsPerson() {
		for pause := range 2 {
			if pause > 0 {
				wait(reloadPause, nil)
			}
			stored, loadErr := r.load(ctx)
			if loadErr == nil && stored.Current.Generation != rec.Current.Generation {
				if p := r.adopt(stored); p != nil {
					return p, nil
				}
			}
		}
		err = &Unavailable{ID: rec.ID, Status: next.Status, Code: next.Failure.Code, RetryAt: time.Now().Add(refusedBase), Err: err}
	}
	if saveErr := r.write(ctx, next); saveErr != nil {
		// The intent stays in the stored record, which makes the next attempt ask once more: safe, and all that is lost.
		return nil, errors.Join(err, fmt.Errorf("write down the failure: %w", saveErr))
	}
	return nil, err
}

// unchanged ends an exchange that gave the same token with no more lifetime: the next attempt waits for half of what is left.
func (r *refresh) unchanged(ctx context.Context, rec Record) (*Published, error) {
	now := time.Now()
	rec = refreshed(rec, rec.Current, now)
	if err := r.write(ctx, rec); err != nil {
		return nil, &storageError{fmt.Errorf("clear the intent: %w", err)}
	}
	p := publish(rec.Current, r.set.Policy, now)
	p.afterRejection = r.want.reason == ReasonRejected
	p.refreshAt = now.Add(max(time.Until(p.usableUntil)/2, minRefreshGap))
	r.source.stats.Unchanged.Add(1)
	r.later(Event{Kind: KindUnchanged, Status: StatusActive, Generation: rec.Current.Generation, ExpiresAt: rec.Current.ExpiresAt})
	return p, nil
}

// announce has the observer told of a new generation.
func (r *refresh) announce(rec Record) {
	r.source.stats.Refreshes.Add(1)
	if r.source.wasFailing() {
		r.later(Event{Kind: KindRecovered, Status: StatusActive, Generation: rec.Current.Generation})
	}
	r.later(Event{Kind: KindRefreshed, Status: StatusActive, Generation: rec.Current.Generation, ExpiresAt: rec.Current.ExpiresAt})
}

// event tells the observer at once.
func (r *refresh) event(e Event) {
	e.ID, e.Reason, e.Took = r.source.id, r.want.reason, time.Since(r.began)
	r.set.Observe(e)
}

// later has the observer told after the result is published: who looks at the source then sees what it was told of.
func (r *refresh) later(e Event) { r.told = append(r.told, e) }
