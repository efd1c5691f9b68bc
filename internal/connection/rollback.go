package connection

import (
	"cmp"
	"errors"
	"fmt"
	"time"
)

// ErrNoRollback is wrapped by the errors that say why a generation cannot be brought back.
var ErrNoRollback = errors.New("roll back")

// RolledBack is the change that brings an earlier generation back as a new one. history is everything that is kept, the current
// record included; if that is not the current one any more the change ends with ErrBusy. by is who did it.
//
// The refresh token does not go back in time: those that were exchanged since are spent, and a server may take one that comes
// again for a theft and end the whole consent. What comes back with an earlier token set is the refresh token that its consent
// had last.
func RolledBack(history []Record, generation uint64, set *Settings, by string) Change {
	return func(rec Record, now time.Time) (Record, error) {
		earlier, found := find(history, generation)
		switch {
		case !found:
			return rec, fmt.Errorf("%w: generation %d is not kept", ErrNoRollback, generation)
		case generation >= rec.Current.Generation:
			return rec, fmt.Errorf("%w: generation %d is not an earlier one", ErrNoRollback, generation)
		}
		last, err := lastOf(history, earlier.Current.Root, rec)
		if err != nil {
			return rec, err
		}
		next := earlier.Current
		next.Generation, next.Reason, next.By, next.Nonce = rec.Current.Generation+1, ReasonRolledBack, by, set.Nonce
		next.RefreshToken = last.Current.RefreshToken
		next.RefreshExpiresAt, next.RefreshIssuedAt = last.Current.RefreshExpiresAt, last.Current.RefreshIssuedAt
		rolled := refreshed(rec, next, now)
		rolled.Fingerprint = earlier.Fingerprint // which is compared with the configuration before this is saved
		if last.openIntent() {                   // its last exchange may have succeeded unseen, and the next one has to know
			intent := *last.Intent
			intent.Generation = next.Generation
			rolled.Intent = &intent
		}
		return rolled, nil
	}
}

// CanRollBack reports whether RolledBack, applied as things are, would bring that generation back.
func (s *Source) CanRollBack(history []Record, generation uint64, set *Settings) bool {
	if len(history) == 0 {
		return false
	}
	next, err := RolledBack(history, generation, set, "")(history[len(history)-1], time.Now())
	next.Fingerprint = cmp.Or(next.Fingerprint, s.fingerprint)
	return err == nil && set.differs(s.fingerprint, next) == nil // as Apply does it
}

// lastOf returns the record with the living refresh token of the consent that began with root. A gap in the history after it could
// hide a later one: the consent may have been brought back, and refreshed, in between.
func lastOf(history []Record, root uint64, rec Record) (Record, error) {
	if _, current := find(history, rec.Current.Generation); !current {
		return Record{}, ErrBusy
	}
	last := rec
	if rec.Current.Root != root {
		last = Record{}
		for _, kept := range history {
			if kept.Current.Root == root && kept.Current.Generation > last.Current.Generation {
				last = kept
			}
		}
		for generation := last.Current.Generation + 1; generation < rec.Current.Generation; generation++ {
			if _, kept := find(history, generation); !kept {
				return Record{}, fmt.Errorf("%w: the history has a gap, so it is not known which refresh token is the last", ErrNoRollback)
			}
		}
	}
	switch {
	case root == 0:
		return Record{}, fmt.Errorf("%w: it is not known which consent that generation belongs to", ErrNoRollback)
	case last.Status.NeedsPerson():
		return Record{}, fmt.Errorf("%w: the consent of that generation has ended (%s)", ErrNoRollback, last.Status)
	}
	return last, nil
}

// find returns the record of a generation.
func find(history []Record, generation uint64) (Record, bool) {
	for _, kept := range history {
		if kept.Current.Generation == generation && !kept.Current.AccessToken.IsZero() {
			return kept, true
		}
	}
	return Record{}, false
}
