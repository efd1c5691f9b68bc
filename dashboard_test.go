package caddyoauth_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddyoauth/caddyoauth"
)

// dashDirective serves the dashboard at /ops. Who visits, and is in which groups, is what headers say.
var dashDirective = strings.NewReplacer("oauth2_api {", "oauth2_dashboard /ops {", "tenant {http.request.header.X-Tenant}\n", "").Replace(apiDirective)

// runDashboard starts a site with the dashboard and two connections: one of a machine, one account that all share. The pairs replace
// parts of the directive.
func runDashboard(t *testing.T, replaced ...string) *site {
	t.Helper()
	auth, up := newAuthServer(t), newUpstream(t, nil)
	return run(t, setup{
		connections: strings.Replace(auth.connection("drive", ""), "subject {http.auth.user.id}", "", 1),
		site: strings.NewReplacer(replaced...).Replace(dashDirective) +
			"oauth2_inject api {\n reverse_proxy " + up.url + "\n}\n",
	})
}

var dashLink = regexp.MustCompile(`href="(/ops/[^"]+)"[^>]*>(\w+)</a>`)

// dash sends a request to the dashboard as somebody with these groups; nobody if user is empty.
func (s *site) dash(method, path, groups string, headers ...string) answer {
	s.t.Helper()
	lines := append([]string{"X-Groups: " + groups}, headers...)
	if groups != "" {
		lines = append(lines, "X-User: jane")
	}
	return s.do(s.request(method, path, nil, lines...))
}

// links are the pages of the connections, by name.
func (s *site) links() map[string]string {
	s.t.Helper()
	found := make(map[string]string)
	for _, match := range dashLink.FindAllStringSubmatch(s.dash("GET", "/ops", "viewers").body, -1) {
		found[match[2]] = match[1]
	}
	if len(found) < 2 {
		s.t.Fatalf("the overview has %v", found)
	}
	return found
}

// TestDashboardRoles walks every role over every button: what is not offered is refused as well, and nobody gets what is only others'.
func TestDashboardRoles(t *testing.T) {
	s := runDashboard(t)
	api := s.links()["api"]
	for _, tt := range []struct {
		method, path string
		want         map[string]int
	}{
		{"GET", "/ops", map[string]int{"": 401, "others": 403, "viewers": 200, "operators": 200, "admins": 200}},
		{"GET", api, map[string]int{"": 401, "others": 403, "viewers": 200, "operators": 200, "admins": 200}},
		{"POST", api + "/refresh", map[string]int{"": 401, "others": 403, "viewers": 403, "operators": 303, "admins": 303}},
		{"POST", api + "/rollback/1", map[string]int{"": 401, "others": 403, "viewers": 403, "operators": 403, "admins": 409}}, // not one of people
		{"GET", api + "/refresh", map[string]int{"": 401, "viewers": 404, "admins": 404}},
		{"PUT", api + "/refresh", map[string]int{"": 401, "admins": 405}},
		{"POST", api + "/explode", map[string]int{"": 401, "viewers": 404, "admins": 404}},
		{"GET", "/ops/nothing", map[string]int{"": 401, "viewers": 404, "admins": 404}},
		{"POST", api + "/revoke", map[string]int{"": 401, "others": 403, "viewers": 403, "operators": 403}},
	} {
		for groups, want := range tt.want {
			if a := s.dash(tt.method, tt.path, groups); a.status != want {
				t.Errorf("%s %s as %q: %d, want %d: %.300s", tt.method, tt.path, groups, a.status, want, a.body)
			}
		}
	}
}

