package caddyoauth_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/standard"
	_ "github.com/caddyserver/caddy/v2/modules/filestorage"
	_ "github.com/caddyserver/caddy/v2/modules/logging"

	"github.com/caddyoauth/caddyoauth"
	"github.com/caddyoauth/caddyoauth/test/providersim"
)

// The tests of the request path drive a real Caddy in this process. A process runs one configuration at a time, so they are
// serial. Every one of them ends with a search for seeded secrets in all that Caddy logged and all that its clients saw.

const (
	// seed begins every secret of these tests, tokens included.
	seed         = "seeded-"
	clientSecret = seed + "client-secret"
)

// environmentProxy is where HTTP_PROXY points to.
var environmentProxy net.Listener

// internet is where HTTPS_PROXY points to: the hosts of all presets are simulated there, under their own names, and with certificates
// that this process trusts as it would the real ones.
var internet *providersim.Internet

func TestMain(m *testing.M) {
	register()
	if os.Getenv(instanceVariable) != "" {
		os.Exit(runInstance()) // of a test that needs another process
	}
	dir, err := os.MkdirTemp("", "caddyoauth-test-")
	if err != nil {
		panic(err)
	}
	if environmentProxy, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		panic(err)
	}
	if internet, err = providersim.NewInternet(dir); err != nil {
		panic(err)
	}
	for name, value := range map[string]string{
		"HTTPS_PROXY":   internet.URL.String(), // read once in a process, and never for loopback addresses
		"SSL_CERT_FILE": internet.CA,           // read once in a process
		"XDG_DATA_HOME": filepath.Join(dir, "data"), "XDG_CONFIG_HOME": filepath.Join(dir, "config"),
		// Read once in a process: the test of HTTP_PROXY needs it before the first request of any test.
		"HTTP_PROXY": "http://" + environmentProxy.Addr().String(), "NO_PROXY": "",
	} {
		if err := os.Setenv(name, value); err != nil {
			panic(err)
		}
	}
	caddy.DefaultStorage.Path = filepath.Join(dir, "data")
	caddy.ConfigAutosavePath = filepath.Join(dir, "config", "autosave.json")
	code := m.Run()
	internet.Close()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// register adds the modules of the tests to Caddy.
func register() {
	caddy.RegisterModule(logWriter{})
	caddy.RegisterModule(peek{})
	httpcaddyfile.RegisterHandlerDirective("peek", func(httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		return peek{}, nil
	})
}

// logWriter is a log output that keeps everything in memory.
type logWriter struct{}

func (logWriter) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.logging.writers.memory", New: func() caddy.Module { return new(logWriter) }}
}
func (logWriter) String() string                                 { return "memory" }
func (logWriter) WriterKey() string                              { return "memory" }
func (logWriter) OpenWriter() (io.WriteCloser, error)            { return &logged, nil }
func (*logWriter) UnmarshalCaddyfile(*caddyfile.Dispenser) error { return nil }

// logged is what Caddy logged since the last reset.
var logged memory

type memory struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (m *memory) Write(p []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.text.Write(p)
}

func (m *memory) Close() error { return nil }

func (m *memory) String() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.text.String()
}

func (m *memory) reset() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.text.Reset()
}

// peek is a handler that sees the request before and after the handlers below it.
type peek struct{}

// peeked is what peek saw last: the headers before and after.
var peeked struct {
	sync.Mutex
	before, after http.Header
}

func (peek) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.peek", New: func() caddy.Module { return new(peek) }}
}

func (peek) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	before := r.Header.Clone()
	err := next.ServeHTTP(w, r)
	peeked.Lock()
	defer peeked.Unlock()
	peeked.before, peeked.after = before, r.Header.Clone()
	return err
}

// setup says what is special about one test's Caddy.
type setup struct {
	global      string // global options
	options     string // options of the connection "api"
	connections string // further connections
	site        string // the site's block; PORT stands for the port that it listens on
	format      string // of the log; default: json
	quiet       bool   // log no requests: for the flat form, where a request carries the token while it is handled
	idp         *idp   // default: one that grants everything
}

