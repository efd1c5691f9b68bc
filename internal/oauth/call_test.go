package oauth

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

// call sends a request with a token to an address, by the client of another server.
func call(t *testing.T, method, address, body string) (*Answer, error) {
	t.Helper()
	var content io.Reader
	if body != "" {
		content = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, address, content)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer Seeded0-token")
	return newTestClient(t, Config{TokenEndpoint: "https://idp.example/token", Codes: Codes{Revoked: []string{"Gone_For_Good"}}}).Call(req, nil)
}

// TestCall sends what it is given, once, and hands on what comes back.
func TestCall(t *testing.T) {
	t.Parallel()
	endpoint, got := wishes(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusTeapot)
		_, _ = io.WriteString(w, `["x"]`)
	})
	answer, err := call(t, http.MethodPost, endpoint+"?q=1", `{"a":1}`)
	if err != nil || answer.Status != http.StatusTeapot || answer.Blame != BlameAPI || string(answer.Body) != `["x"]` {
		t.Errorf("got %+v, %v", answer, err)
	}
	if have := <-got; have.method != "POST" || have.query != "q=1" || have.body != `{"a":1}` || have.authorization != "Bearer Seeded0-token" {
		t.Errorf("the API got %+v", have)
	}
}

// TestAttackCall: an API can neither send the token on, nor fill the memory, nor write into an error.
func TestAttackCall(t *testing.T) {
	t.Parallel()
	var elsewhere atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	t.Cleanup(other.Close)
	for name, tc := range map[string]struct {
		handler http.HandlerFunc
		status  int
		code    string
	}{
		"redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, other.URL+"/?"+r.Header.Get("Authorization"), http.StatusTemporaryRedirect)
		}, http.StatusTemporaryRedirect, ""},
		"flood": {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 2<<20)) }, 0, "response_too_large"},
		"hang up": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "10")
			_, _ = io.WriteString(w, "Seeded0")
		}, 0, "connection_lost"},
	} {
		server := httptest.NewServer(tc.handler)
		answer, err := call(t, http.MethodGet, server.URL, "")
		server.Close()
		if tc.code == "" {
			if err != nil || answer.Status != tc.status {
				t.Errorf("%s: got %+v, %v", name, answer, err)
			}
			continue
		}
		var e *Error
		if !errors.As(err, &e) || e.Code != tc.code || strings.Contains(err.Error(), "Seeded0") || !strings.Contains(err.Error(), "API") {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if elsewhere.Load() != 0 {
		t.Error("a redirect was followed")
	}
	if _, err := call(t, http.MethodGet, "https://127.0.0.1:1/?Seeded0", ""); err == nil || strings.Contains(err.Error(), "Seeded0") {
		t.Errorf("nobody there: %v", err)
	}
}

// TestBlame: the token, its scope or the API.
func TestBlame(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		status       int
		header, body string
		want         Blame
		code         string
	}{
		"good":               {200, "", `{"id":1}`, BlameNothing, ""},
		"good list":          {200, "", `[{"id":1}]`, BlameNothing, ""},
		"good, with message": {200, "", `{"id":1,"message":"hello","error":null,"errors":[]}`, BlameNothing, ""},
		"good text":          {204, "", ``, BlameNothing, ""},
		"401":                {401, "", `<html>`, BlameToken, ""},
		"invalid_token":      {401, `WWW-Authenticate: Bearer error="invalid_token"`, `{"error":"invalid_token"}`, BlameToken, "invalid_token"},
		"challenge of scope": {401, `WWW-Authenticate: Bearer realm="a", error="insufficient_scope"`, ``, BlameScope, ""},
		"403":                {403, "", `{"error":{"code":403,"status":"PERMISSION_DENIED"}}`, BlameScope, "PERMISSION_DENIED"},
		"403, slow down":     {403, "Retry-After: 60", `{"message":"x"}`, BlameAPI, ""},
		"403, limit":         {403, "X-RateLimit-Remaining: 0", `{"message":"x"}`, BlameAPI, ""},
		"429":                {429, "", ``, BlameAPI, ""},
		"500":                {500, "", `{"error":"server_error"}`, BlameAPI, "server_error"},
		"404":                {404, "", `{"error":"not_found"}`, BlameAPI, "not_found"},
		"302":                {302, "", ``, BlameAPI, ""},
		"slack":              {200, "", `{"ok":false,"error":"token_revoked"}`, BlameToken, "token_revoked"},
		"slack scope":        {200, "", `{"ok":false,"error":"missing_scope"}`, BlameScope, "missing_scope"},
		"slack trouble":      {200, "", `{"ok":false,"error":"fatal_error"}`, BlameAPI, "fatal_error"},
		"graphql":            {200, "", `{"data":null,"errors":[{"message":"no"}]}`, BlameAPI, ""},
		"salesforce":         {401, "", `[{"message":"Session expired","errorCode":"INVALID_SESSION_ID"}]`, BlameToken, "INVALID_SESSION_ID"},
		"dropbox":            {401, "", `{"error_summary":"x","error":{".tag":"expired_access_token"}}`, BlameToken, "expired_access_token"},
		"own word":           {400, "", `{"error":"gone_for_good"}`, BlameToken, "gone_for_good"},
		"echo":               {401, "", `{"error":"Seeded0-token"}`, BlameToken, "unreadable_code"},
		"prose":              {400, "", `{"error":"you may not <b>"}`, BlameAPI, "unreadable_code"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if header, value, ok := strings.Cut(tc.header, ": "); ok {
					w.Header().Set(header, value)
				}
				w.WriteHeader(tc.status)
				_, _ = io.WriteString(w, tc.body)
			}))
			t.Cleanup(server.Close)
			answer, err := call(t, http.MethodGet, server.URL, "")
			if err != nil || answer.Blame != tc.want || answer.Code != tc.code {
				t.Errorf("got %+v, %v; want %q with %q", answer, err, tc.want, tc.code)
			}
		})
	}
}
