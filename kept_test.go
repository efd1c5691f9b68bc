package caddyoauth_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// grants has the token endpoint say more than the token.
func (i *idp) grants(more string) {
	i.says(http.StatusOK, fmt.Sprintf(`{"access_token":"%s","refresh_token":"%srefresh","token_type":"Bearer","expires_in":3600%s}`, token(1), seed, more))
}

// TestDefaultsOfRequests: what the API wants besides the token is added where the request does not bring it.
func TestDefaultsOfRequests(t *testing.T) {
	options := "keep team.id site\nheader Notion-Version 2022-06-28\nheader x-team \"t {token.team.id}\"\nheader User-Agent caddy\nparam api_version 2\nparam site {token.site}\n"
	for name, inject := range allForms {
		t.Run(name, func(t *testing.T) {
			up, flat := newUpstream(t, nil), name == "flat"
			with := setup{options: options, site: inject(up, ""), quiet: flat}
			if flat {
				with.options = options[:strings.Index(options, "param")]
			}
			s := run(t, with)
			s.idp.grants(`,"team":{"id":42},"site":"a b&c"`)
			s.get("/?q=1", "User-Agent: ").want(t, http.StatusOK, "GET")
			got := up.last(t)
			for header, want := range map[string]string{"Notion-Version": "2022-06-28", "X-Team": "t 42", "User-Agent": "caddy", "Authorization": bearer(1)} {
				if values := got.header[header]; len(values) != 1 || values[0] != want {
					t.Errorf("%s is %s, want %s", header, mask(values), mask([]string{want}))
				}
			}
			if want := "/?q=1&api_version=2&site=a+b%26c"; !flat && got.uri != want {
				t.Errorf("the upstream got %s, want %s", got.uri, want)
			}
			if flat {
				return
			}
			// Caddy takes away what the client's Connection list names; what is left is a request that brings nothing.
			s.get("/?api%5Fversion=3&site", "X-Team: mine", "User-Agent: curl", "Connection: x-team").want(t, http.StatusOK, "GET")
			got = up.last(t)
			if got.header.Get("X-Team") != "t 42" || got.header.Get("User-Agent") != "curl" || got.uri != "/?api%5Fversion=3&site" {
				t.Errorf("the upstream got %s with X-Team %q and User-Agent %q", got.uri, got.header["X-Team"], got.header["User-Agent"])
			}
		})
	}
}

// TestClientsOwnHeaders win over the defaults, in every form.
func TestClientsOwnHeaders(t *testing.T) {
	for name, inject := range allForms {
		t.Run(name, func(t *testing.T) {
			up := newUpstream(t, nil)
			s := run(t, setup{options: "header Notion-Version 2022-06-28", site: "peek\n" + inject(up, ""), global: "order peek first", quiet: name == "flat"})
			s.get("/", "Notion-Version: 2020-01-01").want(t, http.StatusOK, "GET")
			if got := up.last(t).header["Notion-Version"]; len(got) != 1 || got[0] != "2020-01-01" {
				t.Errorf("got %q", got)
			}
			s.get("/").want(t, http.StatusOK, "GET")
			peeked.Lock()
			defer peeked.Unlock()
			if peeked.after.Get("Notion-Version") != "" || peeked.after.Get("Authorization") != "" {
				t.Error("what was put on the request is still there when the handlers have returned")
			}
		})
	}
}

