package caddyoauth_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// TestAPIProtocol: what is the same for all requests.
func TestAPIProtocol(t *testing.T) {
	a := runAPI(t, "", "")
	id := a.call("POST", "/v1/secrets/oauth2", a.machine("billing", "")).is(http.StatusCreated).get("id")
	one := "/v1/secrets/" + id
	for path, allow := range map[string]string{"/v1/secrets": "GET, HEAD, POST", one: "DELETE, GET, HEAD, PATCH", one + "/refresh": "POST", "/v1/openapi.json": "GET, HEAD"} {
		if got := a.call("PUT", path, "").failed(http.StatusMethodNotAllowed, "method_not_allowed"); got.header.Get("Allow") != allow {
			t.Errorf("%s allows %q, want %q", path, got.header.Get("Allow"), allow)
		}
	}
	for _, path := range []string{"/v1", "/v1/", "/v1/secret", "/v1/secrets/", one + "/", one + "/x", one + "//refresh", "/v2/secrets", "/v1/secrets/x%zz", one + "/subjects//refresh"} {
		if strings.Contains(path, "%zz") {
			continue // no client of ours can send it
		}
		a.call("POST", path, "").is(http.StatusNotFound)
	}
	for _, kind := range []string{"", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/json; charset=latin1", "json"} {
		a.call("POST", "/v1/secrets", a.machine("x", ""), "Content-Type: "+kind).failed(http.StatusUnsupportedMediaType, "unsupported_media_type")
	}
	a.call("POST", "/v1/secrets/oauth2", a.machine("utf8", ""), "Content-Type: application/json; charset=UTF-8").is(http.StatusCreated)
	a.call("POST", "/v1/secrets", `{"description":"`+strings.Repeat("x", 300<<10)+`"}`).failed(http.StatusRequestEntityTooLarge, "payload_too_large")
	a.call("POST", one+"/refresh", `{"x":1}`).failed(http.StatusBadRequest, "validation_error")
	a.call("POST", one+"/refresh", `{}`).is(http.StatusOK)
	a.call("PATCH", one, `{}`).failed(http.StatusPreconditionRequired, "precondition_required")
	a.call("DELETE", one, "").failed(http.StatusPreconditionRequired, "precondition_required")
	for _, seen := range []string{`"7"`, `7`, `W/"1"`, `"1", "2"`, `"0"`, `"x"`} {
		a.call("PATCH", one, `{"description":"x"}`, "If-Match: "+seen).failed(http.StatusPreconditionFailed, "precondition_failed")
		a.call("DELETE", one, "", "If-Match: "+seen).failed(http.StatusPreconditionFailed, "precondition_failed")
	}
	a.call("POST", "/v1/secrets/oauth2", a.machine("billing", "")).failed(http.StatusConflict, "conflict")
	a.call("GET", "/v1/secrets?colour=red&page=0&per_page=500&sort=size", "").failed(http.StatusBadRequest, "validation_error", "colour", "page", "per_page", "sort")
	head := a.call("HEAD", one, "").is(http.StatusOK)
	if head.body != "" || head.header.Get("ETag") != `"1"` {
		t.Errorf("HEAD: %q, %v", head.body, head.header)
	}
	for name, want := range map[string]string{"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Content-Type": "application/json"} {
		if got := head.header.Get(name); got != want {
			t.Errorf("%s is %q", name, got)
		}
	}
	a.get("/oauth2").want(t, http.StatusNotFound, "nothing")
	a.get("/oauth2x/v1/secrets").want(t, http.StatusNotFound, "nothing")
}

// TestAPILists: pages, filters and order.
func TestAPILists(t *testing.T) {
	a := runAPI(t, "", "")
	for _, name := range []string{"charlie", "Alpha one", "bravo"} {
		a.call("POST", "/v1/secrets/oauth2", a.machine(name, "")).is(http.StatusCreated)
	}
	a.call("POST", "/v1/secrets/oauth2", a.people("delta", "")).is(http.StatusCreated)
	for query, want := range map[string]string{
		"": "Alpha_one api bravo charlie delta", "?sort=-name": "delta charlie bravo api Alpha_one", "?per_page=2": "Alpha_one api", "?per_page=2&page=3": "delta",
		"?per_page=2&page=9": "", "?page=9223372036854775807&per_page=200": "", "?name=AL": "Alpha_one", "?connection_status=not_connected": "api delta",
		"?connection_status=connected&sort=-created_at": "bravo Alpha_one charlie", "?secret_type=certificate": "", "?provider=google": "", "?collection_id=none&name=r": "bravo charlie",
	} {
		got := a.call("GET", "/v1/secrets"+query, "").is(http.StatusOK)
		if got.names() != want {
			t.Errorf("%q: %q, want %q", query, got.names(), want)
		}
		if strings.Contains(query, "per_page=2&") && got.Meta.Total != 5 {
			t.Errorf("%q: total %d", query, got.Meta.Total)
		}
	}
}

