package caddyoauth

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/certmagic"
	"go.uber.org/goleak"

	"github.com/caddyoauth/caddyoauth/internal/connection"
)

func init() { caddy.RegisterModule(stuckStorage{}) }

// stuckStorage keeps files, until it hangs: then it answers nobody, and heeds no context.
type stuckStorage struct {
	Path string `json:"path"`
	certmagic.Storage
}

// hanging is closed when storages that hang answer again; nil as long as they do not hang.
var hanging struct {
	sync.Mutex
	until chan struct{}
}

func (stuckStorage) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.storage.stuck", New: func() caddy.Module { return new(stuckStorage) }}
}

func (s *stuckStorage) Provision(caddy.Context) error {
	s.Storage = &certmagic.FileStorage{Path: s.Path}
	return nil
}

func (s *stuckStorage) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	d.Args(&s.Path)
	return nil
}

func (s *stuckStorage) CertMagicStorage() (certmagic.Storage, error) { return s, nil }

func (s *stuckStorage) Load(ctx context.Context, key string) ([]byte, error) {
	hanging.Lock()
	until := hanging.until
	hanging.Unlock()
	if until != nil {
		<-until
	}
	return s.Storage.Load(ctx, key)
}

// TestProvisionFailsAtEachStep: whatever is wrong with a configuration, its Cleanup gives back what Provision has taken so far, and the
// running one goes on.
func TestProvisionFailsAtEachStep(t *testing.T) {
	c := newLiveCaddy(t)
	refused := map[string]string{}
	for name, options := range map[string]string{
		"subjects_in_memory": "subjects_in_memory 5", "history": "history 5000", "pause": "rekey_pause 1ms", "environment": "environment /",
		"key": "encryption key short", "passphrase": "encryption passphrase short", "alert": "alert {\nwebhook https://a.example/\n}\nalert {\nwebhook ftp://a.example/\n}",
		"stored": "stored_connections {\npoll_interval 1ms\n}", "endpoints": "stored_connections {\nendpoints a/b\n}",
		"connection": "connection x {\ntoken_endpoint ftp://a.example/\nclient_id x\n}",
	} {
		refused["app: "+name] = strings.Replace(c.config("", ""), "oauth2_inject {", "oauth2_inject {\n"+options, 1)
	}
	for name, site := range map[string]string{
		"handler": "oauth2_inject nothing", "inline": "oauth2_inject {\ntoken_endpoint ftp://a.example/\nclient_id x\n}", "flat": "oauth2_inject q",
		"pages": "oauth2_connect {\nconnections api\n}", "api": "oauth2_api {\nrole king everybody\n}", "dashboard": "oauth2_dashboard {\nrole king everybody\n}",
		"transport": "reverse_proxy localhost:1 {\ntransport oauth2_inject {\nallow_hosts /\n}\n}",
	} {
		refused["site: "+name] = strings.Replace(c.config("", "\n\n"), "oauth2_inject api {", site+"\noauth2_inject api {", 1)
	}
	refused["site: flat"] = strings.Replace(refused["site: flat"], "connection api {", "connection q {\ntoken_endpoint https://a.example/\nclient_id x\nquery q\n}\nconnection api {", 1)
	refused["events"] = strings.Replace(c.config("", ""), "oauth2_inject {", "events {\non x nothing\n}\noauth2_inject {", 1)
	for _, before := range []string{"nothing", "another configuration"} {
		if before != "nothing" {
			c.mustLoad(c.config("admin off", ""))
			c.want(c.get(), "Bearer token-1")
		}
		for name, config := range refused {
			if err := c.load(strings.Replace(config, "admin unix", "admin off\n#", 1), ""); err == nil {
				t.Errorf("%s: was loaded", name)
			}
			if count, _ := engines.References(engineKey); count != map[string]int{"nothing": 0, "another configuration": 1}[before] {
				t.Fatalf("%s, after %s: %d configurations are left", name, before, count)
			}
			if before == "nothing" {
				continue
			}
			c.want(c.get(), "Bearer token-1")
			e := running.Load()
			e.mu.Lock()
			if len(e.apps) != 1 || len(e.keysOf) != 1 || len(e.keys) != 1 || len(e.sources) != 1 || len(e.standings) != 0 || len(e.catalogs) != 0 {
				t.Errorf("%s: left are %d configurations, %d keys, %d sources, %d standings, %d catalogs", name, len(e.apps), len(e.keys), len(e.sources),
					len(e.standings), len(e.catalogs))
			}
			e.mu.Unlock()
		}
	}
}

// TestCleanupTwice: a Cleanup before any Provision, and a second one, do nothing.
func TestCleanupTwice(t *testing.T) {
	c := newLiveCaddy(t)
	if err := new(App).Cleanup(); err != nil {
		t.Error(err)
	}
	c.mustLoad(c.config("", ""))
	app := c.app()
	c.mustLoad(c.config("", "")) // cleans up the one before
	if err := app.Cleanup(); err != nil {
		t.Error(err)
	}
	if count, _ := engines.References(engineKey); count != 1 {
		t.Errorf("%d configurations use the engine", count)
	}
	app.observe(connection.Event{Kind: connection.KindFailed, ID: connection.ID{Connection: "api"}}) // a flight that ends late
}

