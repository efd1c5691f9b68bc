// Package oauth is the client side of an OAuth 2.0 authorization server: it asks the token endpoint for a token,
// refreshes or revokes one, and says exactly what came of it. For connections of people it also finds the endpoints,
// writes the URL that a person is sent to and reads what comes back.
//
// It speaks RFC 6749 (grants, client authentication, errors), RFC 7009 (revocation), RFC 7636 (PKCE), RFC 8414 and
// OpenID Connect (discovery, ID tokens), RFC 8705 (mutual TLS), RFC 8707 (resource indicators) and RFC 9207 (issuer
// identification), reads the answers that real servers give in their place, and sorts every failure once into a
// [Class]. What it must be able to say, and the usual clients cannot, is whether a request that failed may still have
// been processed: that decides if a single-use refresh token is burnt.
//
// It does not cache tokens, retry, refresh early, lock or store: package connection decides when to call and what to
// keep. Nor does it serve pages or remember states: who asks for an authorization URL keeps what the callback is
// compared with. It never follows a redirect, never probes for a client authentication method and never sends a
// request twice, with one exception: a client authentication that was refused is sent once more if the secret has
// changed since.
//
// It may import the standard library, internal/secret and go-jose, which signs client assertions; nothing else.
package oauth

import (
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// Method is a registered client authentication method (RFC 7591 section 2, RFC 8705 section 2, OpenID Connect Core section 9).
type Method string

// The methods this package speaks.
const (
	ClientSecretBasic       Method = "client_secret_basic"
	ClientSecretPost        Method = "client_secret_post"
	TLSClientAuth           Method = "tls_client_auth"
	SelfSignedTLSClientAuth Method = "self_signed_tls_client_auth"
	PrivateKeyJWT           Method = "private_key_jwt"
	ClientSecretJWT         Method = "client_secret_jwt"
	None                    Method = "none"
)

// Methods are the names of all methods.
func Methods() []string {
	var names []string
	for _, m := range []Method{
		ClientSecretBasic, ClientSecretPost, ClientSecretJWT, PrivateKeyJWT, TLSClientAuth, SelfSignedTLSClientAuth, None,
	} {
		names = append(names, string(m))
	}
	return names
}

// Grants.
const (
	GrantClientCredentials = "client_credentials"
	GrantRefreshToken      = "refresh_token"
	GrantAuthorizationCode = "authorization_code"
	GrantPassword          = "password"
	GrantImplicit          = "implicit" // never sent: the authorization endpoint answers with the token itself
)

// Defaults of [Config].
const (
	DefaultTimeout   = 15 * time.Second
	defaultUserAgent = "caddyoauth" // Discord, GitHub and Reddit refuse a missing or generic one
)

// Config describes one client at one authorization server. It has a field for each thing in which servers differ, so
// that a preset is data; all below [Config.UserAgent] may be left out for client credentials.
type Config struct {
	// TokenEndpoint is an absolute http or https URL. Whether http is acceptable is the caller's decision. It may be left
	// out if there is a Discovery, or an AuthorizationEndpoint: the implicit grant needs no other.
	TokenEndpoint string
	Discovery     *Discovery // where the endpoints come from that are left out; nil means nowhere
	ClientID      string

	// Method is never guessed: a probe would send a single-use token twice. Empty means client_secret_basic, the
	// default of RFC 7591 section 2.
	Method Method

	// Secret reads the client secret anew on each call; nil when the method needs none. It is called on first use, and
	// again when the server refuses the client. The text of its error is shown, so it must not hold the secret.
	Secret func() (secret.Text, error)

	// Key signs client assertions, for private_key_jwt; nil means there is none. AssertionAudience is whom assertions are for,
	// where a server wants something else than its Issuer, or where that is not known its TokenEndpoint.
	Key               *ClientKey
	Issuer            string
	AssertionAudience string

	// Certificate is offered to a server that asks for one, whatever the method; nil means there is none.
	Certificate *Certificate

	// Reach decides whether a connection may be opened to an address; nil means to any. It is asked after names were resolved, so
	// that a name cannot lead to an address that its owner has no business with. A proxy from the environment is not asked for.
	Reach func(netip.AddrPort) error

	RootCAs *x509.CertPool // nil means the system's
	Timeout time.Duration  // for a whole exchange; 0 means DefaultTimeout

	Scopes    []string // sent joined by ScopeSeparator; on a refresh only with SendScopeOnRefresh
	Audience  string
	Resources []string          // RFC 8707, one parameter each
	Params    map[string]string // more parameters; none that the protocol or a field above owns

	// Username and Password are those of the one account of [Client.Password]. Password is read anew for each request; the text
	// of its error is shown, so it must not hold the password.
	Username string
	Password func() (secret.Text, error)

	UserAgent string // empty means "caddyoauth"

	AuthorizationEndpoint string // where people are sent; its own query is kept
	RevocationEndpoint    string // empty: this server has none
	Revocation            RevocationShape
	RefreshEndpoint       string // where refreshes go if not to TokenEndpoint (Figma)

	CodeParams         map[string]string // as Params, when a code is exchanged only, where they win over Params
	RefreshParams      map[string]string // as Params, on a refresh only, where they win over Params
	SendScopeOnRefresh bool              // Microsoft picks the resource by it
	ScopeParam         string            // of the authorization request; empty means scope (Slack: user_scope)
	ScopeSeparator     string            // empty means one space; Slack, Shopify, Zoho and others want a comma

	BodyFormat   BodyFormat        // of requests to the token endpoint; empty means form
	BasicRaw     bool              // client_secret_basic without the form-encoding, for servers that do not decode
	SecretAsUser bool              // client_secret_basic with the secret as user name, and no password (Stripe Apps)
	ExtraHeaders map[string]string // on every request to the server; none that the protocol or a field above owns

	// Codes are this server's own words for a refusal; they count before those that this package knows.
	Codes Codes

	// TokenPath lists where a granted answer may hold the access token, as member names joined by dots; the first place
	// that holds one counts. refresh_token, expires_in, scope and token_type are read beside it. Empty means
	// "access_token". A refresh also finds it there whatever the list says: Slack hands out a user token as
	// "authed_user.access_token" and refreshes it at the top.
	TokenPath []string
}

// ownParams are the parameters that Params must not carry: the protocol's own, those that a field of [Config] sets, and
// those of grants in which they would replace what is sent.
var ownParams = []string{
	"grant_type", "client_id", "client_secret", "client_assertion", "client_assertion_type",
	"scope", "audience", "resource", "refresh_token", "code", "code_verifier", "redirect_uri", "assertion",
}

// withDefaults returns a copy that shares no memory with the caller's.
func (c Config) withDefaults() Config {
	c.Scopes, c.Resources, c.Params = slices.Clone(c.Scopes), slices.Clone(c.Resources), maps.Clone(c.Params)
	c.CodeParams, c.RefreshParams, c.ExtraHeaders = maps.Clone(c.CodeParams), maps.Clone(c.RefreshParams), maps.Clone(c.ExtraHeaders)
	c.TokenPath, c.Revocation, c.Codes = slices.Clone(c.TokenPath), c.Revocation.clone(), c.Codes.normalized()
	if c.ScopeParam == "" {
		c.ScopeParam = "scope"
	}
	if c.ScopeSeparator == "" {
		c.ScopeSeparator = " "
	}
	if c.BodyFormat == "" {
		c.BodyFormat = FormatForm
	}
	if c.Method == "" {
		c.Method = ClientSecretBasic
	}
	if c.Timeout == 0 {
		c.Timeout = DefaultTimeout
	}
	if c.UserAgent == "" {
		c.UserAgent = defaultUserAgent
	}
	return c
}

func (c *Config) check() error {
	if err := c.checkEndpoints(); err != nil {
		return err
	}
	if c.ClientID == "" {
		return errors.New("missing client id: set client_id")
	}
	if c.Timeout < 0 {
		return errors.New("negative timeout")
	}
	if strings.ContainsFunc(c.UserAgent, func(r rune) bool { return r < ' ' || r > '~' }) {
		return errors.New("user agent holds a character that a header cannot carry")
	}
	if err := c.checkMethod(); err != nil {
		return err
	}
	for _, params := range []map[string]string{c.Params, c.CodeParams, c.RefreshParams} {
		if err := checkParams(params); err != nil {
			return err
		}
	}
	return c.checkShape()
}

func checkParams(params map[string]string) error {
	for name := range params {
		if name == "" {
			return errors.New("token parameter without a name")
		}
		if slices.Contains(ownParams, name) {
			return fmt.Errorf("token parameter %q is set by this client itself: use the option of that name", name)
		}
	}
	return nil
}

// checkEndpoints checks every URL of the server.
func (c *Config) checkEndpoints() error {
	if c.TokenEndpoint != "" || c.AuthorizationEndpoint == "" && c.Discovery == nil {
		if _, err := parseEndpoint("token endpoint", c.TokenEndpoint); err != nil {
			return err
		}
	}
	for _, one := range []struct{ name, url string }{
		{"authorization endpoint", c.AuthorizationEndpoint},
		{"refresh endpoint", c.RefreshEndpoint},
		{"revocation endpoint", c.RevocationEndpoint},
	} {
		if one.url == "" {
			continue
		}
		if _, err := parseEndpoint(one.name, one.url); err != nil {
			return err
		}
	}
	return nil
}

// parseEndpoint parses the URL of an endpoint. Its errors do not repeat the URL: a query may hold a key.
func parseEndpoint(name, raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http"):
		return nil, errors.New(name + " is not an absolute http or https URL")
	case u.User != nil:
		return nil, errors.New(name + " holds a user name or password: use client_id and client_secret")
	case u.Fragment != "": // RFC 6749 sections 3.1 and 3.2
		return nil, errors.New(name + " must not have a fragment")
	}
	return u, nil
}

