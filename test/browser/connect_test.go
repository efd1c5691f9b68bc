//go:build integration

package browser

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"

	"github.com/caddyoauth/caddyoauth/test/lab"
)

// TestConnect: from the refused request to the Connect button, the provider's pages, back to where it began; then the list, and the
// end of the connection.
func TestConnect(t *testing.T) {
	t.Parallel()
	s := startSite(t, (*site).showcase)
	jane := s.as(t, "jane")
	if status := jane.open("/files?page=2"); status != http.StatusForbidden {
		t.Fatalf("before connecting: status %d", status)
	}
	jane.reads("Connect Google to go on")
	jane.inspect("problem")
	jane.press("Connect")
	if status := jane.agrees("jane.doe@example.com"); status != http.StatusOK || jane.at() != "/files?page=2" {
		t.Fatalf("after connecting: status %d at %s", status, jane.at())
	}
	jane.reads("The API at /files")

	jane.open("/connect")
	jane.reads("jane.doe@example.com", "Connected · refreshed just now", "Signed in as jane", "Not connected · shared by all who use this site")
	jane.picture("connect-accounts-light")
	jane.picture("connect-accounts-dark")
	jane.look(desk, "light")
	jane.do(chromedp.Click(`//summary[starts-with(normalize-space(), "Permissions")]`, chromedp.BySearch),
		chromedp.Click(`//summary[starts-with(normalize-space(), "For the operator")]`, chromedp.BySearch))
	jane.reads("api:read", s.url+"/connect/callback")
	jane.inspect("list")

	jane.press("Disconnect Google")
	jane.reads("Disconnect Google?", "jane.doe@example.com", "stops working until you connect it again")
	jane.inspect("confirm")
	jane.press("Keep it")
	jane.reads("Connected · refreshed")
	jane.press("Disconnect Google")
	if status := jane.press("Disconnect"); status != http.StatusOK || jane.at() != "/connect/done/drive" {
		t.Fatalf("after disconnecting: status %d at %s", status, jane.at())
	}
	jane.reads("Google is not connected")
	jane.inspect("disconnected")
	if status := jane.open("/files"); status != http.StatusForbidden {
		t.Errorf("after disconnecting: status %d", status)
	}
	if revoked := s.op.Stats(t).Requests["POST /token/revocation"]; revoked != 1 {
		t.Errorf("the provider heard %d times of the end", revoked)
	}
	s.keepsSecrets(t, jane)
}

// TestProviderFails: an API that refuses the first call is named after connecting, and a provider that cannot be told of the end does not
// keep the connection alive here.
func TestProviderFails(t *testing.T) {
	t.Parallel()
	s := startSite(t, (*site).showcase)
	jane := s.as(t, "jane")
	s.op.SetFaults(t, lab.Fault{Path: "/me", Status: http.StatusForbidden, Body: "{}"})
	jane.open("/connect/authorize/drive?return_to=%2Ffiles")
	jane.agrees("jane")
	jane.reads("Google is connected, but its API refuses")
	jane.inspect("untested")
	jane.press("Go on")
	jane.reads("The API at /files")
	s.op.SetFaults(t, lab.Fault{Path: "/token/revocation", Status: http.StatusServiceUnavailable})
	jane.open("/connect/disconnect/drive")
	if status := jane.press("Disconnect"); status != http.StatusOK {
		t.Errorf("disconnecting while the provider is down: status %d", status)
	}
	jane.reads("Google is disconnected here", "The provider could not be told", "remove this site")
	jane.inspect("not-told")
	jane.press("Connected accounts")
	jane.reads("Not connected")
	s.keepsSecrets(t, jane)
}

// keepsSecrets fails the test if a code or a state that a browser brought back stands in a log.
func (s *site) keepsSecrets(t *testing.T, people ...*person) {
	t.Helper()
	people[0].open("/connect?is=logged")
	lab.Eventually(t, "requests are logged", func() error {
		if !strings.Contains(s.accessLog(t), `"uri":"/connect?is=logged"`) {
			return errors.New("they are not")
		}
		return nil
	})
	logs := s.accessLog(t) + s.caddy.Log(t)
	for _, p := range people {
		for _, callback := range p.seen.all(t) {
			for _, name := range []string{"code", "state"} {
				if value := queryOf(t, callback).Get(name); value != "" && strings.Contains(logs, value) {
					t.Errorf("the %s of a callback was logged", name)
				}
			}
		}
	}
	if strings.Contains(logs, "code=") || strings.Contains(s.accessLog(t), "/connect/callback") {
		t.Error("a code was logged, or a callback")
	}
}

