package caddyoauth

import (
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/dustin/go-humanize"
)

// UnmarshalCaddyfile parses the transport: the options of the http transport, and
//
//	transport oauth2_inject {
//		allow_hosts <hosts...>
//		replay_limit <size>
//		...
//	}
//
// Our own options are read and taken out; Caddy's parser reads the rest, and refuses what it does not know.
func (t *Transport) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	options := new(TransportOptions)
	for d.Next() {
		for d.NextBlock(0) {
			if d.Nesting() != 1 {
				continue
			}
			if d.Val() == "compression" && d.NextArg() && d.Val() == "on" {
				t.Compression = new(true) // the http transport reads nothing from "on", which is its default but not ours
				continue
			}
			if err := options.parse(d); err != nil {
				return err
			}
		}
	}
	if options.ReplayLimit != 0 || len(options.AllowHosts) > 0 {
		t.Inject = options
	}
	d.Reset()
	return t.HTTPTransport.UnmarshalCaddyfile(d)
}

// parse reads one line of the block if it is ours, and deletes its tokens.
func (o *TransportOptions) parse(d *caddyfile.Dispenser) (err error) {
	token := d.Token()
	switch d.Val() {
	case "allow_hosts":
		if len(o.AllowHosts) > 0 {
			return d.Err("allow_hosts is given twice")
		}
		if o.AllowHosts = d.RemainingArgs(); len(o.AllowHosts) == 0 {
			return d.ArgErr()
		}
		d.DeleteN(len(o.AllowHosts) + 1)
		return checkHosts(token, o.AllowHosts)
	case "replay_limit":
		if o.ReplayLimit != 0 {
			return d.Err("replay_limit is given twice")
		}
		o.ReplayLimit, err = parseReplayLimit(d)
		d.DeleteN(2)
	}
	return err
}

// parseReplayLimit parses a size such as 64KiB, or "off". It never returns 0, which stands for the default.
func parseReplayLimit(d *caddyfile.Dispenser) (int64, error) {
	var text string
	if !d.Args(&text) || d.NextArg() {
		return 0, d.ArgErr()
	}
	if text == "off" {
		return -1, nil
	}
	size, err := humanize.ParseBytes(text)
	if err != nil || size > 1<<30 {
		return 0, d.Errf("replay_limit %q is not a size between 0 and 1GiB, such as 64KiB, and not off", text)
	}
	if size == 0 {
		return -1, nil
	}
	return int64(size), nil
}

// Interface guard.
var _ caddyfile.Unmarshaler = (*Transport)(nil)
