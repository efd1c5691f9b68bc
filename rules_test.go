package caddyoauth

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path"
	"strings"
	"testing"
)

// rules parses rules written as in a Caddyfile: "GET,HEAD /a /b".
func rules(t testing.TB, lines ...string) ruleSet {
	t.Helper()
	var set ruleSet
	for _, line := range lines {
		fields := strings.Fields(line)
		one, err := newRule(strings.Split(fields[0], ","), fields[1:])
		if err != nil {
			t.Fatal(err)
		}
		set = append(set, one)
	}
	return set
}

// ask makes a request with exactly that path and query.
func ask(t testing.TB, method, target string, headers ...string) *http.Request {
	t.Helper()
	u, err := url.ParseRequestURI(target)
	if err != nil {
		t.Fatalf("%q: %v", target, err)
	}
	req := httptest.NewRequest(http.MethodGet, "http://api.example/", nil)
	req.Method, req.URL = method, u
	for _, line := range headers {
		name, value, _ := strings.Cut(line, ": ")
		req.Header[name] = []string{value}
	}
	return req
}

func TestRules(t *testing.T) {
	t.Parallel()
	set := rules(t, "GET,HEAD /drive/v3/*", "POST /v1/documents/*:batchUpdate", "* /any", "DELETE /files/*/trash/", "PUT /a/*/b*c*d", "GET /")
	for target, want := range map[string]bool{
		"GET /drive/v3/files": true, "HEAD /drive/v3/files/1/comments?q=a%2Fb": true, "GET /drive/v3/": true, "GET /drive/v3/a%20b;v=1": true,
		"GET /drive/v3/a%2Fb": true, "GET /drive/v3/100%25": true, "GET /drive/v3/%C3%A4": true, "GET /drive/v3/.hidden": true, "GET /drive/v3/a..b": true,
		"GET /drive/v3": false, "POST /drive/v3/files": false, "GET /drive/v4/files": false, "GET /drive/v33/files": false, "get /drive/v3/files": false,
		"POST /v1/documents/x:batchUpdate": true, "POST /v1/documents/x": false, "POST /v1/documents/x/y:batchUpdate": false,
		"POST /v1/documents/x%2Fy:batchUpdate": false, "POST /v1/documents/:batchUpdate": true, "POST /v1/documents/x;:batchUpdate": false,
		"GET /any": true, "PROPFIND /any": true, "GET /any/": false, "GET /any/x": false,
		"DELETE /files/1/trash/": true, "DELETE /files/1/trash": false, "DELETE /files/1/2/trash/": false, "DELETE /files/1%2F2/trash/": false,
		"PUT /a/x/bcd": true, "PUT /a/x/b1c2d": true, "PUT /a/x/bdc": false, "PUT /a/x/bc": false, "PUT /a/x/bcd/e": false, "PUT /a//bcd": false,
		"GET /": true, "GET /?q": true, "POST /": false,
	} {
		method, path, _ := strings.Cut(target, " ")
		err := set.permits(ask(t, method, path))
		if (err == nil) != want || err != nil && !errors.Is(err, errNotAllowed) {
			t.Errorf("%s: %v", target, err)
		}
	}
	if err := ruleSet(nil).permits(ask(t, "GET", "/a/../b")); err != nil {
		t.Errorf("without rules: %v", err)
	}
	if err := rules(t, "GET /ä/*").permits(ask(t, "GET", "/%C3%A4/x")); err != nil {
		t.Errorf("a rule is written decoded: %v", err)
	}
}

// hostilePaths lead out of /drive/v3/ at one server or another, or hide where they lead.
var hostilePaths = []string{
	"/drive/v3/../../gmail", "/drive/v3/%2e%2e/%2E%2E/gmail", "/drive/v3/.%2e/gmail", "/drive/v3/..%2f..%2fgmail", "/drive/v3/%2e%2e%2fgmail",
	"/drive/v3/./x", "/drive/v3/%2e/x", "/drive/v3/..", "/drive/v3/x/..", "/drive/v3/..%5cgmail", "/drive/v3/..\\gmail", "/drive/v3/a%5cb",
	"//drive/v3/x", "/drive//v3/x", "/drive/v3//x", "/drive/v3/x//", "/drive/v3/%2f/x", "/drive%2fv3/x", "/drive/v3%2fx", "//evil.example/drive/v3/x",
	"/drive/v3/%252e%252e/gmail", "/drive/v3/%252fx", "/drive/v3/%25252e", "/drive/v3/..;/gmail", "/drive/v3/..;x=1/gmail", "/drive/v3/;/x", "/drive/v3/%2e%2e%3b/x",
	"/drive;x/v3/y", "/drive/v3;/y", "/DRIVE/v3/x", "/drive/V3/x", "/%44rive/V3/x", "/drive/v3/%00", "/drive/v3/x%0d%0aX:y", "/drive/v3/x%3fy", "/drive/v3/x%23y",
	"/drive/v3/%c0%ae%c0%ae/x", "/drive/v3/%ff", "/drive/v3/.../x", "/drive/v3/..%20/x", "/drive/v3/.%20./x", "/drive/v3/%20../x", "*",
}