// TestAPIIdempotency: a repeated request is answered, and not done again.
func TestAPIIdempotency(t *testing.T) {
	a := runAPI(t, "", "")
	first := a.call("POST", "/v1/secrets/oauth2", a.machine("one", ""), "Idempotency-Key: k1").is(http.StatusCreated)
	again := a.call("POST", "/v1/secrets/oauth2", a.machine("one", ""), "Idempotency-Key: k1").is(http.StatusCreated)
	if string(first.Data) != string(again.Data) || again.header.Get("Idempotent-Replayed") != "true" || again.header.Get("ETag") != `"1"` || first.header.Get("Idempotent-Replayed") != "" {
		t.Errorf("got %s and %s", first.body, again.body)
	}
	a.call("POST", "/v1/secrets/oauth2", a.machine("two", ""), "Idempotency-Key: k1").failed(http.StatusConflict, "conflict")
	a.call("POST", "/v1/secrets", strings.Replace(a.machine("one", ""), "{", `{"secret_type":"oauth2",`, 1), "Idempotency-Key: k1").failed(http.StatusConflict, "conflict")
	a.call("POST", "/v1/secrets/oauth2", a.machine("two", ""), "Idempotency-Key: k1", "X-User: bob").is(http.StatusCreated) // each caller has keys of their own
	a.call("POST", "/v1/secrets/oauth2", a.machine("three", `,"colour":1`), "Idempotency-Key: k2").is(http.StatusBadRequest)
	a.call("POST", "/v1/secrets/oauth2", a.machine("three", ""), "Idempotency-Key: k2").is(http.StatusCreated) // nothing was done before
	a.call("POST", "/v1/secrets/oauth2", a.machine("four", ""), "Idempotency-Key: "+strings.Repeat("k", 300)).failed(http.StatusBadRequest, "validation_error", "Idempotency-Key")
	key := a.call("POST", "/v1/api-keys", `{"name":"ci","role":"viewer"}`, "Idempotency-Key: k3").is(http.StatusCreated)
	keyAgain := a.call("POST", "/v1/api-keys", `{"name":"ci","role":"viewer"}`, "Idempotency-Key: k3").is(http.StatusCreated)
	if key.get("key") == "" || keyAgain.get("key") != "" || key.get("id") != keyAgain.get("id") {
		t.Error("an API key is shown twice, or not at all")
	}
	var all sync.WaitGroup
	made := make(chan int, 4)
	for range 4 {
		req := a.request("POST", "/oauth2/v1/secrets/oauth2", strings.NewReader(a.machine("race", "")), "X-User: alice", "X-Groups: admins", "Content-Type: application/json", "Idempotency-Key: k4")
		all.Go(func() {
			got, err := a.try(req)
			if err != nil || got.status != http.StatusCreated {
				t.Errorf("got %d %s, %v", got.status, got.body, err)
			}
			made <- got.status
		})
	}
	all.Wait()
	if len(made) != 4 {
		t.Errorf("%d answers", len(made))
	}
}

var keyPattern = regexp.MustCompile(`^oi_[0-9a-f]{8}_[A-Za-z0-9_-]{43}$`)

