package caddyoauth

import (
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddyoauth/caddyoauth/internal/connection"
	"github.com/caddyoauth/caddyoauth/internal/oauth"
	"github.com/caddyoauth/caddyoauth/internal/provider"
)

// personal is a connection that asks for the region.
func personal(change func(*Connection)) *Connection {
	c := baseConnection()
	c.AuthorizationEndpoint, c.TokenEndpoint = "https://{field.region}.example.com/authorize", "https://{field.region}.example.com/token"
	c.Fields = []Field{{Name: "region", Required: true}}
	if change != nil {
		change(c)
	}
	return c
}

// TestFieldsRefused: what cannot be honoured, and what would let people send secrets anywhere, is refused when it is loaded.
func TestFieldsRefused(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(*Connection){
		"token_endpoint: whoever answers could name any host": func(c *Connection) { c.TokenEndpoint = "https://{field.region}/token" },
		"authorization_endpoint: whoever answers could":       func(c *Connection) { c.AuthorizationEndpoint = "https://{field.region}:8443/authorize" },
		"revocation_endpoint: whoever answers could":          func(c *Connection) { c.RevocationEndpoint = "https://a.{field.region}/revoke" },
		"refresh_endpoint: whoever answers could":             func(c *Connection) { c.Quirks = &Quirks{RefreshEndpoint: "https://{field.region}.com/"} },
		"issuer: whoever answers could":                       func(c *Connection) { c.Issuer = "https://a.example{field.region}" },
		"token_endpoint: write the scheme":                    func(c *Connection) { c.TokenEndpoint = "{field.region}/token" },
		"token_endpoint: http:// to x.example.com":            func(c *Connection) { c.TokenEndpoint = "http://{field.region}.example.com/token" },
		"token_endpoint: {field.shop} is not asked for":       func(c *Connection) { c.TokenEndpoint = "https://{field.shop}.example.com/token" },
		"authorization_endpoint: {token.site} is not known yet": func(c *Connection) {
			c.AuthorizationEndpoint, c.KeepCallback = "https://a.example/{token.site}", []string{"site"}
		},
		"token_endpoint: {token.site} is not kept": func(c *Connection) { c.TokenEndpoint = "https://a.example/{token.site}" },
		"token_endpoint: whoever answers could name": func(c *Connection) {
			c.TokenEndpoint, c.KeepCallback = "https://{host.token.server}/t", []string{"server"}
		},
		"auth_param hint: {field.mail} is not asked for":   func(c *Connection) { c.AuthParams = map[string]string{"hint": "{field.mail}"} },
		"allow_hosts: {field.region} could be any host":    func(c *Connection) { c.AllowHosts = []string{"a.example", "{field.region}"} },
		"allow_hosts: {field.region}.com could be":         func(c *Connection) { c.AllowHosts = []string{"{field.region}.com"} },
		"field: with this grant there is nobody to ask":    func(c *Connection) { c.Grant = oauth.GrantClientCredentials },
		"field region: the default does not fit":           func(c *Connection) { c.Fields[0].Default = "a b" },
		"field region: the pattern is not one":             func(c *Connection) { c.Fields[0].Pattern = "(" },
		"field: region is asked for twice":                 func(c *Connection) { c.Fields = append(c.Fields, c.Fields[0]) },
		"field Region: a name has lower-case":              func(c *Connection) { c.Fields = append(c.Fields, Field{Name: "Region"}) },
		"field api_token: sounds like a secret":            func(c *Connection) { c.Fields = append(c.Fields, Field{Name: "api_token"}) },
		"field host: names a host, so it is not asked for": func(c *Connection) { c.Provider, c.Fields = &ProviderPreset{Name: "gitlab"}, []Field{{Name: "host"}} },
		"token_endpoint: whoever answers": func(c *Connection) { // a pattern of the table pins the provider's own addresses, not others
			c.Provider, c.Fields = &ProviderPreset{Name: "keycloak", Params: map[string]string{"base": "https://id.example.com"}}, []Field{{Name: "realm"}, {Name: "region"}}
			c.TokenEndpoint = "https://{field.realm}/token"
		},
		"field tenant: is given with the preset already": func(c *Connection) {
			c.Provider, c.Fields = &ProviderPreset{Name: "microsoft", Params: map[string]string{"tenant": "common"}}, []Field{{Name: "tenant"}, {Name: "region"}}
		},
		`provider: set parameter "domain" of provider "okta": is require`: func(c *Connection) { c.Provider = &ProviderPreset{Name: "okta"} },
	} {
		if _, err := personal(change).build("api"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// asks returns where somebody who gave these answers is sent, or why not.
func (b *built) asks(given map[string]string) (string, error) {
	other, err := b.blueprint.of(&connection.Consent{Fields: given})
	if err != nil {
		return "", err
	}
	return other.client.AuthorizationURL(oauth.AuthorizationRequest{RedirectURI: "https://app.example/", State: oauth.RandomState(), Params: other.authParams})
}

// TestAttackFieldHost: whatever is answered, the code, the token and the client secret stay in the domain that is written down, or on
// the list (SSRF).
func TestAttackFieldHost(t *testing.T) {
	t.Parallel()
	pinned := personal(func(c *Connection) { c.Fields[0].Pattern = "(?s).*" }) // the loosest pattern there is
	listed := personal(func(c *Connection) {
		c.Fields[0].Pattern = "(?s).*"
		c.AuthorizationEndpoint, c.TokenEndpoint = "https://{field.region}/authorize", "https://{field.region}/token"
		c.AllowHosts = []string{"*.example.com", "good.example"}
	})
	inPath := personal(func(c *Connection) {
		c.Fields[0].Pattern = "(?s).*"
		c.AuthorizationEndpoint, c.TokenEndpoint = "https://idp.example.com/{field.region}/authorize?tenant={field.region}", "https://idp.example.com/{field.region}/token"
	})
	for name, conn := range map[string]*Connection{"pinned": pinned, "listed": listed, "in the path": inPath} {
		b, err := conn.build("api")
		if err != nil {
			t.Fatal(err)
		}
		for _, answer := range []string{
			"evil.example", "evil.example/", "evil.example/x", "evil.example#", "evil.example?", "evil.example?x=", "evil.example:443", "a@evil.example", "evil.example\\",
			"evil.example/.example.com", "a:b@evil.example", "[::1]", "127.0.0.1", "169.254.169.254", "localhost", "", ".", "..", "a..b", "-", "a b", "a\n", "a\r\nX: y",
			"%2f", "é", "*", "{field.region}", "{env.HOME}", "//evil.example", "good.example.evil.example", strings.Repeat("a", 300), "xn--a.example", "a.b.c",
		} {
			text, err := b.asks(map[string]string{"region": answer})
			if err != nil {
				if len(answer) > 3 && answer != "{field.region}" && strings.Contains(err.Error(), answer) {
					t.Errorf("%s: the error repeats %q", name, answer)
				}
				continue
			}
			u, err := url.Parse(text)
			inside := err == nil && (strings.HasSuffix(u.Hostname(), ".example.com") || name == "listed" && u.Hostname() == "good.example")
			if !inside || u.Scheme != "https" || u.User != nil || u.Port() != "" || u.Fragment != "" || !strings.HasSuffix(u.Path, "/authorize") {
				t.Errorf("%s: %q leads to %s", name, answer, text)
			}
			if parts := strings.Split(u.Path, "/"); slices.Contains(parts, "..") || slices.Contains(parts, ".") {
				t.Errorf("%s: %q climbs to %s", name, answer, text)
			}
			if name == "in the path" && (strings.Count(u.EscapedPath(), "/") != 2 || len(u.Query()["tenant"]) != 1 || u.Query().Get("tenant") != answer) {
				t.Errorf("%s: %q leads to %s", name, answer, text)
			}
		}
		if text, err := b.asks(map[string]string{"region": "good.example"}); name == "listed" && (err != nil || !strings.HasPrefix(text, "https://good.example/")) {
			t.Errorf("a host on the list: %s, %v", text, err)
		}
	}
}

// TestAnswersAreCheckedAgain: what is stored was checked by another configuration, perhaps.
func TestAnswersAreCheckedAgain(t *testing.T) {
	t.Parallel()
	b, err := personal(func(c *Connection) { c.Fields[0].Pattern = "eu|us" }).build("api")
	if err != nil {
		t.Fatal(err)
	}
	for answer, works := range map[string]bool{"eu": true, "us": true, "eus": false, "": false, "EU": false, "eu\n": false} {
		if _, err := b.asks(map[string]string{"region": answer}); (err == nil) != works {
			t.Errorf("%q: %v", answer, err)
		}
	}
	for _, consent := range []*connection.Consent{nil, {}, {Callback: map[string]string{"region": "eu"}, Found: map[string]string{"region": "eu"}}} {
		if _, err := b.blueprint.of(consent); err == nil {
			t.Error("an answer that was not given was taken from elsewhere")
		}
	}
	if b.counterpart != nil {
		t.Error("there is a client for nobody, which somebody may use")
	}
}

// TestServerOfTheWayBack: some servers say on the way back where the code is to be exchanged. Only a listed host is believed.
func TestServerOfTheWayBack(t *testing.T) {
	t.Parallel()
	conn := baseConnection()
	conn.AuthorizationEndpoint, conn.TokenEndpoint = "https://accounts.example.com/authorize", "https://{host.token.accounts-server}/token"
	conn.KeepCallback, conn.AllowHosts = []string{"accounts-server"}, []string{"accounts.example.eu", "api.example.eu"}
	b, err := conn.build("api")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.asks(nil); err != nil {
		t.Errorf("on the way there nobody knows it, and nobody needs to: %v", err)
	}
	for server, works := range map[string]bool{
		"https://accounts.example.eu": true, "accounts.example.eu": true, "https://accounts.example.eu.evil.example": false, "https://evil.example": false,
		"http://accounts.example.eu": false, "https://accounts.example.eu@evil.example": false, "https://evil.example/accounts.example.eu": false,
	} {
		other, err := b.blueprint.of(&connection.Consent{Callback: map[string]string{"accounts-server": server}})
		if ok := err == nil && other.endpoint == "https://accounts.example.eu/token"; ok != works && !(err == nil && other.endpoint == "" && !works) {
			t.Errorf("%s: %+v, %v", server, other, err)
		}
	}
}

// TestHostsOfFields: the allow-list may depend on the answers, inside a domain.
func TestHostsOfFields(t *testing.T) {
	t.Parallel()
	b, err := personal(func(c *Connection) {
		c.AllowHosts = []string{"{field.region}.api.example.com:8443", "files.example.com"}
	}).build("api")
	if err != nil {
		t.Fatal(err)
	}
	shop, err := (&Connection{Provider: &ProviderPreset{Name: "shopify"}, ClientID: "a", ClientSecret: "b"}).build("shop")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		in     *injection
		given  map[string]string
		host   string
		port   string
		passes bool
	}{
		{b.injection, map[string]string{"region": "eu"}, "eu.api.example.com", "8443", true},
		{b.injection, map[string]string{"region": "eu"}, "eu.api.example.com", "443", false},
		{b.injection, map[string]string{"region": "eu"}, "us.api.example.com", "8443", false},
		{b.injection, map[string]string{"region": "eu"}, "files.example.com", "443", true},
		{b.injection, nil, "files.example.com", "443", true},
		{b.injection, map[string]string{"region": "*"}, "us.api.example.com", "8443", false},
		{shop.injection, map[string]string{"shop": "acme.myshopify.com"}, "acme.myshopify.com", "443", true},
		{shop.injection, map[string]string{"shop": "acme.myshopify.com"}, "other.myshopify.com", "443", false},
		{shop.injection, map[string]string{"shop": "*.myshopify.com"}, "other.myshopify.com", "443", false},
		{shop.injection, nil, "", "443", false},
	} {
		list := tt.in.hosts.fill(tt.in.keeping.facts(connection.TokenSet{Consent: &connection.Consent{Fields: tt.given}}))
		to := destination{dial: reverseproxy.DialInfo{Network: "tcp", Host: tt.host, Port: tt.port, Address: tt.host + ":" + tt.port}}
		if err := list.permits(to); (err == nil) != tt.passes {
			t.Errorf("%v to %s:%s: %v", tt.given, tt.host, tt.port, err)
		}
		if to.plaintext = true; tt.in == shop.injection && list.permits(to) == nil {
			t.Errorf("%v to %s in the clear", tt.given, tt.host)
		}
	}
}

// TestPresetsAsk: what a preset needs and the configuration does not say is asked for, unless it names a host.
func TestPresetsAsk(t *testing.T) {
	t.Parallel()
	for _, name := range provider.Names() {
		row, _ := provider.Lookup(name)
		conn := &Connection{Provider: &ProviderPreset{Name: name, Params: make(map[string]string)}, ClientID: "a", ClientSecret: "b"}
		var want []string
		for _, param := range row.Params {
			switch {
			case param.Required && param.OperatorOnly:
				conn.Provider.Params[param.Name] = param.Example
			case param.Required && param.Default == "":
				want = append(want, param.Name)
			}
		}
		if len(want) == 0 {
			continue
		}
		b, err := conn.build("api")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var got []string
		given := make(map[string]string)
		for _, f := range b.consent.fields {
			got = append(got, f.name)
			given[f.name] = f.example
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s asks for %v, want %v", name, got, want)
		}
		if text, err := b.asks(given); err != nil || strings.Contains(text, "%7B") || strings.Contains(text, "{") {
			t.Errorf("%s: %s, %v", name, text, err)
		}
		conn.Grant = oauth.GrantClientCredentials
		if _, err := conn.build("api"); err == nil || !strings.Contains(err.Error(), "is required") {
			t.Errorf("%s without people: %v", name, err)
		}
	}
	conn := &Connection{Provider: &ProviderPreset{Name: "salesforce"}, ClientID: "a", ClientSecret: "b", Fields: []Field{{Name: "login_host", Label: "Login"}}}
	b, err := conn.build("api")
	if err != nil || len(b.consent.fields) != 1 || b.consent.fields[0].fallback != "login.salesforce.com" || b.consent.fields[0].label != "Login" {
		t.Fatalf("got %+v, %v", b, err)
	}
	for host, works := range map[string]bool{"test.salesforce.com": true, "acme.my.salesforce.com": true, "evil.example": false, "salesforce.com.evil.example": false} {
		if text, err := b.asks(map[string]string{"login_host": host}); (err == nil && strings.HasPrefix(text, "https://"+host+"/")) != works {
			t.Errorf("%s: %s, %v", host, text, err)
		}
	}
}
