//go:build integration

package browser

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/fetch"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"

	"github.com/caddyoauth/caddyoauth/test/lab"
)

// Whoever looks over the shoulder of a browser, or owns an extension in it, must not come by a secret. So everything is kept that a
// site sends to any browser of these tests, and what the browser makes of it: answers with their headers, streams, the document after
// the scripts have run, storage, cookies, addresses, the console. When a site ends, all that it keeps secret is looked for there.

// heard is something that a browser came to know.
type heard struct{ where, text string }

// hear keeps something that the browser came to know.
func (w *watch) hear(where, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.heard = append(w.heard, heard{where, text})
}

// overhear has the browser hold back each answer of the site until it was kept, besides what else is to be held back.
func (p *person) overhear(also ...*fetch.RequestPattern) {
	p.t.Helper()
	for _, kind := range []network.ResourceType{network.ResourceTypeDocument, network.ResourceTypeFetch, network.ResourceTypeEventSource} {
		also = append(also, &fetch.RequestPattern{URLPattern: p.site.url + "/*", ResourceType: kind, RequestStage: fetch.RequestStageResponse})
	}
	p.do(fetch.Enable().WithPatterns(also))
}

// listen keeps an answer that the browser holds back. What comes bit by bit has no end that could be waited for: a stream of news is
// kept as the page gets it.
func (p *person) listen(event any) {
	paused, ok := event.(*fetch.EventRequestPaused)
	if !ok || paused.ResponseStatusCode == 0 {
		return
	}
	direct := cdp.WithExecutor(p.ctx, chromedp.FromContext(p.ctx).Target)
	go func() { // an event may not wait
		defer func() { _ = fetch.ContinueRequest(paused.RequestID).Do(direct) }()
		var headers strings.Builder
		stream := false
		for _, header := range paused.ResponseHeaders {
			fmt.Fprintf(&headers, "%s: %s\n", header.Name, header.Value)
			stream = stream || strings.EqualFold(header.Name, "Content-Type") && strings.HasPrefix(header.Value, "text/event-stream")
		}
		p.seen.hear("headers", headers.String())
		if stream || paused.ResponseStatusCode/100 == 3 || string(paused.FrameID) != string(chromedp.FromContext(p.ctx).Target.TargetID) {
			return // what is refused to a frame has no body that could be read
		}
		if body, err := fetch.GetResponseBody(paused.RequestID).Do(direct); err == nil {
			p.seen.hear("body", string(body))
		}
	}()
}

// remember keeps what the browser has made of the page, and what it keeps of the site.
func (p *person) remember() {
	p.t.Helper()
	page := js[map[string]string](p, `({
		document: document.documentElement.outerHTML, address: location.href, "cookies for scripts": document.cookie,
		storage: JSON.stringify(localStorage) + JSON.stringify(sessionStorage), history: JSON.stringify(history.state), name: window.name,
	})`)
	if strings.HasPrefix(page["address"], p.site.url+"/connect/callback?") {
		delete(page, "address") // the provider's choice, and what it holds was of no use
	}
	for where, text := range page {
		p.seen.hear(where, text)
	}
	text, err := json.Marshal(p.cookies())
	if err != nil {
		p.t.Fatal(err)
	}
	p.seen.hear("cookies", string(text))
}

// leaks says where one of the secrets was heard, in any form that it may travel in.
func (w *watch) leaks(secrets []string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var where []string
	for _, secret := range secrets {
		for _, form := range []string{secret, url.QueryEscape(secret), url.PathEscape(secret), html.EscapeString(secret), base64.StdEncoding.EncodeToString([]byte(secret))} {
			for _, one := range w.heard {
				if strings.Contains(one.text, form) {
					where = append(where, one.where)
				}
			}
		}
	}
	slices.Sort(where)
	return slices.Compact(where)
}

// knowsNothing fails the test if a browser of the site came to know a secret: of those that are given, the site's own, or a code that
// another page than the callback got.
func (s *site) knowsNothing(t *testing.T, secrets ...string) {
	t.Helper()
	s.mu.Lock()
	watches := slices.Clone(s.watches)
	secrets = slices.Concat(secrets, s.known, s.tokens, []string{lab.Secret, passphrase})
	s.mu.Unlock()
	answers := 0
	for _, w := range watches {
		for _, callback := range w.callbacks {
			secrets = append(secrets, queryOf(t, callback).Get("code"))
		}
		answers += strings.Count(fmt.Sprint(w.heard), "{body ")
	}
	secrets = slices.DeleteFunc(secrets, func(secret string) bool { return len(secret) < 12 }) // of a callback without a code
	for _, w := range watches {
		for _, where := range w.leaks(secrets) {
			t.Errorf("a browser came to know a secret from %s", where)
		}
	}
	if len(watches) > 0 && answers == 0 {
		t.Errorf("%d browsers have got no answer at all", len(watches))
	}
}

// testOverheard: a secret is found wherever a page, an API behind the site, or a script may leave it.
func testOverheard(t *testing.T, s *site) {
	jane := s.as(t, "jane")
	jane.open("/plain?" + lab.Secret)
	jane.do(chromedp.Evaluate(`(secret => {
		document.body.dataset.leak = secret;
		localStorage.leak = secret;
		document.cookie = "leak=" + secret + "; Secure; path=/connect";
		history.replaceState(secret, "");
		window.name = secret;
		console.log(secret);
		return 0;
	})(location.search.slice(1))`, nil))
	jane.remember()
	jane.seen.complaints() // of the console
	jane.do(chromedp.Evaluate(`localStorage.clear(); document.cookie = "leak=; max-age=0; path=/connect"`, nil))
	want := "address, console, cookies, document, history, name, request, storage"
	if got := strings.Join(jane.seen.leaks([]string{lab.Secret}), ", "); got != want {
		t.Errorf("it was heard from %q, want %q", got, want)
	}
	jane.seen.forget()
	jane.connects("jane", "drive")
	jane.open("/files/" + passphrase) // the API says where it is
	if got := strings.Join(jane.seen.leaks([]string{passphrase}), ", "); got != "body, request" {
		t.Errorf("of an answer: %q", got)
	}
	jane.seen.forget()
}

// forget has the watch begin anew.
func (w *watch) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.heard = nil
}