// TestAPIKeys: a key works until it is revoked or out of time, and nobody can read it again.
func TestAPIKeys(t *testing.T) {
	a := runAPI(t, "", "")
	made := a.call("POST", "/v1/api-keys", `{"name":"deploy bot","role":"operator"}`).is(http.StatusCreated)
	key := made.get("key")
	if !keyPattern.MatchString(key) || !strings.HasPrefix(key, made.get("prefix")+"_") {
		t.Fatal("the key has another form")
	}
	with := []string{"X-User: ", "X-Groups: ", "Authorization: Bearer " + key}
	if got := a.call("GET", "/v1/secrets", "", with...).is(http.StatusOK); got.names() != "api" {
		t.Errorf("got %s", got.body)
	}
	a.call("POST", "/v1/secrets/oauth2", a.machine("x", ""), with...).failed(http.StatusForbidden, "forbidden")
	a.call("GET", "/v1/api-keys", "", with...).failed(http.StatusForbidden, "forbidden")
	listed := a.call("GET", "/v1/api-keys", "").is(http.StatusOK)
	if strings.Contains(listed.body, key[12:]) || !strings.Contains(listed.body, made.get("prefix")) || !strings.Contains(listed.body, "last_used") || !strings.Contains(listed.body, "deploy_bot") {
		t.Errorf("got %s", listed.body)
	}
	for _, wrong := range []string{"", "x", key[:len(key)-1], key + "x", key[:len(key)-1] + "_", strings.ToUpper(key), "oi_00000000_" + key[12:], key[:12] + strings.Repeat("a", 43)} {
		if got := a.call("GET", "/v1/secrets", "", "X-User: ", "X-Groups: ", "Authorization: Bearer "+wrong); wrong != "" {
			got.failed(http.StatusUnauthorized, "unauthorized")
			if got.header.Get("WWW-Authenticate") == "" {
				t.Error("no challenge")
			}
		}
	}
	a.call("GET", "/v1/secrets", "", "X-User: alice", "X-Groups: admins", "Authorization: Bearer x").is(http.StatusUnauthorized) // a wrong key is not overlooked
	past := a.call("POST", "/v1/api-keys", `{"name":"old","role":"viewer","expires_at":"2020-01-01T00:00:00Z"}`)
	past.failed(http.StatusBadRequest, "validation_error", "expires_at")
	for _, none := range []string{"[]", "null"} { // none must not become all
		a.call("POST", "/v1/api-keys", `{"name":"none","role":"viewer","collections":`+none+`}`).failed(http.StatusBadRequest, "validation_error", "collections")
	}
	a.call("POST", "/v1/api-keys", `{"name":"","role":"root","colour":1,"all_tenants":true,"collections":["x"]}`).
		failed(http.StatusBadRequest, "validation_error", "all_tenants", "collections", "colour", "name", "role")
	a.call("DELETE", "/v1/api-keys/"+made.get("id"), "").is(http.StatusOK)
	a.call("GET", "/v1/secrets", "", with...).failed(http.StatusUnauthorized, "unauthorized")
	a.call("DELETE", "/v1/api-keys/"+made.get("id"), "").failed(http.StatusNotFound, "not_found")
	for line := range strings.Lines(logged.String()) { // Caddy itself was told to log credentials
		if strings.Contains(line, `"logger":"oauth2_inject`) && strings.Contains(line, key[12:]) {
			t.Error("a key was logged")
		}
	}
}

// TestAPIRateLimit: who sends too much waits, and nobody else does.
func TestAPIRateLimit(t *testing.T) {
	a := runAPI(t, "", "oauth2_api /slow {\n identity {http.request.header.X-User}\n role viewer *\n rate_limit 3\n}\n")
	codes := ""
	for range 5 {
		codes += fmt.Sprint(a.get("/slow/v1/secrets", "X-User: alice").status, " ")
	}
	if codes != "200 200 200 429 429 " {
		t.Errorf("got %s", codes)
	}
	got := a.get("/slow/v1/secrets", "X-User: alice")
	if got.header.Get("Retry-After") == "" || !strings.Contains(got.body, "rate_limited") {
		t.Errorf("got %d %v %s", got.status, got.header, got.body)
	}
	a.get("/slow/v1/secrets", "X-User: bob").want(t, http.StatusOK, "data")
	a.get("/slow/v1/health", "X-User: alice").want(t, http.StatusOK, "ok")
}

// TestAPIOtherSites: a browser that is signed in here does nothing for another site.
func TestAPIOtherSites(t *testing.T) {
	a := runAPI(t, "", "")
	a.call("POST", "/v1/collections", `{"name":"x"}`, "Sec-Fetch-Site: cross-site").failed(http.StatusForbidden, "forbidden")
	a.call("POST", "/v1/collections", `{"name":"x"}`, "Origin: https://evil.example").failed(http.StatusForbidden, "forbidden")
	a.call("POST", "/v1/collections", `{"name":"x"}`, "Sec-Fetch-Site: same-origin").is(http.StatusCreated)
}

