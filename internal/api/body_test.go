package api

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

// TestBodies sends what careless and hostile clients send. fields are those that the answer names, in order.
func TestBodies(t *testing.T) {
	t.Parallel()
	admin := &Caller{Name: "jane", Tenant: "acme", Grants: []Grant{{Role: Admin}}}
	root := &Caller{Name: "root", AllTenants: true, Grants: []Grant{{Role: Admin}}}
	for _, tt := range []struct {
		name, method, path, body, header string
		caller                           *Caller
		status                           int
		fields                           string
	}{
		{name: "no UTF-8", path: "/v1/secrets/oauth2", body: "{\"name\":\"x\",\"client_secret\":\"a\xff\"}", status: 400},
		{name: "compressed", path: "/v1/secrets/oauth2", body: `{}`, header: "Content-Encoding: gzip", status: 415},
		{name: "not compressed", path: "/v1/secrets/oauth2", body: `{"name":"x"}`, header: "Content-Encoding: identity", status: 201},
		{name: "a patch that is none", path: "/v1/secrets/oauth2", body: `{"name":"x"}`, header: "Content-Type: application/merge-patch+json", status: 415},
		{name: "a patch", method: "PATCH", path: "/v1/collections/" + ourShop, body: `{}`, header: "Content-Type: application/merge-patch+json", status: 428},
		{name: "twice", path: "/v1/secrets/oauth2", body: `{"name":"x","name":"y","scopes":[],"scopes":[]}`, status: 400, fields: "name scopes"},
		{name: "twice, far below", path: "/v1/secrets/oauth2", body: `{"name":"x","environments":{"s":[1,{"a":{"b":1,"b":2}},"b","b"],"t":{"b":"b"}},"x":{"b":1e999}}`, status: 400, fields: "environments.s.a.b"},
		{name: "the same text where it is no name", path: "/v1/secrets/oauth2", body: `{"name":"name","x":["name","name",{"name":1}],"y":{"name":{"name":{}}}}`, status: 201},
		{name: "no type", path: "/v1/secrets", body: `{"collection_id":"x"}`, status: 400, fields: "collection_id secret_type"},
		{name: "another type", path: "/v1/secrets/oauth2", body: `{"secret_type":"certificate","collection_id":"x"}`, status: 400, fields: "collection_id secret_type"},
		{name: "a type that there is not", path: "/v1/secrets", body: `{"secret_type":7,"certificate":"x","collection_id":"x"}`, status: 400, fields: "collection_id secret_type"},
		{name: "no null as a tenant", path: "/v1/collections", body: `{"name":"x","tenant":null}`, status: 400, fields: "tenant"},
		{name: "a tenant with a slash", path: "/v1/secrets/oauth2", caller: root, body: `{"tenant":"a/b"}`, status: 400, fields: "tenant"},
		{name: "a tenant with a line's end", path: "/v1/collections", caller: root, body: `{"name":"x","tenant":"a\n"}`, status: 400, fields: "tenant"},
		{name: "a placeholder as a tenant", path: "/v1/api-keys", caller: root, body: `{"name":"x","role":"viewer","tenant":"{x}"}`, status: 400, fields: "tenant"},
		{name: "a long tenant", path: "/v1/collections", caller: root, body: `{"name":"x","tenant":"` + strings.Repeat("x", 129) + `"}`, status: 400, fields: "tenant"},
		{name: "a tenant as people have them", path: "/v1/collections", caller: root, body: `{"name":"x","tenant":"jane.doe+x@café.example"}`, status: 201},
		{name: "a key that ends never", path: "/v1/api-keys", body: `{"name":"x","role":"viewer","expires_at":null}`, status: 201},
		{name: "a key that has ended", path: "/v1/api-keys", body: `{"name":"x","role":"viewer","expires_at":"0001-01-01T00:00:00Z"}`, status: 400, fields: "expires_at"},
		{name: "a key of another form", path: "/v1/api-keys", body: `{"role":1,"expires_at":"2030-01-01"}`, status: 400, fields: "expires_at role"},
		{name: "a body where none means anything", method: "GET", path: "/v1/secrets", body: "x=y", header: "Content-Type: text/plain", status: 200},
		{name: "a body where there is none", path: "/v1/secrets/" + ours + "/refresh", body: `{"x":1}`, status: 400},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a, _ := newFake()
			method, caller := "POST", admin
			if tt.method != "" {
				method = tt.method
			}
			if tt.caller != nil {
				caller = tt.caller
			}
			req := httptest.NewRequest(method, tt.path, strings.NewReader(tt.body))
			req.Header.Set("Content-Type", "application/json")
			if name, value, ok := strings.Cut(tt.header, ": "); ok {
				req.Header.Set(name, value)
			}
			got := ask(t, a, caller, req)
			named := faultsOf(t, got)
			if got.Code != tt.status || strings.Join(named, " ") != tt.fields {
				t.Errorf("got %d of %q, want %d of %q: %s", got.Code, named, tt.status, tt.fields, got.Body)
			}
		})
	}
}

// faultsOf returns the fields that an answer names, sorted.
func faultsOf(t *testing.T, got *httptest.ResponseRecorder) []string {
	t.Helper()
	var named []string
	if got.Code != http.StatusBadRequest {
		return named
	}
	for part := range strings.SplitSeq(got.Body.String(), `{"field":"`) {
		name, _, ok := strings.Cut(part, `","message"`)
		if ok && !strings.HasPrefix(part, `{"error"`) {
			named = append(named, name)
		}
	}
	slices.Sort(named)
	return named
}

// TestManyMembersThatStandTwice: naming them all, each with its long path, would be an answer that is far longer than the request.
func TestManyMembersThatStandTwice(t *testing.T) {
	t.Parallel()
	body := strings.Repeat(`{"a":`, 5000) + "{" + strings.Repeat(`"b":1,`, 20000) + `"b":1` + strings.Repeat("}", 5001)
	if found := twice([]byte(body)); len(found) != maxTwice || len(found[0]) != 2*5000+1 {
		t.Errorf("%d are named", len(found))
	}
}
