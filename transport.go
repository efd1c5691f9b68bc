package caddyoauth

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"
)

func init() {
	caddy.RegisterModule(Transport{})
}

const (
	// defaultReplayLimit is how much of a request's body is kept to replay it after a 401.
	defaultReplayLimit = 64 << 10
	// defaultIdleConnections replaces Caddy's default of 32 idle connections per upstream: beyond that many clients at once
	// connections are closed and opened again all the time, which cost 9 % CPU in measurements.
	defaultIdleConnections = 256
	// keptRefusal bounds how much of an upstream's 401 body is kept while a replay is tried.
	keptRefusal = 64 << 10
)

// Transport is Caddy's HTTP transport with a token on each request that an `oauth2_inject` handler has planned for. All options
// of the `http` transport are its own; requests without a plan, health checks among them, pass unchanged.
type Transport struct {
	*reverseproxy.HTTPTransport

	// Inject holds the options beyond those of the http transport.
	Inject *TransportOptions `json:"oauth2_inject,omitempty"`

	logger     *zap.Logger
	allow      *hostList
	allowError error // why there is no default allow-list; told when a connection has none either
	limit      int64
}

// TransportOptions are the options of a Transport beyond those of the http transport.
type TransportOptions struct {
	// AllowHosts are the only hosts that may receive a token: `host`, `host:port`, `*.domain` or a CIDR range. Default: the
	// upstreams of the reverse_proxy, which must then be static and without placeholders.
	AllowHosts []string `json:"allow_hosts,omitempty"`
	// ReplayLimit is the size in bytes up to which a request's body is kept to replay it after a 401. Default: 64 KiB; -1
	// keeps none.
	ReplayLimit int64 `json:"replay_limit,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (Transport) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.reverse_proxy.transport.oauth2_inject",
		New: func() caddy.Module { return &Transport{HTTPTransport: new(reverseproxy.HTTPTransport)} },
	}
}

// Provision sets up the HTTP transport and the list of hosts that may receive a token.
func (t *Transport) Provision(ctx caddy.Context) error {
	t.logger = ctx.Logger()
	options := TransportOptions{}
	if t.Inject != nil {
		options = *t.Inject
	}
	t.limit = options.ReplayLimit
	if t.limit == 0 {
		t.limit = defaultReplayLimit
	}
	if t.KeepAlive == nil {
		t.KeepAlive = new(reverseproxy.KeepAlive)
	}
	if t.KeepAlive.MaxIdleConnsPerHost == 0 {
		t.KeepAlive.MaxIdleConnsPerHost = defaultIdleConnections
	}
	if t.Compression == nil {
		// Else net/http asks for gzip where the client did not, only to unpack the answer: CPU, and a Content-Length, for bandwidth.
		t.Compression = new(bool)
	}
	if t.TLS != nil && strings.Contains(t.TLS.ServerName, "{") {
		// Connections are pooled by address. A request that names another server must not get one that was opened, and whose
		// certificate was checked, for a name that may not receive the token.
		t.KeepAlive.Enabled = new(bool)
	}
	var dials []string
	if proxy := parentProxy(ctx); proxy != nil {
		for _, upstream := range proxy.Upstreams {
			dials = append(dials, upstream.Dial)
		}
	}
	if err := t.provisionHosts(options.AllowHosts, dials); err != nil {
		return err
	}
	if err := t.warnPlaintext(ctx, dials); err != nil {
		return err
	}
	if t.TLS == nil && t.ForwardProxyURL == "" && len(t.NetworkProxyRaw) == 0 {
		// In the clear, a proxy from HTTP_PROXY would read the token. One that is configured here is the operator's word.
		t.NetworkProxyRaw = []byte(`{"from":"none"}`)
	}
	return t.HTTPTransport.Provision(ctx)
}

// parentProxy returns the reverse_proxy that the transport belongs to; nil when it is used by something else.
func parentProxy(ctx caddy.Context) *reverseproxy.Handler {
	modules := ctx.Modules()
	for i := len(modules) - 1; i >= 0; i-- {
		if proxy, ok := modules[i].(*reverseproxy.Handler); ok {
			return proxy
		}
	}
	return nil
}

// provisionHosts settles who may receive a token: the configured hosts, else the upstreams of the proxy as they are written.
func (t *Transport) provisionHosts(configured, dials []string) (err error) {
	if len(configured) > 0 {
		resolver := &resolver{repl: caddy.NewReplacer()}
		configured = resolver.texts("allow_hosts", configured)
		if err := errors.Join(resolver.faults...); err != nil {
			return err
		}
		if t.allow, err = newHostList(configured); err != nil {
			return fmt.Errorf("allow_hosts: %w", err)
		}
		return nil
	}
	switch {
	case len(dials) == 0:
		t.allowError = errors.New("the upstreams are dynamic, so allow_hosts must name who may receive the token")
	case strings.Contains(strings.Join(dials, ""), "{") || t.TLS != nil && strings.Contains(t.TLS.ServerName, "{"):
		t.allowError = errors.New("an upstream's address or server name holds a placeholder, so allow_hosts must name who may receive the token")
	default:
		if t.allow, err = upstreamHosts(dials); err == nil && t.TLS != nil && t.TLS.ServerName != "" {
			err = t.allow.add(strings.ToLower(t.TLS.ServerName)) // written by the operator beside the upstreams
		}
	}
	return err
}

// warnPlaintext tells the app, for the log and the status, which upstreams get tokens that others can read on the way.
func (t *Transport) warnPlaintext(ctx caddy.Context, dials []string) error {
	hosts := plaintextHosts(dials, t.TLS != nil)
	if len(hosts) == 0 {
		return nil
	}
	app, err := ctx.App(appName)
	if err != nil {
		return err
	}
	for _, host := range hosts {
		app.(*App).active.warn(t.logger, "tokens travel to the upstream "+host+" without TLS; anyone on the way can read them")
	}
	return nil
}

// RoundTrip implements http.RoundTripper.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	p, ok := req.Context().Value(planKey{}).(*plan)
	if !ok {
		return t.HTTPTransport.RoundTrip(req)
	}
	p.taken = true
	t.SetScheme(req)
	if p.lacks != nil {
		return t.incomplete(req, p, &unknownFact{*p.lacks}), nil
	}
	if err := t.permits(req, p); err != nil {
		p.count(problemHost.code)
		t.logger.Error("the token was not sent", zap.String("connection", p.conn.name), zap.Error(err))
		return t.answer(req, problemHost), nil
	}
	if err := p.conn.rules.permits(req); err != nil {
		p.count(problemRequest.code)
		tellRefused(req, p, err)
		return t.answer(req, problemRequest), nil
	}
	if !p.token.Usable(time.Now()) { // the request was held up on its way here, by a slow upload say
		if err := p.obtain(req.Context()); err != nil {
			return t.noToken(req, p, err)
		}
	}
	body := keepBody(req, t.limit)
	resp, err := t.send(req, p, body.reader(req))
	if err != nil || resp.StatusCode != http.StatusUnauthorized || p.replayed {
		body.release()
		return resp, err
	}
	p.replayed = true
	return t.replay(req, p, resp, body)
}

// send puts the token on a copy of the request. The one that Caddy holds, and logs, stays without.
func (t *Transport) send(req *http.Request, p *plan, body io.ReadCloser) (*http.Response, error) {
	out := p.copyOf(req)
	out.Body = body
	err := p.conn.injection.apply(out, p.token)
	if err != nil && p.lookAgain() {
		err = p.conn.injection.apply(out, p.token)
	}
	if err != nil {
		return t.incomplete(req, p, err), nil
	}
	p.countInjected()
	resp, err := t.HTTPTransport.RoundTrip(out)
	if resp != nil {
		resp.Request = req // the response must not lead anyone to the token
	}
	return resp, err
}

// replay answers a 401 by one refresh and one more attempt. Where that is not possible or does not help, the upstream's own
// 401 is the answer.
func (t *Transport) replay(req *http.Request, p *plan, refusal *http.Response, body *keptBody) (*http.Response, error) {
	defer body.release()
	if !body.replayable() {
		p.countReplay(replayBodyLost)
		p.source.Suspect(p.conn.settings, p.token)
		return refusal, nil
	}
	next := p.source.Rejected(req.Context(), p.conn.settings, p.token)
	if next == nil {
		p.countReplay(replayNoNewToken)
		return refusal, nil
	}
	// The first attempt must be over before its body can be sent again: net/http may still be reading it.
	keep, err := io.ReadAll(io.LimitReader(refusal.Body, keptRefusal))
	refusal.Body.Close()
	refusal.Body = io.NopCloser(bytes.NewReader(keep))
	if err != nil || len(keep) == keptRefusal {
		refusal.ContentLength = int64(len(keep))
		refusal.Header.Set("Content-Length", fmt.Sprint(len(keep)))
	}
	again, err := body.whole(req.Context())
	if err != nil {
		p.countReplay(replayBodyLost)
		return refusal, nil
	}
	p.token = next
	resp, err := t.send(req, p, again)
	p.countReplay(replayResult(resp, err))
	if err != nil {
		t.logger.Warn("the replay after a 401 failed; answering with the 401", zap.String("connection", p.conn.name), zap.Error(err))
		return refusal, nil
	}
	return resp, nil
}

// replayResult names what came of a replay.
func replayResult(resp *http.Response, err error) string {
	switch {
	case err != nil:
		return replayFailed
	case resp.StatusCode == http.StatusUnauthorized:
		return replayRefused
	}
	return replayHelped
}

// permits reports why the token must not go where the request is about to go. The host is the one that is dialled, never one
// that the request names.
func (t *Transport) permits(req *http.Request, p *plan) error {
	dial, ok := reverseproxy.GetDialInfo(req.Context())
	if !ok {
		return errors.New("it is not known which host the request goes to")
	}
	allowed := p.conn.allowed(p.token)
	if t.allow == nil && allowed == nil {
		return t.allowError
	}
	to := destination{
		dial: dial, serverName: t.serverName(req), plaintext: req.URL.Scheme != "https",
		verified: t.TLS != nil && !t.TLS.InsecureSkipVerify,
	}
	if t.allow != nil {
		if err := t.allow.permits(to); err != nil {
			return err
		}
	}
	if allowed != nil {
		return allowed.permits(to)
	}
	return nil
}

// serverName returns the TLS server name that is configured, with its placeholders replaced; "" without TLS, or when the name
// follows from the dialled host.
func (t *Transport) serverName(req *http.Request) string {
	if t.TLS == nil || t.TLS.ServerName == "" || req.URL.Scheme != "https" {
		return ""
	}
	if !strings.Contains(t.TLS.ServerName, "{") {
		return t.TLS.ServerName
	}
	repl, ok := req.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return t.TLS.ServerName
	}
	return repl.ReplaceAll(t.TLS.ServerName, "")
}

// noToken answers a request for which the handler had a token that has run out since.
func (t *Transport) noToken(req *http.Request, p *plan, err error) (*http.Response, error) {
	if cause := req.Context().Err(); cause != nil {
		p.count(outcomeCanceled)
		return nil, cause
	}
	p.count(problemOf(err).code)
	return t.answer(req, problemOf(err)), nil
}

// incomplete answers a request that needs what the connection does not know. It is not sent: half of what an API wants may mean
// something else to it.
func (t *Transport) incomplete(req *http.Request, p *plan, err error) *http.Response {
	p.count(problemIncomplete.code)
	t.logger.Error("the request was not sent", zap.String("connection", p.conn.name), zap.Error(err))
	return t.answer(req, problemIncomplete)
}

// answer makes up a response. An error instead would count as the upstream's failure, for everybody.
func (t *Transport) answer(req *http.Request, p problem) *http.Response {
	header := make(http.Header)
	body := p.render(header, req.Header.Get("Accept"))
	return &http.Response{
		Status: http.StatusText(p.Status), StatusCode: p.Status,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: header, Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)), Request: req,
	}
}

// Interface guards.
var (
	_ caddy.Provisioner                      = (*Transport)(nil)
	_ caddy.CleanerUpper                     = (*Transport)(nil)
	_ http.RoundTripper                      = (*Transport)(nil)
	_ reverseproxy.TLSTransport              = (*Transport)(nil)
	_ reverseproxy.H2CTransport              = (*Transport)(nil)
	_ reverseproxy.ProxyProtocolTransport    = (*Transport)(nil)
	_ reverseproxy.RequestHeaderOpsTransport = (*Transport)(nil)
)
