package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
	return &CLI{Client: &Client{Base: server.URL, HTTP: server.Client()}, Out: out, Notes: notes, Now: time.Unix(1_800_000_000, 0)}, out, notes
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
			c := &CLI{Out: new(bytes.Buffer), Notes: new(bytes.Buffer), Now: began}
			c.Client = &Client{Base: "http://caddy", HTTP: &http.Client{Transport: inMemory(func(w http.ResponseWriter, r *http.Request) {
				token := api.Token{Status: "authorization_required", Generation: 3}
				if comes && time.Since(began) > 5*time.Minute {
					token = api.Token{Status: "active", Generation: 4}
				}
				switch {
				case r.Method == http.MethodPost:
					data(w, 0, api.Link{AuthorizeURL: "https://app.example/connect"})
				case strings.HasSuffix(r.URL.Path, "/secrets"):
					data(w, 1, []api.Secret{{ID: "1", Name: "drive"}})
				default:
					data(w, 0, token)
				}
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
