package caddyoauth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

func init() {
	caddy.RegisterModule(Handler{})
}

// viaTransport is the value of Handler.Via for which the transport injects.
const viaTransport = "transport"

// Handler makes sure that there is a usable token, and has it travel with the request. It fails closed: without a token the
// next handler is not reached.
//
// With `via` set to `transport` the token is put on the upstream request by the reverse_proxy transport `oauth2_inject`
// further down; nothing else can see it. Otherwise the handler sets the header on the request itself, and takes it away again
// when the handlers below return.
type Handler struct {
	// Connection names a connection of the app. It may hold request placeholders.
	Connection string `json:"connection,omitempty"`
	// Inline is a connection that is configured right here; its name is Connection.
	Inline *Connection `json:"inline,omitempty"`
	// Via is `header` (the default) or `transport`.
	Via string `json:"via,omitempty"`
	// RedirectToConnect leads a browser that comes without an account to the provider and back, instead of to a page with a
	// button. It needs an `oauth2_connect`, and is for navigations alone: other requests are answered as without it.
	RedirectToConnect bool `json:"redirect_to_connect,omitempty"`
	// Environment says which environment this site is, for a stored connection that has values for several. Default: that of the app.
	Environment string `json:"environment,omitempty"`

	app    *App
	logger *zap.Logger
	fixed  *activeConnection // nil when the name holds placeholders
	missed *sync.Once        // that no transport took the token is said once
}

// CaddyModule returns the Caddy module information.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.oauth2_inject", New: func() caddy.Module { return new(Handler) }}
}

// Provision finds the connection.
func (h *Handler) Provision(ctx caddy.Context) error {
	h.logger = ctx.Logger()
	h.missed = new(sync.Once)
	module, err := ctx.App(appName)
	if err != nil {
		return err
	}
	h.app = module.(*App)
	if h.Via != "" && h.Via != "header" && h.Via != viaTransport {
		return fmt.Errorf("via: %q is neither header nor transport", h.Via)
	}
	switch {
	case h.Connection == "":
		return errors.New("connection: a name is required")
	case h.Environment != "" && !isEntryName(h.Environment):
		return fmt.Errorf("environment: %q is not a name", h.Environment)
	case h.Inline != nil:
		if _, taken := h.app.Connections[h.Connection]; taken {
			return fmt.Errorf("connection %q is configured in the global options as well as inline; rename one", h.Connection)
		}
		if h.fixed, err = h.app.addConnection(h.Connection, h.Inline); err != nil {
			return err
		}
	case !strings.Contains(h.Connection, "{"):
		fixed, ok := h.app.active.configured(h.Connection)
		if !ok && h.app.Stored == nil { // else it may be made at any time
			return unknownConnection(h.Connection, h.app.Connections)
		}
		h.fixed = fixed
	}
	if h.fixed != nil {
		return h.suits(h.fixed)
	}
	return nil
}

// suits reports why this form cannot be used with that connection: what the handler cannot guard, it refuses.
func (h *Handler) suits(c *activeConnection) error {
	if h.Via == viaTransport {
		return nil
	}
	switch {
	case c.injection.header == "":
		return fmt.Errorf("connection %q: a token in the query would show up in logs in this form; put the reverse_proxy inside the oauth2_inject block, or use `via transport`", c.name)
	case len(c.injection.params) > 0:
		return fmt.Errorf("connection %q: param cannot be added in this form; put the reverse_proxy inside the oauth2_inject block, or use `via transport`", c.name)
	case c.allow != nil, c.injection.hosts != nil:
		return fmt.Errorf("connection %q: allow_hosts cannot be checked in this form (a preset brings its own); put the reverse_proxy inside the oauth2_inject block, or use `via transport`", c.name)
	}
	return nil
}

// MarshalLogObject implements zapcore.ObjectMarshaler: with `trace` Caddy logs every handler with its configuration, and an
// inline connection may hold a client secret as the user wrote it.
func (h *Handler) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	enc.AddString("connection", h.Connection)
	enc.AddBool("inline", h.Inline != nil)
	enc.AddString("via", h.Via)
	enc.AddBool("redirect_to_connect", h.RedirectToConnect)
	return nil
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	p := &plan{span: recordedSpan(r.Context())}
	repl, _ := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if repl != nil {
		repl.Map(p.placeholder)
	}
	if p.conn = h.fixed; p.conn == nil {
		if p.conn, p.err = h.choose(r.Context(), repl); p.err != nil {
			return h.refuse(w, r, p)
		}
	}
	if p.source, p.err = p.conn.forSubject(repl); p.err != nil {
		return h.refuse(w, r, p)
	}
	if h.Via != viaTransport { // else the transport looks at the request as it is sent
		if p.err = p.conn.rules.permits(r); p.err != nil {
			tellRefused(r, p, p.err)
			return h.refuse(w, r, p)
		}
	}
	if p.obtain(r.Context()) != nil {
		return h.refuse(w, r, p)
	}
	if h.Via == viaTransport {
		return h.hand(w, r, next, p)
	}
	return h.wear(w, r, next, p)
}

