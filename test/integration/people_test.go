//go:build integration

package integration

import (
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/caddyoauth/caddyoauth/test/lab"
)

// person is somebody with a browser. The site knows them by a header, as it would behind forward_auth.
type person struct {
	t      *testing.T
	name   string
	site   string // host and port
	client *http.Client
}

func newPerson(t *testing.T, name, site string) *person {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	p := &person{t: t, name: name, site: site}
	p.client = &http.Client{Jar: jar, Transport: p, Timeout: 20 * time.Second}
	return p
}

// RoundTrip implements http.RoundTripper: it tells the site, and nobody else, who this is.
func (p *person) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Host == p.site {
		r.Header.Set("X-User", p.name)
	}
	return http.DefaultTransport.RoundTrip(r)
}

// visit follows a link and returns where it led.
func (p *person) visit(link string) (status int, body string, at *url.URL) {
	p.t.Helper()
	resp, err := p.client.Get(link)
	if err != nil {
		p.t.Fatal(err)
	}
	return p.read(resp)
}

func (p *person) read(resp *http.Response) (int, string, *url.URL) {
	p.t.Helper()
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return resp.StatusCode, string(body), resp.Request.URL
}

var (
	formAction = regexp.MustCompile(`<form[^>]* action="([^"]+)"`)
	formHidden = regexp.MustCompile(`<input type="hidden" name="([^"]+)" value="([^"]*)"`)
)

// submit sends the first form of a page with these fields besides its hidden ones.
func (p *person) submit(page string, at *url.URL, fields url.Values) (int, string, *url.URL) {
	p.t.Helper()
	action := formAction.FindStringSubmatch(page)
	if action == nil {
		p.t.Fatalf("there is no form at %s", at.Path)
	}
	for _, hidden := range formHidden.FindAllStringSubmatch(page, -1) {
		fields.Set(hidden[1], html.UnescapeString(hidden[2]))
	}
	to, err := at.Parse(html.UnescapeString(action[1]))
	if err != nil {
		p.t.Fatal(err)
	}
	resp, err := p.client.PostForm(to.String(), fields)
	if err != nil {
		p.t.Fatal(err)
	}
	return p.read(resp)
}

// connect goes the whole way: to the provider, through its pages, and back.
func (p *person) connect(link string) (status int, body string, at *url.URL) {
	p.t.Helper()
	_, body, at = p.visit(link)
	if strings.Contains(body, `name="login"`) {
		_, body, at = p.submit(body, at, url.Values{"login": {p.name}, "password": {"any"}})
	}
	return p.submit(body, at, url.Values{})
}

// peopleSite is a site whose visitors connect their own accounts.
func peopleSite(op *lab.OP, address, api string) (string, string) {
	config := global(connection("drive",
		"authorization_endpoint "+op.Issuer()+"/auth", "token_endpoint "+op.TokenEndpoint(), "issuer "+op.Issuer(),
		"client_id "+lab.ClientWeb, "client_secret "+lab.Secret, "scopes openid offline_access api:read",
		"auth_param prompt consent", "subject {http.request.header.X-User}"))
	site := fmt.Sprintf("http://%s {\n\toauth2_connect {\n\t\tidentity {http.request.header.X-User}\n\t}\n\toauth2_inject drive {\n\t\treverse_proxy %s\n\t}\n}\n", address, api)
	return config, site
}

