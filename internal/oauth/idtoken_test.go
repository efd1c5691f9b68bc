package oauth

import (
	"strings"
	"testing"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/secret"
)

func idToken(claims string) secret.Text { return secret.New(jwt(claims)) }

// TestParseIDToken: what is read, and what is cleaned on the way.
func TestParseIDToken(t *testing.T) {
	t.Parallel()
	c, err := ParseIDToken(idToken(`{"iss":"https://idp","sub":"248","aud":["a","b"],"azp":"a","nonce":"n","exp":1700000000.5,
		"email":"jane@example.com","name":"Jané \u202e\u0007Doe\n","preferred_username":"` + strings.Repeat("é", 500) + `"}`))
	if err != nil {
		t.Fatal(err)
	}
	if c.Issuer != "https://idp" || c.Subject != "248" || strings.Join(c.Audience, " ") != "a b" || c.AuthorizedParty != "a" ||
		c.Nonce != "n" || c.ExpiresAt.Unix() != 1700000000 || c.Email != "jane@example.com" || c.Name != "Jané Doe" ||
		c.PreferredUsername != strings.Repeat("é", maxLabel) {
		t.Errorf("got %+v", c)
	}
	if c, err = ParseIDToken(idToken(`{"iss":"i","sub":"s","aud":"one","exp":1}`)); err != nil || len(c.Audience) != 1 {
		t.Errorf("got %+v, %v", c, err)
	}
}

// TestUnusableIDTokens: the error shows nothing of the token.
func TestUnusableIDTokens(t *testing.T) {
	t.Parallel()
	for name, token := range map[string]secret.Text{
		"none":             {},
		"opaque":           secret.New("Seeded0"),
		"two parts":        secret.New("Seeded0.Seeded0"),
		"encrypted":        secret.New("Seeded0.b.c.d.e"),
		"not base64":       secret.New("a.Seeded0!.c"),
		"no payload":       secret.New("a..c"),
		"blank":            idToken(" "),
		"a list":           idToken(`["Seeded0"]`),
		"a form":           idToken(`error=Seeded0`),
		"cut off":          idToken(`{"iss":"Seeded0"`),
		"no issuer":        idToken(`{"sub":"Seeded0","aud":"c","exp":1}`),
		"no subject":       idToken(`{"iss":"Seeded0","aud":"c","exp":1}`),
		"number":           idToken(`{"iss":"i","sub":7,"aud":"c","exp":1}`),
		"long subject":     idToken(`{"iss":"i","sub":"` + strings.Repeat("a", maxSubject+1) + `","aud":"c","exp":1}`),
		"line in subject":  idToken(`{"iss":"i","sub":"a\nSeeded0","aud":"c","exp":1}`),
		"odd audience":     idToken(`{"iss":"i","sub":"s","aud":["c",{"Seeded0":1}],"exp":1}`),
		"no expiry":        idToken(`{"iss":"i","sub":"Seeded0","aud":"c"}`),
		"expiry in words":  idToken(`{"iss":"i","sub":"s","aud":"c","exp":"Seeded0"}`),
		"expiry in millis": idToken(`{"iss":"i","sub":"s","aud":"c","exp":1700000000000}`),
		"huge":             idToken(`{"iss":"i","sub":"s","aud":"c","exp":1,"x":"` + strings.Repeat("Seeded0", maxIDToken/7) + `"}`),
	} {
		_, err := ParseIDToken(token)
		e := mustFail(t, nil, err)
		expect(t, e, Unrecognized, "invalid_id_token")
		if strings.Contains(e.Error(), "Seeded") {
			t.Errorf("%s: the error repeats the token: %v", name, e)
		}
	}
}

// TestAttackIDTokenClaims: OpenID Connect Core section 3.1.3.7.
func TestAttackIDTokenClaims(t *testing.T) {
	t.Parallel()
	now := time.Now()
	good := func(change func(*IDClaims)) IDClaims {
		c := IDClaims{Issuer: "https://idp", Subject: "s", Audience: []string{"caddy"}, Nonce: "n-1", ExpiresAt: now.Add(time.Minute)}
		change(&c)
		return c
	}
	for name, tc := range map[string]struct {
		claims        IDClaims
		issuer, nonce string
		fault         string
	}{
		"good":                 {good(func(*IDClaims) {}), "https://idp", "n-1", ""},
		"issuer not known":     {good(func(*IDClaims) {}), "", "n-1", ""},
		"no nonce sent":        {good(func(*IDClaims) {}), "https://idp", "", ""},
		"authorized party":     {good(func(c *IDClaims) { c.AuthorizedParty = "caddy" }), "https://idp", "n-1", ""},
		"two audiences, azp":   {good(func(c *IDClaims) { c.Audience, c.AuthorizedParty = []string{"api", "caddy"}, "caddy" }), "https://idp", "n-1", ""},
		"clock a little off":   {good(func(c *IDClaims) { c.ExpiresAt = now.Add(-30 * time.Second) }), "https://idp", "n-1", ""},
		"other issuer":         {good(func(c *IDClaims) { c.Issuer = "https://evil" }), "https://idp", "n-1", "another issuer"},
		"issuer with slash":    {good(func(c *IDClaims) { c.Issuer += "/" }), "https://idp", "n-1", "another issuer"},
		"other audience":       {good(func(c *IDClaims) { c.Audience = []string{"other"} }), "https://idp", "n-1", "another client"},
		"no audience":          {good(func(c *IDClaims) { c.Audience = nil }), "https://idp", "n-1", "another client"},
		"two audiences":        {good(func(c *IDClaims) { c.Audience = []string{"caddy", "x"} }), "https://idp", "n-1", "another client"},
		"other party":          {good(func(c *IDClaims) { c.AuthorizedParty = "x" }), "https://idp", "n-1", "another client"},
		"expired":              {good(func(c *IDClaims) { c.ExpiresAt = now.Add(-idLeeway) }), "https://idp", "n-1", "expired"},
		"replayed":             {good(func(c *IDClaims) { c.Nonce = "n-2" }), "https://idp", "n-1", "nonce"},
		"nonce left out":       {good(func(c *IDClaims) { c.Nonce = "" }), "https://idp", "n-1", "nonce"},
		"nonce begins as ours": {good(func(c *IDClaims) { c.Nonce = "n-11" }), "https://idp", "n-1", "nonce"},
	} {
		err := tc.claims.Check(tc.issuer, "caddy", tc.nonce, now)
		switch {
		case tc.fault == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case tc.fault != "" && (err == nil || !strings.Contains(err.Error(), tc.fault)):
			t.Errorf("%s: got %v, want a word about %s", name, err, tc.fault)
		}
	}
}
