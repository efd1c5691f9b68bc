package connection

import (
	"context"
	"fmt"
	"maps"
	"time"
)

// Learned is the change after a test call: what it found out about the account is kept with the consent. The tokens are the same,
// and so is their generation; found says nothing about tokens that came after those of that generation, so it is dropped then.
func Learned(generation uint64, found Consent) Change {
	return func(rec Record, now time.Time) (Record, error) {
		if rec.Current.Generation != generation || rec.Current.AccessToken.IsZero() || rec.Status.NeedsPerson() {
			return rec, ErrBusy
		}
		consent := &Consent{Requested: SplitScopes(rec.Current.Scope)} // as askedFor has it of a record without a consent
		if rec.Current.Consent != nil {
			*consent = *rec.Current.Consent
		}
		if found.AccountID != "" {
			consent.AccountID = found.AccountID
		}
		if found.Label != "" {
			consent.Label = found.Label
		}
		consent.Found = maps.Clone(consent.Found)
		if consent.Found == nil {
			consent.Found = make(map[string]string, len(found.Found))
		}
		maps.Copy(consent.Found, found.Found)
		if consent.knows(rec.Current.Consent) {
			return rec, nil
		}
		rec.Current.Consent, rec.UpdatedAt = consent, now
		return rec, nil
	}
}

// knows reports whether a test call found no more than was known.
func (c *Consent) knows(before *Consent) bool {
	return before != nil && c.AccountID == before.AccountID && c.Label == before.Label && maps.Equal(c.Found, before.Found)
}

// Reread is the change that changes nothing: what another instance has learned about the current generation is taken over.
func Reread() Change {
	return func(rec Record, _ time.Time) (Record, error) {
		if rec.Current.AccessToken.IsZero() || rec.Status.NeedsPerson() {
			return rec, ErrBusy
		}
		return rec, nil
	}
}

// rereadGap is the least time between two looks at what other instances have learned.
const rereadGap = 10 * time.Second

// LookAgain returns the published token set with what other instances have learned about it. A look costs a storage lock, so it is
// taken now and then only; nil when nothing is published.
func (s *Source) LookAgain(ctx context.Context, set *Settings) *Published {
	s.mu.Lock()
	due := time.Since(s.lookedAt) >= rereadGap
	if due {
		s.lookedAt = time.Now()
	}
	s.mu.Unlock()
	if due {
		ctx, cancel := context.WithTimeout(ctx, set.Policy.Timeout)
		defer cancel()
		_, _ = s.Apply(ctx, set, Reread()) // what cannot be read is as unknown as before
	}
	return s.published.Load()
}

// amend saves a record whose tokens are as they were, and publishes it in the place of the same generation. Nothing is at stake as
// with new tokens, so it is tried once.
func (r *refresh) amend(ctx context.Context, rec, next Record) (*Published, error) {
	r.amended = true
	if d := r.differs(rec); d != nil {
		return nil, d // it is not used, so nothing is to be known about it
	}
	if next.Current.Consent != rec.Current.Consent {
		if err := r.attempt(next); err != nil {
			return nil, &storageError{fmt.Errorf("save what was learned: %w", err)}
		}
	}
	p := r.set.publish(next, time.Now())
	if known := r.source.published.Load(); known != nil && known.Generation() == p.Generation() {
		p = known.amended(next.Current.Consent)
	}
	return r.compare(ctx, next, p), nil
}

// settleAmended publishes what was learned. It says nothing about how refreshing goes, and leaves a pause after a failure alone.
func (s *Source) settleAmended(f *flight, p *Published) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.published.Load(); old != nil && p.Generation() >= old.Generation() {
		s.published.Store(p)
	}
	f.result = p
	close(f.done)
	s.land(f)
}
