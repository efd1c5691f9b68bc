package connection

import (
	"testing"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/oauth"
	"github.com/caddyoauth/caddyoauth/internal/secret"
)

const day = 24 * time.Hour

// TestEnds: when only a person can go on, and from when on that is said.
func TestEnds(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		access        time.Duration // life of the access token
		refresh       time.Duration // life of the refresh token; 0 = there is none, -1 = without a known end
		policy        Policy
		quiet, notice time.Duration // after so long nothing is said, and after so long it is; 0 = never
	}{
		"an hour without refresh token": {access: time.Hour, quiet: 47 * time.Minute, notice: 49 * time.Minute},
		"a year without refresh token":  {access: 365 * day, quiet: 357 * day, notice: 359 * day},
		"a refresh token without end":   {access: time.Hour, refresh: -1, quiet: 1000 * day},
		"a refresh token of a week":     {access: time.Hour, refresh: 7 * day, quiet: 5 * day, notice: 6 * day},
		"a refresh token of months":     {access: time.Hour, refresh: 90 * day, quiet: 82 * day, notice: 84 * day},
		"a refresh token of a session":  {access: time.Hour, refresh: day, quiet: 23 * time.Hour},
		"dead already":                  {access: time.Hour, refresh: 7 * day, quiet: 7*day + time.Hour},
		"idle, and kept alive":          {access: time.Hour, refresh: -1, policy: Policy{RefreshIdle: 30 * day}, quiet: 29 * day},
		"idle, and nobody keeps it":     {access: time.Hour, refresh: -1, policy: Policy{RefreshIdle: 30 * day, KeepAlive: -1}, quiet: 23 * day, notice: 25 * day},
	} {
		set := TokenSet{AccessToken: secret.New("a"), IssuedAt: epoch, ExpiresAt: epoch.Add(c.access), RefreshIssuedAt: epoch}
		if c.refresh != 0 {
			set.RefreshToken = secret.New("r")
		}
		if c.refresh > 0 {
			set.RefreshExpiresAt = epoch.Add(c.refresh)
		}
		settings := Settings{Grant: oauth.GrantRefreshToken, Policy: c.policy}
		end, notice := settings.ends(set)
		if endsSoon(end, notice, epoch.Add(c.quiet)) {
			t.Errorf("%s: said too soon", name)
		}
		if got := endsSoon(end, notice, epoch.Add(c.notice)); got != (c.notice > 0) {
			t.Errorf("%s: said is %v", name, got)
		}
		settings.Grant = oauth.GrantClientCredentials
		if end, _ := settings.ends(set); !end.IsZero() {
			t.Errorf("%s: for a machine it ends at %v", name, end)
		}
	}
}

// TestKeepAliveAt: well before the refresh token dies, and not more often than is of use.
func TestKeepAliveAt(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		policy      Policy
		end         time.Duration // of the refresh token; 0 = not known
		most, least time.Duration // with no and with full chance; 0 = never
	}{
		"nothing is known":                    {},
		"idle limit of Google":                {policy: Policy{RefreshIdle: 180 * day}, most: 45 * day, least: 40 * day},
		"idle limit of three days":            {policy: Policy{RefreshIdle: 3 * day}, most: day, least: 21 * time.Hour},
		"idle limit of an hour":               {policy: Policy{RefreshIdle: time.Hour}},
		"an end":                              {end: 90 * day, most: 45 * day, least: 40 * day},
		"an end in three days":                {end: 3 * day, most: 36 * time.Hour, least: 32 * time.Hour},
		"an end that is near":                 {end: 25 * time.Hour, most: day, least: 21 * time.Hour},
		"a session":                           {end: 30 * time.Minute},
		"an end and an idle limit":            {policy: Policy{RefreshIdle: 30 * day}, end: 90 * day, most: 180 * time.Hour, least: 162 * time.Hour},
		"an idle limit and an end before it":  {policy: Policy{RefreshIdle: 400 * day}, end: 90 * day, most: 45 * day, least: 40 * day},
		"off":                                 {policy: Policy{RefreshIdle: 30 * day, KeepAlive: -1}},
		"as configured":                       {policy: Policy{RefreshIdle: 30 * day, KeepAlive: 7 * day}, end: 90 * day, most: 7 * day, least: 151 * time.Hour},
		"a session that is to be kept alive":  {policy: Policy{KeepAlive: 10 * time.Minute}, end: 30 * time.Minute, most: 10 * time.Minute, least: 9 * time.Minute},
		"a session, and not often enough":     {policy: Policy{KeepAlive: time.Hour}, end: 30 * time.Minute},
		"configured without a fact":           {policy: Policy{KeepAlive: 7 * day}, most: 7 * day, least: 151 * time.Hour},
		"configured longer than it may idle":  {policy: Policy{KeepAlive: 40 * day, RefreshIdle: 30 * day}},
		"lifetime that answers did not state": {policy: Policy{RefreshLifetime: 90 * day}}, // withEnd has made an end of it
	} {
		set := TokenSet{IssuedAt: epoch}
		if c.end > 0 {
			set.RefreshExpiresAt = epoch.Add(c.end)
		}
		most, least := c.policy.keepAliveAt(set, 0), c.policy.keepAliveAt(set, 1)
		if c.most == 0 {
			if !most.IsZero() || !least.IsZero() {
				t.Errorf("%s: used after %v", name, most.Sub(epoch))
			}
			continue
		}
		if most.Sub(epoch) != c.most || least.Sub(epoch) < c.least || !least.Before(most) {
			t.Errorf("%s: used after %v to %v, want %v to %v", name, least.Sub(epoch), most.Sub(epoch), c.least, c.most)
		}
	}
	a, b := chanceOf(ID{Connection: "drive", Subject: "a"}), chanceOf(ID{Connection: "drive", Subject: "b"})
	if a == b || a < 0 || a >= 1 || a != chanceOf(ID{Connection: "drive", Subject: "a"}) {
		t.Errorf("the chances are %v and %v", a, b)
	}
}

