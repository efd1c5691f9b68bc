package caddyoauth_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/provider"
	"github.com/caddyoauth/caddyoauth/test/providersim"
)

// faults keeps what a simulator finds wrong instead of failing the test.
type faults struct {
	testing.TB
	mu    sync.Mutex
	found []string
}

func (f *faults) Errorf(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.found = append(f.found, fmt.Sprintf(format, args...))
}

func (f *faults) all() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.found, "\n")
}

// TestMisdescribedProviders: one wrong fact in a description, and the simulator refuses and names the provider and the fact. Were it
// lenient, the tests of the presets would show nothing.
func TestMisdescribedProviders(t *testing.T) {
	wrong := map[string]struct{ says, fault string }{
		"google":     {"quirks {\npkce off\n}", "google, authorization endpoint: code_challenge is missing"},
		"box":        {"quirks {\npkce on\n}", "box, authorization endpoint: code_challenge is not documented there"},
		"slack":      {"quirks {\nscope_separator +\n}", `slack, authorization endpoint: scope is "chat:write+channels:read", documented is "chat:write,channels:read"`},
		"linear":     {"quirks {\nscope_param user_scope\n}", "linear, authorization endpoint: scope is missing"},
		"salesforce": {"quirks {\noffline_scope off\n}\nscopes api", `salesforce, authorization endpoint: scope is "api", documented is "api refresh_token"`},
		"dropbox":    {`auth_param token_access_type ""`, "dropbox, authorization endpoint: token_access_type is missing"},
		"atlassian":  {"auth_param audience api.example", `atlassian, authorization endpoint: audience is "api.example"`},
		"asana":      {"auth_param display page", "asana, authorization endpoint: display is not documented there"},
		"github":     {"client_auth client_secret_basic", "github, token endpoint: the client does not authenticate as documented, by client_secret_post"},
		"quickbooks": {"client_auth client_secret_post", "quickbooks, token endpoint: the client does not authenticate as documented, by client_secret_basic"},
		"stripe":     {"quirks {\nbody json\n}", "stripe, token endpoint: the body is \"application/json\" and not a form"},
		"notion":     {"quirks {\nbody form\n}", "notion, token endpoint: the body is application/x-www-form-urlencoded and not a flat JSON object"},
		"shopify":    {`token_param expiring ""`, "shopify, token endpoint: expiring is missing"},
		"hubspot":    {"token_param api_key x", "hubspot, token endpoint: api_key is not documented there"},
		"gitlab":     {"quirks {\nrefresh_scope on\n}", "gitlab, token endpoint: scope is not documented there"},
		"microsoft":  {"quirks {\nrefresh_scope off\n}", "microsoft, token endpoint: scope is missing"},
		"zoom":       {"header X-Token", "zoom, API: Authorization is there 0 times"},
		"okta":       {`header Authorization "Token {token}"`, `okta, API: Authorization is there 1 times, or not as in "Bearer {token}"`},
		"discord":    {`header User-Agent "a browser"`, `discord, API header: User-Agent is "a browser"`},
		"airtable":   {"revocation_endpoint https://airtable.com/revoke", "airtable, API: "}, // there is none, so the API answers
		"auth0":      {"quirks {\nrevocation {\nauth none\n}\n}", "auth0, revocation: the client does not authenticate"},
		"cognito":    {"quirks {\nrevocation {\ntoken access_token\n}\n}", "cognito, revocation: token is not the refresh_token"},
		"keycloak":   {"quirks {\nrevocation {\nbody json\n}\n}", "keycloak, revocation: the body is \"application/json\" and not a form"},
	}
	all, extra, found := make(map[string]providersim.Options), make(map[string]string), make(map[string]*faults)
	for name, one := range wrong {
		options := wants(name)
		found[name] = &faults{TB: t}
		options.Faults = found[name]
		if name == "salesforce" {
			options.Scopes = []string{"api"}
			one.says = strings.TrimSuffix(one.says, "\nscopes api")
		}
		all[name], extra[name] = options, one.says+"\n"
	}
	atOnce(t, simulate(t, all, extra), func(j *journey) {
		if back := j.consent("/connect/authorize/" + j.name); back != "" {
			j.open(back)
		}
		j.call()
		j.sim.Expire()
		j.call()
		j.visit(http.MethodPost, "/connect/disconnect/"+j.name)
		if want := wrong[j.name].fault; !strings.Contains(found[j.name].all(), want) {
			j.t.Errorf("the simulator found %q, want %q", found[j.name].all(), want)
		}
	})
}