// TestDashboardTrail: administrators see who did what, to what and from where, and what was denied, whatever it was about. Nobody else is
// led there, and who goes there all the same is denied, which is on the list then.
func TestDashboardTrail(t *testing.T) {
	s := runDashboard(t)
	api := s.links()["api"]
	s.dash("POST", api+"/refresh", "operators").want(t, http.StatusSeeOther, "")
	for range 2 {
		s.dash("POST", api+"/refresh", "viewers").want(t, http.StatusForbidden, "")
	}
	s.do(s.request("GET", "/ops", nil)).want(t, http.StatusUnauthorized, "") // which is about no connection
	for groups, led := range map[string]bool{"viewers": false, "operators": false, "admins": true} {
		if got := strings.Contains(s.dash("GET", "/ops", groups).body, `href="/ops/audit"`); got != led {
			t.Errorf("%s are led to the list: %v", groups, got)
		}
	}
	s.dash("GET", "/ops/audit", "operators").want(t, http.StatusForbidden, "")
	text := plainText(s.dash("GET", "/ops/audit", "admins").body)
	for _, want := range []string{
		`audit\.list denied by jane from 127\.0\.0\.1`,
		`dashboard\.visit denied from 127\.0\.0\.1`,
		`token\.refresh denied by jane from 127\.0\.0\.1 · 2 times`,
		`token\.refresh done · api by jane from 127\.0\.0\.1`,
		`The log has all of them`,
	} {
		if !regexp.MustCompile(want).MatchString(text) {
			t.Errorf("the list does not say %s: %s", want, text)
		}
	}
}

var (
	htmlStyle = regexp.MustCompile(`(?s)<(style|script)[^>]*>.*?</(style|script)>`)
	htmlTag   = regexp.MustCompile(`<[^>]*>`)
	blanks    = regexp.MustCompile(`\s+`)
)

// plainText is what a page says.
func plainText(page string) string {
	return blanks.ReplaceAllString(htmlTag.ReplaceAllString(htmlStyle.ReplaceAllString(page, " "), " "), " ")
}

var dashButton = regexp.MustCompile(`(?:action|href)="(/ops/[^"]+/(?:authorize|refresh|test|revoke|rollback/\d+))"`)

// offered returns the buttons of a page, by what they do.
func (s *site) offered(page, groups string) string {
	s.t.Helper()
	var deeds []string
	for _, match := range dashButton.FindAllStringSubmatch(s.dash("GET", page, groups).body, -1) {
		deeds = append(deeds, strings.TrimPrefix(match[1], page+"/"))
	}
	return strings.Join(deeds, " ")
}

// TestDashboardButtons: everybody is offered what would be done for them, in each state, and nothing else.
func TestDashboardButtons(t *testing.T) {
	me := newMe(t, jane)
	auth := newAuthServer(t)
	account := func(name string) string {
		return strings.Replace(auth.connection(name, me.calls("")), "subject {http.auth.user.id}", "", 1)
	}
	s := run(t, setup{connections: account("drive") + account("lone"), site: dashDirective + "route /connect* {\n" + basicAuth + "oauth2_connect {\n connections drive\n}\n}\n"})
	links := s.links()
	check := func(name, state, operators, admins string) {
		t.Helper()
		for groups, want := range map[string]string{"viewers": "", "operators": operators, "admins": admins} {
			if got := s.offered(links[name], groups); got != want {
				t.Errorf("%s, %s: %s are offered %q, want %q", name, state, groups, got, want)
			}
		}
	}
	check("api", "ready", "refresh", "refresh")
	s.dash("POST", links["api"]+"/refresh", "operators").wantTo(t, links["api"]+"?done=refresh")
	s.dash("POST", links["api"]+"/refresh", "operators").wantTo(t, links["api"]+"?done=refresh")
	check("api", "with a history", "refresh", "refresh")
	check("lone", "no site to connect at", "", "")
	s.dash("GET", links["lone"], "viewers").want(t, http.StatusOK, "Add oauth2_connect to a site")
	check("drive", "never connected", "authorize", "authorize")
	if body := s.dash("GET", links["drive"], "operators").body; !strings.Contains(body, ">Connect</button>") || strings.Contains(body, "Add oauth2_connect") {
		t.Error("drive is not offered to be connected")
	}
	alice := s.as("alice")
	alice.connect(toDrive).wantTo(t, doneDrive)
	check("drive", "connected", "authorize refresh test", "authorize refresh test revoke")
	s.dash("POST", links["drive"]+"/refresh", "operators").wantTo(t, links["drive"]+"?done=refresh")
	check("drive", "refreshed", "authorize refresh test", "authorize refresh test revoke rollback/1")
	s.dash("POST", links["drive"]+"/rollback/1", "operators").want(t, http.StatusForbidden, "Not allowed")
	s.dash("POST", links["drive"]+"/rollback/1", "admins").wantTo(t, links["drive"]+"?done=rollback")
	s.dash("POST", links["drive"]+"/revoke", "admins").wantTo(t, links["drive"]+"?done=revoke")
	check("drive", "disconnected", "authorize", "authorize")
	if auditOf := s.app().AuditTrail(s.t.Context()).Events[0]; auditOf.Outcome == "denied" {
		t.Errorf("looking at a page is in the audit log: %+v", auditOf)
	}
}

