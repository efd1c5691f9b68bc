package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

// document is the OpenAPI document as clients get it.
func document(t *testing.T, a *API) map[string]any {
	t.Helper()
	got := ask(t, a, nil, httptest.NewRequest(http.MethodGet, "/v1/openapi.json", nil))
	var doc map[string]any
	if err := json.Unmarshal(got.Body.Bytes(), &doc); err != nil || got.Code != http.StatusOK {
		t.Fatalf("%d %v", got.Code, err)
	}
	return doc
}

// at returns what is at a path of names.
func at(doc any, names ...string) any {
	for _, name := range names {
		doc = doc.(map[string]any)[name]
		if doc == nil {
			return nil
		}
	}
	return doc
}

// TestDocumentHasEveryRoute, and none that there is not.
func TestDocumentHasEveryRoute(t *testing.T) {
	t.Parallel()
	a, _ := newFake()
	paths := at(document(t, a), "paths").(map[string]any)
	documented := make(map[string]bool)
	operations := make(map[string]string)
	for path, item := range paths {
		for method, op := range item.(map[string]any) {
			documented[strings.ToUpper(method)+" "+path] = true
			id := at(op, "operationId").(string)
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

// TestAnswersAreAsDocumented compares real answers, of every route, with the schema of their status.
func TestAnswersAreAsDocumented(t *testing.T) {
	t.Parallel()
	a, f := newFake()
	doc := document(t, a)
	admin := &Caller{Name: "jane", Tenant: "acme", Grants: []Grant{{Role: Admin}}}
	check := func(r *route, got *httptest.ResponseRecorder) {
		t.Helper()
		status := fmt.Sprint(got.Code)
		response := at(doc, "paths", r.path, strings.ToLower(r.method), "responses", status)
		if response == nil {
			t.Errorf("%s %s: the status %s is not documented", r.method, r.path, status)
			return
		}
		response = resolve(doc, response)
		var body any
		if err := json.Unmarshal(got.Body.Bytes(), &body); err != nil {
			t.Fatalf("%s %s: %v", r.method, r.path, err)
		}
		if r.raw == nil {
			for _, fault := range validate(doc, at(response, "content", "application/json", "schema"), body, "body") {
				t.Errorf("%s %s %s: %s in %s", r.method, r.path, status, fault, got.Body)
			}
		}
		for name := range maps.Keys(at(response, "headers").(map[string]any)) {
			if got.Header().Get(name) == "" {
				t.Errorf("%s %s %s: no header %s", r.method, r.path, status, name)
			}
		}
		if got.Header().Get("ETag") != "" && at(response, "headers", "ETag") == nil {
			t.Errorf("%s %s: the ETag is not documented", r.method, r.path)
		}
	}
	for _, r := range routes {
		req := func() *http.Request { return request(t, r, ours, ourShop, ourKey) }
		f.err = nil
		check(r, ask(t, a, admin, req()))
		if r.role == Nobody {
			continue
		}
		check(r, ask(t, a, nil, req()))
		check(r, ask(t, a, &Caller{Name: "x", Tenant: "acme"}, req()))
		odd := req()
		odd.URL.RawQuery = "colour=red"
		check(r, ask(t, a, admin, odd))
		if strings.Contains(r.path, "{id}") {
			check(r, ask(t, a, admin, request(t, r, nowhere, nowhere, nowhere[:35]+"0")))
		}
		if r.match {
			without := req()
			without.Header.Del("If-Match")
			check(r, ask(t, a, admin, without))
			stale := req()
			stale.Header.Set("If-Match", `"x"`)
			check(r, ask(t, a, admin, stale))
		}
		if r.method != http.MethodGet {
			f.err = Conflict("taken")
			check(r, ask(t, a, admin, req()))
			f.err = Provider("invalid_client", "refused")
			check(r, ask(t, a, admin, req()))
			large := httptest.NewRequest(r.method, req().URL.Path, bytes.NewReader(make([]byte, maxBody+1)))
			check(r, ask(t, a, admin, large))
			form := httptest.NewRequest(r.method, req().URL.Path, strings.NewReader("a=b"))
			check(r, ask(t, a, admin, form))
		}
		if r.handle != nil && !r.list {
			f.err = fmt.Errorf("unexpected, with words that are nobody's business")
			got := ask(t, a, admin, req())
			if strings.Contains(got.Body.String(), "business") {
				t.Errorf("%s %s shows an unexpected error", r.method, r.path)
			}
			if got.Code >= 400 {
				check(r, got)
			}
			f.err = Unavailable(0, "later")
			if got := ask(t, a, admin, req()); got.Code >= 400 {
				check(r, got)
			}
		}
	}
}

func resolve(doc, node any) any {
	for {
		ref, ok := at(node, "$ref").(string)
		if !ok {
			return node
		}
		node = at(doc, strings.Split(strings.TrimPrefix(ref, "#/"), "/")...)
	}
}

// validate is as much of JSON Schema as the document uses.
func validate(doc, schema, value any, where string) []string {
	s, _ := resolve(doc, schema).(map[string]any)
	var faults []string
	if want, ok := s["type"]; ok && !isOf(want, value) {
		return []string{fmt.Sprintf("%s is %T, not %v", where, value, want)}
	}
	if enum, ok := s["enum"].([]any); ok && !slices.Contains(enum, value) {
		faults = append(faults, fmt.Sprintf("%s is %v, not one of %v", where, value, enum))
	}
	if items, ok := value.([]any); ok {
		for i, item := range items {
			faults = append(faults, validate(doc, s["items"], item, fmt.Sprint(where, "[", i, "]"))...)
		}
	}
	members, ok := value.(map[string]any)
	if !ok {
		return faults
	}
	properties, _ := s["properties"].(map[string]any)
	for name, member := range members {
		if property, known := properties[name]; known {
			faults = append(faults, validate(doc, property, member, where+"."+name)...)
		} else if s["additionalProperties"] == false {
			faults = append(faults, where+"."+name+" is not documented")
		}
	}
	required, _ := s["required"].([]any)
	for _, name := range required {
		if _, there := members[name.(string)]; !there {
			faults = append(faults, where+"."+name.(string)+" is missing")
		}
	}
	return faults
}

func isOf(want, value any) bool {
	if several, ok := want.([]any); ok {
		return slices.ContainsFunc(several, func(one any) bool { return isOf(one, value) })
	}
	switch value := value.(type) {
	case nil:
		return want == "null"
	case string:
		return want == "string"
	case bool:
		return want == "boolean"
	case float64:
		return want == "number" || want == "integer" && value == float64(int64(value))
	case []any:
		return want == "array"
	}
	return want == "object"
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
		for name := range at(doc, "components", "schemas", body, "properties").(map[string]any) {
			if got := send(map[string]any{name: nil}); strings.Contains(got, "no such field") {
				t.Errorf("%s: %s is documented, and refused: %s", action, name, got)
			}
		}
		if got := send(map[string]any{"colour": 1}); !strings.Contains(got, "no such field") {
			t.Errorf("%s: a field that is not documented is accepted: %s", action, got)
		}
	}
}
