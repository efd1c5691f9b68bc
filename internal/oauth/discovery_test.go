package oauth

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const (
	oidcPath  = "/.well-known/openid-configuration"
	oauthPath = "/.well-known/oauth-authorization-server"
)

// metadataServer serves documents by path, with ISSUER replaced by its own address, and tells which paths were asked for.
func metadataServer(t *testing.T, documents map[string]string) (*httptest.Server, func() []string) {
	t.Helper()
	asked := make(chan string, 16)
	srv := httptest.NewUnstartedServer(nil)
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.URL.EscapedPath()
		if r.Method != http.MethodGet || r.Header.Get("Accept") != "application/json" || r.Header.Get("Content-Type") != "" {
			t.Errorf("odd request: %s %v", r.Method, r.Header)
		}
		document, ok := documents[r.URL.EscapedPath()]
		if !ok {
			http.NotFound(w, r)
			return
		}
		_, _ = io.WriteString(w, strings.ReplaceAll(document, "ISSUER", "http://"+r.Host))
	})
	srv.Start()
	t.Cleanup(srv.Close)
	return srv, func() []string {
		var list []string
		for len(asked) > 0 {
			list = append(list, <-asked)
		}
		return list
	}
}

// TestDiscoverForms: where metadata may be, and the order in which it is looked for.
func TestDiscoverForms(t *testing.T) {
	t.Parallel()
	const document = `{"issuer":"ISSUER%s","token_endpoint":"ISSUER/token"}`
	for _, tc := range []struct{ issuerPath, at string }{
		{"", oidcPath},
		{"/", oidcPath},
		{"", oauthPath},
		{"/realms/x", "/realms/x" + oidcPath},
		{"/realms/x", oauthPath + "/realms/x"},
		{"/realms/x/", "/realms/x" + oidcPath},
		{"/realms/x", oidcPath + "/realms/x"},
		{"/realms/x", "/realms/x" + oauthPath},
		{"/a%2Fb", "/a%2Fb" + oidcPath},
	} {
		srv, asked := metadataServer(t, map[string]string{tc.at: fmt.Sprintf(document, tc.issuerPath)})
		got, err := Discover(t.Context(), DiscoverConfig{Issuer: srv.URL + tc.issuerPath})
		if err != nil {
			t.Errorf("%s at %s: %v (asked %v)", tc.issuerPath, tc.at, err, asked())
			continue
		}
		if got.Issuer != srv.URL+tc.issuerPath || got.TokenEndpoint != srv.URL+"/token" {
			t.Errorf("got %+v", got)
		}
		if list := asked(); list[len(list)-1] != tc.at || list[0] != strings.TrimSuffix(tc.issuerPath, "/")+oidcPath {
			t.Errorf("%s at %s: asked %v", tc.issuerPath, tc.at, list)
		}
	}
}

// TestDiscoverWhole: every field, over TLS with a certificate authority of its own, as real servers fill them.
func TestDiscoverWhole(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	srv := ca.serveTLS(t, 0x0304, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, strings.ReplaceAll(`{"issuer":"ISSUER","authorization_endpoint":"https://a.example/auth?x=1",
			"token_endpoint":"https://a.example/token","revocation_endpoint":"https://b.example/revoke",
			"userinfo_endpoint":"ISSUER/me","code_challenge_methods_supported":["plain","S256",7,"<b>"],
			"token_endpoint_auth_methods_supported":["tls_client_auth","none"],
			"authorization_response_iss_parameter_supported":true,"registration_endpoint":null,"scopes_supported":["openid","a:b/c",7,"é",""],
			"mtls_endpoint_aliases":{"token_endpoint":"https://m.example/token","revocation_endpoint":"https://m.example/revoke"},
			"ISSUER":"https://evil.example","Token_Endpoint":"https://evil.example","unknown":{"deep":[1,2]}}`, "ISSUER", "https://"+r.Host))
	})
	got, err := Discover(t.Context(), DiscoverConfig{
		Issuer: srv.URL, RootCAs: ca.pool, Certificate: files(t, ca.valid(t, "c")),
	})
	if err != nil {
		t.Fatal(err)
	}
	want := Server{
		Issuer: srv.URL, AuthorizationEndpoint: "https://a.example/auth?x=1", TokenEndpoint: "https://a.example/token",
		RevocationEndpoint: "https://b.example/revoke", UserinfoEndpoint: srv.URL + "/me",
		CodeChallengeMethodsSupported: []string{"plain", "S256"}, TokenEndpointAuthMethodsSupported: []string{"tls_client_auth", "none"},
		ScopesSupported: []string{"openid", "a:b/c"},
		AuthorizationResponseIssParameterSupported: true,
		MTLSEndpointAliases:                        MTLSEndpointAliases{"https://m.example/token", "https://m.example/revoke"},
	}
	if a, b := fmt.Sprintf("%+v", *got), fmt.Sprintf("%+v", want); a != b {
		t.Errorf("got  %s\nwant %s", a, b)
	}
	_, err = Discover(t.Context(), DiscoverConfig{Issuer: srv.URL})
	expect(t, mustFail(t, nil, err), Misconfigured, "server_certificate")
}

