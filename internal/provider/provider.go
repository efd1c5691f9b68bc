// Package provider is a table of authorization servers: what each wants to be asked, how it answers, and what it does
// otherwise than the standards say. `provider NAME` in a connection fills in from here everything that was not said.
//
// An entry is data with a date and its sources. Facts that were only recalled, and not read in one of these sources,
// are named in Recalled: they are good enough as a default that a user can override, and never a reason to refuse.
//
// The package does not send requests, know secrets, or decide anything about tokens: it says what is known, and fills
// parameters such as a tenant or a shop into the templates ([Provider.Expand]) so that no value can lead a token to
// another host.
//
// It may import the standard library, nothing else.
package provider

import "time"

// Provider describes one authorization server and the API behind it.
//
// Its strings may hold placeholders. `{name}` is one of Params and is filled in by [Provider.Expand]; `[...]` around
// one vanishes when the parameter is empty. What only the moment of use knows stays as it is: `{token}` in
// HeaderTemplate, `{token.instance_url}` (one of KeepFields or CallbackFields), and in a revocation `{access_token}`,
// `{refresh_token}`, `{client_id}`, `{client_secret}`.
//
// The struct is wide because it is a row of a table: it is read, never changed, and one level keeps it overridable
// field by field.
type Provider struct {
	Name     string   // as in `provider NAME`
	Title    string   // for people
	AsOf     string   // when the facts were gathered, YYYY-MM-DD
	Sources  []string // keys of [Sources]
	Recalled []string // fact groups ([FactGroups]) whose main statement was recalled, not read in a source
	Notes    []string // for the documentation: what to know beyond the fields

	Params []Param

	Issuer                string // OpenID Connect or RFC 8414 issuer; with no TokenEndpoint the endpoints come from its metadata
	AuthorizationEndpoint string
	TokenEndpoint         string
	RefreshEndpoint       string // only where it is not TokenEndpoint
	RevocationEndpoint    string // "" means that there is none
	Revocation            Revocation

	ClientAuth   []string // registered method names (RFC 7591 section 2), the default first; never to be probed
	BasicRaw     bool     // client_secret_basic without the form encoding of RFC 6749 section 2.3.1
	SecretAsUser bool     // client_secret_basic with the secret as user name and no password
	BodyFormat   BodyFormat

	ScopeParam     string              // name of the authorization request's scope parameter
	ScopeSeparator string              // between scopes in that parameter
	DefaultScopes  []string            // when the user names none; enough for TestCall
	ScopeSets      map[string][]string // by a short name, added to DefaultScopes; see [Provider.Scopes]
	AppScopes      []string            // instead of DefaultScopes for client_credentials, where no person signs in
	OfflineScope   string              // without it there is no refresh token

	AuthParams    map[string]string // added to the authorization request
	TokenParams   map[string]string // added when a code is exchanged
	RefreshParams map[string]string // added when a token is refreshed
	PKCE          PKCE
	CallbackHMAC  bool // the callback's query is signed with the client secret in `hmac`, and that must be checked

	SendScopeOnRefresh   bool // most servers want scope left out, RFC 6749 section 6 allows either
	Rotation             RotationClass
	RotationConfigurable bool          // an administrator decides; Rotation is then the strictest that they can choose
	GraceSeconds         int           // a replaced refresh token may be sent again for so long; 0 is none stated
	KillsOldAccessToken  bool          // a refresh ends the old access token at once, also for requests under way
	RefreshBefore        time.Duration // early margin; 0 leaves it to the connection's default

	AccessLifetime          time.Duration // usual; for documents and simulators, an answer's own word counts
	ExpiresIn               Expiry        // whether an answer says how long its token lives
	DefaultLifetime         time.Duration // assumed when the answer does not say; 0 is unknown: used until the API says 401
	NoExpiryMeansUnlimited  bool          // an answer with neither expires_in nor a refresh token is a token without end
	RefreshTokenLifetime    time.Duration // of one refresh token, from its issue; 0 is unlimited or not known
	RefreshTokenIdleLimit   time.Duration // a refresh token not used for so long dies
	ConsentLifetime         time.Duration // from consent on, whatever was rotated meanwhile
	TokenPath               string        // dotted path of the access token in an answer; refresh_token, expires_in and scope lie beside it
	RefreshAnswersAtTheRoot bool          // a refresh's answer has them at the root all the same

	KeepFields     []string // dotted paths in the token response that templates may use
	CallbackFields []string // likewise in the callback's query

	HeaderName     string            // that carries the token to the API
	HeaderTemplate string            // its value
	APIHeaders     map[string]string // mandatory companions, for requests that do not bring their own
	APIHosts       []string          // default allow-list; empty: the tokens are for your own APIs
	TestCall       TestCall
	Errors         ErrorQuirks
}

// FactGroups are the names that Recalled may hold.
var FactGroups = words(`endpoints revocation issuer client_auth pkce scopes offline access_lifetime refresh_lifetime
	rotation grace expiry errors header hosts test_call fields`)

// Param is a value that a provider's templates need.
type Param struct {
	Name     string
	Label    string // for people
	Example  string // a value that fits
	Pattern  string // anchored; the only gate for hostile values, so it pins the provider's own domain where there is one
	Default  string
	Required bool
	// OperatorOnly: the value names a host, or a path, that the pattern cannot pin to the provider. It belongs in the
	// configuration and must never be asked from a visitor, who could send the client secret anywhere with it.
	OperatorOnly bool
}

// Revocation says how to tell the provider that tokens are no longer wanted.
type Revocation struct {
	Method string
	Auth   RevocationAuth
	Body   BodyFormat        // "" is an empty body
	Fields map[string]string // of the body, beyond those of Auth
	Gone   []int             // statuses, of 400 to 499, with which it says that the token was dead already
	Kills  Radius
}

// Automatic reports whether disconnecting one account may call this without being asked twice.
func (r Revocation) Automatic() bool { return r.Kills == KillsToken || r.Kills == KillsGrant }

// TestCall is a request that tells whose token it is.
type TestCall struct {
	Method  string
	URL     string
	Headers map[string]string // besides the token's own and APIHeaders
	Body    string
	Scopes  []string // without these it is refused and says nothing about the token
	// Paths are dotted, a number is an index. `{token.NAME}` instead of a path is a kept field.
	IDPath    []string          // together they identify the account
	LabelPath []string          // the first that is not empty names it
	Keep      map[string]string // fields to keep from the answer, by the name that templates use
}

// ErrorQuirks are this provider's codes for a failed refresh, in lower case. Those of RFC 6749 section 5.2 mean what
// they mean everywhere; Revoked starts with the one that this provider really sends.
type ErrorQuirks struct {
	SuccessStatus bool   // failures come with HTTP 200
	OKField       string // a boolean that says whether it is one
	CodeField     string // where the code is, if not in `error`
	RevokedStatus int    // HTTP status of a revocation, if not 400
	Revoked       []string
	Misconfigured []string
	RetryLater    []string
}
