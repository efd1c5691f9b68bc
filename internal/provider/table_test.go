package provider

import (
	"net/http"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// everyEntry runs check for each entry: as it stands, and with its parameters filled in from their examples.
func everyEntry(t *testing.T, check func(t *testing.T, raw, filled *Provider)) {
	t.Helper()
	for _, name := range Names() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			raw, _ := Lookup(name)
			examples := map[string]string{}
			for _, param := range raw.Params {
				examples[param.Name] = param.Example
			}
			filled, err := raw.Expand(examples)
			if err != nil {
				t.Fatal(err)
			}
			check(t, raw, filled)
		})
	}
}

func TestNamesAreUnique(t *testing.T) {
	t.Parallel()
	entries := slices.Concat(office, work, chat, code, money, identity)
	if len(entries) != len(table) {
		t.Errorf("%d entries, but %d names: two entries share one", len(entries), len(table))
	}
	for _, want := range words(`google microsoft salesforce slack slack_user github stripe stripe_apps shopify quickbooks
		hubspot notion atlassian gitlab zoom dropbox xero linear airtable asana box discord okta auth0 keycloak cognito oidc`) {
		if table[want] == nil {
			t.Errorf("%s is missing", want)
		}
	}
	if table["fitbit"] != nil {
		t.Error("fitbit is there: its authorization server ended on 2026-11-02")
	}
}

func TestProvenance(t *testing.T) {
	t.Parallel()
	used := map[string]bool{}
	for _, name := range Names() {
		p := table[name]
		if !regexp.MustCompile(`^[a-z][a-z0-9_]*$`).MatchString(p.Name) || p.Title == "" {
			t.Errorf("%s: wants a name that a Caddyfile can hold, and a title", name)
		}
		if _, err := time.Parse(time.DateOnly, p.AsOf); err != nil {
			t.Errorf("%s: wants a date: %v", name, err)
		}
		if len(p.Sources) == 0 {
			t.Errorf("%s: names no source", name)
		}
		for _, source := range p.Sources {
			if _, known := Sources[source]; !known {
				t.Errorf("%s: source %q is not in Sources", name, source)
			}
			used[source] = true
		}
		for _, group := range p.Recalled {
			if !slices.Contains(FactGroups, group) {
				t.Errorf("%s: recalled fact group %q does not exist", name, group)
			}
		}
		for _, list := range [][]string{p.Sources, p.Recalled} {
			if len(slices.Compact(slices.Sorted(slices.Values(list)))) != len(list) {
				t.Errorf("%s: %v names something twice", name, list)
			}
		}
	}
	for key, source := range Sources {
		if u, err := url.Parse(source.URL); err != nil || u.Scheme != "https" || u.Host == "" || source.Title == "" {
			t.Errorf("source %s: wants a title and an https URL", key)
		}
		if !used[key] {
			t.Errorf("source %s: no entry uses it", key)
		}
	}
}

func TestEndpoints(t *testing.T) {
	t.Parallel()
	everyEntry(t, func(t *testing.T, raw, filled *Provider) {
		byDiscovery := raw.TokenEndpoint == "" && raw.AuthorizationEndpoint == "" && raw.Issuer != ""
		if !byDiscovery && (raw.TokenEndpoint == "" || raw.AuthorizationEndpoint == "") {
			t.Error("wants both endpoints, or an issuer to discover them from")
		}
		for _, u := range filled.urls() {
			parsed, err := url.Parse(*u.text)
			if err != nil {
				t.Errorf("%s: %v", u.field, err)
			} else if *u.text != "" && (parsed.Scheme != "https" || parsed.Host == "" || strings.Contains(parsed.Host, "{")) {
				t.Errorf("%s is %q: wants https and a host", u.field, *u.text)
			}
		}
		revokes := filled.Revocation.Method != "" && filled.Revocation.Auth != "" && filled.Revocation.Kills != ""
		if (raw.RevocationEndpoint != "") != revokes {
			t.Errorf("revocation endpoint %q does not go with its shape %+v", raw.RevocationEndpoint, raw.Revocation)
		}
		if (raw.Revocation.Body == "") != (len(raw.Revocation.Fields) == 0) {
			t.Errorf("revocation: body format %q does not go with the fields %v", raw.Revocation.Body, raw.Revocation.Fields)
		}
		if strings.Contains(filled.TokenEndpoint, "/oauth/v1/token") {
			t.Error("HubSpot's /oauth/v1 ends on 2027-02-16")
		}
	})
}