// TestAttackMetadata: documents that must not be used, and what is said about them.
func TestAttackMetadata(t *testing.T) {
	t.Parallel()
	endpoints := func(more string) string { return `{"issuer":"ISSUER","token_endpoint":"ISSUER/t",` + more + `}` }
	for name, tc := range map[string]struct{ document, code string }{
		"other issuer":         {`{"issuer":"https://Seeded0.example","token_endpoint":"ISSUER/t"}`, "issuer_mismatch"},
		"slash":                {`{"issuer":"ISSUER/","token_endpoint":"ISSUER/t"}`, "issuer_mismatch"},
		"no issuer":            {`{"token_endpoint":"ISSUER/t"}`, "issuer_mismatch"},
		"issuer in capitals":   {`{"ISSUER":"ISSUER","Issuer":"ISSUER","token_endpoint":"ISSUER/t"}`, "issuer_mismatch"},
		"issuer list":          {`{"issuer":["ISSUER"],"token_endpoint":"ISSUER/t"}`, "issuer_mismatch"},
		"no token endpoint":    {`{"issuer":"ISSUER"}`, "invalid_metadata"},
		"empty endpoint":       {`{"issuer":"ISSUER","token_endpoint":""}`, "invalid_metadata"},
		"http":                 {endpoints(`"revocation_endpoint":"http://Seeded0.example/"`), "invalid_metadata"},
		"http alias":           {endpoints(`"mtls_endpoint_aliases":{"token_endpoint":"http://Seeded0.example/"}`), "invalid_metadata"},
		"other scheme":         {endpoints(`"authorization_endpoint":"javascript:Seeded0"`), "invalid_metadata"},
		"file":                 {endpoints(`"userinfo_endpoint":"file:///Seeded0"`), "invalid_metadata"},
		"user name":            {endpoints(`"authorization_endpoint":"https://Seeded0:x@a.example/"`), "invalid_metadata"},
		"fragment":             {endpoints(`"authorization_endpoint":"https://a.example/#Seeded0"`), "invalid_metadata"},
		"relative":             {endpoints(`"authorization_endpoint":"/Seeded0"`), "invalid_metadata"},
		"number":               {endpoints(`"authorization_endpoint":7`), "invalid_metadata"},
		"long":                 {endpoints(`"authorization_endpoint":"https://a.example/` + strings.Repeat("a", maxURL) + `"`), "invalid_metadata"},
		"control character":    {endpoints(`"authorization_endpoint":"https://a.example/\u0000Seeded0"`), "invalid_metadata"},
		"a page":               {`<!DOCTYPE html><title>Seeded0</title>`, "no_metadata"},
		"a list":               {`["Seeded0"]`, "no_metadata"},
		"a form":               {`error=Seeded0&issuer=ISSUER&token_endpoint=https://Seeded0`, "no_metadata"},
		"cut off":              {`{"issuer":"ISSUER","token_endpoint":"ISSUER/t"`, "no_metadata"},
		"two documents":        {`{"issuer":"ISSUER","token_endpoint":"ISSUER/t"}{}`, "no_metadata"},
		"nothing":              {``, "no_metadata"},
		"more than a mebibyte": {`{"issuer":"ISSUER","token_endpoint":"ISSUER/t"}` + strings.Repeat(" ", maxBody), "no_metadata"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv, _ := metadataServer(t, map[string]string{oidcPath: tc.document})
			got, err := Discover(t.Context(), DiscoverConfig{Issuer: srv.URL})
			e := mustFail(t, nil, err)
			expect(t, e, Misconfigured, tc.code)
			if got != nil || strings.Contains(e.Error(), "Seeded0") {
				t.Errorf("got %+v, %v", got, e)
			}
		})
	}
}