// TestUnknownFact: a request that needs what the connection does not know is not sent, with half of what the API wants.
func TestUnknownFact(t *testing.T) {
	for option, more := range map[string]string{
		"header X-Team {token.team.id}":       ``,
		"header X-Team \"t {token.team.id}\"": `,"team":null`,
		"header X-Team a{token.team.id}b":     `,"team":{"id":{"a":"b"}}`,
		"header x-team {token.team.id}":       `,"team":{"id":"a\r\nX-Evil: 1"}`,
		"header X-TEAM {token.team.id}":       `,"team":[{"id":"a"}]`,
		"header X-tEAM {token.team.id}":       `,"team":{"id":"` + token(1) + `"}`,
		"header X-teaM {token.team.id}":       `,"team":{"id":"eyJhbGciOiJub25lIn0.e30."}`,
		"param team {token.team.id}":          `,"team":{"id":""}`,
		"param team {host.token.team.id}":     `,"team":{"id":"not a host"}`,
	} {
		for name, inject := range allForms {
			if name == "flat" && strings.HasPrefix(option, "param") {
				continue // refused at load
			}
			t.Run(name+" "+option, func(t *testing.T) {
				up := newUpstream(t, nil)
				s := run(t, setup{options: "keep team.id\n" + option, site: inject(up, ""), quiet: name == "flat"})
				s.idp.grants(more)
				a := s.get("/")
				a.want(t, http.StatusBadGateway, "incomplete-connection")
				untouched(t, up)
				if !strings.Contains(option, "param") {
					s.get("/", "X-Team: own").want(t, http.StatusOK, "GET")
				}
				if !strings.Contains(logged.String(), "team.id") && name != "flat" {
					t.Error("the log does not name what is missing")
				}
			})
		}
	}
}

// TestAttackUpstreamFromToken: an answer of the token endpoint steers requests to hosts on the list and nowhere else (SSRF).
func TestAttackUpstreamFromToken(t *testing.T) {
	up := upstreamOf(t, "https", nil)
	_, port, _ := strings.Cut(up.addr, ":")
	const host, whole = "{http.oauth2_inject.host.token.instance_url}:", "{http.oauth2_inject.token.instance_url}"
	for instance, want := range map[[2]string]struct {
		status int
		text   string
	}{
		{host, "https://127.0.0.1"}:                     {200, "GET"},
		{host, "127.0.0.1"}:                             {200, "GET"},
		{host, "https://127.0.0.1:1/services/data?x=1"}: {200, "GET"},
		{host, "https://127.0.0.2"}:                     {502, "host-not-allowed"},
		{host, "localhost"}:                             {502, "host-not-allowed"},
		{host, "https://169.254.169.254/latest"}:        {502, "host-not-allowed"},
		{host, "https://127.0.0.1.evil.example"}:        {502, "host-not-allowed"},
		{host, "http://127.0.0.1"}:                      {502, "incomplete"},
		{host, "https://127.0.0.1@evil.example"}:        {502, "incomplete"},
		{host, "https://evil.example@127.0.0.1"}:        {502, "incomplete"},
		{host, "127.0.0.1:22"}:                          {502, "incomplete"},
		{host, "https://[::1]"}:                         {502, "incomplete"},
		{host, "unix//run/docker.sock"}:                 {502, "incomplete"},
		{host, "//127.0.0.1"}:                           {502, "incomplete"},
		{host, "https:127.0.0.1"}:                       {502, "incomplete"},
		{host, "127.0.0.1 evil"}:                        {502, "incomplete"},
		{host, "évil.example"}:                          {502, "incomplete"},
		{host, "{env.HOME}"}:                            {502, "incomplete"},
		{host, ""}:                                      {502, "incomplete"},
		{whole, up.addr}:                                {200, "GET"},
		{whole, "127.0.0.1:22"}:                         {502, "host-not-allowed"},
		{whole, "unix//run/docker.sock"}:                {502, "host-not-allowed"},
	} {
		t.Run(instance[1], func(t *testing.T) {
			address := instance[0]
			if address == host {
				address += port
			}
			proxy := "reverse_proxy " + address + " {\n transport http {\n tls\n " + up.transport + "\n }\n }\n"
			s := run(t, setup{options: "keep instance_url\nallow_hosts 127.0.0.1:" + port, site: "oauth2_inject api {\n" + proxy + "}\n"})
			s.idp.grants(`,"instance_url":"` + instance[1] + `"`)
			before := len(up.requests())
			s.get("/").want(t, want.status, want.text)
			if got := len(up.requests()) - before; (got == 1) != (want.status == http.StatusOK) {
				t.Errorf("%d requests reached the upstream", got)
			}
		})
	}
}

