package caddyoauth_test

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyoauth/caddyoauth"
	"github.com/caddyoauth/caddyoauth/internal/connection"
	"github.com/caddyoauth/caddyoauth/internal/provider"
	"github.com/caddyoauth/caddyoauth/test/providersim"
)

// The tests here take every preset, unchanged, through the life of a connection: a real Caddy, the provider's own URLs over TLS, and at
// the other end a simulator that refuses whatever is not as that provider has documented it.

// wantedScopes are those of providers whose preset has no default, and of some that have sets.
var wantedScopes = map[string][]string{
	"google": {"drive_ro", "sheets"}, "microsoft": {"outlook", "onedrive"}, "slack": {"chat:write", "channels:read"},
	"slack_user": {"search:read", "users:read"}, "shopify": {"read_products", "write_orders"}, "linear": {"read", "write"},
}

// apiAddress has upstreams that are more than a fixed host, as docs/providers says.
var apiAddress = map[string]string{
	"salesforce": "{http.oauth2_inject.host.token.instance_url}:443 {\n header_up Host {http.reverse_proxy.upstream.host}\n transport http {\n tls\n}\n}",
	"quickbooks": "https://quickbooks.api.intuit.com {\n rewrite /v3/company/{http.oauth2_inject.token.realmId}{uri}\n}",
}

// journey is one preset in the running Caddy.
type journey struct {
	*browser
	sim     *providersim.Sim
	name    string // of the connection
	path    string // of the API on the site
	subject string // whose tokens; "" for one account that all share
}

// wants returns what a test asks of a provider.
func wants(name string) providersim.Options {
	options := providersim.Options{Name: name, ClientID: "caddy", Secret: clientSecret, Scopes: wantedScopes[name]}
	if strings.HasPrefix(name, "slack") {
		options.Lifetime = 3 * time.Second // its API does not say 401, so only the clock has a token refreshed
	}
	return options
}

// simulate starts a Caddy with a connection to each of the providers, which have no host in common.
// extra has further options of their connections.
func simulate(t *testing.T, all map[string]providersim.Options, extra map[string]string) map[string]*journey {
	t.Helper()
	journeys, _ := simulateWith(t, all, extra)
	return journeys
}

// simulateWith also returns what the Caddy was started with, for another instance.
func simulateWith(t *testing.T, all map[string]providersim.Options, extra map[string]string) (map[string]*journey, setup) {
	t.Helper()
	journeys := make(map[string]*journey)
	connections, site := "", basicAuth+"oauth2_connect\n"
	for _, name := range slices.Sorted(maps.Keys(all)) {
		options := all[name]
		sim := providersim.New(t, internet, options)
		connections += presetConnection(name, options, extra[name])
		site += apiSite(name, sim)
		journeys[name] = &journey{sim: sim, name: name, path: "/" + name, subject: "alice"}
	}
	with := setup{connections: connections, site: site}
	s := run(t, with)
	for _, j := range journeys {
		j.browser = s.as("alice")
	}
	return journeys, with
}

// apiSite is the part of the site that leads to a provider's API.
func apiSite(name string, sim *providersim.Sim) string {
	return fmt.Sprintf("handle_path /%[1]s/* {\n oauth2_inject %[1]s {\n reverse_proxy %[2]s\n}\n}\n", name, cmp.Or(apiAddress[sim.Row.Name], sim.API()))
}

// presetConnection writes down a connection by a preset. Nothing in it is there for the test.
func presetConnection(name string, options providersim.Options, extra string) string {
	text := "connection " + name + " {\nprovider " + options.Name
	row, _ := provider.Lookup(options.Name)
	if params := providersim.Examples(row); len(params) > 0 {
		text += " {\n"
		for param, value := range params {
			text += param + " " + value + "\n"
		}
		text += "}"
	}
	text += "\nclient_id caddy\nclient_secret " + clientSecret + "\nsubject {http.auth.user.id}\n"
	if len(options.Scopes) > 0 {
		text += "scopes " + strings.Join(options.Scopes, " ") + "\n"
	}
	return text + extra + "}\n"
}