// TestDiscoverPrefersTheTellingError: an address without metadata says less than a document that is wrong, and a good
// document elsewhere makes up for both.
func TestDiscoverPrefersTheTellingError(t *testing.T) {
	t.Parallel()
	const wrong, good = `{"issuer":"x","token_endpoint":"ISSUER/t"}`, `{"issuer":"ISSUER","token_endpoint":"ISSUER/t"}`
	srv, _ := metadataServer(t, map[string]string{oauthPath: wrong})
	_, err := Discover(t.Context(), DiscoverConfig{Issuer: srv.URL})
	expect(t, mustFail(t, nil, err), Misconfigured, "issuer_mismatch")
	srv, _ = metadataServer(t, map[string]string{oidcPath: wrong, oauthPath: good})
	if _, err = Discover(t.Context(), DiscoverConfig{Issuer: srv.URL}); err != nil {
		t.Error(err)
	}
	srv, _ = metadataServer(t, nil)
	_, err = Discover(t.Context(), DiscoverConfig{Issuer: srv.URL})
	expect(t, mustFail(t, nil, err), Misconfigured, "no_metadata")
}

// TestAttackDiscoveryRedirect: a redirect is not followed, wherever it goes.
func TestAttackDiscoveryRedirect(t *testing.T) {
	t.Parallel()
	other, asked := metadataServer(t, nil)
	for _, status := range []int{301, 302, 303, 307, 308} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, other.URL+oidcPath, status)
		}))
		_, err := Discover(t.Context(), DiscoverConfig{Issuer: srv.URL})
		expect(t, mustFail(t, nil, err), Misconfigured, "redirect")
		srv.Close()
	}
	if list := asked(); len(list) > 0 {
		t.Errorf("a redirect was followed: %v", list)
	}
}

// TestDiscoverUnavailable: a server in trouble is asked again later, and one that cannot be reached is not asked twice.
func TestDiscoverUnavailable(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(503)
	}))
	t.Cleanup(srv.Close)
	_, err := Discover(t.Context(), DiscoverConfig{Issuer: srv.URL})
	e := mustFail(t, nil, err)
	if expect(t, e, RetryLater, "metadata_unavailable"); e.RetryAfter != 7*time.Second || e.Status != 503 {
		t.Errorf("got %+v", e)
	}
	gone := httptest.NewServer(nil)
	gone.Close()
	_, err = Discover(t.Context(), DiscoverConfig{Issuer: gone.URL})
	if e = mustFail(t, nil, err); !strings.Contains(e.Error(), "metadata of the authorization server could not be asked") {
		t.Errorf("got %v", e)
	}
	expect(t, e, RetryLater, "unreachable")

	calls := make(chan struct{}, 8)
	srv = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, _ *http.Request) {
		calls <- struct{}{}
		panic(http.ErrAbortHandler)
	}))
	t.Cleanup(srv.Close)
	_, err = Discover(t.Context(), DiscoverConfig{Issuer: srv.URL})
	if e = mustFail(t, nil, err); e.Class != RetryLater || len(calls) != 1 {
		t.Errorf("got %v %v after %d calls, want retry_later after one: asking again does no harm", e.Class, e, len(calls))
	}
	srv = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	t.Cleanup(srv.Close)
	_, err = Discover(t.Context(), DiscoverConfig{Issuer: srv.URL, Timeout: 50 * time.Millisecond})
	expect(t, mustFail(t, nil, err), RetryLater, "timeout")
}

// TestIssuers: what an issuer may look like. A refused one is not asked.
func TestIssuers(t *testing.T) {
	t.Parallel()
	for issuer, ok := range map[string]bool{
		"https://idp.example": true, "https://idp.example/": true, "https://idp.example:8443/a/b": true,
		"http://127.0.0.1:1": true, "http://[::1]:1/x": true, "http://localhost:1": true,
		"": false, "idp.example": false, "/x": false, "ftp://idp.example": false, "http://idp.example": false,
		"http://127.0.0.1.evil.example": false, "http://localhost.evil.example": false, "http://10.0.0.1": false,
		"https://idp.example?x": false, "https://idp.example?": false, "https://idp.example#": false,
		"https://idp.example/#x": false, "https://Seeded0:x@idp.example": false, "https://": false, "https://idp.example/%zz": false,
		"https://idp.example/" + strings.Repeat("a", maxURL): false,
	} {
		_, err := issuerURL(&DiscoverConfig{Issuer: issuer})
		if (err == nil) != ok {
			t.Errorf("%.60q: %v", issuer, err)
		}
		if err != nil && strings.Contains(err.Error(), "Seeded0") {
			t.Errorf("the error repeats the issuer: %v", err)
		}
	}
	if _, err := issuerURL(&DiscoverConfig{Issuer: "http://idp.example", InsecureHTTP: true}); err != nil {
		t.Error(err)
	}
	if _, err := issuerURL(&DiscoverConfig{Issuer: "http://localhost", Certificate: &Certificate{}}); err == nil {
		t.Error("a certificate goes nowhere over http")
	}
	synctest.Test(t, func(t *testing.T) { // in a bubble a request would hang for ever
		_, err := Discover(t.Context(), DiscoverConfig{Issuer: "http://idp.example"})
		expect(t, mustFail(t, nil, err), Misconfigured, "invalid_issuer")
	})
}

