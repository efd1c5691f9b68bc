package oauth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// randomSize is the entropy of what [NewPKCE] and [RandomState] make: RFC 7636 section 4.1 recommends 32 bytes.
const randomSize = 32

// PKCE ties an authorization code to the one who asked for it (RFC 7636). The challenge travels through the browser, the
// verifier never does.
type PKCE struct {
	Verifier  secret.Text
	Challenge string // for the method S256; plain is never used (RFC 9700 section 2.1.1)
}

// NewPKCE makes a fresh pair.
func NewPKCE() PKCE { return pkceOf(RandomState()) }

func pkceOf(verifier string) PKCE {
	sum := sha256.Sum256([]byte(verifier))
	return PKCE{Verifier: secret.New(verifier), Challenge: base64.RawURLEncoding.EncodeToString(sum[:])}
}

// RandomState makes a value that nobody can guess, of 43 characters that need no escaping: for state and nonce. They
// pass through the browser and its history, so they are no secrets once they were used; a value that must stay one is to
// be wrapped in a [secret.Text] at once.
func RandomState() string {
	raw := make([]byte, randomSize)
	_, _ = rand.Read(raw) // never fails, the program ends instead
	return base64.RawURLEncoding.EncodeToString(raw)
}

// Response types (RFC 6749 section 3.1.1).
const (
	ResponseTypeCode  = "code"
	ResponseTypeToken = "token" // the implicit grant, for servers that have nothing else
)

// ownAuthParams are the parameters of an authorization request that this client sets itself, and those that would
// replace them all: request and request_uri (RFC 9101, RFC 9126).
var ownAuthParams = []string{
	"response_type", "client_id", "redirect_uri", "scope", "state", "nonce", "code_challenge", "code_challenge_method",
	"request", "request_uri", "client_secret", "response_mode",
}

// AuthorizationRequest is one person's way to the authorization server.
type AuthorizationRequest struct {
	ResponseType string // empty means code
	RedirectURI  string // as registered, to the letter; the same at [Client.ExchangeCode]
	State        string // from [RandomState]
	Nonce        string // from [RandomState]; for OpenID Connect, else empty
	Challenge    string // of a [PKCE]; empty for servers that refuse it

	// Params are sent as well (access_type, prompt, user_scope, ...); none that the protocol owns. response_mode may only
	// say what is the default anyway.
	Params map[string]string
}

// AuthorizationURL returns where to send a person (RFC 6749 section 4.1.1). The authorization endpoint keeps its own
// query. Its errors are of type [*Error].
func (c *Client) AuthorizationURL(r AuthorizationRequest) (string, error) {
	if c.cfg.AuthorizationEndpoint == "" {
		return "", newError(Misconfigured, "no_authorization_endpoint",
			"no authorization endpoint to send people to; set authorization_endpoint")
	}
	if r.ResponseType == "" {
		r.ResponseType = ResponseTypeCode
	}
	if hint := r.fault(); hint != "" {
		return "", badAuthRequest(hint)
	}
	query, err := c.authParams(&r)
	if err != nil {
		return "", err
	}
	u, _ := url.Parse(c.cfg.AuthorizationEndpoint) // parsed by NewClient
	own := u.Query()
	for name := range query { // RFC 6749 section 3.1: no parameter more than once
		if own.Has(name) {
			return "", badAuthRequest("parameter " + name + " stands in the query of the authorization endpoint as well; " +
				"set it in one place")
		}
	}
	if u.RawQuery != "" { // appended, so that the server's part stays as it was written
		u.RawQuery += "&"
	}
	u.RawQuery += query.Encode()
	return u.String(), nil
}

func badAuthRequest(hint string) *Error {
	return newError(Misconfigured, "invalid_authorization_request", "authorization request cannot be made: "+hint)
}

