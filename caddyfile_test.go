package caddyoauth

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/standard"
	_ "github.com/caddyserver/caddy/v2/modules/filestorage"
)

// updateAdapt, from the environment variable UPDATE_ADAPT, has the JSON of testdata/adapt written anew. Look at every difference.
var updateAdapt = os.Getenv("UPDATE_ADAPT") != ""

const goldenSeparator = "\n----------\n"

// adaptText adapts a Caddyfile as the command line does. Its errors name the file "Caddyfile".
func adaptText(text string) ([]byte, error) {
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
	return adapted, err
}

// mustAdapt adapts a Caddyfile that is right.
func mustAdapt(t *testing.T, text string) []byte {
	t.Helper()
	adapted, err := adaptText(text)
	if err != nil {
		t.Fatalf("adapt: %v\n%s", err, text)
	}
	return adapted
}

// TestAdaptGoldens runs testdata/adapt in the convention of Caddy's own tests: a Caddyfile, a line of ten dashes, and then
// either the JSON that it adapts to or a part of the error.
func TestAdaptGoldens(t *testing.T) {
	files, err := filepath.Glob("testdata/adapt/*.caddyfiletest")
	if err != nil || len(files) < 30 {
		t.Fatalf("found %d goldens (%v)", len(files), err)
	}
	for name, value := range map[string]string{
		"KEY": strings.Repeat("0f", 32), "PASSPHRASE": "correct horse battery", "ID": "caddy", "SECRET": "hidden", "REGION": "eu.example", "TENANT": "common",
	} {
		t.Setenv("TEST_ADAPT_"+name, value)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".caddyfiletest"), func(t *testing.T) {
			checkGolden(t, file)
		})
	}
}