// TestAPIPlanLimit: the operator's bound holds, and without the operator's word nothing can be made.
func TestAPIPlanLimit(t *testing.T) {
	a := runAPI(t, "endpoints 127.0.0.1\nmax_connections 1", "")
	a.call("POST", "/v1/secrets/oauth2", a.machine("one", "")).is(http.StatusCreated)
	a.call("POST", "/v1/secrets/oauth2", a.machine("two", "")).failed(http.StatusForbidden, "plan_limit")
	one := a.call("GET", "/v1/secrets?name=one", "").is(http.StatusOK)
	id := regexp.MustCompile(`"id":"([^"]+)"`).FindStringSubmatch(one.body)[1]
	a.call("DELETE", "/v1/secrets/"+id, "", "If-Match: *").is(http.StatusOK)
	a.call("POST", "/v1/secrets/oauth2", a.machine("two", "")).is(http.StatusCreated)
}

// TestAPIWithoutStoredConnections: configured connections can be seen and used, and nothing can be made.
func TestAPIWithoutStoredConnections(t *testing.T) {
	up := newUpstream(t, nil)
	s := run(t, setup{site: apiDirective + "oauth2_inject api {\n reverse_proxy " + up.url + "\n}\n"})
	a := &restSite{site: s, up: up}
	with := "X-Tenant: acme"
	if got := a.call("GET", "/v1/secrets", "", with).is(http.StatusOK); got.names() != "" {
		t.Errorf("another tenant's names: %s", got.body)
	}
	a.call("POST", "/v1/secrets/oauth2", a.machine("x", ""), with).failed(http.StatusForbidden, "plan_limit")
	a.call("POST", "/v1/collections", `{"name":"x"}`, with).failed(http.StatusForbidden, "plan_limit")
	a.call("POST", "/v1/api-keys", `{"name":"x","role":"viewer"}`, with).failed(http.StatusForbidden, "plan_limit")
	a.call("GET", "/v1/secrets", "").failed(http.StatusUnauthorized, "unauthorized") // no tenant is no answer
}

// TestAPITenants: each tenant has names of its own, and nothing tells what another one has.
func TestAPITenants(t *testing.T) {
	up, auth := newUpstream(t, nil), newAuthServer(t)
	s := run(t, setup{
		connections: "stored_connections {\n endpoints 127.0.0.1\n}\n",
		site: apiDirective + "route /acme {\n oauth2_inject acme/billing {\n reverse_proxy " + up.url + "\n}\n}\nroute /any/* {\n oauth2_inject {http.request.header.X-Name} {\n reverse_proxy " + up.url +
			"\n}\n}\nrespond nothing 404",
	})
	a := &restSite{site: s, up: up, auth: auth}
	acme, evil := "X-Tenant: acme", "X-Tenant: evil"
	made := a.call("POST", "/v1/secrets/oauth2", a.machine("billing", ""), acme).is(http.StatusCreated)
	a.call("POST", "/v1/secrets/oauth2", a.machine("billing", ""), acme).failed(http.StatusConflict, "conflict")
	a.call("POST", "/v1/secrets/oauth2", a.machine("billing", ""), evil).is(http.StatusCreated)
	if got := made.get("tenant"); got != "acme" {
		t.Errorf("got %s", made.body)
	}
	one := "/v1/secrets/" + made.get("id")
	nothing := strings.Replace(one, made.get("id")[:8], "00000000", 1)
	for _, path := range []string{"", "/subjects", "/versions", "/subjects/x"} {
		hidden, missing := a.call("GET", one+path, "", evil).is(http.StatusNotFound), a.call("GET", nothing+path, "", evil).is(http.StatusNotFound)
		if hidden.Error.Message != missing.Error.Message || hidden.header.Get("Content-Length") != missing.header.Get("Content-Length") {
			t.Errorf("%s tells what another tenant has: %s, %s", path, hidden.body, missing.body)
		}
	}
	for _, action := range []string{"/refresh", "/test", "/revoke", "/authorize", "/versions/1/rollback"} {
		a.call("POST", one+action, "", evil).failed(http.StatusNotFound, "not_found")
	}
	a.call("PATCH", one, `{}`, evil, "If-Match: *").failed(http.StatusNotFound, "not_found")
	a.call("DELETE", one, "", evil, "If-Match: *").failed(http.StatusNotFound, "not_found")
	if got := a.call("GET", "/v1/secrets", "", evil).is(http.StatusOK); got.names() != "billing" || strings.Contains(got.body, made.get("id")) {
		t.Errorf("got %s", got.body)
	}
	key := a.call("POST", "/v1/api-keys", `{"name":"ci","role":"admin"}`, acme).is(http.StatusCreated).get("key")
	with := []string{"X-User: ", "X-Groups: ", "Authorization: Bearer " + key}
	a.call("GET", one, "", with...).is(http.StatusOK)
	a.call("GET", one, "", append(with, evil)...).is(http.StatusUnauthorized) // not at another tenant's place
	if got := a.call("GET", "/v1/audit", "", evil).is(http.StatusOK); strings.Contains(got.body, "acme") {
		t.Errorf("the audit log shows another tenant: %s", got.body)
	}
	a.call("POST", "/v1/secrets/oauth2", a.machine("x", `,"tenant":"acme"`), evil).failed(http.StatusBadRequest, "validation_error", "tenant")
	a.get("/acme").want(t, http.StatusOK, "GET")
	a.get("/any/x", "X-Name: acme/billing").want(t, http.StatusForbidden, "unknown-connection") // a placeholder leads into no tenant
	a.get("/any/x", "X-Name: billing").want(t, http.StatusForbidden, "unknown-connection")
}

