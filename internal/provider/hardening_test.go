package provider

import (
	"errors"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// hostile are values that would lead a token, a code or the client secret somewhere else.
var hostile = []string{
	"evil.example/", "evil.example/x", "/evil.example", "//evil.example", "x@evil.example", "evil.example#", "evil.example?",
	"evil.example?x=1", "a:b", "a:b@evil.example", ":443", "evil.example:443:443", "evil.example:", "a\\b", "a%2fb", "a%00b",
	"..", ".", "../x", "x/../y", "a b", " a", "a ", "a\n", "\na", "a\r\nHost: evil.example", "a\x00", "[::1]", "[a]", "{client_secret}",
	"{token}", "{shop}", "é.example", "evil。example", "a,b", "a;b", "'a'", "\"a\"", "<a>", "-", ".example", "*", "*.example",
	strings.Repeat("a", 501), "javascript:alert(1)",
	"http://a.example", "https://a@b.example", "https://a.example#", "https://a.example?x", "https://a.example//b",
	"https://a.example/../b", "https://a.example/./b", "https://a.example/%2e%2e/b", "https://", "https://a.example\\b",
	"https://[::1]/", "https://a.example:x", "HTTPS://a.example", "ftp://a.example",
}

// free are the parameters that hold any text, and so must stay out of URLs.
var free = map[string]bool{"audience": true}

func TestAttackParameterValues(t *testing.T) {
	t.Parallel()
	everyEntry(t, func(t *testing.T, p, _ *Provider) {
		for _, param := range p.Params {
			for _, value := range hostile {
				given := map[string]string{}
				for _, other := range p.Params {
					given[other.Name] = other.Example
				}
				given[param.Name] = value
				if _, err := p.Expand(given); err == nil {
					if free[param.Name] && !strings.ContainsAny(value, "{}\r\n\x00 ") {
						continue
					}
					t.Errorf("%s takes %q", param.Name, value)
				} else if len(value) > 8 && strings.Contains(err.Error(), value) {
					t.Errorf("%s: the error repeats the value: %v", param.Name, err)
				} else if fault := (*ParamError)(nil); !errors.As(err, &fault) || fault.Param != param.Name || fault.Provider != p.Name {
					t.Errorf("%s: the error does not name the field: %v", param.Name, err)
				}
			}
		}
	})
}

// TestAttackForeignHost: whoever can be asked for a parameter cannot name a host of their own with it.
func TestAttackForeignHost(t *testing.T) {
	t.Parallel()
	everyEntry(t, func(t *testing.T, p, _ *Provider) {
		for _, param := range p.Params {
			if free[param.Name] || inPathOnly(p, param.Name) {
				continue
			}
			open := false
			for _, value := range words(`evil.example localhost 169.254.169.254 evil.example:443 https://evil.example
				evilmyshopify.com acme.myshopify.com.evil.example evil-salesforce.com salesforce.com.evil.example
				login.microsoftonline.com.evil.example graphxmicrosoft.com quickbooks.api.intuit.com.evil.example`) {
				open = open || param.Accepts(value)
			}
			if open != param.OperatorOnly {
				t.Errorf("%s takes foreign hosts: %v; it may not be asked from a visitor: %v", param.Name, open, param.OperatorOnly)
			}
		}
	})
}

// inPathOnly reports whether a parameter stands behind the host in every URL that it stands in, and in no list of hosts.
func inPathOnly(p *Provider, param string) bool {
	before := regexp.MustCompile(`^(https://)?[^/]*\{` + param + `\}`)
	for _, u := range p.urls() {
		// Cognito's region is a label inside Amazon's own domain; its pattern has no dot.
		if before.MatchString(strings.TrimPrefix(*u.text, "[")) && !strings.Contains(*u.text, "{region}.amazonaws.com") {
			return false
		}
	}
	return !slices.ContainsFunc(p.APIHosts, func(host string) bool { return strings.Contains(host, "{"+param+"}") })
}

func TestFreeParamsStayOutOfURLs(t *testing.T) {
	t.Parallel()
	for _, name := range Names() {
		for param := range free {
			for _, u := range table[name].urls() {
				if strings.Contains(*u.text, "{"+param+"}") {
					t.Errorf("%s: %s holds {%s}, which takes any text", name, u.field, param)
				}
			}
			for _, host := range table[name].APIHosts {
				if strings.Contains(host, "{"+param+"}") {
					t.Errorf("%s: API host %q holds {%s}, which takes any text", name, host, param)
				}
			}
		}
	}
}

// TestAttackLoosePattern: should a pattern let something through one day, the URL is checked all the same.
func TestAttackLoosePattern(t *testing.T) {
	t.Parallel()
	p := &Provider{
		Name: "loose", TokenEndpoint: "https://{host}/{path}/token",
		Params: []Param{{Name: "host", Pattern: `^(?s).*$`, Default: "a.example"}, {Name: "path", Pattern: `^(?s).*$`, Default: "x"}},
	}
	if _, err := p.Expand(nil); err != nil {
		t.Fatal(err)
	}
	for _, given := range []map[string]string{
		{"host": "x@evil.example"}, {"host": "evil.example?"}, {"host": "evil.example#"}, {"host": "evil.example?x"}, {"host": "[::1]"},
		{"host": "evil.example\\x"}, {"host": "evil example"}, {"host": "evil.example:x"}, {"host": "{path}"}, {"host": "/"},
		{"path": ".."}, {"path": "%2e%2e"}, {"path": "a/../.."}, {"path": "a?b"}, {"path": "a#b"}, {"path": "%zz"}, {"path": "a\nb"},
	} {
		if got, err := p.Expand(given); err == nil {
			t.Errorf("%q gives %q", given, got.TokenEndpoint)
		} else if !strings.Contains(err.Error(), "token_endpoint") {
			t.Errorf("%q: the error does not name the field: %v", given, err)
		}
	}
	p = &Provider{Name: "loose", TokenEndpoint: "{base}/token", Params: []Param{{Name: "base", Pattern: `^(?s).*$`, Required: true}}}
	for _, base := range words("http://a.example ftp://a.example //a.example a.example javascript:alert(1)") {
		if got, err := p.Expand(map[string]string{"base": base}); err == nil {
			t.Errorf("%q gives %q", base, got.TokenEndpoint)
		}
	}
}

// TestAttackNestedPlaceholder: a value is not a template.
func TestAttackNestedPlaceholder(t *testing.T) {
	t.Parallel()
	got := fill("{a}|[{b}]|{client_secret}", map[string]string{"a": "{b}[{b}]", "b": "{a}", "c": "x"})
	if want := "{b}[{b}]|{a}|{client_secret}"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestParamPatterns(t *testing.T) {
	t.Parallel()
	everyEntry(t, func(t *testing.T, p, _ *Provider) {
		for _, param := range p.Params {
			inner := strings.TrimSuffix(strings.TrimPrefix(param.Pattern, "^"), "$")
			if param.Pattern != "^"+inner+"$" || topLevelAlternative(inner) {
				t.Errorf("%s: pattern %q is not anchored as a whole", param.Name, param.Pattern)
			}
			if _, err := regexp.Compile(param.Pattern); err != nil {
				t.Errorf("%s: %v", param.Name, err)
			}
			if param.Required && param.Default != "" {
				t.Errorf("%s: a parameter with a default is not required", param.Name)
			}
		}
	})
}

// topLevelAlternative: in ^a|b$ each half is anchored on one side only.
func topLevelAlternative(pattern string) bool {
	depth := 0
	for _, r := range pattern {
		switch r {
		case '(':
			depth++
		case ')':
			depth--
		case '|':
			if depth == 0 {
				return true
			}
		}
	}
	return false
}

// TestNoUserData: the table holds nobody's address, account or key.
func TestNoUserData(t *testing.T) {
	t.Parallel()
	personal := regexp.MustCompile(`(?i)[a-z0-9._-]+@[a-z0-9-]+\.[a-z]|\b(sk|pk|rk)_(live|test)_|xox[abps]-|gh[opsu]_|ya29\.|\b[0-9a-f]{32,}\b|[0-9a-f]{8}-[0-9a-f]{4}-`)
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) == 0 {
		t.Fatal(err, len(files))
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if found := personal.Find(text); found != nil {
			t.Errorf("%s holds %q", name, found)
		}
	}
}

// TestImports: the standard library, nothing else.
func TestImports(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) == 0 {
		t.Fatal(err, len(files))
	}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range file.Imports {
			path, _ := strconv.Unquote(spec.Path.Value)
			if first, _, _ := strings.Cut(path, "/"); strings.Contains(first, ".") {
				t.Errorf("%s imports %s: this package is data and lives on the standard library", name, path)
			}
			if path == "net/http" && !strings.HasSuffix(name, "_test.go") {
				t.Errorf("%s imports net/http: this package sends nothing", name)
			}
		}
	}
}

func FuzzExpand(f *testing.F) {
	for _, value := range hostile {
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value string) {
		for _, name := range Names() {
			p := table[name]
			for _, param := range p.Params {
				given := map[string]string{}
				for _, other := range p.Params {
					given[other.Name] = other.Example
				}
				given[param.Name] = value
				filled, err := p.Expand(given)
				if err != nil || free[param.Name] {
					continue
				}
				for _, u := range filled.urls() {
					if strings.ContainsAny(*u.text, "?#@\\ \n") || strings.Contains(*u.text, "/../") {
						if !strings.HasSuffix(*u.text, "/users/@me") {
							t.Errorf("%s %s %q: %q", name, param.Name, value, *u.text)
						}
					}
				}
			}
		}
	})
}
