package oauth

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Class says what to do about a failure. A failure is classified once, here, by its code and status and never by
// reading a description: Microsoft announces that the texts change.
type Class int

// The classes.
const (
	// RetryLater: nothing was granted and nothing is wrong with us. Keep the token, back off, honour RetryAfter.
	RetryLater Class = iota + 1
	// Revoked: the refresh token that was sent is dead. Only the refresh grant can say so.
	Revoked
	// Misconfigured: our client is refused, or cannot even ask. Keep all tokens: a wrong secret must not cost consents.
	Misconfigured
	// UnknownOutcome: the request left and the answer was lost or cannot be read. A rotating refresh token may be burnt.
	UnknownOutcome
	// Unrecognized: the server refused for a reason we do not know. Never taken for a revocation.
	Unrecognized
)

// String names the class as logs and metrics do.
func (c Class) String() string {
	switch c {
	case RetryLater:
		return "retry_later"
	case Revoked:
		return "revoked"
	case Misconfigured:
		return "misconfigured"
	case UnknownOutcome:
		return "unknown_outcome"
	case Unrecognized:
		return "unrecognized"
	}
	return "class_" + strconv.Itoa(int(c))
}

// Error is a failure to get a token, or of what leads there. Its text is safe to show: it is made of our own words, status numbers, codes that
// passed [showable], file names from the configuration and network errors; never of a body, a URL or a secret.
type Error struct {
	Class      Class
	Code       string        // the server's, or one of ours; "" if the server gave none
	Status     int           // 0 if there was no answer
	RetryAfter time.Duration // 0 if the server did not say; at most an hour

	text  string
	cause error // safe to show, or nil
}

func newError(class Class, code, text string) *Error {
	return &Error{Class: class, Code: code, text: text}
}

// Error returns a text that is safe to show.
func (e *Error) Error() string { return e.text }

// Unwrap returns the cause if that is safe to show as well, else nil.
func (e *Error) Unwrap() error { return e.cause }

// Codes with a meaning of their own. RFC 6749 section 5.2, RFC 8707 section 2 and OpenID Connect Core 3.1.2.6; the
// others carry the name of the server that sends them. All in lower case; HubSpot shouts.
var (
	refusedClientCodes = map[string]bool{
		"invalid_client":               true,
		"incorrect_client_credentials": true, // GitHub
		"bad_client_secret":            true, // Slack
		"invalid_client_id":            true, // Slack
		"invalid_client_secret":        true, // Zoho
	}
	clientSideCodes = map[string]bool{
		"unauthorized_client":    true,
		"unsupported_grant_type": true,
		"invalid_scope":          true,
		"invalid_target":         true,
		"redirect_uri_mismatch":  true,
	}
	// ownRequestCodes blame the request. With client credentials and with a password all of it is configuration; with a
	// refresh or a code they may mean anything.
	ownRequestCodes = map[string]bool{"invalid_request": true, "access_denied": true}
	transientCodes  = map[string]bool{
		"temporarily_unavailable": true,
		"server_error":            true,
		"slow_down":               true, // RFC 8628 section 3.5
		"ratelimited":             true, // Slack
		"internal_error":          true, // Slack
		"fatal_error":             true, // Slack
		"service_unavailable":     true, // Slack
		"request_timeout":         true, // Slack
		"rate_limited":            true,
		"rate_limit_exceeded":     true,
		"too_many_requests":       true, // Auth0
	}
	deadTokenCodes = map[string]bool{
		"invalid_grant":         true,
		"token_inactive":        true, // Ory Hydra
		"bad_refresh_token":     true, // GitHub, HubSpot
		"token_revoked":         true, // Slack
		"invalid_refresh_token": true, // Slack
		"account_inactive":      true, // Slack
		"invalid_code":          true, // Zoho
		"interaction_required":  true, // Microsoft
		"login_required":        true, // Microsoft
		"consent_required":      true, // Microsoft
	}
)

// badCodeCodes say the same of an authorization code, at servers that have a word of their own.
var badCodeCodes = map[string]bool{
	"bad_verification_code": true, // GitHub
	"bad_auth_code":         true, // HubSpot
	"code_already_used":     true, // Slack
}

// Codes are the words that one server has for a refusal, besides the registered ones. They are compared without regard to case.
type Codes struct {
	Revoked       []string // the refresh token is dead; of no meaning for other grants
	Misconfigured []string
	RetryLater    []string
}

// normalized returns a copy in lower case.
func (c Codes) normalized() Codes {
	lower := func(codes []string) (out []string) {
		for _, code := range codes {
			out = append(out, strings.ToLower(code))
		}
		return out
	}
	return Codes{Revoked: lower(c.Revoked), Misconfigured: lower(c.Misconfigured), RetryLater: lower(c.RetryLater)}
}

// class returns what a code, in lower case, means at this server; 0 if it is not one of its own.
func (c Codes) class(grant, code string) Class {
	switch {
	case code == "":
	case slices.Contains(c.RetryLater, code):
		return RetryLater
	case slices.Contains(c.Misconfigured, code):
		return Misconfigured
	case slices.Contains(c.Revoked, code) && grant == GrantRefreshToken:
		return Revoked
	}
	return 0
}

func knownCode(code string) bool {
	code = strings.ToLower(code)
	return refusedClientCodes[code] || clientSideCodes[code] || ownRequestCodes[code] ||
		transientCodes[code] || deadTokenCodes[code]
}