// TestAPICollections: a role in one collection is a role there and nowhere else.
func TestAPICollections(t *testing.T) {
	a := runAPI(t, "", "")
	shop := a.call("POST", "/v1/collections", `{"name":"shop","description":"for the shop"}`).is(http.StatusCreated).get("id")
	other := a.call("POST", "/v1/collections", `{"name":"other"}`).is(http.StatusCreated).get("id")
	in := func(id string) string { return `,"collection_id":"` + id + `"` }
	mine := "/v1/secrets/" + a.call("POST", "/v1/secrets/oauth2", a.machine("mine", in(shop))).is(http.StatusCreated).get("id")
	theirs := "/v1/secrets/" + a.call("POST", "/v1/secrets/oauth2", a.machine("theirs", in(other))).is(http.StatusCreated).get("id")
	admin, operator := "X-Groups: shop_admins", "X-Groups: shop_operators"
	if got := a.call("GET", "/v1/secrets", "", operator).is(http.StatusOK); got.names() != "mine" {
		t.Errorf("got %s", got.body)
	}
	if got := a.call("GET", "/v1/collections", "", operator).is(http.StatusOK); got.names() != "shop" {
		t.Errorf("got %s", got.body)
	}
	a.call("GET", "/v1/collections/"+other, "", operator).failed(http.StatusNotFound, "not_found")
	a.call("POST", mine+"/refresh", "", operator).is(http.StatusOK)
	a.call("POST", theirs+"/refresh", "", operator).failed(http.StatusNotFound, "not_found")
	a.call("DELETE", mine, "", operator, "If-Match: *").failed(http.StatusForbidden, "forbidden")
	a.call("DELETE", theirs, "", operator, "If-Match: *").failed(http.StatusForbidden, "forbidden")
	a.call("DELETE", theirs, "", admin, "If-Match: *").failed(http.StatusNotFound, "not_found")
	a.call("POST", "/v1/secrets/oauth2", a.machine("new", ""), admin).failed(http.StatusForbidden, "forbidden")
	a.call("POST", "/v1/secrets/oauth2", a.machine("new", in(other)), admin).failed(http.StatusForbidden, "forbidden")
	a.call("POST", "/v1/secrets/oauth2", a.machine("new", in(shop)), admin).is(http.StatusCreated)
	chain, key := selfSigned(t, "theirs")
	text, _ := json.Marshal(map[string]string{"secret_type": "certificate", "name": "mtls", "certificate": chain, "private_key": key, "collection_id": other})
	certificate := a.call("POST", "/v1/secrets", string(text)).is(http.StatusCreated).get("id")
	a.call("PATCH", mine, `{"mtls_certificate_id":"`+certificate+`"}`, admin, "If-Match: *").failed(http.StatusBadRequest, "validation_error", "mtls_certificate_id", "options") // it needs TLS too
	a.call("PATCH", mine, `{"environments":{"staging":{"mtls_certificate_id":"`+certificate+`"}}}`, admin, "If-Match: *").
		failed(http.StatusBadRequest, "validation_error", "environments.staging", "environments.staging.mtls_certificate_id")
	a.call("DELETE", "/v1/secrets/"+certificate, "", "If-Match: *").is(http.StatusOK)
	a.call("PATCH", mine, `{"collection_id":null}`, admin, "If-Match: *").failed(http.StatusForbidden, "forbidden")
	for path, body := range map[string]string{"/v1/collections": `{"name":"x"}`, "/v1/api-keys": `{"name":"x","role":"viewer"}`} {
		a.call("POST", path, body, admin).failed(http.StatusForbidden, "forbidden")
	}
	a.call("GET", "/v1/audit", "", admin).failed(http.StatusForbidden, "forbidden")
	a.call("DELETE", "/v1/collections/"+shop, "", "If-Match: *").failed(http.StatusConflict, "conflict")
	a.call("PATCH", "/v1/collections/"+shop, `{"name":"renamed"}`, "If-Match: *").failed(http.StatusBadRequest, "validation_error", "name")
	if got := a.call("PATCH", "/v1/collections/"+shop, `{"description":"changed"}`, `If-Match: "1"`).is(http.StatusOK); got.header.Get("ETag") != `"2"` || got.get("secrets") != "2" {
		t.Errorf("got %s", got.body)
	}
	a.call("PATCH", theirs, `{"collection_id":null}`, "If-Match: *").is(http.StatusOK)
	a.call("DELETE", "/v1/collections/"+other, "", `If-Match: "1"`).is(http.StatusOK)
}

