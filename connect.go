package caddyoauth

import (
	"cmp"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddyoauth/caddyoauth/internal/connection"
	"github.com/caddyoauth/caddyoauth/internal/oauth"
	"github.com/caddyoauth/caddyoauth/internal/pages"
)

func init() {
	caddy.RegisterModule(Connect{})
}

// Defaults of a [Connect].
const (
	defaultConnectPath = "/connect"
	defaultIdentity    = "{http.auth.user.id}"
)

// Connect serves the pages on which people connect their accounts: a list, the way to the provider, the way back, and the end of
// a connection. It must stand behind authentication: without an identity nothing is served.
type Connect struct {
	// Path is where the pages are, without a slash at the end. Default: `/connect`.
	Path string `json:"path,omitempty"`
	// Connections are those that may be connected here. Default: all that people authorize.
	Connections []string `json:"connections,omitempty"`
	// Identity says who the visitor is, by request placeholders. Empty for a request means that it is refused. Default:
	// `{http.auth.user.id}`, which Caddy's authentication sets.
	Identity string `json:"identity,omitempty"`
	// RedirectBase is the scheme and host of the redirect URI, such as `https://app.example.com`. Default: those of the request,
	// which are wrong behind another proxy that ends TLS.
	RedirectBase string `json:"redirect_base,omitempty"`

	app        *App
	logger     *zap.Logger
	path       string
	offer      offer
	identity   string
	sameOrigin *http.CrossOriginProtection
}

// CaddyModule returns the Caddy module information.
func (Connect) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.oauth2_connect", New: func() caddy.Module { return new(Connect) }}
}

// Provision checks the configuration and makes the pages known to the connections, which point people to them.
func (h *Connect) Provision(ctx caddy.Context) error {
	h.logger = ctx.Logger()
	h.sameOrigin = http.NewCrossOriginProtection()
	h.path, h.identity = h.Path, h.Identity
	if h.path == "" {
		h.path = defaultConnectPath
	}
	if h.identity == "" {
		h.identity = defaultIdentity
	}
	if !strings.HasPrefix(h.path, "/") || strings.HasSuffix(h.path, "/") || strings.ContainsAny(h.path, "*?#{") {
		return fmt.Errorf("path: %q is not an absolute path without a slash at the end", h.path)
	}
	if h.RedirectBase != "" {
		base, err := url.Parse(h.RedirectBase)
		if err != nil || base.Scheme+"://"+base.Host != h.RedirectBase || base.Host == "" ||
			base.Scheme != "https" && (base.Scheme != "http" || !isLoopback(base.Hostname())) {
			return errors.New("redirect_base: give scheme and host alone, with https unless it is this machine")
		}
	}
	module, err := ctx.App(appName)
	if err != nil {
		return err
	}
	h.app = module.(*App)
	for _, name := range h.Connections {
		c, ok := h.app.active.get(name)
		if !ok && h.app.Stored != nil {
			continue // it may be made at any time
		}
		if !ok {
			return unknownConnection(name, h.app.Connections)
		}
		if !c.needsPerson() {
			return fmt.Errorf("connection %q is not one that people authorize", name)
		}
	}
	h.offer = offer{base: h.RedirectBase, path: h.path, connections: h.Connections}
	h.app.active.offer(h.offer)
	return nil
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (h *Connect) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	rest, ours := strings.CutPrefix(r.URL.Path, h.path)
	if !ours || rest != "" && rest[0] != '/' {
		return next.ServeHTTP(w, r)
	}
	pages.SetHeaders(w.Header())
	action, name, _ := strings.Cut(strings.Trim(rest, "/"), "/")
	if action == "callback" || action == "authorize" {
		// The query of the one holds the code, the Location of the other the state. Both have a line in our own log.
		caddyhttp.SetVar(r.Context(), caddyhttp.LogSkipVar, true)
	}
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	identity, err := repl.ReplaceOrErr(h.identity, true, true)
	if err != nil || identity == "" {
		nobody := pageNobody
		nobody.Site = r.Host
		return render(w, nobody.Status, "message.html", nobody)
	}
	v := &visit{Connect: h, w: w, r: r, repl: repl, who: visitor{identity: identity, browser: h.browser(w, r)}}
	switch {
	case action == "" && r.Method == http.MethodGet:
		return v.list()
	case action == "authorize" && (r.Method == http.MethodGet || r.Method == http.MethodPost):
		return v.authorize(name)
	case action == "callback" && name == "" && r.Method == http.MethodGet:
		return v.callback()
	case action == "callback" && name == "" && r.Method == http.MethodPost:
		return v.fragment()
	case action == "done" && r.Method == http.MethodGet:
		return v.result(name)
	case action == "disconnect" && r.Method == http.MethodGet:
		return v.confirm(name)
	case action == "disconnect" && r.Method == http.MethodPost:
		return v.disconnect(name)
	}
	return v.show(pageNothing)
}

