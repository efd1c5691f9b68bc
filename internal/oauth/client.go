package oauth

import (
	"context"
	"errors"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// Client asks one token endpoint for tokens. It is safe for concurrent use; calls do not wait for each other.
type Client struct {
	cfg  Config // our own copy, never changed after NewClient
	peer peer   // who is asked, for error texts
	// standing are the parts of every request that may be secrets: extra parameters, the query of the endpoint.
	standing []secret.Text

	origin  *origin                 // nil where the endpoints are configured
	located atomic.Pointer[located] // the last that At made

	mu      sync.Mutex // guards the fields below; never held over I/O
	cached  secret.Text
	refused refusedPassword
}

// NewClient checks cfg. It reads neither the secret nor the certificate: both may appear later.
func NewClient(cfg Config) (*Client, error) {
	cfg = cfg.withDefaults()
	if err := cfg.check(); err != nil {
		return nil, err
	}
	c := &Client{cfg: cfg}
	for _, endpoint := range []string{cfg.TokenEndpoint, cfg.RefreshEndpoint, cfg.RevocationEndpoint} {
		u, _ := url.Parse(endpoint) // just checked
		for _, values := range u.Query() {
			c.stands(values...)
		}
	}
	for _, values := range []map[string]string{cfg.Params, cfg.CodeParams, cfg.RefreshParams, cfg.ExtraHeaders, cfg.Revocation.Params} {
		for _, value := range values {
			c.stands(value)
		}
	}
	return c, nil
}

// stands adds to c.standing. Short values ("v1") are no secrets, and would hide half the codes.
func (c *Client) stands(values ...string) {
	for _, value := range values {
		if len(value) >= echoRun {
			c.standing = append(c.standing, secret.New(value))
		}
	}
}

// exchange is what one call wants to have done, before client authentication is added.
type exchange struct {
	grant string
	url   string
	form  url.Values
	// sent are the secrets in the request besides the client's own. Nothing that looks like a part of one is ever shown,
	// should the server echo it.
	sent []secret.Text
}

// ClientCredentials runs the client credentials grant (RFC 6749 section 4.4). Its errors are of type [*Error].
func (c *Client) ClientCredentials(ctx context.Context) (*TokenResponse, error) {
	c, err := c.at(ctx)
	if err != nil {
		return nil, err
	}
	x := c.newExchange(GrantClientCredentials)
	if len(c.cfg.Scopes) > 0 {
		x.form.Set("scope", c.scope())
	}
	return c.run(ctx, x)
}

// Refresh runs the refresh grant (RFC 6749 section 6). Its errors are of type [*Error].
//
// The scope is not sent unless the configuration says so: leaving it out means "as before", and a list that was edited
// since consent would be refused as an extension. An answer without a refresh token leaves the old one in force.
func (c *Client) Refresh(ctx context.Context, refreshToken secret.Text) (*TokenResponse, error) {
	if refreshToken.IsZero() {
		return nil, newError(Revoked, "no_refresh_token", "no refresh token to send; authorize the connection again")
	}
	c, err := c.at(ctx)
	if err != nil {
		return nil, err
	}
	x := c.newExchange(GrantRefreshToken)
	if c.cfg.RefreshEndpoint != "" {
		x.url = c.cfg.RefreshEndpoint
	}
	if c.cfg.SendScopeOnRefresh && len(c.cfg.Scopes) > 0 {
		x.form.Set("scope", c.scope())
	}
	x.form.Set("refresh_token", refreshToken.Reveal())
	x.sent = append(x.sent, refreshToken)
	return c.run(ctx, x)
}

// CloseIdle releases what the client holds between calls. It holds nothing today: every exchange has a connection of
// its own, which ends with it.
func (c *Client) CloseIdle() {}

func (c *Client) newExchange(grant string) *exchange {
	x := &exchange{grant: grant, url: c.cfg.TokenEndpoint, form: url.Values{}, sent: slices.Clone(c.standing)}
	for name, value := range c.cfg.Params {
		x.form.Set(name, value)
	}
	for name, value := range map[string]map[string]string{
		GrantAuthorizationCode: c.cfg.CodeParams, GrantRefreshToken: c.cfg.RefreshParams,
	}[grant] {
		x.form.Set(name, value)
	}
	if c.cfg.Audience != "" {
		x.form.Set("audience", c.cfg.Audience)
	}
	if len(c.cfg.Resources) > 0 { // RFC 8707 section 2.2: on a refresh as well
		x.form["resource"] = c.cfg.Resources
	}
	x.form.Set("grant_type", grant)
	return x
}

// scope is the configured scopes as one parameter.
func (c *Client) scope() string { return strings.Join(c.cfg.Scopes, c.cfg.ScopeSeparator) }

// run sends x to the token endpoint.
func (c *Client) run(ctx context.Context, x *exchange) (*TokenResponse, error) {
	if x.url == "" {
		return nil, newError(Misconfigured, "no_token_endpoint", "no token endpoint to ask; set token_endpoint")
	}
	var token *TokenResponse
	err := c.authenticated(ctx, c.cfg.Method.usesSecret(), func(ctx context.Context, used secret.Text) (err error) {
		token, err = c.attempt(ctx, x, used)
		return err
	})
	c.learn(err)
	return token, err
}

// authenticated makes an attempt, and makes it once more if the server refused the client and the secret has been
// replaced meanwhile. Repeating is safe then, also with a single-use refresh token: a server that does not know the
// client processed nothing (RFC 6749 section 3.2.1).
func (c *Client) authenticated(
	ctx context.Context, withSecret bool, attempt func(context.Context, secret.Text) error,
) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	if !withSecret {
		return attempt(ctx, secret.Text{})
	}
	used, err := c.clientSecret()
	if err != nil {
		return err
	}
	err = attempt(ctx, used)
	var failure *Error
	if !errors.As(err, &failure) || !failure.refusedClient() {
		return err
	}
	fresh, readErr := c.readSecret()
	if readErr != nil || fresh.Equal(used) {
		return err // the refusal says more than a failed second look
	}
	return attempt(ctx, fresh)
}

// attempt is one request and the judgement on its answer.
func (c *Client) attempt(ctx context.Context, x *exchange, clientSecret secret.Text) (*TokenResponse, error) {
	req, err := c.newRequest(ctx, x, clientSecret)
	if err != nil {
		return nil, err
	}
	answer, err := c.send(req)
	if err != nil {
		return nil, err
	}
	return c.judge(x, clientSecret, answer)
}

// clientSecret returns the secret of the last reading.
func (c *Client) clientSecret() (secret.Text, error) {
	c.mu.Lock()
	cached := c.cached
	c.mu.Unlock()
	if !cached.IsZero() {
		return cached, nil
	}
	return c.readSecret()
}

// readSecret reads the secret anew, outside the lock: two readers at once do no harm, the later one wins.
func (c *Client) readSecret() (secret.Text, error) {
	fresh, err := c.cfg.Secret()
	if err != nil {
		e := newError(Misconfigured, "secret_unreadable", "client secret cannot be read: "+err.Error())
		e.cause = err
		return secret.Text{}, e
	}
	if fresh.IsZero() {
		return secret.Text{}, newError(Misconfigured, "secret_unreadable", "client secret is empty; set client_secret")
	}
	c.mu.Lock()
	c.cached = fresh
	c.mu.Unlock()
	return fresh, nil
}
