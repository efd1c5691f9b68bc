package oauth

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"sync/atomic"
	"syscall"
	"time"
)

// Limits on what a token endpoint may answer. Tokens of HubSpot and Microsoft run to a few KiB; a MiB is never a token.
const (
	maxBody   = 1 << 20
	maxHeader = 64 << 10
)

// reply is an answer as it came, unjudged.
type reply struct {
	status   int
	header   http.Header
	body     []byte
	tooLarge bool  // the body went on beyond maxBody; what was read of it is dropped
	readErr  error // the body broke off
	sentAt   time.Time
	certEnds time.Time // of the server's certificate; zero without TLS
}

// peer is who a client asks, for its texts; the zero value is the token endpoint.
type peer struct {
	name   string // "revocation endpoint"
	option string // what to set if its address is wrong
}

func (p peer) called() string {
	if p.name == "" {
		return "token endpoint"
	}
	return p.name
}

func (p peer) setBy() string {
	if p.option == "" {
		return "token_endpoint"
	}
	return p.option
}

// send is the door to the token endpoint and the others of its server, the only one there is. It sends req at most once, over a connection of its
// own, and follows nothing. Its errors are of type [*Error].
func (c *Client) send(req *http.Request) (*reply, error) {
	ctx, cancel := context.WithCancel(req.Context())
	defer cancel() // ends the connection too, whatever state it is in
	wire := &wire{ctx: ctx, reach: c.cfg.Reach}
	if c.cfg.Certificate != nil {
		pair, err := c.cfg.Certificate.Load()
		if err != nil {
			return nil, err // nothing was sent
		}
		wire.pair = pair
	}
	trace := &httptrace.ClientTrace{GotConn: wire.gotConn}
	client := &http.Client{
		Transport:     door{wire.transport(&c.cfg)},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req.WithContext(httptrace.WithClientTrace(ctx, trace)))
	if err != nil {
		return nil, c.networkFailure(ctx, err, wire.progress())
	}
	defer func() { _ = resp.Body.Close() }() // the connection is thrown away: nothing to lose

	answer := &reply{status: resp.StatusCode, header: resp.Header, sentAt: wire.readyAt}
	if resp.TLS != nil && len(resp.TLS.PeerCertificates) > 0 {
		answer.certEnds = resp.TLS.PeerCertificates[0].NotAfter
	}
	answer.body, err = io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	switch {
	case err != nil:
		// Classified while ctx still tells a time-out from a break.
		answer.readErr = c.networkFailure(ctx, err, wire.progress())
	case len(answer.body) > maxBody:
		answer.body, answer.tooLarge = nil, true
	}
	return answer, nil
}

// wire is the one connection of one exchange, and what is known about it.
type wire struct {
	ctx  context.Context // the exchange's; net/http would let a dial live on after its request
	pair *tls.Certificate

	reach   func(netip.AddrPort) error // see Config.Reach
	proxied bool                       // the address that is dialled is a proxy's

	asked   atomic.Bool  // the server asked for a certificate
	written atomic.Int64 // bytes the network took, TLS included
	readyAt time.Time    // when the connection was ready for the request; zero: it never was
	before  int64        // what written stood at then
}

// transport makes a transport for a single exchange. A connection that was used before may be dead already, and
// net/http then sends the request again on its own: a rotating refresh token would be sent twice. So there is no
// keep-alive, and no HTTP/2, which has more reasons to send again. A token request is rare enough to pay for a
// handshake.
func (w *wire) transport(cfg *Config) *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	config := &tls.Config{RootCAs: cfg.RootCAs, MinVersion: tls.VersionTLS12}
	// A function, since a fixed certificate is held back from servers that do not list its issuer, and the refusal
	// would then read "certificate required".
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		w.asked.Store(true)
		if w.pair == nil {
			return new(tls.Certificate), nil // means none
		}
		return w.pair, nil
	}
	return &http.Transport{
		Proxy:                  w.proxy,
		DialContext:            w.dial,
		TLSClientConfig:        config,
		DisableKeepAlives:      true,
		DisableCompression:     true,
		Protocols:              protocols,
		MaxResponseHeaderBytes: maxHeader,
	}
}

func (w *wire) dial(_ context.Context, network, addr string) (net.Conn, error) {
	dialer := new(net.Dialer)
	if w.reach != nil && !w.proxied {
		dialer.Control = w.control
	}
	conn, err := dialer.DialContext(w.ctx, network, addr)
	if err != nil {
		return nil, err
	}
	context.AfterFunc(w.ctx, func() { _ = conn.Close() }) // the end of the exchange; also ends a stuck handshake
	return &countedConn{Conn: conn, written: &w.written}, nil
}

// proxy is asked once, before the one connection is dialled.
func (w *wire) proxy(req *http.Request) (*url.URL, error) {
	u, err := http.ProxyFromEnvironment(req)
	w.proxied = u != nil
	return u, err
}

// control is called with the address that is about to be connected to.
func (w *wire) control(_, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err == nil {
		err = w.reach(to)
	}
	if err != nil {
		return &outOfReach{err}
	}
	return nil
}

// outOfReach says that Config.Reach did not allow an address.
type outOfReach struct{ err error }

func (e *outOfReach) Error() string { return e.err.Error() }

// gotConn is called when the connection is ready, TLS included, just before the request is written.
func (w *wire) gotConn(httptrace.GotConnInfo) {
	w.before, w.readyAt = w.written.Load(), time.Now()
}

// progress is how far an exchange got.
type progress struct {
	asked   bool // the server asked for a client certificate
	carried bool // a byte of the request left
}

// progress counts bytes because WroteRequest of httptrace cannot tell: it fires when the request is in a buffer.
func (w *wire) progress() progress {
	return progress{asked: w.asked.Load(), carried: !w.readyAt.IsZero() && w.written.Load() > w.before}
}

// countedConn counts what was written, and leaves it to the reading side to report a broken connection. A server that
// refuses a client certificate under TLS 1.3 says so after our side of the handshake is over, while the request is
// being written; a failed write would hide that word, and also an early HTTP answer.
type countedConn struct {
	net.Conn
	written *atomic.Int64
}

// Write never fails. A lost connection fails the next Read, and the end of the exchange closes it.
func (c *countedConn) Write(p []byte) (int, error) {
	c.written.Add(int64(len(p))) // before: an answer can be here before Write returns
	n, err := c.Conn.Write(p)
	c.written.Add(int64(n - len(p)))
	if err != nil && !errors.Is(err, net.ErrClosed) {
		return len(p), nil // see above: the reading side reports it
	}
	return n, err
}

// door keeps a redirect's target from http.Client, which parses it before it asks whether to follow, and repeats it in
// an error text.
type door struct{ inner *http.Transport }

func (d door) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := d.inner.RoundTrip(req)
	if err == nil {
		resp.Header.Del("Location")
	}
	return resp, err
}

// Interface guards.
var (
	_ http.RoundTripper = door{}
	_ net.Conn          = (*countedConn)(nil)
)