// on has the journey report to another test.
func (j *journey) on(t *testing.T) *journey {
	t.Helper()
	s := &site{t: t, addr: j.addr, client: j.client, idp: j.idp, dir: j.dir, loaded: j.loaded}
	t.Cleanup(func() {
		for _, line := range leaks(s.seen.String()) {
			t.Errorf("a client saw a secret: %s", line)
		}
	})
	return &journey{sim: j.sim, name: j.name, path: j.path, subject: j.subject, browser: s.as("alice")}
}

// consent goes to the provider by way of that path, and returns the way back: path and query; "" when the provider lets nobody back.
func (j *journey) consent(path string) string {
	j.t.Helper()
	a := j.open(path)
	if a.status != http.StatusSeeOther {
		j.t.Fatalf("got %d %q, want the way to the provider", a.status, a.body)
	}
	resp, err := internet.Client().Get(a.header.Get("Location"))
	if err != nil {
		j.t.Fatal(err)
	}
	resp.Body.Close()
	back, err := url.Parse(resp.Header.Get("Location"))
	if err != nil || back.Host != j.addr {
		return ""
	}
	return back.RequestURI()
}

// authorize goes to the provider and back.
func (j *journey) authorize() {
	j.t.Helper()
	j.open(j.consent("/connect/authorize/"+j.name)).wantTo(j.t, "/connect/done/"+j.name)
	view, err := j.app().View(j.t.Context(), caddyoauth.Ref{Connection: j.name, Subject: j.subject})
	if j.sim.Row.TestCall.URL != "" && (err != nil || view.AccountID == "" || view.Label == "") {
		j.t.Errorf("the test call found the account %q, %q, %v", view.AccountID, view.Label, err)
	}
}

// call calls the API as a client that brings no headers of its own.
func (j *journey) call() answer {
	j.t.Helper()
	return j.visit(http.MethodGet, j.path+"/v1/things", "User-Agent: ")
}

// is wants the connection in a state, and nothing granted to be missing while it works.
func (j *journey) is(status connection.Status) {
	j.t.Helper()
	view, err := j.app().View(j.t.Context(), caddyoauth.Ref{Connection: j.name, Subject: j.subject})
	if err != nil || view.Status != string(status) {
		j.t.Errorf("the connection is %q, %v; want %q", view.Status, err, status)
	}
	if _, preset := provider.Lookup(j.sim.Row.Name); preset && status == connection.StatusActive && (view.AccountID == "" || view.Label != "Jane's account") {
		j.t.Errorf("the account is %q, called %q", view.AccountID, view.Label)
	}
	if status == connection.StatusActive && (len(view.Missing) > 0 || len(view.Granted) == 0 && len(j.sim.Scopes()) > 0) {
		j.t.Errorf("granted is %q, missing %q", view.Granted, view.Missing)
	}
}

// works calls the API and wants its answer.
func (j *journey) works() {
	j.t.Helper()
	j.call().want(j.t, http.StatusOK, " answers GET /v1/things")
	j.is(connection.StatusActive)
}

// asks waits until the API cannot be called without the person, and wants them to be told where to go.
func (j *journey) asks() {
	j.t.Helper()
	eventually(j.t, "a request that is refused until the person connects", func() bool { return j.call().status == http.StatusForbidden })
	j.call().want(j.t, http.StatusForbidden, `"authorize_url":"/connect/authorize/`+j.name)
}

// live is the whole life of a connection.
func (j *journey) live() {
	j.t.Helper()
	j.asks()
	j.authorize()
	j.works()
	j.withdrawn()
	j.authorize()
	j.works()
	j.refreshed()
	j.ended()
	j.authorize()
	j.works()
}

