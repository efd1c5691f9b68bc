package connection

import (
	"context"
	"errors"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/oauth"
)

// way is how a grant comes by token sets. All that grants differ in, in the life of one, is said here.
type way struct {
	// anew asks for a token set without a refresh token; nil where only a person can give one.
	anew func(Client, context.Context) (*oauth.TokenResponse, error)
	// refreshes says that a refresh token is kept, and used, where the server gives one.
	refreshes bool
}

var ways = map[string]way{
	oauth.GrantClientCredentials: {anew: Client.ClientCredentials}, // RFC 6749 section 4.4.3: no refresh token
	oauth.GrantPassword:          {anew: Client.Password, refreshes: true},
	oauth.GrantRefreshToken:      {refreshes: true}, // of a person, who came with an authorization code
	oauth.GrantImplicit:          {},                // RFC 6749 section 4.2.2: when it ends, it ends
}

// NeedsPerson reports whether only a person can begin anew.
func (s *Settings) NeedsPerson() bool { return ways[s.Grant].anew == nil }

// stuck reports whether nothing can be asked for after that token set before a person has authorized.
func (s *Settings) stuck(current TokenSet) bool {
	return s.NeedsPerson() && (!ways[s.Grant].refreshes || current.RefreshToken.IsZero())
}

// publish makes a token set one that requests may use. Where nothing can be asked for before its end, nothing is tried.
func (s *Settings) publish(rec Record, now time.Time) *Published {
	p := publish(rec.Current, s.Policy, now)
	p.fingerprint = rec.Fingerprint
	p.endsAt, p.noticeAt = s.ends(rec.Current)
	if s.stuck(rec.Current) {
		p.refreshAt = p.usableUntil
	}
	return p
}

// ask makes the exchange with the token endpoint that the grant calls for, and returns what the response follows: current, or
// nothing but its count where it was begun anew. Where no person is needed for that, a dead refresh token is no end.
func (s *Settings) ask(ctx context.Context, client Client, current TokenSet) (*oauth.TokenResponse, TokenSet, error) {
	ctx, cancel := context.WithTimeout(ctx, s.Policy.Timeout)
	defer cancel()
	way := ways[s.Grant]
	if way.anew == nil || way.refreshes && !current.RefreshToken.IsZero() {
		resp, err := client.Refresh(ctx, current.RefreshToken)
		var reply *oauth.Error
		if way.anew == nil || !errors.As(err, &reply) || reply.Class != oauth.Revoked {
			return resp, current, err
		}
	}
	resp, err := way.anew(client, ctx)
	return resp, TokenSet{Generation: current.Generation}, err
}
