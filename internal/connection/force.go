package connection

import (
	"context"
	"time"
)

// Refresh replaces the token set whatever its age, because somebody asks for it. A flight that is under way counts if what it
// brings is newer than what is known now, in storage or in memory; so however many ask at once, there is one exchange. A pause
// after a failure is not waited for, unless the server asked for it. Where the server answers with the token that it gave before,
// that one is the result.
func (s *Source) Refresh(ctx context.Context, set *Settings, by string) (*Published, error) {
	rec, err := loaded(ctx, set, s.id)
	if err != nil {
		return nil, err
	}
	w := want{reason: ReasonForced, newer: rec.Current.Generation, by: by}
	if p := s.published.Load(); p != nil {
		w.newer = max(w.newer, p.Generation())
	}
	return s.await(ctx, set, w)
}

// hold publishes what is stored before it is replaced on demand: requests must not lose a good token because somebody asked for
// another one in vain.
func (r *refresh) hold(rec Record) {
	if r.want.reason != ReasonForced || !r.good(rec) {
		return
	}
	s, p := r.source, r.set.publish(rec, time.Now())
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.published.Load(); old == nil || old.Generation() < p.Generation() {
		s.published.Store(p)
	}
}
