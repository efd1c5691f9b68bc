package caddyoauth_test

import (
	"net/http"
	"regexp"
	"strings"
	"testing"
)

// TestActsByRole presses every button of a connected account as everybody, on the dashboard and in the API. Who may not is refused
// before anybody is asked anything; who may has it really done.
func TestActsByRole(t *testing.T) {
	auth, me := newAuthServer(t), newMe(t, jane)
	block := strings.Replace(apiDirective, "tenant {http.request.header.X-Tenant}\n", "", 1)
	s := run(t, setup{
		connections: strings.Replace(auth.connection("drive", me.calls("")), "subject {http.auth.user.id}", "", 1),
		site:        block + strings.Replace(block, "oauth2_api", "oauth2_dashboard /ops", 1) + "route {\n" + basicAuth + "oauth2_connect\nrespond nothing 404\n}\n",
	})
	id := regexp.MustCompile(`"id":"([^"]+)"`).FindStringSubmatch(s.dash("GET", "/oauth2/v1/secrets?name=drive", "viewers").body)[1]
	// what tells how often something was really done
	asked := func() int { auth.mu.Lock(); defer auth.mu.Unlock(); return auth.exchanges + len(auth.used) }
	ended := func() int { auth.mu.Lock(); defer auth.mu.Unlock(); return len(auth.revoked) }
	called := func() int { return len(me.requests()) }
	roles := []string{"", "others", "viewers", "operators", "admins"}
	for _, tt := range []struct {
		act    string
		least  int // the first of the roles that may
		effect func() int
		status int // on the dashboard
	}{
		{"authorize", 3, nil, http.StatusOK}, {"test", 3, called, http.StatusOK}, {"refresh", 3, asked, http.StatusSeeOther}, {"revoke", 4, ended, http.StatusSeeOther},
	} {
		for where, status := range map[string]int{"/ops/" + id + "/": tt.status, "/oauth2/v1/secrets/" + id + "/": http.StatusOK} {
			s.as("alice").connect(toDrive).wantTo(t, doneDrive)
			for i, role := range roles {
				want := http.StatusForbidden
				if role == "" {
					want = http.StatusUnauthorized
				} else if i >= tt.least {
					want = status
				}
				before := 0
				if tt.effect != nil {
					before = tt.effect()
				}
				got := s.dash("POST", where+tt.act, role, "Content-Type: application/json")
				done := strings.Contains(got.body, toDrive)
				if tt.effect != nil {
					done = tt.effect() > before
				}
				if got.status != want || done != (want == status) {
					t.Errorf("%s%s as %q: %d, want %d; done: %v: %.300s", where, tt.act, role, got.status, want, done, got.body)
				}
			}
			page := s.dash("GET", "/ops/"+id, "admins").body
			if gone := strings.Contains(page, "Disconnected"); gone != (tt.act == "revoke") {
				t.Errorf("after %s by those who may, the page says that it has ended: %v", tt.act, gone)
			}
		}
	}
}
