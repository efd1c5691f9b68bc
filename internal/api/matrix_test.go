package api

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// samples are bodies that are right, by operation. A new route with a body needs one.
var samples = map[string]string{
	"secret.create": `{"secret_type":"oauth2","name":"x","collection_id":"` + ourShop + `"}`, "secret.create_oauth2": `{"name":"x","collection_id":"` + ourShop + `"}`,
	"secret.update": `{}`, "collection.create": `{"name":"x"}`, "collection.update": `{}`, "api_key.create": `{"name":"x","role":"viewer"}`,
}

// request makes a request for a route that is right, about a secret, collection or key.
func request(t testing.TB, r *route, secret, collection, key string) *http.Request {
	t.Helper()
	id := secret
	switch {
	case strings.HasPrefix(r.path, "/v1/collections"):
		id = collection
	case strings.HasPrefix(r.path, "/v1/api-keys"):
		id = key
	}
	body, known := samples[r.action]
	if r.body != nil && !known {
		t.Fatalf("%s needs a sample body in this test", r.action)
	}
	req := httptest.NewRequest(r.method, strings.NewReplacer("{id}", id, "{subject}", "jane", "{n}", "1").Replace(r.path), strings.NewReader(body))
	req.Header.Set("Content-Type", "application/json")
	if r.match {
		req.Header.Set("If-Match", `"1"`)
	}
	return req
}

// TestEveryRoleOnEveryPath walks the table of routes. It says what must come out of the route's own line and the caller's role, so a
// route cannot be added without being walked.
func TestEveryRoleOnEveryPath(t *testing.T) {
	t.Parallel()
	if len(routes) < 30 {
		t.Fatalf("there are %d routes", len(routes))
	}
	all := func(role Role) []Grant { return []Grant{{Role: role}} }
	only := func(role Role, id string) []Grant { return []Grant{{Role: role, Collections: []string{id}}} }
	for name, caller := range map[string]*Caller{
		"nobody": nil, "without a role": {Name: "jane", Tenant: "acme"},
		"viewer": {Name: "jane", Tenant: "acme", Grants: all(Viewer)}, "operator": {Name: "jane", Tenant: "acme", Grants: all(Operator)},
		"admin":                        {Name: "jane", Tenant: "acme", Grants: all(Admin)},
		"viewer of the shop":           {Name: "jane", Tenant: "acme", Grants: only(Viewer, ourShop)},
		"admin of the shop":            {Name: "jane", Tenant: "acme", Grants: only(Admin, ourShop)},
		"admin of another":             {Name: "jane", Tenant: "acme", Grants: only(Admin, nowhere)},
		"viewer here, admin elsewhere": {Name: "jane", Tenant: "acme", Grants: append(only(Viewer, ourShop), only(Admin, nowhere)...)},
		"admin of none":                {Name: "jane", Tenant: "acme", Grants: []Grant{{Role: Admin, Collections: []string{}}}},
		"admin elsewhere":              {Name: "eve", Tenant: "evil", Grants: all(Admin)},
		"their shop, by ID":            {Name: "eve", Tenant: "evil", Grants: only(Admin, ourShop)},
		"admin everywhere":             {Name: "root", AllTenants: true, Grants: all(Admin)},
		"operator everywhere":          {Name: "root", AllTenants: true, Grants: all(Operator)},
		"default tenant":               {Name: "jane", Grants: all(Admin)},
	} {
		for _, r := range routes {
			t.Run(name+" "+r.method+" "+r.path, func(t *testing.T) {
				t.Parallel()
				a, f := newFake()
				want := expected(r, caller)
				got := ask(t, a, caller, request(t, r, ours, ourShop, ourKey))
				if got.Code != want {
					t.Fatalf("got %d %s, want %d", got.Code, got.Body, want)
				}
				reached := f.took()
				if want >= 400 && reached != "" {
					t.Errorf("refused, and yet it reached %s", reached)
				}
				if want == http.StatusForbidden || want == http.StatusUnauthorized {
					if len(f.events) != 1 || f.events[0].Outcome != "denied" {
						t.Errorf("the audit log has %+v", f.events)
					}
				}
				if want < 400 && r.method != http.MethodGet && (len(f.events) != 1 || f.events[0].Outcome != "done" || f.events[0].Caller != caller.Name) {
					t.Errorf("the audit log has %+v", f.events)
				}
				tellsNothing(t, a, f, caller, r)
			})
		}
	}
}

