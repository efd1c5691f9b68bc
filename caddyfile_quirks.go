package caddyoauth

import (
	"maps"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddyoauth/caddyoauth/internal/provider"
)

// quirkParsers has one parser for each option of a quirks block.
var quirkParsers = map[string]func(*caddyfile.Dispenser, *Quirks) error{
	"pkce":             onOff(func(q *Quirks) **bool { return &q.PKCE }),
	"basic_raw":        onOff(func(q *Quirks) **bool { return &q.BasicRaw }),
	"secret_as_user":   onOff(func(q *Quirks) **bool { return &q.SecretAsUser }),
	"refresh_scope":    onOff(func(q *Quirks) **bool { return &q.RefreshScope }),
	"body":             oneOf(func(q *Quirks) *string { return &q.Body }, "form", "json"),
	"scope_param":      text(func(q *Quirks) *string { return &q.ScopeParam }),
	"scope_separator":  text(func(q *Quirks) *string { return &q.ScopeSeparator }),
	"offline_scope":    text(func(q *Quirks) *string { return &q.OfflineScope }),
	"refresh_endpoint": text(func(q *Quirks) *string { return &q.RefreshEndpoint }),
	"token_path":       text(func(q *Quirks) *string { return &q.TokenPath }),
	"revoked":          list(func(q *Quirks) *[]string { return &q.Revoked }),
	"misconfigured":    list(func(q *Quirks) *[]string { return &q.Misconfigured }),
	"retry_later":      list(func(q *Quirks) *[]string { return &q.RetryLater }),
	"refresh_param":    parseParam(func(q *Quirks) *map[string]string { return &q.RefreshParams }),
	"revocation":       parseRevocation,
}

// revocationParsers has one parser for each option of a revocation block inside of it.
var revocationParsers = map[string]func(*caddyfile.Dispenser, *RevocationQuirks) error{
	"method": oneOf(func(q *RevocationQuirks) *string { return &q.Method }, "POST", "DELETE"),
	"auth": oneOf(func(q *RevocationQuirks) *string { return &q.Auth },
		string(provider.AuthClient), string(provider.AuthClientBasic), string(provider.AuthClientPost), string(provider.AuthAccessToken), string(provider.AuthNone)),
	"body":  oneOf(func(q *RevocationQuirks) *string { return &q.Body }, "form", "json", "none"),
	"token": oneOf(func(q *RevocationQuirks) *string { return &q.Token }, "refresh_token", "access_token"),
	"name":  text(func(q *RevocationQuirks) *string { return &q.Name }),
}

func parseQuirks(d *caddyfile.Dispenser, c *Connection) error {
	c.Quirks = new(Quirks)
	return parseBlock(d, c.Quirks, quirkParsers, "refresh_param")
}

func parseRevocation(d *caddyfile.Dispenser, q *Quirks) error {
	q.Revocation = new(RevocationQuirks)
	return parseBlock(d, q.Revocation, revocationParsers, "")
}

// parseBlock reads a block of options, each at most once but for one.
func parseBlock[T any](d *caddyfile.Dispenser, into *T, parsers map[string]func(*caddyfile.Dispenser, *T) error, repeats string) error {
	block := d.Val()
	if d.NextArg() {
		return d.ArgErr()
	}
	seen := make(map[string]bool)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		name := d.Val()
		parser, known := parsers[name]
		if !known {
			return d.Errf("unknown option %q of %s; known are %s", name, block, strings.Join(slices.Sorted(maps.Keys(parsers)), ", "))
		}
		if seen[name] && name != repeats {
			return d.Errf("%s is given twice", name)
		}
		seen[name] = true
		if err := parser(d, into); err != nil {
			return err
		}
	}
	if len(seen) == 0 {
		return d.Errf("%s needs a block with at least one of %s", block, strings.Join(slices.Sorted(maps.Keys(parsers)), ", "))
	}
	return nil
}

// oneOf reads one argument that is one of the choices.
func oneOf[T any](field func(*T) *string, choices ...string) func(*caddyfile.Dispenser, *T) error {
	return func(d *caddyfile.Dispenser, into *T) error {
		option, value := d.Val(), field(into)
		if !d.Args(value) || d.NextArg() {
			return d.ArgErr()
		}
		if !slices.Contains(choices, *value) {
			return d.Errf("%s %q is unknown; known are %s", option, *value, strings.Join(choices, ", "))
		}
		return nil
	}
}

func onOff[T any](field func(*T) **bool) func(*caddyfile.Dispenser, *T) error {
	return func(d *caddyfile.Dispenser, into *T) error {
		var value string
		if err := oneOf(func(*T) *string { return &value }, "on", "off")(d, into); err != nil {
			return err
		}
		on := value == "on"
		*field(into) = &on
		return nil
	}
}