// TestDashboardLooksAtAll: what is in trouble is found wherever it stands in the list, and the counts are of all.
func TestDashboardLooksAtAll(t *testing.T) {
	auth := newAuthServer(t)
	var connections strings.Builder
	for i := range 230 {
		fmt.Fprintf(&connections, "connection c%03d {\n token_endpoint %s/token\n client_id caddy\n client_secret %s\n}\n", i, auth.URL, clientSecret)
	}
	connections.WriteString(strings.Replace(auth.connection("zzz", ""), "subject {http.auth.user.id}", "", 1))
	s := run(t, setup{connections: connections.String(), site: dashDirective})
	page := s.dash("GET", "/ops", "viewers")
	page.want(t, http.StatusOK, "<strong>1</strong> of 232 needs somebody")
	page.want(t, http.StatusOK, "Page 1 of 3")
	if first := dashLink.FindStringSubmatch(page.body); first[2] != "zzz" {
		t.Errorf("%s comes first", first[2])
	}
	seen := make(map[string]bool)
	for path, n := "/ops", 1; path != ""; n++ {
		page := s.dash("GET", path, "viewers")
		page.want(t, http.StatusOK, fmt.Sprintf("Page %d of 3", n))
		page.want(t, http.StatusOK, "<strong>1</strong> of 232")
		for _, match := range dashLink.FindAllStringSubmatch(page.body, -1) {
			seen[match[2]] = true
		}
		next := regexp.MustCompile(`id="next"[^>]* href="([^"]+)"`).FindStringSubmatch(page.body)
		if path = ""; next != nil {
			path = next[1]
		}
	}
	if len(seen) != 232 {
		t.Errorf("all pages together have %d connections", len(seen))
	}
	s.dash("GET", "/ops?name=C00", "viewers").want(t, http.StatusOK, "All 10 go on by themselves.")
	s.dash("GET", "/ops?status=not_connected&page=2", "viewers").want(t, http.StatusOK, "Page 2 of 3")
	s.dash("GET", "/ops?name=nothing", "viewers").want(t, http.StatusOK, "of those that you have chosen")
	s.dash("GET", "/ops?page=0", "viewers").want(t, http.StatusBadRequest, "page")
}

