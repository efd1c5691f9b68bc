package oauth

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// ErrRevocationUnsupported is what errors.Is finds when a token cannot be revoked at this server: there is no endpoint
// for it, or not for this kind of token (RFC 7009 section 2.2.1).
var ErrRevocationUnsupported = errors.New("token revocation is not supported here")

// RevocationAuth says by what a revocation request is authorized.
type RevocationAuth string

// What authorizes a revocation.
const (
	RevokeAsClient   RevocationAuth = ""       // as the token endpoint: RFC 7009 section 2.1
	RevokeWithBasic  RevocationAuth = "basic"  // client id and secret in a Basic header, whatever Method says (GitHub)
	RevokeWithPost   RevocationAuth = "post"   // client id and secret in the body, whatever Method says (HubSpot, Box)
	RevokeWithSecret RevocationAuth = "secret" // the client secret alone in Authorization (Stripe, Square)
	RevokeWithToken  RevocationAuth = "token"  // the token that is to die (Slack, Dropbox, Shopify)
	RevokeWithout    RevocationAuth = "none"   // nothing; holding the token is enough (Google)
)

// RevocationShape says in what a server's revocation request differs from RFC 7009. The zero value is RFC 7009.
type RevocationShape struct {
	Method string // empty means POST; else DELETE
	Format BodyFormat
	Auth   RevocationAuth

	// Scheme stands before the secret or the token in Authorization; empty means Bearer (Square: Client).
	Scheme string
	// Header carries the bare token instead of Authorization, with RevokeWithToken (Shopify).
	Header string

	// Names gives parameters another name, or none at all if it is empty: token, token_type_hint, client_id,
	// client_secret (GitHub: token is access_token; Miro: client_id is clientId).
	Names map[string]string
	// Params are sent as well (Stripe: stripe_user_id).
	Params map[string]string
	// Gone are statuses with which this server says that the token was dead already (GitHub: 404 and 422).
	Gone []int
}

func (s RevocationShape) clone() RevocationShape {
	s.Names, s.Params, s.Gone = maps.Clone(s.Names), maps.Clone(s.Params), slices.Clone(s.Gone)
	return s
}

// usesSecret reports whether the client secret is sent.
func (s *RevocationShape) usesSecret(method Method) bool {
	switch s.Auth {
	case RevokeAsClient:
		return method.usesSecret()
	case RevokeWithBasic, RevokeWithPost, RevokeWithSecret:
		return true
	}
	return false
}

func (c *Config) checkRevocation() error {
	s := &c.Revocation
	switch {
	case s.Method != "" && s.Method != http.MethodPost && s.Method != http.MethodDelete:
		// Not GET: a query ends up in logs.
		return fmt.Errorf("unknown revocation method %q: POST or DELETE", s.Method)
	case !slices.Contains([]BodyFormat{"", FormatForm, FormatJSON, FormatNone}, s.Format):
		return fmt.Errorf("unknown revocation body format %q: form, json or none", s.Format)
	case !slices.Contains([]RevocationAuth{
		RevokeAsClient, RevokeWithBasic, RevokeWithPost, RevokeWithSecret, RevokeWithToken, RevokeWithout,
	}, s.Auth):
		return fmt.Errorf("unknown revocation authentication %q", s.Auth)
	case s.usesSecret(c.Method) && c.Secret == nil:
		return errors.New("revocation sends the client secret: set client_secret")
	case s.Format == FormatNone && s.Auth != RevokeWithToken:
		return errors.New("revocation without a body sends the token nowhere: it must be its authentication")
	case s.Header != "" && (s.Auth != RevokeWithToken || !isHeaderName(s.Header)):
		return errors.New("revocation header is not a header name, or has no token to carry")
	case slices.ContainsFunc(s.Gone, func(status int) bool { return status < 400 || status > 499 }):
		return errors.New("revocation status that means gone is not one of 400 to 499")
	case s.Scheme != "" && !isHeaderName(s.Scheme): // a scheme is a token too
		return errors.New("revocation scheme is not the name of an authentication scheme")
	}
	return nil
}

// Revoke asks the server to forget a token; hint is "refresh_token", "access_token" or "". A token that was dead already
// counts as revoked (RFC 7009 section 2.2). Its errors are of type [*Error]; none of them is of class [Revoked], and
// after all of them the call may be made again.
//
// With [RevokeWithToken] the token must be one that the API accepts now: an expired access token authorizes nothing, and
// says nothing about its grant.
func (c *Client) Revoke(ctx context.Context, token secret.Text, hint string) error {
	c, err := c.at(ctx)
	switch {
	case err != nil:
		return err
	case c.cfg.RevocationEndpoint == "":
		return unsupported("no_revocation_endpoint", 0, "this authorization server has no revocation endpoint; "+
			"withdraw the consent in the provider's own settings")
	case token.IsZero():
		return newError(Unrecognized, "no_token", "no token to revoke")
	case !sendable(token.Reveal()):
		return newError(Unrecognized, "invalid_token", "the token to revoke holds characters that no header can carry")
	}
	x := &exchange{grant: "revocation", url: c.cfg.RevocationEndpoint, form: url.Values{}, sent: slices.Clone(c.standing)}
	x.sent = append(x.sent, token)
	for name, value := range c.cfg.Revocation.Params {
		x.form.Set(name, value)
	}
	x.form.Set("token", token.Reveal())
	// Only the form is sure to be RFC 7009, where unknown hints are ignored; a JSON API may refuse unknown members.
	if hint != "" && c.cfg.Revocation.Format != FormatJSON {
		x.form.Set("token_type_hint", hint)
	}
	asked := &Client{cfg: c.cfg, peer: peer{"revocation endpoint", "revocation_endpoint"}} // for its texts only
	withSecret := c.cfg.Revocation.usesSecret(c.cfg.Method)
	return c.authenticated(ctx, withSecret, func(ctx context.Context, used secret.Text) error {
		req, err := asked.newRevocation(ctx, x, used)
		if err != nil {
			return err
		}
		answer, err := asked.send(req)
		if err != nil {
			return err
		}
		return asked.judgeRevocation(x, used, answer)
	})
}