// classify is the one place that decides. The status comes first where it speaks of the server's health: a gateway that
// fails may send anything along.
func (c Codes) classify(grant string, status int, code string, html bool) Class {
	code = strings.ToLower(code)
	own := c.class(grant, code)
	switch {
	case status >= 500, status == http.StatusRequestTimeout, status == http.StatusTooEarly,
		status == http.StatusTooManyRequests:
		return RetryLater
	case own != 0:
		return own
	case transientCodes[code]:
		return RetryLater
	case refusedClientCodes[code], clientSideCodes[code]:
		return Misconfigured
	case deadTokenCodes[code] && grant == GrantRefreshToken:
		return Revoked
	case (deadTokenCodes[code] || ownRequestCodes[code]) && grant == GrantPassword:
		// The name and the password are configuration; asked again and again, servers lock the account.
		return Misconfigured
	case (deadTokenCodes[code] || ownRequestCodes[code]) && grant == GrantClientCredentials:
		// No token of ours is involved. oidc-provider answers invalid_grant to a certificate-bound client that comes
		// without its certificate.
		return Misconfigured
	case code == "" && status == http.StatusUnauthorized:
		return Misconfigured
	case code == "" && html: // a gateway's page
		return RetryLater
	}
	return Unrecognized
}

// refusedClient reports whether the server did not accept the client's authentication.
func (e *Error) refusedClient() bool {
	return e.Class == Misconfigured &&
		(refusedClientCodes[strings.ToLower(e.Code)] || (e.Code == "" && e.Status == http.StatusUnauthorized))
}

// refusal makes the error for an answer that grants nothing. code has passed [showable] and may be "".
func (c *Client) refusal(x *exchange, r *reply, code string) *Error {
	e := &Error{Code: code, Status: r.status, Class: c.cfg.Codes.classify(x.grant, r.status, code, r.isHTML())}
	said := "HTTP " + strconv.Itoa(r.status)
	if code != "" {
		said = code + " (" + strconv.Itoa(r.status) + ")"
	}
	low := strings.ToLower(code)
	switch {
	case e.Class == Revoked:
		e.text = " refused the refresh token: " + said + "; authorize the connection again"
	case e.refusedPassword(x.grant):
		e.text = " refused the user name and password: " + said + "; check both, and scopes"
	case e.Class == Misconfigured:
		e.text = " refused the client: " + said + "; check " + c.whatToCheck(code)
	case e.Class == RetryLater:
		e.text = " cannot answer now: " + said + "; it is asked again later"
	case x.grant == GrantAuthorizationCode && (deadTokenCodes[low] || badCodeCodes[low]):
		e.text = " refused the authorization code: " + said + "; connect again, and check that the redirect URI is the registered one"
	default:
		e.text = " refused for an unknown reason: " + said + "; see the log of the authorization server"
	}
	e.text = c.peer.called() + e.text
	return e
}

// whatToCheck names the options that a refusal is about.
func (c *Client) whatToCheck(code string) string {
	switch strings.ToLower(code) {
	case "invalid_scope":
		return "scopes"
	case "redirect_uri_mismatch":
		return "that the redirect URI is registered exactly as it is sent"
	case "invalid_target":
		return "resource and audience"
	case "unauthorized_client", "unsupported_grant_type":
		return "which grants this client is registered for, and grant"
	case "invalid_request", "access_denied":
		return "scopes, audience, resource and token_param"
	}
	switch {
	case c.cfg.Method == PrivateKeyJWT:
		return "client_id, client_key, assertion_audience and the clock of this machine"
	case c.cfg.Method.usesSecret():
		return "client_id, the secret and client_auth"
	case c.cfg.Certificate != nil:
		return "client_id, client_certificate and client_auth"
	}
	return "client_id and client_auth; most servers want a secret or a certificate"
}

// echoRun is how long a piece of a secret must be to count as one.
const echoRun = 8

// showable returns code if it can be shown, else "unreadable_code". A code is the only text of a response that ever
// appears in an error, so a server that echoes what it was sent, or writes prose there, must not get through. A code
// that we know is ours to show.
func showable(code string, sent []string) string {
	if code == "" || knownCode(code) {
		return code
	}
	if !plainCode(code) {
		return "unreadable_code"
	}
	low := strings.ToLower(code)
	for _, s := range sent {
		if echoes(low, strings.ToLower(s)) {
			return "unreadable_code"
		}
	}
	return code
}

// plainCode reports whether code matches ^[A-Za-z][A-Za-z0-9_.-]{0,39}$.
func plainCode(code string) bool {
	if len(code) == 0 || len(code) > 40 {
		return false
	}
	for i := range len(code) {
		ch := code[i]
		letter := (ch|0x20) >= 'a' && (ch|0x20) <= 'z'
		if !letter && (i == 0 || !(ch >= '0' && ch <= '9') && ch != '_' && ch != '.' && ch != '-') {
			return false
		}
	}
	return true
}

// echoes reports whether code holds the secret, or a run of echoRun bytes of it.
func echoes(code, secret string) bool {
	if secret == "" {
		return false
	}
	if len(secret) <= echoRun {
		return strings.Contains(code, secret)
	}
	for i := 0; i+echoRun <= len(code); i++ {
		if strings.Contains(secret, code[i:i+echoRun]) {
			return true
		}
	}
	return false
}
