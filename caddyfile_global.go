package caddyoauth

import (
	"strconv"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// parseHistory parses `history <number>`.
func (a *App) parseHistory(d *caddyfile.Dispenser) error {
	if a.HistoryLength != 0 {
		return d.Err("history is given twice")
	}
	if !d.NextArg() {
		return d.ArgErr()
	}
	length, err := strconv.Atoi(d.Val())
	if err != nil || length < 1 || length > maxHistory {
		return d.Errf("history: %q is not a number of token sets from 1 to %d", d.Val(), maxHistory)
	}
	a.HistoryLength = length
	if d.NextArg() {
		return d.ArgErr()
	}
	return nil
}

// parseRekeyPause parses `rekey_pause <duration>`.
func (a *App) parseRekeyPause(d *caddyfile.Dispenser) error {
	if a.RekeyPause != 0 {
		return d.Err("rekey_pause is given twice")
	}
	if !d.NextArg() {
		return d.ArgErr()
	}
	pause, err := caddy.ParseDuration(d.Val())
	if err != nil || pause < minRekeyPause {
		return d.Errf("rekey_pause: %q is not a duration of at least %v", d.Val(), minRekeyPause)
	}
	a.RekeyPause = caddy.Duration(pause)
	if d.NextArg() {
		return d.ArgErr()
	}
	return nil
}
