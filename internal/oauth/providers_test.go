package oauth

import (
	"encoding/base64"
	"encoding/json"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// code runs a code exchange with an answer, and returns the request too.
func code(t *testing.T, cfg Config, body string) (*TokenResponse, wish, error) {
	t.Helper()
	endpoint, got := wishes(t, answer(200, jsonKind, body))
	cfg.TokenEndpoint = endpoint
	if cfg.Secret == nil {
		cfg.Secret = fixed("cs+1")
	}
	token, err := newTestClient(t, cfg).ExchangeCode(t.Context(), CodeExchange{Code: secret.New("c-1"), RedirectURI: callback})
	return token, <-got, err
}

// TestGitHub refuses with 200, and says so to a request for JSON as to one for a form.
func TestGitHub(t *testing.T) {
	t.Parallel()
	for _, body := range []string{
		`{"error":"bad_verification_code","error_description":"x"}`, "error=bad_verification_code&error_description=x",
	} {
		token, _, err := code(t, Config{Method: ClientSecretPost}, body)
		expect(t, mustFail(t, token, err), Unrecognized, "bad_verification_code")
	}
	token, _, err := code(t, Config{Method: ClientSecretPost},
		`{"access_token":"ghu_1","expires_in":28800,"refresh_token":"ghr_1","refresh_token_expires_in":15897600,"scope":"a,b"}`)
	if err != nil {
		t.Fatal(err)
	}
	if life := token.RefreshExpiresAt.Sub(token.SentAt); life != 184*24*time.Hour || token.Scope != "a,b" {
		t.Errorf("refresh token lives %v, scope %q", life, token.Scope)
	}
}

// TestSlack grants a bot and a user token in one answer; either is found with what belongs to it, and refreshed on top.
func TestSlack(t *testing.T) {
	t.Parallel()
	const both = `{"ok":true,"access_token":"xoxb-bot","token_type":"bot","scope":"chat:write","refresh_token":"xoxe-bot","expires_in":43200,
		"team":{"id":"T1"},"authed_user":{"id":"U1","access_token":"xoxp-user","token_type":"user","scope":"search:read","refresh_token":"xoxe-user","expires_in":7200}}`
	const userOnly = `{"ok":true,"authed_user":{"id":"U1","access_token":"xoxp-user","refresh_token":"xoxe-user"}}`
	user := Config{TokenPath: []string{"authed_user.access_token"}, Method: ClientSecretPost}
	for _, tc := range []struct {
		cfg                          Config
		body, access, refresh, scope string
		life                         time.Duration
		gone                         []string // not in Response
	}{
		{Config{}, both, "xoxb-bot", "xoxe-bot", "chat:write", 12 * time.Hour, []string{"xoxb-bot", "xoxe-bot"}},
		{user, both, "xoxp-user", "xoxe-user", "search:read", 2 * time.Hour, []string{"xoxp-user", "xoxe-user", "xoxb-bot"}},
		{user, userOnly, "xoxp-user", "xoxe-user", "", 0, []string{"xoxp-user", "xoxe-user"}},
	} {
		token, _, err := code(t, tc.cfg, tc.body)
		if err != nil {
			t.Fatal(err)
		}
		var life time.Duration
		if !token.ExpiresAt.IsZero() {
			life = token.ExpiresAt.Sub(token.SentAt) + time.Second
		}
		if token.AccessToken.Reveal() != tc.access || token.RefreshToken.Reveal() != tc.refresh || token.Scope != tc.scope || life != tc.life {
			t.Errorf("got %s %s %q %v", token.AccessToken.Reveal(), token.RefreshToken.Reveal(), token.Scope, life)
		}
		for _, gone := range tc.gone {
			if strings.Contains(token.Response.Reveal(), gone) {
				t.Errorf("%s is still in the response", gone)
			}
		}
		if !strings.Contains(token.Response.Reveal(), `"id":"U1"`) {
			t.Errorf("the user is not in the response")
		}
	}

	// Nobody asked for a bot: its token must not be taken for the user's.
	token, _, err := code(t, user, `{"ok":true,"access_token":"xoxb-bot","authed_user":{"id":"U1"}}`)
	expect(t, mustFail(t, token, err), UnknownOutcome, "no_access_token")
	token, _, err = code(t, user, `{"ok":true,"access_token":"xoxb-bot","authed_user":"U1"}`)
	expect(t, mustFail(t, token, err), UnknownOutcome, "no_access_token")
	token, _, err = code(t, user, `{"ok":false,"error":"code_already_used"}`)
	expect(t, mustFail(t, token, err), Unrecognized, "code_already_used")

	user.TokenEndpoint = serve(t, answer(200, jsonKind, `{"ok":true,"access_token":"xoxp-2","token_type":"user","refresh_token":"xoxe-2"}`))
	refreshed, err := newTestClient(t, withSecret(user)).Refresh(t.Context(), secret.New("xoxe-user"))
	if err != nil || refreshed.AccessToken.Reveal() != "xoxp-2" || refreshed.RefreshToken.Reveal() != "xoxe-2" {
		t.Errorf("a refreshed user token stands at the top: %v", err)
	}
}

func withSecret(cfg Config) Config {
	cfg.Secret = fixed("s3cret-of-the-client")
	return cfg
}

// TestNotion wants JSON, Basic and a version.
func TestNotion(t *testing.T) {
	t.Parallel()
	_, got, err := code(t, Config{
		BodyFormat: FormatJSON, ExtraHeaders: map[string]string{"notion-version": "2026-03-11"}, Resources: []string{"urn:a", "urn:b"},
	}, goodToken)
	if err != nil {
		t.Fatal(err)
	}
	var body map[string]any
	if err := json.Unmarshal([]byte(got.body), &body); err != nil {
		t.Fatal(err)
	}
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte("caddy:cs%2B1"))
	if got.kind != jsonKind || got.version != "2026-03-11" || got.authorization != basic ||
		body["grant_type"] != "authorization_code" || body["code"] != "c-1" || body["redirect_uri"] != callback || body["client_secret"] != nil {
		t.Errorf("got %+v", got)
	}
	if list, _ := body["resource"].([]any); len(list) != 2 || list[0] != "urn:a" {
		t.Errorf("resource is %v", body["resource"])
	}
}

