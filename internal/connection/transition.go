package connection

import (
	"cmp"
	"errors"
	"strings"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/oauth"
)

// The transitions below are pure: a record and what happened go in, the next record comes out. They touch no clock, no
// storage and no network, so that every state of a connection can be tested by value.

// finding is a failure that we found ourselves, with the class and code that it is treated by.
type finding struct {
	text string
	as   *oauth.Error
}

func (f *finding) Error() string { return f.text }
func (f *finding) Unwrap() error { return f.as }

// intend returns the record with the intent to replace its current generation.
func intend(rec Record, nonce string, now time.Time) Record {
	rec.Intent = &Intent{
		Generation:    rec.Current.Generation,
		RefreshDigest: rec.Current.RefreshToken.Digest(),
		Nonce:         nonce,
		At:            now,
		Repeated:      rec.openIntent(),
	}
	rec.UpdatedAt = now
	return rec
}

// accept turns a token response into the token set that follows current. A refresh token, and a scope, that the response leaves out
// stay the old ones (RFC 6749 sections 5.1 and 6); for grants without one it is never kept. An error says why the access token cannot be
// used; the set is whole all the same, for its refresh token may have replaced the old one.
func accept(current TokenSet, resp *oauth.TokenResponse, s *Settings, now time.Time) (TokenSet, error) {
	next := TokenSet{
		Generation:   current.Generation + 1,
		AccessToken:  resp.AccessToken,
		TokenType:    resp.TokenType,
		Scope:        cmp.Or(resp.Scope, current.Scope),
		IssuedAt:     resp.SentAt,
		ExpiresAt:    resp.ExpiresAt,
		Response:     resp.Response,
		Nonce:        s.Nonce,
		Consent:      current.Consent,
		Root:         current.Root,
		AuthorizedAt: current.AuthorizedAt,
	}
	if ways[s.Grant].refreshes {
		next.RefreshToken = resp.RefreshToken
		if next.RefreshToken.IsZero() {
			next.RefreshToken = current.RefreshToken
		}
		next = s.withEnd(current, next, resp)
	}
	if next.ExpiresAt.IsZero() {
		next.ExpiresAt = resp.SentAt.Add(s.assumedLifetime(next))
	}
	switch strings.ToLower(resp.TokenType) {
	case "dpop", "mac", "pop":
		return next, &finding{"the server gave a token bound to a key; ask it for bearer tokens",
			&oauth.Error{Class: oauth.Misconfigured, Code: "unsupported_token_type"}}
	}
	if _, usableUntil := s.Policy.windowOf(next, 0); !usableUntil.After(now) {
		return next, &finding{"the token had expired when it arrived; compare the clocks of this machine and the server",
			&oauth.Error{Class: oauth.RetryLater, Code: "expired_on_arrival"}}
	}
	return next, nil
}

// rotated returns the token set after an exchange whose access token cannot be used but whose refresh token replaced the old
// one: everything else stays, so that nobody takes the unusable token for a good one.
func rotated(current, next TokenSet) TokenSet {
	current.Generation, current.RefreshToken, current.Nonce = next.Generation, next.RefreshToken, next.Nonce
	current.RefreshExpiresAt, current.RefreshIssuedAt = next.RefreshExpiresAt, next.RefreshIssuedAt
	return current
}

// supersedes reports whether theirs, found in storage, is to be kept rather than ours: a later generation is, because it may
// have used up ours; of two sets with one generation the one that was issued later.
func supersedes(theirs, ours TokenSet) bool {
	if theirs.AccessToken.IsZero() || theirs.Generation != ours.Generation {
		return !theirs.AccessToken.IsZero() && theirs.Generation > ours.Generation
	}
	return !theirs.AccessToken.Equal(ours.AccessToken) && theirs.IssuedAt.After(ours.IssuedAt)
}

// endedSince reports whether the connection was ended on purpose while ours was obtained, past a lock that did not hold. Ours must not
// bring it back.
func endedSince(stored Record, ours TokenSet) bool {
	return stored.Status == StatusDisconnected && stored.Current.Generation >= ours.Generation
}

// assumedLifetime is that of a token of which nothing says when it ends. A person's token that came with nothing to refresh it
// with (GitHub, Notion, Slack without rotation) is good until the API says otherwise.
func (s *Settings) assumedLifetime(set TokenSet) time.Duration {
	if s.stuck(set) {
		return unlimited
	}
	return s.Policy.DefaultLifetime
}

// gained reports whether next is worth being a generation of its own. Some servers answer an early refresh with the token
// that they gave before, until it expires; counting those would turn every refresh into the next one's reason.
func gained(current, next TokenSet) bool {
	return !next.AccessToken.Equal(current.AccessToken) || next.ExpiresAt.After(current.ExpiresAt.Add(time.Second)) ||
		!next.RefreshToken.Equal(current.RefreshToken)
}

// refreshed returns the record after an exchange that gave set.
func refreshed(rec Record, set TokenSet, now time.Time) Record {
	rec.Current = set
	rec.Status = StatusActive
	rec.Intent, rec.Failure = nil, nil
	rec.UpdatedAt = now
	return rec
}

// failed returns the record after an exchange that gave err. The token set is always kept. The intent stays when the outcome
// is unknown: the next holder of the lock must know that the refresh token may have been used up.
func failed(rec Record, err error, now time.Time) Record {
	var reply *oauth.Error
	class, code := oauth.RetryLater, "internal"
	if errors.As(err, &reply) {
		class, code = reply.Class, reply.Code
	}
	attempts := 1
	if rec.Failure != nil {
		attempts += rec.Failure.Attempts
	}
	rec.Failure = &Failure{Code: code, At: now, Attempts: attempts}
	rec.UpdatedAt = now
	switch class {
	case oauth.Revoked:
		rec.Status = StatusRevoked
		if rec.repeated() {
			rec.Status = StatusLostRotation
		}
	case oauth.Misconfigured:
		rec.Status = StatusMisconfigured
	default:
		rec.Status = StatusFailing
	}
	if class != oauth.UnknownOutcome && (rec.Status.NeedsPerson() || !rec.repeated()) {
		rec.Intent = nil
	}
	return rec
}

// openIntent reports whether an earlier exchange with the current refresh token may have succeeded unseen: its process
// died, or its answer was lost.
func (rec Record) openIntent() bool {
	return rec.Intent != nil && rec.Intent.Generation == rec.Current.Generation &&
		rec.Intent.RefreshDigest == rec.Current.RefreshToken.Digest()
}

// repeated reports whether the exchange under way asks again after one whose outcome is unknown.
func (rec Record) repeated() bool { return rec.Intent != nil && rec.Intent.Repeated }
