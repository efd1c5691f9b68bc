//go:build integration

package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyoauth/caddyoauth/test/lab"
)

// console runs `caddy oauth2-inject` beside a running Caddy.
type console struct {
	*lab.Caddy
	t       *testing.T
	secrets []string // none of which any command may write
}

// run runs a subcommand, wants that exit code, and returns what was written to standard output.
func (c *console) run(want int, args ...string) string {
	c.t.Helper()
	out, notes, code := c.Command(c.t, append([]string{"oauth2-inject", "--config", c.Config()}, args...)...)
	for _, secret := range c.secrets {
		if strings.Contains(out+notes, secret) {
			c.t.Fatalf("%v writes a secret", args)
		}
	}
	if code != want {
		c.t.Fatalf("%v: exit code %d, want %d\n%s%s", args, code, want, out, notes)
	}
	return out
}

// wants runs a subcommand that has to end well, and looks for texts in what it writes.
func (c *console) wants(args []string, texts ...string) string {
	c.t.Helper()
	out := c.run(0, args...)
	for _, text := range texts {
		if !strings.Contains(out, text) {
			c.t.Errorf("%v does not say %q:\n%s", args, text, out)
		}
	}
	return out
}

// TestCommands goes through the subcommands with a connection of a machine and one of people, both at a real authorization server.
func TestCommands(t *testing.T) {
	t.Parallel()
	address := freeAddress(t)
	op := lab.StartOP(t, lab.Options{AccessTokenTTL: time.Minute, RedirectURIs: []string{"http://" + address + "/connect/callback"}})
	api, dir := startUpstream(t), t.TempDir()
	config := "\toauth2_inject {\n\t\tstored_connections\n\t\trekey_pause 1s\n" +
		connection("machine", "token_endpoint "+op.TokenEndpoint(), "client_id "+lab.ClientBasic, "client_secret "+lab.Secret, "scopes api:read") +
		connection("drive", "authorization_endpoint "+op.Issuer()+"/auth", "token_endpoint "+op.TokenEndpoint(), "issuer "+op.Issuer(),
			"client_id "+lab.ClientWeb, "client_secret "+lab.Secret, "scopes openid offline_access api:read",
			"auth_param prompt consent", "subject {http.request.header.X-User}") + "\t}"
	site := fmt.Sprintf("http://%s {\n\toauth2_connect {\n\t\tidentity {http.request.header.X-User}\n\t\tredirect_base http://%s\n\t}\n\toauth2_inject machine {\n\t\treverse_proxy %s\n\t}\n}\n",
		address, address, api.address())
	c := &console{Caddy: start(t, dir, config, site), t: t, secrets: []string{lab.Secret}}

	c.wants([]string{"list"}, "machine", "drive", "config")
	c.wants([]string{"refresh", "machine"}, "active", "forced by")
	if _, err := c.Get("http://" + address + "/"); err != nil {
		t.Fatal(err)
	}
	c.secrets = append(c.secrets, api.distinct()...)
	c.wants([]string{"refresh", "machine"}, "active")
	var history []struct{ Version uint64 }
	if err := json.Unmarshal([]byte(c.wants([]string{"history", "machine", "--json"}, "forced")), &history); err != nil || len(history) < 2 {
		t.Errorf("history: %v, %v", history, err)
	}
	c.wants([]string{"show", "machine"}, "Expires", "api:read")

	c.run(3, "show", "nobody")
	c.run(2, "show", "drive", "--nonsense=1")
	c.run(2, "revoke", "machine") // nobody is there to say yes
	c.run(4, "refresh", "drive")  // whose?
	c.run(2, "rollback", "machine", "first")
	c.run(4, "rollback", "machine", "1") // not one of people
	if _, _, code := c.Command(t, "oauth2-inject", "list", "--address", freeAddress(t)); code != 6 {
		t.Errorf("with nobody at the address: exit code %d", code)
	}
	connectFromTerminal(c, address)
	keysFromTerminal(c)
	c.wants([]string{"rekey", "--wait", "30s"}, "seals")
	c.wants([]string{"revoke", "drive", "--subject", "jane", "--yes"}, "Ended")
	examine(c, op, address)
	c.Stop(t)
	c.KeepsSecrets(t, c.secrets...)
}

