package caddyoauth

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddyoauth/caddyoauth/internal/connection"
	"github.com/caddyoauth/caddyoauth/internal/provider"
)

// errNothing is for an argument that is there and empty.
var errNothing = errors.New("nothing is given")

// refreshModes are what a token may be replaced for.
var refreshModes = map[string]connection.Mode{
	"ahead": connection.ModeAhead, "on_401": connection.ModeOn401, "every_request": connection.ModeEveryRequest,
}

// policy settles how early, how often and how long.
func (c *Connection) policy(r *resolver, preset *provider.Provider) connection.Policy {
	if err := checkRefreshMode(c.Refresh); err != nil {
		r.fault("refresh", err)
	}
	rules := c.RefreshToken
	if rules == nil {
		rules = new(RefreshTokenRules)
	}
	keepAlive, err := parseKeepAlive(c.KeepAlive)
	if err != nil {
		r.fault("keep_alive", err)
	}
	rotation, err := rotationClass(rules.Rotation)
	if err != nil {
		r.fault("refresh_token rotation", err)
	}
	return connection.Policy{
		ReuseHarmless:   cmp.Or(rotation, preset.Rotation).Forgives(),
		ReuseGrace:      cmp.Or(time.Duration(rules.Grace), time.Duration(preset.GraceSeconds)*time.Second),
		Mode:            refreshModes[c.Refresh],
		KeepAlive:       keepAlive,
		RefreshIdle:     cmp.Or(time.Duration(rules.Idle), preset.RefreshTokenIdleLimit),
		RefreshLifetime: cmp.Or(time.Duration(rules.Lifetime), preset.RefreshTokenLifetime),
		ConsentLifetime: cmp.Or(time.Duration(rules.Consent), preset.ConsentLifetime),
		RefreshBefore:   cmp.Or(time.Duration(c.RefreshBefore), preset.RefreshBefore),
		DefaultLifetime: cmp.Or(time.Duration(c.DefaultLifetime), preset.DefaultLifetime),
		Timeout:         time.Duration(c.Timeout),
		IdleAfter:       time.Duration(c.IdleAfter),
	}
}

func checkRefreshMode(mode string) error {
	if _, known := refreshModes[mode]; !known && mode != "" {
		return fmt.Errorf("%q is not one of %s", mode, strings.Join(slices.Sorted(maps.Keys(refreshModes)), ", "))
	}
	return nil
}

// RefreshTokenRules is what is known of the server's refresh tokens. What is left out stays as the preset has it.
type RefreshTokenRules struct {
	// Rotation says what becomes of a refresh token that was used: `static` (it stays), `overlapping` (it lives on beside the new one),
	// `recoverable` (until the new one is used), `grace` (for a while), `single_use` (it is dead), or `punished` (sending it again ends the
	// new one as well). Default: the preset's, else `punished`.
	Rotation string `json:"rotation,omitempty"`
	// Grace is how long a refresh token that was used may be sent again. Default: the preset's.
	Grace caddy.Duration `json:"grace,omitempty"`
	// Lifetime of one refresh token, from its issue. What an answer says comes first. Default: the preset's.
	Lifetime caddy.Duration `json:"lifetime,omitempty"`
	// Idle is how long one may go unused before it dies. Default: the preset's.
	Idle caddy.Duration `json:"idle,omitempty"`
	// Consent is how long a consent holds, whatever was refreshed meanwhile. Default: the preset's.
	Consent caddy.Duration `json:"consent,omitempty"`
}

// rotations are the words for the classes of package provider.
var rotations = map[string]provider.RotationClass{
	"static": provider.RotationStatic, "overlapping": provider.RotationOverlapping, "recoverable": provider.RotationRecoverable,
	"grace": provider.RotationGrace, "single_use": provider.RotationSingleUse, "punished": provider.RotationPunished,
}

func rotationClass(word string) (provider.RotationClass, error) {
	class, known := rotations[word]
	if !known && word != "" {
		return "", fmt.Errorf("%q is not one of %s", word, strings.Join(slices.Sorted(maps.Keys(rotations)), ", "))
	}
	return class, nil
}

// parseKeepAlive reads how often an idle refresh token is used: 0 when nothing is said, below 0 for never.
func parseKeepAlive(text string) (time.Duration, error) {
	switch text {
	case "":
		return 0, nil
	case "off":
		return -1, nil
	}
	every, err := caddy.ParseDuration(text)
	if err != nil || every < sweepLeast {
		return 0, fmt.Errorf("%q is neither off nor a duration of at least %v, such as 7d", text, sweepLeast)
	}
	return every, nil
}

// parseKeepAliveOption parses `keep_alive <duration>|off`.
func parseKeepAliveOption(d *caddyfile.Dispenser, c *Connection) error {
	if !d.Args(&c.KeepAlive) || d.NextArg() {
		return d.ArgErr()
	}
	if _, err := parseKeepAlive(c.KeepAlive); c.KeepAlive == "" || err != nil {
		return d.Errf("keep_alive: %w", cmp.Or(err, errNothing))
	}
	return nil
}

// parseRefreshToken parses
//
//	refresh_token {
//		rotation static|overlapping|recoverable|grace|single_use|punished
//		grace|lifetime|idle|consent <duration>
//	}
func parseRefreshToken(d *caddyfile.Dispenser, c *Connection) error {
	if d.NextArg() {
		return d.ArgErr()
	}
	rules := new(RefreshTokenRules)
	fields := map[string]*caddy.Duration{"grace": &rules.Grace, "lifetime": &rules.Lifetime, "idle": &rules.Idle, "consent": &rules.Consent}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		name := d.Val()
		if name == "rotation" {
			if err := rules.parseRotation(d); err != nil {
				return err
			}
			continue
		}
		field, known := fields[name]
		switch {
		case !known:
			return d.Errf("unknown option %q of refresh_token; known are %s and rotation", name, strings.Join(slices.Sorted(maps.Keys(fields)), ", "))
		case *field != 0:
			return d.Errf("%s is given twice", name)
		}
		if err := duration(func(*Connection) *caddy.Duration { return field })(d, c); err != nil {
			return err
		}
	}
	if *rules == (RefreshTokenRules{}) {
		return d.Err("refresh_token needs a block")
	}
	c.RefreshToken = rules
	return nil
}

func (r *RefreshTokenRules) parseRotation(d *caddyfile.Dispenser) error {
	if r.Rotation != "" {
		return d.Err("rotation is given twice")
	}
	if !d.Args(&r.Rotation) || d.NextArg() {
		return d.ArgErr()
	}
	if _, err := rotationClass(r.Rotation); r.Rotation == "" || err != nil {
		return d.Errf("rotation: %w", cmp.Or(err, errNothing))
	}
	return nil
}

// parseRefresh parses `refresh ahead|on_401|every_request`.
func parseRefresh(d *caddyfile.Dispenser, c *Connection) error {
	if !d.Args(&c.Refresh) || d.NextArg() {
		return d.ArgErr()
	}
	if err := checkRefreshMode(c.Refresh); c.Refresh == "" || err != nil {
		return d.Errf("refresh: %w", cmp.Or(err, errNothing))
	}
	return nil
}
