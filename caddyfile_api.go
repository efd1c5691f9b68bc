package caddyoauth

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddyoauth/caddyoauth/internal/api"
)

func init() {
	httpcaddyfile.RegisterDirective("oauth2_api", parseAPI)
	// Behind authentication, and in front of oauth2_inject, whose block form answers all that reaches it.
	httpcaddyfile.RegisterDirectiveOrder("oauth2_api", httpcaddyfile.Before, "request_header")
	httpcaddyfile.RegisterDirective("oauth2_dashboard", parseDashboard)
	httpcaddyfile.RegisterDirectiveOrder("oauth2_dashboard", httpcaddyfile.Before, "request_header")
}

// parseAPI parses the directive:
//
//	oauth2_api [<path>] {
//		identity   <placeholders>                  # default: {http.auth.user.id}
//		groups     <placeholders> [<separator>]    # default: ,
//		role       <role> <group> [<collections...>]
//		tenant     <text or placeholders>
//		all_tenants
//		rate_limit <number>|off                    # requests a minute of each caller
//	}
func parseAPI(h httpcaddyfile.Helper) ([]httpcaddyfile.ConfigValue, error) {
	handler := &RestAPI{Path: defaultAPIPath}
	if err := handler.parse(h); err != nil {
		return nil, err
	}
	return serveBelow(handler.Path, handler, "oauth2_api"), nil
}

// parseDashboard parses the directive oauth2_dashboard, whose options are those of oauth2_api.
func parseDashboard(h httpcaddyfile.Helper) ([]httpcaddyfile.ConfigValue, error) {
	handler := &Dashboard{RestAPI: RestAPI{Path: defaultDashboardPath}}
	if err := handler.parse(h); err != nil {
		return nil, err
	}
	return serveBelow(handler.Path, handler, "oauth2_dashboard"), nil
}

// serveBelow returns a route for all that is below a path, and for the path itself.
func serveBelow(path string, handler any, name string) []httpcaddyfile.ConfigValue {
	paths := []string{path + "/*"}
	if name == "oauth2_dashboard" {
		paths = append(paths, path)
	}
	return []httpcaddyfile.ConfigValue{{Class: "route", Value: caddyhttp.Route{
		MatcherSetsRaw: caddyhttp.RawMatcherSets{caddy.ModuleMap{"path": caddyconfig.JSON(paths, nil)}},
		HandlersRaw:    []json.RawMessage{caddyconfig.JSONModuleObject(handler, "handler", name, nil)},
	}}}
}

// parse reads the path and the block.
func (h *RestAPI) parse(d httpcaddyfile.Helper) error {
	d.Next() // the directive's name
	directive := d.Val()
	if d.NextArg() {
		h.Path = strings.TrimSuffix(strings.TrimSuffix(d.Val(), "*"), "/")
		if !strings.HasPrefix(d.Val(), "/") || h.Path == "" || strings.ContainsAny(h.Path, "*?#{%") {
			return d.Errf("%q is not a path for %s, such as /oauth2", d.Val(), directive)
		}
	}
	if d.NextArg() {
		return d.ArgErr()
	}
	var seen []string
	for d.NextBlock(0) {
		name := d.Val()
		if name != "role" && slices.Contains(seen, name) {
			return d.Errf("%s is given twice", name)
		}
		seen = append(seen, name)
		if err := h.parseOption(d.Dispenser, directive); err != nil {
			return err
		}
	}
	return nil
}

// parseOption parses one line of the directive's block.
func (h *RestAPI) parseOption(d *caddyfile.Dispenser, directive string) error {
	name, args := d.Val(), d.RemainingArgs()
	switch {
	case name == "role" && len(args) >= 2:
		return h.parseRole(d, args)
	case name == "all_tenants" && len(args) == 0:
		h.AllTenants = true
	case name == "identity" && len(args) == 1:
		h.Identity = args[0]
	case name == "groups" && (len(args) == 1 || len(args) == 2):
		return h.parseGroups(d, args)
	case name == "tenant" && len(args) == 1:
		h.Tenant = args[0]
	case name == "rate_limit" && len(args) == 1:
		return h.parseRateLimit(d, args[0])
	case slices.Contains([]string{"role", "all_tenants", "identity", "groups", "tenant", "rate_limit"}, name):
		return d.ArgErr()
	default:
		return d.Errf("unknown option %q of %s; known are all_tenants, groups, identity, rate_limit, role and tenant", name, directive)
	}
	return nil
}

func (h *RestAPI) parseGroups(d *caddyfile.Dispenser, args []string) error {
	if h.Groups = args[0]; len(args) < 2 {
		return nil
	}
	if h.GroupSeparator = args[1]; utf8.RuneCountInString(args[1]) != 1 {
		return d.Errf("groups: the separator %q is not one character", args[1])
	}
	return nil
}

func (h *RestAPI) parseRole(d *caddyfile.Dispenser, args []string) error {
	if _, err := api.ParseRole(args[0]); err != nil {
		return d.Errf("role: %w", err)
	}
	grant := RoleGrant{Role: args[0], Group: args[1]}
	if len(args) > 2 {
		grant.Collections = args[2:]
	}
	for _, other := range h.Roles {
		if other.Role == grant.Role && other.Group == grant.Group && slices.Equal(other.Collections, grant.Collections) {
			return d.Errf("role %s is given twice", strings.Join(args, " "))
		}
	}
	h.Roles = append(h.Roles, grant)
	return nil
}

func (h *RestAPI) parseRateLimit(d *caddyfile.Dispenser, text string) error {
	if text == "off" {
		h.RateLimit = -1
		return nil
	}
	limit, err := strconv.Atoi(text)
	if err != nil || limit < 1 {
		return d.Errf("rate_limit: %q is neither a number above zero nor off", text)
	}
	h.RateLimit = limit
	return nil
}