// TestPersonConnects: from the refused request to the Connect button, the provider's pages and back; then many refreshes that
// rotate under load, a restart, the withdrawn consent, and the way back from there.
func TestPersonConnects(t *testing.T) {
	t.Parallel()
	address := freeAddress(t)
	op := lab.StartOP(t, lab.Options{AccessTokenTTL: 3 * time.Second, RedirectURIs: []string{"http://" + address + "/connect/callback"}})
	api, dir := startUpstream(t), t.TempDir()
	config, site := peopleSite(op, address, api.address())
	caddy := start(t, dir, config, site)
	jane, joe := newPerson(t, "jane", address), newPerson(t, "joe", address)
	home := "http://" + address + "/files?page=2"

	status, body, _ := jane.visit(home)
	link := regexp.MustCompile(`"authorize_url":"([^"]+)"`).FindStringSubmatch(body)
	if status != http.StatusForbidden || link == nil {
		t.Fatalf("before connecting: status %d, %s", status, body)
	}
	if status, body, at := jane.connect("http://" + address + link[1]); status != http.StatusOK || at.String() != home {
		t.Fatalf("after connecting: status %d at %s: %.300s", status, at.Path, body)
	}
	if status, _, _ := joe.visit(home); status != http.StatusForbidden {
		t.Fatalf("joe has never connected and gets status %d", status)
	}
	if _, body, _ := jane.visit("http://" + address + "/connect"); !strings.Contains(body, "Connected</strong>") {
		t.Error("the list does not say that jane is connected")
	}

	for round := range 2 { // with a restart in between
		deadline := time.Now().Add(12 * time.Second)
		for time.Now().Before(deadline) {
			if status, _, _ := jane.visit(home); status != http.StatusOK {
				t.Fatalf("round %d: status %d", round, status)
			}
			time.Sleep(5 * time.Millisecond)
		}
		if round == 0 {
			caddy.Stop(t)
			caddy = start(t, dir, config, site)
		}
	}
	stats := op.Stats(t)
	t.Logf("%d tokens, %d token requests", len(api.distinct()), stats.TokenRequests())
	if refused := stats.Outcome(lab.ClientWeb, "400"); refused > 0 || stats.Events["grant.revoked"] > 0 || len(api.distinct()) < 8 {
		t.Errorf("%d tokens, %d refused refreshes, %d revoked grants; want many, none, none", len(api.distinct()), refused, stats.Events["grant.revoked"])
	}

	op.SetFaults(t, lab.Fault{Status: 400, Headers: map[string]string{"Content-Type": "application/json"}, Body: `{"error":"invalid_grant"}`})
	eventually(t, "the withdrawn consent is seen", func() error {
		if status, _, _ := jane.visit(home); status != http.StatusForbidden {
			return fmt.Errorf("status %d", status)
		}
		return nil
	})
	if _, body, _ := jane.visit("http://" + address + "/connect"); !strings.Contains(body, "Needs you again") {
		t.Error("the list does not say that jane is needed")
	}
	op.Reset(t)
	if status, _, at := jane.connect("http://" + address + link[1]); status != http.StatusOK || at.String() != home {
		t.Errorf("after connecting again: status %d at %s", status, at.Path)
	}
	caddy.Stop(t)
	caddy.KeepsSecrets(t, append(api.distinct(), lab.Secret)...)
}

// TestPersonDenies: who cancels at the provider is told so, and nothing is connected.
func TestPersonDenies(t *testing.T) {
	t.Parallel()
	address := freeAddress(t)
	op := lab.StartOP(t, lab.Options{RedirectURIs: []string{"http://" + address + "/connect/callback"}})
	api := startUpstream(t)
	config, site := peopleSite(op, address, api.address())
	start(t, t.TempDir(), config, site)
	jane := newPerson(t, "jane", address)
	_, body, at := jane.visit("http://" + address + "/connect/authorize/drive")
	abort := regexp.MustCompile(`href="([^"]*/abort)"`).FindStringSubmatch(body)
	if abort == nil {
		t.Fatalf("the provider offers no way to cancel at %s", at.Path)
	}
	to, err := at.Parse(abort[1])
	if err != nil {
		t.Fatal(err)
	}
	status, body, _ := jane.visit(to.String())
	if status != http.StatusForbidden || !strings.Contains(body, "access_denied") || !strings.Contains(body, "Nothing was connected") {
		t.Errorf("status %d: %.300s", status, body)
	}
	if status, _, _ := jane.visit("http://" + address + "/"); status != http.StatusForbidden {
		t.Errorf("after denying: status %d", status)
	}
}