// TestZoho refuses with 200: a dead refresh token, a used code, a wrong secret.
func TestZoho(t *testing.T) {
	t.Parallel()
	cfg := Config{Method: ClientSecretPost, Scopes: []string{"a", "b"}, ScopeSeparator: ","}
	token, got, err := code(t, cfg, `{"error":"invalid_code"}`)
	expect(t, mustFail(t, token, err), Unrecognized, "invalid_code")
	if strings.Contains(got.body, "scope") {
		t.Errorf("the scope was sent with the code: %s", got.body)
	}
	token, _, err = code(t, cfg, `{"error":"invalid_client_secret"}`)
	expect(t, mustFail(t, token, err), Misconfigured, "invalid_client_secret")
	cfg.TokenEndpoint = serve(t, answer(200, "text/html", `{"error":"invalid_code"}`))
	token, err = newTestClient(t, withSecret(cfg)).Refresh(t.Context(), secret.New("rt"))
	expect(t, mustFail(t, token, err), Revoked, "invalid_code")
	token, _, err = code(t, cfg, `{"access_token":"1000.a","refresh_token":"1000.r","api_domain":"https://www.zohoapis.eu","expires_in":3600}`)
	if err != nil || !strings.Contains(token.Response.Reveal(), `"api_domain":"https://www.zohoapis.eu"`) {
		t.Errorf("the API's host is not kept: %v", err)
	}
}

// TestShopify joins scopes with commas and wants a parameter for tokens that expire.
func TestShopify(t *testing.T) {
	t.Parallel()
	cfg := Config{
		Method: ClientSecretPost, Scopes: []string{"read_orders", "write_orders"}, ScopeSeparator: ",",
		Params: map[string]string{"expiring": "1"}, AuthorizationEndpoint: "https://a.myshopify.com/admin/oauth/authorize",
	}
	token, got, err := code(t, cfg,
		`{"access_token":"shpat_1","scope":"read_orders","expires_in":3600,"refresh_token":"shprt_1","refresh_token_expires_in":7776000}`)
	if err != nil || !strings.Contains(got.body, "expiring=1") {
		t.Errorf("got %v, %s", err, got.body)
	}
	if days := token.RefreshExpiresAt.Sub(token.SentAt) / (24 * time.Hour); days != 90 {
		t.Errorf("refresh token lives %d days", days)
	}
	cfg.TokenEndpoint = "https://a.myshopify.com/admin/oauth/access_token"
	u, err := newTestClient(t, withSecret(cfg)).AuthorizationURL(AuthorizationRequest{RedirectURI: callback, State: goodState})
	if err != nil || !strings.Contains(u, "&scope=read_orders%2Cwrite_orders&") {
		t.Errorf("got %s, %v", u, err)
	}
}