// fault says what is wrong with the request, or "". It repeats no values.
func (r *AuthorizationRequest) fault() string {
	redirect, err := url.Parse(r.RedirectURI)
	switch {
	case err != nil || redirect.Host == "" || (redirect.Scheme != "https" && redirect.Scheme != "http"):
		return "the redirect URI is not an absolute http or https URL"
	case redirect.Fragment != "" || redirect.User != nil: // RFC 6749 section 3.1.2
		return "the redirect URI must have neither a fragment nor a user name"
	case len(r.State) < minState || !isState(r.State):
		return "the state is too short or holds characters that need escaping"
	case r.ResponseType == ResponseTypeToken && r.Challenge != "":
		return "there is no PKCE without a code"
	case r.ResponseType != ResponseTypeCode && r.ResponseType != ResponseTypeToken:
		return "the response type is neither code nor token"
	}
	return ""
}

// authParams are all parameters of the request.
func (c *Client) authParams(r *AuthorizationRequest) (url.Values, error) {
	query := url.Values{}
	for name, value := range map[string]string{
		"response_type": r.ResponseType, "client_id": c.cfg.ClientID, "redirect_uri": r.RedirectURI, "state": r.State,
		"nonce": r.Nonce, "code_challenge": r.Challenge, c.cfg.ScopeParam: c.scope(), "audience": c.cfg.Audience,
	} {
		if value != "" {
			query.Set(name, value)
		}
	}
	if r.Challenge != "" {
		query.Set("code_challenge_method", "S256")
	}
	if len(c.cfg.Resources) > 0 { // RFC 8707 section 2.1
		query["resource"] = c.cfg.Resources
	}
	for name, value := range r.Params {
		switch low := strings.ToLower(name); {
		case name == "response_mode" && value == defaultMode(r.ResponseType):
		case name == "", query.Has(name), slices.Contains(ownAuthParams, low):
			return nil, badAuthRequest("parameter " + strconv.Quote(name) + " is set by this client itself: use the option of that name")
		}
		query.Set(name, value)
	}
	return query, nil
}

// defaultMode is where the answer stands. Another mode (OAuth 2.0 Form Post) would not reach the callback.
func defaultMode(responseType string) string {
	if responseType == ResponseTypeToken {
		return "fragment"
	}
	return "query"
}

// Bounds of a state. Ours has 43 characters; the lower one keeps a caller from a guessable one.
const (
	minState = 22 // 128 bits
	maxState = 512
)

// isState reports whether s needs no escaping anywhere: base64url and the other unreserved characters (RFC 3986).
func isState(s string) bool {
	return s != "" && len(s) <= maxState && !strings.ContainsFunc(s, func(r rune) bool {
		letter := (r|0x20) >= 'a' && (r|0x20) <= 'z'
		return !letter && !(r >= '0' && r <= '9') && !strings.ContainsRune("-._~", r)
	})
}

// CodeExchange is an authorization code on its way to the token endpoint.
type CodeExchange struct {
	Code        secret.Text
	Verifier    secret.Text // of the [PKCE] that asked for it; zero if none did
	RedirectURI string      // as in the [AuthorizationRequest]
}

// ExchangeCode trades an authorization code for tokens (RFC 6749 section 4.1.3). Its errors are of type [*Error], and
// never of class [Revoked]: a refused code says nothing about a refresh token. A code can be used once, so after
// [UnknownOutcome] the person has to be asked again.
func (c *Client) ExchangeCode(ctx context.Context, e CodeExchange) (*TokenResponse, error) {
	if e.Code.IsZero() {
		return nil, newError(Unrecognized, "no_code", "no authorization code to exchange; connect again")
	}
	c, err := c.at(ctx)
	if err != nil {
		return nil, err
	}
	x := c.newExchange(GrantAuthorizationCode)
	x.form.Set("code", e.Code.Reveal())
	x.form.Set("redirect_uri", e.RedirectURI)
	if !e.Verifier.IsZero() {
		x.form.Set("code_verifier", e.Verifier.Reveal())
	}
	x.sent = append(x.sent, e.Code, e.Verifier)
	return c.run(ctx, x)
}