// connectFromTerminal gives the link to a person, who connects while the command waits.
func connectFromTerminal(c *console, address string) {
	c.t.Helper()
	c.run(5, "connect", "drive", "--subject", "jane", "--wait", "1s")
	link := strings.TrimSpace(c.run(0, "connect", "drive", "--subject", "jane", "--wait", "0"))
	jane := newPerson(c.t, "jane", address)
	if status, body, _ := jane.connect(link); status != 200 {
		c.t.Fatalf("%s: status %d, %.300s", link, status, body)
	}
	c.wants([]string{"show", "drive", "--subject", "jane"}, "active", "authorized")
	c.wants([]string{"show", "drive"}, "SUBJECT", "jane")
	c.wants([]string{"refresh", "drive", "-s", "jane"}, "active")
	c.wants([]string{"rollback", "drive", "1", "-s", "jane"}, "rolled_back")
	c.wants([]string{"history", "drive", "-s", "jane"}, "authorized", "forced", "rolled_back", "*")
}

// keysFromTerminal makes and revokes an API key.
func keysFromTerminal(c *console) {
	c.t.Helper()
	key := strings.TrimSpace(c.run(0, "apikey", "create", "ci", "--role", "viewer", "--expires-in", "1h"))
	if len(key) < 32 || strings.ContainsAny(key, " \n") {
		c.t.Fatal("the key is not the only thing on standard output")
	}
	c.secrets = append(c.secrets, key)
	c.wants([]string{"apikey", "list"}, "ci", "viewer", "in 59m")
	c.wants([]string{"apikey", "revoke", "ci"}, "Revoked")
	c.run(3, "apikey", "revoke", "ci")
}

// examine has doctor look at a configuration that works, and at some that do not.
func examine(c *console, op *lab.OP, address string) {
	c.t.Helper()
	c.wants([]string{"doctor"}, "configuration", "storage", "keys", "machine: client authentication", "drive: redirect URI", "was not refused")
	text, err := os.ReadFile(c.Config())
	if err != nil {
		c.t.Fatal(err)
	}
	for fault, change := range map[string][2]string{
		"machine: client authentication": {"client_secret " + lab.Secret, "client_secret wrong"},
		"machine: token endpoint":        {"token_endpoint " + op.TokenEndpoint(), "token_endpoint http://" + freeAddress(c.t) + "/token"},
		"drive: redirect URI":            {"redirect_base http://" + address, "redirect_base http://127.0.0.1:1"},
		"configuration":                  {"scopes openid", "scope openid"},
	} {
		broken := strings.ReplaceAll(string(text), change[0], change[1])
		if broken == string(text) {
			c.t.Fatalf("%s: nothing was broken", fault)
		}
		file := filepath.Join(c.t.TempDir(), "Caddyfile")
		if err := os.WriteFile(file, []byte(broken), 0o600); err != nil {
			c.t.Fatal(err)
		}
		out, notes, code := c.Command(c.t, "oauth2-inject", "doctor", "--config", file)
		if code != 1 || !strings.Contains(out, "failed   "+fault) || !strings.Contains(out, "→") {
			c.t.Errorf("%s: exit code %d\n%s%s", fault, code, out, notes)
		}
		if strings.Contains(out+notes, lab.Secret) {
			c.t.Error("doctor writes a secret")
		}
	}
}

