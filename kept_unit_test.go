package caddyoauth

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"golang.org/x/net/http/httpguts"

	"github.com/caddyoauth/caddyoauth/internal/connection"
	"github.com/caddyoauth/caddyoauth/internal/oauth"
	"github.com/caddyoauth/caddyoauth/internal/provider"
	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// TestSecretNames: what sounds like a secret is one, at whatever depth; what presets keep is none.
func TestSecretNames(t *testing.T) {
	t.Parallel()
	for _, name := range strings.Fields(`access_token refresh_token id_token token_type a.b.access_token authed_user.access_token clientSecret client_secret
		user.password passwd passphrase.hint api_key apikey api-key signing_key private_key.pem session_state sessionId cookie code a.code
		incoming_webhook.url hmac x_signature credentials.user client_assertion jwt code_verifier Bearer REFRESHTOKEN re.fresh_To_Ken`) {
		if checkKept(name) == nil {
			t.Errorf("%s may be kept", name)
		}
	}
	for _, name := range strings.Fields("instance_url team.id realmId 0.tenantId accounts-server stripe_publishable_key keyboard encoded key_id") {
		if err := checkKept(name); err != nil {
			t.Error(err)
		}
	}
	for _, name := range provider.Names() {
		p, _ := provider.Lookup(name)
		kept := slices.Concat(p.KeepFields, p.CallbackFields)
		for field := range p.TestCall.Keep {
			kept = append(kept, field)
		}
		for _, field := range kept {
			if err := checkKept(field); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// TestMarks: what is one, what is a global placeholder, and what is neither.
func TestMarks(t *testing.T) {
	t.Setenv("TEST_KEPT", "set")
	r := &resolver{repl: caddy.NewReplacer()}
	known := facts{token: map[string]string{"a.b": "T", "url": "https://H.example/x"}, fields: map[string]string{"shop": "S"}}
	for text, want := range map[string]string{
		"": "", "plain": "plain", "{token.a.b}": "T", "x{token.a.b}y{field.shop}z": "xTySz", "{host.token.url}": "h.example",
		"{env.TEST_KEPT}/{token.a.b}": "set/T",
	} {
		if got, err := r.wording("x", text).fill(known); err != nil || got != want {
			t.Errorf("%q became %q, %v; want %q", text, got, err, want)
		}
	}
	if len(r.faults) > 0 {
		t.Error(r.faults)
	}
	for _, text := range []string{"{token.}", "{token.none}", "{field.none}", "{host.token.a b}"} {
		if _, err := r.wording("x", text).fill(known); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%q: %v", text, err)
		}
	}
	for _, text := range []string{"token", "tokens.x", "host.x", "token.x}", "{token.x", "http.token.x", "hosttoken.x"} {
		if m, ok := parseMark(text); ok {
			t.Errorf("%q is %v", text, m)
		}
	}
}

// FuzzFacts: whatever a token endpoint answers, what may be used of it fits into a header, and is no token.
func FuzzFacts(f *testing.F) {
	for _, seed := range []string{`{"a":"x"}`, `{"a":{"b":["https://h.example"]}}`, `{"a":1e400}`, `{"a":"seeded-access"}`, `[]`, `{"a":"eyJ.a.b"}`, `{"a":"a\u0000"}`, "\xff"} {
		f.Add(seed, "R1")
	}
	keep := &keeping{response: []string{"a", "a.b.0", "url"}, callback: []string{"realm"}, found: []string{"found"}}
	f.Fuzz(func(t *testing.T, response, callback string) {
		set := connection.TokenSet{
			AccessToken: secret.New("seeded-access"), RefreshToken: secret.New("seeded-refresh"), Response: secret.New(response),
			Consent: &connection.Consent{Callback: map[string]string{"realm": callback}, Found: map[string]string{"found": callback}},
		}
		known := keep.facts(set)
		for _, name := range slices.Concat(keep.response, keep.callback, keep.found) {
			value, ok := known.value(mark{kind: "token", name: name})
			if ok && (!httpguts.ValidHeaderFieldValue(value) || value == "" || len(value) > maxFact || value == "seeded-access" || value == "seeded-refresh") {
				t.Errorf("%s is %q", name, value)
			}
			host, ok := known.value(mark{host: true, kind: "token", name: name})
			if ok && (!hostName.MatchString(host) || strings.ContainsAny(host, "/:@?#[]\\ ")) {
				t.Errorf("the host of %s is %q", name, host)
			}
		}
	})
}

// TestDefaultsRefused has what only JSON can say of the headers and parameters besides the token, and what only build can tell.
func TestDefaultsRefused(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(*Connection){
		"header: X carries the token":      func(c *Connection) { c.Header, c.Headers = &HeaderInjection{Name: "x"}, map[string]string{"X": "a"} },
		"header: Authorization carries":    func(c *Connection) { c.Headers = map[string]string{"authorization": "a"} },
		"header: only one header carries":  func(c *Connection) { c.Headers = map[string]string{"X": "{token}"} },
		"header: the value is empty":       func(c *Connection) { c.Headers = map[string]string{"X": ""} },
		"header: \"X:Y\" is not a header":  func(c *Connection) { c.Headers = map[string]string{"X:Y": "a"} },
		"header X: {token.x} is not kept":  func(c *Connection) { c.Headers = map[string]string{"x": "{token.x}"} },
		"header X: {field.x} is not asked": func(c *Connection) { c.Headers, c.Keep = map[string]string{"x": "{field.x}"}, []string{"x"} },
		"param y: {host.token.y} is not":   func(c *Connection) { c.Params = map[string]string{"y": "{host.token.y}"} },
		"param: \"\" has no name":          func(c *Connection) { c.Params = map[string]string{"": "a"} },
		"param: \"q\" has no name, or":     func(c *Connection) { c.Query, c.Params = "q", map[string]string{"q": "a"} },
		"keep: \"id_token\" sounds like":   func(c *Connection) { c.Keep = []string{"id_token"} },
		"keep_callback: \"hmac\" sounds":   func(c *Connection) { c.KeepCallback = []string{"hmac"} },
		"header X: unrecognized":           func(c *Connection) { c.Headers = map[string]string{"x": "{http.request.host}"} },
		"param x: unrecognized":            func(c *Connection) { c.Params = map[string]string{"x": "{http.request.host}"} },
	} {
		conn := baseConnection()
		change(conn)
		if _, err := conn.build("api"); err == nil || !strings.Contains(err.Error(), `connection "api": `+want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// TestLearnedByAnotherInstance: what this instance misses, another one may have learned meanwhile; a request does not fail for it.
func TestLearnedByAnotherInstance(t *testing.T) {
	t.Parallel()
	store := storeIn(t, t.TempDir())
	set := connection.Settings{
		Store: store, Tasks: new(connection.Tasks), Breaker: new(connection.Breaker), Grant: oauth.GrantRefreshToken, Nonce: "n",
	}.Complete()
	live := func() *connection.Settings { return set }
	id := connection.ID{Connection: "api"}
	here, there := connection.NewSource(id, "f", live), connection.NewSource(id, "f", live)
	resp := &oauth.TokenResponse{AccessToken: secret.New("seeded-access"), SentAt: time.Now(), ExpiresAt: time.Now().Add(time.Hour)}
	if _, err := there.Apply(t.Context(), set, connection.Authorized(resp, nil, set, "test")); err != nil {
		t.Fatal(err)
	}
	token, err := here.Token(t.Context(), set)
	if err != nil {
		t.Fatal(err)
	}
	in, err := newHeaderInjection("", "")
	if err != nil {
		t.Fatal(err)
	}
	in.keeping = &keeping{found: []string{"org"}}
	in.headers = []named{{name: "X-Org", value: parseWording("{token.org}")}}
	found := connection.Consent{Found: map[string]string{"org": "T1"}}
	if _, err := there.Apply(t.Context(), set, connection.Learned(token.Generation(), found)); err != nil {
		t.Fatal(err)
	}
	p := &plan{conn: &activeConnection{name: "api", injection: in, settings: set}, source: here, token: token, guarded: true}
	if _, err := in.dress(make(http.Header), p.token); err == nil {
		t.Fatal("it is known here already, so this proves nothing")
	}
	if value, _ := p.fact("token.org"); value != "T1" || p.lacks != nil {
		t.Errorf("the placeholder gave %v", value)
	}
	header := make(http.Header)
	if worn, err := in.dress(header, p.token); err != nil || header.Get("X-Org") != "T1" || len(worn) != 2 {
		t.Errorf("the request got %q, %v", header.Get("X-Org"), err)
	}
	if _, known := p.fact("token.none"); !known || p.lacks == nil {
		t.Error("what nobody knows was not missed")
	}
}