// withdrawn: the person withdraws their consent at the provider, which is noticed at the next refresh.
func (j *journey) withdrawn() {
	j.t.Helper()
	j.sim.Withdraw()
	j.call()
	j.asks()
	j.is(connection.StatusRevoked)
	if refusals := j.sim.Counts().Refusals; refusals != 1 {
		j.t.Errorf("the provider was asked %d times with a refresh token that it had ended", refusals)
	}
}

// refreshed: the access token dies before its time, or of age where the API never says so, and nobody notices.
func (j *journey) refreshed() {
	j.t.Helper()
	before := j.sim.Counts().Refreshes
	if strings.HasPrefix(j.name, "slack") {
		eventually(j.t, "a refresh", func() bool { return j.call().status == http.StatusOK && j.sim.Counts().Refreshes > before })
		j.works()
		return
	}
	j.sim.Expire()
	j.works()
	if counts := j.sim.Counts(); counts.Refreshes != before+1 || counts.Replays != 0 {
		j.t.Errorf("after one dead token: %+v", counts)
	}
}

// ended: the person disconnects, which the provider is told of if that ends this one connection and nothing else.
func (j *journey) ended() {
	j.t.Helper()
	if a := j.visit(http.MethodPost, "/connect/disconnect/"+j.name); a.status >= http.StatusBadRequest {
		j.t.Fatalf("disconnecting gave %d", a.status)
	}
	told, living := 0, 1
	if j.sim.Documented() {
		told, living = 1, 0
	}
	if got := j.sim.Counts().Revocations; got != told || j.sim.Living() != living {
		j.t.Errorf("the provider was told %d times, %d consents live; want %d and %d", got, j.sim.Living(), told, living)
	}
	j.asks()
}

// neighbours are providers at the hosts of another one; they cannot be simulated beside it.
var neighbours = map[string]bool{"slack_user": true, "stripe_apps": true, "oidc": true}

// TestProviders takes each preset through connect, inject, revoke, reconnect, refresh, disconnect and reconnect.
func TestProviders(t *testing.T) {
	rounds := []map[string]providersim.Options{{}, {}}
	for _, name := range provider.Names() {
		round := 0
		if neighbours[name] {
			round = 1 // at the hosts of another one
		}
		rounds[round][name] = wants(name)
	}
	for _, round := range rounds {
		t.Run("", func(t *testing.T) { atOnce(t, simulate(t, round, nil), (*journey).live) })
	}
}

// atOnce runs a subtest for each journey, all of them at the same time: they mostly wait.
func atOnce(t *testing.T, journeys map[string]*journey, test func(*journey)) {
	t.Helper()
	var all sync.WaitGroup
	for name, j := range journeys {
		all.Go(func() { t.Run(name, func(t *testing.T) { test(j.on(t)) }) })
	}
	all.Wait()
}

// forgotten: somebody has replaced the client's secret at the provider, and a day later here. No consent is lost meanwhile.
func (j *journey) forgotten(correct func()) {
	j.t.Helper()
	j.authorize()
	j.works()
	j.sim.Forget(true)
	if !strings.HasPrefix(j.name, "slack") {
		j.sim.Expire()
	}
	eventually(j.t, "the refusal of the client", func() bool {
		j.call()
		view, err := j.app().View(j.t.Context(), caddyoauth.Ref{Connection: j.name, Subject: j.subject})
		return err == nil && view.Status == string(connection.StatusMisconfigured)
	})
	j.sim.Forget(false)
	correct()
	eventually(j.t, "a refresh with the right secret", func() bool { return j.call().status == http.StatusOK && j.sim.Counts().Refreshes > 0 })
	j.works()
	if counts := j.sim.Counts(); counts.Codes != 1 || counts.Replays > 0 || j.sim.Living() != 1 {
		j.t.Errorf("a wrong secret has cost a consent: %+v", counts)
	}
}