// TestUpstreamFromTokenNeedsAList: without one, whoever answers for the token endpoint says where tokens go.
func TestUpstreamFromTokenNeedsAList(t *testing.T) {
	up := newUpstream(t, nil)
	s := run(t, setup{options: "keep api", site: "oauth2_inject api {\n reverse_proxy {http.oauth2_inject.token.api}\n}\n"})
	s.idp.grants(`,"api":"` + up.addr + `"`)
	s.get("/").want(t, http.StatusBadGateway, "host-not-allowed")
	untouched(t, up)
}

// TestPlaceholdersOfFacts: those that are kept can be shown. A request for which one was looked up in vain is not sent: nobody knows
// what it was to be used for.
func TestPlaceholdersOfFacts(t *testing.T) {
	for name, want := range map[string]string{
		"token.team.id": "[T1]", "host.token.url": "[api.example]", "token": "[{http.oauth2_inject.token}]",
		"token.other": "", "token.access_token": "", "token.refresh_token": "", "token.nested.id_token": "", "token.": "", "field.x": "", "host.token.team.id": "[t1]",
	} {
		for form, inject := range forms {
			t.Run(form+" "+name, func(t *testing.T) {
				up := newUpstream(t, nil)
				s := run(t, setup{options: "keep team.id url", site: inject(up, "header_up X-Fact [{http.oauth2_inject."+name+"}]")})
				s.idp.grants(`,"team":{"id":"T1"},"url":"https://api.example/x","other":"no","nested":{"id_token":"` + seed + `id"}`)
				a := s.get("/")
				if want == "" {
					a.want(t, http.StatusBadGateway, "incomplete-connection")
					untouched(t, up)
					return
				}
				a.want(t, http.StatusOK, "GET")
				if got := up.last(t).header.Get("X-Fact"); got != want {
					t.Errorf("got %q, want %q", got, want)
				}
			})
		}
	}
}

// TestAttackUpstreamFromTokenFlat: where the dialled host is not checked, no answer of a provider can name one.
func TestAttackUpstreamFromTokenFlat(t *testing.T) {
	up := newUpstream(t, nil)
	s := run(t, setup{options: "keep api", quiet: true, site: "oauth2_inject api\nreverse_proxy {http.oauth2_inject.token.api} {\n transport http {\n network_proxy none\n }\n}\n"})
	s.idp.grants(`,"api":"` + up.addr + `"`)
	if a := s.get("/"); a.status < 500 {
		t.Errorf("got %d %s", a.status, a.body)
	}
	untouched(t, up)
}

// TestFactsOfTheWayBack are kept over refreshes, those that are asked for and no others, and the token response wins.
func TestFactsOfTheWayBack(t *testing.T) {
	p := runPeople(t, "keep_callback realmId\nkeep account\nheader X-Realm {token.realmId}\nheader X-Account {token.account}\n")
	p.auth.change(func() {
		p.auth.says, p.auth.more = url.Values{"realmId": {"R1"}, "account": {"forged"}, "other": {"x"}}, `"account":"A1"`
	})
	alice := p.as("alice")
	alice.connect(toDrive).wantTo(t, doneDrive)
	check := func(what string) {
		t.Helper()
		alice.open("/").want(t, http.StatusOK, "GET")
		if got := p.up.last(t).header; got.Get("X-Realm") != "R1" || got.Get("X-Account") != "A1" {
			t.Errorf("%s: the headers are %q and %q", what, got.Get("X-Realm"), got.Get("X-Account"))
		}
	}
	check("after consent")
	p.auth.change(func() { p.auth.more = "" }) // the answer to a refresh says less
	p.up.demand.Store(2)
	check("after a refresh")
	p.up.demand.Store(0)
	p.reload()
	check("after a reload")
	p.auth.change(func() { p.auth.says = url.Values{"account": {"forged"}} })
	alice.connect(toDrive).wantTo(t, doneDrive)
	alice.open("/").want(t, http.StatusBadGateway, "incomplete-connection")
}
