//go:build integration

package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"reflect"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyoauth/caddyoauth/test/lab"
)

// ask sends a request to the REST API on the admin endpoint, and returns what it answers.
func ask(t *testing.T, c *lab.Caddy, method, path string, body any, headers ...string) (status int, data map[string]any) {
	t.Helper()
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			t.Fatal(err)
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), method, c.AdminURL("/oauth2_inject/v1"+path), bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	for _, line := range headers {
		name, value, _ := strings.Cut(line, ": ")
		req.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var out struct{ Data map[string]any }
	if err := json.Unmarshal(answer, &out); err != nil {
		t.Fatalf("%s: %v", answer, err)
	}
	if resp.StatusCode >= 400 {
		t.Logf("%s %s: %s", method, path, answer)
	}
	return resp.StatusCode, out.Data
}

// TestTwoInstancesOneAPI: what is made at one instance is in use at the other within seconds, without a reload, with one token for both;
// and it is still there after both were killed. The server asks for a client certificate, which is kept as a secret too.
func TestTwoInstancesOneAPI(t *testing.T) {
	t.Parallel()
	op, api, dir := lab.StartOP(t, lab.Options{AccessTokenTTL: time.Hour}), startUpstream(t), t.TempDir()
	here, there := freeAddress(t), freeAddress(t)
	options := "\t\tstored_connections {\n\t\t\tendpoints 127.0.0.1 localhost\n\t\t}\n"
	one, other := start(t, dir, global(options), site(here, "billing", api.address())), start(t, dir, global(options), site(there, "billing", api.address()))
	read := func(file string) string {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	chain, key := op.Cert(lab.CertTLS)
	post := func(path string, body map[string]any) string {
		status, data := ask(t, one, http.MethodPost, path, body)
		if status != http.StatusCreated {
			t.Fatalf("%s: %d", path, status)
		}
		return data["id"].(string)
	}
	certificate := post("/secrets", map[string]any{"secret_type": "certificate", "name": "mtls", "certificate": read(chain), "private_key": read(key)})
	authority := post("/secrets", map[string]any{"secret_type": "certificate", "name": "ca", "certificate": read(op.CAFile())})
	status, made := ask(t, one, http.MethodPost, "/secrets/oauth2", map[string]any{
		"name": "billing", "provider": "custom", "grant_type": "client_credentials", "client_id": lab.ClientTLS, "token_url": op.MTLSTokenEndpoint(),
		"mtls_certificate_id": certificate, "ca_certificate_id": authority, "scopes": []string{"api:read"},
	})
	if status != http.StatusCreated || made["connection_status"] != "connected" {
		t.Fatalf("%d %v", status, made)
	}
	began := time.Now()
	eventually(t, "the other instance has it", func() error {
		_, err := other.Get("http://" + there + "/")
		return err
	})
	if took := time.Since(began); took > 6*time.Second {
		t.Errorf("the other instance had it after %s", took)
	}
	if _, err := one.Get("http://" + here + "/"); err != nil {
		t.Error(err)
	}
	if n := op.Stats(t).TokenRequests(); n != 1 {
		t.Errorf("the server was asked %d times", n)
	}
	taken := map[string]any{"name": "billing", "provider": "custom", "grant_type": "client_credentials", "client_id": "x", "client_secret": "y", "token_url": op.TokenEndpoint()}
	if status, _ := ask(t, other, http.MethodPost, "/secrets/oauth2", taken); status != http.StatusConflict {
		t.Errorf("the name is taken, and the other instance answers %d", status)
	}
	one.Kill()
	other.Kill()
	again := start(t, dir, global(options), site(here, "billing", api.address()))
	if _, err := again.Get("http://" + here + "/"); err != nil {
		t.Errorf("after a crash: %v", err)
	}
	if status, _ := ask(t, again, http.MethodDelete, "/secrets/"+made["id"].(string), nil, "If-Match: *"); status != http.StatusOK {
		t.Errorf("delete: %d", status)
	}
	if _, err := again.Get("http://" + here + "/"); err == nil {
		t.Error("what was removed is still in use")
	}
	again.Stop(t)
	again.KeepsSecrets(t, append(api.distinct(), strings.Split(read(key), "\n")[1])...)
}

var (
	runBlock    = regexp.MustCompile("(?s)<!-- run -->\n```sh\n(.*?)```")
	answerBlock = regexp.MustCompile("(?s)^\\s*<!-- answer -->\n```json\n(.*?)```")
)

// TestDocumentedCurl runs the curl commands of docs/api.md, in order, and compares what they answer with what the page shows.
func TestDocumentedCurl(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	var issued atomic.Int64
	idp := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"access_token":"documented-token-%d","token_type":"Bearer","expires_in":3600}`, issued.Add(1))
	}))
	t.Cleanup(idp.Close)
	address, dir := freeAddress(t), t.TempDir()
	c := start(t, dir, global("\t\tstored_connections {\n\t\t\tendpoints 127.0.0.1 *.google.com *.googleapis.com\n\t\t}\n"), "http://"+address+" {\n\toauth2_api /oauth2\n}\n")
	page := strings.NewReplacer("https://idp.example.com", idp.URL, "localhost:2019", strings.TrimSuffix(strings.TrimPrefix(c.AdminURL("/"), "http://"), "/")).Replace(string(raw))
	first := regexp.MustCompile("(?s)```sh\n(curl [^\n]*api-keys.*?)```").FindStringSubmatch(page)
	if first == nil {
		t.Fatal("the page does not say how to make the first key")
	}
	var made struct{ Data struct{ Key string } }
	if err := json.Unmarshal(shell(t, nil, first[1]), &made); err != nil || made.Data.Key == "" {
		t.Fatalf("no key: %v", err)
	}
	blocks := runBlock.FindAllStringSubmatchIndex(page, -1)
	if len(blocks) < 6 {
		t.Fatalf("the page has %d commands", len(blocks))
	}
	for _, at := range blocks {
		command := page[at[2]:at[3]]
		got := shell(t, []string{"API=http://" + address + "/oauth2", "KEY=" + made.Data.Key}, command)
		shown := answerBlock.FindStringSubmatch(page[at[1]:])
		if shown == nil {
			t.Errorf("%s\nhas no answer on the page", command)
			continue
		}
		var want, is any
		if err := errors.Join(json.Unmarshal([]byte(shown[1]), &want), json.Unmarshal(got, &is)); err != nil {
			t.Fatalf("%s\n%s\n%v", command, got, err)
		}
		if where := differs(want, is, "answer"); where != "" {
			t.Errorf("%s\nanswers\n%s\n%s is another on the page", command, got, where)
		}
	}
	c.Stop(t)
	c.KeepsSecrets(t, made.Data.Key[12:], "correct horse battery staple", "documented-token")
}

// shell runs a command of the page.
func shell(t *testing.T, env []string, command string) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", command)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", command, err)
	}
	return out
}

// differs returns where an answer is not what the page shows. What the page leaves out may be anything, and so may what it shows as …
func differs(want, is any, where string) string {
	switch want := want.(type) {
	case map[string]any:
		members, ok := is.(map[string]any)
		if !ok {
			return where
		}
		for name, value := range want {
			if at := differs(value, members[name], where+"."+name); at != "" {
				return at
			}
		}
		return ""
	case []any:
		items, ok := is.([]any)
		if !ok || len(items) != len(want) && where != "answer.data" {
			return where
		}
		for i, value := range want {
			if i >= len(items) {
				return where
			}
			if at := differs(value, items[i], fmt.Sprint(where, "[", i, "]")); at != "" {
				return at
			}
		}
		return ""
	case string:
		if text, ok := is.(string); ok && strings.Contains(want, "…") {
			return map[bool]string{true: where}[text == ""]
		}
	}
	if !reflect.DeepEqual(want, is) {
		return where
	}
	return ""
}