// TestDashboardLooksAtAllSubjects: likewise for the people of one connection, whose trouble lifts the connection up.
func TestDashboardLooksAtAllSubjects(t *testing.T) {
	auth := newAuthServer(t)
	s := run(t, setup{
		connections: strings.Replace(auth.connection("drive", ""), "{http.auth.user.id}", "{http.request.header.X-Person}", 1),
		site:        dashDirective + "oauth2_connect {\n identity {http.request.header.X-Person}\n}\n",
	})
	for i := range 105 {
		person := "X-Person: p" + fmt.Sprint(100+i)
		b := s.as("")
		a := b.visit("GET", toDrive, person)
		b.visit("GET", b.follow(a.header.Get("Location")), person).wantTo(t, doneDrive)
	}
	links := s.links()
	s.dash("GET", "/ops", "viewers").want(t, http.StatusOK, "All 2 go on by themselves.")
	s.dash("GET", links["drive"], "viewers").want(t, http.StatusOK, "All 105 go on by themselves.")
	auth.endAll()
	s.dash("POST", links["drive"]+"/for/p204/refresh", "operators").want(t, http.StatusConflict, "That did not work")
	page := s.dash("GET", links["drive"], "viewers")
	page.want(t, http.StatusOK, "<strong>1</strong> of 105 needs somebody")
	page.want(t, http.StatusOK, "Page 1 of 2")
	if first := regexp.MustCompile(`<h3><a [^>]*>(\w+)<`).FindStringSubmatch(page.body); first[1] != "p204" {
		t.Errorf("%s comes first", first[1])
	}
	s.dash("GET", links["drive"]+"?page=2", "viewers").want(t, http.StatusOK, "Page 2 of 2")
	page = s.dash("GET", "/ops", "viewers")
	page.want(t, http.StatusOK, "<strong>1</strong> of 2 needs somebody")
	page.want(t, http.StatusOK, "104 active · 1 revoked")
	page.want(t, http.StatusOK, "those in use here are counted")
	if first := dashLink.FindStringSubmatch(page.body); first[2] != "drive" {
		t.Errorf("%s comes before the connection of somebody in trouble", first[2])
	}
}

// TestDashboardForgedForm: another site's page cannot press a button.
func TestDashboardForgedForm(t *testing.T) {
	s := runDashboard(t)
	before := s.idp.asked.Load()
	for _, header := range []string{"Sec-Fetch-Site: cross-site", "Origin: https://evil.example"} {
		s.dash("POST", s.links()["api"]+"/refresh", "admins", header).want(t, http.StatusForbidden, "Not allowed")
	}
	if asked := s.idp.asked.Load() - before; asked != 0 {
		t.Errorf("a forged form had the provider asked %d times", asked)
	}
	s.wantDenied("dashboard.refresh", http.StatusForbidden, "jane")
}

// wantDenied fails the test unless the last thing that the audit log has is that denied attempt.
func (s *site) wantDenied(action string, status int, caller string) {
	s.t.Helper()
	trail := s.app().AuditTrail(s.t.Context()).Events
	if len(trail) == 0 {
		s.t.Fatalf("the audit log has nothing of %s", action)
	}
	if e := trail[0]; e.Action != action || e.Outcome != "denied" || e.Status != status || e.Caller != caller || e.Address != "127.0.0.1" {
		s.t.Errorf("the audit log ends with %+v, want %s as %d by %q", e, action, status, caller)
	}
}

// TestDashboardDeniedIsAudited: who tries what they may not leaves a trace, as on the API.
func TestDashboardDeniedIsAudited(t *testing.T) {
	s := runDashboard(t)
	api := s.links()["api"]
	s.dash("GET", "/ops", "").want(t, http.StatusUnauthorized, "sign in")
	s.wantDenied("dashboard.visit", http.StatusUnauthorized, "")
	s.dash("POST", api+"/revoke", "").want(t, http.StatusUnauthorized, "sign in")
	s.wantDenied("dashboard.revoke", http.StatusUnauthorized, "")
	s.dash("GET", "/ops/news", "others").want(t, http.StatusForbidden, "Not allowed")
	s.wantDenied("dashboard.visit", http.StatusForbidden, "jane")
	s.dash("POST", api+"/refresh", "viewers").want(t, http.StatusForbidden, "Not allowed")
	s.wantDenied("token.refresh", http.StatusForbidden, "jane")
	before := len(s.app().AuditTrail(t.Context()).Events)
	s.dash("GET", "/ops", "viewers").want(t, http.StatusOK, "Connections")
	if trail := s.app().AuditTrail(t.Context()).Events; len(trail) != before {
		t.Errorf("looking is in the audit log: %+v", trail[0])
	}
}

