//go:build integration

package browser

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"

	"github.com/caddyoauth/caddyoauth/test/lab"
)

// implicitToken begins every token of the implicit grant.
const implicitToken = "seeded-implicit-token-"

// implicitServer is an authorization server that has nothing but the implicit grant. Everybody consents at once.
func implicitServer(t *testing.T) *httptest.Server {
	t.Helper()
	var issued atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked := r.URL.Query()
		back := url.Values{"state": {asked.Get("state")}, "access_token": {fmt.Sprint(implicitToken, issued.Add(1))}, "token_type": {"bearer"}, "expires_in": {"3600"}}
		if asked.Get("response_type") != "token" {
			back = url.Values{"state": {asked.Get("state")}, "error": {"unsupported_response_type"}}
		}
		http.Redirect(w, r, asked.Get("redirect_uri")+"#"+back.Encode(), http.StatusFound)
	}))
	t.Cleanup(server.Close)
	return server
}

// TestImplicit: the page at the callback hands the fragment over, in a browser that enforces its policy. The token ends up at the API,
// and in no address, no history, no log and no file.
func TestImplicit(t *testing.T) {
	t.Parallel()
	_, port, err := net.SplitHostPort(lab.FreeAddress(t))
	if err != nil {
		t.Fatal(err)
	}
	s := &site{url: "https://localhost:" + port, dir: t.TempDir(), op: lab.StartOP(t, lab.Options{})} // which has certificates
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "The API got a token: %v", strings.HasPrefix(r.Header.Get("Authorization"), "Bearer "+implicitToken))
	}))
	t.Cleanup(api.Close)
	cert, key := s.op.Cert("server")
	s.caddy = lab.StartCaddy(t, s.dir, fmt.Sprintf("oauth2_inject {\n\t\tconnection old {\n\t\t\tauthorization_endpoint %s\n\t\t\tclient_id caddy\n\t\t\tgrant implicit\n\t\t\tsubject {http.request.cookie.user}\n\t\t}\n\t}\n", implicitServer(t).URL),
		fmt.Sprintf("%s {\n\tbind 127.0.0.1\n\ttls %s %s\n\tlog {\n\t\toutput file %s\n\t}\n\toauth2_connect {\n\t\tidentity {http.request.cookie.user}\n\t}\n\toauth2_inject old {\n\t\treverse_proxy %s\n\t}\n}\n",
			s.url, cert, key, filepath.Join(s.dir, "access.log"), strings.TrimPrefix(api.URL, "http://")))
	jane := s.as(t, "jane")
	jane.do(chromedp.Navigate(s.url + "/connect/authorize/old"))
	lab.Eventually(t, "the page hands the token over", func() error {
		if at := jane.at(); at != "/connect/done/old" || !strings.Contains(jane.text(), "old is connected") {
			return errors.New("still at " + strings.Split(at, "#")[0])
		}
		return nil
	})
	if status := jane.open("/files"); status != http.StatusOK || !strings.Contains(jane.text(), "got a token: true") {
		t.Errorf("the API: status %d, %s", status, jane.text())
	}
	jane.do(chromedp.ActionFunc(func(ctx context.Context) error {
		_, entries, err := page.GetNavigationHistory().Do(ctx)
		for _, entry := range entries {
			if strings.Contains(entry.URL+entry.UserTypedURL+entry.Title, implicitToken) {
				t.Error("the token stands in the history")
			}
		}
		if len(entries) < 2 {
			t.Errorf("the history has %d entries, so that this proves nothing", len(entries))
		}
		return err
	}))

	jane.open("/connect/callback")
	jane.reads("The provider has sent nothing. Nothing was connected.")
	jane.inspect("implicit")
	joe := s.as(t, "joe")
	joe.do(emulation.SetScriptExecutionDisabled(true))
	joe.open("/connect/authorize/old")
	joe.reads("JavaScript, which is switched off here. Nothing was connected.")
	joe.open("/connect/done/old")
	joe.reads("old is not connected")

	s.caddy.Stop(t)
	s.caddy.KeepsSecrets(t, implicitToken)
	s.knowsNothing(t, implicitToken)
	if strings.Contains(s.accessLog(t), "callback") || !strings.Contains(s.accessLog(t), "/files") {
		t.Error("requests are not logged, or callbacks are")
	}
}
