package connection

import (
	"hash/fnv"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/oauth"
)

// What only a person can give again has an end of its own, beyond that of the access token: a refresh token dies of age, or because
// nobody uses it. What follows says when, when somebody should be told, and when a refresh keeps it alive.

// Defaults and bounds.
const (
	DefaultEndNotice = 7 * 24 * time.Hour // how long before its end a person's access is said to be expiring
	endNoticeShare   = 5                  // and at most this part of its life
	sessionLife      = 24 * time.Hour     // refresh tokens that live no longer are those of a session, whose end is no news
	sameEnd          = 5 * time.Second    // two answers that differ by less speak of one end: they count from when they were sent

	keepAliveShare  = 4              // an idle refresh token is used each such part of the time that it may be idle
	keepAliveLeast  = 24 * time.Hour // but not more often, unless the configuration says so
	keepAliveSpread = 0.1            // how much of that interval is given to chance
)

// withEnd fills in when the refresh token of next dies of age: as the server says, else as the policy knows of it. Where an answer
// has none of its own, and the refresh token is still the one of current, what is known of it stays.
func (s *Settings) withEnd(current, next TokenSet, resp *oauth.TokenResponse) TokenSet {
	next.RefreshExpiresAt, next.RefreshIssuedAt = resp.RefreshExpiresAt, resp.SentAt
	switch {
	case next.RefreshToken.IsZero():
		next.RefreshExpiresAt, next.RefreshIssuedAt = time.Time{}, time.Time{}
		return next
	case !next.RefreshExpiresAt.IsZero():
	case next.RefreshToken.Equal(current.RefreshToken):
		next.RefreshExpiresAt, next.RefreshIssuedAt = current.RefreshExpiresAt, current.RefreshIssuedAt
	case s.Policy.RefreshLifetime > 0:
		next.RefreshExpiresAt = resp.SentAt.Add(s.Policy.RefreshLifetime)
	}
	if s.Policy.ConsentLifetime > 0 && !next.AuthorizedAt.IsZero() {
		end := next.AuthorizedAt.Add(s.Policy.ConsentLifetime)
		if next.RefreshExpiresAt.IsZero() || end.Before(next.RefreshExpiresAt) {
			next.RefreshExpiresAt = end
		}
	}
	if next.RefreshExpiresAt.Sub(current.RefreshExpiresAt).Abs() <= sameEnd {
		next.RefreshIssuedAt = current.RefreshIssuedAt // refreshing does not move that end
	}
	return next
}

// ends returns when only a person can go on, and from when on that should be said; zero times when that is not known, or not worth
// saying.
func (s *Settings) ends(set TokenSet) (end, notice time.Time) {
	if !s.NeedsPerson() || set.AccessToken.IsZero() {
		return end, notice
	}
	end, since := set.RefreshExpiresAt, set.RefreshIssuedAt
	if s.stuck(set) {
		end, since = set.ExpiresAt, set.IssuedAt
	}
	if p := s.Policy; p.KeepAlive < 0 && p.RefreshIdle > 0 && end.IsZero() {
		end, since = set.IssuedAt.Add(p.RefreshIdle), set.IssuedAt // nobody keeps it alive
	}
	if end.IsZero() {
		return end, notice
	}
	life := end.Sub(since)
	if !s.stuck(set) && life <= sessionLife {
		return end, notice
	}
	return end, end.Add(-min(DefaultEndNotice, life/endNoticeShare))
}

// keepAliveAt returns when the refresh token should be used although nobody asks for an access token; zero for never. By default
// that is well before it dies of idleness, and half-way to its end, where using it may bring a new one. chance is in [0,1).
func (p Policy) keepAliveAt(set TokenSet, chance float64) time.Time {
	every := p.KeepAlive
	if every == 0 {
		if p.RefreshIdle > 0 {
			every = max(p.RefreshIdle/keepAliveShare, keepAliveLeast)
		}
		if !set.RefreshExpiresAt.IsZero() {
			half := max(set.RefreshExpiresAt.Sub(set.IssuedAt)/2, keepAliveLeast)
			if every == 0 || half < every {
				every = half
			}
		}
	}
	if every <= 0 {
		return time.Time{}
	}
	every -= time.Duration(float64(every) * keepAliveSpread * chance)
	at := set.IssuedAt.Add(every)
	if !set.RefreshExpiresAt.IsZero() && !at.Before(set.RefreshExpiresAt) || p.RefreshIdle > 0 && every >= p.RefreshIdle {
		return time.Time{} // it dies sooner: a session, which use alone keeps alive
	}
	return at
}

// chanceOf is the same for the same ID, so that all instances agree on when its turn is.
func chanceOf(id ID) float64 {
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(id.Digest()))
	return float64(hash.Sum32()) / (1 << 32)
}