// TestCommandLine: the words of a call, where it asks, and what a shell offers.
func TestCommandLine(t *testing.T) {
	t.Parallel()
	address, socket := freeAddress(t), filepath.Join(t.TempDir(), "admin")
	op := lab.StartOP(t, lab.Options{AccessTokenTTL: time.Minute})
	config := "\toauth2_inject {\n\t\tstored_connections\n" +
		connection("machine", "token_endpoint "+op.TokenEndpoint(), "client_id "+lab.ClientBasic, "client_secret "+lab.Secret) +
		connection("日本語", "token_endpoint "+op.TokenEndpoint(), "client_id "+lab.ClientBasic, "client_secret seeded-wrong") +
		connection("drive", "issuer "+op.Issuer(), "client_id "+lab.ClientWeb, "client_secret "+lab.Secret, "subject {http.request.header.X-User}") + "\t}"
	site := fmt.Sprintf("http://%s {\n\thandle /oauth2/* {\n\t\toauth2_api\n\t}\n}\n", address)
	c := &console{Caddy: start(t, t.TempDir(), config, site), t: t, secrets: []string{lab.Secret, "seeded-"}}

	for code, calls := range map[int][]string{
		0: {"", "list --help", "refresh machine", "refresh machine"},
		2: {
			"nonsense", "apikey nonsense", "list more", "show", "rollback machine", "connect drive -s x --wait -1s", "rekey --wait soon",
			"apikey create x --expires-in -1h", "apikey create x --expires-in 0", "list --address http://" + address, "list --api http://ops.example.com",
			"show drive --nonsense", "doctor a b", "doctor --site app.example.com",
		},
		3: {"show nobody"},
		4: {"refresh 日本語", "test machine", "connect machine", "apikey create x --role king"},
		5: {"refresh drive -s nobody"},
		6: {"list --address " + freeAddress(t), "list --address unix/" + socket},
	} {
		for _, call := range calls {
			out, notes, got := c.Command(t, append([]string{"oauth2-inject", "--config", c.Config()}, strings.Fields(call)...)...)
			if got != code {
				t.Errorf("%q: exit code %d, want %d\n%.300s%.300s", call, got, code, out, notes)
			}
		}
	}
	if _, notes, _ := c.Command(t, "oauth2-inject", "shwo"); !strings.Contains(notes, "did you mean show?") {
		t.Errorf("no suggestion in %s", notes)
	}
	if keys := c.run(0, "apikey", "list", "--json"); strings.TrimSpace(keys) != "[]" {
		t.Errorf("a wrong call has made a key: %s", keys)
	}
	throughSite(c, address)
	throughSocket(c, config, site, socket)
}

// throughSite uses the API on the site, with a key that may do little.
func throughSite(c *console, address string) {
	c.t.Helper()
	key := strings.TrimSpace(c.run(0, "apikey", "create", "viewer"))
	c.secrets = append(c.secrets, key)
	c.t.Cleanup(c.With("OAUTH2_INJECT_API_KEY=" + key))
	site := []string{"--api", "http://" + address + "/oauth2"}
	c.wants(append([]string{"list"}, site...), "machine", "connected")
	c.wants(append([]string{"list", "--json"}, site...), `"name": "machine"`)
	c.wants(append([]string{"show", "machine"}, site...), "active")
	c.run(4, append([]string{"refresh", "machine"}, site...)...) // a viewer may not
	c.run(1, "list", "--api", "http://"+address+"/elsewhere")
	c.wants([]string{"apikey", "revoke", "viewer"}, "Revoked")
	lab.Eventually(c.t, "a revoked key opens nothing", func() error {
		if _, _, code := c.Command(c.t, append([]string{"oauth2-inject", "list"}, site...)...); code != 4 {
			return fmt.Errorf("exit code %d", code)
		}
		return nil
	})
}

// throughSocket has the shell complete words, from an admin endpoint on a Unix socket.
func throughSocket(c *console, config, site, socket string) {
	c.t.Helper()
	c.Reload(c.t, "admin unix/"+socket+"\n"+config, site)
	at := []string{"--address", "unix/" + socket}
	c.wants(append([]string{"list"}, at...), "machine", "日本語")
	c.wants(append([]string{"apikey", "create", "ci"}, at...))
	for line, want := range map[string]string{
		"show ": "drive machine 日本語", "show ma": "machine", "refresh 日": "日本語", "rollback machine ": "1", "rollback machine 1 ": "", "list ": "",
		"show drive --subject ": "", "apikey revoke ": "ci", "apikey create x --role ": "admin operator viewer", "apikey ": "create list revoke", "doc": "doctor",
	} {
		words := strings.Split(line, " ")
		out, _, _ := c.Command(c.t, slices.Concat([]string{"__complete", "oauth2-inject"}, at, words)...)
		var offered []string
		for text := range strings.Lines(out) {
			if word, _, _ := strings.Cut(strings.TrimSpace(text), "\t"); !strings.HasPrefix(word, ":") {
				offered = append(offered, word)
			}
		}
		slices.Sort(offered)
		if got := strings.Join(offered, " "); got != want {
			c.t.Errorf("%q offers %q, want %q", line, got, want)
		}
		if !strings.HasSuffix(strings.TrimSpace(out), ":4") { // no files: none of our words is one
			c.t.Errorf("%q has the shell offer files", line)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if out, _, code := c.Command(c.t, "completion", shell); code != 0 || !strings.Contains(out, "__complete") {
			c.t.Errorf("completion %s: exit code %d", shell, code)
		}
	}
}
