package connection

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// State is what may be shown of a token set: as it is stored, and as this process knows it. It holds no token.
type State struct {
	Snapshot
	Reason           Reason // why the generation was obtained
	By               string
	Scope            string    // as granted; "" = as requested
	RefreshExpiresAt time.Time // zero = not known, or never
	Renewable        bool      // there is something to refresh with
	EndsAt           time.Time // when only a person can go on; zero = not known, or never
	Consent          *Consent  // nil for machines
	Missing          []string  // scopes that the configuration asks for and nobody consented to
}

// Peek returns the state without asking the provider and without counting as a use. It reads the storage once, since another
// instance may know more. With an error, the state is what this process knows.
func (s *Source) Peek(ctx context.Context, set *Settings) (State, error) {
	rec, err := loaded(ctx, set, s.id)
	if err != nil {
		return State{Snapshot: s.Snapshot()}, err
	}
	if p := s.published.Load(); p != nil && p.Generation() > rec.Current.Generation {
		rec.Current, rec.Status, rec.Failure, rec.Fingerprint = p.set, StatusActive, nil, p.fingerprint // a storage that fails has not seen it yet
	}
	return s.Describe(rec, set).with(s.Snapshot(), rec.UpdatedAt), nil
}

// loaded reads what is stored; nothing is an empty record.
func loaded(ctx context.Context, set *Settings, id ID) (Record, error) {
	ctx, cancel := context.WithTimeout(ctx, storageTimeout)
	defer cancel()
	rec, err := set.Store.Load(ctx, id)
	switch {
	case errors.Is(err, ErrNotFound):
		return Record{ID: id, Status: StatusPending}, nil
	case err != nil:
		return Record{}, &storageError{fmt.Errorf("load the record: %w", err)}
	}
	return rec, nil
}

// Describe returns the state of a token set as its record tells it.
func (s *Source) Describe(rec Record, set *Settings) State {
	current := rec.Current
	state := State{
		Snapshot: Snapshot{
			ID: rec.ID, Status: rec.Status, Generation: current.Generation, IssuedAt: current.IssuedAt, ExpiresAt: current.ExpiresAt,
			Failure: rec.Failure,
		},
		Reason: current.Reason, By: current.By, Scope: current.Scope, Consent: current.Consent,
		RefreshExpiresAt: current.RefreshExpiresAt, Renewable: !set.stuck(current),
	}
	var notice time.Time
	if state.EndsAt, notice = set.ends(current); state.Status == StatusActive && endsSoon(state.EndsAt, notice, time.Now()) {
		state.Status = StatusExpiring
	}
	_, usableUntil := set.Policy.windowOf(current, 0)
	if over := !time.Now().Before(usableUntil); over && !state.Renewable && !state.Status.NeedsPerson() {
		state.Status = StatusAuthorizationRequired
	}
	if d := set.differs(s.fingerprint, rec); d != nil && set.NeedsPerson() && !state.Status.NeedsPerson() {
		state.Status, state.Missing = StatusAuthorizationRequired, d.missing
		state.Failure = &Failure{Code: d.code(), At: rec.UpdatedAt}
	}
	return state
}

// with adds what only this process knows. A failure of its own counts if it came after what is stored.
func (s State) with(memory Snapshot, stored time.Time) State {
	s.LastUsed, s.Uses, s.Busy, s.NextAttempt = memory.LastUsed, memory.Uses, memory.Busy, memory.NextAttempt
	if memory.Generation == s.Generation {
		s.RefreshAt, s.Unsaved = memory.RefreshAt, memory.Unsaved
	}
	if memory.Failure != nil && memory.Failure.At.After(stored) {
		s.Status, s.Failure = memory.Status, memory.Failure
	}
	return s
}
