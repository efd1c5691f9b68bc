package caddyoauth

import (
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// parseStored parses what may be made at run time:
//
//	stored_connections {
//		poll_interval   <duration>         # how often to look for what other instances made
//		max_connections <number>           # of each tenant
//		endpoints       <hosts...>         # where endpoints may be
//		subjects        <placeholders...>  # what a subject may be
//	}
func (a *App) parseStored(d *caddyfile.Dispenser) error {
	if a.Stored != nil {
		return d.Err("stored_connections is given twice")
	}
	if d.NextArg() {
		return d.ArgErr()
	}
	a.Stored = new(StoredConnections)
	seen := make(map[string]bool)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		name := d.Val()
		if seen[name] {
			return d.Errf("%s is given twice", name)
		}
		seen[name] = true
		if err := a.Stored.parseOption(d); err != nil {
			return err
		}
	}
	return nil
}

// parseOption parses one line of the block.
func (s *StoredConnections) parseOption(d *caddyfile.Dispenser) error {
	token, name := d.Token(), d.Val()
	args := d.RemainingArgs()
	switch {
	case name != "poll_interval" && name != "max_connections" && name != "endpoints" && name != "subjects":
		return d.Errf("unknown option %q of stored_connections; known are poll_interval, max_connections, endpoints and subjects", name)
	case len(args) == 0, len(args) > 1 && (name == "poll_interval" || name == "max_connections"):
		return d.ArgErr()
	}
	switch name {
	case "poll_interval":
		interval, err := caddy.ParseDuration(args[0])
		if err != nil || interval < minPoll {
			return d.Errf("poll_interval: %q is not a duration of at least %s", args[0], minPoll)
		}
		s.PollInterval = caddy.Duration(interval)
	case "max_connections":
		number, err := strconv.Atoi(args[0])
		if err != nil || number < 1 {
			return d.Errf("max_connections: %q is not a number above zero", args[0])
		}
		s.MaxConnections = number
	case "endpoints":
		s.Endpoints = args
		if !strings.Contains(strings.Join(args, ""), "{") {
			if _, err := newHostList(args); err != nil {
				return at(token).Errf("endpoints: %w", err)
			}
		}
	case "subjects":
		s.Subjects = args
	}
	return nil
}

// parseEnvironment parses `environment <name>`.
func (a *App) parseEnvironment(d *caddyfile.Dispenser) error {
	if a.Environment != "" {
		return d.Err("environment is given twice")
	}
	return parseEnvironmentName(d, &a.Environment)
}

// parseEnvironmentName parses the one argument of `environment`.
func parseEnvironmentName(d *caddyfile.Dispenser, name *string) error {
	if !d.Args(name) || d.NextArg() {
		return d.ArgErr()
	}
	if !isEntryName(*name) {
		return d.Errf("environment: %q is not a name", *name)
	}
	return nil
}
