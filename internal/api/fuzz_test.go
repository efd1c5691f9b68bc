package api

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// FuzzRequest sends anything to the API. It answers JSON, with a request ID and a status that its document knows, and gives nobody
// without a role anything.
func FuzzRequest(f *testing.F) {
	for _, r := range routes {
		f.Add(r.method, strings.NewReplacer("{id}", ours, "{subject}", "jane", "{n}", "1").Replace(r.path), samples[r.action])
	}
	f.Add("POST", "/v1/secrets", `{"name":"x","name":"y"}`)
	f.Add("GET", "/v1/secrets/"+ours+"/subjects/%2F%2e%2e%00", "")
	f.Add("GET", "/v1/secrets?page=99999999999999999999&sort=-name&a=%zz", "")
	f.Add("PATCH", "/v1/secrets/"+ours, strings.Repeat(`{"environments":`, 300))
	admin := &Caller{Name: "jane", Tenant: "acme", Grants: []Grant{{Role: Admin}}}
	f.Fuzz(func(t *testing.T, method, target, body string) {
		u, err := url.ParseRequestURI(target)
		if err != nil || !strings.HasPrefix(u.Path, "/") {
			return
		}
		for _, caller := range []*Caller{admin, {Name: "eve", Tenant: "evil"}} {
			a, fake := newFake()
			req := httptest.NewRequest(http.MethodGet, "/", strings.NewReader(body))
			req.Method, req.URL = method, u
			req.Header.Set("Content-Type", "application/json")
			req.Header.Set("If-Match", "*")
			got := ask(t, a, caller, req)
			if got.Header().Get("X-Request-Id") == "" || method != http.MethodHead && !json.Valid(got.Body.Bytes()) {
				t.Fatalf("%d %q", got.Code, got.Body)
			}
			if got.Code >= 400 && failures[got.Code] == "" && got.Code != http.StatusMethodNotAllowed {
				t.Fatalf("the status %d is none of the document's", got.Code)
			}
			if got.Code == http.StatusInternalServerError {
				t.Fatalf("%s %s %q: %s", method, target, body, got.Body)
			}
			if reached := fake.took(); caller != admin && reached != "" {
				t.Fatalf("%s %s reached %s without a role", method, target, reached)
			}
		}
	})
}