// expected is what a role gets at a route, about the secret, collection or key of acme, which are in the shop.
func expected(r *route, caller *Caller) int {
	if r.role == Nobody {
		return r.status
	}
	if caller == nil {
		return http.StatusUnauthorized
	}
	here := caller.in("acme", ourShop)
	switch {
	case r.global && !caller.AllTenants, caller.anywhere() < r.role, r.whole && caller.in(caller.Tenant, "") < r.role:
		return http.StatusForbidden
	case strings.Contains(r.path, "{id}") && strings.Contains(r.path, "api-keys"):
		if caller.Tenant != "acme" && !caller.AllTenants {
			return http.StatusNotFound
		}
	case strings.Contains(r.path, "{id}"):
		if here < Viewer {
			return http.StatusNotFound
		}
		if here < r.role {
			return http.StatusForbidden
		}
	case strings.HasPrefix(r.action, "secret.create"):
		// The sample puts it into acme's shop, which exists in the caller's own tenant alone.
		if caller.in(caller.Tenant, ourShop) < r.role {
			return http.StatusForbidden
		}
		if here < Viewer || caller.Tenant != "acme" {
			return http.StatusBadRequest // no such collection there
		}
	}
	return r.status
}

// tellsNothing compares the answer about something that this caller must not know of with the one about something that is not there.
func tellsNothing(t *testing.T, a *API, f *fake, caller *Caller, r *route) {
	t.Helper()
	if !strings.Contains(r.path, "{id}") || caller != nil && caller.in("evil", theirShop) >= Viewer {
		return
	}
	before := len(f.events)
	hidden, missing := ask(t, a, caller, request(t, r, theirs, theirShop, theirKey)), ask(t, a, caller, request(t, r, nowhere[:35]+"0", nowhere[:35]+"0", nowhere[:35]+"0"))
	if said := f.events[before:]; len(said) != 2 || without(said[0]) != without(said[1]) {
		t.Errorf("the audit log, which they may read, tells a secret of another tenant from none: %+v", said)
	}
	if hidden.Code != missing.Code || withoutID(hidden) != withoutID(missing) {
		t.Errorf("%d %s\nand %d %s\ntell a secret of another tenant from none", hidden.Code, hidden.Body, missing.Code, missing.Body)
	}
}

// without is an event without what differs between any two.
func without(e AuditEvent) AuditEvent {
	e.Time, e.RequestID = time.Time{}, ""
	return e
}

func withoutID(w *httptest.ResponseRecorder) string {
	var body map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil {
		return w.Body.String()
	}
	delete(body, "meta")
	out, _ := json.Marshal(body)
	return string(out)
}