// TestForgottenClient: every provider refuses a client in words of its own, and none of them may be taken for the end of a consent.
func TestForgottenClient(t *testing.T) {
	all := make(map[string]providersim.Options)
	for _, name := range provider.Names() {
		if !neighbours[name] {
			all[name] = wants(name)
		}
	}
	journeys := simulate(t, all, nil)
	var waiting sync.WaitGroup
	waiting.Add(len(journeys))
	reload := sync.OnceFunc(func() { waiting.Wait(); journeys["google"].reload() })
	atOnce(t, journeys, func(j *journey) {
		done := sync.OnceFunc(waiting.Done)
		defer done()
		j.forgotten(func() { done(); reload() })
	})
}

// TestRevocationRadius: two people of this site have connected the same account, and one of them disconnects. Where the provider ends all
// that the app has of that account, the other one is asked to connect again.
func TestRevocationRadius(t *testing.T) {
	all := map[string]providersim.Options{"google": wants("google"), "gitlab": wants("gitlab"), "microsoft": wants("microsoft"), "dropbox": wants("dropbox")}
	atOnce(t, simulate(t, all, nil), func(j *journey) {
		bob := &journey{browser: j.as("bob"), sim: j.sim, name: j.name, path: j.path, subject: "bob"}
		j.authorize()
		bob.authorize()
		bob.works()
		if a := j.visit(http.MethodPost, "/connect/disconnect/"+j.name); a.status >= http.StatusBadRequest {
			j.t.Fatalf("disconnecting gave %d", a.status)
		}
		j.asks()
		if j.sim.Row.Revocation.Kills == provider.KillsGrant {
			bob.call()
			bob.asks()
			return
		}
		bob.works()
	})
}

// endless is the life of a token that has no end and nothing to refresh it with: it is good until the API says otherwise.
func (j *journey) endless() {
	j.t.Helper()
	j.authorize()
	j.works()
	if !strings.HasPrefix(j.name, "slack") { // whose API never says so
		j.sim.Withdraw()
		j.call().want(j.t, http.StatusUnauthorized, "") // the API has the last word, since there is nothing to ask anybody else with
		j.is(connection.StatusAuthorizationRequired)
		j.authorize()
		j.works()
	}
	j.ended()
	if counts := j.sim.Counts(); counts.Refreshes+counts.Refusals+counts.Replays > 0 {
		j.t.Errorf("there was nothing to refresh: %+v", counts)
	}
}

// TestEndlessTokens: providers that leave it to the app whether tokens end.
func TestEndlessTokens(t *testing.T) {
	all := make(map[string]providersim.Options)
	for _, name := range provider.Names() {
		row, _ := provider.Lookup(name)
		if row.NoExpiryMeansUnlimited && name != "slack_user" {
			options := wants(name)
			options.Endless, options.Lifetime = true, 24*time.Hour
			all[name] = options
		}
	}
	atOnce(t, simulate(t, all, nil), (*journey).endless)
}

// TestConfigurableRotation: where an administrator decides, the strictest choice is assumed, and the mildest ones work as well: an answer
// without a refresh token leaves the old one in force.
func TestConfigurableRotation(t *testing.T) {
	for class, what := range map[provider.RotationClass]string{provider.RotationStatic: "static", provider.RotationOverlapping: "overlapping"} {
		t.Run(what, func(t *testing.T) {
			all := make(map[string]providersim.Options)
			for _, name := range provider.Names() {
				if row, _ := provider.Lookup(name); row.RotationConfigurable && !neighbours[name] {
					options := wants(name)
					options.Rotation, options.Lifetime = class, time.Hour
					all[name] = options
				}
			}
			atOnce(t, simulate(t, all, nil), func(j *journey) {
				j.authorize()
				for range 3 {
					if _, err := j.app().Refresh(j.t.Context(), caddyoauth.Ref{Connection: j.name, Subject: j.subject, By: "test"}); err != nil {
						j.t.Fatal(err)
					}
					j.works()
				}
				if counts := j.sim.Counts(); counts.Refreshes != 3 || counts.Refusals+counts.Replays > 0 {
					j.t.Errorf("after three refreshes: %+v", counts)
				}
			})
		})
	}
}