// hand passes the plan on to the transport through the request's context. The request is changed in place, since Caddy's
// replacer keeps the pointer to the request that it was made for.
func (h *Handler) hand(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, p *plan) error {
	p.guarded = true
	*r = *r.WithContext(context.WithValue(r.Context(), planKey{}, p))
	err := next.ServeHTTP(w, r)
	p.count(outcomeUnused) // unless it was counted on its way
	if !p.taken {
		h.missed.Do(func() {
			h.logger.Warn("no transport took the token, so it was not sent: no reverse_proxy with `transport oauth2_inject` answered the request",
				zap.String("connection", p.conn.name))
		})
	}
	return err
}

// wear puts the token on the request itself for as long as the handlers below run.
func (h *Handler) wear(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, p *plan) error {
	worn, err := p.conn.injection.dress(r.Header, p.token)
	if err != nil && p.lookAgain() {
		undress(r.Header, worn)
		worn, err = p.conn.injection.dress(r.Header, p.token)
	}
	defer undress(r.Header, worn)
	if err != nil {
		p.err = err
		return h.refuse(w, r, p)
	}
	p.countInjected()
	watch := &statusWatch{ResponseWriterWrapper: &caddyhttp.ResponseWriterWrapper{ResponseWriter: w}}
	err = next.ServeHTTP(watch, r)
	if watch.status == http.StatusUnauthorized {
		// Running the handlers below again would be wrong: they may have changed the request, or answered 401 themselves.
		p.source.Suspect(p.conn.settings, p.token)
	}
	return err
}

// refuse ends the request without a token.
func (h *Handler) refuse(w http.ResponseWriter, r *http.Request, p *plan) error {
	if cause := r.Context().Err(); cause != nil && errors.Is(p.err, cause) {
		p.count(outcomeCanceled)
		return p.err // the client is gone
	}
	if c := h.logger.Check(zap.DebugLevel, "no token for a request"); c != nil {
		c.Write(zap.Error(p.err))
	}
	problem := problemOf(p.err)
	if p.count(problem.code); p.conn == nil {
		h.app.metrics.meter(otherLabel).request(problem.code)
	}
	if problem.Authorize = h.authorizeLink(r, p); problem.Authorize != "" {
		problem.Provider = p.conn.consent.title
		if h.redirects(r, p) {
			h.redirect(w, r, p, problem.Authorize)
			return nil
		}
	}
	failure := caddyhttp.Error(problem.Status, p.err)
	if handlesErrors(r, failure) {
		problem.setRetryAfter(w.Header())
		return failure
	}
	problem.write(w, r)
	return nil
}

// authorizeLink returns the way to authorize the connection and to come back; "" when that is not what is missing, or when no
// oauth2_connect offers it.
func (h *Handler) authorizeLink(r *http.Request, p *plan) string {
	if p.conn == nil || p.source == nil || !p.conn.needsPerson() {
		return ""
	}
	if code := problemOf(p.err).code; code != problemPerson.code && code != problemIncomplete.code {
		return ""
	}
	offer, ok := h.app.active.offerOf(p.conn)
	if !ok {
		return ""
	}
	returnTo := ""
	if original, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok && r.Method == http.MethodGet {
		returnTo = localPath(original.URL.RequestURI())
	}
	return connectLink(offer.path, p.conn.name, returnTo)
}

// handlesErrors reports whether the site has a handle_errors for this failure. All sites of a listener share one server, so
// that there are error routes does not tell: those of a neighbour would leave this client with an empty answer.
func handlesErrors(r *http.Request, failure error) bool {
	server, ok := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok || server.Errors == nil {
		return false
	}
	return anyAnswers(server.Errors.Routes, server.Errors.WithError(r, failure))
}

// anyAnswers reports whether one of the routes, or one inside of them, would answer the request.
func anyAnswers(routes caddyhttp.RouteList, r *http.Request) bool {
	for _, route := range routes {
		if matched, err := route.MatcherSets.AnyMatchWithError(r); err != nil || !matched {
			continue
		}
		for _, handler := range route.Handlers {
			if inner, ok := handler.(*caddyhttp.Subroute); !ok || anyAnswers(inner.Routes, r) {
				return true
			}
		}
	}
	return false
}

// keepOnConnection takes a header's name out of the client's Connection list: reverse_proxy drops every header that is on it
// (RFC 9110 section 7.6.1), and a client must not be able to have the token dropped.
func keepOnConnection(header http.Header, name string) {
	lists := header["Connection"]
	if len(lists) == 0 {
		return
	}
	var kept []string
	for _, list := range lists {
		for option := range strings.SplitSeq(list, ",") {
			if option = strings.TrimSpace(option); option != "" && !strings.EqualFold(option, name) {
				kept = append(kept, option)
			}
		}
	}
	if len(kept) == 0 {
		header.Del("Connection")
		return
	}
	header["Connection"] = []string{strings.Join(kept, ", ")}
}

// statusWatch remembers the status that was written last: informational responses come before the one that counts.
type statusWatch struct {
	*caddyhttp.ResponseWriterWrapper
	status int
}

// WriteHeader implements http.ResponseWriter.
func (w *statusWatch) WriteHeader(status int) {
	w.status = status
	w.ResponseWriterWrapper.WriteHeader(status)
}

// Interface guards.
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
	_ zapcore.ObjectMarshaler     = (*Handler)(nil)
)