func checkGolden(t *testing.T, file string) {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	input, want, found := strings.Cut(string(raw), goldenSeparator)
	if !found {
		t.Fatal("the file has no line of ten dashes")
	}
	input, want = input+"\n", strings.TrimSpace(want)
	if formatted := caddyfile.Format([]byte(input)); string(formatted) != input {
		t.Errorf("the Caddyfile is not as `caddy fmt` writes it:\n%s", formatted)
	}
	adapted, err := adaptText(input)
	if strings.HasPrefix(filepath.Base(file), "error_") {
		for line := range strings.SplitSeq(want, "\n") { // a list of options grows: two lines are enough of it
			if line == "" || err == nil || !strings.Contains(err.Error(), line) {
				t.Errorf("got the error\n%v\nwant\n%s", err, line)
			}
		}
		if !strings.Contains(want, "Caddyfile:") {
			t.Error("the expected error names no line")
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, adapted, "", "\t"); err != nil {
		t.Fatal(err)
	}
	if updateAdapt {
		if err := os.WriteFile(file, []byte(strings.TrimSuffix(input, "\n")+goldenSeparator+pretty.String()+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if pretty.String() != want {
		t.Errorf("got\n%s\nwant\n%s", pretty.String(), want)
	}
	if err := validate(adapted); err != nil {
		t.Errorf("the adapted configuration does not load: %v", err)
	}
}

// validating keeps validations apart: Caddy holds its certificate cache in a variable of the process.
var validating sync.Mutex

// validate does what `caddy validate` does.
func validate(adapted []byte) error {
	var config caddy.Config
	if err := caddy.StrictUnmarshalJSON(adapted, &config); err != nil {
		return err
	}
	validating.Lock()
	defer validating.Unlock()
	return caddy.Validate(&config)
}

// optionArguments says for every option of a connection what may follow it, and how often something may be repeated.
var optionArguments = map[string]struct {
	good string
	bad  []string // too few, too many, or senseless
}{
	"token_endpoint": {"https://idp.example/token", []string{"", `""`, "https://a.example b"}},
	"client_id":      {"caddy", []string{"", `""`, "a b"}},
	"client_secret":  {"{env.SECRET}", []string{"", `""`, "a b"}},
	"client_auth":    {"none", []string{"", "none none", "jwt", "basic"}},
	"grant":          {"authorization_code", []string{"", `""`, "client_credentials x", "password", "Implicit", "refresh_token"}},
	"username":       {"jane\n\t\t\tgrant password\n\t\t\tpassword x", []string{"", `""`, "a b", "jane"}},
	"password":       {"x\n\t\t\tgrant password\n\t\t\tusername jane", []string{"", `""`, "a b", "x"}},
	"audience":       {"https://api.example", []string{"", `""`, "a b"}},
	"query":          {"access_token", []string{"", `""`, "a b"}},
	"tenant":         {"acme", []string{"", `""`, "a b"}},
	"scopes":         {"a b c", []string{""}},
	"resource":       {"https://a.example https://b.example", []string{""}},
	"allow_hosts":    {"api.example *.example.com 10.0.0.0/8 [::1]:8443", []string{"", "*", "https://a.example", "*.com", "10.0.0.0/33", `""`}},
	"allow": {"GET,HEAD /drive/v3/* /about", []string{
		"", "GET", "get /x", "GET,,HEAD /x", "*,GET /x", "GET x", "GET /a//b", "GET /a/../b", "GET /a%2Fb", "GET https://a.example/x",
	}},
	"client_key":         {"client.jwk kid-1 PS256", []string{"", `""`, `a ""`, "a b c", "a b HS256", "a b PS256 d"}},
	"assertion_audience": {"https://idp.example/token", []string{"", `""`, "a b"}},
	"refresh_before":     {"5m", []string{"", "5m 5m", "5", "0s", "-1s", "soon"}},
	"default_lifetime":   {"1d", []string{"", "1h 1h", "0", "never"}},
	"timeout":            {"10s", []string{"", "10s 10s", "0s", "10"}},
	"refresh":            {"on_401", []string{"", `""`, "on_401 ahead", "never"}},
	"keep_alive":         {"7d", []string{"", `""`, "7d 7d", "5s", "never", "-1d"}},
	"refresh_token": {"{\n\t\t\t\trotation single_use\n\t\t\t\tgrace 30s\n\t\t\t\tlifetime 90d\n\t\t\t\tidle 30d\n\t\t\t\tconsent 365d\n\t\t\t}", []string{
		"", "90d", "{\n\t\t\t\t}", "{\n\t\t\t\tlifetime\n\t\t\t}", "{\n\t\t\t\tidle 1d 2d\n\t\t\t}", "{\n\t\t\t\tidle 1d\n\t\t\t\tidle 1d\n\t\t\t}",
		"{\n\t\t\t\tlife 1d\n\t\t\t}", "{\n\t\t\t\trotation\n\t\t\t}", "{\n\t\t\t\trotation F\n\t\t\t}", "{\n\t\t\t\trotation static grace\n\t\t\t}",
		"{\n\t\t\t\trotation static\n\t\t\t\trotation static\n\t\t\t}", "{\n\t\t\t\tconsent 0s\n\t\t\t}",
	}},
	"idle_after":            {"2h", []string{"", "2h 2h", "-2h"}},
	"required":              {"", []string{"true"}},
	"insecure_http":         {"", []string{"true"}},
	"forward_authorization": {"", []string{"on"}},
	"client_certificate":    {"client.crt client.key", []string{"", "client.crt", "a b c"}},
	"token_param":           {"account_id 42", []string{"", "account_id", "a b c"}},
	"header": {`X-Token "token {token}"`, []string{
		"", "X-Token {token} {token}", `"X Token"`, `X-Token "{token}{token}"`, "Host", "Connection", "transfer-encoding {token}", "X-Token \"{token}\x01\"",
		`"X-Token" "{token} {token.team}"`, `X-Api ""`, "X-Api a b", `"X Api" a`, "Host a", "keep-alive a", "X-Api \"a\x01\"", "X-Api a\n\t\t\theader x-api b",
	}},
	"param": {"api_version 2", []string{"", "api_version", "a b c", `"" a`}},
	"keep":  {"instance_url team.id", []string{"", `""`, "a..b", "{x}", "refresh_token", "authed_user.access_token", "clientSecret", "a.password_hint"}},
	"test_call": {"GET https://api.example/me {\n\t\t\t\tid id\n\t\t\t}", []string{
		"", "GET", "GET https://api.example/me x", "off x", "off {\n\t\t\t\tid id\n\t\t\t}", "GET https://a.example {\n\t\t\t\tid\n\t\t\t}",
		"GET https://a.example {\n\t\t\t\tid a\n\t\t\t\tid b\n\t\t\t}", "GET https://a.example {\n\t\t\t\tkeep a\n\t\t\t}",
		"GET https://a.example {\n\t\t\t\tkeep a b\n\t\t\t\tkeep a c\n\t\t\t}", "GET https://a.example {\n\t\t\t\tkeep api_token b\n\t\t\t}",
		"GET https://a.example {\n\t\t\t\theader X\n\t\t\t}", "GET https://a.example {\n\t\t\t\tbody a b\n\t\t\t}", "GET https://a.example {\n\t\t\t\tpath x\n\t\t\t}",
		"GET http://api.example/me", "GET https://u:p@api.example/me", "GET {token.url}/me",
	}},
	"field": {"region {\n\t\t\t\tlabel \"Your region\"\n\t\t\t\texample eu\n\t\t\t\trequired\n\t\t\t\tdefault eu\n\t\t\t\tpattern eu|us\n\t\t\t}", []string{
		"", "a b", `""`, "Region", "1region", "api_token", "region {\n\t\t\t\tpattern (\n\t\t\t}", "region {\n\t\t\t\trequired yes\n\t\t\t}", "region {\n\t\t\t\tlabel\n\t\t\t}",
		"region {\n\t\t\t\tlabel a b\n\t\t\t}", "region {\n\t\t\t\tlabel a\n\t\t\t\tlabel b\n\t\t\t}", "region {\n\t\t\t\thint a\n\t\t\t}",
	}},
	"keep_callback":          {"realmId accounts-server", []string{"", `""`, "a b!", "code", "hmac"}},
	"authorization_endpoint": {"https://idp.example/authorize", []string{"", `""`, "https://a.example b", "http://idp.example/authorize", "https://u:p@idp.example/"}},
	"revocation_endpoint":    {"https://idp.example/revoke", []string{"", `""`, "https://a.example b", "http://idp.example/revoke", "ftp://idp.example/"}},
	"issuer":                 {"https://idp.example", []string{"", `""`, "a b"}},
	"subject":                {"{http.auth.user.id}", []string{"", `""`, "a b"}},
	"auth_param":             {"prompt consent", []string{"", "prompt", "a b c"}},
	"provider": {"google", []string{
		"", "google two", "gogle", "google {\n\t\t\t\tregion eu\n\t\t\t}", "microsoft {\n\t\t\t\ttenant\n\t\t\t}", "microsoft {\n\t\t\t\ttenant a b\n\t\t\t}",
		"microsoft {\n\t\t\t\ttenant common\n\t\t\t\ttenant common\n\t\t\t}",
	}},
	"quirks": {"{\n\t\t\t\tpkce off\n\t\t\t}", []string{
		"", "pkce off", "{\n\t\t\t}", "{\n\t\t\t\tpkce\n\t\t\t}", "{\n\t\t\t\tpkce maybe\n\t\t\t}", "{\n\t\t\t\tnone\n\t\t\t}",
		"{\n\t\t\t\tpkce on\n\t\t\t\tpkce on\n\t\t\t}", "{\n\t\t\t\tscope_separator \"\"\n\t\t\t}", "{\n\t\t\t\trefresh_param a\n\t\t\t}",
	}},
	"tls": {"{\n\t\t\t\tca ca.pem\n\t\t\t}", []string{"", "ca.pem", "{\n\t\t\t\tca\n\t\t\t}", "{\n\t\t\t\tinsecure\n\t\t\t}", "{\n\t\t\t\t}"}},
}

// TestConnectionOptions tries every option: right, given twice, and wrong. The error must name the line.
func TestConnectionOptions(t *testing.T) {
	if got, want := slices.Sorted(maps.Keys(optionParsers)), slices.Sorted(maps.Keys(optionArguments)); !slices.Equal(got, want) {
		t.Fatalf("the options are %v, the table has %v", got, want)
	}
	for name, args := range optionArguments {
		t.Run(name, func(t *testing.T) {
			good := name + " " + args.good
			if err := adaptOption(name, good); err != nil {
				t.Errorf("%s: %v", good, err)
			}
			wantOptionError(t, name, good+"\n\t\t\t"+good, "twice")
			for _, bad := range args.bad {
				wantOptionError(t, name, name+" "+bad, "")
			}
		})
	}
}

// adaptOption adapts a connection whose option in question starts on line 4.
func adaptOption(name, line string) error {
	rest := ""
	for required, value := range map[string]string{"token_endpoint": "https://idp.example/token", "client_id": "caddy"} {
		if required != name {
			rest += required + " " + value + "\n"
		}
	}
	_, err := adaptText(fmt.Sprintf("{\n\toauth2_inject {\n\t\tconnection api {\n\t\t\t%s\n%s}\n\t}\n}\n", line, rest))
	return err
}

func wantOptionError(t *testing.T, name, line, text string) {
	t.Helper()
	err := adaptOption(name, line)
	if err == nil {
		t.Errorf("%q was accepted", line)
		return
	}
	first := 4
	last := first + strings.Count(line, "\n")
	for at := first; at <= last; at++ {
		if strings.Contains(err.Error(), fmt.Sprintf("at Caddyfile:%d", at)) && strings.Contains(err.Error(), text) {
			return
		}
	}
	t.Errorf("%q gave %q; want %q and a line from %d to %d", line, err, text, first, last)
}

// TestErrorsWrap checks that parse errors can still be asked for their cause.
func TestErrorsWrap(t *testing.T) {
	t.Parallel()
	d := caddyfile.NewTestDispenser("oauth2_inject {\n unknown\n}")
	if _, err := parseGlobal(d, nil); errors.Unwrap(err) == nil {
		t.Errorf("%v wraps nothing", err)
	}
}