// TestRulesStandAttacksOnThePath: what servers read in different ways gets no token.
func TestRulesStandAttacksOnThePath(t *testing.T) {
	t.Parallel()
	set := rules(t, "GET /drive/v3/*")
	for _, target := range hostilePaths {
		if err := set.permits(ask(t, "GET", target)); !errors.Is(err, errNotAllowed) {
			t.Errorf("%s: %v", target, err)
		}
	}
	for _, u := range []*url.URL{{Opaque: "//evil.example/drive/v3/x", Path: "/drive/v3/x"}, {Path: "drive/v3/x"}, {}, {Path: "/drive/v3/..", RawPath: "/drive/v3/x"}} {
		req := ask(t, "GET", "/")
		req.URL = u
		if err := set.permits(req); !errors.Is(err, errNotAllowed) {
			t.Errorf("%#v: %v", u, err)
		}
	}
}

// TestRulesStandDisguises: a GET that asks to be taken for a DELETE, or for another path, is none.
func TestRulesStandDisguises(t *testing.T) {
	t.Parallel()
	set := rules(t, "* /x")
	for _, header := range []string{"X-Http-Method-Override", "x-http-method-override", "X-HTTP-METHOD", "X-Method-Override", "X_HTTP_Method_Override", "X-Original-URL", "X-Rewrite-URL"} {
		if err := set.permits(ask(t, "POST", "/x", header+": DELETE")); !errors.Is(err, errNotAllowed) {
			t.Errorf("%s: %v", header, err)
		}
	}
	for _, query := range []string{"_method=DELETE", "a=b&_METHOD=x", "a;_method", "%5Fmethod=x", "$httpMethod=PUT", "%24httpMethod=PUT", "X-HTTP-Method-Override=x"} {
		if err := set.permits(ask(t, "POST", "/x?"+query)); !errors.Is(err, errNotAllowed) {
			t.Errorf("%s: %v", query, err)
		}
	}
	if err := set.permits(ask(t, "POST", "/x?method=a&my_method=b&%zz=1", "X-Method: a")); err != nil {
		t.Errorf("names of no meaning: %v", err)
	}
}

// TestRulesAreChecked: what can never match, or is misread easily, is refused at load.
func TestRulesAreChecked(t *testing.T) {
	t.Parallel()
	for _, line := range []string{
		"get /x", "Get /x", "GET,get /x", "GET, /x", "*,GET /x", "G(T /x", "GET x", "GET *", "GET https://a.example/x", "GET /a//b", "GET /../b", "GET /./b",
		"GET /a%2Fb", "GET /a?b=c", "GET /a#b", `GET /a\b`, "GET /\xff",
	} {
		fields := strings.Fields(line)
		if _, err := newRule(strings.Split(fields[0], ","), fields[1:]); err == nil {
			t.Errorf("%q was accepted", line)
		}
	}
	for _, c := range []AllowRule{{}, {Methods: []string{"GET"}}, {Paths: []string{"/x"}}, {Methods: []string{"GET"}, Paths: []string{"/{env.TEST_RULES_UNSET}"}}} {
		conn := baseConnection()
		conn.Allow = []AllowRule{c}
		if _, err := conn.build("api"); err == nil || !strings.Contains(err.Error(), `connection "api": allow: `) {
			t.Errorf("%v: %v", c, err)
		}
	}
}

// FuzzRules: a path that is allowed below /drive/v3/ stays there, however a server decodes, cleans and cuts it.
func FuzzRules(f *testing.F) {
	for _, target := range hostilePaths {
		f.Add(target)
	}
	f.Add("/drive/v3/files;a=b/x%20y")
	set := rules(f, "GET /drive/v3/*")
	f.Fuzz(func(t *testing.T, target string) {
		u, err := url.ParseRequestURI(target)
		if err != nil {
			return
		}
		req := httptest.NewRequest(http.MethodGet, "http://api.example/", nil)
		req.URL = u
		if set.permits(req) != nil {
			return
		}
		sent, _, _ := strings.Cut(u.RequestURI(), "?")
		for range 3 {
			for _, read := range []func(string) string{
				path.Clean,
				func(p string) string { return path.Clean(strings.ReplaceAll(p, `\`, "/")) },
				func(p string) string { return path.Clean(strings.Join(withoutParams(strings.Split(p, "/")), "/")) },
				func(p string) string { return strings.ReplaceAll(p, "//", "/") },
			} {
				if got := read(sent); !strings.HasPrefix(got+"/", "/drive/v3/") {
					t.Fatalf("%q is allowed, and can be read as %q", target, got)
				}
			}
			if sent, err = url.PathUnescape(sent); err != nil {
				return
			}
		}
	})
}
