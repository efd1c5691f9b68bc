package caddyoauth

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddyoauth/caddyoauth/internal/oauth"
	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// grants are what `grant` may say.
var grants = []string{oauth.GrantClientCredentials, oauth.GrantAuthorizationCode, oauth.GrantPassword, oauth.GrantImplicit}

// grant settles the grant: what the connection says, else whether there is a place to send people to.
func (c *Connection) grant(r *resolver, conf oauth.Config) string {
	switch {
	case c.Grant == "" && !c.forPeople(conf):
		return oauth.GrantClientCredentials
	case c.Grant == "":
		return oauth.GrantRefreshToken
	case !slices.Contains(grants, c.Grant):
		r.fault("grant", fmt.Errorf("%q is not supported; use %s", c.Grant, strings.Join(grants, ", ")))
		return ""
	case c.Grant == oauth.GrantAuthorizationCode, c.Grant == oauth.GrantImplicit:
		if conf.AuthorizationEndpoint == "" && conf.Discovery == nil {
			r.fault("authorization_endpoint", errors.New("is required for the grant "+c.Grant))
		}
	}
	if c.Grant == oauth.GrantAuthorizationCode {
		return oauth.GrantRefreshToken
	}
	return c.Grant
}

// forPeople reports whether a connection that does not say its grant is one that people authorize: there is a place to send them to, or
// there will be one and they are expected.
func (c *Connection) forPeople(conf oauth.Config) bool {
	return conf.AuthorizationEndpoint != "" || conf.Discovery != nil && (c.Provider != nil || c.Subject != "")
}

// checkGrant returns an option that does not go with the grant, as far as it can be told before placeholders are resolved.
func (c *Connection) checkGrant() (option string, err error) {
	switch account := c.Grant == oauth.GrantPassword; {
	case account && c.Username == "":
		return "username", errors.New("is required for the grant password")
	case account && c.Password == "":
		return "password", errors.New("is required for the grant password")
	case account && c.Subject != "":
		return "subject", errors.New("the grant password is for one account that all requests share; leave it out")
	case !account && c.Username != "":
		return "username", errors.New("is for the grant password only; leave it out, or say `grant password`")
	case !account && c.Password != "":
		return "password", errors.New("is for the grant password only; leave it out, or say `grant password`")
	}
	return "", nil
}

// buildGrant settles what the grant needs, and returns what should be said about it when it is loaded.
func (c *Connection) buildGrant(r *resolver, conf *oauth.Config, name string) (warnings []string) {
	if option, err := c.checkGrant(); err != nil {
		r.fault(option, err)
		return nil
	}
	switch c.Grant {
	default:
		return nil
	case oauth.GrantImplicit:
		return []string{fmt.Sprintf("connection %q uses the grant implicit, which RFC 9700 advises against and OAuth 2.1 has dropped: tokens pass "+
			"through the browser, where extensions and scripts can read them; somebody else's token cannot be told from the visitor's own; and "+
			"nothing can be refreshed. Use authorization_code if the server has it", name)}
	case oauth.GrantPassword:
	}
	conf.Username = r.text("username", c.Username)
	conf.Password = r.secret("password", c.Password)
	return []string{fmt.Sprintf("connection %q uses the grant password, which RFC 9700 forbids where there is another way: "+
		"whoever reads this configuration can sign in as the account, and a second factor cannot be asked for", name)}
}

// secret resolves a secret each time that it is read, so that a file which has changed counts. One that is not set is a fault now.
func (r *resolver) secret(field, raw string) func() (secret.Text, error) {
	r.text(field, raw)
	if r.stored != nil {
		fixed := secret.New(raw)
		return func() (secret.Text, error) { return fixed, nil }
	}
	return func() (secret.Text, error) {
		value, err := caddy.NewReplacer().ReplaceOrErr(raw, true, true)
		return secret.New(value), err
	}
}
