package caddyoauth

import (
	"cmp"
	"context"
	"fmt"
	"path"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddyoauth/caddyoauth/internal/connection"
)

// choose finds the connection whose name the placeholders give. An empty or unknown name is refused.
func (h *Handler) choose(ctx context.Context, repl *caddy.Replacer) (*activeConnection, error) {
	name, err := repl.ReplaceOrErr(h.Connection, true, true)
	if err != nil {
		return nil, fmt.Errorf("choose the connection: %w", err)
	}
	conn, err := h.app.find(ctx, name, h.environment())
	if err != nil {
		return nil, err
	}
	if conn == nil && h.spells(name) {
		for _, full := range []string{name, name + "@" + h.environment()} {
			if err := h.app.active.fault(full); err != nil {
				return nil, &connection.Unavailable{ID: connection.ID{Connection: full}, Status: connection.StatusMisconfigured, Code: "invalid_options", Err: err}
			}
		}
	}
	if conn == nil || conn.entry != nil && !h.means(conn) {
		return nil, fmt.Errorf("choose the connection: %q names none that there is", h.Connection)
	}
	return conn, h.suits(conn)
}

// environment is the one that this site is; "" = not said.
func (h *Handler) environment() string { return cmp.Or(h.Environment, h.app.Environment) }

// spells reports whether what leads into a tenant or an environment is written down with a name, and not given by a request.
func (h *Handler) spells(name string) bool {
	return (!strings.Contains(name, "/") || strings.Contains(h.Connection, "/")) && (!strings.Contains(name, "@") || strings.Contains(h.Connection, "@"))
}

// means reports whether a stored connection may be meant. A placeholder alone leads neither into a tenant nor into an environment:
// the slash or the @ in front of them has to be written down.
func (h *Handler) means(c *activeConnection) bool {
	return (c.entry.Tenant == "" || strings.Contains(h.Connection, "/")) &&
		(c.environment == c.entry.BaseEnvironment || c.environment == h.environment() || strings.Contains(h.Connection, "@"))
}

// find returns the connection of that name for a request; nil if there is none. The first one after the start may have to wait until
// storage was read.
func (a *App) find(ctx context.Context, name, environment string) (*activeConnection, error) {
	c, ok := a.active.find(name, environment)
	if ok || a.catalog == nil {
		return c, nil
	}
	if a.active.storedVersion() == 0 {
		ctx, cancel := context.WithTimeout(ctx, changeTimeout)
		defer cancel()
		if err := a.follow(ctx); err != nil {
			return nil, &connection.Unavailable{ID: connection.ID{Connection: name}, Status: connection.StatusFailing, Code: "storage", Err: err}
		}
		c, _ = a.active.find(name, environment)
	}
	return c, nil
}

// find returns the connection of that name: a configured one, or a stored one in that environment. A configured one is the same in
// all environments.
func (s *activeSet) find(name, environment string) (*activeConnection, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, ok := s.byName[name]; ok {
		return c, true
	}
	if environment != "" {
		if c, ok := s.stored[name+"@"+environment]; ok {
			return c, true
		}
	}
	c, ok := s.stored[name]
	if !ok || environment != "" && environment != c.environment && !strings.Contains(path.Base(name), "@") {
		return nil, false // not the values of another environment
	}
	return c, true
}
