package caddyoauth

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/connection"
)

// send asks the admin endpoint with a body.
func (c *liveCaddy) send(method, path, body string, headers ...string) adminAnswer {
	c.t.Helper()
	req, err := http.NewRequestWithContext(c.t.Context(), method, "http://localhost"+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	for _, line := range headers {
		name, value, _ := strings.Cut(line, ": ")
		req.Header.Set(name, value)
	}
	resp, err := c.admin.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return adminAnswer{resp.StatusCode, resp.Header, string(text)}
}

// is fails the test unless the status is that one.
func (a adminAnswer) is(t *testing.T, status int) adminAnswer {
	t.Helper()
	if a.status != status {
		t.Fatalf("got %d %s, want %d", a.status, a.body, status)
	}
	return a
}

// id returns the ID of what was made.
func (a adminAnswer) id(t *testing.T) string {
	t.Helper()
	var body struct{ Data struct{ ID string } }
	if err := json.Unmarshal([]byte(a.body), &body); err != nil || body.Data.ID == "" {
		t.Fatalf("%s: %v", a.body, err)
	}
	return body.Data.ID
}

// storedConfig has a site whose connection is made later, instead of the one of the configuration.
func (c *liveCaddy) storedConfig(name string) string {
	config := c.config("", "client_secret seeded-secret")
	config = strings.Replace(config, "oauth2_inject api {\n\t\treverse_proxy", "oauth2_inject "+name+" {\n\t\treverse_proxy", 1)
	return strings.Replace(config, "\t\tconnection api {", "\t\tstored_connections {\n endpoints 127.0.0.1\n poll_interval 100ms\n}\n\t\tconnection api {", 1)
}

func (c *liveCaddy) body(name, more string) string {
	return `{"name":"` + name + `","provider":"custom","grant_type":"client_credentials","client_id":"caddy","client_secret":"seeded-stored","token_url":"` + c.idp.URL + `/token"` + more + `}`
}

const adminSecrets = "/oauth2_inject/v1/secrets"

// TestAdminEndpointServesTheAPI: the same API, and the paths of roles with no more than these.
func TestAdminEndpointServesTheAPI(t *testing.T) {
	c := newLiveCaddy(t)
	c.mustLoad(c.storedConfig("made"))
	c.want(c.get(), "403 Forbidden")
	made := c.send("POST", adminSecrets+"/oauth2", c.body("made", "")).is(t, http.StatusCreated)
	if !strings.Contains(made.body, `"connection_status":"connected"`) || made.header.Get("Location") != adminSecrets+"/"+made.id(t) {
		t.Errorf("got %s %v", made.body, made.header)
	}
	c.want(c.get(), "Bearer token-1")
	one := "/v1/secrets/" + made.id(t)
	for prefix, want := range map[string][3]int{"": {200, 200, 428}, "/operator": {200, 200, 403}, "/viewer": {200, 403, 403}} {
		prefix = "/oauth2_inject" + prefix
		c.send("GET", prefix+one, "").is(t, want[0])
		c.send("POST", prefix+one+"/refresh", "").is(t, want[1])
		c.send("DELETE", prefix+one, "").is(t, want[2])
	}
	acme := c.send("POST", adminSecrets+"/oauth2", c.body("made", `,"tenant":"acme"`)).is(t, http.StatusCreated)
	if !strings.Contains(acme.body, `"tenant":"acme"`) {
		t.Errorf("got %s", acme.body)
	}
	if list := c.send("GET", adminSecrets+"?tenant=acme", "").is(t, http.StatusOK); strings.Count(list.body, `"id"`) != 1 {
		t.Errorf("got %s", list.body)
	}
	if got := c.send("GET", "/oauth2_inject/v1/openapi.json", "").is(t, http.StatusOK); !strings.Contains(got.body, `"url":"/oauth2_inject"`) {
		t.Errorf("the document has another server: %.200s", got.body)
	}
	if got := c.send("GET", "/oauth2_inject/v1/health", "").is(t, http.StatusOK); !strings.Contains(got.body, `"name":"storage","ok":true,"detail":"ok"`) {
		t.Errorf("got %s", got.body)
	}
	if got := c.send("GET", "/oauth2_inject/v1/audit", "").is(t, http.StatusOK); !strings.Contains(got.body, `"caller":"admin endpoint"`) {
		t.Errorf("got %s", got.body)
	}
	if text := c.log() + made.body; strings.Contains(text, "seeded") {
		t.Error("a secret was shown")
	}
}

// TestAdminEndpointWithoutTheApp: there is no API where nothing is configured.
func TestAdminEndpointWithoutTheApp(t *testing.T) {
	c := newLiveCaddy(t)
	c.mustLoad("{\n\tadmin unix/" + filepath.Join(c.dir, "adminSOCKET") + "\n}\n")
	c.send("GET", adminSecrets, "").is(t, http.StatusNotFound)
}

// TestStoredConnectionsSurviveReloads: a reload costs no request, no token and no connection, and neither does one that fails.
func TestStoredConnectionsSurviveReloads(t *testing.T) {
	c := newLiveCaddy(t)
	config := c.storedConfig("made")
	c.mustLoad(config)
	c.send("POST", adminSecrets+"/oauth2", c.body("made", "")).is(t, http.StatusCreated)
	c.want(c.get(), "Bearer token-1")
	for range 3 {
		c.mustLoad(config)
		c.want(c.get(), "Bearer token-1") // at once: the new configuration knows what the process knew
	}
	for _, when := range []string{"provision", "start"} {
		if err := c.load(config, when); err == nil {
			t.Fatal("the load did not fail")
		}
		c.want(c.get(), "Bearer token-1")
	}
	c.wantAsked(1)
}

// TestStoredConnectionsAreThereAfterAStart: the first request of a process waits until it is known what there is.
func TestStoredConnectionsAreThereAfterAStart(t *testing.T) {
	c := newLiveCaddy(t)
	config := c.storedConfig("made")
	c.mustLoad(config)
	c.send("POST", adminSecrets+"/oauth2", c.body("made", "")).is(t, http.StatusCreated)
	c.want(c.get(), "Bearer token-1")
	c.mustLoad("{\n\tadmin unix/" + filepath.Join(c.dir, "adminSOCKET") + "\n}\n") // the engine goes, and with it what it knew
	if len(usedApps()) != 0 {
		t.Fatal("the engine is still there")
	}
	c.mustLoad(config)
	c.want(c.get(), "Bearer token-1")
	c.wantAsked(1)
}

// usedApps returns the apps of the running engine; nil when there is none.
func usedApps() []*App {
	if refs, _ := engines.References(engineKey); refs == 0 {
		return nil
	}
	e, _ := acquireEngine()
	defer func() { _ = releaseEngine() }()
	return e.apps
}

// TestConfiguredNamesWin: a stored connection of a configured name is not used, nobody acts on the other one by its ID, and that is said.
func TestConfiguredNamesWin(t *testing.T) {
	c := newLiveCaddy(t)
	config := c.storedConfig("api")
	c.mustLoad(config)
	c.want(c.get(), "Bearer token-1")
	made := c.send("POST", adminSecrets+"/oauth2", c.body("api", "")).is(t, http.StatusCreated)
	if !strings.Contains(made.body, `"connection_error":"shadowed_by_configuration"`) {
		t.Errorf("got %s", made.body)
	}
	c.want(c.get(), "Bearer token-1")
	const sentence = `connection \"api\" is stored as well as configured; the configured one is used`
	wantStatus(t, c, func(r StatusReport) bool { return len(r.Connections) == 1 && len(r.Warnings) == 1 })
	if !strings.Contains(c.log(), sentence) {
		t.Error("the log does not say so")
	}
	c.send("POST", adminSecrets+"/"+made.id(t)+"/refresh", "").is(t, http.StatusConflict)
	c.wantAsked(1)
	c.send("DELETE", adminSecrets+"/"+made.id(t), "", "If-Match: *").is(t, http.StatusOK)
	c.want(c.get(), "Bearer token-1")
	c.wantAsked(1)
	if _, err := c.app().store.Load(t.Context(), connection.ID{Connection: "api"}); err != nil {
		t.Errorf("the configured one's token is gone with it: %v", err)
	}
	configured := c.send("GET", adminSecrets+"?name=api", "").is(t, http.StatusOK)
	if !strings.Contains(configured.body, `"read_only":true`) {
		t.Errorf("got %s", configured.body)
	}
	var list struct{ Data []struct{ ID string } }
	if err := json.Unmarshal([]byte(configured.body), &list); err != nil || len(list.Data) != 1 {
		t.Fatal(configured.body)
	}
	c.send("PATCH", adminSecrets+"/"+list.Data[0].ID, `{"scopes":["x"]}`, "If-Match: *").is(t, http.StatusConflict)
	c.send("DELETE", adminSecrets+"/"+list.Data[0].ID, "", "If-Match: *").is(t, http.StatusConflict)
	c.send("POST", adminSecrets+"/"+list.Data[0].ID+"/refresh", "").is(t, http.StatusOK)
	c.want(c.get(), "Bearer token-2")
}

// TestOtherInstanceFollows: what another process stores is in use here within seconds, without a reload.
func TestOtherInstanceFollows(t *testing.T) {
	c := newLiveCaddy(t)
	c.mustLoad(c.storedConfig("made"))
	c.want(c.get(), "403 Forbidden")
	store, catalog := c.app().store, newCatalog() // of a process that shares the storage, and nothing else
	e := oauth2Entry("made")
	e.Options = newEntryOptions(map[string]json.RawMessage{
		"client_id": json.RawMessage(`"caddy"`), "client_secret": json.RawMessage(`"seeded-secret"`), "grant": json.RawMessage(`"client_credentials"`),
		"token_endpoint": json.RawMessage(`"` + c.idp.URL + `/token"`),
	})
	key := entryKey("", "secret", "made")
	if _, err := catalog.change(t.Context(), store, key, func(*entry) (*entry, error) { e.ID = newID(); return e, nil }); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	c.soon("the connection is in use", func() bool { return c.get() == "Bearer token-1" })
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("it took %s", took)
	}
	if _, err := catalog.change(t.Context(), store, key, func(*entry) (*entry, error) { return nil, nil }); err != nil {
		t.Fatal(err)
	}
	c.soon("the connection is gone", func() bool { return c.get() == "403 Forbidden" })
	c.soon("its source is gone", func() bool {
		e := c.app().engine
		e.mu.Lock()
		defer e.mu.Unlock()
		return len(e.sources) == 1
	})
}

