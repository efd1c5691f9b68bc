package caddyoauth

import (
	"cmp"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddyoauth/caddyoauth/internal/connection"
	"github.com/caddyoauth/caddyoauth/internal/oauth"
	"github.com/caddyoauth/caddyoauth/internal/provider"
	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// presetOf is a connection with a preset and the examples of its parameters.
func presetOf(t *testing.T, name string) (*Connection, *provider.Provider) {
	t.Helper()
	preset, ok := provider.Lookup(name)
	if !ok {
		t.Fatalf("there is no %s", name)
	}
	params := make(map[string]string)
	for _, param := range preset.Params {
		params[param.Name] = param.Example
	}
	expanded, err := preset.Expand(params)
	if err != nil {
		t.Fatal(err)
	}
	return &Connection{Provider: &ProviderPreset{Name: name, Params: params}, ClientID: "caddy", ClientSecret: "hidden"}, expanded
}

// TestEveryPreset: each one works for people, as its row says.
func TestEveryPreset(t *testing.T) {
	t.Parallel()
	for _, name := range provider.Names() {
		conn, preset := presetOf(t, name)
		b, err := conn.build("api")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if b.grant != oauth.GrantRefreshToken || b.endpoint != cmp.Or(preset.TokenEndpoint, preset.Issuer) || b.consent.title == "" {
			t.Errorf("%s: the grant is %s, the endpoint %s, the title %q", name, b.grant, b.endpoint, b.consent.title)
		}
		if b.discovery == nil { // else see TestDiscoveredConnection
			checkAsked(t, b, preset)
		}
		if (b.allow != nil) != (len(preset.APIHosts) > 0) || b.allow != nil && !b.allow.tlsOnly {
			t.Errorf("%s: its hosts are not the allow-list, or may be called in the clear", name)
		}
		if got := b.injection.prefix + tokenMark + b.injection.suffix; got != preset.HeaderTemplate || !strings.EqualFold(b.injection.header, preset.HeaderName) {
			t.Errorf("%s: the header is %s: %s", name, b.injection.header, got)
		}
		if b.discovery == nil && b.consent.revocable && !preset.Revocation.Automatic() {
			t.Errorf("%s: ending one connection would end more than it", name)
		}
	}
}

// checkAsked checks what a person is sent to the provider with.
func checkAsked(t *testing.T, b *built, preset *provider.Provider) {
	t.Helper()
	text, err := b.client.AuthorizationURL(oauth.AuthorizationRequest{
		RedirectURI: "https://app.example/connect/callback", State: oauth.RandomState(), Params: b.authParams,
	})
	if err != nil {
		t.Errorf("%s: %v", preset.Name, err)
		return
	}
	asked, err := url.Parse(text)
	if err != nil || !strings.HasPrefix(text, preset.AuthorizationEndpoint) {
		t.Errorf("%s: people are sent to %s, %v", preset.Name, text, err)
	}
	query := asked.Query()
	for name, value := range preset.AuthParams {
		if query.Get(name) != value {
			t.Errorf("%s: %s is %q, want %q", preset.Name, name, query.Get(name), value)
		}
	}
	want := strings.Join(preset.Scopes(nil), preset.ScopeSeparator)
	if got := query.Get(preset.ScopeParam); got != want {
		t.Errorf("%s: %s is %q, want %q", preset.Name, preset.ScopeParam, got, want)
	}
	if preset.ScopeParam != "scope" && query.Has("scope") {
		t.Errorf("%s: scope is sent as well", preset.Name)
	}
	if b.consent.pkce != (preset.PKCE != provider.PKCEOmit) || b.consent.openID != slices.Contains(preset.Scopes(nil), "openid") {
		t.Errorf("%s: PKCE %v, nonce %v", preset.Name, b.consent.pkce, b.consent.openID)
	}
}

// TestPresetGivesWay: what the connection says wins over what its preset says.
func TestPresetGivesWay(t *testing.T) {
	t.Parallel()
	conn, preset := presetOf(t, "google")
	conn.TokenEndpoint, conn.AuthorizationEndpoint = "https://idp.example/token", "https://idp.example/authorize"
	conn.Scopes, conn.ClientAuth = []string{"mine"}, string(oauth.ClientSecretBasic)
	conn.AuthParams = map[string]string{"prompt": "none", "login_hint": "a"}
	conn.Header = &HeaderInjection{Name: "X-Token"}
	conn.AllowHosts = []string{"api.internal"}
	conn.RefreshBefore, conn.DefaultLifetime = caddy.Duration(time.Second), caddy.Duration(time.Minute)
	b, err := conn.build("api")
	if err != nil {
		t.Fatal(err)
	}
	text, err := b.client.AuthorizationURL(oauth.AuthorizationRequest{
		RedirectURI: "https://app.example/", State: oauth.RandomState(), Params: b.authParams,
	})
	if err != nil {
		t.Fatal(err)
	}
	asked, _ := url.Parse(text)
	for name, want := range map[string]string{"scope": "mine", "prompt": "none", "login_hint": "a", "access_type": preset.AuthParams["access_type"]} {
		if asked.Query().Get(name) != want {
			t.Errorf("%s is %q, want %q", name, asked.Query().Get(name), want)
		}
	}
	if asked.Host != "idp.example" || b.endpoint != "https://idp.example/token" || b.injection.header != "X-Token" {
		t.Errorf("people go to %s, tokens come from %s and travel in %s", asked.Host, b.endpoint, b.injection.header)
	}
	if b.allow.tlsOnly || b.policy.RefreshBefore != time.Second || b.policy.DefaultLifetime != time.Minute {
		t.Errorf("the policy is %+v, TLS only: %v", b.policy, b.allow.tlsOnly)
	}
	conn.Grant, conn.Scopes = oauth.GrantClientCredentials, nil
	if b, err = conn.build("api"); err != nil || b.grant != oauth.GrantClientCredentials {
		t.Errorf("with a grant of machines: %v", err)
	}
}

// TestPresetScopes: a name that the preset has for a set stands for that set, any other for itself.
func TestPresetScopes(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"google", "microsoft"} {
		conn, preset := presetOf(t, name)
		if len(preset.ScopeSets) == 0 {
			t.Errorf("%s has no sets", name)
		}
		for set, scopes := range preset.ScopeSets {
			got := conn.scopesWith(t, preset, set, "own:scope")
			for _, want := range append([]string{"own:scope"}, scopes...) {
				if !slices.Contains(got, want) {
					t.Errorf("%s %s: %v lacks %s", name, set, got, want)
				}
			}
			if slices.Contains(got, set) && !slices.Contains(scopes, set) {
				t.Errorf("%s: the name of the set %s is asked for as a scope", name, set)
			}
		}
	}
}

