package provider

import (
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestResolve(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		params map[string]string
		want   string // the token endpoint, or a part of the error
	}{
		{"google", nil, "https://oauth2.googleapis.com/token"},
		{"microsoft", nil, "https://login.microsoftonline.com/common/oauth2/v2.0/token"},
		{"microsoft", map[string]string{"tenant": "contoso.example"}, "https://login.microsoftonline.com/contoso.example/oauth2/v2.0/token"},
		{"shopify", map[string]string{"shop": "acme.myshopify.com"}, "https://acme.myshopify.com/admin/oauth/access_token"},
		{"gitlab", map[string]string{"host": "git.internal:8443"}, "https://git.internal:8443/oauth/token"},
		{"okta", map[string]string{"domain": "acme.okta.com"}, "https://acme.okta.com/oauth2/v1/token"},
		{"okta", map[string]string{"domain": "acme.okta.com", "auth_server": "default"}, "https://acme.okta.com/oauth2/default/v1/token"},
		{"keycloak", map[string]string{"base": "https://id.example.com/auth", "realm": "staff"},
			"https://id.example.com/auth/realms/staff/protocol/openid-connect/token"},
		{"gogle", nil, "is it google?"},
		{"gihtub", nil, "is it github?"},
		{"Slack", nil, "is it slack?"},
		{"slak_user", nil, "is it slack_user?"},
		{"stripe_connect", nil, "is it stripe?"},
		{"nonesuch_provider", nil, "use `oidc` with its issuer"},
		{"", nil, "use `oidc` with its issuer"},
		{"shopify", nil, `"shop" of provider "shopify": is required, as in acme.myshopify.com`},
		{"google", map[string]string{"tenant": "x"}, `"tenant" of provider "google": is unknown; this provider has no parameters`},
		{"microsoft", map[string]string{"tennant": "x"}, "is unknown; there are tenant, login_host, graph_host"},
	} {
		p, err := Resolve(test.name, test.params)
		if err == nil && p.TokenEndpoint != test.want {
			t.Errorf("%s %v: token endpoint %q, want %q", test.name, test.params, p.TokenEndpoint, test.want)
		}
		if err != nil && (!strings.Contains(err.Error(), test.want) || strings.HasPrefix(test.want, "https")) {
			t.Errorf("%s %v: %v, want %q", test.name, test.params, err, test.want)
		}
		if err == nil && !strings.HasPrefix(test.want, "https") {
			t.Errorf("%s %v: no error, want %q", test.name, test.params, test.want)
		}
	}
}

func TestOptionalParts(t *testing.T) {
	t.Parallel()
	domain := map[string]string{"domain": "login.example.com"}
	auth0, err := Resolve("auth0", domain)
	if err != nil {
		t.Fatal(err)
	}
	if _, there := auth0.AuthParams["audience"]; there {
		t.Error("an empty audience is sent")
	}
	auth0, err = Resolve("auth0", map[string]string{"domain": "login.example.com", "audience": "https://api.example.com/v1?x"})
	if err != nil || auth0.AuthParams["audience"] != "https://api.example.com/v1?x" {
		t.Errorf("audience %q, %v", auth0.AuthParams["audience"], err)
	}
	for region, want := range map[string]string{"": "", "eu-west-1": "https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_Ab1"} {
		cognito, err := Resolve("cognito", map[string]string{"domain": "login.example.com", "region": region, "pool": "eu-west-1_Ab1"})
		if err != nil || cognito.Issuer != want {
			t.Errorf("region %q: issuer %q, want %q (%v)", region, cognito.Issuer, want, err)
		}
	}
	us, err := Resolve("microsoft", map[string]string{"graph_host": "graph.microsoft.us"})
	if err != nil || us.AppScopes[0] != "https://graph.microsoft.us/.default" || us.APIHosts[0] != "graph.microsoft.us" {
		t.Errorf("graph of another cloud: %v %v, %v", us.AppScopes, us.APIHosts, err)
	}
}

