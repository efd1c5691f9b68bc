package caddyoauth

import (
	"cmp"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddyoauth/caddyoauth/internal/oauth"
)

// options reads the options of one connection, in the global block or inline in the directive.
type options struct {
	connection *Connection
	seen       map[string]caddyfile.Token // by name: where it stands, for errors that only the whole block can tell
}

func newOptions() *options {
	return &options{connection: new(Connection), seen: make(map[string]caddyfile.Token)}
}

// at returns a dispenser that stands on a token which was read before, so that an error names that token's file and line.
func at(token caddyfile.Token) *caddyfile.Dispenser {
	d := caddyfile.NewDispenser([]caddyfile.Token{token})
	d.Next()
	return d
}

// empty reports whether no option was read.
func (o *options) empty() bool { return len(o.seen) == 0 }

// optionParsers has one parser for each option; each starts on the option's name and checks all arguments.
var optionParsers = map[string]func(*caddyfile.Dispenser, *Connection) error{
	"token_endpoint":   text(func(c *Connection) *string { return &c.TokenEndpoint }),
	"client_id":        text(func(c *Connection) *string { return &c.ClientID }),
	"client_secret":    text(func(c *Connection) *string { return &c.ClientSecret }),
	"client_auth":      parseClientAuth,
	"issuer":           text(func(c *Connection) *string { return &c.Issuer }),
	"subject":          text(func(c *Connection) *string { return &c.Subject }),
	"grant":            parseGrant,
	"username":         text(func(c *Connection) *string { return &c.Username }),
	"password":         text(func(c *Connection) *string { return &c.Password }),
	"audience":         text(func(c *Connection) *string { return &c.Audience }),
	"query":            text(func(c *Connection) *string { return &c.Query }),
	"tenant":           text(func(c *Connection) *string { return &c.Tenant }),
	"scopes":           list(func(c *Connection) *[]string { return &c.Scopes }),
	"resource":         list(func(c *Connection) *[]string { return &c.Resource }),
	"allow_hosts":      list(func(c *Connection) *[]string { return &c.AllowHosts }),
	"refresh_before":   duration(func(c *Connection) *caddy.Duration { return &c.RefreshBefore }),
	"default_lifetime": duration(func(c *Connection) *caddy.Duration { return &c.DefaultLifetime }),
	"timeout":          duration(func(c *Connection) *caddy.Duration { return &c.Timeout }),
	"idle_after":       duration(func(c *Connection) *caddy.Duration { return &c.IdleAfter }),

	"authorization_endpoint": text(func(c *Connection) *string { return &c.AuthorizationEndpoint }),
	"revocation_endpoint":    text(func(c *Connection) *string { return &c.RevocationEndpoint }),

	"required":              flag(func(c *Connection) *bool { return &c.Required }),
	"insecure_http":         flag(func(c *Connection) *bool { return &c.InsecureHTTP }),
	"forward_authorization": flag(func(c *Connection) *bool { return &c.ForwardAuthorization }),

	"allow":              parseAllow,
	"provider":           parseProvider,
	"refresh":            parseRefresh,
	"refresh_token":      parseRefreshToken,
	"keep_alive":         parseKeepAliveOption,
	"client_certificate": parseClientCertificate,
	"client_key":         parseClientKey,
	"assertion_audience": text(func(c *Connection) *string { return &c.AssertionAudience }),
	"token_param":        parseParam(func(c *Connection) *map[string]string { return &c.TokenParams }),
	"auth_param":         parseParam(func(c *Connection) *map[string]string { return &c.AuthParams }),
	"param":              parseParam(func(c *Connection) *map[string]string { return &c.Params }),
	"header":             parseHeader,
	"keep":               list(func(c *Connection) *[]string { return &c.Keep }),
	"keep_callback":      list(func(c *Connection) *[]string { return &c.KeepCallback }),
	"test_call":          parseTestCall,
	"field":              parseField,
	"tls":                parseTokenEndpointTLS,
	"quirks":             parseQuirks,
}

// repeatable are the options that may be given several times. Their parsers know what must not be said twice.
var repeatable = []string{"allow", "auth_param", "field", "header", "param", "token_param"}

