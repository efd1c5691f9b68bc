package connection

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/oauth"
	"github.com/caddyoauth/caddyoauth/internal/secret"
)

var epoch = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

func oldSet() TokenSet {
	return TokenSet{
		Generation: 4, AccessToken: secret.New("access-4"), RefreshToken: secret.New("refresh-4"), TokenType: "Bearer",
		Scope: "read", IssuedAt: epoch.Add(-time.Hour), ExpiresAt: epoch, Nonce: "other",
	}
}

func TestIntend(t *testing.T) {
	t.Parallel()
	set := oldSet()
	for name, c := range map[string]struct {
		found    *Intent
		repeated bool
	}{
		"none":                       {nil, false},
		"open":                       {&Intent{Generation: 4, RefreshDigest: set.RefreshToken.Digest()}, true},
		"open and repeated":          {&Intent{Generation: 4, RefreshDigest: set.RefreshToken.Digest(), Repeated: true}, true},
		"of an earlier generation":   {&Intent{Generation: 3, RefreshDigest: set.RefreshToken.Digest()}, false},
		"of another refresh token":   {&Intent{Generation: 4, RefreshDigest: "another"}, false},
		"of a grant that needs none": {&Intent{Generation: 4}, false},
	} {
		before := Record{Current: set, Status: StatusActive, Intent: c.found, Failure: &Failure{Attempts: 2}}
		after := intend(before, "me", epoch)
		want := Intent{Generation: 4, RefreshDigest: set.RefreshToken.Digest(), Nonce: "me", At: epoch, Repeated: c.repeated}
		if *after.Intent != want || after.UpdatedAt != epoch {
			t.Errorf("%s: got %+v, want %+v", name, *after.Intent, want)
		}
		if after.Status != before.Status || after.Current != before.Current || after.Failure != before.Failure || before.Intent != c.found {
			t.Errorf("%s: the intent changed more than itself", name)
		}
	}
}

func TestFailed(t *testing.T) {
	t.Parallel()
	open := &Intent{Generation: 4, Nonce: "me"}
	again := &Intent{Generation: 4, Nonce: "me", Repeated: true}
	for _, c := range []struct {
		class  oauth.Class
		intent *Intent
		status Status
		stays  bool // the intent
	}{
		{oauth.RetryLater, open, StatusFailing, false},
		{oauth.RetryLater, again, StatusFailing, true},
		{oauth.Unrecognized, open, StatusFailing, false},
		{oauth.Unrecognized, again, StatusFailing, true},
		{oauth.Misconfigured, open, StatusMisconfigured, false},
		{oauth.Misconfigured, again, StatusMisconfigured, true},
		{oauth.UnknownOutcome, open, StatusFailing, true},
		{oauth.UnknownOutcome, again, StatusFailing, true},
		{oauth.Revoked, open, StatusRevoked, false},
		{oauth.Revoked, again, StatusLostRotation, false},
	} {
		name := fmt.Sprintf("%s, repeated %t", c.class, c.intent.Repeated)
		before := Record{Current: oldSet(), Status: StatusActive, Intent: c.intent}
		after := failed(before, fmt.Errorf("wrapped: %w", &oauth.Error{Class: c.class, Code: "code"}), epoch)
		if after.Status != c.status || (after.Intent != nil) != c.stays {
			t.Errorf("%s: got %s with intent %t, want %s with %t", name, after.Status, after.Intent != nil, c.status, c.stays)
		}
		if after.Current != before.Current {
			t.Errorf("%s: a failure changed the token set", name)
		}
		if want := (Failure{Code: "code", At: epoch, Attempts: 1}); *after.Failure != want || after.UpdatedAt != epoch {
			t.Errorf("%s: got %+v, want %+v", name, *after.Failure, want)
		}
		if n := failed(after, errors.New("unknown"), epoch).Failure; n.Attempts != 2 || n.Code != "internal" || after.Failure.Attempts != 1 {
			t.Errorf("%s: the second failure is counted as %d (%s)", name, n.Attempts, n.Code)
		}
	}
}

func TestRefreshed(t *testing.T) {
	t.Parallel()
	next := oldSet()
	next.Generation++
	after := refreshed(Record{
		ID: ID{Connection: "c"}, Fingerprint: "f", Status: StatusFailing, Current: oldSet(), Intent: &Intent{}, Failure: &Failure{},
	}, next, epoch)
	want := Record{ID: ID{Connection: "c"}, Fingerprint: "f", Status: StatusActive, Current: next, UpdatedAt: epoch}
	if after != want {
		t.Errorf("got %+v, want %+v", after, want)
	}
}

