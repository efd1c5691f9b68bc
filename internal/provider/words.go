package provider

import (
	"strings"
	"time"
)

// BodyFormat is how parameters are written into a request's body.
type BodyFormat string

// The formats.
const (
	Form BodyFormat = "form" // application/x-www-form-urlencoded, RFC 6749
	JSON BodyFormat = "json" // one flat object
)

// PKCE says whether RFC 7636 parameters are sent. Method S256 always: nobody here needs plain.
type PKCE string

// The choices.
const (
	PKCESupported PKCE = "supported"
	PKCERequired  PKCE = "required"
	PKCEOmit      PKCE = "omit" // not supported, or not known to be
)

// Expiry says whether a token response tells the token's lifetime.
type Expiry string

// The kinds.
const (
	ExpiryStated    Expiry = "stated"
	ExpirySometimes Expiry = "sometimes" // by version or by a setting of the app
	ExpiryAbsent    Expiry = "absent"
)

// RotationClass says what becomes of a refresh token that was used, and so what a lost answer costs.
type RotationClass string

// The classes, from harmless to dangerous.
const (
	RotationStatic      RotationClass = "A" // the same refresh token for ever: asking again costs nothing
	RotationOverlapping RotationClass = "B" // a new one each time, the old one lives on: asking again costs nothing
	RotationRecoverable RotationClass = "C" // the old one works until the new one is used: ask again before using the new
	RotationGrace       RotationClass = "D" // the old one works for GraceSeconds: ask again within them
	RotationSingleUse   RotationClass = "E" // the old one is dead at once: a lost answer costs a consent
	RotationPunished    RotationClass = "F" // as E, and a replay after GraceSeconds also kills what the winner holds
)

// Forgives reports whether a refresh token that was used may be sent again, at least right away, without harm to what came after it.
func (c RotationClass) Forgives() bool {
	switch c {
	case RotationStatic, RotationOverlapping, RotationRecoverable, RotationGrace:
		return true
	}
	return false
}

// RevocationAuth says what authenticates a revocation.
type RevocationAuth string

// The kinds.
const (
	AuthNone         RevocationAuth = "none"
	AuthClient       RevocationAuth = "client"              // as at the token endpoint (RFC 7009 section 2.1)
	AuthClientBasic  RevocationAuth = "client_secret_basic" // whatever the token endpoint takes
	AuthClientPost   RevocationAuth = "client_secret_post"  // likewise
	AuthAccessToken  RevocationAuth = "access_token"        // in the header that the API takes it in
	AuthSecretBearer RevocationAuth = "client_secret_bearer"
)

// Radius says what a revocation ends.
type Radius string

// The radii, from small to large.
const (
	KillsToken        Radius = "token"        // the token, and what was issued from it
	KillsGrant        Radius = "grant"        // all tokens of this client for this account
	KillsInstallation Radius = "installation" // the app itself, for everybody at that account
	KillsSessions     Radius = "sessions"     // the person is signed out everywhere: never call it for a disconnect
)

// Patterns of parameters, in lower case as hosts are compared. A name may have one label and a port where somebody's
// own server is meant; what it names is the operator's choice (OperatorOnly).
const (
	label       = `[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?`
	hostname    = label + `(\.` + label + `)*`
	hostPattern = `^` + hostname + `$`
	hostPort    = `^` + hostname + `(:[0-9]{1,5})?$`
	baseURL     = `^https://` + hostname + `(:[0-9]{1,5})?(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*$`
	issuerURL   = `^https://` + hostname + `(:[0-9]{1,5})?(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*/?$`
	pathPart    = `^[A-Za-z0-9_][A-Za-z0-9._~-]*$` // never "..": a path must not climb
)

// words splits a list, so that an entry of the table stays short.
func words(list string) []string { return strings.Fields(list) }

// StandardRevocation is RFC 7009 section 2.1 with the client's own authentication.
func StandardRevocation(kills Radius) Revocation {
	return Revocation{
		Method: "POST", Auth: AuthClient, Body: Form, Kills: kills,
		Fields: map[string]string{"token": "{refresh_token}", "token_type_hint": "refresh_token"},
	}
}

// Fields that most entries share.
const (
	day           = 24 * time.Hour
	authorization = "Authorization"
	bearer        = "Bearer {token}"
)

// Names of client authentication methods, RFC 7591 section 2.
const (
	secretBasic   = "client_secret_basic"
	secretPost    = "client_secret_post"
	secretJWT     = "client_secret_jwt"
	privateKeyJWT = "private_key_jwt"
	tlsClientAuth = "tls_client_auth"
	noClientAuth  = "none"
)
