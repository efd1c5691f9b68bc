package oauth

import (
	"errors"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"

	"golang.org/x/oauth2"

	"github.com/caddyoauth/caddyoauth/internal/secret"
)

const (
	callback  = "https://site.example/connect/callback"
	goodState = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFG"
)

// TestPKCEVector is RFC 7636 appendix B.
func TestPKCEVector(t *testing.T) {
	t.Parallel()
	pair := pkceOf("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk")
	if want := "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"; pair.Challenge != want {
		t.Errorf("challenge %s, want %s", pair.Challenge, want)
	}
}

func TestRandomValues(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for range 100 {
		pair := NewPKCE()
		if want := oauth2.S256ChallengeFromVerifier(pair.Verifier.Reveal()); pair.Challenge != want {
			t.Fatalf("challenge %s, oracle %s", pair.Challenge, want)
		}
		for _, value := range []string{pair.Verifier.Reveal(), RandomState()} {
			if len(value) != 43 || !isState(value) || seen[value] { // RFC 7636 section 4.1: 43 to 128 characters
				t.Fatalf("%q: not 43 fresh characters that need no escaping", value)
			}
			seen[value] = true
		}
	}
}

func people(t *testing.T, cfg Config) *Client {
	t.Helper()
	if cfg.AuthorizationEndpoint == "" {
		cfg.AuthorizationEndpoint = "https://idp.example/authorize"
	}
	if cfg.TokenEndpoint == "" {
		cfg.TokenEndpoint = "https://idp.example/token"
	}
	return newTestClient(t, cfg)
}