// TestStorageOutlivesItsConfiguration: what a request does in storage after a reload has closed it, it does through the next
// configuration; a lock is released where it was taken, and the reload waits for it.
func TestStorageOutlivesItsConfiguration(t *testing.T) {
	c := newLiveCaddy(t)
	c.mustLoad(c.config("", ""))
	c.want(c.get(), "Bearer token-1")
	old := c.app()
	if err := old.store.storage.Lock(t.Context(), "a lock"); err != nil {
		t.Fatal(err)
	}
	loaded := make(chan error, 1)
	go func() { loaded <- c.load(c.config("", ""), "") }()
	c.soon("the old storage ends", old.storage.hasEnded)
	select {
	case err := <-loaded:
		t.Fatalf("the reload did not wait for a lock: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	if err := old.store.storage.Unlock(t.Context(), "a lock"); err != nil {
		t.Error(err)
	}
	if err := <-loaded; err != nil {
		t.Fatal(err)
	}
	source, _ := old.active.get("api")
	if rec, err := old.store.Load(t.Context(), source.key.id); err != nil || rec.Current.Generation != 1 {
		t.Errorf("got %v, %v", rec.Current.Generation, err)
	}
	if err := old.store.storage.Lock(t.Context(), "a lock"); err != nil { // were it not released, this would wait
		t.Error(err)
	}
	if err := old.store.storage.Unlock(t.Context(), "a lock"); err != nil {
		t.Error(err)
	}
}

// TestStorageThatHangsDoesNotHoldUpAReload: Caddy can be given another configuration, and be stopped, whatever its storage does.
func TestStorageThatHangsDoesNotHoldUpAReload(t *testing.T) {
	c := newLiveCaddy(t)
	before := goleak.IgnoreCurrent()
	until := make(chan struct{})
	hang := func(on chan struct{}) {
		hanging.Lock()
		hanging.until = on
		hanging.Unlock()
	}
	hang(until)
	release := sync.OnceFunc(func() { hang(nil); close(until) })
	t.Cleanup(release)
	c.mustLoad(c.config("admin off\nstorage stuck "+filepath.Join(c.dir, "storage"), ""))
	old := c.app()
	began := time.Now()
	ended := make(chan struct{})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	go func() { old.stopWork(ctx); close(ended) }()
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Fatal("a storage that hangs is waited for without end")
	}
	if took := time.Since(began); took < 50*time.Millisecond {
		t.Fatalf("nothing hung: it took %v", took)
	}
	release()
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := goleak.Find(before, goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.keepLockfileFresh")); err != nil {
		t.Error(err)
	}
}

// TestPruningSparesWhatIsBeingWired: one configuration drops what nobody has while another one is putting a connection to use.
func TestPruningSparesWhatIsBeingWired(t *testing.T) {
	c := newLiveCaddy(t)
	c.mustLoad(c.config("", ""))
	app := c.app()
	b, err := (&Connection{TokenEndpoint: c.idp.URL + "/token", ClientID: "other"}).build("late")
	if err != nil {
		t.Fatal(err)
	}
	late := app.wired("late", b, "")
	app.engine.prune()
	app.active.put(late)
	if app.engine.source(late.key) != late.source {
		t.Error("the source of a connection was dropped while it was put to use: there are two now")
	}
	if len(app.active.wiring) != 0 {
		t.Error("a connection is kept as one that is still to come")
	}
}

// TestNothingIsKeptOfOtherConfigurations: keys, catalogs and breakers go with the last configuration that has them.
func TestNothingIsKeptOfOtherConfigurations(t *testing.T) {
	c := newLiveCaddy(t)
	stored := "\nstored_connections {\nendpoints 127.0.0.1\n}\n\n"
	for i := range 4 {
		other := httptest.NewServer(http.NotFoundHandler())
		c.mustLoad(strings.Replace(c.config("", fmt.Sprintf("encryption key %s%s", strings.Repeat(fmt.Sprintf("0%d", i+1), 32), stored)),
			"connection api {", "connection other {\ntoken_endpoint "+other.URL+"/\nclient_id x\n}\nconnection api {", 1))
		other.Close()
	}
	e := c.app().engine
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.keys) != 1 || len(e.catalogs) != 1 || len(e.keysOf) != 1 || len(e.breakers) != 2 {
		t.Errorf("kept are %d keys, %d catalogs, %d breakers", len(e.keys), len(e.catalogs), len(e.breakers))
	}
}

// TestUnreadableCatalogIsNotAnEmptyOne: with keys that do not open, nobody is told that a connection does not exist.
func TestUnreadableCatalogIsNotAnEmptyOne(t *testing.T) {
	c := newLiveCaddy(t)
	config := func(key string) string {
		text := c.config("", "encryption key "+strings.Repeat(key, 32)+"\nstored_connections {\nendpoints 127.0.0.1\n}\n\n")
		return strings.Replace(text, "oauth2_inject api {", "oauth2_api {\nidentity alice\nrole admin *\n}\noauth2_inject other {", 1)
	}
	c.mustLoad(config("0a"))
	body := fmt.Sprintf(`{"name":"other","provider":"custom","grant_type":"client_credentials","client_id":"x","client_secret":"seeded-x","token_url":"%s/token"}`, c.idp.URL)
	resp, err := c.site.Post("http://localhost/oauth2/v1/secrets/oauth2", "application/json", strings.NewReader(body))
	if err != nil || resp.StatusCode != http.StatusCreated {
		t.Fatal(resp, err)
	}
	resp.Body.Close()
	c.want(c.get(), "Bearer token-1")
	c.mustLoad(config("0b"))
	for range 3 {
		c.want(c.get(), "503 Service Unavailable")
		resp, err := c.site.Get("http://localhost/oauth2/v1/secrets")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		c.want(resp.Status, "503 Service Unavailable")
	}
	c.mustLoad(config("0a"))
	c.want(c.get(), "Bearer token-1")
}