// parse reads one option.
func (o *options) parse(d *caddyfile.Dispenser) error {
	name := d.Val()
	parser, ok := optionParsers[name]
	if !ok {
		return d.Errf("unknown option %q of a connection; known are %s", name, strings.Join(slices.Sorted(maps.Keys(optionParsers)), ", "))
	}
	if _, twice := o.seen[name]; twice && !slices.Contains(repeatable, name) {
		return d.Errf("%s is given twice", name)
	}
	o.seen[name] = d.Token()
	return parser(d, o.connection)
}

// finish checks what is certain to be wrong already, so that the error names the file and the line. named is the token to
// blame for what is missing.
func (o *options) finish(named caddyfile.Token, name string) error {
	c := o.connection
	switch {
	case strings.ContainsAny(name, "{}"):
		return at(named).Errf("a connection's name cannot hold placeholders: %q", name)
	case c.TokenEndpoint == "" && c.Issuer == "" && c.Provider == nil && c.Grant != oauth.GrantImplicit:
		return at(named).Errf("connection %q: token_endpoint is required, or issuer, which says where to find it", name)
	case c.ClientID == "":
		return at(named).Errf("connection %q: client_id is required", name)
	case c.Query != "" && c.Header != nil:
		return at(o.seen["query"]).Errf("connection %q: give header or query, not both", name)
	case c.Required && c.Subject != "":
		return at(o.seen["required"]).Errf("connection %q: required: %w", name, errRequiredSubject)
	}
	if err := c.checkDefaults(o.seen); err != nil {
		return err
	}
	urls := map[string]string{
		"token_endpoint": c.TokenEndpoint, "authorization_endpoint": c.AuthorizationEndpoint, "revocation_endpoint": c.RevocationEndpoint,
	}
	if c.TokenEndpoint == "" { // else it is only compared
		urls["issuer"] = c.Issuer
	}
	for option, url := range urls {
		if url == "" || strings.Contains(url, "{") {
			continue
		}
		if err := checkTokenEndpoint(url, c.InsecureHTTP); err != nil {
			return at(o.seen[option]).Errf("connection %q: %s: %w", name, option, err)
		}
	}
	if option, err := c.checkGrant(); err != nil {
		for _, blamed := range []string{"grant", option} {
			if token, said := o.seen[blamed]; said {
				named = token
			}
		}
		return at(named).Errf("connection %q: %s: %w", name, option, err)
	}
	return checkHosts(o.seen["allow_hosts"], c.AllowHosts)
}

// checkHosts checks a list of hosts as far as it is known before placeholders are resolved.
func checkHosts(token caddyfile.Token, hosts []string) error {
	if strings.Contains(strings.Join(hosts, ""), "{") {
		return nil
	}
	if _, err := newHostList(hosts); err != nil {
		return at(token).Errf("allow_hosts: %w", err)
	}
	return nil
}

// digest gives an unnamed inline connection a name that stays the same as long as its tokens are.
func (o *options) digest() string {
	c := o.connection
	digest, err := digestOf([]any{c.Provider, cmp.Or(c.TokenEndpoint, c.Issuer), c.ClientID, c.Grant, c.Scopes, c.Audience, c.Resource, c.TokenParams, c.Tenant})
	if err != nil {
		panic(err) // strings always encode
	}
	return digest[:8]
}

func text[T any](field func(*T) *string) func(*caddyfile.Dispenser, *T) error {
	return func(d *caddyfile.Dispenser, c *T) error {
		if !d.Args(field(c)) || d.NextArg() {
			return d.ArgErr()
		}
		if *field(c) == "" {
			return d.Err("the value is empty")
		}
		return nil
	}
}

func list[T any](field func(*T) *[]string) func(*caddyfile.Dispenser, *T) error {
	return func(d *caddyfile.Dispenser, c *T) error {
		*field(c) = d.RemainingArgs()
		if len(*field(c)) == 0 {
			return d.ArgErr()
		}
		return nil
	}
}

func flag(field func(*Connection) *bool) func(*caddyfile.Dispenser, *Connection) error {
	return func(d *caddyfile.Dispenser, c *Connection) error {
		*field(c) = true
		if d.NextArg() {
			return d.ArgErr()
		}
		return nil
	}
}

func duration(field func(*Connection) *caddy.Duration) func(*caddyfile.Dispenser, *Connection) error {
	return func(d *caddyfile.Dispenser, c *Connection) error { return parseDuration(d, field(c)) }
}

