// Package providersim acts out the authorization servers and APIs that internal/provider describes, for tests.
//
// A [Sim] is one provider. It takes the row of the table and plays the other side of it: authorization endpoint, token endpoint
// with the row's rotation class, revocation, and an API that wants the token and its companions as the row says; acts.go adds how
// that provider words its answers. It is strict: what is not as documented is refused as that provider would, and fails the test
// with the provider and the fact. Nothing in here is shared with the code under test but the table itself.
//
// The [Internet] gives all hosts of the table to their simulators, over TLS with an authority of its own and behind an HTTP proxy,
// so that a test uses a preset exactly as it is: no URL, no host name and no check of a certificate is different.
//
// It imports the standard library and internal/provider.
package providersim

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/provider"
)

// Options say which client the provider knows, and what it has agreed with it.
type Options struct {
	Name     string
	Row      *provider.Provider // instead of the table's, with nothing left to be filled in
	Params   map[string]string  // default: their examples
	ClientID string
	Secret   string // begins every token as well, so that a search for it finds them
	Scopes   []string
	// Endless: an app whose tokens have no end and no refresh token, where the provider leaves that to the app.
	Endless  bool
	Lifetime time.Duration          // of access tokens; default: as documented
	Grace    time.Duration          // default: the row's
	Rotation provider.RotationClass // default: the row's; where an administrator decides, what they chose

	ExpiresIn func(seconds int) any // how expires_in is written; default: as a number
	Faults    testing.TB            // is told what is not as documented, instead of the test
}

// Sim is one provider: its servers and its state.
type Sim struct {
	Row  *provider.Provider // with its parameters filled in
	opts Options
	act  act
	t    testing.TB

	mu       sync.Mutex // guards what follows
	consents []*consent
	codes    map[string]*code
	access   map[string]*accessToken
	refresh  map[string]*refreshToken
	issued   int
	counts   Counts
	down     bool // the revocation endpoint
	stranger bool // the client's secret is another one by now
	lose     int  // how many answers to refreshes get lost on the way
	redirect string
}

// Counts are what a provider has seen.
type Counts struct {
	Authorizations int // requests to the authorization endpoint
	Codes          int // codes exchanged
	Refreshes      int // refreshes granted
	Replays        int // refresh tokens sent again after they were replaced
	Lost           int // refreshes granted whose answer got lost
	Refusals       int // refreshes refused
	Revocations    int // requests to the revocation endpoint that were good
	API            int // API calls that were good
	Unauthorized   int // API calls with a dead token
}

// New starts a provider. Its hosts are served until the test ends.
func New(t testing.TB, net *Internet, opts Options) *Sim {
	t.Helper()
	s := &Sim{
		opts: opts, act: acts[opts.Name], t: cmp.Or(opts.Faults, t),
		codes: make(map[string]*code), access: make(map[string]*accessToken), refresh: make(map[string]*refreshToken),
	}
	row := opts.Row
	if row == nil {
		row, _ = provider.Lookup(opts.Name)
	}
	if row == nil {
		t.Fatalf("there is no provider %q", opts.Name)
	}
	if s.opts.Params == nil {
		s.opts.Params = Examples(row)
	}
	s.Row = row
	if opts.Row == nil {
		expanded, err := row.Expand(s.opts.Params)
		if err != nil {
			t.Fatal(err)
		}
		s.Row = expanded
	}
	if s.act.discovers {
		s.discoverable()
	}
	s.opts.Lifetime = cmp.Or(s.opts.Lifetime, s.Row.AccessLifetime, time.Hour)
	s.opts.Grace = cmp.Or(s.opts.Grace, time.Duration(s.Row.GraceSeconds)*time.Second)
	s.opts.Rotation = cmp.Or(s.opts.Rotation, s.Row.Rotation)
	net.serve(t, s)
	return s
}

// Examples are values for a provider's parameters: the examples of the table, where there is no default.
func Examples(row *provider.Provider) map[string]string {
	params := make(map[string]string)
	for _, param := range row.Params {
		if param.Default == "" {
			params[param.Name] = param.Example
		}
	}
	return params
}

// Counts returns what the provider has seen so far.
func (s *Sim) Counts() Counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts
}

// Down takes the revocation endpoint down, or up again.
func (s *Sim) Down(down bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = down
}

// Forget has the provider take the client for a stranger, as after its secret was replaced; or know it again.
func (s *Sim) Forget(client bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stranger = client
}

// Lose has the answers to the next refreshes get lost on their way: the provider has done what was asked, and the client cannot know.
func (s *Sim) Lose(answers int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lose = answers
}

// API is the URL of the provider's API as an upstream; of the own API that tokens are for, where the provider has none.
func (s *Sim) API() string { return "https://" + s.apiHost() }

func (s *Sim) apiHost() string {
	switch {
	case s.act.apiHost != "":
		return s.act.apiHost
	case len(s.Row.APIHosts) == 0:
		return "api." + strings.ReplaceAll(s.opts.Name, "_", "-") + ".example"
	}
	return s.Row.APIHosts[0]
}

// Documented reports whether the provider has an endpoint that ends one connection and no more.
func (s *Sim) Documented() bool {
	return s.Row.RevocationEndpoint != "" && (s.Row.Revocation.Kills == provider.KillsToken || s.Row.Revocation.Kills == provider.KillsGrant)
}

// fault fails the test: something was not as the provider has documented it.
func (s *Sim) fault(fact, format string, args ...any) {
	s.t.Errorf("%s, %s: %s", s.opts.Name, fact, strings.ReplaceAll(fmt.Sprintf(format, args...), s.opts.Secret, "<SECRET>"))
}

// hosts are all that the provider answers at.
func (s *Sim) hosts() []string {
	hosts := []string{s.apiHost()}
	for _, host := range s.Row.APIHosts {
		if !strings.Contains(host, "*") {
			hosts = append(hosts, host)
		}
	}
	for _, raw := range []string{
		s.Row.AuthorizationEndpoint, s.Row.TokenEndpoint, s.Row.RefreshEndpoint, s.Row.RevocationEndpoint, s.Row.TestCall.URL, s.Row.Issuer,
	} {
		if u, err := url.Parse(raw); err == nil && u.Host != "" {
			hosts = append(hosts, u.Host)
		}
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

// ServeHTTP finds out what was asked for, by host and path alone.
func (s *Sim) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := "https://" + r.Host + r.URL.Path
	switch at {
	case s.Row.AuthorizationEndpoint:
		s.authorize(w, r)
	case s.Row.TokenEndpoint, s.Row.RefreshEndpoint:
		s.token(w, r, at)
	case strings.ReplaceAll(s.Row.RevocationEndpoint, "{client_id}", s.opts.ClientID):
		s.revoke(w, r)
	case strings.TrimSuffix(s.Row.Issuer, "/") + "/.well-known/openid-configuration":
		s.metadata(w, r)
	default:
		s.api(w, r)
	}
}
