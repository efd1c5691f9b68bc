package caddyoauth

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddyoauth/caddyoauth/internal/envelope"
)

func init() {
	httpcaddyfile.RegisterGlobalOption(appName, parseGlobal)
	httpcaddyfile.RegisterDirective(appName, parseDirective)
	// Behind authentication, so that the identity is known, and in front of handle and route, so that a site-level line also
	// covers the reverse_proxy inside them.
	httpcaddyfile.RegisterDirectiveOrder(appName, httpcaddyfile.After, "request_header")
}

// parseGlobal parses the global option:
//
//	oauth2_inject {
//		encryption key|passphrase|<module> ...
//		history <number>
//		rekey_pause <duration>
//		subjects_in_memory <number>
//		connection <name> {
//			...
//		}
//		history <number>
//		stored_connections {
//			...
//		}
//		environment <name>
//	}
func parseGlobal(d *caddyfile.Dispenser, existing any) (any, error) {
	d.Next() // the option's name
	if existing != nil {
		return nil, d.Errf("the global option %s is given twice; put everything into one block", appName)
	}
	if d.NextArg() {
		return nil, d.ArgErr()
	}
	app := &App{Connections: make(map[string]*Connection)}
	for d.NextBlock(0) {
		parser, ok := globalParsers[d.Val()]
		if !ok {
			return nil, d.Errf("unknown option %q of %s; known are %s", d.Val(), appName, strings.Join(slices.Sorted(maps.Keys(globalParsers)), ", "))
		}
		if err := parser(app, d); err != nil {
			return nil, err
		}
	}
	return httpcaddyfile.App{Name: appName, Value: caddyconfig.JSON(app, nil)}, nil
}

// parseEncryption parses one key-encryption key: `encryption <module> ...`.
func (a *App) parseEncryption(d *caddyfile.Dispenser) error {
	if !d.NextArg() {
		return d.ArgErr()
	}
	name := d.Val()
	module, err := caddyfile.UnmarshalModule(d, "oauth2_inject.keys."+name)
	if err != nil {
		return hintAtKeyServices(d, name, err)
	}
	a.EncryptionRaw = append(a.EncryptionRaw, caddyconfig.JSONModuleObject(module, "source", name, nil))
	return nil
}

// hintAtKeyServices says how the keys that are modules of their own come into a build.
func hintAtKeyServices(d *caddyfile.Dispenser, name string, err error) error {
	services := []string{"aws_kms", "gcp_kms", "vault_transit"}
	if _, missing := caddy.GetModule("oauth2_inject.keys." + name); missing == nil || !slices.Contains(services, name) {
		return err
	}
	return d.Errf("encryption %s is not in this build; add it with `xcaddy build --with github.com/caddyoauth/caddyoauth --with github.com/caddyoauth/caddyoauth/kms`", name)
}

// UnmarshalCaddyfile parses `key <base64 or hex>`.
func (k *KeyLiteral) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.Args(&k.Key) || d.NextArg() {
		return d.ArgErr()
	}
	return noBlock(d)
}

// UnmarshalCaddyfile parses `passphrase <text> [<iterations>]`.
func (k *KeyPassphrase) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.Args(&k.Passphrase) {
		return d.ArgErr()
	}
	if d.NextArg() {
		iterations, err := strconv.Atoi(d.Val())
		if err != nil || iterations < envelope.MinIterations || iterations > envelope.MaxIterations {
			return d.Errf("%q is not a number of iterations from %d to %d", d.Val(), envelope.MinIterations, envelope.MaxIterations)
		}
		k.Iterations = iterations
	}
	if d.NextArg() {
		return d.ArgErr()
	}
	return noBlock(d)
}

func noBlock(d *caddyfile.Dispenser) error {
	if d.NextBlock(d.Nesting()) {
		return d.Errf("encryption takes no block; unexpected %q", d.Val())
	}
	return nil
}

// parseConnection parses `connection <name> { ... }`.
func (a *App) parseConnection(d *caddyfile.Dispenser) error {
	if !d.NextArg() {
		return d.ArgErr()
	}
	token, name := d.Token(), d.Val()
	switch {
	case d.NextArg():
		return d.ArgErr()
	case name == "":
		return d.Err("a connection needs a name")
	case a.Connections[name] != nil:
		return d.Errf("connection %q is configured twice", name)
	}
	options := newOptions()
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if err := options.parse(d); err != nil {
			return err
		}
	}
	if err := options.finish(token, name); err != nil {
		return err
	}
	a.Connections[name] = options.connection
	return nil
}

// directive is what a block of the directive said.
type directive struct {
	token     caddyfile.Token // the directive's name, to blame for what only the whole block can tell
	handler   *Handler
	options   *options
	seen      map[string]caddyfile.Token // options of the directive itself, by name
	transport TransportOptions
	routes    []caddyhttp.Route // of the reverse_proxy inside the block
}