// TestRefreshRequests: Microsoft picks the resource by the scope, Figma has another address, Zendesk wants parameters.
func TestRefreshRequests(t *testing.T) {
	t.Parallel()
	token, tokenGot := wishes(t, answer(200, jsonKind, goodToken))
	refresh, refreshGot := wishes(t, answer(200, jsonKind, goodToken))
	for name, tc := range map[string]struct {
		cfg  Config
		got  <-chan wish
		body string
	}{
		"google": {Config{Scopes: []string{"a", "b"}}, tokenGot, "grant_type=refresh_token&refresh_token=r-1"},
		"microsoft": {
			Config{Scopes: []string{"a", "b"}, SendScopeOnRefresh: true}, tokenGot, "grant_type=refresh_token&refresh_token=r-1&scope=a+b",
		},
		"no scopes to send": {Config{SendScopeOnRefresh: true}, tokenGot, "grant_type=refresh_token&refresh_token=r-1"},
		"figma":             {Config{RefreshEndpoint: refresh}, refreshGot, "grant_type=refresh_token&refresh_token=r-1"},
		"zendesk": {
			Config{Params: map[string]string{"expires_in": "300", "x": "y"}, RefreshParams: map[string]string{"expires_in": "600"}},
			tokenGot, "expires_in=600&grant_type=refresh_token&refresh_token=r-1&x=y",
		},
	} {
		tc.cfg.TokenEndpoint, tc.cfg.Secret = token, fixed("cs")
		c := newTestClient(t, tc.cfg)
		if _, err := c.Refresh(t.Context(), secret.New("r-1")); err != nil {
			t.Fatal(err)
		}
		if len(tc.got) != 1 {
			t.Fatalf("%s: the other address was asked", name)
		}
		if have := <-tc.got; have.body != tc.body {
			t.Errorf("%s: got %s, want %s", name, have.body, tc.body)
		}
	}
	c := newTestClient(t, Config{TokenEndpoint: token, RefreshEndpoint: refresh, RefreshParams: map[string]string{"only": "refresh"}})
	for range 2 { // a refresh must not leave its mark on what comes after
		if _, err := c.Refresh(t.Context(), secret.New("r-1")); err != nil {
			t.Fatal(err)
		}
		accessToken(t, c)
		if have := <-tokenGot; strings.Contains(have.body, "only") || strings.Contains(have.body, "refresh") {
			t.Errorf("client credentials sent %s", have.body)
		}
	}
}

// TestBasicRaw is for servers that do not decode; the encoded form is the default and is tested elsewhere.
func TestBasicRaw(t *testing.T) {
	t.Parallel()
	_, got, err := code(t, Config{ClientID: "odd id", Secret: fixed("a:b+c%"), BasicRaw: true}, goodToken)
	if want := "Basic " + base64.StdEncoding.EncodeToString([]byte("odd id:a:b+c%")); err != nil || got.authorization != want {
		t.Errorf("got %s, want %s (%v)", got.authorization, want, err)
	}
}

// TestSecretAsUser: Stripe Apps want the secret in the place of the id, and a parameter when a code is exchanged must not come
// back at a refresh.
func TestSecretAsUser(t *testing.T) {
	t.Parallel()
	cfg := Config{ClientID: "ca_1", Secret: fixed("sk_1"), SecretAsUser: true, Params: map[string]string{"a": "1"}, CodeParams: map[string]string{"a": "2", "expiring": "1"}}
	_, got, err := code(t, cfg, goodToken)
	if want := "Basic " + base64.StdEncoding.EncodeToString([]byte("sk_1:")); err != nil || got.authorization != want || strings.Contains(got.body, "ca_1") {
		t.Errorf("got %s and %s, want %s (%v)", got.authorization, got.body, want, err)
	}
	if !strings.Contains(got.body, "a=2&") || !strings.Contains(got.body, "expiring=1") {
		t.Errorf("the code was sent with %s", got.body)
	}
	endpoint, wishes := wishes(t, answer(200, jsonKind, goodToken))
	cfg.TokenEndpoint = endpoint
	if _, err := newTestClient(t, cfg).Refresh(t.Context(), secret.New("r-1")); err != nil {
		t.Fatal(err)
	}
	if got := <-wishes; !strings.Contains(got.body, "a=1&") || strings.Contains(got.body, "expiring") {
		t.Errorf("the refresh sent %s", got.body)
	}
}