func (c *Config) checkMethod() error {
	switch c.Method {
	case ClientSecretBasic, ClientSecretPost, ClientSecretJWT:
		if c.Secret == nil {
			return fmt.Errorf("client authentication %s needs a secret: set client_secret", c.Method)
		}
	case TLSClientAuth, SelfSignedTLSClientAuth:
		if c.Certificate == nil {
			return fmt.Errorf("client authentication %s needs a certificate: set client_certificate", c.Method)
		}
	case PrivateKeyJWT:
		if c.Key == nil {
			return fmt.Errorf("client authentication %s needs a key: set client_key", c.Method)
		}
		if c.Key.Algorithm != "" && !slices.Contains(AssertionAlgorithms(), c.Key.Algorithm) {
			return fmt.Errorf("unknown algorithm %q of the client key; known are %s", c.Key.Algorithm, strings.Join(AssertionAlgorithms(), ", "))
		}
	case None:
	default:
		return fmt.Errorf("unknown client authentication method %q", c.Method)
	}
	if c.Certificate == nil {
		return nil
	}
	for _, endpoint := range []string{c.TokenEndpoint, c.RefreshEndpoint, c.RevocationEndpoint} {
		if u, _ := url.Parse(endpoint); endpoint != "" && u.Scheme != "https" { // parsed before
			return errors.New("a client certificate needs an https token endpoint")
		}
	}
	return nil
}

// usesSecret reports whether the method sends the client secret, or signs with it.
func (m Method) usesSecret() bool {
	return m == ClientSecretBasic || m == ClientSecretPost || m == ClientSecretJWT
}