// FuzzMetadata: whatever a server says about itself, only https URLs of a sane form get through.
func FuzzMetadata(f *testing.F) {
	const issuer = "https://idp.example"
	for _, document := range []string{
		`{"issuer":"https://idp.example","token_endpoint":"https://idp.example/t"}`, `{}`, `[]`, ``, `{"issuer":1}`,
		`{"issuer":"https://idp.example","token_endpoint":"http://idp.example/t"}`, `issuer=https://idp.example&error=x`,
		`{"issuer":"https://idp.example","token_endpoint":"https://a/t","mtls_endpoint_aliases":{"token_endpoint":"https://b"}}`,
		`{"issuer":"https://idp.example","token_endpoint":"https://a/t","code_challenge_methods_supported":["S256",{}]}`,
	} {
		f.Add([]byte(document))
	}
	f.Fuzz(func(t *testing.T, document []byte) {
		object, ok := decodeDocument(document)
		if !ok {
			return
		}
		s, failure := serverFrom(object, &DiscoverConfig{Issuer: issuer}, 200)
		if failure != nil {
			if s != nil || failure.Class != Misconfigured || !sendable(failure.Error()) {
				t.Fatalf("got %+v, %v", s, failure)
			}
			return
		}
		for _, endpoint := range []string{
			s.TokenEndpoint, s.AuthorizationEndpoint, s.RevocationEndpoint, s.UserinfoEndpoint,
			s.MTLSEndpointAliases.TokenEndpoint, s.MTLSEndpointAliases.RevocationEndpoint,
		} {
			if u, _ := url.Parse(endpoint); isInside(u.Hostname()) && endpoint != "" {
				t.Fatalf("endpoint %q", endpoint)
			}
			if endpoint != "" && (!strings.HasPrefix(strings.ToLower(endpoint), "https://") || len(endpoint) > maxURL) {
				t.Fatalf("endpoint %q", endpoint)
			}
		}
		if s.TokenEndpoint+s.AuthorizationEndpoint == "" || !sameIssuer(s.Issuer, issuer) || slices.ContainsFunc(s.CodeChallengeMethodsSupported, func(n string) bool { return !plainCode(n) }) {
			t.Fatalf("got %+v", s)
		}
	})
}

// FuzzIDToken: claims that were read are fit to be compared and shown.
func FuzzIDToken(f *testing.F) {
	for _, claims := range []string{
		`{"iss":"i","sub":"s","aud":"c","exp":1e9}`, `{"aud":["a",1]}`, `{}`, `[]`, `{"exp":-1}`, `{"exp":1e400}`,
		`{"iss":"i","sub":"s","aud":["a"],"exp":1,"name":"\u202eevil\u0000"}`,
	} {
		f.Add([]byte(claims))
	}
	f.Fuzz(func(t *testing.T, claims []byte) {
		c, err := ParseIDToken(idToken(string(claims)))
		var e *Error
		switch {
		case err != nil && (!errors.As(err, &e) || e.Class != Unrecognized || !sendable(e.Error())):
			t.Fatalf("got %v", err)
		case err == nil && (c.Issuer == "" || c.Subject == "" || len(c.Subject) > maxSubject || c.ExpiresAt.IsZero()):
			t.Fatalf("got %+v", c)
		}
		for _, shown := range []string{c.Email, c.Name, c.PreferredUsername} {
			if _, err := json.Marshal(shown); err != nil || strings.ContainsAny(shown, "\x00\n\r\t\u202e\u2028") {
				t.Fatalf("label %q", shown)
			}
		}
	})
}