// site is a running Caddy with one site.
type site struct {
	t      *testing.T
	addr   string
	client *http.Client
	idp    *idp
	dir    string // the storage
	loaded []byte // the configuration
	seen   memory // what clients saw
}

// run starts Caddy. It logs all that it can: at debug level, with credentials and with every handler's configuration.
func run(t *testing.T, with setup) *site {
	t.Helper()
	s := &site{t: t, idp: with.idp, dir: t.TempDir()}
	if s.idp == nil {
		s.idp = newIDP(t)
	}
	s.start(func() string { return s.config(with) })
	return s
}

// start starts Caddy with a Caddyfile for the site's address.
func (s *site) start(config func() string) {
	s.t.Helper()
	t := s.t
	transport := &http.Transport{DisableCompression: true, Proxy: nil}
	s.client = &http.Client{Transport: transport, Timeout: 20 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}
	var err error
	for range 3 { // somebody else may take the free port meanwhile
		s.addr = freeAddress(t)
		logged.reset()
		s.loaded = adapt(t, config())
		if err = caddy.Load(s.loaded, true); err == nil {
			break
		}
	}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		if err := caddy.Stop(); err != nil {
			t.Errorf("stop Caddy: %v", err)
		}
		s.scan()
	})
	if err != nil {
		t.Fatalf("start Caddy: %v", err)
	}
}

// reload loads the same configuration once more.
func (s *site) reload() {
	s.t.Helper()
	if err := caddy.Load(s.loaded, true); err != nil {
		s.t.Fatalf("reload: %v", err)
	}
	eventually(s.t, "the end of the listener before the reload", func() bool { return listeners(s.addr) <= 1 })
}

// listeners counts the sockets that listen on an address's port, as far as the system tells. Caddy opens a new one for a reload and
// closes the old one behind its back; a connection that the kernel gave to the old one meanwhile is reset.
func listeners(addr string) (count int) {
	_, port, _ := strings.Cut(addr, ":")
	number, _ := strconv.Atoi(port)
	table, _ := os.ReadFile("/proc/net/tcp") // proc(5): local address and port in hex; state 0A is LISTEN
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line)
		if len(fields) > 3 && fields[3] == "0A" && strings.HasSuffix(fields[1], fmt.Sprintf(":%04X", number)) {
			count++
		}
	}
	return count
}

// adaptError returns what is wrong with the Caddyfile.
func adaptError(t *testing.T, with setup) error {
	t.Helper()
	s := &site{t: t, idp: newIDP(t), addr: freeAddress(t), dir: t.TempDir()}
	_, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(s.config(with)), map[string]any{"filename": "Caddyfile"})
	if err != nil && len(leaks(err.Error())) > 0 {
		t.Error("the error has a secret")
	}
	return err
}

// config returns the whole Caddyfile.
func (s *site) config(with setup) string {
	verbose, level := "servers {\n trace\n log_credentials\n }", "DEBUG"
	if with.quiet {
		verbose, level = "", "INFO"
	}
	_, port, _ := net.SplitHostPort(s.addr)
	return fmt.Sprintf(`{
	admin off
	persist_config off
	auto_https off
	grace_period 5s
	storage file_system %s
	log default {
		output memory
		format %s
		level %s
	}
	%s
	%s
	oauth2_inject {
		connection api {
			token_endpoint %s/token
			client_id caddy
			client_secret %s
			%s
		}
		%s
	}
}
http://%s {
	bind 127.0.0.1
	log
	%s
}
`, s.dir, cmp.Or(with.format, "json"), level, verbose, with.global, s.idp.URL, clientSecret, with.options, with.connections, s.addr, strings.ReplaceAll(with.site, "PORT", port))
}

// adapt turns a Caddyfile into JSON.
func adapt(t *testing.T, config string) []byte {
	t.Helper()
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(config), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		t.Fatalf("adapt: %v\n%s", err, config)
	}
	return adapted
}