// parseDuration parses the one argument of an option that is a duration above zero.
func parseDuration(d *caddyfile.Dispenser, into *caddy.Duration) error {
	var value string
	if !d.Args(&value) || d.NextArg() {
		return d.ArgErr()
	}
	parsed, err := caddy.ParseDuration(value)
	if err != nil || parsed <= 0 {
		return d.Errf("%q is not a duration above zero, such as 30s, 5m or 1d", value)
	}
	*into = caddy.Duration(parsed)
	return nil
}

func parseClientAuth(d *caddyfile.Dispenser, c *Connection) error {
	if !d.Args(&c.ClientAuth) || d.NextArg() {
		return d.ArgErr()
	}
	if known := oauth.Methods(); !slices.Contains(known, c.ClientAuth) {
		return d.Errf("client_auth %q is unknown; known are %s", c.ClientAuth, strings.Join(known, ", "))
	}
	return nil
}

func parseGrant(d *caddyfile.Dispenser, c *Connection) error {
	if !d.Args(&c.Grant) || d.NextArg() {
		return d.ArgErr()
	}
	if slices.Contains(grants, c.Grant) {
		return nil
	}
	return d.Errf("grant %q is not supported; use %s", c.Grant, strings.Join(grants, ", "))
}

func parseClientCertificate(d *caddyfile.Dispenser, c *Connection) error {
	c.ClientCertificate = new(ClientCertificate)
	if !d.Args(&c.ClientCertificate.Certificate, &c.ClientCertificate.Key) || d.NextArg() {
		return d.ArgErr()
	}
	return nil
}

// parseClientKey parses `client_key <file> [<kid> [<alg>]]`.
func parseClientKey(d *caddyfile.Dispenser, c *Connection) error {
	args := d.RemainingArgs()
	if len(args) < 1 || len(args) > 3 || slices.Contains(args, "") {
		return d.ArgErr()
	}
	args = append(args, "", "")
	c.ClientKey = &ClientKey{File: args[0], KeyID: args[1], Algorithm: args[2]}
	if known := oauth.AssertionAlgorithms(); args[2] != "" && !slices.Contains(known, args[2]) {
		return d.Errf("algorithm %q is unknown; known are %s", args[2], strings.Join(known, ", "))
	}
	return nil
}

func parseParam[T any](field func(*T) *map[string]string) func(*caddyfile.Dispenser, *T) error {
	return func(d *caddyfile.Dispenser, c *T) error {
		option, params := d.Val(), field(c)
		var name, value string
		if !d.Args(&name, &value) || d.NextArg() {
			return d.ArgErr()
		}
		if name == "" {
			return d.Errf("%s needs a name", option)
		}
		if _, twice := (*params)[name]; twice {
			return d.Errf("%s %s is given twice", option, name)
		}
		if *params == nil {
			*params = make(map[string]string)
		}
		(*params)[name] = value
		return nil
	}
}

// parseAllow parses `allow <method>[,<method>...] <path>...`, which may be repeated.
func parseAllow(d *caddyfile.Dispenser, c *Connection) error {
	var methods string
	if !d.Args(&methods) {
		return d.ArgErr()
	}
	allow := AllowRule{Methods: strings.Split(methods, ","), Paths: d.RemainingArgs()}
	if len(allow.Paths) == 0 {
		return d.ArgErr()
	}
	if !strings.Contains(strings.Join(allow.Paths, ""), "{") { // else checked when it is resolved
		if _, err := newRule(allow.Methods, allow.Paths); err != nil {
			return d.Errf("allow: %w", err)
		}
	}
	for _, other := range c.Allow {
		if reflect.DeepEqual(allow, other) {
			return d.Errf("allow %s %s is given twice", methods, strings.Join(allow.Paths, " "))
		}
	}
	c.Allow = append(c.Allow, allow)
	return nil
}

func parseTokenEndpointTLS(d *caddyfile.Dispenser, c *Connection) error {
	if d.NextArg() {
		return d.ArgErr()
	}
	c.TLS = new(TokenEndpointTLS)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if d.Val() != "ca" {
			return d.Errf("unknown option %q of tls; known is ca", d.Val())
		}
		files := d.RemainingArgs()
		if len(files) == 0 {
			return d.ArgErr()
		}
		c.TLS.CA = append(c.TLS.CA, files...)
	}
	if len(c.TLS.CA) == 0 {
		return d.Err("tls needs a block with ca")
	}
	return nil
}
