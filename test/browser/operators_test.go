//go:build integration

package browser

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"

	"github.com/caddyoauth/caddyoauth/test/lab"
)

// testRoles: whoever may only look is offered nothing to press, operators what they may, and administrators all; on every page.
func testRoles(t *testing.T, s *troubles) {
	for _, tt := range []struct {
		name     string
		may      func(buttons string) string
		rollBack bool
	}{
		{"jane", func(string) string { return "" }, false},
		{"desk", func(buttons string) string { return strings.TrimSuffix(buttons, ", Revoke") }, false},
		{"ops", func(buttons string) string { return buttons }, true},
	} {
		visitor := s.site.as(s.t, tt.name).during(t)
		visitor.open("/ops")
		pages := js[map[string]string](visitor, `Object.fromEntries([...document.querySelectorAll("h2 a")].map(a => [a.innerText, a.getAttribute("href")]))`)
		if n := js[int](visitor, `document.querySelectorAll("form[method=post]").length`); n != 0 {
			t.Errorf("the overview offers %s %d buttons", tt.name, n)
		}
		for _, state := range shownStates {
			visitor.open(pages[state.connection])
			if got, want := visitor.buttons(), tt.may(state.buttons); got != want {
				t.Errorf("%s offers %s %q, want %q", state.connection, tt.name, got, want)
			}
			back := js[bool](visitor, `!!document.querySelector("td form")`)
			if back != (tt.rollBack && state.connection == "mail") { // which alone has an earlier version of a person's
				t.Errorf("%s offers %s to roll back: %v", state.connection, tt.name, back)
			}
			if late := strings.Contains(visitor.text(), "Of late"); late && tt.name != "ops" {
				t.Errorf("%s is told what others did to %s", tt.name, state.connection)
			}
		}
	}
	nobody := s.site.as(s.t, "").during(t)
	if status := nobody.open("/ops"); status != http.StatusUnauthorized {
		t.Errorf("nobody: status %d", status)
	}
	nobody.reads("Please sign in")
	for _, state := range shownStates {
		if strings.Contains(nobody.text(), state.connection) {
			t.Errorf("nobody reads of %s", state.connection)
		}
	}
	nobody.inspect("sign-in")
}

// of makes the site take the window for one of a tenant's.
func (p *person) of(tenant string) {
	p.t.Helper()
	p.do(network.SetCookie("tenant", tenant).WithURL(p.site.url).WithHTTPOnly(true).WithSecure(true))
}

// store makes a connection at run time, in the visitor's tenant.
func (p *person) store(name string) {
	p.t.Helper()
	p.open("/plain") // whose policy lets scripts ask the API
	body := fmt.Sprintf(`{name: %q, provider: "custom", grant_type: "client_credentials", client_id: %q, client_secret: %q, token_url: %q}`, name, lab.ClientLong, lab.Secret, p.site.op.TokenEndpoint())
	if status := js[int](p, `fetch("/api/v1/secrets/oauth2", {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(`+body+`)}).then(r => r.status)`); status != http.StatusCreated {
		p.t.Fatalf("make %s: status %d", name, status)
	}
}

// firstNews is how the stream behind an address begins.
func (p *person) firstNews(address string) string {
	p.t.Helper()
	return js[string](p, `(async () => {
		const reader = (await fetch("`+address+`")).body.getReader();
		const {value} = await reader.read();
		await reader.cancel();
		return new TextDecoder().decode(value);
	})()`)
}

// testTenants: a visitor of one tenant sees nothing of another one, nor of what belongs to none: not in the pages, not by guessing an
// address, and not by the stream that tells of changes.
func testTenants(t *testing.T, s *troubles) {
	acme, globex := s.site.as(s.t, "ann").during(t), s.site.as(s.t, "gil").during(t)
	acme.of("acme")
	globex.of("globex")
	acme.store("orders")
	globex.store("payroll")
	pages := make(map[*person]string)
	for p, theirs := range map[*person]string{acme: "orders", globex: "payroll"} {
		p.open("/of")
		p.reads(theirs, "Active")
		p.inspect("tenant")
		p.press(theirs)
		pages[p] = p.at()
		p.reads(theirs, "Refresh now")
	}
	for _, path := range []string{pages[globex], "/of/00000000-0000-4000-8000-000000000000"} {
		if status := acme.open(path); status != http.StatusNotFound {
			t.Errorf("%s: status %d", path, status)
		}
		acme.reads("Nothing here", "There is no such connection, or it is not yours to see.")
		if status := js[int](acme, `fetch("`+path+`/refresh", {method: "POST"}).then(r => r.status)`); status != http.StatusNotFound {
			t.Errorf("refresh %s: status %d", path, status)
		}
	}
	if status := s.ops.during(t).open("/of"); status != http.StatusUnauthorized {
		t.Errorf("whoever is of no tenant: status %d", status)
	}

	acme.open("/of")
	globex.open("/of")
	news := `(() => {
		const address = new URL(document.body.dataset.news, location), {seen} = document.querySelector("main").dataset;
		if (seen) address.searchParams.set("seen", seen);
		return address.href;
	})()`
	here, there := js[string](acme, news), js[string](globex, news)
	globex.press("payroll")
	globex.press("Refresh now")
	globex.reads("The token was replaced.")
	if told := globex.firstNews(there); !strings.Contains(told, "data:") {
		t.Errorf("globex is told %q", told)
	}
	if told := acme.firstNews(here); told == "" || strings.Contains(told, "data:") {
		t.Errorf("acme is told %q", told)
	}
	foreign := []string{"payroll", "globex", strings.TrimPrefix(pages[globex], "/of/")}
	for _, state := range shownStates {
		foreign = append(foreign, ">"+state.connection+"<")
	}
	if where := acme.seen.leaks(foreign[:2]); len(where) > 0 {
		t.Errorf("acme read of globex in %q", where)
	}
	for _, name := range foreign[3:] {
		if where := acme.seen.leaks([]string{name}); len(where) > 0 {
			t.Errorf("acme read of %s in %q", name, where)
		}
	}
	if where := globex.seen.leaks(foreign[:1]); len(where) == 0 {
		t.Error("globex did not read of its own, so that this proves nothing")
	}
}

