package caddyoauth_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/caddyoauth/caddyoauth/test/openapi"
)

// restSite is a running Caddy with the REST API. Who calls is what the header X-User says, so that a test can be anybody.
type restSite struct {
	*site
	auth *authServer
	up   *upstream
	doc  openapi.Document // with which every answer is compared
}

const apiDirective = `oauth2_api {
	identity {http.request.header.X-User}
	groups {http.request.header.X-Groups}
	tenant {http.request.header.X-Tenant}
	role admin admins
	role operator operators
	role viewer viewers
	role admin shop_admins shop
	role operator shop_operators shop
	rate_limit 10000
}
`

// runAPI starts the site. Requests to /NAME/... travel with the connection of that name, when it is made.
func runAPI(t *testing.T, stored, site string) *restSite {
	t.Helper()
	a := &restSite{auth: newAuthServer(t), up: newUpstream(t, nil)}
	if stored == "" {
		stored = "endpoints 127.0.0.1\nsubjects {http.auth.user.id} {http.request.header.X-Person}"
	}
	with := setup{connections: "stored_connections {\n" + stored + "\n}\n", site: strings.ReplaceAll(apiDirective, "tenant {http.request.header.X-Tenant}\n", "") + strings.ReplaceAll(site, "UPSTREAM", a.up.url)}
	with.site += `
	route /with/* {
		oauth2_inject {http.request.uri.path.1} {
			reverse_proxy ` + a.up.url + `
		}
	}
	respond "nothing" 404
	`
	a.site = run(t, with)
	return a
}

// reply is an answer of the API.
type reply struct {
	t *testing.T
	answer
	Data  json.RawMessage `json:"data"`
	Error struct {
		Type, Message, Field string
		Fields               []struct{ Field, Message string }
	} `json:"error"`
	Meta struct {
		RequestID string `json:"request_id"`
		Page      int
		Total     int
	} `json:"meta"`
}

// call sends a request as an administrator, unless the headers say otherwise. A body of "" is none.
func (a *restSite) call(method, path, body string, headers ...string) *reply {
	a.t.Helper()
	lines := map[string]string{"X-User": "alice", "X-Groups": "admins", "Content-Type": "application/json"}
	for _, line := range headers {
		name, value, _ := strings.Cut(line, ": ")
		if lines[name] = value; value == "" {
			delete(lines, name)
		}
	}
	var all []string
	for name, value := range lines {
		all = append(all, name+": "+value)
	}
	req := a.request(method, "/oauth2"+path, strings.NewReader(body), all...)
	out := &reply{t: a.t, answer: a.do(req)}
	if err := json.Unmarshal([]byte(out.body), out); err != nil && method != http.MethodHead {
		a.t.Fatalf("%s %s: %d %q: %v", method, path, out.status, out.body, err)
	}
	a.documented(method, path, out.answer)
	if out.header.Get("X-Request-Id") == "" || out.Meta.RequestID != out.header.Get("X-Request-Id") && method != http.MethodHead {
		a.t.Errorf("%s %s: request ID %q and %q", method, path, out.Meta.RequestID, out.header.Get("X-Request-Id"))
	}
	return out
}

// documented fails the test if an answer is not as the OpenAPI document says.
func (a *restSite) documented(method, path string, got answer) {
	a.t.Helper()
	if a.doc == nil {
		served := a.get("/oauth2/v1/openapi.json")
		var err error
		if a.doc, err = openapi.Parse([]byte(served.body)); err != nil || served.status != http.StatusOK {
			a.t.Fatalf("%d %v", served.status, err)
		}
	}
	path, _, _ = strings.Cut(path, "?")
	answer := openapi.Answer{Method: method, Path: path, Status: got.status, Header: got.header, Body: []byte(got.body)}
	for _, fault := range a.doc.Check(answer) {
		a.t.Errorf("%s %s: %s: %s", method, path, fault, got.body)
	}
}

// is fails the test unless the status is that one.
func (r *reply) is(status int) *reply {
	r.t.Helper()
	if r.status != status {
		r.t.Fatalf("got %d %s, want %d", r.status, r.body, status)
	}
	return r
}

