package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/api"
	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// served returns a command line whose API answers every request so.
func served(t *testing.T, answer http.HandlerFunc) (c *CLI, out, notes *bytes.Buffer) {
	t.Helper()
	server := httptest.NewServer(answer)
	t.Cleanup(server.Close)
	out, notes = new(bytes.Buffer), new(bytes.Buffer)
	return &CLI{Client: &Client{Base: server.URL, HTTP: server.Client()}, Out: out, Notes: notes}, out, notes
}

func data(w http.ResponseWriter, total int, value any) {
	_ = json.NewEncoder(w).Encode(map[string]any{"data": value, "meta": map[string]any{"total": total}})
}

// TestExitCodes: what programs that call the command line go by.
func TestExitCodes(t *testing.T) {
	t.Parallel()
	for status, want := range map[int]int{
		400: ExitRefused, 401: ExitRefused, 403: ExitRefused, 404: ExitNotFound, 409: ExitRefused, 412: ExitRefused, 429: ExitUnavailable,
		500: ExitUnavailable, 502: ExitUnavailable, 503: ExitUnavailable,
	} {
		c, _, _ := served(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			fmt.Fprint(w, `{"error":{"type":"x","message":"the reason"}}`)
		})
		err := c.List(t.Context(), Choice{})
		if ExitCode(err) != want || err.Error() != "the reason" {
			t.Errorf("%d: exit code %d, %v", status, ExitCode(err), err)
		}
	}
	refused, _, _ := served(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusBadGateway)
		fmt.Fprint(w, `{"error":{"type":"provider_error","message":"it refuses the client"}}`)
	})
	if err := refused.List(t.Context(), Choice{}); ExitCode(err) != ExitRefused {
		t.Errorf("a client that is refused is no outage: %d, %v", ExitCode(err), err)
	}
	gone := httptest.NewServer(nil)
	gone.Close()
	c := &CLI{Client: &Client{Base: gone.URL, HTTP: &http.Client{}}}
	if err := c.List(t.Context(), Choice{}); ExitCode(err) != ExitUnavailable || strings.Contains(err.Error(), gone.URL) {
		t.Errorf("nobody answers: %d, %v", ExitCode(err), err)
	}
	if ExitCode(nil) != ExitDone || ExitCode(errors.New("x")) != ExitFailed || ExitCode(Usage("x")) != ExitUsage {
		t.Error("the codes without an answer are wrong")
	}
}

// TestNotAnAPI: the address of something else is said to be that.
func TestNotAnAPI(t *testing.T) {
	t.Parallel()
	for _, body := range []string{"", "<html>", `{"data":[{"id":7}]}`} {
		c, _, _ := served(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, body) })
		if err := c.List(t.Context(), Choice{}); err == nil || !strings.Contains(err.Error(), "Caddy's API") {
			t.Errorf("%q: %v", body, err)
		}
	}
}

// TestElsewhere: a 404 of something else does not mean that there is no such connection, and Caddy's own words are passed on.
func TestElsewhere(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		"": "is this the address", "<html>": "is this the address", `{"error":"oauth2_inject is not configured"}`: "oauth2_inject is not configured",
	} {
		c, _, _ := served(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404); fmt.Fprint(w, body) })
		if err := c.List(t.Context(), Choice{}); ExitCode(err) != ExitFailed || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: exit code %d, %v", body, ExitCode(err), err)
		}
	}
}

// TestAttackRedirect: the key is sent to the address that was given, and wherever that points to it is not.
func TestAttackRedirect(t *testing.T) {
	t.Parallel()
	leaked := false
	thief := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		leaked = leaked || r.Header.Get("Authorization") != ""
	}))
	defer thief.Close()
	c, _, _ := served(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, thief.URL, http.StatusTemporaryRedirect)
	})
	c.Client.HTTP, c.Client.Key = Direct(&http.Client{}), secret.New("seeded-key")
	err := c.List(t.Context(), Choice{})
	if leaked || ExitCode(err) != ExitFailed || !strings.Contains(fmt.Sprint(err), "leads elsewhere") {
		t.Errorf("leaked %v, exit code %d, %v", leaked, ExitCode(err), err)
	}
}

