package caddyoauth

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/http"
	"net/http/httptest"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddyoauth/caddyoauth/internal/connection"
	"github.com/caddyoauth/caddyoauth/internal/oauth"
	"github.com/caddyoauth/caddyoauth/internal/pages"
)

// visitFor is a request of somebody to the pages, outside of a running Caddy.
func visitFor(t *testing.T, identity string) (*visit, *httptest.ResponseRecorder) {
	t.Helper()
	w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "https://app.example/connect", nil)
	h := &Connect{path: "/connect", app: &App{active: &activeSet{byName: make(map[string]*activeConnection)}}}
	pages.SetHeaders(w.Header())
	return &visit{Connect: h, w: w, r: r, repl: caddy.NewReplacer(), who: visitor{identity: identity, browser: "cookie"}}, w
}

var (
	inStyle  = regexp.MustCompile(`(?s)<style>(.*?)</style>`)
	hostile  = `"><script>x</script><b style="color:red">` // what somebody might be called
	landmark = regexp.MustCompile(`<h1>|<main>|<html lang="en">|<meta name="viewport"|<title>`)
)

// wantPage fails the test unless the page is whole, and is one that its own policy lets through.
func wantPage(t *testing.T, w *httptest.ResponseRecorder) {
	t.Helper()
	body := w.Body.String()
	style := inStyle.FindAllStringSubmatch(body, -1)
	if len(style) != 1 {
		t.Fatalf("the page has %d style sheets", len(style))
	}
	sum := sha256.Sum256([]byte(style[0][1]))
	if digest := base64.StdEncoding.EncodeToString(sum[:]); !strings.Contains(w.Header().Get("Content-Security-Policy"), "style-src 'sha256-"+digest+"'") {
		t.Error("the policy does not name the style sheet by its digest")
	}
	if found := landmark.FindAllString(body, -1); len(found) != 5 {
		t.Errorf("the page has %v, want one of each", found)
	}
	for _, refused := range []string{` style="`, "<script", "<link", "<img", "url(", "@import", "onclick", "{{"} {
		if strings.Contains(body, refused) {
			t.Errorf("the page has %s", refused)
		}
	}
}

// TestPagesAreWhole: each page, with what could be in it at most and at least, and with names that are markup.
func TestPagesAreWhole(t *testing.T) {
	t.Parallel()
	for _, who := range []string{"jane", hostile} {
		v, w := visitFor(t, who)
		if err := v.list(); err != nil || w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "There is nothing to connect here.") {
			t.Errorf("an empty list: %d, %v", w.Code, err)
		}
		wantPage(t, w)
		for _, p := range []page{
			pageNothing, pageForeign, pageTrouble, explain(errPendingForeign), notTold(who),
			{Status: 200, Tone: "on", Title: who, Detail: who, Next: who, Code: who, Account: who, Scopes: []string{who}, Acts: []act{{"/a", who}}, End: "/b", forOperator: true},
		} {
			v, w := visitFor(t, who)
			if err := v.show(p); err != nil || w.Code != p.Status {
				t.Errorf("%s: %d, %v", p.Title, w.Code, err)
			}
			wantPage(t, w)
			if !strings.Contains(w.Body.String(), `href="/connect"`) {
				t.Errorf("%s: no way to the list", p.Title)
			}
		}
		v, w = visitFor(t, who)
		rows := []account{{Name: who, Title: who + "2", Account: who, State: who, Advice: who, Shared: true, Refreshed: time.Now(), Scopes: []string{who}}, {Connected: true, Needed: true}}
		if err := render(w, http.StatusOK, "list.html", struct {
			frame
			Title       string
			Rows        []account
			RedirectURI string
		}{v.frame(), "x", rows, "https://app.example/" + who}); err != nil {
			t.Error(err)
		}
		wantPage(t, w)
	}
	for _, p := range []problem{problemPerson, problemRefused, problemLater, problemHost, problemSubject, problemUnknown} {
		for _, link := range []string{"", "/connect/authorize/drive?return_to=%2Fx"} {
			w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "https://app.example/x", nil)
			r.Header.Set("Accept", "text/html")
			p.Authorize, p.Provider = link, hostile
			p.write(w, r)
			wantPage(t, w)
			if strings.Contains(w.Body.String(), `href="/connect/authorize/drive?return_to=%2Fx"`) != (link != "") {
				t.Errorf("%s: the button is not as it should be", p.code)
			}
		}
	}
}

