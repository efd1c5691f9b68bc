package caddyoauth

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddyoauth/caddyoauth/internal/oauth"
	"github.com/caddyoauth/caddyoauth/internal/provider"
)

// baseConnection is the least that a connection needs.
func baseConnection() *Connection {
	return &Connection{TokenEndpoint: "https://idp.example/token", ClientID: "caddy"}
}

// TestPlaceholdersAreResolvedAtLoad gives every text of a connection as a placeholder, once set, once unset and once empty.
func TestPlaceholdersAreResolvedAtLoad(t *testing.T) {
	t.Setenv("TEST_CONFIG_EMPTY", "")
	missing := filepath.Join(t.TempDir(), "missing")
	for field, change := range map[string]struct {
		value string
		set   func(c *Connection, value string)
	}{
		"token_endpoint":     {"https://idp.example/token", func(c *Connection, v string) { c.TokenEndpoint = v }},
		"issuer":             {"https://idp.example", func(c *Connection, v string) { c.TokenEndpoint, c.Issuer = "", v }},
		"client_id":          {"caddy", func(c *Connection, v string) { c.ClientID = v }},
		"client_secret":      {"hidden", func(c *Connection, v string) { c.ClientSecret = v }},
		"client_certificate": {"client.pem", func(c *Connection, v string) { c.ClientCertificate = &ClientCertificate{Certificate: v, Key: v} }},
		"client_key":         {"client.key", func(c *Connection, v string) { c.ClientKey = &ClientKey{File: v} }},
		"assertion_audience": {"https://a.example", func(c *Connection, v string) { c.AssertionAudience = v }},
		"scopes":             {"a", func(c *Connection, v string) { c.Scopes = []string{"fixed", v} }},
		"audience":           {"api", func(c *Connection, v string) { c.Audience = v }},
		"resource":           {"https://api.example", func(c *Connection, v string) { c.Resource = []string{v} }},
		"token_param x":      {"1", func(c *Connection, v string) { c.TokenParams = map[string]string{"x": v} }},
		"header":             {"X-Token", func(c *Connection, v string) { c.Header = &HeaderInjection{Name: v} }},
		"query":              {"key", func(c *Connection, v string) { c.Query = v }},
		"allow_hosts":        {"api.example", func(c *Connection, v string) { c.AllowHosts = []string{v} }},
		"tls ca":             {"testdata/adapt/ca.pem", func(c *Connection, v string) { c.TLS = &TokenEndpointTLS{CA: []string{v}} }},
		"tenant":             {"acme", func(c *Connection, v string) { c.Tenant = v }},
		"username":           {"jane", func(c *Connection, v string) { c.Grant, c.Username, c.Password = "password", v, "fixed" }},
		"password":           {"hidden", func(c *Connection, v string) { c.Grant, c.Username, c.Password = "password", "jane", v }},
	} {
		t.Run(field, func(t *testing.T) {
			t.Setenv("TEST_CONFIG_SET", change.value)
			conn := baseConnection()
			change.set(conn, "{env.TEST_CONFIG_SET}")
			before := fmt.Sprintf("%+v", conn)
			if _, err := conn.build("api"); err != nil {
				t.Errorf("set: %v", err)
			}
			if after := fmt.Sprintf("%+v", conn); after != before {
				t.Errorf("build changed what the user wrote:\n%s\n%s", before, after)
			}
			for _, placeholder := range []string{"{env.TEST_CONFIG_UNSET}", "{env.TEST_CONFIG_EMPTY}", "{file." + missing + "}", "{http.request.host}"} {
				conn := baseConnection()
				change.set(conn, placeholder)
				_, err := conn.build("api")
				if err == nil || !strings.Contains(err.Error(), `connection "api": `+field+": ") || !strings.Contains(err.Error(), placeholder) {
					t.Errorf("%s: got %v; want the connection, the field and the placeholder", placeholder, err)
				}
			}
		})
	}
}

