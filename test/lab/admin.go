//go:build integration

package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// Fault is a disturbance of the authorization server. The zero value disturbs nothing but is counted; combine the fields.
type Fault struct {
	Path  string // "/token" if empty
	Times int    // how often; 0 = until the next SetFaults or Reset

	// Before the server has seen the request.
	DelayBefore time.Duration
	DropBefore  bool // close the connection

	// After the server has processed it: the token was issued, only the answer suffers.
	DelayAfter time.Duration
	DropAfter  bool           // close the connection: the outcome stays unknown to the client
	Truncate   bool           // half of the body, then close
	Patch      map[string]any // members of the JSON answer to set
	Remove     []string       // members of the JSON answer to remove

	// Status answers in the server's place, or after it with After.
	Status  int
	After   bool
	Headers map[string]string
	Body    string
}

// MarshalJSON writes the form of op/server.mjs: durations are milliseconds.
func (f Fault) MarshalJSON() ([]byte, error) {
	members := map[string]any{
		"dropBefore": f.DropBefore, "dropAfter": f.DropAfter, "truncate": f.Truncate, "after": f.After,
		"delayBefore": f.DelayBefore.Milliseconds(), "delayAfter": f.DelayAfter.Milliseconds(),
		"status": f.Status, "headers": f.Headers, "body": f.Body, "patch": f.Patch, "remove": f.Remove,
	}
	for name, v := range map[string]any{"path": f.Path, "times": f.Times} {
		// Absent means the default; an explicit 0 would mean "used up".
		if v != "" && v != 0 {
			members[name] = v
		}
	}
	return json.Marshal(members)
}

// Stats are the server's counters since its start or the last [OP.Reset].
type Stats struct {
	Requests map[string]int `json:"requests"` // "POST /token": arrived, faults included
	Tokens   map[string]int `json:"tokens"`   // "cc-basic 200", "cc-basic dropped"; client "?" when a fault kept the server out
	Events   map[string]int `json:"events"`   // "grant.success", "grant.error", "fault", ...
	Errors   []struct {
		Event  string `json:"event"`
		Error  string `json:"error"`
		Detail string `json:"detail"`
	} `json:"errors"`
}

// TokenRequests counts what arrived at the token endpoint, whatever became of it.
func (s Stats) TokenRequests() int { return s.Requests["POST /token"] }

// Issued counts the tokens that the server made, also those whose answer a fault has spoilt.
func (s Stats) Issued() int { return s.Events["grant.success"] }

// Outcome counts the answers of one client at the token endpoint: a status code, or "dropped".
func (s Stats) Outcome(client, outcome string) int { return s.Tokens[client+" "+outcome] }

// Stats reads the counters. An answer is counted in Tokens a moment after the client has it, the rest before.
func (op *OP) Stats(t testing.TB) Stats {
	t.Helper()
	var stats Stats
	op.admin(t, request{http.MethodGet, "/stats", nil}, &stats)
	return stats
}

// Reset clears counters and faults.
func (op *OP) Reset(t testing.TB) {
	t.Helper()
	op.admin(t, request{http.MethodPost, "/reset", nil}, nil)
}

// Withdraw ends every consent that people have given, as they do in the settings of their account: refresh tokens die with it.
func (op *OP) Withdraw(t testing.TB) {
	t.Helper()
	op.admin(t, request{http.MethodPost, "/withdraw", nil}, nil)
}

// SetFaults replaces the faults. Of those that match a request, the first that is not used up acts.
func (op *OP) SetFaults(t testing.TB, faults ...Fault) {
	t.Helper()
	if faults == nil {
		faults = []Fault{} // [], not null
	}
	op.admin(t, request{http.MethodPost, "/faults", faults}, nil)
}

// Introspect asks the server whether a token is active (RFC 7662).
func (op *OP) Introspect(t testing.TB, token string) bool {
	t.Helper()
	form := url.Values{"token": {token}}
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, op.Issuer()+"/token/introspection", strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatalf("introspect: %v", err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(resourceServer, Secret)
	var answer struct {
		Active *bool `json:"active"`
	}
	if err := call(req, &answer); err != nil {
		t.Fatalf("introspect: %v", err)
	}
	if answer.Active == nil {
		t.Fatal("introspect: the answer has no member active")
	}
	return *answer.Active
}

type request struct {
	method, path string
	body         any
}

func (op *OP) admin(t testing.TB, r request, into any) {
	t.Helper()
	body, err := json.Marshal(r.body)
	if err != nil {
		t.Fatalf("encode %s: %v", r.path, err)
	}
	req, err := http.NewRequestWithContext(context.Background(), r.method, op.ready.Admin+r.path, bytes.NewReader(body))
	if err != nil {
		t.Fatalf("make %s: %v", r.path, err)
	}
	if err := call(req, into); err != nil {
		t.Fatalf("call the authorization server's admin endpoint: %v", err)
	}
}

// client leaves no idle connection behind, so that a test that counts goroutines sees its own only.
var client = &http.Client{
	Transport: &http.Transport{DisableKeepAlives: true},
	Timeout:   10 * time.Second, // not the test's context: cleanups read counters too
}

// call does not show the answer's body: it may hold a token.
func call(req *http.Request, into any) error {
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: status %d", req.Method, req.URL.Path, resp.StatusCode)
	}
	if into == nil {
		return nil
	}
	return json.NewDecoder(resp.Body).Decode(into)
}
