package caddyoauth_test

import (
	"net/http"
	"strings"
	"testing"
)

// allRules is what the connection of these tests allows.
const allRules = "allow GET,HEAD /drive/v3/*\nallow POST /upload"

// TestRulesInEveryForm: what a connection does not allow is answered here, and what it allows passes.
func TestRulesInEveryForm(t *testing.T) {
	for name, inject := range map[string]form{"block": block, "via transport": via, "flat": flat} {
		t.Run(name, func(t *testing.T) {
			up := newUpstream(t, nil)
			s := run(t, setup{quiet: name == "flat", options: allRules, site: inject(up, "")})
			for _, tt := range []struct{ method, path string }{
				{"POST", "/drive/v3/files"}, {"DELETE", "/drive/v3/files/1"}, {"GET", "/gmail/v1/messages"}, {"GET", "/upload"}, {"GET", "/"},
				{"GET", "/drive/v3/../../gmail"}, {"GET", "/drive/v3/%2e%2e/gmail"}, {"GET", "//drive/v3/x"}, {"GET", "/drive/v3/..%2fgmail"}, {"GET", "/Drive/v3/x"},
			} {
				a := s.do(s.request(tt.method, tt.path, nil))
				a.want(t, http.StatusForbidden, "urn:caddyoauth:request-not-allowed")
			}
			s.get("/drive/v3/files", "X-HTTP-Method-Override: DELETE").want(t, http.StatusForbidden, "request-not-allowed")
			untouched(t, up)
			if n := strings.Count(logged.String(), `"logger":"oauth2_inject.audit","msg":"denied"`); n != 11 {
				t.Errorf("%d refusals were logged", n)
			}
			s.get("/drive/v3/files?fields=*").want(t, http.StatusOK, "GET /drive/v3/files")
			s.post("/upload", "body").want(t, http.StatusOK, "POST /upload 4 bytes")
			if got := up.tokens(); len(got) != 2 || got[0] != bearer(1) {
				t.Errorf("the upstream got %d requests", len(got))
			}
		})
	}
}

// TestRulesSeeWhatIsSent: with the transport it is the request that leaves which counts, not the one that came.
func TestRulesSeeWhatIsSent(t *testing.T) {
	for _, tt := range []struct {
		name, site, path string
		status           int
	}{
		{"rewritten into what is not allowed", "rewrite /gmail{uri}\nINJECT", "/drive/v3/files", 403},
		{"rewritten into what is allowed", "rewrite /drive/v3{uri}\nINJECT", "/files", 200},
		{"prefix stripped", "handle_path /api/* {\nINJECT}", "/api/drive/v3/files", 200},
		{"prefix stripped away", "handle_path /drive/* {\nINJECT}", "/drive/v3/files", 403},
		{"method changed", "method POST\nINJECT", "/drive/v3/files", 403},
	} {
		for name, inject := range forms {
			t.Run(name+" "+tt.name, func(t *testing.T) {
				up := newUpstream(t, nil)
				s := run(t, setup{options: allRules, site: strings.ReplaceAll(tt.site, "INJECT", inject(up, ""))})
				s.get(tt.path).want(t, tt.status, "")
				if tt.status == http.StatusForbidden {
					untouched(t, up)
				}
			})
		}
	}
	for name, inject := range forms {
		t.Run(name+" rewritten inside the proxy", func(t *testing.T) {
			up := newUpstream(t, nil)
			s := run(t, setup{options: allRules, site: inject(up, "rewrite /gmail{uri}\n method GET")})
			s.get("/drive/v3/files").want(t, http.StatusForbidden, "request-not-allowed")
			untouched(t, up)
		})
	}
}

// TestRulesHandleErrors: in flat form the site's own error pages take over.
func TestRulesHandleErrors(t *testing.T) {
	up := newUpstream(t, nil)
	s := run(t, setup{quiet: true, options: allRules, site: "handle_errors {\n respond \"mine {http.oauth2_inject.error}\"\n}\n" + flat(up, "")})
	if a := s.get("/other"); a.body != "mine request_not_allowed" || a.status != http.StatusForbidden {
		t.Errorf("got %d %q", a.status, a.body)
	}
	untouched(t, up)
}

// TestAgentOfAPerson is docs/agents.md: an agent with a name of its own uses a person's account, and cannot change what is connected.
func TestAgentOfAPerson(t *testing.T) {
	auth, up := newAuthServer(t), newUpstream(t, nil)
	s := run(t, setup{
		connections: strings.Replace(auth.connection("drive", allRules), "subject {http.auth.user.id}", "subject {person}", 1),
		site: strings.ReplaceAll(basicAuth, "bob", "agent") + `map {http.auth.user.id} {person} {
			alice alice
			agent alice
		}
		@people expression path('/connect', '/connect/*') && {http.auth.user.id} == "alice"
		handle @people {
			oauth2_connect {
				identity {person}
			}
		}
		` + "handle {\n oauth2_inject drive {\n reverse_proxy " + up.url + "\n}\n}\n",
	})
	agent, alice := s.as("agent"), s.as("alice")
	agent.open("/drive/v3/files").want(t, http.StatusForbidden, "authorization-required")
	agent.open("/connect/authorize/drive").want(t, http.StatusForbidden, "authorization-required")
	alice.connect(toDrive).wantTo(t, doneDrive)
	agent.open("/drive/v3/files").want(t, http.StatusOK, "GET /drive/v3/files")
	agent.visit(http.MethodDelete, "/drive/v3/files").want(t, http.StatusForbidden, "request-not-allowed")
	if agent.visit(http.MethodPost, endDrive).status == http.StatusSeeOther {
		t.Error("the agent ended alice's connection")
	}
	alice.open("/drive/v3/files").want(t, http.StatusOK, "GET /drive/v3/files")
	if got := up.tokens(); len(got) != 2 || got[0] != bearer(1) || got[1] != bearer(1) {
		t.Errorf("the upstream got %d requests, or not with alice's token", len(got))
	}
}
