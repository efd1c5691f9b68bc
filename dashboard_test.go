package caddyoauth_test

import (
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// runDashboard starts a site with the dashboard and two connections: one of a machine, one account that all share. The pairs replace
// parts of the directive.
func runDashboard(t *testing.T, replaced ...string) *site {
	t.Helper()
	auth, up := newAuthServer(t), newUpstream(t, nil)
	directive := strings.NewReplacer("oauth2_api {", "oauth2_dashboard /ops {", "tenant {http.request.header.X-Tenant}\n", "").Replace(apiDirective)
	return run(t, setup{
		connections: strings.Replace(auth.connection("drive", ""), "subject {http.auth.user.id}", "", 1),
		site: strings.NewReplacer(replaced...).Replace(directive) +
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
	for groups, want := range map[string][2]bool{"viewers": {false, false}, "operators": {true, false}, "admins": {true, true}} {
		body := s.dash("GET", api, groups).body
		if got := [2]bool{strings.Contains(body, "/refresh"), strings.Contains(body, "/revoke")}; got != want {
			t.Errorf("%s are offered refresh and revoke: %v", groups, got)
		}
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
		return strings.Contains(s.dash("GET", "/ops", "viewers").body, "100 % of 1 refreshes in 24 h")
	})
	page := s.dash("GET", "/ops", "viewers").body
	for _, want := range []string{"<strong>1</strong> of 2 needs somebody", "Active", "Not connected", "100 % of 1 refreshes in 24 h", "data-until"} {
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
		return strings.Contains(s.dash("GET", "/ops", "viewers").body, "50 % of 2 refreshes")
	})
}

// TestDashboardNews: the stream says nothing while nothing changes, says so when something does, and is not for strangers.
func TestDashboardNews(t *testing.T) {
	s := runDashboard(t)
	s.dash("GET", "/ops/news", "").want(t, http.StatusUnauthorized, "sign in")
	s.dash("GET", "/ops/news", "others").want(t, http.StatusForbidden, "Not allowed")
	seen := regexp.MustCompile(`seen=([0-9a-f]+)`).FindStringSubmatch(s.dash("GET", "/ops", "viewers").body)
	for old, want := range map[string]string{seen[1]: ": nothing new\n\n", "older": "id: " + seen[1] + "\ndata: changed\n\n"} {
		resp, err := s.client.Do(s.request("GET", "/ops/news?seen="+old, nil, "X-User: jane", "X-Groups: viewers"))
		if err != nil {
			t.Fatal(err)
		}
		first := make([]byte, len(want))
		_, err = fmt.Fscanf(resp.Body, "%c", &first[0])
		for i := 1; i < len(first) && err == nil; i++ {
			_, err = resp.Body.Read(first[i : i+1])
		}
		_ = resp.Body.Close()
		if err != nil || string(first) != want || resp.Header.Get("Content-Type") != "text/event-stream" {
			t.Errorf("%s: %q, %v", old, first, err)
		}
	}
}