// TestDashboardRateLimit: a visit counts once, however many answers its page is made of; the one too many says when to come again.
func TestDashboardRateLimit(t *testing.T) {
	s := runDashboard(t, "rate_limit 10000", "rate_limit 3")
	for range 3 {
		s.dash("GET", "/ops", "viewers").want(t, http.StatusOK, "Connections")
	}
	for _, path := range []string{"/ops", "/ops/news"} {
		a := s.dash("GET", path, "viewers")
		a.want(t, http.StatusTooManyRequests, "too often")
		if after, err := strconv.Atoi(a.header.Get("Retry-After")); err != nil || after < 1 || after > 20 {
			t.Errorf("%s: Retry-After is %q", path, a.header.Get("Retry-After"))
		}
	}
	s.wantDenied("dashboard.visit", http.StatusTooManyRequests, "jane")
	if a := s.do(s.request("GET", "/ops", nil, "X-User: joe", "X-Groups: viewers")); a.status != http.StatusOK {
		t.Errorf("somebody else gets %d", a.status)
	}
}

// TestDashboardSays: each state in words, what needs somebody first, and a count of what does.
func TestDashboardSays(t *testing.T) {
	s := runDashboard(t)
	s.dash("POST", s.links()["api"]+"/refresh", "operators").wantTo(t, s.links()["api"]+"?done=refresh")
	eventually(t, "the refresh is in the day's count", func() bool { // the same holds for what went well
		return strings.Contains(s.dash("GET", "/ops", "viewers").body, "100 % of 1 in 24 h")
	})
	page := s.dash("GET", "/ops", "viewers").body
	for _, want := range []string{"<strong>1</strong> of 2 needs somebody", "Active", "Not connected", "100 % of 1 in 24 h", "data-until"} {
		if !strings.Contains(page, want) {
			t.Errorf("the overview does not say %q: %s", want, page)
		}
	}
	if strings.Index(page, ">drive</a>") > strings.Index(page, ">api</a>") {
		t.Error("what needs somebody does not come first")
	}
	s.dash("GET", s.links()["api"]+"?done=refresh", "viewers").want(t, http.StatusOK, "The token was replaced.")
	s.dash("GET", s.links()["api"]+"?done=%3Cscript%3E", "viewers").want(t, http.StatusOK, "forced by jane")
	s.idp.answers(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	s.dash("POST", s.links()["api"]+"/refresh", "operators").want(t, http.StatusServiceUnavailable, "That did not work")
	eventually(t, "the failure is in the day's count", func() bool { // which is told of after the answer
		return strings.Contains(s.dash("GET", "/ops", "viewers").body, "50 % of 2 in 24 h")
	})
}

// listen opens a stream of news, and returns it with the status of the answer.
func (s *site) listen(ctx context.Context, page, seen string) (*http.Response, *bufio.Reader) {
	s.t.Helper()
	req := s.request("GET", page+"/news?seen="+seen, nil, "X-User: jane", "X-Groups: viewers").WithContext(ctx)
	resp, err := s.client.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = resp.Body.Close() })
	return resp, bufio.NewReader(resp.Body)
}

// told reads the next message of a stream.
func told(t *testing.T, stream *bufio.Reader) (message string) {
	t.Helper()
	for !strings.HasSuffix(message, "\n\n") {
		line, err := stream.ReadString('\n')
		if err != nil {
			t.Fatalf("the stream ended after %q: %v", message, err)
		}
		message += line
	}
	return message
}