// TestPages: a list is read to its end, and an API that miscounts does not keep the command line for ever.
func TestPages(t *testing.T) {
	t.Parallel()
	asked := 0
	c, out, _ := served(t, func(w http.ResponseWriter, r *http.Request) {
		asked++
		page := r.URL.Query().Get("page")
		if page == "3" {
			data(w, 500, []api.Secret{})
			return
		}
		data(w, 500, []api.Secret{{ID: page, Name: "name-" + page}})
	})
	if err := c.List(t.Context(), Choice{}); err != nil || asked != 3 || !strings.Contains(out.String(), "name-1") || !strings.Contains(out.String(), "name-2") {
		t.Errorf("asked %d times, %v\n%s", asked, err, out)
	}
}

// TestKeyTravelsInTheHeader: the API key goes to the API, and nowhere else.
func TestKeyTravelsInTheHeader(t *testing.T) {
	t.Parallel()
	var seen, address string
	c, out, notes := served(t, func(w http.ResponseWriter, r *http.Request) {
		seen, address = r.Header.Get("Authorization"), r.URL.String()
		w.WriteHeader(http.StatusUnauthorized)
	})
	c.Client.Key = secret.New("seeded-key")
	err := c.List(t.Context(), Choice{})
	if seen != "Bearer seeded-key" {
		t.Error("the key did not arrive")
	}
	if strings.Contains(address+out.String()+notes.String()+fmt.Sprint(err), "seeded") {
		t.Error("the key stands elsewhere too")
	}
}

// TestAmbiguousName: a name that two tenants have is not guessed.
func TestAmbiguousName(t *testing.T) {
	t.Parallel()
	c, _, _ := served(t, func(w http.ResponseWriter, _ *http.Request) {
		data(w, 2, []api.Secret{{ID: "1", Name: "drive", Tenant: "a"}, {ID: "2", Name: "drive", Tenant: "b"}})
	})
	if err := c.Refresh(t.Context(), Choice{Name: "drive"}); ExitCode(err) != ExitUsage {
		t.Error(err)
	}
}

// TestAttackTerminal: the label of an account is foreign text, and cannot steer the terminal of whoever looks at it.
func TestAttackTerminal(t *testing.T) {
	t.Parallel()
	for _, evil := range []string{"\x1b]0;owned\x07", "\x1b[2J", "a\nb", "a\tb", "\u202eevil", "\u009b31m"} {
		c, out, _ := served(t, func(w http.ResponseWriter, _ *http.Request) {
			data(w, 1, []api.Secret{{ID: "1", Name: "x", ConnectionError: evil}})
		})
		if err := c.List(t.Context(), Choice{}); err != nil {
			t.Fatal(err)
		}
		if strings.ContainsAny(out.String(), "\x1b\x07\u202e\u009b") || strings.Count(out.String(), "\n") != 2 {
			t.Errorf("%q reaches the terminal as %q", evil, out)
		}
	}
}

// TestConnectWaits: the command ends when the person is back, or with a code of its own when they do not come.
func TestConnectWaits(t *testing.T) {
	for comes, want := range map[bool]int{true: ExitDone, false: ExitNeedsPerson} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			c := &CLI{Out: new(bytes.Buffer), Notes: new(bytes.Buffer)}
			c.Client = &Client{Base: "http://caddy", HTTP: &http.Client{Transport: inMemory(func(w http.ResponseWriter, r *http.Request) {
				token := api.Token{Status: "authorization_required", Generation: 3}
				if comes && time.Since(began) > 5*time.Minute {
					token = api.Token{Status: "active", Generation: 4}
				}
				answerConnect(w, r, token)
			})}}
			err := c.Connect(t.Context(), Choice{Name: "drive", Subject: "jane"}, 15*time.Minute)
			if ExitCode(err) != want {
				t.Errorf("comes %v: %v", comes, err)
			}
			if took := time.Since(began).Round(time.Minute); took != map[bool]time.Duration{true: 5 * time.Minute, false: 15 * time.Minute}[comes] {
				t.Errorf("comes %v: after %s", comes, took)
			}
		})
	}
}

