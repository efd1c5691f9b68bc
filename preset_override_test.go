package caddyoauth

import (
	"go/ast"
	"maps"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddyoauth/caddyoauth/internal/oauth"
	"github.com/caddyoauth/caddyoauth/internal/provider"
)

// unreadFacts are the columns of the table that the plugin does not act on, and why they are there all the same. The list must be
// exact: whoever begins to read one removes it here, and is then asked for a way to override it.
var unreadFacts = map[string]string{
	"AsOf": "provenance, for the documentation", "Sources": "provenance, for the documentation",
	"Recalled": "provenance, for the documentation", "Notes": "for the documentation",

	"AccessLifetime":          "for the documentation and the simulator; an answer's own word counts",
	"ExpiresIn":               "for the documentation and the simulator; an answer's own word counts",
	"RefreshAnswersAtTheRoot": "for the simulator; a refresh finds the token at the root whatever the table says",
	"NoExpiryMeansUnlimited":  "for the documentation and the simulator; a token that came with neither end nor refresh token is always taken so",

	"RotationConfigurable": "for the documentation",
	"KillsOldAccessToken":  "for the documentation and the simulator; RefreshBefore draws the consequence",
}

// TestGuardPresetFacts: a fact that nobody reads is dead weight, or a server that is not asked as it wants to be.
func TestGuardPresetFacts(t *testing.T) {
	t.Parallel()
	read := make(map[string]bool)
	for _, file := range sourceFiles(t) {
		if file.dir != "." && file.path != "internal/provider/lookup.go" {
			continue
		}
		file.eachNode(func(function string, node ast.Node) {
			selector, ok := node.(*ast.SelectorExpr)
			if ok && (isName(selector.X, "preset") || function == "Provider.Scopes" && isName(selector.X, "p")) {
				read[selector.Sel.Name] = true
			}
		})
	}
	unread := maps.Clone(unreadFacts)
	for _, field := range reflect.VisibleFields(reflect.TypeFor[provider.Provider]()) {
		_, listed := unread[field.Name]
		delete(unread, field.Name)
		if read[field.Name] == listed {
			t.Errorf("a fact of the table is read (through a variable named preset) or listed with a reason; %s: read %v, listed %v", field.Name, read[field.Name], listed)
		}
	}
	for name := range unread {
		t.Errorf("%s is not in the table; shorten the list", name)
	}
}

// effect is what becomes of a connection, where a test can see it.
type effect struct {
	*built
	conf oauth.Config
	row  *provider.Provider // as the connection has amended it
}

// asked is a parameter that people are sent to the provider with.
func (e effect) asked(param string) string {
	text, err := e.client.AuthorizationURL(oauth.AuthorizationRequest{
		RedirectURI: "https://app.example/connect/callback", State: oauth.RandomState(), Params: e.authParams,
	})
	if err != nil {
		return err.Error()
	}
	asked, _ := url.Parse(text)
	return asked.Query().Get(param)
}

func effectOf(t *testing.T, conn *Connection) effect {
	t.Helper()
	b, err := conn.build("api")
	if err != nil {
		t.Fatal(err)
	}
	r := &resolver{repl: caddy.NewReplacer()}
	row := conn.preset(r)
	conn.amend(r, row)
	return effect{built: b, conf: conn.wire(r, row), row: row}
}