// visit is one request to the pages, by somebody who is known.
type visit struct {
	*Connect
	w    http.ResponseWriter
	r    *http.Request
	repl *caddy.Replacer
	who  visitor
}

// find returns a connection that may be connected here, and the visitor's own source.
func (v *visit) find(name string) (*activeConnection, *connection.Source, bool) {
	c, ok := v.app.active.get(name)
	if !ok || !c.needsPerson() || !v.offer.has(c) {
		return nil, nil, false
	}
	source, err := c.forSubject(v.repl)
	return c, source, err == nil
}

// authorize sends the visitor to the provider.
func (v *visit) authorize(name string) error {
	if err := v.sameOrigin.Check(v.r); err != nil {
		return v.show(pageForeign)
	}
	c, source, ok := v.find(name)
	if !ok {
		return v.show(pageNothing)
	}
	if v.r.Method == http.MethodGet && ledHere(v.r) {
		// Another site may lead people here, but not through: at the provider they may be signed in as somebody else.
		return v.show(page{
			Status: http.StatusOK, Tone: "off", Title: "Connect " + c.consent.title + "?",
			Acts:   []act{{v.link(c, localPath(v.r.URL.Query().Get("return_to"))), "Connect"}},
			Detail: "Another site has led you here. Go on only if you want this site to use your account on your behalf.",
		})
	}
	var given map[string]string
	if len(c.consent.fields) > 0 {
		var wrong map[string]string
		if v.r.Method == http.MethodPost {
			given, wrong = answers(c.consent.fields, v.w, v.r)
		}
		if given == nil || len(wrong) > 0 {
			return v.ask(c, source, given, wrong)
		}
	}
	to, err := v.app.beginAuthorization(v.r.Context(), c, source, pendingV1{
		Identity: v.who.identity, Browser: browserDigest(v.who.browser), RedirectURI: v.redirectURI(v.r),
		ReturnTo: localPath(v.r.URL.Query().Get("return_to")), Fields: given,
	})
	switch {
	case errors.Is(err, errPendingMany):
		v.logger.Warn("could not begin an authorization", zap.String("connection", c.name), zap.Error(err))
		v.w.Header().Set("Retry-After", strconv.Itoa(int(time.Minute/time.Second)))
		return v.show(pageMany)
	case err != nil:
		v.logger.Error("could not begin an authorization", zap.String("connection", c.name), zap.Error(err))
		return v.show(explain(err))
	}
	v.logger.Info("an authorization was begun", zap.String("connection", c.name))
	http.Redirect(v.w, v.r, to, http.StatusSeeOther)
	return nil
}

// ledHere reports whether a page of another origin has brought the visitor, be it of the same site: who has a neighbouring host is
// not for that to be trusted with people's accounts.
func ledHere(r *http.Request) bool {
	from := r.Header.Get("Sec-Fetch-Site")
	return from == "cross-site" || from == "same-site"
}

// callback is where the provider sends the visitor back to.
func (v *visit) callback() error {
	if v.awaitsFragment() {
		return v.takeFragment()
	}
	return v.finished(v.app.finishAuthorization(v.r.Context(), v.r.URL.RawQuery, v.who))
}

// finished tells how an authorization has ended.
func (v *visit) finished(out outcome, err error) error {
	if err != nil {
		return v.failed(out.conn, out.returnTo, err)
	}
	v.logger.Info("a connection was authorized", zap.String("connection", out.conn.name))
	if source, err := out.conn.forSubject(v.repl); err == nil {
		v.audit("subject.authorize", out.conn, source.ID().Subject)
	}
	to := cmp.Or(out.returnTo, v.resultLink(out.conn))
	if out.test != nil && !out.test.OK && out.test.Fault != string(oauth.BlameAPI) {
		return v.show(untested(out.conn.consent.title, *out.test, []act{{to, "Go on"}, {v.link(out.conn, out.returnTo), "Connect again"}}))
	}
	http.Redirect(v.w, v.r, to, http.StatusSeeOther)
	return nil
}

