package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/caddyoauth/caddyoauth/test/openapi"
)

// document is the OpenAPI document as clients get it.
func document(t *testing.T, a *API) openapi.Document {
	t.Helper()
	got := ask(t, a, nil, httptest.NewRequest(http.MethodGet, "/v1/openapi.json", nil))
	doc, err := openapi.Parse(got.Body.Bytes())
	if err != nil || got.Code != http.StatusOK {
		t.Fatalf("%d %v", got.Code, err)
	}
	return doc
}

// TestDocumentHasEveryRoute, and none that there is not.
func TestDocumentHasEveryRoute(t *testing.T) {
	t.Parallel()
	a, _ := newFake()
	doc := document(t, a)
	paths := doc["paths"].(map[string]any)
	documented := make(map[string]bool)
	operations := make(map[string]string)
	for path, item := range paths {
		for method, op := range item.(map[string]any) {
			documented[strings.ToUpper(method)+" "+path] = true
			id := doc.Follow(op, "operationId").(string)
			if other, twice := operations[id]; twice {
				t.Errorf("%s and %s %s have the same operationId", other, method, path)
			}
			operations[id] = method + " " + path
			asked := strings.NewReplacer("{id}", ours, "{subject}", "x", "{n}", "1").Replace(path)
			if found, _, _ := match(strings.ToUpper(method), asked); found == nil || found.path != path {
				t.Errorf("%s %s is documented, and there is no such route", method, path)
			}
		}
	}
	for _, r := range routes {
		if !documented[r.method+" "+r.path] {
			t.Errorf("%s %s is not documented", r.method, r.path)
		}
	}
}

// TestAnswersAreAsDocumented compares real answers, of every route, with what the document says of it; and nothing is documented that was
// not answered.
func TestAnswersAreAsDocumented(t *testing.T) {
	t.Parallel()
	a, f := newFake()
	a.Once = fakeOnce{}
	doc := document(t, a)
	admin := &Caller{Name: "jane", Tenant: "acme", AllTenants: true, Grants: []Grant{{Role: Admin}}}
	for _, r := range routes {
		answered := map[string]bool{}
		check := func(caller *Caller, change func(*http.Request)) {
			t.Helper()
			req := request(t, r, ours, ourShop, ourKey)
			change(req)
			got := ask(t, a, caller, req)
			for _, fault := range doc.Check(openapi.Answer{Method: r.method, Path: req.URL.EscapedPath(), Status: got.Code, Header: got.Header(), Body: got.Body.Bytes()}) {
				if r.raw == nil || !strings.HasPrefix(fault, "body") {
					t.Errorf("%s %s %d: %s in %s", r.method, r.path, got.Code, fault, got.Body)
				}
			}
			if strings.Contains(got.Body.String(), "business") {
				t.Errorf("%s %s shows an unexpected error", r.method, r.path)
			}
			answered[fmt.Sprint(got.Code)] = true
		}
		plain := func(*http.Request) {}
		check(admin, plain)
		if r.action == "health" {
			f.unready = true
			check(admin, plain)
			f.unready = false
		}
		for _, err := range provoked(r) {
			f.err = err
			check(admin, plain)
			f.err = nil
		}
		for _, change := range mistakes(r) {
			check(admin, change)
		}
		if r.role > Nobody {
			check(nil, plain)
			check(&Caller{Name: "x", Tenant: "acme"}, plain)
			check(&Caller{Name: "too many"}, plain)
			check(&Caller{Name: "broken"}, plain)
			check(&Caller{Name: "unavailable"}, plain)
		}
		documented := doc.Follow(doc["paths"], r.path, strings.ToLower(r.method), "responses").(map[string]any)
		for status := range documented {
			if !answered[status] {
				t.Errorf("%s %s: the status %s is documented, and does not occur", r.method, r.path, status)
			}
		}
	}
}

// provoked are errors that the work of a route may end with.
func provoked(r *route) (all []error) {
	if r.conflicts {
		all = append(all, Conflict("taken"))
	}
	if r.asks {
		all = append(all, Provider("invalid_client", "refused"))
	}
	if r.role > Nobody {
		all = append(all, errors.New("words that are nobody's business"), Unavailable(0, "later"))
	}
	return all
}

// mistakes are what clients do wrong with a route.
func mistakes(r *route) (all []func(*http.Request)) {
	if r.role == Nobody {
		return nil
	}
	all = append(all, func(req *http.Request) { req.URL.RawQuery = "colour=red" })
	if strings.Contains(r.path, "{id}") {
		all = append(all, func(req *http.Request) {
			req.URL.Path = strings.NewReplacer(ours, nowhere, ourShop, nowhere, ourKey, nowhere[:35]+"0").Replace(req.URL.Path)
		})
	}
	if r.match {
		all = append(all, func(req *http.Request) { req.Header.Del("If-Match") }, func(req *http.Request) { req.Header.Set("If-Match", `"x"`) })
	}
	if r.method == http.MethodGet {
		return all
	}
	all = append(all, func(req *http.Request) { req.Body = io.NopCloser(bytes.NewReader(make([]byte, maxBody+1))) },
		func(req *http.Request) {
			req.Body = io.NopCloser(strings.NewReader("a=b"))
			req.Header.Set("Content-Type", "text/plain")
		})
	if r.method == http.MethodPost {
		all = append(all, func(req *http.Request) { req.Header.Set("Idempotency-Key", "other") }, func(req *http.Request) { req.Header.Set("Idempotency-Key", "again") })
	}
	return all
}

// fakeOnce knows the answers to two keys.
type fakeOnce struct{}

func (fakeOnce) Perform(_ context.Context, key OnceKey, run func() (Outcome, error)) (Outcome, error) {
	if strings.HasSuffix(key.Key, "other") {
		return Outcome{}, Conflict("used for another request")
	}
	outcome, err := run()
	outcome.Replayed = true
	return outcome, err
}

// TestBodiesAreAsDocumented sends every field that is documented, and one that is not.
func TestBodiesAreAsDocumented(t *testing.T) {
	t.Parallel()
	a, _ := newFake()
	doc := document(t, a)
	admin := &Caller{Name: "jane", Tenant: "acme", AllTenants: true, Grants: []Grant{{Role: Admin}}}
	for action, body := range map[string]string{"collection.create": "CollectionBody", "api_key.create": "KeyBody"} {
		i := slices.IndexFunc(routes, func(r *route) bool { return r.action == action })
		send := func(fields map[string]any) string {
			text, _ := json.Marshal(fields)
			req := httptest.NewRequest(http.MethodPost, routes[i].path, bytes.NewReader(text))
			req.Header.Set("Content-Type", "application/json")
			return ask(t, a, admin, req).Body.String()
		}
		for name := range doc.Follow(doc["components"], "schemas", body, "properties").(map[string]any) {
			if got := send(map[string]any{name: nil}); strings.Contains(got, "no such field") {
				t.Errorf("%s: %s is documented, and refused: %s", action, name, got)
			}
		}
		if got := send(map[string]any{"colour": 1}); !strings.Contains(got, "no such field") {
			t.Errorf("%s: a field that is not documented is accepted: %s", action, got)
		}
	}
}