// testDeny: who cancels at the provider is told so, nothing is connected, and there is a way to try again.
func testDeny(t *testing.T, s *site) {
	jane := s.as(t, "jane")
	jane.open("/connect/authorize/drive?return_to=%2Ffiles")
	if status := jane.press("[ Cancel ]"); status != http.StatusForbidden {
		t.Errorf("status %d", status)
	}
	jane.reads("Not connected", "You did not give your consent", "Nothing was connected", "access_denied")
	jane.inspect("denied")
	jane.press("Connected accounts")
	jane.reads("Not connected")
	jane.open("/connect/authorize/drive?return_to=%2Ffiles")
	jane.press("[ Cancel ]")
	jane.press("Try again")
	if status := jane.agrees("jane"); status != http.StatusOK || jane.at() != "/files" {
		t.Errorf("the second try ended with status %d at %s", status, jane.at())
	}
	s.keepsSecrets(t, jane)
}

// testReconnect: an account can be connected again while it is connected, and when the provider has ended it.
func testReconnect(t *testing.T, s *site) {
	jane := s.as(t, "jane")
	jane.connects("jane", "drive")
	jane.reads("drive is connected", "This site can now use the account on your behalf", "api:read")
	jane.inspect("connected")
	jane.press("Connected accounts")
	jane.press("Reconnect drive")
	if status := jane.agrees("jane"); status != http.StatusOK || jane.at() != "/connect/done/drive" {
		t.Fatalf("reconnecting ended with status %d at %s", status, jane.at())
	}
	if status := jane.open("/files"); status != http.StatusOK {
		t.Errorf("after reconnecting: status %d", status)
	}
}

// testSharedAccount: who connects or ends the account of all is told that it is.
func testSharedAccount(t *testing.T, s *site) {
	jane := s.as(t, "jane")
	jane.connects("jane", "team")
	jane.reads("Everybody who uses this site now uses this account")
	jane.open("/connect/disconnect/team")
	jane.reads("it stops working for everybody who uses this site")
	jane.inspect("confirm-shared")
}

// testProviderRefuses: what only the operator can put right says so, with the code and the redirect URI; what will pass says that.
func testProviderRefuses(t *testing.T, s *site) {
	jane := s.as(t, "jane")
	jane.open("/connect/authorize/wrong-secret")
	if status := jane.agrees("jane"); status != http.StatusBadGateway {
		t.Errorf("a wrong secret: status %d", status)
	}
	jane.reads("The provider refuses this site", "invalid_client", "Nothing was connected", s.url+"/connect/callback")
	jane.inspect("refused")
	if status := jane.open("/connect/authorize/wrong-scope"); status != http.StatusBadGateway {
		t.Errorf("a wrong scope: status %d", status)
	}
	jane.reads("The provider refuses this site", "invalid_scope", "tell the operator")
	jane.open("/connect/authorize/down")
	if status := jane.agrees("jane"); status != http.StatusBadGateway {
		t.Errorf("a provider that is down: status %d", status)
	}
	jane.reads("The provider has trouble", "Nothing was connected", "try again in a little while")
	jane.inspect("trouble")
	jane.press("Connected accounts")
	s.keepsSecrets(t, jane)
}

// testWrongPerson: what one person began, another one cannot finish, in the same window or in another. The one who began still can.
func testWrongPerson(t *testing.T, s *site) {
	jane, elsewhere := s.as(t, "jane"), s.as(t, "jane")
	jane.open("/connect/authorize/drive")
	jane.signIn("joe") // in the same window, before she comes back
	if status := jane.agrees("jane"); status != http.StatusForbidden {
		t.Errorf("finished by somebody else: status %d", status)
	}
	jane.reads("This was begun elsewhere", "Signed in as joe", "Nothing was connected", "begin again in this browser")
	jane.inspect("elsewhere")
	back := jane.seen.callback(t)
	if status := elsewhere.open(back); status != http.StatusForbidden {
		t.Errorf("finished in another browser: status %d", status)
	}
	elsewhere.reads("This was begun elsewhere")
	elsewhere.open("/connect")
	jane.signIn("jane")
	if jane.open(back); jane.at() != "/connect/done/drive" {
		t.Errorf("finished by who began: at %s:\n%s", jane.at(), jane.text())
	}
	jane.reads("drive is connected")
	s.keepsSecrets(t, jane, elsewhere)
}

