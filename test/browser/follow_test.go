//go:build integration

package browser

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/caddyoauth/caddyoauth/test/lab"
)

// waits fails the test unless the page comes to hold that, by itself.
func (p *person) waits(what, expression string) {
	p.t.Helper()
	lab.Eventually(p.t, what, func() error {
		if !js[bool](p, expression) {
			return errors.New("the page says: " + p.text())
		}
		return nil
	})
}

// TestDashboardFollows: a connection's own page follows as the overview does; where the keyboard is, and what was typed, stays.
func TestDashboardFollows(t *testing.T) {
	t.Parallel()
	s := operated(t)
	for _, name := range []string{"jane", "joe"} {
		s.as(t, name).connects(name, "drive")
	}
	ops, other := s.as(t, "ops"), s.as(t, "ops")
	ops.open("/ops")
	if n := js[int](ops, `[...document.querySelectorAll("main a, main button, main input:not([type=hidden]), main [tabindex]")].filter(e => !e.id || document.querySelectorAll("#" + CSS.escape(e.id)).length > 1).length`); n != 0 {
		t.Errorf("%d places where the keyboard can be have no name of their own, and it would be lost there", n)
	}
	ops.press("drive")
	ops.tabTo("joe")
	other.open("/ops")
	other.press("drive")
	other.press("jane")
	other.press("Revoke")
	other.press("Disconnect")
	ops.waits("the page shows that jane's account has ended", `document.querySelector("main .list").innerText.includes("Disconnected")`)
	if at := js[string](ops, focused); at != "joe" {
		t.Errorf("the keyboard is at %q", at)
	}
	ops.goes(chromedp.KeyEvent(kb.Enter))
	ops.reads("drive for joe")

	ops.open("/ops")
	ops.press("billing")
	ops.tabTo("Refresh now")
	ops.do(chromedp.Evaluate(`window.untouched = true`, nil))
	other.open("/ops")
	other.press("billing")
	other.press("Refresh now")
	ops.waits("the page shows the refresh", `window.untouched && document.querySelector("main").innerText.includes("100 % of 1 in 24 h")`)
	if at := js[string](ops, focused); at != "Refresh now" {
		t.Errorf("the keyboard is at %q", at)
	}
	if told := js[string](ops, `document.getElementById("told").textContent`); told != "Active" {
		t.Errorf("a screen reader is told %q", told)
	}
	ops.inspect("dashboard-follows")
}

// TestDashboardComesBack: a page that was refused its stream, since there were too many, asks again after a while.
func TestDashboardComesBack(t *testing.T) {
	t.Parallel()
	s := operated(t)
	pool := x509.NewCertPool()
	if cert, err := os.ReadFile(s.op.CAFile()); err != nil || !pool.AppendCertsFromPEM(cert) {
		t.Fatalf("read the authority of the lab: %v", err)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	ctx, end := context.WithCancel(t.Context())
	defer end()
	for range 64 {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+"/ops/news?seen=x", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.AddCookie(&http.Cookie{Name: "user", Value: "joe"})
		stream, err := client.Do(req)
		if err != nil || stream.StatusCode != http.StatusOK {
			t.Fatalf("a stream: %v, %v", stream, err)
		}
		defer stream.Body.Close()
	}
	ops := s.as(t, "ops")
	refused := make(chan struct{}, 1)
	chromedp.ListenTarget(ops.ctx, func(event any) {
		if e, ok := event.(*network.EventResponseReceived); ok && strings.Contains(e.Response.URL, "/news?") && e.Response.Status == http.StatusServiceUnavailable {
			select {
			case refused <- struct{}{}:
			default:
			}
		}
	})
	ops.open("/ops")
	select {
	case <-refused:
	case <-time.After(patience):
		t.Fatal("the page got a stream all the same")
	}
	end()
	other := s.as(t, "ops")
	other.open("/ops")
	other.press("billing")
	other.press("Refresh now")
	ops.waits("the page follows again", `document.querySelector("main").innerText.includes("100 % of 1 in 24 h")`)
}
