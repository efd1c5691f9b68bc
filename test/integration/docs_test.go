//go:build integration

package integration

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	commandBlock = regexp.MustCompile("(?s)\n```(sh|console)\n(.*?)```")
	lockTook     = regexp.MustCompile(`a lock took \d+ms`)
)

// elsewhereRun are the pages whose commands other tests run: TestDocumentedCurl, scripts/smoke and the Makefile's xcaddy.
var elsewhereRun = map[string]bool{"docs/api.md": true, "README.md": true, "kms/README.md": true}

// commandsOf returns the commands that a page shows in its blocks, without the prompt, and what it shows as their answers.
func commandsOf(page string) (all [][2]string) {
	for _, block := range commandBlock.FindAllStringSubmatch(page, -1) {
		command, answer := block[2], ""
		if block[1] == "console" {
			command, answer, _ = strings.Cut(strings.TrimPrefix(block[2], "$ "), "\n")
		}
		all = append(all, [2]string{command, answer})
	}
	return all
}

// documentedServer is an authorization server that knows one client's secret, and tells a code that it has not given out from that.
func documentedServer(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, secret, _ := r.BasicAuth()
		switch {
		case secret != "seeded-right":
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprint(w, `{"error":"invalid_client"}`)
		case r.PostFormValue("grant_type") == "authorization_code":
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, `{"error":"invalid_grant"}`)
		default:
			fmt.Fprint(w, `{"access_token":"seeded-token","token_type":"Bearer","expires_in":3600}`)
		}
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// TestDocumentedCommands runs every command that a page shows, as it stands there, and compares what it writes with what the page shows.
func TestDocumentedCommands(t *testing.T) {
	t.Parallel()
	idp, key := documentedServer(t), "\t\tencryption passphrase seeded-passphrase\n"
	person := []string{"authorization_endpoint " + idp + "/auth", "token_endpoint " + idp + "/token", "client_id caddy", "client_secret seeded-right", "subject {http.auth.user.id}"}
	c := start(t, t.TempDir(), global(key, "\t\tstored_connections {\n\t\t\tendpoints 127.0.0.1\n\t\t}\n",
		connection("billing", "token_endpoint "+idp+"/token", "client_id caddy", "client_secret seeded-right"),
		connection("drive", "provider google", "client_id caddy", "client_secret seeded-right", "subject {http.auth.user.id}")), "")
	admin := strings.TrimSuffix(strings.TrimPrefix(c.AdminURL(""), "http://"), "/")
	dir := t.TempDir()
	// What doctor looks at is another configuration: the secret has been changed at one of two clients.
	doctored := "{\n" + global(key, connection("billing", "token_endpoint "+idp+"/token", "client_id caddy", "client_secret seeded-before"), connection("drive", person...)) +
		"\n}\nhttp://" + freeAddress(t) + " {\n\toauth2_connect {\n\t\tidentity {http.auth.user.id}\n\t}\n}\n"
	if err := os.WriteFile(filepath.Join(dir, "Caddyfile"), []byte(doctored), 0o600); err != nil {
		t.Fatal(err)
	}
	sh := func(command string) string {
		command = strings.NewReplacer("curl ", "curl -f ", "caddy oauth2-inject ", `"$CADDY" oauth2-inject --address `+admin+" ", "localhost:2019", admin, "/etc/caddy/Caddyfile", dir+"/Caddyfile").Replace(command)
		out := string(shell(t, c.Environ(), "cd "+dir+"\n"+command))
		out = strings.NewReplacer(dir+"/Caddyfile", "/etc/caddy/Caddyfile", strings.TrimPrefix(idp, "http://"), "idp.example.com").Replace(out)
		return lockTook.ReplaceAllString(out, "a lock took 1ms")
	}
	sh(`curl -sf localhost:2019/oauth2_inject/v1/secrets/oauth2 -H 'Content-Type: application/json' -d '{"name": "mail", "provider": "custom",
		"grant_type": "client_credentials", "token_url": "` + idp + `/token", "client_id": "caddy", "client_secret": "seeded-wrong"}'`)
	sh("caddy oauth2-inject refresh billing")

	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	ran := 0
	for _, file := range append(pages, "../../README.md", "../../kms/README.md") {
		name := strings.TrimPrefix(filepath.ToSlash(file), "../../")
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if elsewhereRun[name] {
			continue
		}
		for _, one := range commandsOf(string(raw)) {
			ran++
			checkDocumented(t, name, one, sh)
		}
	}
	if ran < 6 {
		t.Errorf("found %d commands", ran)
	}
	if made := strings.TrimSpace(sh("cat key")); len(made) < 32 || strings.ContainsAny(made, " \n") {
		t.Error("the file has more than the key")
	}
	c.Stop(t)
	c.KeepsSecrets(t, "seeded-")
}

// checkDocumented runs one command. JSON is looked at by TestDocumentedJSON, since its values are those of an example.
func checkDocumented(t *testing.T, page string, one [2]string, sh func(string) string) {
	t.Helper()
	command, want := one[0], one[1]
	if strings.Contains(command, "doctor") {
		command += " || [ $? = 1 ]" // the page shows a check that fails
	}
	got := sh(command)
	switch {
	case strings.Contains(command, "whsec_"):
		random, found := strings.CutPrefix(strings.TrimSpace(got), "whsec_")
		if raw, err := base64.StdEncoding.DecodeString(random); !found || err != nil || len(raw) != 32 {
			t.Errorf("%s: %s writes no secret", page, command)
		}
	case strings.HasPrefix(want, "{"):
		if !json.Valid([]byte(got)) {
			t.Errorf("%s: %s writes\n%s", page, command, got)
		}
	case want != "" && got != want:
		t.Errorf("%s: %s\nwrites\n%s\nand the page shows\n%s", page, command, got, want)
	}
}
