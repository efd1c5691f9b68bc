//go:build integration

package browser

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyoauth/caddyoauth/test/lab"
)

// shownState is a connection in one of the states that there are, and what a person reads of it, on the overview and on its own page.
type shownState struct {
	connection string
	word       string
	advice     string
	also       []string // besides
	alarm      bool     // it counts as one that needs somebody, and stands before all that do not
	buttons    string   // for administrators
	bring      func(*troubles)
}

const (
	ofPeople   = "Reauthorize, Refresh now, Revoke"
	ofEnded    = "Reauthorize, Revoke" // there is nothing to refresh with
	ofMachines = "Refresh now"
)

// shownStates are all states, in the order in which the overview has them. Each is brought about by what brings it about in the wild.
var shownStates = []shownState{
	{connection: "payments", word: "Refused", advice: "The provider refuses the client", also: []string{"invalid_client", "after 1 attempt"}, alarm: true, buttons: ofMachines,
		bring: func(s *troubles) { s.refresh("payments") }}, // its secret is a wrong one
	{connection: "chat", word: "Lost rotation", advice: "A new refresh token was lost on its way", alarm: true, buttons: ofEnded,
		bring: func(s *troubles) { s.connect("chat"); s.lose("chat", "") }},
	{connection: "drive", word: "One for each person", also: []string{"1 active", "1 lost rotation"}, alarm: true,
		bring: func(s *troubles) {
			for _, name := range []string{"jane", "joe"} {
				s.site.as(s.t, name).connects(name, "drive")
			}
			s.lose("drive", "joe")
		}},
	{connection: "newsletter", word: "Revoked", advice: "The consent is gone", also: []string{"invalid_grant"}, alarm: true, buttons: ofEnded,
		bring: func(s *troubles) { s.connect("newsletter"); s.site.op.Withdraw(s.t); s.refresh("newsletter") }},
	{connection: "invoices", word: "Failing", advice: "This is tried again by itself", also: []string{"after 1 attempt", "the next in", "token ends in 5"}, alarm: true, buttons: ofMachines,
		bring: func(s *troubles) {
			s.refresh("invoices")
			s.site.op.SetFaults(s.t, lab.Fault{Status: http.StatusServiceUnavailable, Headers: map[string]string{"Retry-After": "600"}})
			s.refresh("invoices")
			s.site.op.SetFaults(s.t)
		}},
	{connection: "calendar", word: "Ends soon", advice: "has to connect the account again before", also: []string{"token ends in 5"}, alarm: true, buttons: ofPeople,
		bring: func(s *troubles) {
			s.site.op.SetFaults(s.t, lab.Fault{Patch: map[string]any{"refresh_expires_in": 30 * 86400}})
			s.connect("calendar")
			s.site.op.SetFaults(s.t)
			s.site.consentAges(s.t, "calendar", 27*24*time.Hour)
		}},
	{connection: "crm", word: "Not connected", advice: "A person has to connect the account", alarm: true, buttons: "Connect"},
	{connection: "storage", word: "Not connected", advice: "A person has to connect the account", alarm: true, buttons: ofEnded,
		bring: func(s *troubles) {
			s.connect("storage")
			s.site.global = strings.Replace(s.site.global, "scopes offline_access api:read", "scopes offline_access api:read api:write", 1)
			s.site.caddy.Reload(s.t, s.site.global, s.site.sites())
		}},
	{connection: "wiki", word: "Disconnected", advice: "It was ended on purpose", buttons: "Connect",
		bring: func(s *troubles) { s.connect("wiki"); s.page("wiki"); s.ops.press("Revoke"); s.ops.press("Disconnect") }},
	{connection: "reports", word: "Ready", advice: "The first token is fetched when it is needed", buttons: ofMachines},
	{connection: "archive", word: "Resting", advice: "is refreshed when it is used next", also: []string{"refreshed"}, buttons: ofPeople,
		bring: func(s *troubles) {
			s.site.op.SetFaults(s.t, lab.Fault{Patch: map[string]any{"expires_in": 2}})
			s.connect("archive")
			s.site.op.SetFaults(s.t)
		}},
	{connection: "billing", word: "Active", also: []string{"token ends in 5"}, buttons: ofMachines,
		bring: func(s *troubles) { s.refresh("billing") }},
	{connection: "mail", word: "Active", also: []string{"team@example.com"}, buttons: "Reauthorize, Refresh now, Test, Revoke",
		bring: func(s *troubles) { s.connect("mail"); s.refresh("mail") }},
}

// troubles is a site whose connections are each in another state.
type troubles struct {
	t    *testing.T
	site *site
	ops  *person // an administrator
}

// troubled starts the site, and brings its connections into their states.
func troubled(t *testing.T) *troubles {
	t.Helper()
	s := startSiteAt(t, lab.Options{AccessTokenTTL: time.Hour}, func(s *site) string {
		token := "token_endpoint " + s.op.TokenEndpoint()
		account := func(name string, more ...string) string {
			return s.connection(name, append([]string{token, secret, scopes}, more...)...)
		}
		machine := func(name, secret string) string {
			return fmt.Sprintf("\t\tconnection %s {\n\t\t\t%s\n\t\t\tclient_id %s\n\t\t\tclient_secret %s\n\t\t\tscopes api:read\n\t\t}\n", name, token, lab.ClientLong, secret)
		}
		test := "test_call GET " + s.op.Issuer() + "/me {\n\t\t\t\tid sub\n\t\t\t\tlabel sub\n\t\t\t}\n\t\t\tallow_hosts 127.0.0.1"
		return account("drive", ofPerson) + account("mail", test, "provider google", "client_auth client_secret_basic") + account("chat") + account("newsletter") + account("crm") + account("wiki") +
			s.connection("storage", token, secret, "scopes offline_access api:read") +
			account("calendar", "keep_alive off") + account("archive", "idle_after 1s") +
			machine("payments", "wrong") + machine("invoices", lab.Secret) + machine("reports", lab.Secret) + machine("billing", lab.Secret) +
			"\t\tstored_connections {\n\t\t\tendpoints 127.0.0.1\n\t\t}\n"
	})
	s.more = `oauth2_dashboard /ops {
		identity {http.request.cookie.user}
		role admin user:ops
		role operator user:desk
		role viewer *
	}
	oauth2_dashboard /of {
		identity {http.request.cookie.user}
		tenant {http.request.cookie.tenant}
		role admin *
	}
	oauth2_api /api {
		identity {http.request.cookie.user}
		tenant {http.request.cookie.tenant}
		role admin *
	}`
	s.caddy.Reload(t, s.global, s.sites())
	all := &troubles{t: t, site: s, ops: s.as(t, "ops")}
	for _, state := range shownStates {
		if state.bring != nil {
			state.bring(all)
		}
	}
	return all
}