// failed fails the test unless it is that error.
func (r *reply) failed(status int, kind string, fields ...string) *reply {
	r.t.Helper()
	r.is(status)
	var got []string
	for _, one := range r.Error.Fields {
		got = append(got, one.Field)
	}
	if r.Error.Type != kind || !slices.Equal(got, fields) {
		r.t.Fatalf("got %s of %q, want %s of %q: %s", r.Error.Type, got, kind, fields, r.body)
	}
	if len(fields) > 0 && r.Error.Field != fields[0] {
		r.t.Errorf("field is %q, want %q", r.Error.Field, fields[0])
	}
	return r
}

// get returns a member of data, as text.
func (r *reply) get(name string) string {
	r.t.Helper()
	var all map[string]json.RawMessage
	if err := json.Unmarshal(r.Data, &all); err != nil {
		r.t.Fatalf("%s: %v", r.body, err)
	}
	return strings.Trim(string(all[name]), `"`)
}

// names returns the names of a list, in order.
func (r *reply) names() string {
	r.t.Helper()
	var all []struct{ Name string }
	if err := json.Unmarshal(r.Data, &all); err != nil {
		r.t.Fatalf("%s: %v", r.body, err)
	}
	var names []string
	for _, one := range all {
		names = append(names, one.Name)
	}
	return strings.Join(names, " ")
}

// machine is the body of a connection that needs no person.
func (a *restSite) machine(name, more string) string {
	return fmt.Sprintf(`{"name":%q,"provider":"custom","grant_type":"client_credentials","client_id":"caddy","client_secret":%q,"token_url":"%s/token"%s}`,
		name, clientSecret, a.idp.URL, more)
}

// people is the body of a connection that people authorize.
func (a *restSite) people(name, more string) string {
	return fmt.Sprintf(`{"name":%q,"provider":"custom","client_id":"caddy","client_secret":%q,"token_url":"%[3]s/token","auth_url":"%[3]s/authorize","revocation_endpoint":"%[3]s/revoke"%[4]s}`,
		name, clientSecret, a.auth.URL, more)
}

// TestAPIMakesAConnection follows one from its making to its end, and requests that travel with it meanwhile.
func TestAPIMakesAConnection(t *testing.T) {
	a := runAPI(t, "", "")
	a.get("/with/billing/x").want(t, http.StatusForbidden, "unknown-connection")
	made := a.call("POST", "/v1/secrets/oauth2", a.machine("billing", `,"scopes":["invoices.read"]`)).is(http.StatusCreated)
	var data map[string]any
	if err := json.Unmarshal(made.Data, &data); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"id": data["id"], "name": "billing", "secret_type": "oauth2", "provider": "custom", "redirect_uri": nil, "connection_status": "connected",
		"base_environment": "production", "collection_id": nil, "mtls_certificate_id": nil,
	}
	if !maps.Equal(data, want) || len(data["id"].(string)) != 36 {
		t.Errorf("got %s", made.body)
	}
	id := made.get("id")
	if made.header.Get("ETag") != `"1"` || made.header.Get("Location") != "/oauth2/v1/secrets/"+id {
		t.Errorf("got %v", made.header)
	}
	a.get("/with/billing/x").want(t, http.StatusOK, "GET /with/billing/x")
	if got := a.up.last(t).header.Get("Authorization"); got != bearer(1) {
		t.Error("the request did not travel with the token")
	}
	detail := a.call("GET", "/v1/secrets/"+id, "").is(http.StatusOK)
	for _, text := range []string{`"client_id":"caddy"`, `"token_url":"` + a.idp.URL, `"secret_options":["client_secret"]`, `"status":"active"`, `"created_by":"alice"`, `"uses":`} {
		if !strings.Contains(detail.body, text) {
			t.Errorf("no %s in %s", text, detail.body)
		}
	}
	changed := a.call("PATCH", "/v1/secrets/"+id, `{"scopes":["invoices.write"],"description":"for the shop"}`, `If-Match: "1"`).is(http.StatusOK)
	if changed.header.Get("ETag") != `"2"` || !strings.Contains(changed.body, "invoices.write") || !strings.Contains(changed.body, "for the shop") {
		t.Errorf("got %s", changed.body)
	}
	a.get("/with/billing/x").want(t, http.StatusOK, "GET")
	if got := a.up.last(t).header.Get("Authorization"); got != bearer(2) {
		t.Error("with other scopes the request travelled with the token of before")
	}
	a.call("POST", "/v1/secrets/"+id+"/refresh", "").is(http.StatusOK)
	if got := a.call("GET", "/v1/secrets", "").is(http.StatusOK); got.names() != "api billing" || got.Meta.Total != 2 {
		t.Errorf("got %s", got.body)
	}
	a.call("DELETE", "/v1/secrets/"+id, "", `If-Match: "2"`).is(http.StatusOK)
	a.call("GET", "/v1/secrets/"+id, "").failed(http.StatusNotFound, "not_found")
	a.get("/with/billing/x").want(t, http.StatusForbidden, "unknown-connection")
}