// answerConnect answers what is asked for while a person connects an account whose token set is that.
func answerConnect(w http.ResponseWriter, r *http.Request, token api.Token) {
	switch {
	case r.Method == http.MethodPost:
		data(w, 0, api.Link{AuthorizeURL: "https://app.example/connect"})
	case strings.HasSuffix(r.URL.Path, "/secrets"):
		data(w, 1, []api.Secret{{ID: "1", Name: "drive"}})
	default:
		data(w, 0, token)
	}
}

// TestConnectTellsTheTime: how far away a time is, is said as of the end, not of when the command began. And a token set that cannot be
// prolonged is one as well.
func TestConnectTellsTheTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began, out := time.Now(), new(bytes.Buffer)
		c := &CLI{Out: out, Notes: new(bytes.Buffer)}
		c.Client = &Client{Base: "http://caddy", HTTP: &http.Client{Transport: inMemory(func(w http.ResponseWriter, r *http.Request) {
			token := api.Token{Status: "authorization_required"}
			if time.Since(began) > 10*time.Minute {
				end := began.Add(70 * time.Minute)
				token = api.Token{Status: "expiring", Generation: 1, ExpiresAt: &end}
			}
			answerConnect(w, r, token)
		})}}
		if err := c.Connect(t.Context(), Choice{Name: "drive", Subject: "jane"}, 15*time.Minute); err != nil || !strings.Contains(out.String(), "(in 59m)") {
			t.Errorf("%v\n%s", err, out)
		}
	})
}

// TestPersonIsNeeded: what only a person can help with has a code of its own, and other conflicts do not.
func TestPersonIsNeeded(t *testing.T) {
	t.Parallel()
	for status, want := range map[string]int{
		"revoked": ExitNeedsPerson, "authorization_required": ExitNeedsPerson, "lost_rotation": ExitNeedsPerson, "disconnected": ExitNeedsPerson,
		"active": ExitRefused, "failing": ExitRefused,
	} {
		c, _, _ := served(t, func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.Method == http.MethodPost:
				w.WriteHeader(http.StatusConflict)
				fmt.Fprint(w, `{"error":{"type":"conflict","message":"the reason"}}`)
			case strings.HasSuffix(r.URL.Path, "/secrets"):
				data(w, 1, []api.Secret{{ID: "1", Name: "drive"}})
			default:
				data(w, 0, api.Token{Status: status})
			}
		})
		for name, do := range map[string]func(context.Context, Choice) error{"refresh": c.Refresh, "test": c.Test} {
			if err := do(t.Context(), Choice{Name: "drive", Subject: "jane"}); ExitCode(err) != want || !strings.Contains(err.Error(), "the reason") {
				t.Errorf("%s of what is %s: exit code %d, %v", name, status, ExitCode(err), err)
			}
		}
	}
}

