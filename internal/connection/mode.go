package connection

import (
	"context"
	"time"
)

// Mode says what a token is replaced for.
type Mode int

// The modes.
const (
	ModeAhead        Mode = iota // before it expires, in the background
	ModeOn401                    // when the resource server refuses it; the clock does not matter
	ModeEveryRequest             // each request gets one that was asked for after the request came
)

// never is the time of what is not due at all.
var never = time.Unix(1<<40, 0)

// window is [Policy.window] for the policy's mode.
func (p Policy) windowOf(set TokenSet, chance float64) (refreshAt, usableUntil time.Time) {
	refreshAt, usableUntil = p.window(set, chance)
	switch p.Mode {
	case ModeOn401:
		return never, never
	case ModeEveryRequest:
		return never, usableUntil
	}
	return refreshAt, usableUntil
}

// latest is the slow path of Token in ModeEveryRequest. A flight that is under way began before the request came, so it is waited
// for and then not used; whoever waited for it shares the next one. That bounds what a busy proxy does to a token endpoint: there
// is one exchange at a time, however many requests come meanwhile.
func (s *Source) latest(ctx context.Context, set *Settings) (*Published, error) {
	w := want{reason: ReasonRequested}
	s.mu.Lock()
	w.after = s.launched
	s.mu.Unlock()
	return s.await(ctx, set, w)
}
