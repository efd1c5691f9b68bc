package connection

import (
	"context"
	"time"
)

// Rejected tells that the resource server answered 401 to a token set, and returns the one to replay the request with, or nil
// when the refusal stands. A newer generation is used at once. Else there is one refresh for all who were refused; it is not
// repeated for a token set that itself replaced a rejected one within the policy's RejectionCooldown, so that a wrong audience
// cannot turn traffic into refreshes. A failed refresh is no error here: the upstream's own 401 is the answer then.
func (s *Source) Rejected(ctx context.Context, set *Settings, refused *Published) *Published {
	current := s.published.Load()
	if current != nil && current.Generation() > refused.Generation() {
		return replayable(current, refused)
	}
	if refusalStands(set, current, refused) {
		return s.meanwhile(ctx, set, refused)
	}
	next, err := s.await(ctx, set, want{reason: ReasonRejected, newer: refused.Generation()})
	if err != nil {
		s.withdraw(refused)
		return nil
	}
	return replayable(next, refused)
}

// meanwhile is for a refusal that stands: nobody is asked for a token set, but one that is on its way, or that another instance has stored,
// may be what the resource server wants. Some servers end the old access token at each refresh. The storage is looked into once a second.
func (s *Source) meanwhile(ctx context.Context, set *Settings, refused *Published) *Published {
	set = s.onward(set)
	s.mu.Lock()
	f := s.flight
	if f == nil && !set.Tasks.isStopped() && time.Since(s.soughtAt) >= minRefreshGap {
		s.soughtAt = time.Now()
		f = s.launch(set, want{reason: ReasonRejected, newer: refused.Generation(), look: true})
	}
	s.mu.Unlock()
	if f == nil {
		return nil
	}
	select {
	case <-f.done:
	case <-ctx.Done():
	}
	current := s.published.Load()
	if current == nil || current.Generation() <= refused.Generation() {
		return nil
	}
	return replayable(current, refused)
}

// withdraw takes back a token set that the resource server refuses and whose consent is known to be gone, in whichever order the two
// came to light: nothing is left that could be served.
func (s *Source) withdraw(refused *Published) {
	s.mu.Lock()
	defer s.mu.Unlock()
	current := s.published.Load()
	if current == nil || current.Generation() != refused.Generation() {
		return
	}
	if s.status == StatusRevoked || s.status == StatusLostRotation {
		s.published.Store(nil)
	}
}

// Suspect is Rejected for those who cannot replay: the next request refreshes first.
func (s *Source) Suspect(set *Settings, refused *Published) {
	current := s.published.Load()
	if current == nil || current.Generation() != refused.Generation() || refusalStands(set, current, refused) {
		return
	}
	current.suspect.Store(true)
}

// refusalStands reports whether a 401 to refused is the resource's last word for now. What counts is the latest publication of
// its generation: a refresh that gave the same token again may have come after the one that the request was sent with.
func refusalStands(set *Settings, current, refused *Published) bool {
	if current != nil && current.Generation() == refused.Generation() {
		refused = current
	}
	return !refused.refusedAt.IsZero() && time.Since(refused.refusedAt) < set.Policy.RejectionCooldown
}

// replayable returns next if it promises another answer than refused did.
func replayable(next, refused *Published) *Published {
	if !next.Usable(time.Now()) || next.set.AccessToken.Equal(refused.set.AccessToken) {
		return nil
	}
	return next
}
