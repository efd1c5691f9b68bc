package caddyoauth_test

import (
	"fmt"
	"html"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

// basicAuth is a site's authentication: everybody here has the password "open sesame".
const basicAuth = `basic_auth {
	alice $2a$04$FOvSlwF5xWTpNlK5iWAu0eBCEooL4NKTHzhlMT9drTpVOl7Q7.qxC
	bob $2a$04$FOvSlwF5xWTpNlK5iWAu0eBCEooL4NKTHzhlMT9drTpVOl7Q7.qxC
}
`

// peopleSite is a running Caddy whose visitors connect their accounts at an authorization server.
type peopleSite struct {
	*site
	auth *authServer
	up   *upstream
}

// runPeople starts the site. options are further ones of the connection "drive".
func runPeople(t *testing.T, options string) *peopleSite {
	t.Helper()
	p := &peopleSite{auth: newAuthServer(t), up: newUpstream(t, nil)}
	p.site = run(t, setup{
		connections: p.auth.connection("drive", options),
		site:        basicAuth + "oauth2_connect\noauth2_inject drive {\n reverse_proxy " + p.up.url + "\n}\n",
	})
	return p
}

// connection writes down a connection of people at the server.
func (a *authServer) connection(name, options string) string {
	return fmt.Sprintf(`connection %s {
		token_endpoint %[2]s/token
		authorization_endpoint %[2]s/authorize
		revocation_endpoint %[2]s/revoke
		client_id caddy
		client_secret %[3]s
		subject {http.auth.user.id}
		%[4]s
	}
	`, name, a.URL, clientSecret, options)
}

// browser is one person's browser: it signs in, keeps cookies, and follows no redirect by itself.
type browser struct {
	*site
	user    string
	cookies map[string]string
}

func (s *site) as(user string) *browser {
	return &browser{site: s, user: user, cookies: make(map[string]string)}
}

// visit sends a request and keeps the cookies that come back.
func (b *browser) visit(method, path string, headers ...string) answer {
	b.t.Helper()
	return b.send(b.request(method, path, nil, headers...))
}

// send sends a request as this person, in this browser.
func (b *browser) send(req *http.Request) answer {
	b.t.Helper()
	if b.user != "" {
		req.SetBasicAuth(b.user, "open sesame")
	}
	for name, value := range b.cookies {
		req.AddCookie(&http.Cookie{Name: name, Value: value})
	}
	a := b.do(req)
	for _, line := range a.header.Values("Set-Cookie") {
		if cookie, err := http.ParseSetCookie(line); err == nil {
			b.cookies[cookie.Name] = cookie.Value
		}
	}
	return a
}

func (b *browser) open(path string) answer { b.t.Helper(); return b.visit(http.MethodGet, path) }

// consent goes to the authorization server by way of that path, and returns the way back from there: path and query.
func (b *browser) consent(path string) string {
	b.t.Helper()
	a := b.open(path)
	if a.status != http.StatusSeeOther {
		b.t.Fatalf("%s: got %d %q, want the way to the provider", path, a.status, a.body)
	}
	return b.follow(a.header.Get("Location"))
}

// follow opens a page at the authorization server and returns where it sends the browser: path and query.
func (b *browser) follow(location string) string {
	b.t.Helper()
	resp, err := b.client.Get(location)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	back, err := url.Parse(resp.Header.Get("Location"))
	if err != nil || back.Host != b.addr {
		b.t.Fatalf("the provider sends people to %q, %v", back, err)
	}
	return back.RequestURI()
}

// connect connects and returns the answer to the callback.
func (b *browser) connect(path string) answer { b.t.Helper(); return b.open(b.consent(path)) }

const (
	toDrive   = "/connect/authorize/drive"
	endDrive  = "/connect/disconnect/drive"
	doneDrive = "/connect/done/drive"
	connected = "<strong>Connected</strong>"
)

// wantTo fails the test unless the answer is a redirect to that place.
func (a answer) wantTo(t *testing.T, location string) {
	t.Helper()
	if a.status != http.StatusSeeOther || a.header.Get("Location") != location {
		t.Fatalf("got %d to %q, want the way to %q: %s", a.status, a.header.Get("Location"), location, a.body)
	}
}

// stored returns how many files below the part of the storage that has records, and fails on a secret that is not sealed.
func (p *peopleSite) stored(part string) int {
	p.t.Helper()
	count := 0
	err := filepath.WalkDir(p.dir, func(file string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := os.ReadFile(file)
		if strings.Contains(string(text), seed) {
			p.t.Errorf("%s holds a secret", file)
		}
		if strings.Contains(filepath.ToSlash(file), part) {
			count++
		}
		return err
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return count
}

// TestConnectJourney is one person's way from "you are not connected" to the API's answer.
func TestConnectJourney(t *testing.T) {
	p := runPeople(t, "scopes files.read openid\nauth_param prompt consent")
	alice, bob := p.as("alice"), p.as("bob")
	a := alice.open("/files?q=1&x=%2F")
	a.want(t, http.StatusForbidden, `"authorize_url":"/connect/authorize/drive?return_to=%2Ffiles%3Fq%3D1%26x%3D%252F"`)
	if kind := a.header.Get("Content-Type"); kind != "application/problem+json" {
		t.Errorf("the problem is of type %q", kind)
	}
	page := alice.visit(http.MethodGet, "/files?q=1", "Accept: text/html")
	link := regexp.MustCompile(`<a class="button first" href="([^"]+)">Connect</a>`).FindStringSubmatch(page.body)
	if page.status != http.StatusForbidden || link == nil {
		t.Fatalf("got %d %q, want a page with a button", page.status, page.body)
	}
	back := alice.consent(html.UnescapeString(link[1]))
	asked := p.auth.lastAsked(t)
	for name, want := range map[string]string{
		"response_type": "code", "client_id": "caddy", "code_challenge_method": "S256", "scope": "files.read openid", "prompt": "consent",
		"redirect_uri": "http://" + p.addr + "/connect/callback",
	} {
		if asked.Get(name) != want {
			t.Errorf("%s is %q, want %q", name, asked.Get(name), want)
		}
	}
	for _, name := range []string{"state", "nonce", "code_challenge"} {
		if len(asked.Get(name)) != 43 {
			t.Errorf("%s is %q", name, asked.Get(name))
		}
	}
	alice.open(back).wantTo(t, "/files?q=1")
	alice.open("/files").want(t, http.StatusOK, "GET /files")
	if got := p.up.tokens(); !slices.Equal(got, []string{bearer(1)}) {
		t.Errorf("the API got %d tokens, and not alice's alone", len(got))
	}
	bob.open("/files").want(t, http.StatusForbidden, "authorization-required")
	alice.open("/connect").want(t, http.StatusOK, connected)
	bob.open("/connect").want(t, http.StatusOK, "<strong>Not connected</strong>")
	alice.open("/connect/").want(t, http.StatusOK, "http://"+p.addr+"/connect/callback")
	bob.connect(toDrive).wantTo(t, doneDrive)
	bob.open("/files").want(t, http.StatusOK, "GET /files")
	if got := p.up.last(t).header.Get("Authorization"); got != bearer(2) {
		t.Error("bob's request did not travel with bob's token")
	}
}

// TestDisconnect: the server is told, nothing stays in storage, and connecting again works. A server that is down is no obstacle.
func TestDisconnect(t *testing.T) {
	for _, down := range []bool{false, true} {
		t.Run(fmt.Sprint("down ", down), func(t *testing.T) {
			p := runPeople(t, "")
			p.auth.change(func() { p.auth.down = down })
			alice := p.as("alice")
			alice.connect(toDrive).wantTo(t, doneDrive)
			p.up.demand.Store(2)
			alice.open("/").want(t, http.StatusOK, "GET") // one refresh, so that there is a history
			eventually(t, "a history", func() bool { return p.stored("/history/") > 0 })
			alice.open(endDrive).want(t, http.StatusOK, `<form method="post" action="`+endDrive+`">`)
			if a := alice.visit(http.MethodPost, endDrive); down {
				a.want(t, http.StatusOK, "The provider could not be told")
			} else {
				a.wantTo(t, doneDrive)
				alice.open(doneDrive).want(t, http.StatusOK, "drive is not connected")
			}
			if p.auth.wasRevoked(seed+"refresh-2") == down {
				t.Errorf("the server heard of the refresh token: %v", !down)
			}
			if n := p.stored("/history/"); n != 0 {
				t.Errorf("%d superseded token sets are still there", n)
			}
			if down && !strings.Contains(logged.String(), "could not be told that a connection has ended") {
				t.Error("nothing was logged of the server that is down")
			}
			alice.open("/").want(t, http.StatusForbidden, "authorization-required")
			alice.open("/connect").want(t, http.StatusOK, "<strong>Not connected</strong>")
			alice.connect(toDrive).wantTo(t, doneDrive)
			p.up.demand.Store(0)
			alice.open("/").want(t, http.StatusOK, "GET")
			if _, reuse := p.auth.counts(); reuse != 0 {
				t.Errorf("the server saw %d refresh tokens twice", reuse)
			}
		})
	}
}

// TestRotationUnderLoad: many refreshes, from many requests at once, and no refresh token is sent twice.
func TestRotationUnderLoad(t *testing.T) {
	p := runPeople(t, "")
	alice := p.as("alice")
	alice.connect(toDrive).wantTo(t, doneDrive)
	for range 5 {
		p.auth.mu.Lock()
		next := p.auth.issued + 1
		p.auth.mu.Unlock()
		p.up.demand.Store(next)
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				req := p.request(http.MethodGet, "/", nil)
				req.SetBasicAuth("alice", "open sesame")
				if _, err := p.try(req); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		p.app() // still the same configuration
	}
	p.stored("")
	if _, reuse := p.auth.counts(); reuse != 0 {
		t.Errorf("the server saw %d refresh tokens twice", reuse)
	}
	if p.auth.issued < 2 {
		t.Errorf("only %d tokens were issued", p.auth.issued)
	}
}

// TestRevokedAtServer: the person is asked again, and consenting again brings the connection back.
func TestRevokedAtServer(t *testing.T) {
	p := runPeople(t, "")
	p.auth.change(func() { p.auth.lifetime = 3 })
	alice := p.as("alice")
	alice.connect(toDrive).wantTo(t, doneDrive)
	alice.open("/").want(t, http.StatusOK, "GET")
	p.auth.endAll()
	p.auth.change(func() { p.auth.lifetime = 3600 })
	p.up.demand.Store(2) // the API knows of it at once
	alice.open("/").want(t, http.StatusUnauthorized, "the upstream's own refusal")
	alice.open("/connect").want(t, http.StatusOK, "Needs you again")
	eventually(t, "the end of the last token", func() bool { return alice.open("/").status == http.StatusForbidden })
	alice.open("/").want(t, http.StatusForbidden, toDrive)
	alice.open("/connect").want(t, http.StatusOK, "Needs you again")
	alice.connect(toDrive+"?return_to=/files").wantTo(t, "/files")
	alice.open("/").want(t, http.StatusOK, "GET")
	alice.open("/connect").want(t, http.StatusOK, connected)
}

// TestConnectSurvivesReload: what one configuration began, the next one finishes.
func TestConnectSurvivesReload(t *testing.T) {
	p := runPeople(t, "")
	alice := p.as("alice")
	back := alice.consent(toDrive)
	p.reload()
	alice.open(back).wantTo(t, doneDrive)
	p.reload()
	alice.open("/").want(t, http.StatusOK, "GET")
}

// TestConnectedNamesInLinks: names that mean something in a URL stay names.
func TestConnectedNamesInLinks(t *testing.T) {
	auth, up := newAuthServer(t), newUpstream(t, nil)
	s := run(t, setup{
		connections: auth.connection(`"a/b?c#d e"`, ""),
		site:        basicAuth + "oauth2_connect\nreverse_proxy " + up.url + "\n",
	})
	alice := s.as("alice")
	page := alice.open("/connect")
	link := regexp.MustCompile(`href="(/connect/authorize/[^"]+)"`).FindStringSubmatch(page.body)
	if link == nil {
		t.Fatalf("no link in %s", page.body)
	}
	done := "/connect/done/a%2Fb%3Fc%23d%20e"
	alice.connect(html.UnescapeString(link[1])).wantTo(t, done)
	alice.open(done).want(t, http.StatusOK, "a/b?c#d e is connected")
	confirm := regexp.MustCompile(`href="(/connect/disconnect/[^"]+)"`).FindStringSubmatch(alice.open("/connect").body)
	if confirm == nil {
		t.Fatal("no way to disconnect")
	}
	end := regexp.MustCompile(`action="([^"]+)"`).FindStringSubmatch(alice.open(html.UnescapeString(confirm[1])).body)
	if end == nil {
		t.Fatal("nobody asks whether to disconnect")
	}
	alice.visit(http.MethodPost, html.UnescapeString(end[1])).wantTo(t, done)
	alice.open("/connect").want(t, http.StatusOK, "Not connected")
	untouched(t, up)
}