// TestBuildNamesEveryFault: whoever repairs a configuration should not have to load it ten times.
func TestBuildNamesEveryFault(t *testing.T) {
	t.Parallel()
	conn := &Connection{
		TokenEndpoint: "http://idp.internal/token", ClientID: "{env.TEST_CONFIG_UNSET}", Grant: "refresh_token", AllowHosts: []string{"*"},
		Query: "q", Header: &HeaderInjection{}, TLS: &TokenEndpointTLS{CA: []string{"testdata/none.pem", "go.mod"}},
	}
	_, err := conn.build("api")
	for _, want := range []string{"token_endpoint: http:// to idp.internal", "client_id: ", `grant: "refresh_token"`, "allow_hosts: ", "query: give header or query", "testdata/none.pem", "go.mod holds no PEM certificate"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nsays nothing of %q", err, want)
		}
	}
}

// TestBuildRefuses has what only JSON can say, and what is only known when it is resolved.
func TestBuildRefuses(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(*Connection){
		"token_endpoint: is required":      func(c *Connection) { c.TokenEndpoint = "" },
		"client_id":                        func(c *Connection) { c.ClientID = "" },
		"issuer: http:// to idp.internal":  func(c *Connection) { c.TokenEndpoint, c.Issuer = "", "http://idp.internal" },
		"issuer: with marks in it":         func(c *Connection) { c.TokenEndpoint, c.Issuer = "", "https://idp.example/{field.tenant}" },
		"issuer: issuer must have no user": func(c *Connection) { c.TokenEndpoint, c.Issuer = "", "https://idp.example/?hidden" },
		"must be an https:// URL":          func(c *Connection) { c.TokenEndpoint = "ftp://idp.example/token" },
		"must be a URL with a host":        func(c *Connection) { c.TokenEndpoint = "https://user:hidden@idp.example/" },
		"is not a URL":                     func(c *Connection) { c.TokenEndpoint = "https://idp.example:hidden/" },
		"in the clear":                     func(c *Connection) { c.TokenEndpoint = "http://localhost.example/" },
		"unknown client authentication":    func(c *Connection) { c.ClientAuth = "jwt" },
		"set client_key":                   func(c *Connection) { c.ClientAuth = "private_key_jwt" },
		"unknown algorithm":                func(c *Connection) { c.ClientKey = &ClientKey{File: "a", Algorithm: "none"} },
		"secret":                           func(c *Connection) { c.ClientAuth = "client_secret_post" },
		"certificate":                      func(c *Connection) { c.ClientAuth = "tls_client_auth" },
		"grant":                            func(c *Connection) { c.Grant = "authorization_code" },
		"username: is required":            func(c *Connection) { c.Grant, c.Password = "password", "hidden" },
		"password: is required":            func(c *Connection) { c.Grant, c.Username = "password", "jane" },
		"username: is for the grant":       func(c *Connection) { c.Username = "jane" },
		"subject: the grant password":      func(c *Connection) { c.Grant, c.Username, c.Password, c.Subject = "password", "a", "hidden", "x" },
		"header: Host belongs":             func(c *Connection) { c.Header = &HeaderInjection{Name: "Host"} },
		"header: the template needs":       func(c *Connection) { c.Header = &HeaderInjection{Template: "Bearer"} },
		"header: \"X Y\" is not a header":  func(c *Connection) { c.Header = &HeaderInjection{Name: "X Y"} },
		"allow_hosts: \"a b\": is not":     func(c *Connection) { c.AllowHosts = []string{"a b"} },
		"give header or query, not both":   func(c *Connection) { c.Query, c.Header = "q", &HeaderInjection{Name: "X"} },
		"token parameter":                  func(c *Connection) { c.TokenParams = map[string]string{"grant_type": "password"} },
	} {
		conn := baseConnection()
		change(conn)
		_, err := conn.build("api")
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), `connection "api": `) {
			t.Errorf("got %v, want %q", err, want)
		} else if strings.Contains(err.Error(), "hidden") {
			t.Errorf("the error %q repeats a password", err)
		}
	}
}

