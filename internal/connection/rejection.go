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
		return nil
	}
	next, err := s.await(ctx, set, want{reason: ReasonRejected, newer: refused.Generation()})
	if err != nil {
		return nil
	}
	return replayable(next, refused)
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
	return refused.afterRejection && time.Since(refused.publishedAt) < set.Policy.RejectionCooldown
}

// replayable returns next if it promises another answer than refused did.
func replayable(next, refused *Published) *Published {
	if !next.Usable(time.Now()) || next.set.AccessToken.Equal(refused.set.AccessToken) {
		return nil
	}
	return next
}