func TestAccept(t *testing.T) {
	t.Parallel()
	set := Settings{Grant: oauth.GrantRefreshToken, Nonce: "me"}.Complete()
	sent := epoch.Add(-time.Second)
	resp := oauth.TokenResponse{
		AccessToken: secret.New("access-5"), RefreshToken: secret.New("refresh-5"), TokenType: "bearer", Scope: "less",
		SentAt: sent, ExpiresAt: sent.Add(time.Hour), Response: secret.New(`{"a":1}`),
	}
	next, err := accept(oldSet(), &resp, set, epoch)
	want := TokenSet{
		Generation: 5, AccessToken: resp.AccessToken, RefreshToken: resp.RefreshToken, TokenType: "bearer", Scope: "less",
		IssuedAt: sent, ExpiresAt: sent.Add(time.Hour), Nonce: "me", Response: resp.Response,
	}
	if err != nil || next != want {
		t.Errorf("got %+v, %v, want %+v", next, err, want)
	}
	machine := Settings{Grant: oauth.GrantClientCredentials}.Complete()
	if next, _ := accept(oldSet(), &resp, machine, epoch); !next.RefreshToken.IsZero() {
		t.Error("a refresh token was kept for a grant without one")
	}
	resp.RefreshToken, resp.ExpiresAt = secret.Text{}, time.Time{}
	if next, _ := accept(oldSet(), &resp, machine, epoch); !next.RefreshToken.IsZero() {
		t.Error("the old refresh token was kept for a grant without one")
	}
	next, err = accept(oldSet(), &resp, set, epoch)
	if err != nil || !next.RefreshToken.Equal(oldSet().RefreshToken) || !next.ExpiresAt.Equal(sent.Add(DefaultLifetime)) {
		t.Errorf("without refresh token and expiry: got %+v, %v", next, err)
	}
}

func TestGained(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*TokenSet)
		want   bool
	}{
		"nothing new":           {func(*TokenSet) {}, false},
		"rounded expiry":        {func(s *TokenSet) { s.ExpiresAt = s.ExpiresAt.Add(time.Second) }, false},
		"shorter life":          {func(s *TokenSet) { s.ExpiresAt = s.ExpiresAt.Add(-time.Minute) }, false},
		"longer life":           {func(s *TokenSet) { s.ExpiresAt = s.ExpiresAt.Add(time.Minute) }, true},
		"another access token":  {func(s *TokenSet) { s.AccessToken = secret.New("access-5") }, true},
		"another refresh token": {func(s *TokenSet) { s.RefreshToken = secret.New("refresh-5") }, true},
	} {
		next := oldSet()
		next.Generation++
		c.change(&next)
		if got := gained(oldSet(), next); got != c.want {
			t.Errorf("%s: got %t, want %t", name, got, c.want)
		}
	}
}

func TestSupersedes(t *testing.T) {
	t.Parallel()
	other := func(generation uint64, later time.Duration) TokenSet {
		s := oldSet()
		s.Generation, s.AccessToken, s.IssuedAt = generation, secret.New("access-other"), s.IssuedAt.Add(later)
		return s
	}
	for name, c := range map[string]struct {
		theirs TokenSet
		want   bool
	}{
		"ours itself":                {oldSet(), false},
		"later generation":           {other(5, -time.Hour), true},
		"earlier generation":         {other(3, time.Hour), false},
		"same generation, later":     {other(4, time.Second), true},
		"same generation, earlier":   {other(4, -time.Second), false},
		"nothing":                    {TokenSet{}, false},
		"of another configuration":   {TokenSet{Generation: 4}, false},
		"later of another, no token": {TokenSet{Generation: 9}, false},
	} {
		if got := supersedes(c.theirs, oldSet()); got != c.want {
			t.Errorf("%s: got %t, want %t", name, got, c.want)
		}
	}
}

func TestNeedsPerson(t *testing.T) {
	t.Parallel()
	for status, want := range map[Status]bool{
		StatusAuthorizationRequired: true, StatusRevoked: true, StatusLostRotation: true, StatusDisconnected: true,
		StatusPending: false, StatusActive: false, StatusFailing: false, StatusMisconfigured: false,
	} {
		if got := status.NeedsPerson(); got != want {
			t.Errorf("%s needs a person: got %t", status, got)
		}
	}
}

func TestDigestTellsIDsApart(t *testing.T) {
	t.Parallel()
	seen := map[string]ID{}
	for _, id := range []ID{{"", "ab", ""}, {"a", "b", ""}, {"", "a", "b"}, {"", "b", "a"}, {"", "a", ""}, {"", "ab", "c"}, {"", "a", "bc"}} {
		if other, dup := seen[id.Digest()]; dup || len(id.Digest()) != 8 {
			t.Errorf("digest of %+v: %s, as %+v", id, id.Digest(), other)
		}
		seen[id.Digest()] = id
	}
}
