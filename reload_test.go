package caddyoauth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/certmagic"
	"go.uber.org/goleak"
)

// The tests here run a real Caddy in this process, over Unix sockets, so that no port can be taken by somebody else. A
// process has one running configuration: none of them is parallel.

func init() {
	caddy.RegisterModule(closingStorage{})
	caddy.RegisterModule(failingApp{})
}

// closingStorage is a storage like those that close their client in Cleanup. It keeps files, and remembers every use after
// it was closed.
type closingStorage struct {
	Path string `json:"path"`

	certmagic.Storage
	closed *atomic.Bool
}

// usedAfterClose lists the operations on closed storages.
var usedAfterClose struct {
	sync.Mutex
	operations []string
}

func (closingStorage) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.storage.closing", New: func() caddy.Module { return new(closingStorage) }}
}

func (s *closingStorage) Provision(caddy.Context) error {
	s.closed = new(atomic.Bool)
	s.Storage = &certmagic.FileStorage{Path: s.Path}
	return nil
}

func (s *closingStorage) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.Args(&s.Path) {
		return d.ArgErr()
	}
	return nil
}

func (s *closingStorage) Cleanup() error                               { s.closed.Store(true); return nil }
func (s *closingStorage) CertMagicStorage() (certmagic.Storage, error) { return s, nil }
func (s *closingStorage) MarshalJSON() ([]byte, error) {
	return json.Marshal(map[string]string{"path": s.Path})
}

func (s *closingStorage) use(operation, key string) error {
	if !s.closed.Load() {
		return nil
	}
	usedAfterClose.Lock()
	defer usedAfterClose.Unlock()
	usedAfterClose.operations = append(usedAfterClose.operations, operation+" "+key)
	return errors.New("the storage is closed")
}

func (s *closingStorage) Store(ctx context.Context, key string, value []byte) error {
	return errors.Join(s.use("store", key), s.Storage.Store(ctx, key, value))
}

func (s *closingStorage) Load(ctx context.Context, key string) ([]byte, error) {
	if err := s.use("load", key); err != nil {
		return nil, err
	}
	return s.Storage.Load(ctx, key)
}

func (s *closingStorage) Lock(ctx context.Context, name string) error {
	if err := s.use("lock", name); err != nil {
		return err
	}
	return s.Storage.Lock(ctx, name)
}

func (s *closingStorage) Unlock(ctx context.Context, name string) error {
	return errors.Join(s.use("unlock", name), s.Storage.Unlock(ctx, name))
}

// failingApp is an app of somebody else that spoils a configuration.
type failingApp struct {
	When string `json:"when"`
}

func (failingApp) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "failing", New: func() caddy.Module { return new(failingApp) }}
}

func (a *failingApp) Provision(caddy.Context) error { return a.fail("provision") }
func (a *failingApp) Start() error                  { return a.fail("start") }
func (a *failingApp) Stop() error                   { return nil }

func (a *failingApp) fail(now string) error {
	if a.When == now {
		return errors.New("failing as told")
	}
	return nil
}

// liveIDP issues seeded-token-1, seeded-token-2 and so on. While it holds, it answers nobody.
type liveIDP struct {
	*httptest.Server
	asked    atomic.Int64
	lifetime atomic.Int64 // seconds
	held     atomic.Pointer[chan struct{}]
	forms    sync.Map                         // number of the request -> its form
	refusal  atomic.Pointer[http.HandlerFunc] // what it says instead of a token; nil = nothing
}

