package caddyoauth_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddyoauth/caddyoauth/internal/api"
)

// auditLines returns what the audit logger wrote.
func auditLines(t *testing.T) []map[string]any {
	t.Helper()
	var all []map[string]any
	for line := range strings.Lines(logged.String()) {
		var fields map[string]any
		if json.Unmarshal([]byte(line), &fields) == nil && fields["logger"] == "oauth2_inject.audit" {
			all = append(all, fields)
		}
	}
	return all
}

// TestAuditOfTheAPI: every change and every denied attempt, with who, what, when and from where, and nothing of a request.
func TestAuditOfTheAPI(t *testing.T) {
	a := runAPI(t, "", "")
	id := a.call("POST", "/v1/secrets/oauth2", a.machine("billing", `,"description":"private words"`)).is(http.StatusCreated)
	one := "/v1/secrets/" + id.get("id")
	a.call("GET", one, "").is(http.StatusOK)
	a.call("POST", one+"/refresh", "", "X-Groups: viewers", "X-User: bob").is(http.StatusForbidden)
	a.call("GET", "/v1/secrets", "", "X-User: ", "X-Groups: ").is(http.StatusUnauthorized)
	a.call("PATCH", one, `{"colour":1}`, "If-Match: *").is(http.StatusBadRequest)
	a.call("DELETE", one, "", "If-Match: *").is(http.StatusOK)
	var got []string
	for _, line := range auditLines(t) {
		caller, _ := line["caller"].(string)
		name, _ := line["name"].(string)
		got = append(got, strings.Join([]string{line["msg"].(string), line["action"].(string), caller, name}, " "))
		if line["address"] != "127.0.0.1" || line["request_id"] == "" || line["ts"] == nil {
			t.Errorf("got %v", line)
		}
	}
	want := []string{
		"done secret.create_oauth2 alice billing", "denied token.refresh bob ", "denied secret.list  ", "failed secret.update alice billing", "done secret.delete alice billing",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	trail := a.app().AuditTrail(t.Context()).Events
	if len(trail) < len(want) || trail[0].Action != "secret.delete" || trail[len(want)-1].Action != "secret.create_oauth2" {
		t.Errorf("got %+v", trail)
	}
	listed := a.call("GET", "/v1/audit?per_page=2", "").is(http.StatusOK)
	if !strings.Contains(listed.body, "secret.delete") || strings.Contains(listed.body, "secret.create_oauth2") {
		t.Errorf("got %s", listed.body)
	}
	if logs := logged.String(); strings.Contains(logs, "private words") {
		t.Error("a field of a request was logged")
	}
}

// TestAuditOfPeopleAndRequests: what people do on the pages, and requests that the rules refuse.
func TestAuditOfPeopleAndRequests(t *testing.T) {
	p := runPeople(t, allRules)
	alice := p.as("alice")
	alice.connect(toDrive).wantTo(t, "/connect/done/drive")
	for range 3 {
		alice.visit(http.MethodDelete, "/drive/v3/files/1?q=secret").want(t, http.StatusForbidden, "request-not-allowed")
	}
	alice.visit(http.MethodPost, endDrive)
	var got []string
	for _, line := range auditLines(t) {
		got = append(got, line["msg"].(string)+" "+line["action"].(string))
		if line["name"] != "drive" || line["address"] != "127.0.0.1" || line["subject"] == nil || line["subject"] == "alice" {
			t.Errorf("got %v", line)
		}
		if detail, _ := line["detail"].(string); line["action"] == "request" && (!strings.HasPrefix(detail, "DELETE /drive/v3/files/1: ") || strings.Contains(detail, "secret")) {
			t.Errorf("got %v", line)
		}
	}
	if strings.Join(got, ", ") != "done subject.authorize, denied request, denied request, denied request, done subject.revoke" {
		t.Errorf("got %s", got)
	}
	count := func(action string) (n int) {
		for _, e := range p.app().AuditTrail(t.Context()).Events {
			if e.Action == action && e.Name == "drive" && e.Subject == "alice" {
				n++
			}
		}
		return n
	}
	if count("request") != 1 || count("subject.authorize") != 1 {
		t.Errorf("got %+v", p.app().AuditTrail(t.Context()).Events)
	}
}

// TestAuditTrailIsBounded: the oldest go first, over reloads.
func TestAuditTrailIsBounded(t *testing.T) {
	a := runAPI(t, "", "")
	for range 600 {
		a.call("POST", "/v1/collections", `{}`).is(http.StatusBadRequest)
	}
	a.call("POST", "/v1/collections", `{"name":"last"}`).is(http.StatusCreated)
	a.reload()
	trail := a.app().AuditTrail(t.Context()).Events
	if len(trail) != 500 || trail[0].Name != "last" || trail[0].Outcome != "done" {
		t.Errorf("%d events, the newest is %+v", len(trail), append(trail, api.AuditEvent{})[0])
	}
}

// TestAuditTrailOfTwoInstances: the API of each lists what all have seen, each tenant its own, also after a restart.
func TestAuditTrailOfTwoInstances(t *testing.T) {
	with := setup{connections: "stored_connections\n", site: apiDirective}
	a := &restSite{site: run(t, with)}
	b := &restSite{site: a.instance(with)}
	acme, evil := "X-Tenant: acme", "X-Tenant: evil"
	a.call("POST", "/v1/collections", `{"name":"here"}`, acme).is(http.StatusCreated)
	b.call("POST", "/v1/collections", `{"name":"there"}`, acme).is(http.StatusCreated)
	for range 3 {
		b.call("POST", "/v1/collections", `{"name":"no"}`, "X-Groups: viewers", evil).is(http.StatusForbidden)
	}
	names := func(of *restSite, tenant string) string {
		return of.call("GET", "/v1/audit", "", tenant).is(http.StatusOK).names()
	}
	for _, one := range []*restSite{a, b} {
		eventually(t, "the list of all instances", func() bool { return names(one, acme) == "there here" })
		eventually(t, "the list of the other tenant", func() bool {
			got := one.call("GET", "/v1/audit", "", evil).is(http.StatusOK)
			return strings.Count(got.body, `"denied"`) == 1 && strings.Contains(got.body, `"times":3`) && !strings.Contains(got.body, "acme") && !strings.Contains(got.body, "left_out")
		})
	}
	a.call("POST", "/v1/collections", `{"name":"last"}`, acme).is(http.StatusCreated)
	if err := caddy.Stop(); err != nil { // at once: the end has it stored
		t.Fatal(err)
	}
	if err := caddy.Load(a.loaded, true); err != nil {
		t.Fatal(err)
	}
	if got := names(a, acme); got != "last there here" {
		t.Errorf("after a restart %q are listed", got)
	}
}