// TestExpired: an authorization that took too long, and was swept away, has to begin again.
func TestExpired(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	jane := s.as(t, "jane")
	jane.open("/connect/authorize/drive")
	pending, err := filepath.Glob(filepath.Join(s.dir, "data", "caddy", "oauth2_inject", "tenants", "*", "pending", "*.json"))
	if err != nil || len(pending) != 1 {
		t.Fatalf("under way are %v, %v", pending, err)
	}
	if err := os.Remove(pending[0]); err != nil {
		t.Fatal(err)
	}
	if status := jane.agrees("jane"); status != http.StatusBadRequest {
		t.Errorf("status %d", status)
	}
	jane.reads("Please begin again", "within 15 minutes")
	jane.inspect("expired")
	jane.press("Connected accounts")
	jane.reads("Not connected")
	s.keepsSecrets(t, jane)
}

// TestReplay: a callback works once, whether it comes again from the history, by a reload, or from somebody's notes.
func TestReplay(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	jane := s.as(t, "jane")
	jane.connects("jane", "drive")
	jane.goes(chromedp.Reload())
	jane.reads("drive is connected") // what can be reloaded is not the callback
	if status := jane.open(jane.seen.callback(t)); status != http.StatusBadRequest {
		t.Errorf("the second time: status %d", status)
	}
	jane.reads("Please begin again", "If you have just connected an account, all is well")
	if status := jane.goes(chromedp.Reload()); status != http.StatusBadRequest {
		t.Errorf("reloaded: status %d", status)
	}
	jane.goes(chromedp.NavigateBack())
	jane.reads("drive is connected")
	jane.press("Connected accounts")
	if status := jane.open("/files"); status != http.StatusOK {
		t.Errorf("after the replay: status %d", status)
	}
	stats := s.op.Stats(t)
	if stats.TokenRequests() != 1 || stats.Events["grant.revoked"] > 0 {
		t.Errorf("%d token requests, %d revoked grants; want 1, 0", stats.TokenRequests(), stats.Events["grant.revoked"])
	}
	s.keepsSecrets(t, jane)
}

// testTwoTabs: two authorizations in one window do not disturb each other, and the later consent counts.
func testTwoTabs(t *testing.T, s *site) {
	first := s.as(t, "jane")
	first.open("/connect/authorize/drive?return_to=%2Fone")
	second := first.tab()
	second.open("/connect/authorize/drive?return_to=%2Ftwo")
	if status := second.agrees("jane"); status != http.StatusOK || second.at() != "/two" {
		t.Errorf("the second tab: status %d at %s", status, second.at())
	}
	if status := first.agrees("jane"); status != http.StatusOK || first.at() != "/one" {
		t.Errorf("the first tab: status %d at %s", status, first.at())
	}
	if second.open("/connect"); second.at() != "/connect" {
		t.Errorf("at %s", second.at())
	}
	second.reads("Connected · refreshed just now")
}

// testCookie: by https the browser keeps the cookie with the prefix, out of reach of scripts and of other sites; it comes back with
// the navigation from the provider, which is another site.
func testCookie(t *testing.T, s *site) {
	jane := s.as(t, "jane")
	jane.connects("jane", "drive")
	var cookies []*network.Cookie
	jane.do(chromedp.ActionFunc(func(ctx context.Context) (err error) {
		cookies, err = network.GetCookies().WithURLs([]string{s.url + "/connect"}).Do(ctx)
		return err
	}))
	for _, cookie := range cookies {
		if cookie.Name == "__Host-oauth2_connect" && cookie.HTTPOnly && cookie.Secure && cookie.SameSite == network.CookieSameSiteLax && cookie.Path == "/" {
			return
		}
	}
	t.Errorf("the browser has %d cookies, and none as it should be", len(cookies))
}