// TestPlaceholders: after Expand only those are left that the moment of use fills, and it can fill them.
func TestPlaceholders(t *testing.T) {
	t.Parallel()
	everyEntry(t, func(t *testing.T, raw, filled *Provider) {
		kept := slices.Concat(raw.KeepFields, raw.CallbackFields)
		for name := range raw.TestCall.Keep {
			kept = append(kept, name)
		}
		secrets := words("{access_token} {refresh_token} {client_id} {client_secret}")
		for _, text := range allStrings(filled) {
			for _, name := range regexp.MustCompile(`\{[a-z][A-Za-z0-9_.]*\}`).FindAllString(text, -1) {
				field, isField := strings.CutPrefix(strings.Trim(name, "{}"), "token.")
				switch {
				case isField && slices.Contains(kept, field):
				case name == "{token}" && text == raw.HeaderTemplate:
				case name == "{client_id}" && text == filled.RevocationEndpoint:
				case slices.Contains(secrets, name) && slices.Contains(slices.Collect(mapValues(raw.Revocation.Fields)), text):
				default:
					t.Errorf("%q: nothing fills %s in", text, name)
				}
			}
			if strings.HasPrefix(text, "https://") && strings.ContainsAny(text, "[]") {
				t.Errorf("%q still has a bracket", text)
			}
		}
		for _, param := range raw.Params {
			if slices.Contains(words("token access_token refresh_token client_id client_secret"), param.Name) {
				t.Errorf("parameter %s has the name of something else", param.Name)
			}
			if !slices.ContainsFunc(allStrings(raw), func(text string) bool { return strings.Contains(text, "{"+param.Name+"}") }) {
				t.Errorf("parameter %s is used nowhere", param.Name)
			}
			if param.Label == "" || !param.Accepts(param.Example) || (param.Default != "" && !param.Accepts(param.Default)) {
				t.Errorf("parameter %s: wants a label, and an example and a default that its own pattern accepts", param.Name)
			}
		}
	})
}

func TestAsking(t *testing.T) {
	t.Parallel()
	methods := words(`client_secret_basic client_secret_post client_secret_jwt private_key_jwt tls_client_auth
		self_signed_tls_client_auth none`)
	everyEntry(t, func(t *testing.T, raw, filled *Provider) {
		if len(raw.ClientAuth) == 0 {
			t.Error("no client authentication: it is never probed, so it must be known")
		}
		for _, method := range raw.ClientAuth {
			if !slices.Contains(methods, method) {
				t.Errorf("client authentication %q is not registered", method)
			}
		}
		if raw.BodyFormat != Form && raw.BodyFormat != JSON {
			t.Errorf("body format %q", raw.BodyFormat)
		}
		if raw.PKCE != PKCESupported && raw.PKCE != PKCERequired && raw.PKCE != PKCEOmit {
			t.Errorf("PKCE %q", raw.PKCE)
		}
		if raw.ScopeParam == "" || (raw.ScopeSeparator != " " && raw.ScopeSeparator != ",") {
			t.Errorf("scope parameter %q, separator %q", raw.ScopeParam, raw.ScopeSeparator)
		}
		scopes := filled.Scopes(nil)
		if joined := strings.Join(scopes, raw.ScopeSeparator); len(scopes) > 0 && !slices.Equal(strings.Split(joined, raw.ScopeSeparator), scopes) {
			t.Errorf("scopes %q do not survive being joined and split", joined)
		}
		for name, set := range raw.ScopeSets {
			if len(set) == 0 || !regexp.MustCompile(`^[a-z_]+$`).MatchString(name) {
				t.Errorf("scope set %q: %q", name, set)
			}
		}
		for _, scope := range raw.TestCall.Scopes {
			if !slices.Contains(scopes, scope) {
				t.Errorf("the test call needs scope %q, which is not asked for by default", scope)
			}
		}
		for _, owned := range words("client_id client_secret redirect_uri response_type grant_type scope state code code_verifier code_challenge") {
			for _, params := range []map[string]string{raw.AuthParams, raw.TokenParams, raw.RefreshParams} {
				if _, taken := params[owned]; taken {
					t.Errorf("parameter %q belongs to the protocol", owned)
				}
			}
		}
	})
}

