//go:build integration

package browser

import (
	"fmt"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/caddyoauth/caddyoauth/test/lab"
)

// operated starts a site with the dashboard at /ops. Who visits is what the cookie `user` says; `ops` is in the group of administrators,
// and everybody else may look.
func operated(t *testing.T) *site {
	t.Helper()
	s := startSite(t, func(s *site) string {
		token := "token_endpoint " + s.op.TokenEndpoint()
		machine := func(name, clientID, secret string) string {
			return fmt.Sprintf("\t\tconnection %s {\n\t\t\t%s\n\t\t\tclient_id %s\n\t\t\tclient_secret %s\n\t\t\tscopes api:read\n\t\t}\n", name, token, clientID, secret)
		}
		test := "test_call GET " + s.op.Issuer() + "/me {\n\t\t\t\tid sub\n\t\t\t\tlabel sub\n\t\t\t}\n\t\t\tallow_hosts 127.0.0.1"
		return s.connection("drive", token, secret, ofPerson, scopes) + s.connection("team", token, secret, scopes, test) +
			machine("billing", lab.ClientLong, lab.Secret) + machine("broken", lab.ClientLong, "wrong")
	})
	s.more = "oauth2_dashboard /ops {\n\t\tidentity {http.request.cookie.user}\n\t\trole admin user:ops\n\t\trole viewer *\n\t}"
	s.caddy.Reload(t, s.global, s.sites())
	return s
}

// TestDashboard: what operators see of every state, each button, and that the page follows what happens by itself.
func TestDashboard(t *testing.T) {
	t.Parallel()
	s := operated(t)
	jane, ops := s.as(t, "jane"), s.as(t, "ops")
	jane.open("/connect/authorize/team")
	jane.agrees("jane.doe@example.com")
	jane.connects("jane", "drive")
	ops.open("/ops")
	ops.reads("Connections", "billing", "Ready", "broken", "drive", "One for each person", "1 active", "jane.doe@example.com")
	ops.inspect("dashboard-quiet")

	// The page follows without being loaded anew: it is told that something has changed, and fetches what is new.
	ops.open("/ops")
	ops.do(chromedp.Evaluate(`window.untouched = true`, nil))
	other := s.as(t, "ops")
	other.open("/ops")
	other.press("broken")
	other.press("Refresh now")
	other.reads("That did not work", "invalid_client")
	other.inspect("dashboard-failed")
	ops.do(chromedp.WaitReady(`//strong[text()="Refused"]`, chromedp.BySearch))
	ops.reads("1 of 4 needs somebody", "invalid_client")
	if !js[bool](ops, `window.untouched === true`) {
		t.Error("the page was loaded anew")
	}
	if first := js[string](ops, `document.querySelector(".board h2 a").textContent`); first != "broken" {
		t.Errorf("%s comes first, not what needs somebody", first)
	}

	ops.open("/ops")
	ops.press("billing")
	ops.press("Refresh now")
	ops.reads("The token was replaced.", "Active", "forced by ops", "100 % of 1 in 24 h", "Of late", "token.refresh")
	if left := js[string](ops, `document.querySelector("time[data-until]").textContent`); !strings.HasPrefix(left, "token ends in 5") && !strings.HasPrefix(left, "token ends in 1 h") {
		t.Errorf("the countdown says %q", left)
	}
	ops.inspect("dashboard-machine")
	dashboardPeople(t, s, ops)
	ops.open("/ops")
	ops.inspect("dashboard")
	ops.press("What was done")
	ops.reads("the newest first", "token.refresh failed · broken by ops", "token.rollback done · team by ops")
	ops.inspect("dashboard-audit")

	jane.open("/ops")
	jane.press("billing")
	if n := js[int](jane, `document.querySelectorAll("form, .end").length`); n != 0 {
		t.Errorf("who may only look is offered %d buttons", n)
	}
	s.as(t, "").open("/ops")
	s.keepsSecrets(t, jane)
	s.caddy.KeepsSecrets(t, append(s.seen(), lab.Secret)...)
}

// dashboardPeople presses the buttons of connections that people authorize.
func dashboardPeople(t *testing.T, s *site, ops *person) {
	t.Helper()
	ops.open("/ops")
	ops.press("team")
	ops.press("Test")
	ops.reads("The API accepts the token", "jane.doe@example.com")
	ops.press("Back")
	ops.press("Refresh now")
	ops.reads("The token was replaced.", "History", "authorized")
	ops.press("Roll back to version 1")
	ops.reads("The earlier version is back", "token.rollback done by ops") // the next refresh may have come already
	ops.inspect("dashboard-person")
	ops.press("Reauthorize")
	ops.reads("Connect the account")
	ops.inspect("dashboard-authorize")
	if link := js[string](ops, `document.querySelector(".acts a").getAttribute("href")`); !strings.HasSuffix(link, "/connect/authorize/team") {
		t.Errorf("the way to connect is %q", link)
	}
	ops.open("/ops")
	ops.press("drive")
	ops.reads("Whose", "jane")
	ops.inspect("dashboard-subjects")
	ops.press("jane")
	ops.reads("drive for jane", "authorized by jane")
	ops.press("Revoke")
	ops.reads("End drive?", "The provider is told")
	ops.inspect("dashboard-confirm")
	ops.press("Disconnect")
	ops.reads("The connection was ended", "Disconnected")
	if revoked := s.op.Stats(t).Requests["POST /token/revocation"]; revoked != 1 {
		t.Errorf("the provider heard %d times of the end", revoked)
	}
}