func unsupported(code string, status int, text string) *Error {
	e := newError(Misconfigured, code, text)
	e.Status, e.cause = status, ErrRevocationUnsupported
	return e
}

// newRevocation builds the request in the shape that the server wants.
func (c *Client) newRevocation(ctx context.Context, x *exchange, clientSecret secret.Text) (*http.Request, error) {
	s := &c.cfg.Revocation
	form, authorization, header := maps.Clone(x.form), "", "Authorization"
	scheme := s.Scheme
	if scheme == "" {
		scheme = "Bearer"
	}
	switch {
	case s.Auth == RevokeWithBasic, s.Auth == RevokeAsClient && c.cfg.Method == ClientSecretBasic:
		authorization = "Basic " + c.cfg.basic(clientSecret)
	case s.Auth == RevokeWithSecret:
		authorization = scheme + " " + clientSecret.Reveal()
		form.Set("client_id", c.cfg.ClientID)
	case s.Auth == RevokeWithToken && s.Header != "":
		authorization, header = form.Get("token"), s.Header
	case s.Auth == RevokeWithToken:
		authorization = scheme + " " + form.Get("token")
	case s.Auth == RevokeWithPost:
		form.Set("client_id", c.cfg.ClientID)
		form.Set("client_secret", clientSecret.Reveal())
	case s.Auth == RevokeAsClient:
		if err := c.identify(x, form, clientSecret); err != nil {
			return nil, err
		}
	}
	if !sendable(authorization) {
		return nil, newError(Misconfigured, "invalid_secret", "client secret holds characters that no header can carry")
	}
	method := s.Method
	if method == "" {
		method = http.MethodPost
	}
	req, err := c.message(ctx, method, x.url, s.Format.encode(renamed(form, s.Names)))
	if err == nil && authorization != "" {
		req.Header.Set(header, authorization)
	}
	return req, err
}

// renamed gives the parameters the names that a server has for them.
func renamed(form url.Values, names map[string]string) url.Values {
	out := make(url.Values, len(form))
	for name, values := range form {
		if other, has := names[name]; has {
			name = other
		}
		if name != "" {
			out[name] = values
		}
	}
	return out
}

// goneCodes say that the token was dead already.
var goneCodes = map[string]bool{
	"invalid_token":         true, // Google; RFC 7009 has 200 for it
	"token_revoked":         true, // Slack
	"account_inactive":      true, // Slack
	"invalid_auth":          true, // Slack
	"invalid_refresh_token": true,
	"bad_refresh_token":     true,
	"invalid_code":          true, // Zoho
}

// judgeRevocation decides what an answer means. The content of a success is ignored (RFC 7009 section 2.2), except for
// the "no" that some servers write into it.
func (c *Client) judgeRevocation(x *exchange, clientSecret secret.Text, r *reply) error {
	if r.status >= 300 && r.status < 400 {
		return c.redirected(r)
	}
	succeeded := r.status >= 200 && r.status < 300
	if r.readErr != nil {
		return brokenOff(r, succeeded, c.peer) // the "no" may be in what was lost, and asking again does no harm
	}
	object, _ := decodeObject(r.body)
	raw, marked := errorMarker(object)
	code := showable(raw, c.echoable(x, clientSecret))
	low := strings.ToLower(code)
	switch {
	case succeeded && !marked, slices.Contains(c.cfg.Revocation.Gone, r.status):
		return nil
	case r.status < 500 && goneCodes[low]:
		return nil
	case low == "unsupported_token_type":
		return unsupported(code, r.status, "revocation endpoint does not revoke this kind of token: "+
			code+" ("+strconv.Itoa(r.status)+")")
	case c.cfg.Revocation.Auth == RevokeWithToken && r.status == http.StatusUnauthorized:
		return deadAuthorizer(r, code)
	}
	e := c.refusal(x, r, code)
	e.RetryAfter = retryAfter(r, object, e.Class)
	return e
}

// deadAuthorizer is for a token that could not authorize its own end. If it has only expired, what it stands for may be
// alive: the refresh token of the same grant.
func deadAuthorizer(r *reply, code string) error {
	if !strings.Contains(strings.ToLower(code), "expired") {
		return nil
	}
	e := newError(Unrecognized, code, "revocation endpoint wants a token that is still valid: "+code+
		" ("+strconv.Itoa(r.status)+"); refresh it first")
	e.Status = r.status
	return e
}
