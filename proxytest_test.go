package caddyoauth_test

import (
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/quic-go/quic-go/http3"
)

// idp is a token endpoint for faults. It issues seeded-token-1, seeded-token-2 and so on.
type idp struct {
	*httptest.Server
	asked  atomic.Int64 // requests
	issued atomic.Int64 // tokens
	answer atomic.Pointer[http.HandlerFunc]
}

func newIDP(t *testing.T) *idp {
	t.Helper()
	i := new(idp)
	i.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i.asked.Add(1)
		if answer := i.answer.Load(); answer != nil {
			(*answer)(w, r)
			return
		}
		i.grant(w, r)
	}))
	t.Cleanup(i.Close)
	return i
}

// grant issues the next token.
func (i *idp) grant(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"access_token":"%s","token_type":"Bearer","expires_in":3600}`, token(i.issued.Add(1)))
}

// answers changes how the endpoint answers; nil = it grants.
func (i *idp) answers(handler http.HandlerFunc) {
	if handler == nil {
		i.answer.Store(nil)
		return
	}
	i.answer.Store(&handler)
}

// says has the endpoint answer with that status and body.
func (i *idp) says(status int, body string) {
	i.answers(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	})
}

// token is the token that is issued as number n.
func token(n int64) string { return seed + "token-" + strconv.FormatInt(n, 10) }

// bearer is the Authorization header with token n.
func bearer(n int64) string { return "Bearer " + token(n) }

// seenRequest is a request as an upstream got it.
type seenRequest struct {
	method, uri, host, proto, body string
	header, trailer                http.Header
}

// upstream is a server that says what it got, but for tokens.
type upstream struct {
	addr      string
	url       string // as it is written behind reverse_proxy
	transport string // options of the transport
	handler   http.HandlerFunc
	demand    atomic.Int64 // tokens below this number are answered with 401
	early     bool         // 401 comes before the body is read

	mu   sync.Mutex
	seen []seenRequest
}

// ServeHTTP records the request, and answers 401 to a token that is too old.
func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if u.handler != nil {
		u.record(r, "")
		if u.admits(w, r) {
			u.handler(w, r)
		}
		return
	}
	body, _ := io.ReadAll(r.Body)
	u.record(r, string(body))
	if u.admits(w, r) {
		w.Header().Set("X-Upstream", u.addr)
		fmt.Fprintf(w, "%s %s %d bytes over %s", r.Method, r.URL.Path, len(body), r.Proto)
	}
}

// admits answers 401, with a body and a challenge of its own, to those who bring an old token.
func (u *upstream) admits(w http.ResponseWriter, r *http.Request) bool {
	_, number, _ := strings.Cut(r.Header.Get("Authorization"), "token-")
	if n, _ := strconv.ParseInt(number, 10, 64); n >= u.demand.Load() {
		return true
	}
	const refusal = "the upstream's own refusal"
	if u.early && r.ProtoMajor == 1 {
		refuseEarly(w, refusal)
		return false
	}
	if !u.early {
		_, _ = io.Copy(io.Discard, r.Body)
	}
	w.Header().Set("WWW-Authenticate", challenge)
	w.Header().Set("X-Upstream", u.addr)
	w.WriteHeader(http.StatusUnauthorized)
	_, _ = io.WriteString(w, refusal)
	return false
}

// challenge is what upstreams here send with a 401.
const challenge = `Bearer realm="upstream", error="invalid_token"`

// refuseEarly answers 401 on the connection itself: net/http's server would read the body first.
func refuseEarly(w http.ResponseWriter, refusal string) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	fmt.Fprintf(conn, "HTTP/1.1 401 Unauthorized\r\nConnection: close\r\nWWW-Authenticate: %s\r\nContent-Length: %d\r\n\r\n%s",
		challenge, len(refusal), refusal)
	_, _ = io.Copy(io.Discard, conn) // until the other side lets go, else a reset could overtake the answer
}

func (u *upstream) record(r *http.Request, body string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.seen = append(u.seen, seenRequest{
		method: r.Method, uri: r.RequestURI, host: r.Host, proto: r.Proto, body: body, header: r.Header.Clone(), trailer: r.Trailer.Clone(),
	})
}

// requests returns what the upstream got so far.
func (u *upstream) requests() []seenRequest {
	u.mu.Lock()
	defer u.mu.Unlock()
	return append([]seenRequest(nil), u.seen...)
}

// tokens returns the Authorization headers that the upstream got, in order.
func (u *upstream) tokens() []string {
	var all []string
	for _, r := range u.requests() {
		all = append(all, r.header.Get("Authorization"))
	}
	return all
}

// last returns the newest request.
func (u *upstream) last(t *testing.T) seenRequest {
	t.Helper()
	all := u.requests()
	if len(all) == 0 {
		t.Fatal("the upstream got no request")
	}
	return all[len(all)-1]
}

// kinds are the protocols that an upstream may speak.
var kinds = []string{"h1", "https", "h2", "h2c", "h3"}

// newUpstream starts an HTTP/1.1 upstream.
func newUpstream(t *testing.T, handler http.HandlerFunc) *upstream {
	return upstreamOf(t, "h1", handler)
}

// upstreamOf starts an upstream of one of the kinds; a nil handler tells what it got.
func upstreamOf(t *testing.T, kind string, handler http.HandlerFunc) *upstream {
	t.Helper()
	u := &upstream{handler: handler}
	server := httptest.NewUnstartedServer(u)
	server.EnableHTTP2 = kind == "h2"
	if kind == "h2c" {
		server.Config.Protocols = new(http.Protocols)
		server.Config.Protocols.SetUnencryptedHTTP2(true)
	}
	switch kind {
	case "h1", "h2c":
		server.Start()
	default:
		server.StartTLS()
	}
	t.Cleanup(server.Close)
	u.addr = server.Listener.Addr().String()
	trust := ""
	if server.Certificate() != nil {
		trust = "tls_trust_pool file " + trusted(t, server) + "\n"
	}
	switch kind {
	case "h1":
		u.url = "http://" + u.addr
	case "h2c":
		u.url = "h2c://" + u.addr
	case "https":
		u.url, u.transport = "https://"+u.addr, trust+"versions 1.1"
	case "h2":
		u.url, u.transport = "https://"+u.addr, trust
	case "h3":
		u.addr = serveQUIC(t, u, server.TLS)
		u.url, u.transport = "https://"+u.addr, trust+"versions 3"
	}
	return u
}

// serveQUIC starts an HTTP/3 server with the certificate of an HTTPS one.
func serveQUIC(t *testing.T, handler http.Handler, config *tls.Config) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http3.Server{Handler: handler, TLSConfig: http3.ConfigureTLSConfig(&tls.Config{Certificates: config.Certificates})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(conn)
	}()
	t.Cleanup(func() {
		_ = server.Close()
		_ = conn.Close()
		<-done
	})
	return conn.LocalAddr().String()
}

// trusted writes the server's certificate to a file.
func trusted(t *testing.T, server *httptest.Server) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "ca.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// form is a way to write down that the transport injects.
type form func(u *upstream, options string) string

// forms are the ways in which the transport injects.
var forms = map[string]form{"block": block, "via transport": via}

// block nests the reverse_proxy.
func block(u *upstream, options string) string {
	return "oauth2_inject api {\n reverse_proxy " + proxyBlock(u, "http", options) + "\n}\n"
}

// viaDirective leaves it to a transport further down.
const viaDirective = "oauth2_inject api {\n via transport\n }\n"

// via leaves the reverse_proxy where it is.
func via(u *upstream, options string) string { return viaDirective + injectingProxy(u, options) }

// injectingProxy is a reverse_proxy with our transport.
func injectingProxy(u *upstream, options string) string {
	return "reverse_proxy " + proxyBlock(u, "oauth2_inject", options) + "\n"
}

// flat has the handler put the token on the request itself.
func flat(u *upstream, options string) string { return "oauth2_inject api\n" + plain(u, options) }

// plain is a reverse_proxy without injection by the transport.
func plain(u *upstream, options string) string {
	return "reverse_proxy " + proxyBlock(u, "http", options) + "\n"
}

func proxyBlock(u *upstream, transport, options string) string {
	return fmt.Sprintf("%s {\n %s\n transport %s {\n %s\n }\n }", u.url, options, transport, u.transport)
}
