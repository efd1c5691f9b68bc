package caddyoauth_test

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/caddyoauth/caddyoauth"
	"github.com/caddyoauth/caddyoauth/test/providersim"
)

// fill sends the form that asks for fields.
func (b *browser) fill(path string, given url.Values) answer {
	b.t.Helper()
	return b.send(b.request(http.MethodPost, path, strings.NewReader(given.Encode()), "Content-Type: application/x-www-form-urlencoded", "Sec-Fetch-Site: same-origin"))
}

// TestFields: what people are asked for decides where they are sent, what is asked there, and what every request brings; each has
// their own.
func TestFields(t *testing.T) {
	auth, up := newAuthServer(t), newUpstream(t, nil)
	connection := `connection drive {
		token_endpoint %s/t/{field.tenant}/token
		authorization_endpoint %s/t/{field.tenant}/authorize
		revocation_endpoint %s/t/{field.tenant}/revoke
		issuer %s/t/{field.tenant}
		client_id caddy
		client_secret ` + clientSecret + `
		subject {http.auth.user.id}
		field tenant {
			label "Your tenant"
			required
			pattern [a-z]{2,9}
		}
		field mail {
			example jane@example.com
			pattern [^@]+@[^@]+
		}
		auth_param login_hint {field.mail}
		token_param realm r-{field.tenant}
		header X-Tenant {field.tenant}
	}
	`
	s := run(t, setup{
		connections: strings.ReplaceAll(connection, "%s", auth.URL),
		site:        basicAuth + "oauth2_connect\noauth2_inject drive {\n reverse_proxy " + up.url + " {\n header_up X-Field [{http.oauth2_inject.field.tenant}]\n}\n}\n",
	})
	alice, bob := s.as("alice"), s.as("bob")
	page := alice.open(toDrive + "?return_to=/files")
	page.want(t, http.StatusOK, `<form method="post" action="/connect/authorize/drive?return_to=%2Ffiles">`)
	for _, want := range []string{`<label for="field-tenant">Your tenant</label>`, `name="tenant"`, `(optional)`, `Such as jane@example.com`, ` required`} {
		if !strings.Contains(page.body, want) {
			t.Errorf("the page lacks %s", want)
		}
	}
	if policy := page.header.Get("Content-Security-Policy"); !strings.Contains(policy, "form-action 'self' "+auth.URL) {
		t.Errorf("the form may lead to %s", policy)
	}
	if len(auth.asked) != 0 {
		t.Error("somebody was sent to the provider unasked")
	}
	for _, wrong := range []url.Values{{}, {"tenant": {""}}, {"tenant": {"A"}}, {"tenant": {"acme/../x"}}, {"tenant": {"acme\n"}, "mail": {"x"}}, {"tenant": {"toolongatenant"}}, {"tenant": {"<b>"}}} {
		a := alice.fill(toDrive, wrong)
		if a.status != http.StatusUnprocessableEntity || !strings.Contains(a.body, `aria-invalid="true"`) || strings.Contains(a.body, "<b>") {
			t.Errorf("%v: got %d %s", wrong, a.status, a.body)
		}
	}
	connect := func(b *browser, given url.Values) {
		t.Helper()
		a := b.fill(toDrive+"?return_to=/files", given)
		if a.status != http.StatusSeeOther || !strings.HasPrefix(a.header.Get("Location"), auth.URL+"/t/"+given.Get("tenant")+"/authorize?") {
			t.Fatalf("got %d to %q", a.status, a.header.Get("Location"))
		}
		b.open(b.follow(a.header.Get("Location"))).wantTo(t, "/files")
	}
	auth.change(func() { auth.tenants = true })
	connect(alice, url.Values{"tenant": {"acme"}, "mail": {" jane@example.com "}, "other": {"x"}})
	if asked := auth.lastAsked(t); asked.Get("login_hint") != "jane@example.com" || asked.Get("tenant") != "" {
		t.Errorf("asked with %v", asked)
	}
	connect(bob, url.Values{"tenant": {"globex"}})
	if asked := auth.lastAsked(t); asked.Has("login_hint") {
		t.Errorf("an answer that was not given was sent: %v", asked)
	}
	for user, tenant := range map[*browser]string{alice: "acme", bob: "globex"} {
		user.open("/").want(t, http.StatusOK, "GET")
		if got := up.last(t).header; got.Get("X-Tenant") != tenant || got.Get("X-Field") != "["+tenant+"]" {
			t.Errorf("%s: got %q and %q", tenant, got.Get("X-Tenant"), got.Get("X-Field"))
		}
	}
	up.demand.Store(3) // refreshes, each at the tenant of the one whose token it is
	alice.open("/").want(t, http.StatusOK, "GET")
	if auth.lastPath != "/t/acme/token" || auth.lastForm.Get("realm") != "r-acme" {
		t.Errorf("refreshed at %s with %v", auth.lastPath, auth.lastForm["realm"])
	}
	up.demand.Store(4)
	bob.open("/").want(t, http.StatusOK, "GET")
	if auth.lastPath != "/t/globex/token" || auth.lastForm.Get("realm") != "r-globex" {
		t.Errorf("refreshed at %s with %v", auth.lastPath, auth.lastForm["realm"])
	}
	if again := alice.open(toDrive); !strings.Contains(again.body, `value="acme"`) || !strings.Contains(again.body, `value="jane@example.com"`) {
		t.Error("the form does not begin with what was answered before")
	}
	bob.visit(http.MethodPost, endDrive).wantTo(t, doneDrive)
	if auth.lastPath != "/t/globex/revoke" {
		t.Errorf("the end was told at %s", auth.lastPath)
	}
}