// seenOn returns the digest of a page.
func (s *site) seenOn(page string) string {
	s.t.Helper()
	match := regexp.MustCompile(`data-seen="([0-9a-f]+)"`).FindStringSubmatch(s.dash("GET", page, "viewers").body)
	if match == nil {
		s.t.Fatalf("%s follows no news", page)
	}
	return match[1]
}

// TestDashboardNews: the stream of a page says nothing while nothing changes, says so when something does, and is not for strangers.
func TestDashboardNews(t *testing.T) {
	s := runDashboard(t)
	api := s.links()["api"]
	s.dash("GET", "/ops/news", "").want(t, http.StatusUnauthorized, "sign in")
	s.dash("GET", "/ops/news", "others").want(t, http.StatusForbidden, "Not allowed")
	s.dash("GET", "/ops/00000000-0000-4000-8000-000000000000/news", "viewers").want(t, http.StatusNotFound, "Nothing here")
	s.dash("POST", "/ops/news", "admins").want(t, http.StatusNotFound, "Nothing here")
	for _, page := range []string{"/ops", api} {
		seen := s.seenOn(page)
		for old, want := range map[string]string{seen: ": nothing new\n\n", "older": "id: " + seen + "\ndata: changed\n\n"} {
			resp, stream := s.listen(t.Context(), page, old)
			if got := told(t, stream); got != want || resp.Header.Get("Content-Type") != "text/event-stream" {
				t.Errorf("%s, %s: %q", page, old, got)
			}
			_ = resp.Body.Close()
		}
	}
	_, all := s.listen(t.Context(), "/ops", s.seenOn("/ops"))
	_, one := s.listen(t.Context(), api, s.seenOn(api))
	_, other := s.listen(t.Context(), s.links()["drive"], s.seenOn(s.links()["drive"]))
	for _, stream := range []*bufio.Reader{all, one, other} {
		if got := told(t, stream); got != ": nothing new\n\n" {
			t.Errorf("first told is %q", got)
		}
	}
	if _, err := s.app().Refresh(t.Context(), caddyoauth.Ref{Connection: "api"}); err != nil { // which no audit log tells of
		t.Fatal(err)
	}
	for name, stream := range map[string]*bufio.Reader{"all": all, "one": one} {
		if got := told(t, stream); !strings.HasSuffix(got, "data: changed\n\n") {
			t.Errorf("%s: after a refresh %q", name, got)
		}
	}
	if got := told(t, other); got != ": nothing new\n\n" {
		t.Errorf("of another connection: %q", got)
	}
}

// TestDashboardStreamsAreBounded: no more than so many at once, and those that end make room.
func TestDashboardStreamsAreBounded(t *testing.T) {
	s := runDashboard(t)
	ctx, end := context.WithCancel(t.Context())
	for range 64 {
		if resp, stream := s.listen(ctx, "/ops", "x"); resp.StatusCode != http.StatusOK {
			t.Fatalf("a stream: %d", resp.StatusCode)
		} else {
			told(t, stream)
		}
	}
	if resp, _ := s.listen(t.Context(), "/ops", "x"); resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
		t.Errorf("one too many: %d, %v", resp.StatusCode, resp.Header)
	}
	s.dash("GET", "/ops", "viewers").want(t, http.StatusOK, "Connections")
	end()
	ctx, end = context.WithCancel(t.Context())
	defer end()
	for range 64 {
		eventually(t, "a place", func() bool {
			resp, _ := s.listen(ctx, "/ops", "x")
			return resp.StatusCode == http.StatusOK
		})
	}
}

// TestDashboardStreamEndsAtReload: a configuration that is replaced is not held up.
func TestDashboardStreamEndsAtReload(t *testing.T) {
	s := runDashboard(t)
	_, stream := s.listen(t.Context(), "/ops", "x")
	told(t, stream)
	began := time.Now()
	s.reload()
	if _, err := io.Copy(io.Discard, stream); err != nil {
		t.Errorf("the stream broke off: %v", err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it ended after %v", took)
	}
}
