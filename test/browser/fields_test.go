//go:build integration

package browser

import (
	"net/http"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// testFields: what people are asked for first is a form that a keyboard and a screen reader can fill in, that says what is wrong
// with an answer, and that the policy of its page lets through to the provider.
func testFields(t *testing.T, s *site) {
	jane := s.as(t, "jane")
	enter := chromedp.KeyEvent(kb.Enter)
	if jane.open("/connect/authorize/shop?return_to=%2Fplain"); jane.at() != "/connect/authorize/shop?return_to=%2Fplain" {
		t.Fatalf("nobody asks, the browser is at %s", jane.at())
	}
	jane.reads("Connect shop", "Region", "Such as eu")
	jane.inspect("fields")
	jane.do(chromedp.Focus("input[name=region]"), enter)
	if !js[bool](jane, `document.querySelector("input[name=region]:user-invalid") !== null`) {
		t.Error("the browser does not say that an answer is missing")
	}
	if status := jane.goes(chromedp.KeyEvent("mars"), enter); status != http.StatusUnprocessableEntity {
		t.Errorf("a wrong answer: status %d", status)
	}
	jane.reads("This does not fit. It looks like eu.")
	jane.waitFor("input[name=region]")
	told := js[string](jane, `document.activeElement.getAttribute("aria-describedby").split(" ").map(id => document.getElementById(id).innerText).join(" ")`)
	if told != "This does not fit. It looks like eu. Such as eu" {
		t.Errorf("the keyboard is at a field of which a screen reader says %q", told)
	}
	jane.inspect("fields-wrong")
	jane.do(chromedp.SetValue("input[name=region]", "eu"))
	jane.press("Go on")
	if status := jane.agrees("jane"); status != http.StatusOK || jane.at() != "/plain" {
		t.Fatalf("in the end: status %d at %s", status, jane.at())
	}
	jane.open("/connect/authorize/shop")
	if before := js[string](jane, `document.querySelector("input[name=region]").value`); before != "eu" {
		t.Errorf("the form has forgotten the answer, and says %q", before)
	}
	s.keepsSecrets(t, jane)
}
