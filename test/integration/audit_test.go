//go:build integration

package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyoauth/caddyoauth/test/lab"
)

// listed returns what the audit list has the names of, the newest first.
func listed(t *testing.T, c *lab.Caddy) (names []string) {
	t.Helper()
	text, err := c.Get(c.AdminURL("/oauth2_inject/v1/audit?per_page=200"))
	var out struct {
		Data []struct{ Name string }
		Meta struct{ Incomplete bool }
	}
	if err == nil {
		err = json.Unmarshal(text, &out)
	}
	if err != nil || out.Meta.Incomplete {
		t.Fatalf("%s: %v", text, err)
	}
	for _, e := range out.Data {
		names = append(names, e.Name)
	}
	return names
}

// TestAuditListOutlivesTheProcess: what was done is on the list of the next process, also if the request ended while the one before was
// ending, in whichever order Caddy ends its apps; and after a crash, but for the last seconds.
func TestAuditListOutlivesTheProcess(t *testing.T) {
	t.Parallel()
	dir, address := t.TempDir(), freeAddress(t)
	run := func() *lab.Caddy {
		return start(t, dir, global("\t\tstored_connections\n"), fmt.Sprintf("http://%s {\n\toauth2_api /oauth2 {\n\t\tidentity {http.request.header.X-User}\n\t\trole admin *\n\t}\n}\n", address))
	}
	var want []string
	for round := range 6 { // the order is chance
		c := run()
		want = append([]string{fmt.Sprint("made-", round)}, want...)
		body, send := io.Pipe()
		reading := make(chan struct{})
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got100Continue: func() { close(reading) }})
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+address+"/oauth2/v1/collections", body)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-User", "alice")
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Expect", "100-continue") // tells when the request is being handled
		answered := make(chan error, 1)
		go func() {
			transport := &http.Transport{DisableKeepAlives: true, ExpectContinueTimeout: time.Minute}
			resp, err := transport.RoundTrip(req)
			if err == nil {
				defer resp.Body.Close()
				if resp.StatusCode != http.StatusCreated {
					err = errors.New(resp.Status)
				}
			}
			answered <- err
		}()
		select {
		case <-reading:
		case err := <-answered:
			t.Fatalf("round %d: %v", round, err)
		}
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			c.Stop(t)
		}()
		eventually(t, "the server takes no more connections", func() error {
			conn, err := net.DialTimeout("tcp", address, time.Second)
			if err != nil {
				return nil //nolint:nilerr // that is what is waited for
			}
			conn.Close()
			return errors.New("it does")
		})
		if _, err := fmt.Fprintf(send, `{"name":%q}`, want[0]); err != nil {
			t.Error(err)
		}
		send.Close()
		if err := <-answered; err != nil {
			t.Errorf("round %d: %v", round, err)
		}
		<-stopped
	}
	c := run()
	if got := listed(t, c); !slices.Equal(got, want) {
		t.Errorf("listed are %v, want %v", got, want)
	}
	if status, _ := ask(t, c, http.MethodPost, "/collections", map[string]any{"name": "stored"}); status != http.StatusCreated {
		t.Fatalf("%d", status)
	}
	other := start(t, dir, global("\t\tstored_connections\n"), "")
	eventually(t, "the other instance has it", func() error {
		if got := listed(t, other); got[0] != "stored" {
			return errors.New(strings.Join(got, " "))
		}
		return nil
	})
	c.Kill()
	other.Kill()
	if got := listed(t, run()); !slices.Equal(got, append([]string{"stored"}, want...)) {
		t.Errorf("after a crash %v are listed", got)
	}
}
