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

// errSuperseded means that the generation was replaced while its lock was waited for, or while we asked for the next.
var errSuperseded = &finding{"another instance replaced the token meanwhile", &oauth.Error{Class: oauth.RetryLater, Code: codeBusy}}

// ErrBusy means that the generation is being replaced by somebody who holds its lock.
var ErrBusy error = &finding{"another instance is refreshing the token", &oauth.Error{Class: oauth.RetryLater, Code: codeBusy}}

// storageError marks a failure of storage: nothing was sent because of it, and waiting may help.
type storageError struct{ err error }

func (e *storageError) Error() string        { return "use storage: " + e.err.Error() }
func (e *storageError) Unwrap() error        { return e.err }
func (e *storageError) Is(target error) bool { return target == ErrStorage }

// refresh is one flight's work: the steps from the lock to the published token set, in the order of run and replace.
type refresh struct {
	source *Source
	set    *Settings
	want   want
	flight *flight
	began  time.Time
	was    Status        // of the source, when the flight began
	waited time.Duration // for the storage lock
	asked  bool          // the token endpoint, at least once

	amended   bool // what is known about the tokens changed, and not the tokens
	elsewhere bool // what the configuration cannot save is saved through the next one

	told []Event // to be told once the result is published
}

// run adopts what another instance has stored, or replaces it under the lock of its generation.
func (r *refresh) run(ctx context.Context) (*Published, error) {
	rec, err := r.load(ctx)
	if r.want.reason == ReasonRequested && !r.set.stuck(rec.Current) {
		r.want.newer = rec.Current.Generation // what another instance gets from here on is as new as ours would be
	}
	for range relocks {
		if err != nil {
			return nil, err
		}
		if p := r.adopt(rec); p != nil {
			return p, nil
		}
		if r.want.look {
			return nil, errSuperseded // not ours to know by what
		}
		r.hold(rec)
		if err := r.permitted(rec); err != nil {
			return nil, err
		}
		unlock, lockErr := r.lock(ctx, rec)
		if lockErr != nil && !errors.Is(lockErr, errSuperseded) {
			return nil, lockErr
		}
		generation := rec.Current.Generation
		rec, err = r.load(ctx) // under the lock, the first thing is to load again
		if lockErr == nil && err == nil && rec.Current.Generation == generation {
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
	return nil, ErrBusy
}

// load returns the record to go on from: the stored one, unless this process knows a later generation.
//
// Generations never go backwards. A storage that lags, was restored from a backup or was written to by somebody who had lost
// the lock knows less than this process, whose refresh token is the one that is alive.
func (r *refresh) load(ctx context.Context) (Record, error) {
	rec, err := r.stored(ctx)
	known := r.source.published.Load()
	if err != nil || known == nil || known.Generation() <= rec.Current.Generation {
		return rec, err
	}
	if rec.Current.AccessToken.IsZero() {
		rec.Current.Generation = known.Generation() // deleted: begin anew, but count on
		return rec, nil
	}
	rec.Current, rec.Status, rec.Fingerprint = known.set, StatusActive, known.fingerprint
	return rec, nil
}

// stored returns the stored record, or an empty one when there is none. A machine's token set that was obtained under another
// fingerprint is as good as none, but its generation goes on counting. A person's is kept; see differs.
func (r *refresh) stored(ctx context.Context) (Record, error) {
	ctx, cancel := context.WithTimeout(ctx, storageTimeout)
	defer cancel()
	rec, err := r.store().Load(ctx, r.source.id)
	switch {
	case errors.Is(err, ErrNotFound):
		return Record{ID: r.source.id, Fingerprint: r.source.fingerprint, Status: StatusPending}, nil
	case err != nil:
		return Record{}, &storageError{fmt.Errorf("load the record: %w", err)}
	case rec.Fingerprint != r.source.fingerprint && !r.set.NeedsPerson():
		return Record{
			ID: rec.ID, Fingerprint: r.source.fingerprint, Status: StatusPending,
			Current: TokenSet{Generation: rec.Current.Generation},
		}, nil
	}
	return rec, nil
}

// store returns the storage of the flight's configuration, or of the newest live one once that is closed, or has to do without.
func (r *refresh) store() Store {
	if r.set.Tasks.Closed() || r.elsewhere {
		if live := r.source.live(); live != nil {
			return live.Store
		}
	}
	return r.set.Store
}

// adopt publishes a stored token set that is good enough, or returns nil. One that was ended, on purpose or by the server, is
// not taken up again.
func (r *refresh) adopt(rec Record) *Published {
	if rec.Current.Generation <= r.want.newer || !r.good(rec) {
		return nil
	}
	p := r.set.publish(rec, time.Now())
	if !p.Usable(time.Now()) {
		return nil
	}
	if current := r.source.published.Load(); current != nil {
		p.refusedAt = current.refusedAt // nothing was asked for it here: the cool-down is that of the last one that was
	}
	r.source.stats.Adoptions.Add(1)
	r.later(Event{Kind: KindAdopted, Status: StatusActive, Generation: rec.Current.Generation, ExpiresAt: rec.Current.ExpiresAt})
	return p
}

func (r *refresh) good(rec Record) bool { return r.source.alive(r.set, rec) }

func (r *refresh) differs(rec Record) *difference { return r.set.differs(r.source.fingerprint, rec) }

// permitted reports why nothing may be sent now: a person is needed, or the endpoint's breaker is open.
func (r *refresh) permitted(rec Record) error {
	status := rec.Status
	if r.set.stuck(rec.Current) && !status.NeedsPerson() {
		status = StatusAuthorizationRequired // there is nothing to ask with
	}
	if status.NeedsPerson() {
		return &Unavailable{ID: rec.ID, Status: status, Code: string(status), RetryAt: time.Now().Add(refusedBase)}
	}
	if d := r.differs(rec); d != nil {
		return &Unavailable{ID: rec.ID, Status: StatusAuthorizationRequired, Code: d.code(), RetryAt: time.Now().Add(refusedBase), Err: d}
	}
	_, breaker, err := r.set.door(rec.Current.Consent)
	if err != nil {
		return err
	}
	return endpointDown(breaker.blocked(time.Now()))
}

// endpointDown returns the error for an open breaker; nil for the zero time.
func endpointDown(retryAt time.Time) error {
	if retryAt.IsZero() {
		return nil
	}
	return &finding{"the token endpoint failed several times in a row; waiting before it is asked again",
		&oauth.Error{Class: oauth.RetryLater, Code: "endpoint_down", RetryAfter: time.Until(retryAt)}}
}

// lock takes the storage lock of the generation that is to be replaced. When it cannot be had by the deadline the record
// decides: replaced = errSuperseded; a young intent = somebody is asking; else the holder is dead and we take over.
func (r *refresh) lock(ctx context.Context, rec Record) (unlock func(), err error) {
	// Not WithTimeout: storages that renew a lease (Redis) do so until this context ends, so it may end only with the lock.
	lockCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	deadline := time.AfterFunc(r.set.Policy.lease(), cancel)
	began := time.Now()
	release, err := r.store().Lock(lockCtx, r.source.id, rec.Current.Generation)
	r.waited += time.Since(began)
	late := lockCtx.Err() != nil
	deadline.Stop()
	if err == nil {
		return func() {
			defer cancel()
			if err := release(); err != nil {
				r.lockLost(fmt.Errorf("release the storage lock: %w", err))
			}
		}, nil
	}
	cancel()
	if !late {
		return nil, &storageError{fmt.Errorf("take the storage lock: %w", err)}
	}
	stored, err := r.load(ctx)
	switch {
	case err != nil:
		return nil, err
	case stored.Current.Generation != rec.Current.Generation:
		return nil, errSuperseded
	case stored.Intent != nil && time.Since(stored.Intent.At) < r.set.Policy.lease():
		return nil, ErrBusy
	}
	r.source.stats.TakeOvers.Add(1)
	r.event(Event{Kind: KindTakenOver, Generation: rec.Current.Generation})
	return func() {}, nil
}

// replace asks the token endpoint once for the set after rec's, with the intent written before and the result saved after.
func (r *refresh) replace(ctx context.Context, rec Record) (*Published, error) {
	if err := r.permitted(rec); err != nil {
		return nil, err
	}
	if err := r.patience(rec); err != nil {
		return nil, err
	}
	client, breaker, err := r.set.door(rec.Current.Consent)
	if err == nil {
		err = endpointDown(breaker.take(time.Now(), r.set.Policy.lease()))
	}
	if err != nil {
		return nil, err
	}
	if rec.openIntent() {
		r.event(Event{Kind: KindRepeated, Generation: rec.Current.Generation})
	}
	rec = intend(rec, r.set.Nonce, time.Now())
	if err := r.write(ctx, rec); err != nil {
		r.source.stats.StorageErrors.Add(1)
		return nil, &storageError{fmt.Errorf("write the intent, so nothing was sent: %w", err)}
	}
	// What follows must not be cut short by what came before: each step from here on has a deadline of its own.
	ctx = context.WithoutCancel(ctx)
	asked := time.Now()
	resp, before, err := r.set.ask(ctx, client, rec.Current)
	r.asked = true
	r.source.stats.Requests.Add(1)
	report(breaker, asked, err)
	if err != nil {
		return r.refused(ctx, rec, err)
	}
	next, err := accept(before, resp, r.set, time.Now())
	next.Reason, next.By = r.want.reason, r.want.by
	switch {
	case err != nil:
		return r.unusable(ctx, rec, next, err)
	case !gained(rec.Current, next):
		return r.unchanged(ctx, rec, next)
	}
	return r.gain(ctx, rec, next)
}

// report tells the endpoint's breaker how the exchange went.
func report(breaker *Breaker, asked time.Time, err error) {
	var reply *oauth.Error
	if !errors.As(err, &reply) {
		breaker.report(asked, err != nil, 0)
		return
	}
	temporary := reply.Class == oauth.RetryLater || reply.Class == oauth.UnknownOutcome
	breaker.report(asked, temporary, reply.RetryAfter)
}

// event tells the observer at once.
func (r *refresh) event(e Event) {
	e.ID, e.Was, e.Reason = r.source.id, r.was, r.want.reason
	e.Took, e.Waited, e.Asked = time.Since(r.began), r.waited, r.asked
	r.set.Observe(e)
}

// later has the observer told after the result is published: who looks at the source then sees what it was told of.
func (r *refresh) later(e Event) { r.told = append(r.told, e) }