// TestClientAuthDefault: the method follows from what is given.
func TestClientAuthDefault(t *testing.T) {
	t.Parallel()
	for want, conn := range map[oauth.Method]*Connection{
		oauth.ClientSecretBasic: {ClientSecret: "hidden", ClientCertificate: &ClientCertificate{Certificate: "a", Key: "b"}},
		oauth.TLSClientAuth:     {ClientCertificate: &ClientCertificate{Certificate: "a", Key: "b"}},
		oauth.PrivateKeyJWT:     {ClientKey: &ClientKey{File: "a"}, ClientCertificate: &ClientCertificate{Certificate: "a", Key: "b"}},
		oauth.ClientSecretJWT:   {ClientAuth: "client_secret_jwt", ClientSecret: "hidden"},
		oauth.None:              {},
	} {
		var conf oauth.Config
		conn.buildAuthentication(&resolver{repl: caddy.NewReplacer()}, &conf, new(provider.Provider))
		if conf.Method != want {
			t.Errorf("got %s, want %s", conf.Method, want)
		}
	}
}

// TestFingerprint: what a token depends on changes it, what it does not depend on keeps it.
func TestFingerprint(t *testing.T) {
	t.Parallel()
	fingerprintOf := func(change func(*Connection)) string {
		conn := baseConnection()
		conn.Scopes, conn.Resource = []string{"a", "b"}, []string{"https://a.example", "https://b.example"}
		change(conn)
		b, err := conn.build("api")
		if err != nil {
			t.Fatal(err)
		}
		return b.fingerprint
	}
	base := fingerprintOf(func(*Connection) {})
	for name, change := range map[string]func(*Connection){
		"secret": func(c *Connection) { c.ClientSecret = "other" }, "method": func(c *Connection) { c.ClientSecret, c.ClientAuth = "s", "client_secret_post" },
		"certificate": func(c *Connection) { c.ClientCertificate = &ClientCertificate{Certificate: "a", Key: "b"} },
		"order":       func(c *Connection) { c.Scopes = []string{"b", "a"} }, "timeout": func(c *Connection) { c.Timeout = 1e9 },
		"key": func(c *Connection) { c.ClientKey = &ClientKey{File: "a"} }, "audience of the assertion": func(c *Connection) { c.AssertionAudience = "x" },
		"header": func(c *Connection) { c.Header = &HeaderInjection{Name: "X-Token"} }, "explicit grant": func(c *Connection) { c.Grant = "client_credentials" },
	} {
		if fingerprintOf(change) != base {
			t.Errorf("another %s gives another fingerprint", name)
		}
	}
	found := func(issuer string) string {
		return fingerprintOf(func(c *Connection) { c.TokenEndpoint, c.Issuer = "", issuer })
	}
	compared := fingerprintOf(func(c *Connection) { c.Issuer = "https://idp.example" })
	if compared != base {
		t.Error("an issuer that is only compared gives another fingerprint")
	}
	account := func(user, password string) string {
		return fingerprintOf(func(c *Connection) { c.Grant, c.Username, c.Password = "password", user, password })
	}
	if account("jane", "a") != account("jane", "b") {
		t.Error("another password gives another fingerprint")
	}
	seen := map[string]string{base: "base"}
	for name, got := range map[string]string{
		"jane": account("jane", "a"), "joe": account("joe", "a"), "issuer": found("https://idp.example"), "another issuer": found("https://idp.example/token"),
	} {
		if other, same := seen[got]; same {
			t.Errorf("%s and %s have the same fingerprint", name, other)
		}
		seen[got] = name
	}
	for name, change := range map[string]func(*Connection){
		"endpoint": func(c *Connection) { c.TokenEndpoint += "2" }, "client": func(c *Connection) { c.ClientID = "other" },
		"scope": func(c *Connection) { c.Scopes = []string{"a"} }, "joined": func(c *Connection) { c.Scopes = []string{"a b"} },
		"audience": func(c *Connection) { c.Audience = "x" }, "resource": func(c *Connection) { c.Resource = nil },
		"param": func(c *Connection) { c.TokenParams = map[string]string{"x": "1"} },
	} {
		got := fingerprintOf(change)
		if other, same := seen[got]; same {
			t.Errorf("%s and %s have the same fingerprint", name, other)
		}
		seen[got] = name
	}
}