// overrides has for each column of the table how a connection says something else, and where that shows; or why nobody needs to.
var overrides = map[string]struct {
	preset string // one that says something there
	say    func(*Connection)
	see    func(effect) any
	want   any
	reason string
}{
	"Name": {reason: "it is what chooses the row"}, "Title": {reason: "it names the provider for people and decides nothing"},
	"Params": {reason: "their values are given with the preset, and a URL that they cannot make is given whole"},
	"Issuer": {"oidc", func(c *Connection) { c.Issuer = "https://own.example" }, func(e effect) any { return e.issuer }, "https://own.example", ""},
	"AuthorizationEndpoint": {"google", func(c *Connection) { c.AuthorizationEndpoint = "https://idp.example/a" },
		func(e effect) any { return e.conf.AuthorizationEndpoint }, "https://idp.example/a", ""},
	"TokenEndpoint": {"google", func(c *Connection) { c.TokenEndpoint = "https://idp.example/t" },
		func(e effect) any { return e.conf.TokenEndpoint }, "https://idp.example/t", ""},
	"RefreshEndpoint": {"google", func(c *Connection) { c.Quirks = &Quirks{RefreshEndpoint: "https://idp.example/r"} },
		func(e effect) any { return e.conf.RefreshEndpoint }, "https://idp.example/r", ""},
	"RevocationEndpoint": {"google", func(c *Connection) { c.RevocationEndpoint = "https://idp.example/r" },
		func(e effect) any { return e.conf.RevocationEndpoint }, "https://idp.example/r", ""},
	"Revocation": {"google", func(c *Connection) {
		c.Quirks = &Quirks{Revocation: &RevocationQuirks{Method: "DELETE", Auth: "client_secret_basic", Body: "json", Token: "access_token", Name: "it"}}
	}, func(e effect) any { return []any{e.conf.Revocation, e.consent.revocable, e.consent.revokeAccess} }, []any{oauth.RevocationShape{
		Method: "DELETE", Format: oauth.FormatJSON, Auth: oauth.RevokeWithBasic, Names: map[string]string{"token": "it", "token_type_hint": ""},
	}, true, true}, ""},
	"ClientAuth":   {"google", func(c *Connection) { c.ClientAuth = "client_secret_basic" }, func(e effect) any { return e.conf.Method }, oauth.ClientSecretBasic, ""},
	"BasicRaw":     {"notion", func(c *Connection) { c.Quirks = &Quirks{BasicRaw: new(true)} }, func(e effect) any { return e.conf.BasicRaw }, true, ""},
	"BodyFormat":   {"notion", func(c *Connection) { c.Quirks = &Quirks{Body: "form"} }, func(e effect) any { return e.conf.BodyFormat }, oauth.FormatForm, ""},
	"SecretAsUser": {"stripe_apps", func(c *Connection) { c.Quirks = &Quirks{SecretAsUser: new(bool)} }, func(e effect) any { return e.conf.SecretAsUser }, false, ""},
	"ScopeParam": {"slack", func(c *Connection) { c.Scopes, c.Quirks = []string{"a", "b"}, &Quirks{ScopeParam: "x_scope"} },
		func(e effect) any { return e.asked("x_scope") }, "a,b", ""},
	"ScopeSeparator": {"slack", func(c *Connection) { c.Quirks = &Quirks{ScopeSeparator: "+"} }, func(e effect) any { return e.conf.ScopeSeparator }, "+", ""},
	"DefaultScopes":  {"google", func(c *Connection) { c.Scopes = []string{"mine"} }, func(e effect) any { return e.consent.scopes }, []string{"mine"}, ""},
	"ScopeSets":      {"google", func(c *Connection) { c.Scopes = []string{"mine"} }, func(e effect) any { return e.consent.scopes }, []string{"mine"}, ""},
	"AppScopes": {"microsoft", func(c *Connection) { c.Scopes, c.Grant = []string{"mine"}, oauth.GrantClientCredentials },
		func(e effect) any { return e.consent.scopes }, []string{"mine"}, ""},
	"OfflineScope": {"salesforce", func(c *Connection) { c.Scopes, c.Quirks = []string{"api"}, &Quirks{OfflineScope: "off"} },
		func(e effect) any { return e.consent.scopes }, []string{"api"}, ""},
	"AuthParams": {"google", func(c *Connection) { c.AuthParams = map[string]string{"prompt": "", "access_type": "online"} },
		func(e effect) any { return e.authParams }, map[string]string{"access_type": "online"}, ""},
	"TokenParams": {"shopify", func(c *Connection) { c.TokenParams = map[string]string{"expiring": "", "own": "x"} },
		func(e effect) any { return []any{e.conf.CodeParams, e.conf.Params} }, []any{map[string]string{}, map[string]string{"own": "x"}}, ""},
	"RefreshParams": {"google", func(c *Connection) { c.Quirks = &Quirks{RefreshParams: map[string]string{"a": "b"}} },
		func(e effect) any { return e.conf.RefreshParams }, map[string]string{"a": "b"}, ""},
	"PKCE":           {"google", func(c *Connection) { c.Quirks = &Quirks{PKCE: new(bool)} }, func(e effect) any { return e.consent.pkce }, false, ""},
	"CallbackHMAC":   {reason: "a check that a preset prescribes is no matter of taste; another provider is described without the preset"},
	"CallbackFields": {reason: "what is kept beyond need does no harm"},
	"KeepFields":     {reason: "what is kept beyond need does no harm"},
	"TestCall": {"google", func(c *Connection) { c.TestCall = &TestCall{URL: "https://api.example/me", Label: []string{"name"}} },
		func(e effect) any { return []any{e.call.url.literals[0], e.call.label} }, []any{"https://api.example/me", []string{"name"}}, ""},
	"SendScopeOnRefresh": {"microsoft", func(c *Connection) { c.Quirks = &Quirks{RefreshScope: new(bool)} },
		func(e effect) any { return e.conf.SendScopeOnRefresh }, false, ""},
	"RefreshBefore": {"github", func(c *Connection) { c.RefreshBefore = caddy.Duration(time.Second) },
		func(e effect) any { return e.policy.RefreshBefore }, time.Second, ""},
	"DefaultLifetime": {"salesforce", func(c *Connection) { c.DefaultLifetime = caddy.Duration(time.Minute) },
		func(e effect) any { return e.policy.DefaultLifetime }, time.Minute, ""},
	"RefreshTokenLifetime": {"box", func(c *Connection) { c.RefreshToken = &RefreshTokenRules{Lifetime: caddy.Duration(time.Hour)} },
		func(e effect) any { return e.policy.RefreshLifetime }, time.Hour, ""},
	"RefreshTokenIdleLimit": {"xero", func(c *Connection) { c.RefreshToken = &RefreshTokenRules{Idle: caddy.Duration(time.Hour)} },
		func(e effect) any { return e.policy.RefreshIdle }, time.Hour, ""},
	"ConsentLifetime": {"quickbooks", func(c *Connection) { c.RefreshToken = &RefreshTokenRules{Consent: caddy.Duration(time.Hour)} },
		func(e effect) any { return e.policy.ConsentLifetime }, time.Hour, ""},
	"Rotation": {"google", func(c *Connection) { c.RefreshToken = &RefreshTokenRules{Rotation: "punished"} },
		func(e effect) any { return e.policy.ReuseHarmless }, false, ""},
	"GraceSeconds": {"okta", func(c *Connection) { c.RefreshToken = &RefreshTokenRules{Grace: caddy.Duration(time.Hour)} },
		func(e effect) any { return e.policy.ReuseGrace }, time.Hour, ""},
	"TokenPath": {"slack_user", func(c *Connection) { c.Quirks = &Quirks{TokenPath: "a.b"} }, func(e effect) any { return e.conf.TokenPath }, []string{"a.b"}, ""},
	"HeaderName": {"notion", func(c *Connection) { c.Header = &HeaderInjection{Name: "X-Token"} },
		func(e effect) any { return e.injection.header }, "X-Token", ""},
	"HeaderTemplate": {"notion", func(c *Connection) { c.Header = &HeaderInjection{Template: "Token {token}"} },
		func(e effect) any { return e.injection.prefix }, "Token ", ""},
	"APIHeaders": {"notion", func(c *Connection) { c.Headers = map[string]string{"notion-version": "1"} },
		func(e effect) any { return e.injection.headers[0].value.literals[0] }, "1", ""},
	"APIHosts": {"google", func(c *Connection) { c.AllowHosts = []string{"api.internal"} },
		func(e effect) any {
			return e.allow.allows("api.internal", "") && !e.allow.allows("www.googleapis.com", "")
		}, true, ""},
	"Errors": {"slack", func(c *Connection) {
		c.Quirks = &Quirks{Revoked: []string{"gone"}, Misconfigured: []string{"TOKEN_REVOKED"}, RetryLater: []string{"bad_client_secret"}}
	}, func(e effect) any {
		codes := e.conf.Codes
		return []bool{
			slices.Contains(codes.Revoked, "gone"), slices.Contains(codes.Revoked, "invalid_refresh_token"), slices.Contains(codes.Revoked, "token_revoked"),
			slices.Contains(codes.Misconfigured, "TOKEN_REVOKED"), slices.Contains(codes.Misconfigured, "bad_client_secret"), slices.Contains(codes.RetryLater, "bad_client_secret"),
		}
	}, []bool{true, true, false, true, false, true}, ""},
}