// scan looks for secrets where none may be.
func (s *site) scan() {
	s.t.Helper()
	logs := logged.String()
	for _, line := range leaks(logs) {
		s.t.Errorf("a secret was logged: %s", line)
	}
	for _, line := range leaks(s.seen.String()) {
		s.t.Errorf("a client saw a secret: %s", line)
	}
	if strings.Contains(logs, "goroutine ") && strings.Contains(logs, "panic") {
		s.t.Error("Caddy's log has a panic")
	}
}

// leaks returns the lines of text that hold a seeded secret, as it is or in the form that HTTP Basic sends it in.
func leaks(text string) []string {
	blob := base64.StdEncoding.EncodeToString([]byte("caddy:" + clientSecret))
	var found []string
	for line := range strings.SplitSeq(text, "\n") {
		if strings.Contains(line, seed) || strings.Contains(line, blob) {
			found = append(found, strings.ReplaceAll(line, seed, "<SECRET>"))
		}
	}
	return found
}

// app returns the running app.
func (s *site) app() *caddyoauth.App {
	s.t.Helper()
	app, err := caddy.ActiveContext().AppIfConfigured("oauth2_inject")
	if err != nil {
		s.t.Fatal(err)
	}
	return app.(*caddyoauth.App)
}

// answer is a response, read to its end.
type answer struct {
	status  int
	header  http.Header
	body    string
	trailer http.Header
}

// get sends a GET with the given header lines, "Name: value".
func (s *site) get(path string, headers ...string) answer {
	s.t.Helper()
	return s.do(s.request(http.MethodGet, path, nil, headers...))
}

// post sends a POST with the given body.
func (s *site) post(path, body string, headers ...string) answer {
	s.t.Helper()
	return s.do(s.request(http.MethodPost, path, strings.NewReader(body), headers...))
}

func (s *site) request(method, path string, body io.Reader, headers ...string) *http.Request {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, "http://"+s.addr+path, body)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, line := range headers {
		name, value, _ := strings.Cut(line, ": ")
		req.Header[name] = append(req.Header[name], value) // as written, in any case
	}
	return req
}

func (s *site) do(req *http.Request) answer {
	s.t.Helper()
	a, err := s.try(req)
	if err != nil {
		s.t.Fatalf("%s %s: %v", req.Method, req.URL.Path, err)
	}
	return a
}

// try is do for goroutines.
func (s *site) try(req *http.Request) (answer, error) {
	resp, err := s.client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	fmt.Fprintf(&s.seen, "%d %v %s %v\n", resp.StatusCode, resp.Header, body, resp.Trailer)
	return answer{status: resp.StatusCode, header: resp.Header, body: string(body), trailer: resp.Trailer}, err
}

// want fails the test when the answer has another status, or a body without that text.
func (a answer) want(t *testing.T, status int, text string) {
	t.Helper()
	if a.status != status || !strings.Contains(a.body, text) {
		t.Fatalf("got %d %q, want %d and %q in it", a.status, a.body, status, text)
	}
}

// nextPort is where freeAddress looks next. It stays below the ports that the kernel gives out by itself, to listeners on port 0 and
// to outgoing connections, so that nobody takes an address before it is used.
var nextPort atomic.Int32

// freeAddress returns an address on which nothing listens, a new one each time.
func freeAddress(t *testing.T) string {
	t.Helper()
	for range 1000 {
		address := fmt.Sprintf("127.0.0.1:%d", 21000+nextPort.Add(1))
		if listener, err := net.Listen("tcp", address); err == nil {
			listener.Close()
			return address
		}
	}
	t.Fatal("found no free port")
	return ""
}

// eventually waits until the condition holds, for what happens in the background.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second) // the machine may be busy
	defer cancel()
	for !holds() {
		select {
		case <-ctx.Done():
			t.Fatalf("waited in vain: %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}