// TestAuthorizationURLMatchesOracle compares with golang.org/x/oauth2.
func TestAuthorizationURLMatchesOracle(t *testing.T) {
	t.Parallel()
	const endpoint = "https://idp.example/authorize?p=a%2Fb&tenant=x"
	oracle := oauth2.Config{
		ClientID: oddID, RedirectURL: callback + "?a=b&c", Scopes: []string{"a", "b:c/d", "é&"},
		Endpoint: oauth2.Endpoint{AuthURL: endpoint},
	}
	pair := NewPKCE()
	want, _ := url.Parse(oracle.AuthCodeURL(goodState, oauth2.S256ChallengeOption(pair.Verifier.Reveal()),
		oauth2.SetAuthURLParam("access_type", "offline"), oauth2.SetAuthURLParam("nonce", "n 1")))
	c := people(t, Config{AuthorizationEndpoint: endpoint, ClientID: oddID, Scopes: oracle.Scopes})
	got, err := c.AuthorizationURL(AuthorizationRequest{
		RedirectURI: oracle.RedirectURL, State: goodState, Nonce: "n 1", Challenge: pair.Challenge,
		Params: map[string]string{"access_type": "offline"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(got, endpoint+"&") {
		t.Errorf("%s: the endpoint's own query did not stay as it was", got)
	}
	have, _ := url.Parse(got)
	if !maps.EqualFunc(have.Query(), want.Query(), slices.Equal) {
		t.Errorf("query  %v\noracle %v", have.Query(), want.Query())
	}
}

// TestAuthorizationURL: what each setting adds.
func TestAuthorizationURL(t *testing.T) {
	t.Parallel()
	base := url.Values{"response_type": {"code"}, "client_id": {"caddy"}, "redirect_uri": {callback}, "state": {goodState}}
	for name, tc := range map[string]struct {
		cfg  Config
		req  AuthorizationRequest
		more url.Values
	}{
		"plain":                 {},
		"other scope parameter": {cfg: Config{Scopes: []string{"a", "b"}, ScopeParam: "user_scope"}, more: url.Values{"user_scope": {"a b"}}},
		"comma scopes":          {cfg: Config{Scopes: []string{"a", "b"}, ScopeSeparator: ","}, more: url.Values{"scope": {"a,b"}}},
		"audience":              {cfg: Config{Audience: "api"}, more: url.Values{"audience": {"api"}}},
		"its own audience": {
			req: AuthorizationRequest{Params: map[string]string{"audience": "api"}}, more: url.Values{"audience": {"api"}},
		},
		"resources": {
			cfg: Config{Resources: []string{"urn:a", "urn:b"}}, more: url.Values{"resource": {"urn:a", "urn:b"}},
		},
		"pkce": {
			req:  AuthorizationRequest{Challenge: "ch"},
			more: url.Values{"code_challenge": {"ch"}, "code_challenge_method": {"S256"}},
		},
		"implicit": {
			req:  AuthorizationRequest{ResponseType: "token", Params: map[string]string{"response_mode": "fragment"}},
			more: url.Values{"response_type": {"token"}, "response_mode": {"fragment"}},
		},
		"response mode": {
			req: AuthorizationRequest{Params: map[string]string{"response_mode": "query"}}, more: url.Values{"response_mode": {"query"}},
		},
		"token params stay away": {cfg: Config{Params: map[string]string{"expiring": "1"}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tc.req.RedirectURI, tc.req.State = callback, goodState
			raw, err := people(t, tc.cfg).AuthorizationURL(tc.req)
			if err != nil {
				t.Fatal(err)
			}
			want := maps.Clone(base)
			maps.Copy(want, tc.more)
			u, _ := url.Parse(raw)
			if !maps.EqualFunc(u.Query(), want, slices.Equal) || u.Path != "/authorize" {
				t.Errorf("got %s, want %v", raw, want)
			}
		})
	}
}

// TestAttackAuthorizationParams: nothing from a field or a preset replaces what protects the login.
func TestAttackAuthorizationParams(t *testing.T) {
	t.Parallel()
	good := AuthorizationRequest{RedirectURI: callback, State: goodState, Challenge: "ch"}
	with := func(change func(*AuthorizationRequest)) AuthorizationRequest {
		r := good
		change(&r)
		return r
	}
	requests := map[string]AuthorizationRequest{
		"no redirect":       with(func(r *AuthorizationRequest) { r.RedirectURI = "" }),
		"relative redirect": with(func(r *AuthorizationRequest) { r.RedirectURI = "/callback" }),
		"script":            with(func(r *AuthorizationRequest) { r.RedirectURI = "javascript://x/%0aalert(1)" }),
		"fragment":          with(func(r *AuthorizationRequest) { r.RedirectURI += "#x" }),
		"user":              with(func(r *AuthorizationRequest) { r.RedirectURI = "https://a:b@site.example/" }),
		"no state":          with(func(r *AuthorizationRequest) { r.State = "" }),
		"short state":       with(func(r *AuthorizationRequest) { r.State = "abc" }),
		"odd state":         with(func(r *AuthorizationRequest) { r.State += "&a=b" }),
		"response type":     with(func(r *AuthorizationRequest) { r.ResponseType = "code token" }),
		"implicit pkce":     with(func(r *AuthorizationRequest) { r.ResponseType = "token" }),
		"form post":         with(func(r *AuthorizationRequest) { r.Params = map[string]string{"response_mode": "form_post"} }),
		"fragment mode":     with(func(r *AuthorizationRequest) { r.Params = map[string]string{"response_mode": "fragment"} }),
		"audience twice":    with(func(r *AuthorizationRequest) { r.Params = map[string]string{"audience": "other"} }),
		"nameless":          with(func(r *AuthorizationRequest) { r.Params = map[string]string{"": "x"} }),
		"in the endpoint":   with(func(r *AuthorizationRequest) { r.Params = map[string]string{"kept": "x"} }),
	}
	for _, name := range append(slices.Clone(ownAuthParams), "State", "REDIRECT_URI") {
		requests["param "+name] = with(func(r *AuthorizationRequest) { r.Params = map[string]string{name: "Seeded0Value"} })
	}
	c := people(t, Config{AuthorizationEndpoint: "https://idp.example/a?kept=1", Audience: "api"})
	if _, err := c.AuthorizationURL(good); err != nil {
		t.Fatalf("the plain case is refused: %v", err)
	}
	for name, r := range requests {
		got, err := c.AuthorizationURL(r)
		var e *Error
		if got != "" || !errors.As(err, &e) || e.Class != Misconfigured || strings.Contains(err.Error(), "Seeded0") {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
	}
	_, err := newTestClient(t, Config{TokenEndpoint: "https://idp.example/token"}).AuthorizationURL(good)
	expect(t, mustFail(t, nil, err), Misconfigured, "no_authorization_endpoint")
}

// TestCodeExchangeMatchesOracle compares what reaches a server with what golang.org/x/oauth2 sends.
func TestCodeExchangeMatchesOracle(t *testing.T) {
	t.Parallel()
	for method, style := range map[Method]oauth2.AuthStyle{
		ClientSecretBasic: oauth2.AuthStyleInHeader, ClientSecretPost: oauth2.AuthStyleInParams,
	} {
		endpoint, got := recorder(t)
		oracle := oauth2.Config{
			ClientID: oddID, ClientSecret: oddSecret, RedirectURL: callback,
			Endpoint: oauth2.Endpoint{TokenURL: endpoint, AuthStyle: style},
		}
		pair := NewPKCE()
		if _, err := oracle.Exchange(t.Context(), "co/de+1", oauth2.VerifierOption(pair.Verifier.Reveal())); err != nil {
			t.Fatal(err)
		}
		want := <-got
		c := newTestClient(t, Config{
			TokenEndpoint: endpoint, ClientID: oddID, Method: method, Secret: fixed(oddSecret), Scopes: []string{"not", "sent"},
			SendScopeOnRefresh: true, RefreshParams: map[string]string{"only": "refresh"},
		})
		exchange := CodeExchange{Code: secret.New("co/de+1"), Verifier: pair.Verifier, RedirectURI: callback}
		if _, err := c.ExchangeCode(t.Context(), exchange); err != nil {
			t.Fatal(err)
		}
		have := <-got
		if !maps.EqualFunc(have.form, want.form, slices.Equal) ||
			have.header.Get("Authorization") != want.header.Get("Authorization") {
			t.Errorf("%s: form %v, oracle %v", method, have.form, want.form)
		}
	}
}

// TestRefusedCodesAndPasswords: a code that is refused revokes nothing, and a wrong password is configuration.
func TestRefusedCodesAndPasswords(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		status          int
		body, code, why string
		exchange, pass  Class
	}{
		{400, `{"error":"invalid_grant"}`, "invalid_grant", "refused the authorization code", Unrecognized, Misconfigured},
		{200, `{"error":"bad_verification_code"}`, "bad_verification_code", "refused the authorization code", Unrecognized, Unrecognized},
		{200, `{"error":"invalid_code"}`, "invalid_code", "refused the authorization code", Unrecognized, Misconfigured}, // Zoho
		{200, `{"ok":false,"error":"token_revoked"}`, "token_revoked", "refused the authorization code", Unrecognized, Misconfigured},
		{400, `{"error":"interaction_required"}`, "interaction_required", "refused the authorization code", Unrecognized, Misconfigured},
		{400, `{"error":"invalid_request"}`, "invalid_request", "unknown reason", Unrecognized, Misconfigured},
		{200, `{"error":"redirect_uri_mismatch"}`, "redirect_uri_mismatch", "redirect URI is registered", Misconfigured, Misconfigured},
		{401, `{"error":"invalid_client"}`, "invalid_client", "refused the client", Misconfigured, Misconfigured},
		{503, `{"error":"invalid_grant"}`, "invalid_grant", "cannot answer now", RetryLater, RetryLater},
	} {
		token, err := judged(GrantAuthorizationCode, &reply{status: tc.status, body: []byte(tc.body)})
		e := mustFail(t, token, err)
		expect(t, e, tc.exchange, tc.code)
		if !strings.Contains(e.Error(), tc.why) {
			t.Errorf("%s: got %q, want a text with %q", tc.body, e, tc.why)
		}
		token, err = judged(GrantPassword, &reply{status: tc.status, body: []byte(tc.body)})
		expect(t, mustFail(t, token, err), tc.pass, tc.code)
	}
}

// TestNothingToSend: what cannot succeed does not reach the server.
func TestNothingToSend(t *testing.T) {
	t.Parallel()
	endpoint, got := recorder(t)
	c := newTestClient(t, Config{TokenEndpoint: endpoint})
	token, err := c.ExchangeCode(t.Context(), CodeExchange{RedirectURI: callback})
	expect(t, mustFail(t, token, err), Unrecognized, "no_code")
	implicit := newTestClient(t, Config{AuthorizationEndpoint: "https://idp.example/a", Method: None})
	token, err = implicit.ClientCredentials(t.Context())
	expect(t, mustFail(t, token, err), Misconfigured, "no_token_endpoint")
	if len(got) != 0 {
		t.Error("a request was sent")
	}
}