// testNews: what happens is seen without loading the page anew, the keyboard stays where it was, and the page finds back after Caddy
// was away.
func testNews(t *testing.T, s *troubles) {
	ops, other := s.site.as(s.t, "ops").during(t), s.ops.during(t)
	ops.open("/ops")
	ops.do(chromedp.Evaluate(`window.untouched = true`, nil))
	ops.tabTo("reports")
	end := `[...document.querySelectorAll(".board > li")].find(li => li.querySelector("h2 a").innerText === "billing").querySelector("time[data-until]").textContent`
	before := js[string](ops, end)
	ops.do(chromedp.Poll(end+" !== "+fmt.Sprintf("%q", before), nil)) // it counts down
	follows := func(connection, word string) {
		t.Helper()
		ops.do(chromedp.WaitReady(fmt.Sprintf(`//li[.//h2/a[text()=%q]]//strong[text()=%q]`, connection, word), chromedp.BySearch))
		if at := js[string](ops, focused); at != "reports" {
			t.Errorf("the keyboard is at %q", at)
		}
		if !js[bool](ops, `window.untouched === true`) {
			t.Error("the page was loaded anew")
		}
	}
	other.open("/ops")
	other.press("reports")
	other.press("Refresh now")
	follows("reports", "Active")
	s.site.caddy.Stop(s.t)
	s.site.caddy = lab.StartCaddy(s.t, s.site.dir, s.site.global, s.site.sites())
	other.open("/ops")
	other.press("mail")
	other.press("Revoke")
	other.press("Disconnect")
	follows("mail", "Disconnected")
}

// testWithoutScript: everything can be read and every button works without JavaScript.
func testWithoutScript(t *testing.T, s *troubles) {
	ops := s.site.as(s.t, "ops").during(t)
	ops.do(emulation.SetScriptExecutionDisabled(true))
	rows, _ := ops.overview()
	told := 0
	for _, row := range rows {
		for _, state := range shownStates {
			if row.Name != state.connection || row.Word != state.word { // what the parts before have changed
				continue
			}
			if !strings.Contains(row.Text, state.advice) {
				t.Errorf("the overview says of %s: %s", row.Name, row.Text)
			}
			ops.open("/ops")
			ops.press(row.Name)
			ops.reads(state.word, state.advice)
			told++
		}
	}
	ops.open("/ops")
	if without, with := ops.seen.asked("/ops/news"), s.ops.seen.asked("/ops/news"); told < 10 || without || !with {
		t.Errorf("%d states can be read; the page asks for news without scripts: %v, with them: %v", told, without, with)
	}
	ops.press("mail")
	ops.press("Connect")
	ops.reads("Connect the account", "The person whose account it is has to do this")
	ops.press("Go on")
	ops.agrees("team@example.com")
	ops.reads("Google is connected")
	for _, step := range []struct{ press, reads string }{
		{"Test", "The API accepts the token"}, {"Back", "History"}, {"Refresh now", "The token was replaced."}, {"Reauthorize", "Connect the account"},
		{"Back", "History"}, {"Revoke", "End mail?"}, {"Keep it", "Active"}, {"All connections", "need somebody"},
	} {
		if step.press == "Test" {
			ops.open("/ops")
			ops.press("mail")
		}
		ops.press(step.press)
		ops.reads(step.reads)
	}
	ops.press("mail")
	ops.press(js[string](ops, `document.querySelector("td .button").textContent`))
	ops.reads("The earlier version is back")
	ops.press("Revoke")
	ops.press("Disconnect")
	ops.reads("The connection was ended", "Disconnected")
	ops.remember()
}

// asked reports whether the browser asked for such an address.
func (w *watch) asked(path string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, one := range w.heard {
		if one.where == "request" && strings.HasPrefix(one.text, w.site+path) {
			return true
		}
	}
	return false
}