func newLiveIDP(t *testing.T) *liveIDP {
	t.Helper()
	idp := new(liveIDP)
	idp.lifetime.Store(3600)
	idp.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if refusal := idp.refusal.Load(); refusal != nil {
			(*refusal)(w, r)
			return
		}
		_ = r.ParseForm()
		number := idp.asked.Add(1)
		idp.forms.Store(number, r.Form)
		if held := idp.held.Load(); held != nil {
			select {
			case <-*held:
			case <-r.Context().Done():
			}
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"access_token":"seeded-token-%d","token_type":"Bearer","expires_in":%d}`, number, idp.lifetime.Load())
	}))
	t.Cleanup(idp.Close)
	return idp
}

// hold makes the endpoint slow until the returned function is called.
func (i *liveIDP) hold(t *testing.T) (release func()) {
	held := make(chan struct{})
	i.held.Store(&held)
	release = sync.OnceFunc(func() { i.held.Store(nil); close(held) })
	t.Cleanup(release)
	return release
}

// liveCaddy is the Caddy of one test.
type liveCaddy struct {
	t        *testing.T
	dir      string
	idp      *liveIDP
	upstream *httptest.Server
	admin    *http.Client
	site     *http.Client

	loads    atomic.Int64 // each load has sockets of its own: Caddy closes the old ones when it likes
	newAdmin atomic.Int64 // the load whose admin endpoint answers: the last one, also if it failed
	newSite  atomic.Int64 // the load whose site answers
}

func newLiveCaddy(t *testing.T) *liveCaddy {
	t.Helper()
	dir, err := os.MkdirTemp("", "co") //nolint:usetesting // the path of a Unix socket has at most some hundred bytes
	if err != nil {
		t.Fatal(err)
	}
	c := &liveCaddy{t: t, dir: dir, idp: newLiveIDP(t)}
	c.admin, c.site = c.socketClient("admin", &c.newAdmin), c.socketClient("site", &c.newSite)
	c.upstream = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, strings.ReplaceAll(r.Header.Get("Authorization"), "seeded-", "")) // so that the scan finds leaks only
	}))
	usedAfterClose.Lock()
	usedAfterClose.operations = nil
	usedAfterClose.Unlock()
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Error(err)
		}
		c.admin.CloseIdleConnections()
		c.site.CloseIdleConnections()
		c.upstream.Close()
		if strings.Contains(c.log(), "seeded-") {
			t.Error("a secret was logged")
		}
		usedAfterClose.Lock()
		defer usedAfterClose.Unlock()
		if len(usedAfterClose.operations) > 0 {
			t.Errorf("a closed storage was used: %v", usedAfterClose.operations)
		}
		_ = os.RemoveAll(dir)
	})
	return c
}

// socketClient connects to the socket of that name of the load in question, anew for each request.
func (c *liveCaddy) socketClient(name string, load *atomic.Int64) *http.Client {
	return &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(c.dir, fmt.Sprint(name, load.Load())))
		},
	}}
}

// config returns the Caddyfile with a connection "api" of these options. "storage" is replaced by a storage that closes,
// unless the global options name one.
func (c *liveCaddy) config(global, options string) string {
	if !strings.Contains(global, "storage ") {
		global += "\nstorage closing " + filepath.Join(c.dir, "storage")
	}
	if !strings.Contains(global, "admin ") {
		global += "\nadmin unix/" + filepath.Join(c.dir, "adminSOCKET")
	}
	encryption := "encryption key " + strings.Repeat("0a", 32)
	if strings.Contains(options, "encryption ") {
		encryption, options, _ = strings.Cut(options, "\n\n")
	}
	return fmt.Sprintf(`{
	auto_https off
	grace_period 1s
	log default {
		output file %[1]s/log {
			roll_disabled
		}
		level DEBUG
	}
	%[2]s
	oauth2_inject {
		%[3]s
		connection api {
			token_endpoint %[4]s/token
			client_id caddy
			%[5]s
		}
	}
}
http://localhost {
	bind unix/%[1]s/siteSOCKET
	oauth2_inject api {
		reverse_proxy %[6]s
	}
}`, c.dir, global, encryption, c.idp.URL, options, c.upstream.URL)
}

// load runs a configuration, with a failing app in it if one is given.
func (c *liveCaddy) load(config, failing string) error {
	number := c.loads.Add(1)
	adapted, err := adaptText(strings.ReplaceAll(config, "SOCKET", fmt.Sprint(number)))
	if err != nil {
		return err
	}
	if failing != "" {
		var tree map[string]map[string]any
		if err := json.Unmarshal(adapted, &tree); err != nil {
			return err
		}
		tree["apps"]["failing"] = map[string]string{"when": failing}
		if adapted, err = json.Marshal(tree); err != nil {
			return err
		}
	}
	c.newAdmin.Store(number)
	if err := caddy.Load(adapted, true); err != nil {
		return err
	}
	c.newSite.Store(number)
	return nil
}

func (c *liveCaddy) mustLoad(config string) {
	c.t.Helper()
	if err := c.load(config, ""); err != nil {
		c.t.Fatal(err)
	}
}

// get asks the site, and returns the status with the token that the upstream saw.
func (c *liveCaddy) get() string {
	resp, err := c.site.Get("http://localhost/")
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusOK {
		return resp.Status
	}
	return string(body)
}

func (c *liveCaddy) want(got, want string) {
	c.t.Helper()
	if got != want {
		c.t.Fatalf("got %q, want %q\n%s", got, want, c.log())
	}
}

func (c *liveCaddy) wantAsked(want int64) {
	c.t.Helper()
	if got := c.idp.asked.Load(); got != want {
		c.t.Fatalf("the token endpoint was asked %d times, want %d\n%s", got, want, c.log())
	}
}

func (c *liveCaddy) log() string {
	text, err := os.ReadFile(filepath.Join(c.dir, "log"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.t.Error(err)
	}
	return string(text)
}

// app returns the running app.
func (c *liveCaddy) app() *App {
	c.t.Helper()
	app, err := caddy.ActiveContext().AppIfConfigured(appName)
	if err != nil {
		c.t.Fatal(err)
	}
	return app.(*App)
}

// soon waits for what happens in the background.
func (c *liveCaddy) soon(what string, holds func() bool) {
	c.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !holds(); {
		if time.Now().After(deadline) {
			c.t.Fatalf("waited in vain: %s\n%s", what, c.log())
		}
		<-time.After(2 * time.Millisecond)
	}
}

// stopping waits until the app's Stop has begun.
func (c *liveCaddy) stopping(app *App) {
	c.t.Helper()
	c.soon("the old configuration stops", func() bool { return app.loop.ctx.Err() != nil })
}

// TestReloadDuringRefresh reloads while the token endpoint is thinking. The secret is another one, which keeps the token.
func TestReloadDuringRefresh(t *testing.T) {
	c := newLiveCaddy(t)
	c.mustLoad(c.config("", "client_secret seeded-one"))
	old := c.app()
	release := c.idp.hold(t)
	answer := make(chan string, 1)
	go func() { answer <- c.get() }()
	c.soon("the token request", func() bool { return c.idp.asked.Load() == 1 })
	loaded := make(chan error, 1)
	go func() { loaded <- c.load(c.config("", "client_secret seeded-two"), "") }()
	c.stopping(old)
	select {
	case err := <-loaded:
		t.Fatalf("the reload did not wait for the refresh that uses the old storage: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	release()
	if err := <-loaded; err != nil {
		t.Fatal(err)
	}
	c.want(<-answer, "Bearer token-1")
	c.want(c.get(), "Bearer token-1")
	c.wantAsked(1)
	if err := caddy.Stop(); err != nil { // the engine goes with it: what is left is what was stored
		t.Fatal(err)
	}
	c.mustLoad(c.config("", "client_secret seeded-two"))
	c.want(c.get(), "Bearer token-1")
	c.wantAsked(1)
}

// TestReloadKeepsWhatStaysTheSame: the fingerprint decides whether a token lives on.
func TestReloadKeepsWhatStaysTheSame(t *testing.T) {
	c := newLiveCaddy(t)
	for _, step := range []struct {
		options, token string
		asked          int64
	}{
		{"client_secret seeded-one\nscopes a b", "Bearer token-1", 1},
		{"client_secret seeded-one\nscopes a b", "Bearer token-1", 1},
		{"client_secret seeded-two\nscopes b a\ntimeout 5s", "Bearer token-1", 1},
		{"client_secret seeded-two\nclient_auth client_secret_post\nscopes a b", "Bearer token-1", 1},
		{"client_secret seeded-two\nscopes a c", "Bearer token-2", 2},
		{"client_secret seeded-two\nscopes a c\nheader Authorization \"Token {token}\"", "Token token-2", 2},
		{"client_secret seeded-two\nscopes a b", "Bearer token-3", 3}, // the record keeps one token set: the old one is history
	} {
		c.mustLoad(c.config("", step.options))
		c.want(c.get(), step.token)
		c.wantAsked(step.asked)
	}
	if status := c.app().Status(); len(status.Connections) != 1 || status.Connections[0].Generation != 3 {
		t.Errorf("generations do not go on over fingerprints: %+v", status)
	}
}

// TestRequestOutlivesItsConfiguration: handlers go on after their configuration's Cleanup, and must use a living storage then.
func TestRequestOutlivesItsConfiguration(t *testing.T) {
	c := newLiveCaddy(t)
	c.idp.lifetime.Store(1)
	c.mustLoad(c.config("", ""))
	old, _ := c.app().active.get("api")
	c.want(c.get(), "Bearer token-1")
	c.mustLoad(c.config("", ""))
	c.soon("the token runs out", func() bool { return !old.source.Current().Usable(time.Now()) })
	token, err := old.source.Token(t.Context(), old.settings)
	if err != nil || token.Generation() < 2 {
		t.Fatalf("generation %v, %v", token, err)
	}
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	c.soon("the token runs out", func() bool { return !old.source.Current().Usable(time.Now()) })
	if _, err := old.source.Token(t.Context(), old.settings); err == nil {
		t.Error("a token came from a program without a configuration")
	}
}

// TestFailedReload spoils a reload in Provision and in Start of another app, in both orders of apps that chance gives.
func TestFailedReload(t *testing.T) {
	c := newLiveCaddy(t)
	c.mustLoad(c.config("", "scopes a"))
	c.want(c.get(), "Bearer token-1")
	for _, when := range []string{"provision", "start"} {
		for range 4 {
			if err := c.load(c.config("", "scopes changed"), when); err == nil || !strings.Contains(err.Error(), "failing as told") {
				t.Fatalf("%s: %v", when, err)
			}
			c.want(c.get(), "Bearer token-1")
			c.wantAsked(1)
			wantStatus(t, c, func(report StatusReport) bool {
				return len(report.Connections) == 1 && report.Connections[0].Status == "active" && report.Connections[0].Generation == 1 &&
					report.Connections[0].Counters.TokenRequests == 1
			})
		}
	}
	engine := engineOf(t)
	if len(engine.apps) != 1 || len(engine.sources) != 1 {
		t.Errorf("%d configurations and %d sources are left", len(engine.apps), len(engine.sources))
	}
	c.mustLoad(c.config("", "scopes a"))
	c.want(c.get(), "Bearer token-1")
	c.wantAsked(1)
}

// engineOf looks at the engine of the process without changing its count.
func engineOf(t *testing.T) *engine {
	t.Helper()
	e, err := acquireEngine()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = releaseEngine() })
	return e
}

// TestStopDuringRefresh ends the program while the token endpoint is thinking: what it answers is stored before Stop returns.
func TestStopDuringRefresh(t *testing.T) {
	c := newLiveCaddy(t)
	c.mustLoad(c.config("", ""))
	app := c.app()
	release := c.idp.hold(t)
	answered := make(chan string, 1)
	go func() { answered <- c.get() }()
	c.soon("the token request", func() bool { return c.idp.asked.Load() == 1 })
	stopped := make(chan error, 1)
	go func() { stopped <- caddy.Stop() }()
	c.stopping(app)
	release()
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	<-answered // whatever Caddy's own draining made of it
	c.mustLoad(c.config("", ""))
	c.want(c.get(), "Bearer token-1")
	c.wantAsked(1)
}

// TestReloadWakesTheNewLoop: a refresh that began under the old configuration ends under the new one, whose loop has looked
// already and found nothing. The next refresh must come without traffic all the same.
func TestReloadWakesTheNewLoop(t *testing.T) {
	c := newLiveCaddy(t)
	c.idp.lifetime.Store(2)
	c.mustLoad(c.config("", ""))
	old := c.app()
	release := c.idp.hold(t)
	answer := make(chan string, 1)
	go func() { answer <- c.get() }()
	c.soon("the token request", func() bool { return c.idp.asked.Load() == 1 })
	loaded := make(chan error, 1)
	go func() { loaded <- c.load(c.config("", ""), "") }()
	c.stopping(old)
	release()
	if err := <-loaded; err != nil {
		t.Fatal(err)
	}
	c.want(<-answer, "Bearer token-1")
	c.soon("a refresh without traffic", func() bool { return c.idp.asked.Load() >= 2 })
}

// TestNoGoroutineIsLeft runs, uses, reloads and stops Caddy.
func TestNoGoroutineIsLeft(t *testing.T) {
	c := newLiveCaddy(t)
	c.mustLoad(c.config("admin off", ""))
	if err := caddy.Stop(); err != nil { // what Caddy starts once in a process, and the admin endpoint of a test before
		t.Fatal(err)
	}
	before := goleak.IgnoreCurrent()
	c.idp.lifetime.Store(1)
	for range 3 {
		c.mustLoad(c.config("admin off", ""))
		if got := c.get(); !strings.HasPrefix(got, "Bearer token-") {
			t.Fatal(got)
		}
		if err := c.load(c.config("admin off", ""), "start"); err == nil {
			t.Fatal("the failing app did not fail")
		}
	}
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	c.site.CloseIdleConnections()
	c.upstream.CloseClientConnections()
	c.idp.CloseClientConnections()
	// certmagic's lock file keeper sleeps up to five seconds after the lock was released.
	options := []goleak.Option{before, goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.keepLockfileFresh")}
	var leak error
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); {
		if leak = goleak.Find(options...); leak == nil {
			break
		}
	}
	if leak != nil {
		t.Error(leak)
	}
	if _, loaded := engines.References(engineKey); loaded {
		t.Error("the engine is still referenced")
	}
}

// TestStorageIdentity: the same storage configured anew is the same storage; one that tells nothing of itself is like no other.
func TestStorageIdentity(t *testing.T) {
	t.Parallel()
	identity := func(storage certmagic.Storage) string {
		t.Helper()
		id, err := storageIdentity(storage)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	silent := func() certmagic.Storage { return &silentStorage{Hook: func() {}} }
	one := silent()
	ids := []string{
		identity(&certmagic.FileStorage{Path: "a"}), identity(&certmagic.FileStorage{Path: "b"}), identity(&closingStorage{Path: "a"}),
		identity(&closingStorage{Path: "b"}), identity(one), identity(silent()),
	}
	absolute, err := filepath.Abs("a")
	if err != nil {
		t.Fatal(err)
	}
	if ids[0] != identity(&certmagic.FileStorage{Path: absolute}) || ids[2] != identity(&closingStorage{Path: "a"}) || ids[4] != identity(one) {
		t.Error("the same storage got two identities")
	}
	slices.Sort(ids)
	if len(slices.Compact(ids)) != 6 {
		t.Error("two storages got the same identity")
	}
}

// silentStorage cannot be encoded as JSON.
type silentStorage struct {
	certmagic.FileStorage
	Hook func()
}
