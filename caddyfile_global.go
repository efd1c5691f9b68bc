package caddyoauth

import (
	"strconv"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// globalParsers has one parser for each option of the global option; each starts on the option's name and checks all arguments.
var globalParsers = map[string]func(*App, *caddyfile.Dispenser) error{
	"alert":              (*App).parseAlert,
	"encryption":         (*App).parseEncryption,
	"connection":         (*App).parseConnection,
	"history":            (*App).parseHistory,
	"rekey_pause":        (*App).parseRekeyPause,
	"subjects_in_memory": (*App).parseSubjectsInMemory,
	"stored_connections": (*App).parseStored,
	"environment":        (*App).parseEnvironment,
}

// parseHistory parses `history <number>`.
func (a *App) parseHistory(d *caddyfile.Dispenser) error {
	return parseNumber(d, &a.HistoryLength, 1, maxHistory)
}

// parseSubjectsInMemory parses `subjects_in_memory <number>`.
func (a *App) parseSubjectsInMemory(d *caddyfile.Dispenser) error {
	return parseNumber(d, &a.SubjectsInMemory, leastRoom, mostRoom)
}

// parseNumber parses an option of one number within bounds, which may be given once.
func parseNumber(d *caddyfile.Dispenser, field *int, least, most int) error {
	option := d.Val()
	if *field != 0 {
		return d.Errf("%s is given twice", option)
	}
	if !d.NextArg() {
		return d.ArgErr()
	}
	number, err := strconv.Atoi(d.Val())
	if err != nil || number < least || number > most {
		return d.Errf("%s: %q is not a number from %d to %d", option, d.Val(), least, most)
	}
	*field = number
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