// TestAttackForeignForm: another site cannot answer in a person's name.
func TestAttackForeignForm(t *testing.T) {
	auth := newAuthServer(t)
	s := run(t, setup{connections: auth.connection("drive", "field shop"), site: basicAuth + "oauth2_connect\n"})
	alice := s.as("alice")
	for _, header := range []string{"Sec-Fetch-Site: cross-site", "Origin: https://evil.example"} {
		a := alice.visit(http.MethodPost, toDrive, header)
		a.want(t, http.StatusForbidden, "Not from another site")
	}
	if len(auth.asked) != 0 {
		t.Error("somebody was sent to the provider")
	}
}

// TestShopAsked: a preset whose shop is not configured asks for it, at the shops of Shopify alone, and each token goes to its own.
func TestShopAsked(t *testing.T) {
	sim := providersim.New(t, internet, wants("shopify"))
	text := "connection shopify {\nprovider shopify\nclient_id caddy\nclient_secret " + clientSecret + "\nscopes " + strings.Join(wantedScopes["shopify"], " ") +
		"\nsubject {http.auth.user.id}\ntls {\nca " + internet.CA + "\n}\n}\n"
	proxy := "oauth2_inject shopify {\n reverse_proxy {http.oauth2_inject.field.shop}:443 {\n header_up Host {http.reverse_proxy.upstream.host}\n transport http {\n tls\n tls_trust_pool file " + internet.CA + "\n}\n}\n}\n"
	s := run(t, setup{connections: text, site: basicAuth + "oauth2_connect\n" + proxy})
	j := &journey{browser: s.as("alice"), sim: sim}
	const path = "/connect/authorize/shopify"
	page := j.open(path)
	page.want(t, http.StatusOK, `<label for="field-shop">Shop</label>`)
	if regexp.MustCompile(`name="version"`).MatchString(page.body) || !strings.Contains(page.header.Get("Content-Security-Policy"), "form-action 'self' https:;") {
		t.Error("more is asked than is needed, or the form cannot lead to a shop")
	}
	for _, shop := range []string{"", "evil.example", "acme.myshopify.com.evil.example", "acme.myshopify.com/evil", "acme.myshopify.com:22", "evil.example#.myshopify.com",
		"evil.example/.myshopify.com", "a@evil.example?.myshopify.com", "ACME.myshopify.com", "127.0.0.1", "acme.myshopify.com\n"} {
		a := j.fill(path, url.Values{"shop": {shop}})
		if strings.TrimSpace(shop) == "acme.myshopify.com" {
			continue // what surrounds an answer is nothing
		}
		a.want(t, http.StatusUnprocessableEntity, `aria-invalid="true"`)
	}
	a := j.fill(path, url.Values{"shop": {"acme.myshopify.com"}})
	if a.status != http.StatusSeeOther || !strings.HasPrefix(a.header.Get("Location"), "https://acme.myshopify.com/admin/oauth/authorize?") {
		t.Fatalf("got %d to %s", a.status, a.header.Get("Location"))
	}
	resp, err := internet.Client().Get(a.header.Get("Location"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	back, _ := url.Parse(resp.Header.Get("Location"))
	j.open(back.RequestURI()).wantTo(t, "/connect/done/shopify")
	view, err := s.app().View(t.Context(), caddyoauth.Ref{Connection: "shopify", Subject: "alice"})
	if err != nil || view.AccountID == "" {
		t.Errorf("the test call found nothing: %+v, %v", view, err)
	}
	j.open("/v1/things").want(t, http.StatusOK, "answers GET")
	j.sim.Expire()
	j.open("/v1/things").want(t, http.StatusOK, "answers GET")
	j.as("bob").open("/v1/things").want(t, http.StatusForbidden, "authorization-required")
}
