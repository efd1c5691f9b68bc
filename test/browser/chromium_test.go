//go:build integration

package browser

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/audits"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/fetch"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/cdproto/target"
	"github.com/chromedp/chromedp"

	"github.com/caddyoauth/caddyoauth/test/lab"
)

func TestMain(m *testing.M) { lab.Main(m) }

// chromium is the one browser of all tests. Each person has a context of their own in it, as a private window has: no cookies of
// somebody else's.
var chromium = sync.OnceValues(func() (context.Context, error) {
	path, err := exec.LookPath("chromium")
	if err != nil {
		return nil, fmt.Errorf("chromium is missing: run make test-parts")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("ignore-certificate-errors", true), // the lab's own CA
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true),
		// The login page of the authorization server asks for a web font.
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"),
	)
	allocator, _ := chromedp.NewExecAllocator(context.Background(), options...) // ends with the test process
	ctx, _ := chromedp.NewContext(allocator)
	return ctx, chromedp.Run(ctx)
})

// patience is how long a step in the browser may take.
const patience = 45 * time.Second

// person is somebody with a window of their own.
type person struct {
	t      *testing.T
	site   *site
	window cdp.BrowserContextID
	ctx    context.Context // of the tab
	seen   *watch
}

// as opens a window for somebody who is signed in to the site; "" is nobody. What the browser complains about on the site's pages
// fails the test.
func (s *site) as(t *testing.T, name string) *person {
	t.Helper()
	browser, err := chromium()
	if err != nil {
		t.Fatal(err)
	}
	p := &person{t: t, site: s}
	direct := cdp.WithExecutor(browser, chromedp.FromContext(browser).Browser)
	if p.window, err = target.CreateBrowserContext().Do(direct); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = target.DisposeBrowserContext(p.window).Do(direct) })
	p.begin()
	p.signIn(name)
	return p
}

// during is the same person for a part of the test.
func (p *person) during(t *testing.T) *person {
	t.Helper()
	here := *p
	here.t = t
	return &here
}

// tab opens another tab in the same window.
func (p *person) tab() *person {
	p.t.Helper()
	other := &person{t: p.t, site: p.site, window: p.window}
	other.begin()
	return other
}

// begin opens the tab and watches it.
func (p *person) begin() {
	p.t.Helper()
	browser, err := chromium()
	if err != nil {
		p.t.Fatal(err)
	}
	// chromedp's own way fails in a context that has no window yet.
	id, err := target.CreateTarget("about:blank").WithBrowserContextID(p.window).WithNewWindow(true).
		Do(cdp.WithExecutor(browser, chromedp.FromContext(browser).Browser))
	if err != nil {
		p.t.Fatal(err)
	}
	ctx, cancel := chromedp.NewContext(browser, chromedp.WithTargetID(id))
	p.t.Cleanup(cancel)
	p.ctx, p.seen = ctx, &watch{site: p.site.url}
	p.site.mu.Lock()
	p.site.watches = append(p.site.watches, p.seen)
	p.site.mu.Unlock()
	chromedp.ListenTarget(p.ctx, p.seen.event)
	chromedp.ListenTarget(p.ctx, p.listen)
	if err := chromedp.Run(p.ctx, network.Enable(), log.Enable(), runtime.Enable(), audits.Enable()); err != nil {
		p.t.Fatalf("open a tab: %v", err)
	}
	p.overhear()
	p.t.Cleanup(func() {
		for _, complaint := range p.seen.complaints() {
			p.t.Errorf("the browser complained: %s", complaint)
		}
	})
}

// signIn makes the site take the window for somebody's, as a session cookie does.
func (p *person) signIn(name string) {
	p.t.Helper()
	if name == "" {
		p.do(network.DeleteCookies("user").WithURL(p.site.url))
		return
	}
	if _, test, shared := strings.Cut(p.t.Name(), "/"); shared {
		name += " of " + test // the Janes of two tests are not the same
	}
	p.do(network.SetCookie("user", url.QueryEscape(name)).WithURL(p.site.url).WithHTTPOnly(true).WithSecure(true))
}