// odd is a provider that nobody has: what no row of the table has, all at once.
func odd() *provider.Provider {
	return &provider.Provider{
		Name: "odd", AuthorizationEndpoint: "https://login.odd.example/ask", TokenEndpoint: "https://login.odd.example/exchange",
		RefreshEndpoint: "https://login.odd.example/renew", RevocationEndpoint: "https://api.odd.example/tokens",
		Revocation: provider.Revocation{
			Method: "DELETE", Auth: provider.AuthClientBasic, Body: provider.JSON, Kills: provider.KillsToken,
			Fields: map[string]string{"bearer": "{access_token}"},
		},
		ClientAuth: []string{"client_secret_basic"}, SecretAsUser: true, BodyFormat: provider.JSON,
		ScopeParam: "permissions", ScopeSeparator: "+", DefaultScopes: []string{"a", "b"},
		AuthParams: map[string]string{"kind": "offline"}, TokenParams: map[string]string{}, RefreshParams: map[string]string{"ttl": "60"},
		PKCE: provider.PKCEOmit, SendScopeOnRefresh: true, Rotation: provider.RotationSingleUse, KillsOldAccessToken: true,
		AccessLifetime: time.Hour, ExpiresIn: provider.ExpiryStated, TokenPath: "data.session.access_token",
		HeaderName: "X-Odd", HeaderTemplate: "odd={token};", APIHosts: []string{"api.odd.example"},
		Errors: provider.ErrorQuirks{SuccessStatus: true, RevokedStatus: 200, Revoked: []string{"token_is_gone"}},
	}
}

// oddDescription says all of that in a Caddyfile.
const oddDescription = `connection odd {
	token_endpoint https://login.odd.example/exchange
	authorization_endpoint https://login.odd.example/ask
	revocation_endpoint https://api.odd.example/tokens
	client_id caddy
	client_secret %s
	subject {http.auth.user.id}
	scopes a b
	auth_param kind offline
	header X-Odd "odd={token};"
	allow_hosts api.odd.example
	quirks {
		pkce off
		secret_as_user on
		body json
		scope_param permissions
		scope_separator +
		refresh_endpoint https://login.odd.example/renew
		refresh_param ttl 60
		refresh_scope on
		token_path data.session.access_token
		revoked token_is_gone
		revocation {
			method DELETE
			auth client_secret_basic
			body json
			token access_token
			name bearer
		}
	}
}
`

// TestProviderWithoutPreset: whatever a preset can say, a connection can say without one.
func TestProviderWithoutPreset(t *testing.T) {
	for form, expiresIn := range map[string]func(int) any{
		"text":     func(seconds int) any { return fmt.Sprint(seconds) },
		"fraction": func(seconds int) any { return float64(seconds) + 0.5 },
	} {
		t.Run(form, func(t *testing.T) {
			sim := providersim.New(t, internet, providersim.Options{
				Name: "odd", Row: odd(), ClientID: "caddy", Secret: clientSecret, ExpiresIn: expiresIn,
			})
			s := run(t, setup{
				connections: fmt.Sprintf(oddDescription, clientSecret),
				site:        basicAuth + "oauth2_connect\n" + apiSite("odd", sim),
			})
			(&journey{browser: s.as("alice"), sim: sim, name: "odd", path: "/odd", subject: "alice"}).live()
		})
	}
}

