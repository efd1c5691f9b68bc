//go:build integration

package browser

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// focused is what the keyboard is at, as a screen reader would name it.
const focused = `document.activeElement.innerText.replace(/\s+/g, " ").trim()`

// tabTo presses Tab until the keyboard is at that button or link, and fails the test when it is not visible there.
func (p *person) tabTo(name string) {
	p.t.Helper()
	var met []string
	for range 60 {
		p.do(chromedp.KeyEvent(kb.Tab))
		at := js[string](p, focused)
		if at != name {
			met = append(met, at)
			continue
		}
		if !js[bool](p, `(s => s.outlineStyle !== "none" && parseFloat(s.outlineWidth) >= 2)(getComputedStyle(document.activeElement))`) {
			p.t.Errorf("%s: nobody can see that the keyboard is there", name)
		}
		return
	}
	p.t.Fatalf("the keyboard does not come to %q at %s, only to %q", name, p.at(), met)
}

// waitFor waits until the keyboard is where the page puts it: browsers do so a moment after the page is loaded.
func (p *person) waitFor(selector string) {
	p.t.Helper()
	p.do(chromedp.Poll(fmt.Sprintf(`document.activeElement.matches(%q)`, selector), nil))
}

// testKeyboard: the whole way without a mouse, from the refused request to the end of the connection.
func testKeyboard(t *testing.T, s *site) {
	jane := s.as(t, "jane")
	enter := chromedp.KeyEvent(kb.Enter)
	jane.open("/files")
	jane.tabTo("Connect")
	jane.goes(enter)
	jane.waitFor("input[name=login]") // which has the keyboard, as the consent page's button has
	jane.goes(chromedp.KeyEvent("jane"), chromedp.KeyEvent(kb.Tab), chromedp.KeyEvent("any"), enter)
	jane.waitFor("button[type=submit]")
	if status := jane.goes(enter); status != http.StatusOK || jane.at() != "/files" {
		t.Fatalf("after connecting: status %d at %s", status, jane.at())
	}
	jane.open("/connect")
	jane.tabTo("Permissions of drive")
	jane.do(enter)
	jane.reads("api:read")
	jane.tabTo("Reconnect drive")
	jane.tabTo("Disconnect drive")
	jane.goes(enter)
	jane.reads("Disconnect drive?")
	jane.tabTo("Disconnect")
	if status := jane.goes(enter); status != http.StatusOK || jane.at() != "/connect/done/drive" {
		t.Fatalf("after disconnecting: status %d at %s", status, jane.at())
	}
	jane.tabTo("Connected accounts")
	jane.goes(enter)
	jane.reads("Not connected")
	jane.tabTo("For the operator of this site")
	jane.do(enter)
	jane.reads("/connect/callback")
}
