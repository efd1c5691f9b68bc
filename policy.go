package caddyoauth

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddyoauth/caddyoauth/internal/connection"
	"github.com/caddyoauth/caddyoauth/internal/provider"
)

// refreshModes are what a token may be replaced for.
var refreshModes = map[string]connection.Mode{
	"ahead": connection.ModeAhead, "on_401": connection.ModeOn401, "every_request": connection.ModeEveryRequest,
}

// policy settles how early, how often and how long.
func (c *Connection) policy(r *resolver, preset *provider.Provider) connection.Policy {
	if err := checkRefreshMode(c.Refresh); err != nil {
		r.fault("refresh", err)
	}
	return connection.Policy{
		Mode:            refreshModes[c.Refresh],
		RefreshBefore:   cmp.Or(time.Duration(c.RefreshBefore), preset.RefreshBefore),
		DefaultLifetime: cmp.Or(time.Duration(c.DefaultLifetime), preset.DefaultLifetime),
		Timeout:         time.Duration(c.Timeout),
		IdleAfter:       time.Duration(c.IdleAfter),
	}
}

func checkRefreshMode(mode string) error {
	if _, known := refreshModes[mode]; !known && mode != "" {
		return fmt.Errorf("%q is not one of %s", mode, strings.Join(slices.Sorted(maps.Keys(refreshModes)), ", "))
	}
	return nil
}

// parseRefresh parses `refresh ahead|on_401|every_request`.
func parseRefresh(d *caddyfile.Dispenser, c *Connection) error {
	if !d.Args(&c.Refresh) || d.NextArg() {
		return d.ArgErr()
	}
	if err := checkRefreshMode(c.Refresh); c.Refresh == "" || err != nil {
		return d.Errf("refresh: %w", err)
	}
	return nil
}