// TestExplain: whatever goes wrong, the page has a word for it, says whether something was connected and what to do, and shows a
// code where there is one. The operator is told the redirect URI where that may be what is wrong.
func TestExplain(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		err         error
		status      int
		title, code string
		redirect    bool
	}{
		{errPendingUnknown, 400, "Please begin again", "", false},
		{errPendingForeign, 403, "This was begun elsewhere", "", false},
		{&deniedError{"access_denied"}, 403, "Not connected", "access_denied", false},
		{&deniedError{"login_required"}, 403, "Please sign in at the provider", "login_required", false},
		{&deniedError{"server_error"}, 502, "The provider has trouble", "server_error", false},
		{&deniedError{"invalid_scope"}, 502, "The provider refuses this site", "invalid_scope", true},
		{&deniedError{"redirect_uri_mismatch"}, 502, "The provider refuses this site", "redirect_uri_mismatch", true},
		{&deniedError{"their_own"}, 403, "Not connected", "their_own", false},
		{&oauth.Error{Class: oauth.Misconfigured, Code: "invalid_client"}, 502, "The provider refuses this site", "invalid_client", true},
		{&oauth.Error{Class: oauth.RetryLater, Code: "http_503"}, 502, "The provider has trouble", "http_503", false},
		{&oauth.Error{Class: oauth.UnknownOutcome, Code: "invalid_response"}, 502, "The provider did not answer as it should", "invalid_response", false},
		{errors.New("storage is gone"), 503, "That did not work", "", false},
	} {
		p := explain(tt.err)
		v, w := visitFor(t, "jane")
		if err := v.show(p); err != nil {
			t.Fatal(err)
		}
		body := w.Body.String()
		if w.Code != tt.status || !strings.Contains(body, "<h1>"+tt.title+"</h1>") {
			t.Errorf("%v: got %d %q", tt.err, w.Code, p.Title)
		}
		if tt.code != "" && (!strings.Contains(body, `<span class="code">`+tt.code+`</span>`) || !strings.Contains(body, "Nothing was connected")) {
			t.Errorf("%v: no code, or not whether something was connected", tt.err)
		}
		if strings.Contains(body, "https://app.example/connect/callback") != tt.redirect {
			t.Errorf("%v: redirect URI shown: %v", tt.err, !tt.redirect)
		}
		if strings.Contains(body, "storage is gone") {
			t.Errorf("%v: the error itself is shown", tt.err)
		}
	}
}

// TestAccountWords: every state has a word, and says whether the person is needed.
func TestAccountWords(t *testing.T) {
	t.Parallel()
	past, future := time.Now().Add(-time.Minute), time.Now().Add(time.Minute)
	for _, tt := range []struct {
		status  connection.Status
		expires time.Time
		err     error
		want    account
	}{
		{connection.StatusAuthorizationRequired, past, nil, account{State: "Not connected", Tone: "off"}},
		{connection.StatusDisconnected, past, nil, account{State: "Not connected", Tone: "off"}},
		{connection.StatusActive, future, nil, account{State: "Connected", Tone: "on", Connected: true}},
		{connection.StatusActive, past, nil, account{State: "Connected", Tone: "on", Connected: true}}, // idle: refreshed when it is used
		{connection.StatusFailing, future, nil, account{State: "Connected", Tone: "on", Connected: true}},
		{connection.StatusFailing, past, nil, account{State: "Interrupted", Tone: "weak", Connected: true}},
		{connection.StatusActive, future, errors.New("storage"), account{State: "Interrupted", Tone: "weak", Connected: true}},
		{connection.StatusRevoked, future, nil, account{State: "Needs you again", Tone: "ended", Connected: true, Needed: true}},
		{connection.StatusLostRotation, past, errors.New("storage"), account{State: "Needs you again", Tone: "ended", Connected: true, Needed: true}},
		{connection.StatusMisconfigured, past, nil, account{State: "Refused", Tone: "failed", Connected: true}},
	} {
		state := connection.State{Scope: "a,b", Consent: &connection.Consent{Label: "Jane's"}}
		state.Status, state.ExpiresAt, state.IssuedAt = tt.status, tt.expires, past
		got := accountOf(state, tt.err)
		want := tt.want
		if want.Connected {
			want.Account, want.Refreshed, want.Scopes = "Jane's", past, []string{"a", "b"}
		}
		got.Advice = ""
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, want %+v", tt.status, got, want)
		}
	}
}

// TestAccountEndsSoon: who has to connect an account again in a few days is told when, while there is time.
func TestAccountEndsSoon(t *testing.T) {
	t.Parallel()
	var state connection.State
	state.Status, state.EndsAt = connection.StatusExpiring, time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)
	if got := accountOf(state, nil); got.State != "Ends soon" || !got.Needed || !got.Connected || !strings.Contains(got.Advice, "1 March 2027, 12:00 UTC") {
		t.Errorf("got %+v", got)
	}
}