// TestWrongUsage: what cannot be meant is not sent.
func TestWrongUsage(t *testing.T) {
	t.Parallel()
	c, _, _ := served(t, func(http.ResponseWriter, *http.Request) { t.Error("it was sent") })
	for what, err := range map[string]error{
		"connect": c.Connect(t.Context(), Choice{Name: "x"}, -time.Second), "rekey": c.Rekey(t.Context(), -time.Second),
		"a version in words": c.RollBack(t.Context(), Choice{Name: "x"}, "first"), "version 0": c.RollBack(t.Context(), Choice{Name: "x"}, "0"),
	} {
		if ExitCode(err) != ExitUsage {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestCompletion: what a shell offers are the words that begin so, and none that steers the terminal.
func TestCompletion(t *testing.T) {
	t.Parallel()
	c, _, _ := served(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/api-keys"):
			data(w, 2, []api.Key{{Name: "ci"}, {Name: "cd"}})
		case strings.HasSuffix(r.URL.Path, "/subjects"):
			data(w, 2, []api.Token{{Subject: "jane"}, {Subject: "joe"}})
		case strings.HasSuffix(r.URL.Path, "/versions"):
			data(w, 3, []api.Version{{Version: 12, Current: true}, {Version: 11}, {Version: 9}})
		default:
			data(w, 3, []api.Secret{{ID: "1", Name: "drive"}, {ID: "2", Name: "mail"}, {ID: "3", Name: "dr\x1b[2J"}})
		}
	})
	choice := Choice{Name: "drive"}
	for want, got := range map[string][]string{
		"[drive]": c.Names(t.Context(), "dr"), "[drive mail]": c.Names(t.Context(), ""), "[cd]": c.KeyNames(t.Context(), "cd"),
		"[jane]": c.Subjects(t.Context(), choice, "ja"), "[11]": c.Versions(t.Context(), choice, "1"), "[]": c.Subjects(t.Context(), Choice{Name: "x"}, ""),
	} {
		if fmt.Sprint(got) != want {
			t.Errorf("%q, want %s", got, want)
		}
	}
}

// TestColumns: they begin where the terminal shows it, which is not where characters or bytes are counted.
func TestColumns(t *testing.T) {
	t.Parallel()
	out := new(bytes.Buffer)
	tab := newTable(out, time.Now())
	tab.row("NAME", "STATUS")
	tab.row("Bäckerei", "a")
	tab.row("e\u0301t\u00e9", "b")
	tab.row("日本語", "c")
	tab.row("🍞🥖", "d")
	tab.line("")
	tab.row("x", "y")
	if err := tab.flush(); err != nil {
		t.Fatal(err)
	}
	want := "NAME      STATUS\nBäckerei  a\ne\u0301t\u00e9       b\n日本語    c\n🍞🥖      d\n\nx  y\n"
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out, want)
	}
	broken := newTable(brokenPipe{}, time.Now())
	broken.row("x")
	if err := broken.flush(); err == nil {
		t.Error("that nobody could be told is not told")
	}
}

// brokenPipe is a reader who has left.
type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

// TestConnectInterrupted: whoever presses Ctrl-C is not told that time is up.
func TestConnectInterrupted(t *testing.T) {
	t.Parallel()
	ctx, interrupt := context.WithCancel(t.Context())
	c, out, _ := served(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodPost:
			data(w, 0, api.Link{AuthorizeURL: "https://app.example/connect"})
		case strings.HasSuffix(r.URL.Path, "/secrets"):
			data(w, 1, []api.Secret{{ID: "1", Name: "drive"}})
		default:
			data(w, 0, api.Token{Status: "authorization_required"})
		}
	})
	c.Notes = interrupter{interrupt}
	err := c.Connect(ctx, Choice{Name: "drive", Subject: "jane"}, time.Hour)
	if ExitCode(err) != ExitNeedsPerson || !strings.Contains(err.Error(), "yet") || out.String() != "https://app.example/connect\n" {
		t.Errorf("%v\n%s", err, out)
	}
}

// interrupter presses Ctrl-C when it is told that the command waits.
type interrupter struct{ press func() }

func (i interrupter) Write(text []byte) (int, error) {
	if strings.Contains(string(text), "Ctrl-C") {
		i.press()
	}
	return len(text), nil
}

// inMemory answers requests without a network, which virtual time does not know.
type inMemory http.HandlerFunc

func (h inMemory) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	h(w, r)
	return w.Result(), nil
}

// TestJSONIsDataAlone: with --json nothing but one value goes to standard output.
func TestJSONIsDataAlone(t *testing.T) {
	t.Parallel()
	c, out, _ := served(t, func(w http.ResponseWriter, _ *http.Request) { data(w, 0, []api.Secret{}) })
	c.JSON = true
	if err := c.List(context.Background(), Choice{}); err != nil || strings.TrimSpace(out.String()) != "[]" {
		t.Errorf("%v %q", err, out)
	}
}

func TestSpans(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		0: "0s", 119 * time.Second: "119s", 2 * time.Minute: "2m", 119 * time.Minute: "119m", 47 * time.Hour: "47h", 48 * time.Hour: "2d", 50 * 365 * 24 * time.Hour: "50y",
	} {
		if got := span(d); got != want {
			t.Errorf("%s: %s, want %s", d, got, want)
		}
	}
}
