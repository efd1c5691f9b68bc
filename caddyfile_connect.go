package caddyoauth

import (
	"encoding/json"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddyoauth/caddyoauth/internal/provider"
)

func init() {
	httpcaddyfile.RegisterDirective("oauth2_connect", parseConnect)
	// Behind authentication, and in front of oauth2_inject, whose block form answers all that reaches it.
	httpcaddyfile.RegisterDirectiveOrder("oauth2_connect", httpcaddyfile.Before, "request_header")
}

// parseConnect parses the directive:
//
//	oauth2_connect [<path>] {
//		connections   <names...>      # default: all that people authorize
//		identity      <placeholders>  # default: {http.auth.user.id}
//		redirect_base <scheme://host> # default: those of the request
//	}
func parseConnect(h httpcaddyfile.Helper) ([]httpcaddyfile.ConfigValue, error) {
	h.Next() // the directive's name
	handler := &Connect{Path: defaultConnectPath}
	if h.NextArg() {
		handler.Path = strings.TrimSuffix(strings.TrimSuffix(h.Val(), "*"), "/")
		if !strings.HasPrefix(h.Val(), "/") || handler.Path == "" || strings.ContainsAny(handler.Path, "*?#{") {
			return nil, h.Errf("%q is not the path of the pages, such as /connect/*", h.Val())
		}
	}
	if h.NextArg() {
		return nil, h.ArgErr()
	}
	seen := make(map[string]bool)
	for h.NextBlock(0) {
		name := h.Val()
		if seen[name] {
			return nil, h.Errf("%s is given twice", name)
		}
		seen[name] = true
		if err := handler.parseOption(h.Dispenser); err != nil {
			return nil, err
		}
	}
	route := caddyhttp.Route{
		MatcherSetsRaw: caddyhttp.RawMatcherSets{caddy.ModuleMap{"path": caddyconfig.JSON([]string{handler.Path, handler.Path + "/*"}, nil)}},
		HandlersRaw:    []json.RawMessage{caddyconfig.JSONModuleObject(handler, "handler", "oauth2_connect", nil)},
	}
	return []httpcaddyfile.ConfigValue{{Class: "route", Value: route}}, nil
}

// parseOption parses one line of the directive's block.
func (h *Connect) parseOption(d *caddyfile.Dispenser) error {
	name := d.Val()
	args := d.RemainingArgs()
	switch {
	case name == "connections" && len(args) > 0:
		h.Connections = args
	case name == "identity" && len(args) == 1:
		h.Identity = args[0]
	case name == "redirect_base" && len(args) == 1:
		h.RedirectBase = args[0]
	case name == "connections" || name == "identity" || name == "redirect_base":
		return d.ArgErr()
	default:
		return d.Errf("unknown option %q of oauth2_connect; known are connections, identity and redirect_base", name)
	}
	return nil
}

// parseProvider parses `provider <name> { <parameter> <value> }`.
func parseProvider(d *caddyfile.Dispenser, c *Connection) error {
	c.Provider = new(ProviderPreset)
	if !d.Args(&c.Provider.Name) || d.NextArg() {
		return d.ArgErr()
	}
	preset, ok := provider.Lookup(c.Provider.Name)
	if !ok {
		_, err := provider.Resolve(c.Provider.Name, nil)
		return d.WrapErr(err)
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		name := d.Val()
		var value string
		if !d.Args(&value) || d.NextArg() {
			return d.ArgErr()
		}
		if !hasParam(preset, name) {
			return d.Errf("provider %s has no parameter %q", preset.Name, name)
		}
		if _, twice := c.Provider.Params[name]; twice {
			return d.Errf("%s is given twice", name)
		}
		if c.Provider.Params == nil {
			c.Provider.Params = make(map[string]string)
		}
		c.Provider.Params[name] = value
	}
	return nil
}

func hasParam(preset *provider.Provider, name string) bool {
	for _, param := range preset.Params {
		if param.Name == name {
			return true
		}
	}
	return false
}