// TestAPIBehindAuthentication: who is signed in to the site is who calls, and the roles are those of the block.
func TestAPIBehindAuthentication(t *testing.T) {
	s := run(t, setup{connections: "stored_connections\n", site: basicAuth + "oauth2_api {\n role admin user:alice\n role viewer *\n}\nrespond nothing 404\n"})
	ask := func(user, method, path, body string) answer {
		req := s.request(method, "/oauth2/v1"+path, strings.NewReader(body), "Content-Type: application/json")
		if user != "" {
			req.SetBasicAuth(user, "open sesame")
		}
		return s.do(req)
	}
	ask("", "GET", "/secrets", "").want(t, http.StatusUnauthorized, "")
	ask("bob", "GET", "/secrets", "").want(t, http.StatusOK, `"name":"api"`)
	ask("bob", "POST", "/collections", `{"name":"x"}`).want(t, http.StatusForbidden, "forbidden")
	ask("alice", "POST", "/collections", `{"name":"x"}`).want(t, http.StatusCreated, `"name":"x"`)
	ask("alice", "GET", "/audit", "").want(t, http.StatusOK, `"caller":"alice"`)
}

// TestGroupsAreTakenToTheLetter: people may name groups themselves, and the name of one may hold that of another.
func TestGroupsAreTakenToTheLetter(t *testing.T) {
	a := runAPI(t, "", "oauth2_api /piped {\n identity {http.request.header.X-User}\n groups {http.request.header.X-Groups} |\n role viewer admins\n role viewer user:root\n}\n")
	for groups, want := range map[string]int{
		"admins": 201, "x,admins": 201, " admins ,y": 201, "fake admins": 403, "admins fake": 403, "admins|x": 403, "user:alice": 403, "*": 403, "": 403, "Admins": 403,
	} {
		if got := a.call("POST", "/v1/collections", fmt.Sprintf(`{"name":"c%d"}`, len(groups)), "X-Groups: "+groups); got.status != want && !(want == 201 && got.status == http.StatusConflict) {
			t.Errorf("%q: got %d %s, want %d", groups, got.status, got.body, want)
		}
	}
	for groups, want := range map[string]int{"admins": 200, "x|admins": 200, "x,admins": 403, "user:root": 403} {
		if got := a.get("/piped/v1/secrets", "X-User: bob", "X-Groups: "+groups); got.status != want {
			t.Errorf("%q: got %d %s, want %d", groups, got.status, got.body, want)
		}
	}
	a.get("/piped/v1/secrets", "X-User: root").want(t, http.StatusOK, "data")
}
