package kms_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// localKey is a key-encryption key that is no service's.
var localKey = strings.Repeat("0a", 32)

// running is a Caddy in this process, of which there can be one.
type running struct {
	t             *testing.T
	dir           string
	site, admin   string
	api, provider *httptest.Server
	tokens        atomic.Int64
	log           string
}

func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

func newRunning(t *testing.T) *running {
	t.Helper()
	r := &running{t: t, dir: t.TempDir(), site: freeAddress(t), admin: freeAddress(t)}
	r.log = filepath.Join(r.dir, "log")
	r.api = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		fmt.Fprint(w, strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer seeded-"))
	}))
	r.provider = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"access_token":"seeded-token-%d","token_type":"Bearer","expires_in":3600}`, r.tokens.Add(1))
	}))
	t.Cleanup(func() {
		r.stop()
		r.api.Close()
		r.provider.Close()
		r.scan()
	})
	return r
}

// load loads a configuration with those `encryption` lines.
func (r *running) load(encryption ...string) {
	r.t.Helper()
	config, err := adapt(fmt.Sprintf(`{
		admin %s
		persist_config off
		auto_https off
		storage file_system %s
		log {
			output file %s
			level DEBUG
		}
		oauth2_inject {
			%s
			rekey_pause 1s
			connection api {
				token_endpoint %s
				client_id caddy
			}
		}
	}
	http://%s {
		handle /else {
			respond "works"
		}
		handle {
			oauth2_inject api {
				reverse_proxy %s
			}
		}
	}`, r.admin, filepath.Join(r.dir, "storage"), r.log, strings.Join(encryption, "\n"), r.provider.URL, r.site, r.api.URL))
	if err != nil {
		r.t.Fatal(err)
	}
	if err := caddy.Load(config, true); err != nil {
		r.t.Fatal(err)
	}
}

func (r *running) stop() {
	if err := caddy.Stop(); err != nil {
		r.t.Error(err)
	}
}

func (r *running) get(url string) (status int, body string) {
	r.t.Helper()
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(url)
	for i := 0; i < 3 && err != nil; i++ { // a connection that the server before has taken at its end
		resp, err = client.Get(url)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, string(raw)
}

func (r *running) want(when string, status int, body string) {
	r.t.Helper()
	if code, got := r.get("http://" + r.site + "/"); code != status || body != "" && got != body {
		r.t.Errorf("%s: got %d %q, want %d %q", when, code, got, status, body)
	}
}

// keys is what is read here of the state of the keys.
type keys struct {
	Open           bool
	Error          string
	EncryptionKeys []struct {
		ID               string
		Wraps, Removable bool
	} `json:"encryption_keys"`
	DataKeys []struct{ State string } `json:"data_keys"`
	Rekey    *struct{ Phase string }
}

func (r *running) keys() (status keys) {
	r.t.Helper()
	code, body := r.get("http://" + r.admin + "/oauth2_inject/keys")
	if err := json.Unmarshal([]byte(body), &status); err != nil || code != http.StatusOK {
		r.t.Fatalf("%d %s", code, body)
	}
	return status
}

// soon waits until it is so.
func (r *running) soon(what string, so func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(40 * time.Second); !so(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("it does not come to this: %s; %+v", what, r.keys())
		}
	}
}

// scan looks for secrets in what was logged and stored.
func (r *running) scan() {
	r.t.Helper()
	err := filepath.WalkDir(r.dir, func(file string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		raw, err := os.ReadFile(file)
		if bytes.Contains(raw, []byte("seeded-")) || bytes.Contains(raw, []byte(localKey)) {
			r.t.Errorf("a secret stands in %s", filepath.Base(file))
		}
		return err
	})
	if err != nil {
		r.t.Error(err)
	}
}

// oneCaddy keeps the tests that run a Caddy from running two.
var oneCaddy sync.Mutex

// TestCaddy moves a Caddy from a key of its own to each service, and takes the service away: while it runs, in a reload, in a
// start.
func TestCaddy(t *testing.T) {
	t.Parallel()
	for _, s := range services(t) {
		t.Run(s.name, func(t *testing.T) {
			oneCaddy.Lock()
			defer oneCaddy.Unlock()
			local := "encryption key " + localKey
			remote := fmt.Sprintf("encryption %s %s {\n%s %s\n}", s.name, s.key, s.endpoint, s.address())
			r := newRunning(t)
			r.load(local)
			r.want("with a local key", 200, "token-1")
			r.load(remote, local)
			r.want("with the service first", 200, "token-1")
			r.soon("the local key can go", func() bool {
				status := r.keys()
				return status.EncryptionKeys[0].Wraps && status.EncryptionKeys[1].Removable
			})
			r.load(remote)
			r.want("with the service alone", 200, "token-1")
			r.stop()
			r.load(remote)
			r.want("after a restart", 200, "token-1")
			r.rekey()

			s.gate.SetDown(true)
			r.want("down while running", 200, "token-1")
			r.load(remote)
			r.want("down in a reload", 200, "token-1")
			r.load(remote + "\n" + local)
			r.want("down in a reload with other keys", 200, "token-1")
			r.soon("that is said", func() bool { return r.keys().Error == "unconfirmed" })
			r.stop()
			r.load(remote)
			r.want("down in a start", 503, "")
			if code, body := r.get("http://" + r.site + "/else"); code != 200 || body != "works" {
				t.Errorf("the rest of the site: %d %q", code, body)
			}
			if status := r.keys(); status.Open || status.Error != "unreachable" || status.EncryptionKeys[0].ID == "" {
				t.Errorf("%+v", status)
			}
			s.gate.SetDown(false)
			r.soon("the keys open by themselves", func() bool { return r.keys().Open })
			r.soon("requests work again", func() bool {
				code, _ := r.get("http://" + r.site + "/")
				return code == 200
			})
			r.want("up again", 200, "token-1")
			r.stop()
			r.load(local)
			r.want("with a key that does not open it", 503, "")
			if status := r.keys(); status.Error != "wrong_key" {
				t.Errorf("%+v", status)
			}
			if n := r.tokens.Load(); n != 1 {
				t.Errorf("%d tokens were requested", n)
			}
		})
	}
}

// rekey replaces the data key, with the service wrapping each new keyset.
func (r *running) rekey() {
	r.t.Helper()
	client := &http.Client{Timeout: 20 * time.Second}
	resp, err := client.Post("http://"+r.admin+"/oauth2_inject/rekey", "", nil)
	if err != nil {
		r.t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		r.t.Fatalf("rekey: %s", resp.Status)
	}
	r.soon("the data key is replaced", func() bool { return r.keys().Rekey == nil })
	r.want("with another data key", 200, "token-1")
}
