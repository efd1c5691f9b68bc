package connection

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// write stores the record once, within the time-out of one storage operation.
func (r *refresh) write(ctx context.Context, rec Record) error {
	ctx, cancel := context.WithTimeout(ctx, storageTimeout)
	defer cancel()
	return r.store().Save(ctx, rec)
}

// save stores a new token set before anyone uses it, trying until it succeeds: the old refresh token may be dead already, and
// a token set that is lost is a consent that is lost. After the policy's UnsavedAfter the set is served from memory while the
// flight goes on trying, and holds on to the lock, so that no further rotation begins. It gives up only when the set has
// become worthless, or when the process ends and there is no storage left.
func (r *refresh) save(rec Record, p *Published) error {
	held := false
	for attempt := 0; ; attempt++ {
		err := r.attempt(rec)
		if err == nil {
			if held {
				r.event(Event{Kind: KindSaved, Status: StatusActive, Generation: rec.Current.Generation})
			}
			return nil
		}
		r.source.stats.StorageErrors.Add(1)
		ending := rec.Status == StatusDisconnected
		if !held && !ending && time.Since(rec.UpdatedAt) >= r.set.Policy.UnsavedAfter {
			held = true
			memory := p.postponed(p.refreshAt)
			memory.unsaved = true
			memory.refreshing.Store(true) // no further rotation until this one is saved
			r.source.settle(r.flight, memory, false)
			r.event(Event{Kind: KindUnsaved, Status: StatusActive, Generation: rec.Current.Generation, Err: err})
		}
		worthless := rec.Current.RefreshToken.IsZero() && !p.Usable(time.Now())
		if ending { // the server may have been told already
			worthless = time.Since(rec.UpdatedAt) > r.set.Policy.lease()
		}
		homeless := r.set.Tasks.Closed() && r.source.live() == nil
		if worthless || homeless {
			r.event(Event{Kind: KindSaveDropped, Generation: rec.Current.Generation, Err: err})
			return &storageError{fmt.Errorf("save the new token set: %w", err)}
		}
		r.elsewhere = !r.elsewhere && r.set.Tasks.isStopped() // a new configuration may be there because this one cannot save
		wait(min(100*time.Millisecond<<min(attempt, 10), saveRetryMax), r.set.Tasks)
	}
}

// attempt saves the record unless the storage holds a token set that supersedes it: the lock was lost then, and compare will
// say so. That the storage cannot tell does not keep a new token set from being saved.
func (r *refresh) attempt(rec Record) error {
	stored, err := r.stored(context.Background())
	switch {
	case err == nil && (supersedes(stored.Current, rec.Current) || endedSince(stored, rec.Current)):
		return nil
	case errors.Is(err, ErrUnreadable):
		return err // never overwritten
	}
	return r.write(context.Background(), rec)
}

// wait sleeps, or returns early when the tasks are closed.
func wait(d time.Duration, tasks *Tasks) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	if tasks == nil {
		<-timer.C
		return
	}
	select {
	case <-timer.C:
	case <-tasks.closing():
	}
}

// compare loads the record again after it was saved. A lock is not a fence: if somebody else wrote meanwhile, the newer set
// wins, in storage as well as here, and the loss of the lock is reported.
func (r *refresh) compare(ctx context.Context, rec Record, p *Published) *Published {
	stored, err := r.stored(ctx)
	if err != nil {
		r.source.stats.StorageErrors.Add(1)
		return p
	}
	ours, theirs := rec.Current, stored.Current
	if theirs.Generation == ours.Generation && theirs.AccessToken.Equal(ours.AccessToken) {
		return p
	}
	r.lockLost(fmt.Errorf("the storage holds generation %d of another instance after generation %d was saved", theirs.Generation, ours.Generation))
	if endedSince(stored, ours) {
		return p // it ends with its access token
	}
	if supersedes(theirs, ours) {
		if adopted := r.set.publish(stored, time.Now()); adopted.Usable(time.Now()) && r.good(stored) {
			return adopted
		}
		return p
	}
	if foreign := theirs.AccessToken.IsZero() && theirs.Generation > 0 || r.differs(stored) != nil; foreign {
		return p // an instance with another configuration; the two would overwrite each other without end
	}
	if err := r.write(ctx, rec); err != nil {
		r.source.stats.StorageErrors.Add(1)
	}
	return p
}

func (r *refresh) lockLost(err error) {
	r.source.stats.LocksLost.Add(1)
	r.event(Event{Kind: KindLockLost, Err: err})
}

// archive moves the record with the superseded set into the history. A failure costs history, not the connection.
func (r *refresh) archive(ctx context.Context, old Record) {
	if old.Current.AccessToken.IsZero() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, storageTimeout)
	defer cancel()
	if err := r.store().Archive(ctx, old); err != nil {
		r.source.stats.StorageErrors.Add(1)
		r.event(Event{Kind: KindHistory, Generation: old.Current.Generation, Err: err})
	}
}
