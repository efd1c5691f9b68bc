package caddyoauth

import (
	"errors"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// parseHeader parses
//
//	header <name> [<template>] # the template holds {token}: the header that carries the token
//	header <name> <value>      # else a further one, for requests that do not bring their own
func parseHeader(d *caddyfile.Dispenser, c *Connection) error {
	var name, value string
	if !d.Args(&name) {
		return d.ArgErr()
	}
	given := d.Args(&value)
	if d.NextArg() {
		return d.ArgErr()
	}
	if given && !strings.Contains(value, tokenMark) {
		return c.parseDefaultHeader(d, name, value)
	}
	if c.Header != nil {
		return d.Err("the header that carries the token is given twice")
	}
	c.Header = &HeaderInjection{Name: name, Template: value}
	if strings.Contains(name, "{") {
		return nil // checked when it is resolved
	}
	if _, err := newHeaderInjection(name, value); err != nil {
		return d.Errf("header: %w", err)
	}
	return nil
}

func (c *Connection) parseDefaultHeader(d *caddyfile.Dispenser, name, value string) error {
	if err := checkDefaultHeader(name, value, ""); err != nil {
		return d.Errf("header: %w", err)
	}
	canonical := http.CanonicalHeaderKey(name)
	if _, twice := c.Headers[canonical]; twice {
		return d.Errf("header %s is given twice", canonical)
	}
	if c.Headers == nil {
		c.Headers = make(map[string]string)
	}
	c.Headers[canonical] = value
	return nil
}

// checkDefaults checks, of the further headers and parameters, what only the whole block can tell.
func (c *Connection) checkDefaults(seen map[string]caddyfile.Token) error {
	if _, twice := c.Params[c.Query]; twice {
		return at(seen["param"]).Errf("param %s: the token travels in that parameter", c.Query)
	}
	if c.Header != nil {
		if _, twice := c.Headers[http.CanonicalHeaderKey(c.Header.Name)]; twice {
			return at(seen["header"]).Errf("header %s: the token travels in that header", c.Header.Name)
		}
	}
	if c.TestCall != nil && !c.TestCall.Off {
		if err := c.TestCall.check(); err != nil {
			return at(seen["test_call"]).Errf("test_call: %w", err)
		}
	}
	for option, names := range map[string][]string{"keep": c.Keep, "keep_callback": c.KeepCallback} {
		for _, name := range names {
			if err := checkKept(name); err != nil {
				return at(seen[option]).Errf("%s: %w", option, err)
			}
		}
	}
	return nil
}

// parseTestCall parses
//
//	test_call <method> <url> {
//		header <name> <value>
//		body   <text>
//		id     <path>...      # together they identify the account
//		label  <path>...      # the first that is not empty names it
//		keep   <name> <path>  # for {token.<name>}
//		scopes <scope>...     # without which the call is refused
//	}
//
// or `test_call off`.
func parseTestCall(d *caddyfile.Dispenser, c *Connection) error {
	call := new(TestCall)
	c.TestCall = call
	if !d.Args(&call.Method) {
		return d.ArgErr()
	}
	if call.Off = call.Method == "off"; call.Off {
		call.Method = ""
	} else if !d.Args(&call.URL) {
		return d.ArgErr()
	}
	if d.NextArg() {
		return d.ArgErr()
	}
	seen := make(map[string]bool)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		name := d.Val()
		if seen[name] && name != "header" && name != "keep" {
			return d.Errf("%s is given twice", name)
		}
		seen[name] = true
		if err := call.parseOption(d); err != nil {
			return err
		}
	}
	if call.Off && len(seen) > 0 {
		return d.Err("test_call off takes no block")
	}
	return nil
}

// parseOption parses one line of the block.
func (t *TestCall) parseOption(d *caddyfile.Dispenser) error {
	switch d.Val() {
	case "header":
		return parseParam(func(t *TestCall) *map[string]string { return &t.Headers })(d, t)
	case "keep":
		return parseParam(func(t *TestCall) *map[string]string { return &t.Keep })(d, t)
	case "body":
		if !d.Args(&t.Body) || d.NextArg() {
			return d.ArgErr()
		}
		return nil
	}
	lists := map[string]*[]string{"id": &t.ID, "label": &t.Label, "scopes": &t.Scopes}
	list, known := lists[d.Val()]
	if !known {
		return d.Errf("unknown option %q of test_call; known are body, header, id, keep, label and scopes", d.Val())
	}
	if *list = d.RemainingArgs(); len(*list) == 0 {
		return d.ArgErr()
	}
	return nil
}

// check finds what is certain to be wrong before anything is resolved.
func (t *TestCall) check() error {
	for name := range t.Keep {
		if err := checkKept(name); err != nil {
			return err
		}
	}
	if strings.Contains(t.URL, "{") {
		if address := strings.Index(t.URL, "://"); address < 0 || address > strings.Index(t.URL, "{") {
			return errNoScheme
		}
		return nil // checked when it is resolved
	}
	return checkTokenEndpoint(t.URL, false)
}

// parseField parses
//
//	field <name> {
//		label    <text>
//		example  <text>
//		required
//		default  <text>
//		pattern  <regular expression>
//	}
func parseField(d *caddyfile.Dispenser, c *Connection) error {
	f := Field{}
	if !d.Args(&f.Name) || d.NextArg() {
		return d.ArgErr()
	}
	if slices.ContainsFunc(c.Fields, func(other Field) bool { return other.Name == f.Name }) {
		return d.Errf("field %s is given twice", f.Name)
	}
	seen := make(map[string]bool)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		name := d.Val()
		if seen[name] {
			return d.Errf("%s is given twice", name)
		}
		seen[name] = true
		if err := f.parseOption(d); err != nil {
			return err
		}
	}
	if _, err := regexp.Compile(f.Pattern); err != nil || !fieldName.MatchString(f.Name) || isSecretName(f.Name) {
		r := &resolver{repl: caddy.NewReplacer()}
		r.field(f, nil) // says what is wrong
		return d.WrapErr(errors.Join(r.faults...))
	}
	c.Fields = append(c.Fields, f)
	return nil
}

// parseOption parses one line of the block.
func (f *Field) parseOption(d *caddyfile.Dispenser) error {
	if d.Val() == "required" {
		f.Required = true
		if d.NextArg() {
			return d.ArgErr()
		}
		return nil
	}
	texts := map[string]*string{"label": &f.Label, "example": &f.Example, "default": &f.Default, "pattern": &f.Pattern}
	text, known := texts[d.Val()]
	if !known {
		return d.Errf("unknown option %q of field; known are default, example, label, pattern and required", d.Val())
	}
	if !d.Args(text) || d.NextArg() || *text == "" {
		return d.ArgErr()
	}
	return nil
}