func TestLifetimes(t *testing.T) {
	t.Parallel()
	everyEntry(t, func(t *testing.T, p, _ *Provider) {
		switch p.Rotation {
		case RotationStatic, RotationOverlapping, RotationSingleUse:
			if p.GraceSeconds != 0 {
				t.Errorf("class %s has no grace", p.Rotation)
			}
		case RotationRecoverable, RotationGrace:
			if p.GraceSeconds <= 0 {
				t.Errorf("class %s wants its grace", p.Rotation)
			}
		case RotationPunished:
		default:
			t.Errorf("rotation class %q", p.Rotation)
		}
		if p.KillsOldAccessToken != (p.RefreshBefore > 0) || p.RefreshBefore > 2*time.Minute {
			t.Errorf("early margin %v: a refresh that ends the old access token comes late, others take the default", p.RefreshBefore)
		}
		switch p.ExpiresIn {
		case ExpiryStated:
			if p.NoExpiryMeansUnlimited || p.DefaultLifetime != 0 {
				t.Error("the answer always says how long its token lives: nothing is to be assumed")
			}
		case ExpiryAbsent:
			if p.NoExpiryMeansUnlimited == (p.DefaultLifetime > 0) {
				t.Error("the answer never says how long its token lives: it is unlimited, or has a default, not both")
			}
		case ExpirySometimes:
		default:
			t.Errorf("expiry %q", p.ExpiresIn)
		}
		if !strings.HasSuffix(p.TokenPath, "access_token") {
			t.Errorf("token path %q", p.TokenPath)
		}
		for _, field := range slices.Concat(p.KeepFields, p.CallbackFields) {
			if strings.Contains(field, "token") || strings.Contains(field, "secret") || strings.Contains(field, "webhook") || field == "code" {
				t.Errorf("kept field %q is a secret, and templates show what they hold", field)
			}
		}
	})
}

func TestCalling(t *testing.T) {
	t.Parallel()
	host := regexp.MustCompile(`^(\*\.)?` + strings.Trim(hostPort, "^$") + `$`)
	everyEntry(t, func(t *testing.T, raw, filled *Provider) {
		if strings.Count(raw.HeaderTemplate, "{token}") != 1 {
			t.Errorf("header template %q", raw.HeaderTemplate)
		}
		if raw.HeaderName != http.CanonicalHeaderKey(raw.HeaderName) || raw.HeaderName == "" {
			t.Errorf("header %q", raw.HeaderName)
		}
		isIdentity := slices.ContainsFunc(identity, func(p Provider) bool { return p.Name == raw.Name })
		if len(raw.APIHosts) == 0 && !isIdentity {
			t.Error("no API hosts: a token for any host is a token for everybody")
		}
		for _, name := range filled.APIHosts {
			if !host.MatchString(name) || strings.Count(name, ".") < strings.Count(name, "*")+1 {
				t.Errorf("API host %q", name)
			}
		}
		call := filled.TestCall
		if len(call.IDPath) == 0 || len(call.LabelPath) == 0 {
			t.Error("the test call tells neither id nor label")
		}
		if call.URL == "" && filled.TokenEndpoint == "" {
			return // at the userinfo endpoint of the metadata
		}
		u, _ := url.Parse(call.URL)
		own, _ := url.Parse(filled.TokenEndpoint)
		if call.Method == "" || (!slices.Contains(filled.APIHosts, u.Host) && domain(u.Host) != domain(own.Host)) {
			t.Errorf("test call %s %q goes to a host that is neither the API's nor of the token endpoint's domain", call.Method, call.URL)
		}
		if (call.Body == "") != (call.Headers["Content-Type"] == "") {
			t.Error("a body and its type go together")
		}
	})
}

func TestErrorCodes(t *testing.T) {
	t.Parallel()
	everyEntry(t, func(t *testing.T, p, _ *Provider) {
		if len(p.Errors.Revoked) == 0 {
			t.Error("says nothing about how a revocation shows")
		}
		all := slices.Concat(p.Errors.Revoked, p.Errors.Misconfigured, p.Errors.RetryLater)
		for _, code := range all {
			if !regexp.MustCompile(`^[a-z_]+$`).MatchString(code) {
				t.Errorf("code %q: wants lower case", code)
			}
		}
		if len(slices.Compact(slices.Sorted(slices.Values(all)))) != len(all) {
			t.Errorf("a code means two things: %v", all)
		}
		if p.Errors.SuccessStatus != (p.Errors.RevokedStatus == 200) {
			t.Error("failures with HTTP 200 include the revocation")
		}
	})
}

// domain is the last two labels of a host, which is enough for the hosts of this table.
func domain(host string) string {
	labels := strings.Split(host, ".")
	return strings.Join(labels[max(0, len(labels)-2):], ".")
}

func mapValues(m map[string]string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for _, value := range m {
			if !yield(value) {
				return
			}
		}
	}
}

// allStrings are all texts of an entry that mean something to a machine.
func allStrings(p *Provider) []string {
	machine := *p
	machine.Title, machine.Notes, machine.Params = "", nil, nil
	var texts []string
	var walk func(v reflect.Value)
	walk = func(v reflect.Value) {
		switch v.Kind() {
		case reflect.String:
			texts = append(texts, v.String())
		case reflect.Slice:
			for i := range v.Len() {
				walk(v.Index(i))
			}
		case reflect.Map:
			for _, key := range v.MapKeys() {
				walk(v.MapIndex(key))
			}
		case reflect.Struct:
			for i := range v.NumField() {
				walk(v.Field(i))
			}
		}
	}
	walk(reflect.ValueOf(machine))
	return texts
}