// TestTokenPaths: the first place that holds a token counts.
func TestTokenPaths(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		paths      []string
		body, want string
	}{
		{nil, `{"access_token":"a","token":"b"}`, "a"},
		{[]string{"token"}, `{"access_token":"a","token":"b"}`, "b"},
		{[]string{"x.y.token", "token"}, `{"x":{"y":{"token":"d"}},"token":"b"}`, "d"},
		{[]string{"x.y.token", "token"}, `{"x":{"y":7},"token":"b"}`, "b"},
		{[]string{"x.y.token", "token"}, `{"x":[],"token":"b"}`, "b"},
		{[]string{"token"}, `{"access_token":"a"}`, ""},
		{[]string{"token"}, `{"access_token":"a","token":{"token":"b"}}`, ""},
	} {
		token, _, err := code(t, Config{TokenPath: tc.paths}, tc.body)
		if tc.want == "" {
			expect(t, mustFail(t, token, err), UnknownOutcome, "no_access_token")
		} else if err != nil || token.AccessToken.Reveal() != tc.want {
			t.Errorf("%v in %s: %v", tc.paths, tc.body, err)
		}
	}
}

// TestRefreshExpiry: when a refresh token dies of age. The value 0 means unknown or never.
func TestRefreshExpiry(t *testing.T) {
	t.Parallel()
	sentAt := time.Now()
	for fields, want := range map[string]time.Duration{
		`"refresh_token_expires_in":15897600`:                          184 * 24 * time.Hour, // GitHub
		`"refresh_token_expires_in":"3600"`:                            time.Hour,
		`"refresh_expires_in":1800`:                                    30 * time.Minute,     // Keycloak
		`"refresh_expires_in":0`:                                       0,                    // Keycloak, offline
		`"x_refresh_token_expires_in":8726400`:                         101 * 24 * time.Hour, // QuickBooks
		`"refresh_token_expires_in":0,"x_refresh_token_expires_in":60`: time.Minute,
		`"refresh_token_expires_in":157680000`:                         5 * 365 * 24 * time.Hour,
		`"refresh_token_expires_in":1e400`:                             maxRefreshLife,
		`"refresh_token_expires_in":"soon"`:                            0,
		`"refresh_token_expires_in":{}`:                                0,
		`"expires_in":60`:                                              0,
	} {
		token := granted(t, `{"access_token":"at",`+fields+`}`, sentAt)
		var life time.Duration
		if !token.RefreshExpiresAt.IsZero() {
			life = token.RefreshExpiresAt.Sub(sentAt)
		}
		if life != want {
			t.Errorf("%s: %v, want %v", fields, life, want)
		}
	}
	if token := granted(t, `{"access_token":"at","refresh_token_expires_in":-1}`, sentAt); !token.RefreshExpiresAt.Equal(sentAt) {
		t.Error("a refresh token that was dead on arrival is not seen as dead")
	}
}

// TestIDTokenOfTheResponse: from the answer to the claims.
func TestIDTokenOfTheResponse(t *testing.T) {
	t.Parallel()
	now := time.Now()
	raw := jwt(`{"iss":"https://idp","sub":"248","aud":"caddy","nonce":"n-1","exp":` + strconv.FormatInt(now.Add(time.Hour).Unix(), 10) + `}`)
	token, _, err := code(t, Config{}, `{"access_token":"at","id_token":"`+raw+`"}`)
	if err != nil {
		t.Fatal(err)
	}
	claims, err := ParseIDToken(token.IDToken)
	if err != nil || claims.Subject != "248" {
		t.Errorf("got %+v, %v", claims, err)
	}
	if err := claims.Check("https://idp", "caddy", "n-1", now); err != nil {
		t.Error(err)
	}
	if token := granted(t, goodToken, now); !token.IDToken.IsZero() {
		t.Error("an ID token out of nothing")
	}
}

