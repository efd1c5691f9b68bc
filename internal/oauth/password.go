package oauth

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// lockoutPause is how long a password that was refused is not sent again. Directories lock an account after some five wrong
// passwords in half an hour, and people who use it would be locked out as well.
const lockoutPause = 15 * time.Minute

// refusedPassword is what the server said of a password. The zero value: nothing was refused.
type refusedPassword struct {
	password secret.Text
	said     *Error
	until    time.Time
}

// Password runs the resource owner password credentials grant (RFC 6749 section 4.3) for the account of the configuration. It is
// for servers that have nothing else: RFC 9700 section 2.4 forbids it elsewhere. Its errors are of type [*Error].
//
// A password that was refused is not sent again for a quarter of an hour; the refusal is repeated instead. Another password
// is sent at once.
func (c *Client) Password(ctx context.Context) (*TokenResponse, error) {
	password, err := c.readPassword()
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	refused := c.refused
	c.mu.Unlock()
	if time.Now().Before(refused.until) && refused.password.Equal(password) {
		return nil, refused.said
	}
	token, err := c.sendPassword(ctx, password)
	var said *Error
	if errors.As(err, &said) && said.refusedPassword(GrantPassword) {
		c.mu.Lock()
		c.refused = refusedPassword{password, said, time.Now().Add(lockoutPause)}
		c.mu.Unlock()
	}
	return token, err
}

func (c *Client) sendPassword(ctx context.Context, password secret.Text) (*TokenResponse, error) {
	c, err := c.at(ctx)
	if err != nil {
		return nil, err
	}
	x := c.newExchange(GrantPassword)
	if len(c.cfg.Scopes) > 0 {
		x.form.Set("scope", c.scope())
	}
	x.form.Set("username", c.cfg.Username)
	x.form.Set("password", password.Reveal())
	x.sent = append(x.sent, password)
	if len(c.cfg.Username) >= echoRun { // no secret, but nobody's business either
		x.sent = append(x.sent, secret.New(c.cfg.Username))
	}
	return c.run(ctx, x)
}

func (c *Client) readPassword() (secret.Text, error) {
	if c.cfg.Username == "" || c.cfg.Password == nil {
		return secret.Text{}, newError(Misconfigured, "no_password", "no user name and password to send; set both")
	}
	password, err := c.cfg.Password()
	if err != nil {
		e := newError(Misconfigured, "password_unreadable", "password cannot be read: "+err.Error())
		e.cause = err
		return secret.Text{}, e
	}
	if password.IsZero() {
		return secret.Text{}, newError(Misconfigured, "password_unreadable", "password is empty; set password")
	}
	return password, nil
}

// refusedPassword reports whether the server did not accept the user name and password.
func (e *Error) refusedPassword(grant string) bool {
	low := strings.ToLower(e.Code)
	return grant == GrantPassword && e.Class == Misconfigured && (deadTokenCodes[low] || ownRequestCodes[low])
}
