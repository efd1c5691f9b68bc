//go:build integration

package browser

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
)

// attacker is another site, at 127.0.0.1. It serves whatever page it is given.
func attacker(t *testing.T, page string) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprint(w, "<!doctype html><title>Nice things</title>"+page)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// testCrossSiteLink: another site can lead people to a connection, but not through it: they are asked first.
func testCrossSiteLink(t *testing.T, s *site) {
	jane := s.as(t, "jane")
	jane.open(attacker(t, `<a href="`+s.url+`/connect/authorize/drive">Free gift</a>`))
	jane.press("Free gift")
	jane.reads("Another site has led you here")
	jane.inspect("led-here")
	jane.press("Connect")
	if status := jane.agrees("jane"); status != http.StatusOK || jane.at() != "/connect/done/drive" {
		t.Errorf("status %d at %s", status, jane.at())
	}
}

// testCrossSiteForm: a page of another site that sends the form by itself ends nothing and begins nothing.
func testCrossSiteForm(t *testing.T, s *site) {
	jane := s.as(t, "jane")
	jane.connects("jane", "drive")
	for _, action := range []string{"disconnect", "authorize"} {
		link := attacker(t, `<form method="post" action="`+s.url+`/connect/`+action+`/drive"><button>Win</button></form>`)
		jane.open(link)
		if status := jane.press("Win"); status != http.StatusForbidden {
			t.Errorf("%s: status %d", action, status)
		}
		jane.reads("Not from another site")
	}
	jane.inspect("foreign")
	if status := jane.open("/files"); status != http.StatusOK {
		t.Errorf("afterwards: status %d", status)
	}
}

// testFraming: no page can be put into a frame, of another site or of the same.
func testFraming(t *testing.T, s *site) {
	jane := s.as(t, "jane")
	for _, around := range []string{attacker(t, ""), s.url + "/plain"} {
		for _, path := range []string{"/connect", "/connect/disconnect/drive", "/connect/done/drive", "/connect/authorize/none", "/files", "/plain"} {
			jane.open(around)
			jane.do(chromedp.Evaluate(`document.body.innerHTML = "<iframe src='`+s.url+path+`' onload='document.title = 1'></iframe>"; 0`, nil),
				chromedp.Poll(`document.title === "1"`, nil))
			refused := strings.Contains(strings.Join(jane.seen.complaints(), " "), "frame-ancestors 'none'")
			if refused != (path != "/plain") { // which has no policy: else the test could not fail
				t.Errorf("%s in a frame of %s: refused is %v", path, around, refused)
			}
		}
	}
}

// testLoginCSRF: the attacker's own way back, opened in the victim's browser as a link, an image or a frame, connects nothing.
func testLoginCSRF(t *testing.T, s *site) {
	mallory, jane := s.as(t, "mallory"), s.as(t, "jane")
	back := mallory.holdBack("drive")
	jane.open("/connect") // has a cookie
	jane.open(attacker(t, `<img src="`+back+`"><iframe src="`+back+`" onload="document.title = 'loaded'"></iframe><a href="`+back+`">Free gift</a>`))
	jane.do(chromedp.Poll(`document.title === "loaded"`, nil))
	if status := jane.press("Free gift"); status != http.StatusForbidden {
		t.Errorf("status %d", status)
	}
	jane.reads("This was begun elsewhere", "Nothing was connected")
	jane.seen.complaints() // of the frame, which was refused
	jane.open("/connect/done/drive")
	jane.reads("drive is not connected")
	mallory.letThrough()
	if mallory.open(back); mallory.at() != "/connect/done/drive" {
		t.Errorf("whose it is could not use it any more: at %s", mallory.at())
	}
	s.keepsSecrets(t, mallory, jane)
}

// testCookieTossing: a page on the same host by plain http cannot set the cookie that binds an authorization to a browser.
func testCookieTossing(t *testing.T, s *site) {
	jane := s.as(t, "jane")
	tosser := strings.Replace(attacker(t, `<script>
		document.cookie = "__Host-oauth2_connect=`+strings.Repeat("a", 43)+`; path=/";
		document.cookie = "__Host-oauth2_connect=`+strings.Repeat("a", 43)+`; path=/connect; domain=localhost";
		document.cookie = "tossed=1; path=/";
	</script>`), "127.0.0.1", "localhost", 1)
	jane.open(tosser)
	jane.open("/connect")
	got := jane.cookies()
	if got["tossed"] == "" {
		t.Error("the page could toss nothing at all, so that this proves nothing")
	}
	if value := got["__Host-oauth2_connect"]; len(value) != 43 || strings.HasPrefix(value, "aaaa") {
		t.Errorf("the cookie is %q", value)
	}
	jane.connects("jane", "drive")
}
