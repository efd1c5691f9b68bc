package caddyoauth

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/textproto"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/caddyoauth/caddyoauth/internal/alert"
	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// AlertWebhook is told by a POST with a JSON body.
type AlertWebhook struct {
	// URL that is asked: https, or http to a loopback address. Many services have a secret in it; use a placeholder then.
	URL string `json:"url"`
	// Headers are sent besides. Their values may be placeholders.
	Headers map[string]string `json:"headers,omitempty"`
	// Secrets sign the message (Standard Webhooks): `whsec_` and base64. With several, a receiver can change its own.
	Secrets []string `json:"secrets,omitempty"`
	// Format is `generic` (the default) or `slack`.
	Format string `json:"format,omitempty"`
	// InsecureHTTP allows plain http to any address. Default: false.
	InsecureHTTP bool `json:"insecure_http,omitempty"`
}

const (
	alertTimeout = 10 * time.Second
	execTimeout  = 30 * time.Second
	execGrace    = 2 * time.Second // for pipes that a killed command has left open
	answerLimit  = 16 << 10        // read of an answer, so that a connection is not cut in the middle
	longestWait  = time.Hour       // that a receiver can ask for
)

// Formats of the body.
const (
	formatGeneric = "generic"
	formatSlack   = "slack"
)

// webhook is an AlertWebhook with everything resolved.
type webhook struct {
	host    string
	url     secret.Text // services put secrets into paths
	headers map[string]secret.Text
	keys    []alert.Key
	body    func(n alert.News, instance string, now time.Time) []byte
	client  *http.Client

	instance string
}

// ownHeaders are those that a configured header must not change.
var ownHeaders = []string{"Content-Type", "User-Agent", "Webhook-Id", "Webhook-Timestamp", "Webhook-Signature"}

func (c *AlertWebhook) build(r *resolver, instance string) *webhook {
	hook := &webhook{instance: instance, headers: make(map[string]secret.Text), body: alert.JSON}
	switch c.Format {
	case "", formatGeneric:
	case formatSlack:
		hook.body = alert.Slack
	default:
		r.fault("format", fmt.Errorf("%q is neither %s nor %s", c.Format, formatGeneric, formatSlack))
	}
	for name, raw := range c.Headers {
		if err := checkAlertHeader(name); err != nil {
			r.fault("header", err)
		}
		value := r.text("header "+name, raw)
		if !httpguts.ValidHeaderFieldValue(value) {
			r.fault("header "+name, errors.New("the value holds characters that no header may have"))
		}
		hook.headers[textproto.CanonicalMIMEHeaderKey(name)] = secret.New(value)
	}
	for _, raw := range c.Secrets {
		key, err := alert.ParseKey(secret.New(r.text("secret", raw)))
		if err != nil {
			r.fault("secret", err)
		}
		hook.keys = append(hook.keys, key)
	}
	target := r.text("webhook", c.URL)
	if err := checkURL(target, c.InsecureHTTP, "what is told"); err != nil {
		r.fault("webhook", err)
		return nil
	}
	parsed, err := url.Parse(target)
	if err != nil {
		r.fault("webhook", errors.New("is not a URL"))
		return nil
	}
	hook.host, hook.url = parsed.Hostname(), secret.New(target)
	hook.client = alertClient(parsed.Scheme)
	return hook
}

func checkAlertHeader(name string) error {
	canonical := textproto.CanonicalMIMEHeaderKey(name)
	if !httpguts.ValidHeaderFieldName(name) || isConnectionHeader(canonical) || slices.Contains(ownHeaders, canonical) {
		return fmt.Errorf("%q cannot be set", name)
	}
	return nil
}

// alertClient follows no redirect and keeps no connection: alerts are rare. A proxy of the environment is for https only, since it
// would read what is sent in the clear.
func alertClient(scheme string) *http.Client {
	transport := &http.Transport{DisableKeepAlives: true, TLSHandshakeTimeout: alertTimeout, MaxResponseHeaderBytes: answerLimit}
	if scheme == "https" {
		transport.Proxy = http.ProxyFromEnvironment
	}
	return &http.Client{Transport: transport, Timeout: alertTimeout, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}
}

// send makes one attempt. wait is how long the receiver wants to be left alone. Errors name neither the URL nor a header.
func (h *webhook) send(ctx context.Context, n alert.News) (wait time.Duration, err error) {
	now := time.Now()
	body := h.body(n, h.instance, now)
	ctx, cancel := context.WithTimeout(ctx, alertTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.url.Reveal(), bytes.NewReader(body))
	if err != nil {
		return 0, errors.New("the URL of the webhook is wrong")
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", userAgent)
	req.Header.Set("Webhook-Id", n.ID)
	req.Header.Set("Webhook-Timestamp", strconv.FormatInt(now.Unix(), 10))
	if len(h.keys) > 0 {
		req.Header.Set("Webhook-Signature", alert.Sign(h.keys, n.ID, now, body))
	}
	for _, name := range slices.Sorted(maps.Keys(h.headers)) {
		req.Header.Set(name, h.headers[name].Reveal())
	}
	resp, err := h.client.Do(req)
	if err != nil {
		var shown *url.Error // holds the URL
		if errors.As(err, &shown) {
			err = shown.Err
		}
		return 0, fmt.Errorf("ask the webhook: %w", err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, answerLimit))
	switch {
	case resp.StatusCode == http.StatusGone: // Standard Webhooks: it wants to hear no more. Only the configuration can agree to that
		return longestWait, errors.New("the webhook answered 410: it is gone; take it out of the configuration")
	case resp.StatusCode < 200 || resp.StatusCode > 299:
		return retryAfter(resp.Header.Get("Retry-After"), now), fmt.Errorf("the webhook answered %d", resp.StatusCode)
	}
	return 0, nil
}

// retryAfter reads the header of that name (RFC 9110 section 10.2.3): seconds, or a date.
func retryAfter(value string, now time.Time) time.Duration {
	wait := time.Duration(0)
	if seconds, err := strconv.Atoi(strings.TrimSpace(value)); err == nil {
		wait = time.Duration(min(max(seconds, 0), int(longestWait/time.Second))) * time.Second
	} else if at, err := http.ParseTime(value); err == nil {
		wait = at.Sub(now)
	}
	return min(max(wait, 0), longestWait)
}

// command is told by its standard input.
type command struct {
	name     string
	args     []string
	instance string
}

func buildCommand(r *resolver, raw []string, instance string) *command {
	c := &command{args: r.texts("exec", raw), instance: instance}
	c.name = filepath.Base(c.args[0])
	if c.args[0] == "" {
		r.fault("exec", errors.New("names no command"))
	}
	return c
}

// send runs the command once. It has none of Caddy's environment but what finding programs takes: secrets often stand there.
func (c *command) send(ctx context.Context, n alert.News) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, execTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.args[0], c.args[1:]...)
	cmd.Stdin = bytes.NewReader(alert.JSON(n, c.instance, time.Now()))
	cmd.WaitDelay = execGrace
	killTogether(cmd)
	cmd.Env = []string{}
	for _, name := range []string{"PATH", "HOME", "TZ", "LANG", "SYSTEMROOT"} {
		if value, ok := os.LookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	var exit *exec.ExitError
	switch err := cmd.Run(); {
	case ctx.Err() != nil:
		return 0, fmt.Errorf("run the command: %w", ctx.Err())
	case errors.As(err, &exit):
		return 0, fmt.Errorf("the command ended with %s", exit.ProcessState)
	case err != nil:
		return 0, fmt.Errorf("run the command: %w", err)
	}
	return 0, nil
}