// TestAPINamesEveryWrongField: whoever corrects a request should not have to send it ten times.
func TestAPINamesEveryWrongField(t *testing.T) {
	a := runAPI(t, "", "")
	for body, fields := range map[string][]string{
		`{}`:                       {"secret_type"},
		`{"secret_type":"x"}`:      {"secret_type"},
		`{"secret_type":"oauth2"}`: {"client_id", "client_secret", "name", "provider"},
		`{"secret_type":"oauth2","name":"a/b","provider":"gogle","client_id":"x","client_secret":"y","colour":"red"}`: {"colour", "name", "provider"},
		`{"secret_type":"oauth2","name":"a","provider":"custom","client_id":7,"client_secret":"y","token_url":"ftp://x","auth_url":"http://a.example/","scopes":"a","mtls_certificate_id":"0"}`: {
			"auth_url", "client_id", "mtls_certificate_id", "scopes", "token_url"},
		`{"secret_type":"oauth2","name":"a","provider":"custom","client_id":"x","client_secret":"y","token_url":"ftp://x","auth_url":"http://a.example/","mtls_certificate_id":"0","collection_id":"1"}`: {
			"auth_url", "collection_id", "mtls_certificate_id", "token_url"},
		`{"secret_type":"oauth2","name":"a","provider":"custom","client_id":"x","client_secret":"y","token_url":"ftp://x/","auth_url":"http://a.example/","mtls_certificate_id":"0","grant_type":"magic","timeout":"soon"}`: {
			"auth_url", "grant_type", "mtls_certificate_id", "timeout", "token_url"},
		`{"secret_type":"oauth2","name":"a","provider":"google","client_id":"x","client_secret":"y","token_endpoint":"https://a.example/","client_certificate":{},"tls":{},"insecure_http":true,"subject":"{env.HOME}"}`: {
			"client_certificate", "insecure_http", "subject", "tls", "token_endpoint"},
		`{"secret_type":"oauth2","name":"a","name":"b"}`:                        {"name"},
		`{"secret_type":"certificate","name":"a","certificate":"x","colour":1}`: {"colour"},
		`{"secret_type":"certificate","name":"a","certificate":"x"}`:            {"certificate"},
		`{"secret_type":"certificate"}`:                                         {"certificate", "name"},
	} {
		got := a.call("POST", "/v1/secrets", body).is(http.StatusBadRequest)
		var named []string
		for _, one := range got.Error.Fields {
			named = append(named, one.Field)
		}
		for _, field := range fields {
			if !slices.Contains(named, field) {
				t.Errorf("%s\nnames %q, not %s: %s", body, named, field, got.Error.Message)
			}
		}
	}
	for _, body := range []string{``, `[]`, `"x"`, `{`, `{"name":"a"`, `{"name":"a"}x`, `{"name":}`, `null`} {
		a.call("POST", "/v1/secrets/oauth2", body).failed(http.StatusBadRequest, "validation_error")
	}
}
