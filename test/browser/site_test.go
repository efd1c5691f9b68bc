//go:build integration

package browser

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/caddyoauth/caddyoauth/internal/envelope"
	"github.com/caddyoauth/caddyoauth/test/lab"
)

// site is what the browser comes to: Caddy with HTTPS on localhost. The authorization server is at 127.0.0.1, which is another site
// to a browser, so that cookies meet the rules that they meet in the wild.
type site struct {
	url   string
	dir   string // storage, keys, logs
	op    *lab.OP
	caddy *lab.Caddy
	api   *httptest.Server

	global string // options of the Caddyfile
	more   string // further directives of the site

	mu      sync.Mutex // guards what follows
	tokens  []string   // distinct, as they came to the API
	watches []*watch   // over all tabs that have been open
	known   []string   // what the storage has kept from everybody
	ring    *envelope.KeyRing
}

// newSite starts a site that knows its visitors by the cookie `user`.
func newSite(t *testing.T) *site { t.Helper(); return startSite(t, (*site).connections) }

// startSite is newSite with these connections; there must be one that is called drive.
func startSite(t *testing.T, connections func(*site) string) *site {
	t.Helper()
	return startSiteAt(t, lab.Options{}, connections)
}

// startSiteAt is startSite with an authorization server of that kind.
func startSiteAt(t *testing.T, options lab.Options, connections func(*site) string) *site {
	t.Helper()
	_, port, err := net.SplitHostPort(lab.FreeAddress(t))
	if err != nil {
		t.Fatal(err)
	}
	s := &site{url: "https://localhost:" + port, dir: t.TempDir()}
	t.Cleanup(func() { s.learn(t); s.knowsNothing(t) }) // when everybody has left
	options.RedirectURIs = []string{s.url + "/connect/callback"}
	s.op = lab.StartOP(t, options)
	s.api = httptest.NewServer(http.HandlerFunc(s.serveAPI))
	t.Cleanup(s.api.Close)
	s.global = "oauth2_inject {\n\t\tencryption passphrase \"" + passphrase + "\"\n" + connections(s) + "\t}\n"
	s.caddy = lab.StartCaddy(t, s.dir, s.global, s.sites())
	return s
}

// serveAPI is what the site stands in front of. Its answers hold no token.
func (s *site) serveAPI(w http.ResponseWriter, r *http.Request) {
	token, found := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	if !found {
		w.WriteHeader(http.StatusUnauthorized)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if found && !slices.Contains(s.tokens, token) {
		s.tokens = append(s.tokens, token)
	}
	fmt.Fprintf(w, `<!doctype html><html lang="en"><title>Files</title><link rel="icon" href="data:,"><h1>The API at %s</h1>`, r.URL.Path)
}

// seen returns the tokens that came to the API.
func (s *site) seen() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.tokens)
}

// connection writes down one that people authorize at the lab's server.
func (s *site) connection(name string, options ...string) string {
	lines := append([]string{
		"authorization_endpoint " + s.op.Issuer() + "/auth", "issuer " + s.op.Issuer(), "revocation_endpoint " + s.op.Issuer() + "/token/revocation",
		"client_id " + lab.ClientWeb, "auth_param prompt consent",
	}, options...)
	return fmt.Sprintf("\t\tconnection %s {\n\t\t\t%s\n\t\t}\n", name, strings.Join(lines, "\n\t\t\t"))
}

// What most connections here say.
const (
	ofPerson = "subject {http.request.cookie.user}"
	scopes   = "scopes openid offline_access api:read"
	secret   = "client_secret " + lab.Secret
)

// passphrase seals what the sites store.
const passphrase = "a passphrase of the browser tests"

// connections are one that works, one account for all, and some that have something wrong with them.
func (s *site) connections() string {
	token := "token_endpoint " + s.op.TokenEndpoint()
	return s.connection("drive", token, secret, ofPerson, scopes) +
		s.connection("team", token, secret, scopes) +
		s.connection("shop", token, secret, ofPerson, scopes, "field region {\n\t\t\t\tlabel Region\n\t\t\t\trequired\n\t\t\t\texample eu\n\t\t\t\tpattern eu|us\n\t\t\t}", "auth_param region {field.region}") +
		s.connection("wrong-secret", token, "client_secret wrong", ofPerson, scopes) +
		s.connection("wrong-scope", token, secret, ofPerson, "scopes api:admin") +
		s.connection("down", "token_endpoint http://127.0.0.1:9/token", secret, ofPerson, scopes)
}

// showcase are connections as a site may have them: presets, of which all but the words lead to the lab's server.
func (s *site) showcase() string {
	preset := func(name, provider string, more ...string) string {
		lines := append([]string{
			"provider " + provider, "token_endpoint " + s.op.TokenEndpoint(), secret, "client_auth client_secret_basic", scopes, "allow_hosts 127.0.0.1",
			"test_call GET " + s.op.Issuer() + "/me {\n\t\t\t\tid sub\n\t\t\t\tlabel sub\n\t\t\t}",
		}, more...)
		return s.connection(name, lines...)
	}
	return preset("drive", "google", ofPerson) + preset("crm", "salesforce", ofPerson) + preset("code", "github")
}

func (s *site) sites() string {
	cert, key := s.op.Cert("server")
	return fmt.Sprintf(`%s {
	bind 127.0.0.1
	tls %s %s
	log {
		output file %s
	}
	%s
	oauth2_connect {
		identity {http.request.cookie.user}
	}
	oauth2_inject /straight/* drive {
		redirect_to_connect
		reverse_proxy %[6]s
	}
	@api not path /plain
	oauth2_inject @api drive {
		reverse_proxy %[6]s
	}
	header /plain Content-Type text/html
	respond /plain "<title>A page without a policy</title>"
}
`, s.url, cert, key, filepath.Join(s.dir, "access.log"), s.more, strings.TrimPrefix(s.api.URL, "http://"))
}

// accessLog returns what the site has logged of requests.
func (s *site) accessLog(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(s.dir, "access.log"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestPages runs the tests that need no site of their own: people on one site are strangers to each other.
func TestPages(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for name, test := range map[string]func(*testing.T, *site){
		"Deny":              testDeny,
		"Fields":            testFields,
		"Reconnect":         testReconnect,
		"SharedAccount":     testSharedAccount,
		"ProviderRefuses":   testProviderRefuses,
		"WrongPerson":       testWrongPerson,
		"TwoTabs":           testTwoTabs,
		"Cookie":            testCookie,
		"Inspection":        testInspection,
		"RedirectToConnect": testRedirectToConnect,
		"Keyboard":          testKeyboard,
		"CrossSiteLink":     testCrossSiteLink,
		"CrossSiteForm":     testCrossSiteForm,
		"Framing":           testFraming,
		"LoginCSRF":         testLoginCSRF,
		"CookieTossing":     testCookieTossing,
		"Overheard":         testOverheard,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, s)
		})
	}
}