// TestGuardEveryFactGivesWay: what a connection says wins over what the table says, column by column.
func TestGuardEveryFactGivesWay(t *testing.T) {
	t.Parallel()
	left := maps.Clone(overrides)
	for _, field := range reflect.VisibleFields(reflect.TypeFor[provider.Provider]()) {
		entry, listed := left[field.Name]
		delete(left, field.Name)
		if _, unread := unreadFacts[field.Name]; unread {
			if listed {
				t.Errorf("%s is read by nobody: there is nothing to override", field.Name)
			}
			continue
		}
		switch {
		case !listed:
			t.Errorf("%s: there must be an option that overrides it, or a reason why nobody needs one", field.Name)
		case entry.reason == "":
			conn, _ := presetOf(t, entry.preset)
			if before := entry.see(effectOf(t, conn)); reflect.DeepEqual(before, entry.want) {
				t.Errorf("%s: %s says %v already, so this shows nothing", field.Name, entry.preset, before)
			}
			entry.say(conn)
			if got := entry.see(effectOf(t, conn)); !reflect.DeepEqual(got, entry.want) {
				t.Errorf("%s of %s: got %v, want %v", field.Name, entry.preset, got, entry.want)
			}
		}
	}
	for name := range left {
		t.Errorf("%s is not in the table; shorten the list", name)
	}
}

