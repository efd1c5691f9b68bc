//go:build integration

package integration

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyoauth/caddyoauth/test/lab"
)

// ailment is something that is wrong with a configuration or its surroundings, and what doctor has to say of it.
type ailment struct {
	options []string // of the connection `sick`
	global  []string // lines of the option oauth2_inject
	storage string   // folder; default: a new one
	site    string
	says    string // begins the line of the finding
	because string // is in that line
	fix     string // is in the line after it
}

// lateServer is a token endpoint whose clock is off.
func lateServer(t *testing.T, by time.Duration) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", time.Now().Add(by).UTC().Format(http.TimeFormat))
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"access_token":"seeded-late","token_type":"Bearer","expires_in":60}`)
	}))
	t.Cleanup(server.Close)
	return server.URL + "/token"
}

// sealedStorage returns a storage in which a token is sealed, with those lines of the option oauth2_inject.
func sealedStorage(t *testing.T, op *lab.OP, lines ...string) string {
	t.Helper()
	storage := t.TempDir()
	c := start(t, t.TempDir(), "\tstorage file_system "+storage+"\n"+
		global(append(lines, connection("machine", "token_endpoint "+op.TokenEndpoint(), "client_id "+lab.ClientBasic, "client_secret "+lab.Secret))...), "")
	if _, _, code := c.Command(t, "oauth2-inject", "refresh", "machine", "--config", c.Config()); code != 0 {
		t.Fatalf("refresh: exit code %d", code)
	}
	c.Stop(t)
	return storage
}

// placed puts a file into a new folder, which it returns.
func placed(t *testing.T, name, text string) string {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestDoctor has doctor look at one ailment at a time: it names that one, says what to do, ends with 1, and tells no secret.
func TestDoctor(t *testing.T) {
	t.Parallel()
	registered := "http://" + freeAddress(t)
	op := lab.StartOP(t, lab.Options{AccessTokenTTL: time.Minute, RedirectURIs: []string{registered + "/connect/callback"}})
	secret := "client_secret " + lab.Secret
	basic := []string{"token_endpoint " + op.TokenEndpoint(), "client_id " + lab.ClientBasic, secret}
	person := []string{"issuer " + op.Issuer(), "client_id " + lab.ClientWeb, secret, "scopes openid offline_access api:read", "subject {http.request.header.X-User}"}
	site := func(base string) string {
		return "http://" + freeAddress(t) + " {\n\toauth2_connect {\n\t\tidentity {http.request.header.X-User}\n\t\tredirect_base " + base + "\n\t}\n}\n"
	}
	oldCert, oldKey := op.Cert(lab.CertExpired)
	held := time.Now().Add(time.Hour).Format(time.RFC3339)
	all := map[string]ailment{
		"DNS": {
			options: []string{"token_endpoint https://nowhere.invalid/token", "client_id x", secret}, // RFC 6761 section 6.4
			says:    "sick: token endpoint", because: "does not resolve", fix: "check its address",
		},
		"TLS": {
			options: []string{"token_endpoint " + op.MTLSTokenEndpoint(), "client_id " + lab.ClientBasic, secret},
			says:    "sick: token endpoint", because: "unknown authority", fix: "`tls { ca }`",
		},
		"nobody there": {
			options: []string{"token_endpoint http://" + freeAddress(t) + "/token", "client_id x", secret},
			says:    "sick: token endpoint", because: "cannot be reached", fix: "check its address",
		},
		"another issuer": {
			options: []string{"issuer " + strings.Replace(op.Issuer(), "127.0.0.1", "localhost", 1), "client_id " + lab.ClientBasic, secret},
			says:    "sick: discovery", because: "names another issuer", fix: "check the issuer",
		},
		"no metadata": {
			options: []string{"issuer " + strings.TrimSuffix(lateServer(t, 0), "/token"), "client_id " + lab.ClientBasic, secret},
			says:    "sick: discovery", because: "metadata", fix: "check",
		},
		"wrong secret": {
			options: []string{"token_endpoint " + op.TokenEndpoint(), "client_id " + lab.ClientBasic, "client_secret seeded-wrong"},
			says:    "sick: client authentication", because: "check client_id, the secret", fix: "correct that in the connection",
		},
		"redirect URI": {
			options: person, site: site("http://127.0.0.1:1"),
			says: "sick: redirect URI", because: "http://127.0.0.1:1/connect/callback", fix: "register exactly this redirect URI",
		},
		"clock": {
			options: []string{"token_endpoint " + lateServer(t, 10*time.Minute), "client_id x", secret},
			says:    "sick: clock", because: "apart", fix: "NTP",
		},
		"client certificate": {
			options: []string{"token_endpoint " + op.MTLSTokenEndpoint(), "client_id " + lab.ClientTLS, "client_certificate " + oldCert + " " + oldKey, "tls {\nca " + op.CAFile() + "\n}"},
			says:    "sick: client certificate", because: "expired at", fix: "renew",
		},
		"storage is a file": {
			options: basic, storage: filepath.Join(placed(t, "file", "x"), "file"),
			says: "storage", because: "cannot be read", fix: "check the storage's own configuration",
		},
		"locks cannot be written": {
			options: basic, storage: placed(t, "locks", "x"),
			says: "lock", because: "cannot be had", fix: "check that the storage can be written",
		},
		"a lock that somebody holds": {
			options: basic, storage: placed(t, "locks/oauth2_inject-doctor.lock", fmt.Sprintf(`{"created":%q,"updated":%q}`, held, held)),
			says: "lock", because: "has held it for 15s", fix: "remove the lock oauth2_inject-doctor",
		},
		"another key": {
			options: basic, storage: sealedStorage(t, op, "\t\tencryption passphrase seeded-of-before\n"), global: []string{"\t\tencryption passphrase seeded-of-today\n"},
			says: "keys", because: "sealed with another key", fix: "further `encryption` line",
		},
		"no key any more": {
			options: basic, storage: sealedStorage(t, op), // its generated key lies in the data directory of another Caddy
			says: "keys", because: "is missing", fix: "backup",
		},
	}
	if os.Geteuid() == 0 { // nobody else can give files away
		foreign := placed(t, "oauth2_inject/x", "x")
		if err := os.Chown(filepath.Join(foreign, "oauth2_inject"), 65534, 65534); err != nil {
			t.Fatal(err)
		}
		all["a folder of another user"] = ailment{
			options: basic, storage: foreign, says: "storage", because: "belongs to another user", fix: "give it",
		}
	}
	healthy := start(t, t.TempDir(), global("\t\tencryption passphrase seeded-of-today\n", connection("well", basic...)), "")
	for name, sick := range all {
		t.Run(name, func(t *testing.T) { t.Parallel(); sick.examine(t, healthy) })
	}
	t.Run("nothing", func(t *testing.T) {
		t.Parallel()
		well := ailment{options: person, site: site(registered), says: "sick: redirect URI", because: "was not refused"}
		well.examine(t, healthy)
	})
}

// examine writes the configuration and has doctor look at it. c lends its surroundings.
func (a ailment) examine(t *testing.T, c *lab.Caddy) {
	storage := a.storage
	if storage == "" {
		storage = t.TempDir()
	}
	file := filepath.Join(t.TempDir(), "Caddyfile")
	text := "{\n\tadmin off\n\tauto_https off\n\tstorage file_system " + storage + "\n" + global(append(a.global, connection("sick", a.options...))...) + "\n}\n" + a.site
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out, notes, code := c.Command(t, "oauth2-inject", "doctor", "--config", file)
	for _, secret := range []string{lab.Secret, "seeded-"} {
		if strings.Contains(out+notes, secret) {
			t.Fatal("doctor writes a secret")
		}
	}
	result, want := "failed   ", 1
	if a.fix == "" && a.because == "was not refused" {
		result, want = "ok       ", 0
	}
	_, rest, found := strings.Cut(out, result+a.says+": ")
	line, rest, _ := strings.Cut(rest, "\n")
	next, _, _ := strings.Cut(rest, "\n")
	if code != want || !found || !strings.Contains(line, a.because) || !strings.Contains(next, a.fix) || want == 1 && !strings.Contains(next, "→ ") {
		t.Errorf("exit code %d\n%s%s", code, out, notes)
	}
	if failed := strings.Count(out, "failed   "); failed != want {
		t.Errorf("%d findings failed:\n%s", failed, out)
	}
}