// TestWithEnd: what an answer says of the refresh token's end comes first, then what is known of the server.
func TestWithEnd(t *testing.T) {
	t.Parallel()
	old := TokenSet{
		RefreshToken: secret.New("old"), RefreshExpiresAt: epoch.Add(100 * day), RefreshIssuedAt: epoch, AuthorizedAt: epoch, Generation: 1,
	}
	sent := epoch.Add(10 * day)
	for name, c := range map[string]struct {
		policy  Policy
		refresh string        // in the answer; "" = none
		says    time.Duration // after it was sent
		end     time.Duration // after the epoch; 0 = not known
		since   time.Time
	}{
		"another refresh token, and nothing is known": {refresh: "new", since: sent},
		"the server says":                                 {refresh: "new", says: 30 * day, end: 40 * day, since: sent, policy: Policy{RefreshLifetime: day}},
		"the policy says":                                 {refresh: "new", end: 100*day + time.Hour, since: sent, policy: Policy{RefreshLifetime: 90*day + time.Hour}},
		"no refresh token in the answer":                  {end: 100 * day, since: epoch, policy: Policy{RefreshLifetime: day}},
		"the same refresh token":                          {refresh: "old", end: 100 * day, since: epoch},
		"the same end":                                    {refresh: "new", says: 90*day - 3*time.Second, end: 100*day - 3*time.Second, since: epoch},
		"the consent ends before the refresh token":       {refresh: "new", says: 30 * day, end: 20 * day, since: sent, policy: Policy{ConsentLifetime: 20 * day}},
		"the consent ends, and nothing else is known":     {refresh: "new", end: 20 * day, since: sent, policy: Policy{ConsentLifetime: 20 * day}},
		"the consent ends as before":                      {refresh: "new", end: 100 * day, since: epoch, policy: Policy{ConsentLifetime: 100 * day}},
		"the consent ends after what the server says":     {refresh: "new", says: 30 * day, end: 40 * day, since: sent, policy: Policy{ConsentLifetime: 400 * day}},
		"the same refresh token, and a consent that ends": {end: 50 * day, since: epoch, policy: Policy{ConsentLifetime: 50 * day}},
	} {
		s := &Settings{Grant: oauth.GrantRefreshToken, Policy: c.policy}
		resp := &oauth.TokenResponse{AccessToken: secret.New("a"), RefreshToken: secret.New(c.refresh), SentAt: sent, ExpiresAt: sent.Add(time.Hour)}
		if c.says > 0 {
			resp.RefreshExpiresAt = sent.Add(c.says)
		}
		next, err := accept(old, resp, s, sent)
		if err != nil {
			t.Fatal(err)
		}
		if got := next.RefreshExpiresAt; c.end == 0 && !got.IsZero() || c.end > 0 && !got.Equal(epoch.Add(c.end)) {
			t.Errorf("%s: it ends after %v, want %v", name, got.Sub(epoch), c.end)
		}
		if !next.RefreshIssuedAt.Equal(c.since) {
			t.Errorf("%s: that end stands since %v, want %v", name, next.RefreshIssuedAt, c.since)
		}
	}
	unknown := old
	unknown.AuthorizedAt, unknown.RefreshExpiresAt = time.Time{}, time.Time{}
	next, _ := accept(unknown, &oauth.TokenResponse{AccessToken: secret.New("a"), SentAt: sent}, &Settings{
		Grant: oauth.GrantRefreshToken, Policy: Policy{ConsentLifetime: day}.withDefaults(),
	}, sent)
	if !next.RefreshExpiresAt.IsZero() {
		t.Errorf("of a consent from no known time the end is %v", next.RefreshExpiresAt)
	}
}