func TestScopes(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ provider, wanted, want string }{
		{"google", "", "openid email"},
		{"google", "sheets", "openid email https://www.googleapis.com/auth/spreadsheets"},
		{"google", "openid https://www.googleapis.com/auth/tasks", "openid https://www.googleapis.com/auth/tasks"},
		{"microsoft", "outlook onedrive", "offline_access User.Read Mail.Send Files.ReadWrite"},
		{"microsoft", "Calendars.Read", "Calendars.Read offline_access"},
		{"salesforce", "api api", "api refresh_token"},
		{"oidc", "", "openid offline_access"},
		{"slack", "", ""},
		{"slack", "chat:write", "chat:write"},
	} {
		p, _ := Lookup(test.provider)
		if got := strings.Join(p.Scopes(words(test.wanted)), " "); got != test.want {
			t.Errorf("%s %q: %q, want %q", test.provider, test.wanted, got, test.want)
		}
	}
}

func TestNearest(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"gitlob": "gitlab github", "salesfroce": "salesforce", "DROPBOX": "dropbox", "entra-microsoft": "microsoft",
		"quickbook": "quickbooks", "zzzzzzzz": "", "b": "", "bax": "box",
	} {
		if got := strings.Join(Nearest(name), " "); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func TestDistance(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"abc", "acb", 1}, {"kitten", "sitting", 3}, {"ab", "ba", 1}} {
		if got := distance(test.a, test.b); got != test.want {
			t.Errorf("%q to %q: %d, want %d", test.a, test.b, got, test.want)
		}
	}
}

// TestNobodyChangesTheTable: what Lookup and Expand return shares no slice and no map with the table.
func TestNobodyChangesTheTable(t *testing.T) {
	t.Parallel()
	for _, name := range Names() {
		copied, _ := Lookup(name)
		if !reflect.DeepEqual(copied, table[name]) {
			t.Errorf("%s: the copy differs", name)
		}
		shared(t, name, reflect.ValueOf(*copied), reflect.ValueOf(*table[name]))
	}
	if !slices.IsSorted(Names()) {
		t.Error("names are not sorted")
	}
}

func shared(t *testing.T, path string, a, b reflect.Value) {
	t.Helper()
	switch a.Kind() {
	case reflect.Slice:
		if a.Len() > 0 && a.Pointer() == b.Pointer() {
			t.Errorf("%s is the table's own: clone it", path)
		}
	case reflect.Map:
		if a.Len() > 0 && a.Pointer() == b.Pointer() {
			t.Errorf("%s is the table's own: clone it", path)
		}
		for _, key := range a.MapKeys() {
			shared(t, path+"."+key.String(), a.MapIndex(key), b.MapIndex(key))
		}
	case reflect.Struct:
		for i := range a.NumField() {
			shared(t, path+"."+a.Type().Field(i).Name, a.Field(i), b.Field(i))
		}
	}
}

// TestExpandAsking: what people are asked for stays a mark, also where a bracket stands around it; all else is filled in and checked.
func TestExpandAsking(t *testing.T) {
	t.Parallel()
	shopify, _ := Lookup("shopify")
	p, err := shopify.ExpandAsking(nil, []string{"shop"})
	if err != nil || p.TokenEndpoint != "https://{field.shop}/admin/oauth/access_token" || p.APIHosts[0] != "{field.shop}" ||
		p.TestCall.URL != "https://{field.shop}/admin/api/2026-07/graphql.json" {
		t.Errorf("got %+v, %v", p, err)
	}
	okta, _ := Lookup("okta")
	p, err = okta.ExpandAsking(map[string]string{"domain": "acme.okta.com"}, []string{"auth_server"})
	if err != nil || p.TokenEndpoint != "https://acme.okta.com/oauth2/{field.auth_server}/v1/token" {
		t.Errorf("got %s, %v", p.TokenEndpoint, err)
	}
	for name, params := range map[string]map[string]string{"okta": nil, "keycloak": {"base": "http://x"}, "gitlab": {"host": "a b"}} {
		p, _ := Lookup(name)
		if _, err := p.ExpandAsking(params, []string{"realm"}); err == nil {
			t.Errorf("%s: what was given was not checked", name)
		}
	}
	if again, _ := Lookup("shopify"); again.TokenEndpoint != "https://{shop}/admin/oauth/access_token" {
		t.Error("the table was changed")
	}
}
