package connection

import (
	"context"
	"time"
)

// Ending returns when only a person can go on, by what is stored, if that is so soon that somebody should be told.
func (s *Source) Ending(set *Settings, rec Record) (end time.Time, soon bool) {
	end, notice := set.ends(rec.Current)
	return end, s.alive(set, rec) && endsSoon(end, notice, time.Now())
}

// alive reports whether nobody and nothing has ended a token set that is stored.
func (s *Source) alive(set *Settings, rec Record) bool {
	return !rec.Current.AccessToken.IsZero() && !rec.Status.NeedsPerson() && set.differs(s.fingerprint, rec) == nil
}

// KeepAlive refreshes a token set whose refresh token would otherwise die of idleness, if that is due within the given time, by what
// rec says, which the caller has read from storage. If another instance was faster what it got is taken over. It does not count as a
// use.
func (s *Source) KeepAlive(ctx context.Context, set *Settings, rec Record, within time.Duration) (due bool, err error) {
	at := set.Policy.keepAliveAt(rec.Current, chanceOf(rec.ID))
	if set.stuck(rec.Current) || !s.alive(set, rec) || at.IsZero() || time.Now().Add(within).Before(at) {
		return false, nil
	}
	_, err = s.await(ctx, set, want{reason: ReasonIdle, newer: rec.Current.Generation})
	return true, err
}