// TestSecretFileIsReadAgain: after invalid_client the next exchange uses the file's new content, without a reload. {file.*}
// trims the one line break that editors leave.
func TestSecretFileIsReadAgain(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "secret")
	writeFile(t, file, "old-one\n")
	var asked atomic.Int64
	valid := atomic.Pointer[string]{}
	secret := "old-one"
	valid.Store(&secret)
	idp := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		w.Header().Set("Content-Type", "application/json")
		if _, password, _ := r.BasicAuth(); password != *valid.Load() {
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprint(w, `{"error":"invalid_client"}`)
			return
		}
		fmt.Fprint(w, `{"access_token":"t","token_type":"Bearer","expires_in":60}`)
	}))
	t.Cleanup(idp.Close)
	b, err := (&Connection{TokenEndpoint: idp.URL, ClientID: "caddy", ClientSecret: "{file." + file + "}"}).build("api")
	if err != nil {
		t.Fatal(err)
	}
	ask := func(what string, requests int64, works bool) {
		t.Helper()
		asked.Store(0)
		if _, err := b.client.ClientCredentials(t.Context()); (err == nil) != works || asked.Load() != requests {
			t.Errorf("%s: %v after %d requests, want %d", what, err, asked.Load(), requests)
		}
	}
	ask("the first secret", 1, true)
	rotated := "new-one"
	valid.Store(&rotated)
	ask("refused, the file is as before", 1, false)
	writeFile(t, file, "new-one\n")
	ask("refused, the file has changed", 2, true)
	ask("the new secret is remembered", 1, true)
}