// do runs steps in the tab.
func (p *person) do(steps ...chromedp.Action) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	if err := chromedp.Run(ctx, steps...); err != nil {
		p.t.Fatalf("%v, at %s", err, p.seen.at())
	}
}

// goes runs steps that lead to another page, and returns its status.
func (p *person) goes(steps ...chromedp.Action) int {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	response, err := chromedp.RunResponse(ctx, steps...)
	if err != nil || response == nil {
		p.t.Fatalf("%v, at %s", err, p.seen.at())
	}
	return int(response.Status)
}

// open goes to a page of the site, or to any other.
func (p *person) open(link string) int {
	p.t.Helper()
	if strings.HasPrefix(link, "/") {
		link = p.site.url + link
	}
	return p.goes(chromedp.Navigate(link))
}

// press clicks on the button or link of that name, which a screen reader would read.
func (p *person) press(name string) int {
	p.t.Helper()
	return p.goes(chromedp.Click(fmt.Sprintf(`//*[self::a or self::button][normalize-space()=%q]`, name), chromedp.BySearch))
}

// js evaluates an expression in the page.
func js[T any](p *person, expression string) T {
	p.t.Helper()
	var value T
	p.do(chromedp.Evaluate(expression, &value, func(e *runtime.EvaluateParams) *runtime.EvaluateParams { return e.WithAwaitPromise(true) }))
	return value
}

// at returns path and query of the page, or its whole address when it is not one of the site.
func (p *person) at() string {
	p.t.Helper()
	path, ours := strings.CutPrefix(js[string](p, "location.href"), p.site.url)
	if !ours {
		return "elsewhere: " + path
	}
	return path
}

// text returns what can be read on the page.
func (p *person) text() string { p.t.Helper(); return js[string](p, "document.body.innerText") }

// reads fails the test unless the page says all that.
func (p *person) reads(parts ...string) {
	p.t.Helper()
	text := p.text()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			p.t.Fatalf("the page at %s does not say %q:\n%s", p.at(), part, text)
		}
	}
}

// agrees signs in at the authorization server, if it asks, and gives the consent. It returns the status of the page that follows.
func (p *person) agrees(name string) int {
	p.t.Helper()
	p.site.learn(p.t)
	if js[bool](p, `!!document.querySelector("input[name=login]")`) {
		p.goes(chromedp.SendKeys("input[name=login]", name), chromedp.SendKeys("input[name=password]", "any"), chromedp.Click("button[type=submit]"))
	}
	return p.goes(chromedp.Click("button[type=submit]"))
}

// connects goes the whole way from the list.
func (p *person) connects(name, connection string) {
	p.t.Helper()
	p.open("/connect/authorize/" + connection)
	if status := p.agrees(name); status != 200 || p.at() != "/connect/done/"+connection {
		p.t.Fatalf("connecting ended with status %d at %s:\n%s", status, p.at(), p.text())
	}
}

// holdBack goes to the provider and back, but keeps the browser from opening the callback; it returns where that is.
func (p *person) holdBack(connection string) string {
	p.t.Helper()
	p.open("/connect/authorize/" + connection)
	p.overhear(&fetch.RequestPattern{URLPattern: p.site.url + "/connect/callback*"})
	chromedp.ListenTarget(p.ctx, func(event any) {
		if paused, ok := event.(*fetch.EventRequestPaused); ok && paused.ResponseStatusCode == 0 {
			direct := cdp.WithExecutor(p.ctx, chromedp.FromContext(p.ctx).Target)
			go func() { _ = fetch.FailRequest(paused.RequestID, network.ErrorReasonAborted).Do(direct) }() // an event may not wait
		}
	})
	if js[bool](p, `!!document.querySelector("input[name=login]")`) {
		p.goes(chromedp.SendKeys("input[name=login]", "somebody"), chromedp.SendKeys("input[name=password]", "any"), chromedp.Click("button[type=submit]"))
	}
	p.do(chromedp.Click("button[type=submit]"))
	lab.Eventually(p.t, "the provider sends the browser back", func() error {
		if p.seen.came() == 0 {
			return errors.New("it has not")
		}
		return nil
	})
	return p.seen.callback(p.t)
}