// parseDirective parses the directive:
//
//	oauth2_inject [<matcher>] [<connection>] {
//		<connection options>                  # an inline connection
//		via transport                         # a transport further down injects
//		redirect_to_connect                   # a browser without an account is led to the provider at once
//		environment <name>                    # which one this site is, for stored connections
//		allow_hosts <hosts...>                # who may receive the token; inline, or with reverse_proxy
//		replay_limit <size>                   # with reverse_proxy: body kept for a replay after a 401
//		reverse_proxy [<matcher>] ...         # block form: the token exists in here only
//	}
func parseDirective(h httpcaddyfile.Helper) ([]httpcaddyfile.ConfigValue, error) {
	h.Next() // the directive's name
	matcher, err := h.ExtractMatcherSet()
	if err != nil {
		return nil, err
	}
	h.Next() // the name again: taking out the matcher begins anew
	dir := &directive{token: h.Token(), handler: new(Handler), options: newOptions(), seen: make(map[string]caddyfile.Token)}
	switch args := h.RemainingArgs(); {
	case len(args) > 1:
		return nil, h.ArgErr()
	case len(args) == 1:
		dir.handler.Connection = args[0]
	}
	for h.NextBlock(0) {
		if err := dir.parseOption(h); err != nil {
			return nil, err
		}
	}
	if err := dir.finish(h); err != nil {
		return nil, err
	}
	return dir.build(matcher)
}

// parseOption parses one line of the directive's block.
func (dir *directive) parseOption(h httpcaddyfile.Helper) (err error) {
	name := h.Val()
	if _, twice := dir.seen[name]; twice {
		return h.Errf("%s is given twice", name)
	}
	switch name {
	case "reverse_proxy":
		return dir.parseProxy(h)
	case "replay_limit":
		dir.seen[name] = h.Token()
		dir.transport.ReplayLimit, err = parseReplayLimit(h.Dispenser)
		return err
	case "allow_hosts":
		dir.seen[name] = h.Token()
		if dir.transport.AllowHosts = h.RemainingArgs(); len(dir.transport.AllowHosts) == 0 {
			return h.ArgErr()
		}
		return checkHosts(dir.seen[name], dir.transport.AllowHosts)
	case "redirect_to_connect":
		dir.seen[name], dir.handler.RedirectToConnect = h.Token(), true
		if h.NextArg() {
			return h.ArgErr()
		}
		return nil
	case "environment":
		dir.seen[name] = h.Token()
		return parseEnvironmentName(h.Dispenser, &dir.handler.Environment)
	case "via":
		dir.seen[name] = h.Token()
		if !h.Args(&dir.handler.Via) || h.NextArg() {
			return h.ArgErr()
		}
		if dir.handler.Via != viaTransport {
			return h.Errf("via %q is unknown; leave it out, or write `via transport`", dir.handler.Via)
		}
		return nil
	}
	return dir.options.parse(h.Dispenser)
}

// parseProxy lets Caddy's own parser read a reverse_proxy, and gives it our transport.
func (dir *directive) parseProxy(h httpcaddyfile.Helper) error {
	proxyToken := h.Token()
	inner := h.WithDispenser(h.NewFromNextSegment())
	inner.Next()
	matcher, err := inner.ExtractMatcherSet()
	if err != nil {
		return err
	}
	proxy := new(reverseproxy.Handler)
	if err := proxy.UnmarshalCaddyfile(inner.Dispenser); err != nil {
		return err
	}
	if err := proxy.FinalizeUnmarshalCaddyfile(inner); err != nil {
		return err
	}
	if proxy.TransportRaw, err = injectingTransport(proxy.TransportRaw); err != nil {
		return at(proxyToken).Errf("reverse_proxy in %s: %w", appName, err)
	}
	route := caddyhttp.Route{HandlersRaw: []json.RawMessage{caddyconfig.JSONModuleObject(proxy, "handler", "reverse_proxy", nil)}}
	if matcher != nil {
		route.MatcherSetsRaw = caddyhttp.RawMatcherSets{matcher}
	}
	dir.routes = append(dir.routes, route)
	return nil
}

// injectingTransport turns the configuration of the http transport into that of ours, which takes all of its options.
func injectingTransport(raw json.RawMessage) (json.RawMessage, error) {
	transport := make(map[string]json.RawMessage)
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &transport); err != nil {
			return nil, err
		}
	}
	switch protocol := string(transport["protocol"]); protocol {
	case "", `"http"`, `"oauth2_inject"`:
		transport["protocol"] = json.RawMessage(`"oauth2_inject"`)
	default:
		return nil, fmt.Errorf("the transport %s cannot carry a token; use http", protocol)
	}
	return json.Marshal(transport)
}