// TestListsShowWhatIsOnesOwn: a list has what its caller may see, and counts nothing else.
func TestListsShowWhatIsOnesOwn(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		caller Caller
		path   string
		want   string
	}{
		{Caller{Name: "x", Tenant: "acme", Grants: []Grant{{Role: Admin}}}, "/v1/secrets", "loose ours"},
		{Caller{Name: "x", Tenant: "acme", Grants: []Grant{{Role: Admin, Collections: []string{ourShop}}}}, "/v1/secrets", "ours"},
		{Caller{Name: "x", Tenant: "evil", Grants: []Grant{{Role: Viewer}}}, "/v1/secrets", "theirs"},
		{Caller{Name: "x", Grants: []Grant{{Role: Admin}}}, "/v1/secrets", ""},
		{Caller{Name: "x", AllTenants: true, Grants: []Grant{{Role: Admin}}}, "/v1/secrets", "loose ours theirs"},
		{Caller{Name: "x", AllTenants: true, Grants: []Grant{{Role: Admin}}}, "/v1/secrets?tenant=evil", "theirs"},
		{Caller{Name: "x", Tenant: "acme", Grants: []Grant{{Role: Viewer}}}, "/v1/secrets?tenant=evil", ""},
		{Caller{Name: "x", Tenant: "acme", Grants: []Grant{{Role: Viewer}}}, "/v1/collections", "shop"},
		{Caller{Name: "x", Tenant: "evil", Grants: []Grant{{Role: Viewer, Collections: []string{ourShop}}}}, "/v1/collections", ""},
		{Caller{Name: "x", Tenant: "acme", Grants: []Grant{{Role: Admin}}}, "/v1/api-keys", "ours"},
		{Caller{Name: "x", Tenant: "acme", AllTenants: true, Grants: []Grant{{Role: Admin}}}, "/v1/api-keys", "ours theirs all"},
	} {
		a, _ := newFake()
		got := ask(t, a, &tt.caller, httptest.NewRequest(http.MethodGet, tt.path, nil))
		var body struct {
			Data []struct{ Name string }
			Meta struct{ Total int }
		}
		if err := json.Unmarshal(got.Body.Bytes(), &body); err != nil {
			t.Fatalf("%d %s: %v", got.Code, got.Body, err)
		}
		var names []string
		for _, one := range body.Data {
			names = append(names, one.Name)
		}
		if strings.Join(names, " ") != tt.want || body.Meta.Total != len(names) {
			t.Errorf("%+v %s: got %q of %d, want %q", tt.caller, tt.path, names, body.Meta.Total, tt.want)
		}
	}
	a, _ := newFake()
	admin := &Caller{Name: "x", Tenant: "acme", Grants: []Grant{{Role: Admin}}}
	if got := ask(t, a, admin, httptest.NewRequest(http.MethodGet, "/v1/audit", nil)); strings.Contains(got.Body.String(), "evil") || !strings.Contains(got.Body.String(), "acme") {
		t.Errorf("the audit log shows %s", got.Body)
	}
}

// TestAuditTrailIsCounted: what is left out is counted for those tenants alone that the caller sees, whatever else is asked for.
func TestAuditTrailIsCounted(t *testing.T) {
	t.Parallel()
	a, _ := newFake()
	acme := &Caller{Name: "x", Tenant: "acme", Grants: []Grant{{Role: Admin}}}
	all := &Caller{Name: "x", Tenant: "acme", AllTenants: true, Grants: []Grant{{Role: Admin}}}
	for _, tt := range []struct {
		caller         *Caller
		query          string
		total, leftOut int
	}{
		{acme, "", 3, 7}, {acme, "?target=2", 2, 7}, {acme, "?target=3", 0, 7}, {all, "", 4, 7 + 699}, {all, "?per_page=1&target=2", 3, 7 + 699},
	} {
		var body struct {
			Meta struct {
				Total   int
				LeftOut int `json:"left_out"`
			}
		}
		w := ask(t, a, tt.caller, httptest.NewRequest(http.MethodGet, "/v1/audit"+tt.query, nil))
		if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil || body.Meta.Total != tt.total || body.Meta.LeftOut != tt.leftOut {
			t.Errorf("%s: %s (%v)", tt.query, w.Body, err)
		}
	}
}

// TestRolesAreAsPromised: reading is for viewers, refreshing, testing and authorizing for operators, all else for administrators. Who may
// see API keys and the audit log is an administrator of the whole tenant, who may see and replace the keys that seal everything one of
// all tenants, and nobody has to be known for two documents.
func TestRolesAreAsPromised(t *testing.T) {
	t.Parallel()
	for _, r := range routes {
		want := Admin
		_, verb, _ := strings.Cut(r.action, ".")
		switch {
		case r.action == "health", r.action == "openapi":
			want = Nobody
		case strings.HasPrefix(r.action, "api_key"), strings.HasPrefix(r.action, "audit"):
			if !r.whole {
				t.Errorf("%s %s does not need the role for the whole tenant", r.method, r.path)
			}
		case strings.HasPrefix(r.action, "sealing_key"):
			if !r.whole || !r.global {
				t.Errorf("%s %s concerns all tenants, and does not need a caller who may act for all of them", r.method, r.path)
			}
		case r.method == http.MethodGet:
			want = Viewer
		case verb == "refresh", verb == "test", verb == "authorize":
			want = Operator
		}
		if r.role != want {
			t.Errorf("%s %s needs the role %s, promised is %s", r.method, r.path, r.role, want)
		}
		if strings.Contains(r.path, "/secrets/{id}") && r.find == nil {
			t.Errorf("%s %s looks nothing up", r.method, r.path)
		}
	}
}