// letThrough ends holdBack.
func (p *person) letThrough() { p.t.Helper(); p.overhear() }

// cookies returns those that the browser would send to the pages.
func (p *person) cookies() map[string]string {
	p.t.Helper()
	found := make(map[string]string)
	p.do(chromedp.ActionFunc(func(ctx context.Context) error {
		cookies, err := network.GetCookies().WithURLs([]string{p.site.url + "/connect"}).Do(ctx)
		for _, cookie := range cookies {
			found[cookie.Name] = cookie.Value
		}
		return err
	}))
	return found
}

// watch keeps what the browser reports of a tab.
type watch struct {
	site string

	mu        sync.Mutex // guards the fields below
	page      string
	wrong     []string
	callbacks []string // every request for the callback, in full
	heard     []heard
}

func (w *watch) event(event any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch e := event.(type) {
	case *network.EventRequestWillBeSent:
		if e.Type == network.ResourceTypeDocument {
			w.page = e.Request.URL
		}
		w.checkReferrer(e.Request)
		if strings.HasPrefix(e.Request.URL, w.site+"/connect/callback?") {
			w.callbacks = append(w.callbacks, e.Request.URL)
		} else {
			w.heard = append(w.heard, heard{"request", e.Request.URL})
		}
	case *network.EventEventSourceMessageReceived:
		w.heard = append(w.heard, heard{"news", e.EventID + " " + e.EventName + " " + e.Data})
	case *log.EventEntryAdded:
		// That an answer has a status of 400 or more is what many tests are about.
		if e.Entry.Source != log.SourceNetwork {
			w.complain(e.Entry.Text)
		}
		w.heard = append(w.heard, heard{"console", e.Entry.Text})
	case *runtime.EventConsoleAPICalled:
		for _, arg := range e.Args {
			w.heard = append(w.heard, heard{"console", string(arg.Value)})
		}
		w.complain(fmt.Sprintf("console.%s", e.Type))
	case *runtime.EventExceptionThrown:
		w.complain(e.ExceptionDetails.Error())
	case *audits.EventIssueAdded:
		if csp := e.Issue.Details.ContentSecurityPolicyIssueDetails; csp != nil {
			w.complain("Content-Security-Policy: " + csp.ViolatedDirective)
		}
	}
}

// checkReferrer keeps a complaint when a page of the site told somebody else its address, or anybody a code.
func (w *watch) checkReferrer(r *network.Request) {
	from, _ := r.Headers["Referer"].(string)
	if !strings.HasPrefix(from, w.site+"/connect") {
		return
	}
	if strings.Contains(from, "code=") || !strings.HasPrefix(r.URL, w.site+"/") {
		w.wrong = append(w.wrong, "a Referer goes from the pages to "+r.URL)
	}
}

// complain keeps a complaint about a page of the site; those about the authorization server's are not ours.
func (w *watch) complain(what string) {
	if strings.HasPrefix(w.page, w.site) {
		w.wrong = append(w.wrong, what)
	}
}

// complaints returns what there was to complain about since the last call.
func (w *watch) complaints() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	wrong := w.wrong
	w.wrong = nil
	return wrong
}

// at returns the address of the page without its query, which may hold a code.
func (w *watch) at() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	page, _, _ := strings.Cut(w.page, "?")
	return page
}

// came returns how often the browser was sent to the callback.
func (w *watch) came() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.callbacks)
}

// callback returns the newest request for the callback.
func (w *watch) callback(t *testing.T) string {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.callbacks) == 0 {
		t.Fatal("the browser never came back from the authorization server")
	}
	return w.callbacks[len(w.callbacks)-1]
}

// all returns every request for the callback; there must have been one.
func (w *watch) all(t *testing.T) []string {
	t.Helper()
	w.callback(t)
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.callbacks)
}

func queryOf(t *testing.T, link string) url.Values {
	t.Helper()
	u, err := url.Parse(link)
	if err != nil {
		t.Fatal(err)
	}
	return u.Query()
}