// TestLastUseOfAKeyIsKept: another process, and this one after a restart, know when a key was used.
func TestLastUseOfAKeyIsKept(t *testing.T) {
	c := newLiveCaddy(t)
	config := c.storedConfig("made")
	c.mustLoad(config)
	const keys = "/oauth2_inject/v1/api-keys"
	made := c.send("POST", keys, `{"name":"ci","role":"viewer"}`).is(t, http.StatusCreated)
	var body struct{ Data struct{ ID, Key string } }
	if err := json.Unmarshal([]byte(made.body), &body); err != nil {
		t.Fatal(err)
	}
	if got := c.send("GET", keys, "").is(t, http.StatusOK); strings.Contains(got.body, "last_used") {
		t.Errorf("it was not used yet: %s", got.body)
	}
	if caller, err := (apiKeys{c.app()}).authenticate(t.Context(), body.Data.Key); err != nil || !strings.HasPrefix(caller.Name, "api-key ci (oi_") {
		t.Fatal(caller, err)
	}
	c.soon("the use is written down", func() bool {
		used, err := c.app().store.keyUse(t.Context(), body.Data.ID)
		return err == nil && time.Since(used) < time.Minute
	})
	c.mustLoad("{\n\tadmin unix/" + filepath.Join(c.dir, "adminSOCKET") + "\n}\n")
	c.mustLoad(config)
	if got := c.send("GET", keys, "").is(t, http.StatusOK); !strings.Contains(got.body, "last_used") || strings.Contains(got.body, body.Data.Key[12:]) {
		t.Errorf("got %s", got.body)
	}
	c.send("DELETE", keys+"/"+body.Data.ID, "").is(t, http.StatusOK)
	if used, err := c.app().store.keyUse(t.Context(), body.Data.ID); err != nil || !used.IsZero() {
		t.Errorf("something is left of it: %v, %v", used, err)
	}
	if strings.Contains(c.log(), body.Data.Key[12:]) {
		t.Error("the key was logged")
	}
}