// failed explains why an authorization did not come about.
func (v *visit) failed(c *activeConnection, returnTo string, err error) error {
	page := explain(err)
	fields := []zap.Field{zap.Error(err)}
	if c != nil {
		page.Acts = []act{{v.link(c, returnTo), "Try again"}}
		if page.forOperator { // trying again helps no sooner than somebody has put it right
			page.Acts = []act{{v.path, "Connected accounts"}, {v.link(c, returnTo), "Try again"}}
		}
		fields = append(fields, zap.String("connection", c.name))
	}
	v.logger.Warn("an authorization did not come about", fields...)
	return v.show(page)
}

// disconnect ends a connection.
func (v *visit) disconnect(name string) error {
	if err := v.sameOrigin.Check(v.r); err != nil {
		return v.show(pageForeign)
	}
	c, source, ok := v.find(name)
	if !ok {
		return v.show(pageNothing)
	}
	told, err := v.app.end(v.r.Context(), c, source, v.who.identity)
	if err != nil {
		v.logger.Error("could not end a connection", zap.String("connection", c.name), zap.Error(err))
		return v.show(pageTrouble)
	}
	v.logger.Info("a connection was ended", zap.String("connection", c.name), zap.Bool("provider_told", told))
	v.audit("subject.revoke", c, source.ID().Subject)
	if !told {
		return v.show(notTold(c.consent.title))
	}
	http.Redirect(v.w, v.r, v.resultLink(c), http.StatusSeeOther)
	return nil
}

// link returns the way to authorize a connection and to come back.
func (h *Connect) link(c *activeConnection, returnTo string) string {
	return connectLink(h.path, c.name, returnTo)
}

// connectLink returns the way to authorize a connection on the pages at that path.
func connectLink(base, name, returnTo string) string {
	link := base + "/authorize/" + url.PathEscape(name)
	if returnTo != "" {
		link += "?return_to=" + url.QueryEscape(returnTo)
	}
	return link
}

// redirectURI is the one place where the redirect URI is made; it is shown for registration, sent to the provider, and sent again
// with the code.
func (h *Connect) redirectURI(r *http.Request) string {
	base := h.RedirectBase
	if base == "" {
		base = "http://" + r.Host
		if r.TLS != nil {
			base = "https://" + r.Host
		}
	}
	return base + h.path + "/callback"
}

// browser returns the value of this browser's cookie, and sets one if there is none. All tabs share it, so that two of them can
// authorize at once; each state is single use all the same.
func (h *Connect) browser(w http.ResponseWriter, r *http.Request) string {
	cookie := http.Cookie{
		Name: "__Host-oauth2_connect", Path: "/", HttpOnly: true, Secure: true,
		SameSite: http.SameSiteLaxMode, // the way back is a navigation from another site, on which Strict cookies stay away
		MaxAge:   int(pendingLifetime.Seconds()),
	}
	if !strings.HasPrefix(h.redirectURI(r), "https:") { // the prefix is for https alone (RFC 6265bis section 4.1.3.2)
		cookie.Name, cookie.Secure = "oauth2_connect", false
	}
	if sent, err := r.Cookie(cookie.Name); err == nil && len(sent.Value) == 43 {
		cookie.Value = sent.Value
	} else {
		random := make([]byte, 32)
		_, _ = rand.Read(random) // never fails: crypto/rand aborts the program instead
		cookie.Value = base64.RawURLEncoding.EncodeToString(random)
	}
	http.SetCookie(w, &cookie)
	return cookie.Value
}

// localPath returns a path of this site as it was given, or "" for anything that could lead elsewhere.
func localPath(to string) string {
	u, err := url.Parse(to)
	if err != nil || len(to) > 2048 || !strings.HasPrefix(to, "/") || strings.HasPrefix(to, "//") || strings.ContainsAny(to, "\\\r\n\t") ||
		u.Host != "" || u.Scheme != "" {
		return ""
	}
	return to
}

// Interface guards.
var (
	_ caddy.Provisioner           = (*Connect)(nil)
	_ caddyhttp.MiddlewareHandler = (*Connect)(nil)
)
