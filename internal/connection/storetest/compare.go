package storetest

import (
	"reflect"
	"testing"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/connection"
)

// same fails the test for each field that did not come back. It never prints a secret.
func same(t *testing.T, got, want connection.Record) {
	t.Helper()
	check := func(field string, ok bool) {
		t.Helper()
		if !ok {
			t.Errorf("the record's %s did not come back as it was saved", field)
		}
	}
	moment := func(field string, got, want time.Time) {
		t.Helper()
		check(field, got.Equal(want))
		if got != got.Round(0) {
			t.Errorf("the record's %s has a monotonic reading, which means nothing in another process", field)
		}
	}
	check("ID", got.ID == want.ID)
	check("fingerprint", got.Fingerprint == want.Fingerprint)
	check("status", got.Status == want.Status)
	moment("update time", got.UpdatedAt, want.UpdatedAt)

	g, w := got.Current, want.Current
	check("generation", g.Generation == w.Generation)
	check("access token", g.AccessToken.Equal(w.AccessToken))
	check("refresh token", g.RefreshToken.Equal(w.RefreshToken))
	check("token type", g.TokenType == w.TokenType)
	check("scope", g.Scope == w.Scope)
	check("reason", g.Reason == w.Reason)
	check("nonce", g.Nonce == w.Nonce)
	check("by", g.By == w.By)
	check("root", g.Root == w.Root)
	check("response", g.Response.Equal(w.Response))
	check("consent", reflect.DeepEqual(g.Consent, w.Consent))
	moment("issue time", g.IssuedAt, w.IssuedAt)
	moment("expiry", g.ExpiresAt, w.ExpiresAt)
	moment("refresh token's end", g.RefreshExpiresAt, w.RefreshExpiresAt)

	check("intent", (got.Intent == nil) == (want.Intent == nil))
	if got.Intent != nil && want.Intent != nil {
		moment("intent's time", got.Intent.At, want.Intent.At)
		g, w := *got.Intent, *want.Intent
		g.At, w.At = time.Time{}, time.Time{}
		check("intent", g == w)
	}
	check("failure", (got.Failure == nil) == (want.Failure == nil))
	if got.Failure != nil && want.Failure != nil {
		moment("failure's time", got.Failure.At, want.Failure.At)
		g, w := *got.Failure, *want.Failure
		g.At, w.At = time.Time{}, time.Time{}
		check("failure", g == w)
	}
}