func (c *Connection) scopesWith(t *testing.T, preset *provider.Provider, wanted ...string) []string {
	t.Helper()
	c.Scopes = wanted
	r := &resolver{repl: caddy.NewReplacer()}
	got := c.scopes(r, preset, oauth.GrantRefreshToken)
	if len(r.faults) > 0 {
		t.Fatal(r.faults)
	}
	return got
}

// TestPresetCompanions: headers that an API wants are added where the request does not bring them.
func TestPresetCompanions(t *testing.T) {
	t.Parallel()
	conn, preset := presetOf(t, "notion")
	b, err := conn.build("api")
	if err != nil {
		t.Fatal(err)
	}
	published := publishedWith(t, "seeded-access")
	for given, want := range map[string]string{"": preset.APIHeaders["Notion-Version"], "2020-01-01": "2020-01-01"} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://api.notion.com/", nil)
		if err != nil {
			t.Fatal(err)
		}
		if given != "" {
			request.Header.Set("Notion-Version", given)
		}
		before := len(request.Header)
		out := *request
		b.injection.apply(&out, published)
		if got := out.Header.Values("Notion-Version"); len(got) != 1 || got[0] != want || want == "" {
			t.Errorf("with %q: got %q, want %q", given, got, want)
		}
		if len(request.Header) != before {
			t.Error("the client's own request was changed")
		}
	}
}

// TestPresetRevocation: each is told in its own way, and with the token that it wants to hear of.
func TestPresetRevocation(t *testing.T) {
	t.Parallel()
	for name, want := range map[string][2]bool{ // revocable, by the access token
		"google": {true, false}, "salesforce": {true, false}, "github": {true, true}, "slack": {true, true}, "dropbox": {true, true},
		"zoom": {true, true}, "keycloak": {true, false}, "microsoft": {false, true}, "hubspot": {true, false}, "stripe": {false, false},
	} {
		conn, _ := presetOf(t, name)
		b, err := conn.build("api")
		if err != nil {
			t.Fatal(err)
		}
		if got := [2]bool{b.consent.revocable, b.consent.revokeAccess}; got != want {
			t.Errorf("%s: got %v, want %v", name, got, want)
		}
		conn.RevocationEndpoint = "https://idp.example/revoke"
		if b, err = conn.build("api"); err != nil || !b.consent.revocable || b.consent.revokeAccess {
			t.Errorf("%s: an endpoint of one's own is that of RFC 7009: %v", name, err)
		}
	}
}