// TestNewClientRefusesShapes: settings that cannot work are named when they are made.
func TestNewClientRefusesShapes(t *testing.T) {
	t.Parallel()
	header := func(name, value string) Config { return Config{ExtraHeaders: map[string]string{name: value}} }
	revocation := func(s RevocationShape) Config { return Config{Revocation: s} }
	for name, cfg := range map[string]Config{
		"authorization endpoint": {AuthorizationEndpoint: "/Seeded0"},
		"script":                 {AuthorizationEndpoint: "javascript:Seeded0"},
		"its fragment":           {AuthorizationEndpoint: "https://a.example/#Seeded0"},
		"its query":              {AuthorizationEndpoint: "https://a.example/?a=1;b=Seeded0"},
		"its state":              {AuthorizationEndpoint: "https://a.example/?state=Seeded0"},
		"its request":            {AuthorizationEndpoint: "https://a.example/?request_uri=Seeded0"},
		"revocation endpoint":    {RevocationEndpoint: "https://Seeded0:x@a.example/"},
		"refresh endpoint":       {RefreshEndpoint: "a.example/Seeded0"},
		"refresh with mtls":      {RefreshEndpoint: "http://a.example/", Certificate: &Certificate{}},
		"revocation with mtls":   {RevocationEndpoint: "http://a.example/", Certificate: &Certificate{}},
		"refresh param":          {RefreshParams: map[string]string{"refresh_token": "Seeded0"}},
		"nameless":               {RefreshParams: map[string]string{"": "Seeded0"}},
		"code param":             {CodeParams: map[string]string{"code": "Seeded0"}},
		"body format":            {BodyFormat: "xml"},
		"no body":                {BodyFormat: FormatNone},
		"raw id":                 {BasicRaw: true, ClientID: "a:b"},
		"scope parameter":        {ScopeParam: "redirect_uri"},
		"separator":              {ScopeSeparator: "\r\n"},
		"token path":             {TokenPath: []string{"a..b"}},
		"empty token path":       {TokenPath: []string{""}},
		"authorization":          header("authorization", "Seeded0"),
		"host":                   header("Host", "Seeded0"),
		"content length":         header("content-length", "7"),
		"two lines":              header("X-A", "a\r\nX-B: Seeded0"),
		"name with a line":       header("X-A\r\nX-B", "a"),
		"no name":                header("", "a"),
		"get":                    revocation(RevocationShape{Method: "GET"}),
		"revocation format":      revocation(RevocationShape{Format: "xml"}),
		"revocation auth":        revocation(RevocationShape{Auth: "query"}),
		"token nowhere":          revocation(RevocationShape{Format: FormatNone}),
		"header without token":   revocation(RevocationShape{Header: "X-A"}),
		"odd header":             revocation(RevocationShape{Auth: RevokeWithToken, Header: "X A"}),
		"odd scheme":             revocation(RevocationShape{Auth: RevokeWithToken, Scheme: "a b"}),
		"gone with 200":          revocation(RevocationShape{Gone: []int{200}}),
		"secret missing":         {Method: None, Revocation: RevocationShape{Auth: RevokeWithSecret}},
		"basic without secret":   {Method: None, Revocation: RevocationShape{Auth: RevokeWithBasic}},
		"post without secret":    {Method: None, Revocation: RevocationShape{Auth: RevokeWithPost}},
	} {
		cfg.TokenEndpoint = "https://a.example/token"
		if cfg.ClientID == "" {
			cfg.ClientID = "c"
		}
		if cfg.Method == "" {
			cfg.Secret = fixed("s")
		}
		if _, err := NewClient(cfg); err == nil || strings.Contains(err.Error(), "Seeded0") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := NewClient(Config{ClientID: "c", Method: None, AuthorizationEndpoint: "https://a.example/?p=1"}); err != nil {
		t.Errorf("the implicit grant needs no token endpoint: %v", err)
	}
}

// TestConfigIsCopied: what the caller changes later changes nothing.
func TestConfigIsCopied(t *testing.T) {
	t.Parallel()
	endpoint, got := wishes(t, answer(200, jsonKind, goodToken))
	cfg := Config{
		TokenEndpoint: endpoint, ClientID: "c", Secret: fixed("s"), RevocationEndpoint: endpoint, TokenPath: []string{"access_token"},
		RefreshParams: map[string]string{"a": "1"}, ExtraHeaders: map[string]string{"Notion-Version": "1"},
		Revocation: RevocationShape{Params: map[string]string{"b": "1"}, Names: map[string]string{"token": "t"}, Gone: []int{404}},
	}
	c, err := NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	cfg.RefreshParams["a"], cfg.ExtraHeaders["Notion-Version"], cfg.TokenPath[0] = "2", "2", "x"
	cfg.Revocation.Params["b"], cfg.Revocation.Names["token"], cfg.Revocation.Gone[0] = "2", "u", 400
	if _, err := c.Refresh(t.Context(), secret.New("r")); err != nil {
		t.Fatal(err)
	}
	if have := <-got; have.version != "1" || !strings.Contains(have.body, "a=1") {
		t.Errorf("got %+v", have)
	}
	if err := c.Revoke(t.Context(), secret.New("r"), ""); err != nil {
		t.Fatal(err)
	}
	if have := <-got; have.body != "b=1&t=r" {
		t.Errorf("got %+v", have)
	}
}
