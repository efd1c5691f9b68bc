package caddyoauth

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/dustin/go-humanize"
)

func init() {
	httpcaddyfile.RegisterGlobalOption(appName, parseGlobal)
	httpcaddyfile.RegisterHandlerDirective(appName, parseDirective)
	// Behind authentication, so that the identity is known, and in front of handle and route, so that a site-level line also
	// covers the reverse_proxy inside them.
	httpcaddyfile.RegisterDirectiveOrder(appName, httpcaddyfile.After, "request_header")
}

// parseGlobal parses the global option:
//
//	oauth2_inject {
//		encryption key|passphrase|<module> ...
//		connection <name> {
//			...
//		}
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
		var err error
		switch d.Val() {
		case "encryption":
			err = app.parseEncryption(d)
		case "connection":
			err = app.parseConnection(d)
		default:
			err = d.Errf("unknown option %q of %s; known are encryption and connection", d.Val(), appName)
		}
		if err != nil {
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
		return err
	}
	a.EncryptionRaw = append(a.EncryptionRaw, caddyconfig.JSONModuleObject(module, "source", name, nil))
	return nil
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
		if _, err := fmt.Sscanf(d.Val(), "%d", &k.Iterations); err != nil {
			return d.Errf("%q is not a number of iterations", d.Val())
		}
	}
	if d.NextArg() {
		return d.ArgErr()
	}
	return noBlock(d)
}

func noBlock(d *caddyfile.Dispenser) error {
	if d.NextBlock(d.Nesting()) {
		return d.Errf("%q has no block here", d.Val())
	}
	return nil
}

// parseConnection parses `connection <name> { ... }`.
func (a *App) parseConnection(d *caddyfile.Dispenser) error {
	if !d.NextArg() {
		return d.ArgErr()
	}
	name := d.Val()
	switch {
	case d.NextArg():
		return d.ArgErr()
	case strings.ContainsAny(name, "{}"):
		return d.Errf("a connection's name cannot hold placeholders: %q", name)
	case a.Connections[name] != nil:
		return d.Errf("connection %q is configured twice", name)
	}
	options := newOptions()
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if err := options.parse(d); err != nil {
			return err
		}
	}
	if err := options.finish(d, name); err != nil {
		return err
	}
	a.Connections[name] = options.connection
	return nil
}

// directive is what a block of the directive said.
type directive struct {
	handler   *Handler
	options   *options
	transport TransportOptions
	routes    []caddyhttp.Route // of the reverse_proxy inside the block
}

// parseDirective parses the directive:
//
//	oauth2_inject [<matcher>] [<connection>] {
//		<connection options>                  # an inline connection
//		via transport                         # a transport further down injects
//		allow_hosts <hosts...>                # with reverse_proxy: who may receive the token
//		replay_limit <size>                   # with reverse_proxy: body kept for a replay after a 401
//		reverse_proxy [<matcher>] ...         # block form: the token exists in here only
//	}
func parseDirective(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	h.Next() // the directive's name
	dir := &directive{handler: new(Handler), options: newOptions()}
	switch args := h.RemainingArgs(); len(args) {
	case 0:
	case 1:
		dir.handler.Connection = args[0]
	default:
		return nil, h.ArgErr()
	}
	named := dir.handler.Connection != ""
	for h.NextBlock(0) {
		if err := dir.parseOption(h, named); err != nil {
			return nil, err
		}
	}
	if err := dir.finish(h); err != nil {
		return nil, err
	}
	return dir.build(h)
}

// parseOption parses one line of the directive's block.
func (dir *directive) parseOption(h httpcaddyfile.Helper, named bool) (err error) {
	switch h.Val() {
	case "via":
		if dir.handler.Via != "" {
			return h.Err("via is given twice")
		}
		if !h.Args(&dir.handler.Via) || h.NextArg() {
			return h.ArgErr()
		}
		if dir.handler.Via != viaTransport {
			return h.Errf("via %q is unknown; leave it out, or write `via transport`", dir.handler.Via)
		}
		return nil
	case "reverse_proxy":
		return dir.parseProxy(h)
	case "replay_limit":
		dir.transport.ReplayLimit, err = parseReplayLimit(h.Dispenser)
		return err
	case "allow_hosts":
		if named && dir.options.empty() {
			dir.transport.AllowHosts = append(dir.transport.AllowHosts, h.RemainingArgs()...)
			if len(dir.transport.AllowHosts) == 0 {
				return h.ArgErr()
			}
			return nil
		}
	}
	return dir.options.parse(h.Dispenser)
}