// TestPresetRevocationIsTold: every preset whose revocation ends no more than the one connection is told of it; a shape that
// cannot be translated would be left out without a word.
func TestPresetRevocationIsTold(t *testing.T) {
	t.Parallel()
	for _, name := range provider.Names() {
		conn, preset := presetOf(t, name)
		b, err := conn.build("api")
		if err != nil {
			t.Fatal(err)
		}
		if want := b.discovery != nil || preset.RevocationEndpoint != "" && preset.Revocation.Automatic(); b.consent.revocable != want {
			t.Errorf("%s: told of the end of a connection: %v, want %v", name, b.consent.revocable, want)
		}
		conn.ClientSecret, conn.ClientAuth = "", string(oauth.None)
		if _, err := conn.build("api"); err != nil {
			t.Errorf("%s, without a secret: %v", name, err)
		}
	}
}

// TestPresetCodes: each code of a preset's table is taken for what the table says, in whatever case it comes.
func TestPresetCodes(t *testing.T) {
	t.Parallel()
	code, status := "", 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string]any{"ok": false, "error": code, "message": "in words"})
	}))
	t.Cleanup(server.Close)
	for _, name := range provider.Names() {
		conn, preset := presetOf(t, name)
		conn.TokenEndpoint = server.URL
		b, err := conn.build("api")
		if err != nil {
			t.Fatal(err)
		}
		for class, codes := range map[oauth.Class][]string{
			oauth.Revoked: preset.Errors.Revoked, oauth.Misconfigured: preset.Errors.Misconfigured, oauth.RetryLater: preset.Errors.RetryLater,
		} {
			for i, listed := range codes {
				code, status = listed, cmp.Or(preset.Errors.RevokedStatus, http.StatusBadRequest)
				if i%2 == 0 {
					code = strings.ToUpper(listed)
				}
				_, err := b.client.Refresh(t.Context(), secret.New("some-refresh-token"))
				var failure *oauth.Error
				if !errors.As(err, &failure) || failure.Class != class {
					t.Errorf("%s: %s is %v, want %s", name, listed, err, class)
				}
			}
		}
	}
}

// publishedWith is a token set as requests use it.
func publishedWith(t *testing.T, access string) *connection.Published {
	t.Helper()
	store := storeIn(t, t.TempDir())
	set := connection.Settings{
		Store: store, Tasks: new(connection.Tasks), Breaker: new(connection.Breaker), Grant: oauth.GrantRefreshToken, Nonce: "n",
	}.Complete()
	source := connection.NewSource(connection.ID{Connection: "api"}, "f", func() *connection.Settings { return set })
	resp := &oauth.TokenResponse{AccessToken: secret.New(access), TokenType: "Bearer", SentAt: time.Now(), ExpiresAt: time.Now().Add(time.Hour)}
	p, err := source.Apply(t.Context(), set, connection.Authorized(resp, nil, set, "test"))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestUnknownAuthParam: a parameter that the client sets itself is refused when the configuration is loaded, not at a visitor's click.
func TestUnknownAuthParam(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"state", "redirect_uri", "scope", "code_challenge", "request", "client_secret", "nonce"} {
		conn := baseConnection()
		conn.AuthorizationEndpoint, conn.Scopes = "https://idp.example/authorize", []string{"a"}
		conn.AuthParams = map[string]string{name: "x"}
		if _, err := conn.build("api"); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestPresetHostsInTheClear: a preset's hosts get no token without TLS, and no other host gets one at all.
func TestPresetHostsInTheClear(t *testing.T) {
	t.Parallel()
	conn, _ := presetOf(t, "google")
	b, err := conn.build("api")
	if err != nil {
		t.Fatal(err)
	}
	for _, to := range []struct {
		host             string
		plaintext, works bool
	}{
		{"www.googleapis.com", false, true}, {"www.googleapis.com", true, false}, {"evil.example", false, false}, {"www.googleapis.com.evil.example", false, false},
		{"googleapis.com", false, false},
	} {
		d := destination{plaintext: to.plaintext}
		d.dial.Network, d.dial.Host, d.dial.Port, d.dial.Address = "tcp", to.host, "443", to.host+":443"
		if err := b.allow.permits(d); (err == nil) != to.works {
			t.Errorf("%+v: %v", to, err)
		}
	}
}