func writeFile(t testing.TB, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// everythingConfig is the adapted Caddyfile of the golden that uses every option.
func everythingConfig(t *testing.T) []byte {
	t.Helper()
	raw, err := os.ReadFile("testdata/adapt/everything.caddyfiletest")
	if err != nil {
		t.Fatal(err)
	}
	text, _, _ := strings.Cut(string(raw), goldenSeparator)
	for name, value := range map[string]string{
		"KEY": strings.Repeat("0f", 32), "PASSPHRASE": "correct horse battery", "ID": "seeded-id", "SECRET": "seeded-secret", "REGION": "seeded-region", "TENANT": "common",
	} {
		t.Setenv("TEST_ADAPT_"+name, value)
	}
	return mustAdapt(t, text+"\n")
}

// TestEveryOptionIsInJSON checks that the golden with everything leaves no field of the configuration out, and that reading
// the JSON and writing it again loses nothing.
func TestEveryOptionIsInJSON(t *testing.T) {
	adapted := everythingConfig(t)
	var config struct {
		Apps struct {
			App json.RawMessage `json:"oauth2_inject"`
		} `json:"apps"`
	}
	if err := json.Unmarshal(adapted, &config); err != nil {
		t.Fatal(err)
	}
	var app App
	if err := caddy.StrictUnmarshalJSON(config.Apps.App, &app); err != nil {
		t.Fatal(err)
	}
	again, err := json.Marshal(&app)
	if err != nil || string(again) != string(config.Apps.App) {
		t.Errorf("the JSON does not survive: %v\n%s\n%s", err, config.Apps.App, again)
	}
	for option := range optionParsers {
		field := map[string]string{"token_param": "token_params", "auth_param": "auth_params", "param": "params", "field": "fields"}[option]
		if field == "" {
			field = option
		}
		if !strings.Contains(string(config.Apps.App), `"`+field+`":`) {
			t.Errorf("the golden does not use %s", option)
		}
	}
	for option := range globalParsers {
		if field := strings.TrimSuffix(option, "s"); !strings.Contains(string(config.Apps.App), `"`+field) {
			t.Errorf("the golden does not use %s", option)
		}
	}
}

// TestValidateTouchesNothing is `caddy validate` on a machine without network and without a place to write.
func TestValidateTouchesNothing(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_DATA_HOME", filepath.Join(dir, "data"))
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(dir, "config"))
	asked := false
	idp := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	defer idp.Close()
	for name, storage := range map[string]string{"missing": filepath.Join(dir, "none", "storage"), "a file": "/dev/null", "not allowed": "/proc/storage"} {
		for _, encryption := range []string{"", "encryption passphrase {env.TEST_CONFIG_PASSPHRASE}"} {
			t.Setenv("TEST_CONFIG_PASSPHRASE", "correct horse battery")
			err := validate(mustAdapt(t, fmt.Sprintf(`{
	storage file_system %[1]s
	oauth2_inject {
		%[2]s
		connection api {
			token_endpoint %[3]s
			client_id caddy
			client_secret hidden
		}
		connection found {
			issuer %[3]s
			client_id caddy
		}
	}
}
http://127.0.0.1:1 {
	oauth2_inject api {
		reverse_proxy 127.0.0.1:2
	}
}`, storage, encryption, idp.URL)))
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if err := validate(everythingConfig(t)); err != nil {
		t.Errorf("everything: %v", err)
	}
	if asked {
		t.Error("validate asked the token endpoint")
	}
	err := filepath.WalkDir(dir, func(file string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() && (strings.Contains(file, "oauth2_inject") || strings.Contains(file, "none")) {
			t.Errorf("validate wrote %s", file)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// TestProvisionErrors: what a reload refuses names the connection.
func TestProvisionErrors(t *testing.T) {
	t.Parallel()
	for want, text := range map[string]string{
		`no connection is named "calendar"; configured are api`:                  `"connection":"calendar"`,
		`connection: a name is required`:                                         `"connection":""`,
		`via: "air" is neither header nor transport`:                             `"connection":"api","via":"air"`,
		`connection "api" is configured in the global options as well as inline`: `"connection":"api","inline":{"token_endpoint":"https://a.example","client_id":"a"}`,
		`connection "other": token_endpoint: is required`:                        `"connection":"other","inline":{}`,
		`connection "flat": a token in the query would show up in logs`:          `"connection":"flat","inline":{"token_endpoint":"https://a.example","client_id":"a","query":"q"}`,
		`connection "flat": param cannot be added in this form`:                  `"connection":"flat","inline":{"token_endpoint":"https://a.example","client_id":"a","params":{"a":"b"}}`,
		`connection "flat": allow_hosts cannot be checked in this form`:          `"connection":"flat","inline":{"token_endpoint":"https://a.example","client_id":"a","allow_hosts":["a"]}`,
		`json: unknown field "clientid"`:                                         `"connection":"flat","inline":{"clientid":"a"}`,
	} {
		err := validate(fmt.Appendf(nil, `{"apps":{"oauth2_inject":{"connections":{"api":{"token_endpoint":"https://a.example","client_id":"a"}}},
			"http":{"servers":{"s":{"listen":["127.0.0.1:1"],"routes":[{"handle":[{"handler":"oauth2_inject",%s}]}]}}}}}`, text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	inline := `{"handle":[{"handler":"oauth2_inject","connection":"x","inline":{"token_endpoint":"https://a.example","client_id":"a","timeout":"%s"}}]}`
	for timeouts, works := range map[[2]string]bool{{"3s", "3s"}: true, {"3s", "4s"}: false} {
		err := validate(fmt.Appendf(nil, `{"apps":{"http":{"servers":{"s":{"listen":["127.0.0.1:1"],"routes":[`+inline+`,`+inline+`]}}}}}`, timeouts[0], timeouts[1]))
		if (err == nil) != works {
			t.Errorf("the same inline connection with time-outs %v: %v", timeouts, err)
		} else if err != nil && !strings.Contains(err.Error(), `connection "x" is configured twice, differently`) {
			t.Error(err)
		}
	}
}

// TestPolicyComesFromOptions: durations reach the life of a token; 0 stands for the default of package connection.
func TestPolicyComesFromOptions(t *testing.T) {
	t.Parallel()
	conn := baseConnection()
	conn.RefreshBefore, conn.DefaultLifetime, conn.Timeout, conn.IdleAfter = caddy.Duration(1), caddy.Duration(2), caddy.Duration(3), caddy.Duration(4)
	if p := conn.policy(new(resolver), new(provider.Provider)); p.RefreshBefore != 1 || p.DefaultLifetime != 2 || p.Timeout != 3 || p.IdleAfter != 4*time.Nanosecond {
		t.Errorf("got %+v", p)
	}
}
