package caddyoauth

import (
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddyoauth/caddyoauth/internal/dashboard"
)

func init() {
	caddy.RegisterModule(Dashboard{})
}

const defaultDashboardPath = "/dashboard"

// Dashboard serves pages on which operators see how all connections are, and act on them. It is a client of the REST API, without a
// network between them: what a visitor sees and may do, and what goes into the audit log, is decided there. Its options are those of
// the API on a site.
type Dashboard struct {
	// Path is where the pages are, without a slash at the end. Default: `/dashboard`.
	RestAPI

	board *dashboard.Board
}

// CaddyModule returns the Caddy module information.
func (Dashboard) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.oauth2_dashboard", New: func() caddy.Module { return new(Dashboard) }}
}

// Provision checks the configuration.
func (h *Dashboard) Provision(ctx caddy.Context) error {
	if h.Path == "" {
		h.Path = defaultDashboardPath
	}
	if err := h.RestAPI.Provision(ctx); err != nil {
		return err
	}
	h.board = dashboard.New(dashboard.Settings{
		API: h.app.rest, Access: h.access(), Changes: h.app.engine.changes.Load, Ended: h.app.loop.ctx.Done(), Exiting: caddy.Exiting,
	})
	return nil
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (h *Dashboard) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	rest, ours := strings.CutPrefix(r.URL.EscapedPath(), h.path)
	if !ours || rest != "" && rest[0] != '/' {
		return next.ServeHTTP(w, r)
	}
	return h.board.Serve(w, r, rest)
}

// Interface guards.
var (
	_ caddy.Provisioner           = (*Dashboard)(nil)
	_ caddyhttp.MiddlewareHandler = (*Dashboard)(nil)
)
