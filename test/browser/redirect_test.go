//go:build integration

package browser

import (
	"net/http"
	"strings"
	"testing"
)

// testRedirectToConnect: a browser goes to the provider at once and comes back to where it was; scripts and frames on the same path do
// not, and who cancels is not sent again.
func testRedirectToConnect(t *testing.T, s *site) {
	jane := s.as(t, "jane")
	jane.open("/plain")
	fetched := js[[]string](jane, `fetch("/straight/files", {headers: {Accept: "text/html"}}).then(async r => [String(r.status), r.url, (await r.text()).slice(0, 20)])`)
	if fetched[0] != "403" || !strings.HasSuffix(fetched[1], "/straight/files") {
		t.Errorf("a script got %v", fetched)
	}
	jane.open("/connect")
	jane.open("/straight/files?page=2")
	if !strings.HasPrefix(jane.at(), "elsewhere: "+s.op.Issuer()) {
		t.Fatalf("the browser is at %s", jane.at())
	}
	jane.press("[ Cancel ]")
	jane.reads("You did not give your consent")
	if status := jane.open("/straight/files?page=2"); status != http.StatusForbidden || jane.at() != "/straight/files?page=2" {
		t.Fatalf("after cancelling: status %d at %s", status, jane.at())
	}
	jane.reads("Connect drive to go on")
	jane.press("Connect")
	if status := jane.agrees("jane"); status != http.StatusOK || jane.at() != "/straight/files?page=2" {
		t.Errorf("in the end: status %d at %s", status, jane.at())
	}
	joe := s.as(t, "joe")
	joe.open("/straight/files?page=3")
	if status := joe.agrees("joe"); status != http.StatusOK || joe.at() != "/straight/files?page=3" {
		t.Errorf("straight through: status %d at %s", status, joe.at())
	}
	s.keepsSecrets(t, jane, joe)
}
