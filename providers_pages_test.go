package caddyoauth_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/caddyoauth/caddyoauth/test/providersim"
)

// TestProviderPages: the Caddyfile on each provider's page works as it stands there, against that provider. Only what is somebody's own
// is filled in: the site's address, the person's password, the client's identifier and secret.
func TestProviderPages(t *testing.T) {
	pages, err := filepath.Glob("docs/providers/*.md")
	if err != nil || len(pages) < 8 {
		t.Fatalf("found %q, %v", pages, err)
	}
	for _, page := range pages {
		name := strings.TrimSuffix(filepath.Base(page), ".md")
		if name == "README" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			j := pageJourney(t, name, page)
			j.asks()
			j.authorize()
			j.works()
			if name != "slack" { // which is refreshed by the clock alone
				j.refreshed()
			}
			j.ended()
		})
	}
}

var (
	pageBlock      = regexp.MustCompile("(?s)\n```caddyfile\n(.*?)```\n")
	pageConnection = regexp.MustCompile(`connection (\w+) \{`)
	pageParams     = regexp.MustCompile(`(?s)provider \w+ \{(.*?)\}`)
	pageScopes     = regexp.MustCompile(`(?m)^\s*scopes (.*)$`)
	pageOwn        = []struct {
		where *regexp.Regexp
		with  string
	}{
		{regexp.MustCompile(`\{env\.[A-Z]+_CLIENT_ID\}`), "caddy"},
		{regexp.MustCompile(`passphrase \{file\./run/secrets/oauth2_passphrase\}`), `passphrase "correct horse battery staple"`},
		{regexp.MustCompile(`\{file\./run/secrets/\w+\}`), clientSecret},
		{regexp.MustCompile(`(?s)\tbasic_auth \{.*?\}\n`), basicAuth},
	}
)

// pageJourney starts a Caddy with the page's Caddyfile, and the provider that it is for.
func pageJourney(t *testing.T, name, page string) *journey {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	blocks := pageBlock.FindAllStringSubmatch(string(text), -1)
	if len(blocks) != 1 {
		t.Fatalf("the page has %d Caddyfiles, want one", len(blocks))
	}
	config := blocks[0][1]
	options := wants(name)
	options.Params, options.Scopes = map[string]string{}, nil
	if params := pageParams.FindStringSubmatch(config); params != nil {
		for line := range strings.Lines(strings.TrimSpace(params[1])) {
			param, value, _ := strings.Cut(strings.TrimSpace(line), " ")
			options.Params[param] = value
		}
	}
	if scopes := pageScopes.FindStringSubmatch(config); scopes != nil {
		options.Scopes = strings.Fields(scopes[1])
	}
	for _, own := range pageOwn {
		if config = own.where.ReplaceAllLiteralString(config, own.with); strings.Contains(config, "/run/secrets") && own.with == clientSecret {
			t.Fatal("the page's Caddyfile has a secret that this test does not know")
		}
	}
	s := &site{t: t, idp: newIDP(t)}
	j := &journey{sim: providersim.New(t, internet, options), name: pageConnection.FindStringSubmatch(config)[1]}
	if strings.Contains(config, "subject {http.auth.user.id}") {
		j.subject = "alice"
	}
	s.start(func() string {
		whole := strings.Replace(config, "{\n", "{\n\tadmin off\n\tpersist_config off\n\tauto_https off\n\tstorage file_system "+t.TempDir()+
			"\n\tlog default {\n\t\toutput memory\n\t\tlevel DEBUG\n\t}\n", 1)
		return strings.Replace(whole, "\n"+j.name+".example.com {\n", "\nhttp://"+s.addr+" {\n\tbind 127.0.0.1\n\tlog\n", 1)
	})
	j.browser = s.as("alice")
	return j
}
