package caddyoauth

import (
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddyoauth/caddyoauth/internal/alert"
)

// parseAlert parses one alert; there may be several:
//
//	alert {
//		on      <statuses...>
//		after   <duration>
//		repeat  <duration>
//		webhook <url> {
//			header <name> <value>
//			secret <secrets...>
//			format generic|slack
//			insecure_http
//		}
//		exec    <command> [<arguments...>]
//	}
func (a *App) parseAlert(d *caddyfile.Dispenser) error {
	token := d.Token()
	if d.NextArg() {
		return d.ArgErr()
	}
	config, seen := new(Alert), make(map[string]bool)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if seen[d.Val()] {
			return d.Errf("%s is given twice", d.Val())
		}
		seen[d.Val()] = true
		if err := config.parseOption(d); err != nil {
			return err
		}
	}
	if config.Webhook == nil && len(config.Exec) == 0 {
		return at(token).Errf("alert %w", errNoReceiver)
	}
	a.Alerts = append(a.Alerts, config)
	return nil
}

func (c *Alert) parseOption(d *caddyfile.Dispenser) error {
	switch d.Val() {
	case "on":
		if c.On = d.RemainingArgs(); len(c.On) == 0 {
			return d.ArgErr()
		}
		for _, status := range c.On {
			if !slices.Contains(alert.Statuses, status) {
				return d.Errf("%q is not a status that can be told of; those are %s", status, strings.Join(alert.Statuses, ", "))
			}
		}
		return nil
	case "after":
		return parseDuration(d, &c.After)
	case "repeat":
		return parseDuration(d, &c.Repeat)
	case "webhook":
		c.Webhook = new(AlertWebhook)
		return c.Webhook.parse(d)
	case "exec":
		if c.Exec = d.RemainingArgs(); len(c.Exec) == 0 || c.Exec[0] == "" {
			return d.ArgErr()
		}
		return nil
	}
	return d.Errf("unknown option %q of alert; known are after, exec, on, repeat and webhook", d.Val())
}

func (c *AlertWebhook) parse(d *caddyfile.Dispenser) error {
	token := d.Token()
	if !d.Args(&c.URL) || d.NextArg() {
		return d.ArgErr()
	}
	seen := make(map[string]bool)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if name := d.Val(); seen[name] && name != "header" {
			return d.Errf("%s is given twice", name)
		}
		seen[d.Val()] = true
		if err := c.parseOption(d); err != nil {
			return err
		}
	}
	if strings.Contains(c.URL, "{") {
		return nil // checked when it is resolved
	}
	if err := checkURL(c.URL, c.InsecureHTTP, "what is told"); err != nil {
		return at(token).Errf("webhook: %w", err)
	}
	return nil
}

func (c *AlertWebhook) parseOption(d *caddyfile.Dispenser) error {
	switch d.Val() {
	case "header":
		var name, value string
		if !d.Args(&name, &value) || d.NextArg() {
			return d.ArgErr()
		}
		if err := checkAlertHeader(name); err != nil {
			return d.Errf("header: %w", err)
		}
		if _, twice := c.Headers[name]; twice {
			return d.Errf("header %s is given twice", name)
		}
		if c.Headers == nil {
			c.Headers = make(map[string]string)
		}
		c.Headers[name] = value
		return nil
	case "secret":
		if c.Secrets = d.RemainingArgs(); len(c.Secrets) == 0 {
			return d.ArgErr()
		}
		return nil
	case "format":
		if !d.Args(&c.Format) || d.NextArg() {
			return d.ArgErr()
		}
		if c.Format != formatGeneric && c.Format != formatSlack {
			return d.Errf("format %q is unknown; use %s or %s", c.Format, formatGeneric, formatSlack)
		}
		return nil
	case "insecure_http":
		c.InsecureHTTP = true
		if d.NextArg() {
			return d.ArgErr()
		}
		return nil
	}
	return d.Errf("unknown option %q of webhook; known are format, header, insecure_http and secret", d.Val())
}