// zoho is a provider whose accounts live in several data centres: people are sent to one, and the way back names another.
func zoho() *provider.Provider {
	return &provider.Provider{
		Name: "zoho", AuthorizationEndpoint: "https://accounts.zoho.com/oauth/v2/auth", TokenEndpoint: "https://accounts.zoho.eu/oauth/v2/token",
		RevocationEndpoint: "https://accounts.zoho.eu/oauth/v2/token/revoke",
		Revocation: provider.Revocation{
			Method: "POST", Auth: provider.AuthNone, Body: provider.Form, Kills: provider.KillsToken, Fields: map[string]string{"token": "{refresh_token}"},
		},
		ClientAuth: []string{"client_secret_post"}, BodyFormat: provider.Form, ScopeParam: "scope", ScopeSeparator: ",",
		DefaultScopes: []string{"AaaServer.profile.READ", "ZohoCRM.modules.READ"}, AuthParams: map[string]string{"access_type": "offline", "prompt": "consent"},
		PKCE: provider.PKCESupported, Rotation: provider.RotationStatic, AccessLifetime: time.Hour, ExpiresIn: provider.ExpiryStated,
		TokenPath: "access_token", CallbackFields: []string{"accounts-server"}, KeepFields: []string{"api_domain"},
		HeaderName: "Authorization", HeaderTemplate: "Zoho-oauthtoken {token}", APIHosts: []string{"www.zohoapis.eu"},
		Errors: provider.ErrorQuirks{SuccessStatus: true, RevokedStatus: 200, Revoked: []string{"invalid_code"}},
	}
}

// zohoDescription says that in a Caddyfile. Whatever the way back says, no code, secret or token leaves for a host that is not listed.
const zohoDescription = `connection zoho {
	authorization_endpoint https://accounts.zoho.com/oauth/v2/auth
	token_endpoint https://{host.token.accounts-server}/oauth/v2/token
	revocation_endpoint https://{host.token.accounts-server}/oauth/v2/token/revoke
	client_id caddy
	client_secret %s
	client_auth client_secret_post
	subject {http.auth.user.id}
	scopes AaaServer.profile.READ ZohoCRM.modules.READ
	auth_param access_type offline
	auth_param prompt consent
	keep api_domain
	keep_callback accounts-server
	header Authorization "Zoho-oauthtoken {token}"
	allow_hosts accounts.zoho.com accounts.zoho.eu www.zohoapis.com www.zohoapis.eu
	quirks {
		scope_separator ,
		revoked invalid_code
		revocation {
			auth none
		}
	}
}
`

// runZoho starts a Caddy with it; the way back names that accounts server.
func runZoho(t *testing.T, server string) *journey {
	t.Helper()
	sim := providersim.New(t, internet, providersim.Options{
		Name: "zoho", Row: zoho(), ClientID: "caddy", Secret: clientSecret, Params: map[string]string{"accounts-server": server},
	})
	s := run(t, setup{
		connections: fmt.Sprintf(zohoDescription, clientSecret),
		site: basicAuth + "oauth2_connect\nhandle_path /zoho/* {\n oauth2_inject zoho {\n reverse_proxy {http.oauth2_inject.host.token.api_domain}:443 {\n" +
			" header_up Host {http.reverse_proxy.upstream.host}\n transport http {\n tls\n}\n}\n}\n}\n",
	})
	return &journey{browser: s.as("alice"), sim: sim, name: "zoho", path: "/zoho", subject: "alice"}
}

// TestAccountsServerOfTheCallback: tokens are obtained, refreshed and revoked where the way back says that the account lives.
func TestAccountsServerOfTheCallback(t *testing.T) { runZoho(t, "https://accounts.zoho.eu").live() }

// TestAttackAccountsServer: the way back passes through the browser, so anybody can write a server of their own into it.
func TestAttackAccountsServer(t *testing.T) {
	for _, server := range []string{
		"https://evil.example", "https://accounts.zoho.eu.evil.example", "https://accounts.zoho.eu@evil.example", "https://evil.example/accounts.zoho.eu",
		"http://accounts.zoho.eu", "https://127.0.0.1", "https://accounts.zoho.com.", "https://ACCOUNTS.ZOHO.EVIL", "https://", "",
	} {
		t.Run(server, func(t *testing.T) {
			j := runZoho(t, server)
			internet.Strangers()
			if a := j.open(j.consent("/connect/authorize/zoho")); a.status < http.StatusBadRequest || j.sim.Counts().Codes > 0 {
				t.Errorf("got %d to %q, %+v", a.status, a.header.Get("Location"), j.sim.Counts())
			}
			if asked := internet.Strangers(); len(asked) > 0 {
				t.Errorf("asked %q", asked)
			}
		})
	}
}