// TestQuirksWithoutPreset: a server that no preset describes can be described as exactly.
func TestQuirksWithoutPreset(t *testing.T) {
	t.Parallel()
	conn := baseConnection()
	conn.AuthorizationEndpoint, conn.RevocationEndpoint, conn.ClientSecret = "https://idp.example/authorize", "https://idp.example/revoke", "hidden"
	conn.Scopes = []string{"a", "b"}
	plain := effectOf(t, conn)
	if !plain.consent.pkce || !plain.consent.revocable || plain.conf.Revocation.Auth != oauth.RevokeAsClient || plain.conf.ScopeSeparator != "" {
		t.Errorf("without quirks: %+v, %+v", plain.consent, plain.conf)
	}
	conn.Quirks = &Quirks{
		PKCE: new(bool), ScopeParam: "user_scope", ScopeSeparator: ",", OfflineScope: "offline", Body: "json", TokenPath: "data.access_token", BasicRaw: new(true),
		Revocation: &RevocationQuirks{Body: "none", Auth: "access_token"},
	}
	odd := effectOf(t, conn)
	if odd.consent.pkce || odd.asked("user_scope") != "a,b,offline" || !odd.consent.revokeAccess || !odd.conf.BasicRaw ||
		odd.conf.BodyFormat != oauth.FormatJSON || odd.conf.Revocation.Format != oauth.FormatNone || odd.conf.TokenPath[0] != "data.access_token" {
		t.Errorf("with quirks: %+v, %+v", odd.consent, odd.conf)
	}
	conn.RevocationEndpoint = ""
	if _, err := conn.build("api"); err == nil || !strings.Contains(err.Error(), "quirks revocation: there is nobody to tell") {
		t.Errorf("a shape without an endpoint: %v", err)
	}
	for want, quirks := range map[string]*Quirks{
		"unknown body format":                 {Body: "xml"},
		"scope separator":                     {ScopeSeparator: "\n"},
		`scope parameter "state"`:             {ScopeParam: "state"},
		"token path":                          {TokenPath: "a..b"},
		"token parameter":                     {RefreshParams: map[string]string{"refresh_token": "x"}},
		"quirks refresh_endpoint: http:// to": {RefreshEndpoint: "http://idp.example/refresh"},
		"quirks scope_param: ":                {ScopeParam: "{env.TEST_QUIRKS_UNSET}"},
	} {
		conn.Quirks = quirks
		if _, err := conn.build("api"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	conn.RevocationEndpoint = "https://idp.example/revoke"
	for want, quirks := range map[string]*RevocationQuirks{
		"unknown revocation method":                      {Method: "GET"},
		`auth: "password" is unknown`:                    {Auth: "password"},
		`token: "id_token" is neither`:                   {Token: "id_token"},
		"unknown revocation body format":                 {Body: "xml"},
		"revocation without a body sends the token nowh": {Body: "none"},
	} {
		conn.Quirks = &Quirks{Revocation: quirks}
		if _, err := conn.build("api"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