// parseProxy lets Caddy's own parser read a reverse_proxy, and gives it our transport.
func (dir *directive) parseProxy(h httpcaddyfile.Helper) error {
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
		return h.Errf("reverse_proxy in %s: %v", appName, err)
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
		return h.Errf("%s needs the name of a connection, or a connection's options in its block", appName)
	}
	if !dir.options.empty() {
		if dir.handler.Connection == "" {
			dir.handler.Connection = "inline_" + dir.options.digest()
		}
		dir.handler.Inline = dir.options.connection
		if err := dir.options.finish(h.Dispenser, dir.handler.Connection); err != nil {
			return err
		}
	}
	if len(dir.routes) == 0 && (dir.transport.ReplayLimit != 0 || len(dir.transport.AllowHosts) > 0) {
		return h.Errf("allow_hosts and replay_limit need a reverse_proxy in the block; with `via transport` they belong to the transport")
	}
	if len(dir.routes) > 0 && dir.handler.Via != "" {
		return h.Err("via is for a reverse_proxy outside of the block; leave it out")
	}
	return dir.checkName(h)
}

// checkName refuses a name that no connection has, as far as it can be known while the Caddyfile is read.
func (dir *directive) checkName(h httpcaddyfile.Helper) error {
	name := dir.handler.Connection
	var app App
	if option, ok := h.Option(appName).(httpcaddyfile.App); ok {
		if err := json.Unmarshal(option.Value, &app); err != nil {
			return err
		}
	}
	_, known := app.Connections[name]
	switch {
	case dir.handler.Inline != nil && known:
		return h.Errf("connection %q is configured in the global options as well as here; rename one", name)
	case dir.handler.Inline == nil && !known && !strings.Contains(name, "{"):
		return h.WrapErr(unknownConnection(name, app.Connections))
	}
	return nil
}

// build returns the handler, or in block form a subroute of the handler and the proxies.
func (dir *directive) build(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	if len(dir.routes) == 0 {
		return dir.handler, nil
	}
	dir.handler.Via = viaTransport
	if dir.transport.ReplayLimit != 0 || len(dir.transport.AllowHosts) > 0 {
		for i := range dir.routes {
			if err := setTransportOptions(&dir.routes[i], dir.transport); err != nil {
				return nil, h.WrapErr(err)
			}
		}
	}
	first := caddyhttp.Route{HandlersRaw: []json.RawMessage{caddyconfig.JSONModuleObject(dir.handler, "handler", appName, nil)}}
	return &caddyhttp.Subroute{Routes: append(caddyhttp.RouteList{first}, dir.routes...)}, nil
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
		return fmt.Errorf("allow_hosts and replay_limit are given both in the block and in its transport")
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

// UnmarshalCaddyfile parses the transport: the options of the http transport, and
//
//	transport oauth2_inject {
//		allow_hosts <hosts...>
//		replay_limit <size>
//		...
//	}
func (t *Transport) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	options := new(TransportOptions)
	for d.Next() {
		for d.NextBlock(0) {
			if d.Nesting() != 1 {
				continue
			}
			var err error
			switch d.Val() {
			case "allow_hosts":
				hosts := d.RemainingArgs()
				if len(hosts) == 0 {
					return d.ArgErr()
				}
				options.AllowHosts = append(options.AllowHosts, hosts...)
				d.DeleteN(len(hosts) + 1)
			case "replay_limit":
				if options.ReplayLimit, err = parseReplayLimit(d); err != nil {
					return err
				}
				d.DeleteN(2)
			}
		}
	}
	if options.ReplayLimit != 0 || len(options.AllowHosts) > 0 {
		t.Inject = options
	}
	d.Reset()
	return t.HTTPTransport.UnmarshalCaddyfile(d)
}

// parseReplayLimit parses a size such as 64KiB, or "off".
func parseReplayLimit(d *caddyfile.Dispenser) (int64, error) {
	var text string
	if !d.Args(&text) {
		return 0, d.ArgErr()
	}
	if text == "off" || text == "0" {
		return -1, nil
	}
	size, err := humanize.ParseBytes(text)
	if err != nil || size > 1<<30 {
		return 0, d.Errf("replay_limit %q is not a size between 0 and 1GiB, such as 64KiB", text)
	}
	return int64(size), nil
}

// Interface guards.
var (
	_ caddyfile.Unmarshaler = (*Transport)(nil)
	_ caddyfile.Unmarshaler = (*KeyLiteral)(nil)
	_ caddyfile.Unmarshaler = (*KeyPassphrase)(nil)
)