// connect has the account that all share connected.
func (s *troubles) connect(connection string) {
	s.t.Helper()
	s.ops.connects("team@example.com", connection)
}

// page goes to the connection's own page.
func (s *troubles) page(connection string) { s.t.Helper(); s.ops.open("/ops"); s.ops.press(connection) }

// refresh presses the button on the connection's own page.
func (s *troubles) refresh(connection string) {
	s.t.Helper()
	s.page(connection)
	s.ops.press("Refresh now")
}

// lose has the answer to a refresh lost on its way. The server has replaced the refresh token then, and takes the old one for stolen.
func (s *troubles) lose(connection, subject string) {
	s.t.Helper()
	s.page(connection)
	if subject != "" {
		s.ops.press(subject)
	}
	page := s.ops.at()
	s.site.op.SetFaults(s.t, lab.Fault{Times: 1, DropAfter: true})
	s.ops.press("Refresh now")
	s.ops.reads("That did not work")
	s.ops.open(page)
	s.ops.press("Refresh now")
	s.ops.open(page)
	s.ops.reads("Lost rotation")
}

// row is what the overview says of a connection.
type row struct{ Name, Text, Word string }

// overview reads the overview: its rows, and how many of them need somebody.
func (p *person) overview() (rows []row, trouble int) {
	p.t.Helper()
	p.open("/ops")
	lead := js[string](p, `document.querySelector(".lead").innerText`)
	if _, err := fmt.Sscanf(lead, "%d of", &trouble); err != nil {
		p.t.Fatalf("the overview begins with %q", lead)
	}
	return js[[]row](p, `[...document.querySelectorAll(".board > li")].map(li => ({
		Name: li.querySelector("h2 a").innerText, Text: li.innerText, Word: li.querySelector(".state strong").innerText}))`), trouble
}

// buttons are the names of what can be pressed on a connection's own page, but for those in the history.
func (p *person) buttons() string {
	p.t.Helper()
	return strings.Join(js[[]string](p, `[...document.querySelectorAll(".acts button, .acts a")].map(e => e.innerText)`), ", ")
}

// TestTroubles is about a site with every state there is. The parts follow one another: the later ones press buttons.
func TestTroubles(t *testing.T) {
	t.Parallel()
	s := troubled(t)
	for _, part := range []struct {
		name string
		test func(*testing.T, *troubles)
	}{
		{"States", testStates}, {"Roles", testRoles}, {"Tenants", testTenants}, {"News", testNews}, {"WithoutScript", testWithoutScript},
	} {
		t.Run(part.name, func(t *testing.T) { part.test(t, s) })
	}
}

// testStates: what operators read of every state there is, in which order, what calls for somebody and what does not, and what they
// can do about it; and that all of it can be read by everybody.
func testStates(t *testing.T, s *troubles) {
	lab.Eventually(t, "a token ends that nobody uses", func() error {
		if rows, _ := s.ops.overview(); !slices.ContainsFunc(rows, func(r row) bool { return r.Word == "Resting" }) {
			return errors.New("none has")
		}
		return nil
	})
	rows, trouble := s.ops.overview()
	if len(rows) != len(shownStates) {
		t.Fatalf("the overview has %d rows: %+v", len(rows), rows)
	}
	s.ops.inspect("states")
	for i, want := range shownStates {
		t.Run(want.connection, func(t *testing.T) {
			ops := s.ops.during(t)
			if rows[i].Name != want.connection || want.alarm != (i < trouble) {
				t.Errorf("%s is in row %d, and %d need somebody", rows[i].Name, i+1, trouble)
			}
			said := append([]string{want.advice}, want.also...)
			for _, part := range said {
				if !strings.Contains(rows[i].Text, part) {
					t.Errorf("the overview does not say %q: %s", part, rows[i].Text)
				}
			}
			ops.open("/ops")
			ops.press(want.connection)
			ops.reads(said...)
			if word := js[string](ops, `document.querySelector(".board.one .state strong").innerText`); word != want.word || rows[i].Word != want.word {
				t.Errorf("the state is %q, and %q on the overview", word, rows[i].Word)
			}
			if buttons := ops.buttons(); buttons != want.buttons {
				t.Errorf("the buttons are %q", buttons)
			}
			if first := js[bool](ops, `!!document.querySelector(".acts .first")`); first != (want.alarm && want.buttons != "") {
				t.Errorf("that one of the buttons stands out is %v", first)
			}
			ops.inspect("state-" + want.connection)
		})
	}
	s.ops.open("/ops")
	s.ops.picture("dashboard-light")
	s.ops.picture("dashboard-dark")
	s.ops.picture("dashboard-phone")
	s.page("mail")
	s.ops.picture("dashboard-connection")
}