// finish checks what only the whole block can tell.
func (dir *directive) finish(h httpcaddyfile.Helper) error {
	if dir.handler.Connection == "" && dir.options.empty() {
		return at(dir.token).Errf("%s needs the name of a connection, or a connection's options in its block", appName)
	}
	if !dir.options.empty() {
		dir.options.connection.AllowHosts, dir.transport.AllowHosts = dir.transport.AllowHosts, nil
		if dir.handler.Connection == "" {
			dir.handler.Connection = "inline_" + dir.options.digest()
		}
		dir.handler.Inline = dir.options.connection
		if err := dir.options.finish(dir.token, dir.handler.Connection); err != nil {
			return err
		}
	}
	replay, limited := dir.seen["replay_limit"]
	switch {
	case len(dir.routes) == 0 && limited:
		return at(replay).Errf("replay_limit needs a reverse_proxy in the block; with `via transport` it belongs to the transport")
	case len(dir.routes) == 0 && len(dir.transport.AllowHosts) > 0:
		return at(dir.seen["allow_hosts"]).Errf("allow_hosts needs a reverse_proxy in the block; else it belongs to the connection, or to the transport")
	case dir.handler.Inline != nil && dir.handler.Environment != "":
		return at(dir.seen["environment"]).Errf("environment is for stored connections, and this one is written right here")
	case len(dir.routes) > 0 && dir.handler.Via != "":
		return at(dir.seen["via"]).Errf("via is for a reverse_proxy outside of the block; leave it out")
	}
	return dir.checkConnection(h)
}

// checkConnection refuses a name that no connection has, and a connection that this form cannot guard, as far as it can be
// known while the Caddyfile is read.
func (dir *directive) checkConnection(h httpcaddyfile.Helper) error {
	name, d := dir.handler.Connection, at(dir.token)
	var app App
	if option, ok := h.Option(appName).(httpcaddyfile.App); ok {
		if err := json.Unmarshal(option.Value, &app); err != nil {
			return err
		}
	}
	config, known := app.Connections[name]
	switch {
	case dir.handler.Inline != nil && known:
		return d.Errf("connection %q is configured in the global options as well as here; rename one", name)
	case dir.handler.Inline != nil:
		config = dir.handler.Inline
	case !known && !strings.Contains(name, "{") && app.Stored == nil:
		return d.WrapErr(unknownConnection(name, app.Connections))
	case !known:
		return nil // told for each request
	}
	if flat := len(dir.routes) == 0 && dir.handler.Via == ""; flat && (config.Query != "" || len(config.AllowHosts) > 0 || len(config.Params) > 0) {
		return d.Errf("connection %q has allow_hosts, param or query, which need the reverse_proxy inside the %s block, or `via transport`", name, appName)
	}
	return nil
}

// build returns one route: the handler alone, or in block form with the proxies behind it.
func (dir *directive) build(matcher caddy.ModuleMap) ([]httpcaddyfile.ConfigValue, error) {
	if len(dir.routes) > 0 {
		dir.handler.Via = viaTransport
	}
	route := caddyhttp.Route{HandlersRaw: []json.RawMessage{caddyconfig.JSONModuleObject(dir.handler, "handler", appName, nil)}}
	if matcher != nil {
		route.MatcherSetsRaw = caddyhttp.RawMatcherSets{matcher}
	}
	if dir.transport.ReplayLimit != 0 || len(dir.transport.AllowHosts) > 0 {
		for i := range dir.routes {
			if err := setTransportOptions(&dir.routes[i], dir.transport); err != nil {
				return nil, at(dir.token).WrapErr(err)
			}
		}
	}
	switch {
	case len(dir.routes) == 1 && dir.routes[0].MatcherSetsRaw == nil:
		route.HandlersRaw = append(route.HandlersRaw, dir.routes[0].HandlersRaw...)
	case len(dir.routes) > 0:
		inner := &caddyhttp.Subroute{Routes: dir.routes}
		route.HandlersRaw = append(route.HandlersRaw, caddyconfig.JSONModuleObject(inner, "handler", "subroute", nil))
	}
	return []httpcaddyfile.ConfigValue{{Class: "route", Value: route}}, nil
}

// setTransportOptions puts the block's options into the transport of a route's reverse_proxy, unless it has its own.
func setTransportOptions(route *caddyhttp.Route, options TransportOptions) error {
	var proxy, transport map[string]json.RawMessage
	if err := json.Unmarshal(route.HandlersRaw[0], &proxy); err != nil {
		return err
	}
	if err := json.Unmarshal(proxy["transport"], &transport); err != nil {
		return err
	}
	if _, own := transport[appName]; own {
		return errors.New("allow_hosts and replay_limit are given both in the block and in its transport")
	}
	transport[appName] = caddyconfig.JSON(options, nil)
	proxy["transport"] = caddyconfig.JSON(transport, nil)
	route.HandlersRaw[0] = caddyconfig.JSON(proxy, nil)
	return nil
}

// unknownConnection names the connections that there are.
func unknownConnection(name string, connections map[string]*Connection) error {
	if len(connections) == 0 {
		return fmt.Errorf("no connection is named %q, since none is configured; add `connection %s { ... }` to the global option %s", name, name, appName)
	}
	return fmt.Errorf("no connection is named %q; configured are %s", name, strings.Join(slices.Sorted(maps.Keys(connections)), ", "))
}

// Interface guards.
var (
	_ caddyfile.Unmarshaler = (*KeyLiteral)(nil)
	_ caddyfile.Unmarshaler = (*KeyPassphrase)(nil)
)
