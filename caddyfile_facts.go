package caddyoauth

import (
	"net/http"
	"strings"

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
	for option, names := range map[string][]string{"keep": c.Keep, "keep_callback": c.KeepCallback} {
		for _, name := range names {
			if err := checkKept(name); err != nil {
				return at(seen[option]).Errf("%s: %w", option, err)
			}
		}
	}
	return nil
}