// TestFirstRequestWaits: before storage was read once, a name that is not known is looked for there; if that fails, the answer is that
// trying again helps, not that there is no such connection.
func TestFirstRequestWaits(t *testing.T) {
	c := newLiveCaddy(t)
	c.mustLoad(c.storedConfig("made"))
	c.send("POST", adminSecrets+"/oauth2", c.body("made", "")).is(t, http.StatusCreated)
	fresh := *c.app()
	fresh.active, fresh.catalog = &activeSet{byName: make(map[string]*activeConnection)}, newCatalog()
	broken := *fresh.store
	broken.storage = &memoryStorage{memoryFiles: newMemoryFiles(), before: func(string, string) error { return errors.New("down") }}
	working := fresh.store
	fresh.store = &broken
	var unavailable *connection.Unavailable
	if _, err := fresh.find(t.Context(), "made", ""); !errors.As(err, &unavailable) || problemOf(err).Status != http.StatusServiceUnavailable {
		t.Errorf("got %v", err)
	}
	fresh.store = working
	if found, err := fresh.find(t.Context(), "made", ""); err != nil || found == nil || found.name != "made" {
		t.Errorf("got %v, %v", found, err)
	}
	if found, err := fresh.find(t.Context(), "other", ""); err != nil || found != nil {
		t.Errorf("got %v, %v", found, err)
	}
}
