package caddyoauth

import "github.com/caddyserver/caddy/v2"

// userAgent is how the plugin names itself to token endpoints; some refuse requests without a name.
const userAgent = "caddyoauth (Caddy)"

// Connection is a client at an authorization server, and how its tokens travel. All strings may hold the global placeholders
// `{env.*}` and `{file.*}`; they are resolved when the configuration is loaded, never written back, and it is an error if one
// of them is empty. The fields hold what the user wrote.
type Connection struct {
	// Provider is a preset that fills in what is not said here: endpoints, client authentication, scopes, how the token is sent
	// and to which hosts. What is said here always wins.
	Provider *ProviderPreset `json:"provider,omitempty"`
	// TokenEndpoint is the URL that tokens are requested from. It must be https, or http to a loopback address. Default: the one that
	// the Issuer's metadata name.
	TokenEndpoint string `json:"token_endpoint,omitempty"`
	// AuthorizationEndpoint is where people are sent to give their consent. Same rules as TokenEndpoint.
	AuthorizationEndpoint string `json:"authorization_endpoint,omitempty"`
	// RevocationEndpoint is told when a connection is ended (RFC 7009). Same rules as TokenEndpoint.
	RevocationEndpoint string `json:"revocation_endpoint,omitempty"`
	// Issuer identifies the authorization server. Endpoints that are not said are found in its metadata (OpenID Connect Discovery,
	// RFC 8414) when they are first needed. It is compared with the parameter `iss` of an authorization response (RFC 9207) and with
	// ID tokens. Default: not compared.
	Issuer string `json:"issuer,omitempty"`
	// InsecureHTTP allows a TokenEndpoint with plain http on any address. Default: false.
	InsecureHTTP bool `json:"insecure_http,omitempty"`

	// ClientID is the client identifier (RFC 6749 section 2.2).
	ClientID string `json:"client_id,omitempty"`
	// ClientSecret is the client's password. Given as `{file.*}` it is read again when the provider answers `invalid_client`.
	ClientSecret string `json:"client_secret,omitempty"`
	// ClientAuth is the method of client authentication: `client_secret_basic`, `client_secret_post`, `client_secret_jwt`,
	// `private_key_jwt`, `tls_client_auth`, `self_signed_tls_client_auth` or `none`. Default: `private_key_jwt` with a key,
	// `client_secret_basic` with a secret, `tls_client_auth` with only a certificate, else `none`.
	ClientAuth string `json:"client_auth,omitempty"`
	// ClientKey signs client assertions (RFC 7523). The file is read anew for every exchange.
	ClientKey *ClientKey `json:"client_key,omitempty"`
	// AssertionAudience is whom client assertions are for. Default: the issuer where it is known, else the token endpoint.
	AssertionAudience string `json:"assertion_audience,omitempty"`
	// ClientCertificate is shown to the token endpoint (RFC 8705). The files are read anew for every exchange.
	ClientCertificate *ClientCertificate `json:"client_certificate,omitempty"`

	// Grant is the grant type: `client_credentials`, `authorization_code` for the accounts of people, `password` for one account whose
	// password is known, or `implicit` for the accounts of people at servers that have nothing else. Default: `authorization_code`
	// when there is an authorization endpoint, or one will be found for a preset or a subject; else `client_credentials`.
	Grant string `json:"grant,omitempty"`
	// Username is that of the account, for the grant `password`.
	Username string `json:"username,omitempty"`
	// Password is that of the account. Given as `{file.*}` it is read again whenever it is sent.
	Password string `json:"password,omitempty"`
	// Subject says whose token a request travels with, by request placeholders such as `{http.auth.user.id}`. Empty for a request
	// means that it is refused. Default: one token for the whole connection.
	Subject string `json:"subject,omitempty"`
	// AuthParams are sent to the authorization endpoint besides the standard parameters.
	AuthParams map[string]string `json:"auth_params,omitempty"`
	// Scopes are requested, joined by a space.
	Scopes []string `json:"scopes,omitempty"`
	// Audience is sent as the parameter `audience`.
	Audience string `json:"audience,omitempty"`
	// Resource is sent as the parameter `resource`, once for each entry (RFC 8707).
	Resource []string `json:"resource,omitempty"`
	// TokenParams are sent to the token endpoint besides the standard parameters.
	TokenParams map[string]string `json:"token_params,omitempty"`

	// Quirks says in what the server differs from the standards and from the preset.
	Quirks *Quirks `json:"quirks,omitempty"`

	// Header says which header of the upstream request carries the token. Default: `Authorization` with `Bearer {token}`.
	Header *HeaderInjection `json:"header,omitempty"`
	// Query names a query parameter that carries the token instead of a header.
	Query string `json:"query,omitempty"`
	// Headers are further headers of the upstream request, which it gets unless it brings its own. A value may hold
	// `{token.NAME}`, a field that is kept, or `{field.NAME}`.
	Headers map[string]string `json:"headers,omitempty"`
	// Params are query parameters of the upstream request, likewise.
	Params map[string]string `json:"params,omitempty"`
	// Keep names fields of the token response, as dotted paths, that headers, parameters and upstream addresses may use.
	Keep []string `json:"keep,omitempty"`
	// KeepCallback names parameters of the way back from the authorization endpoint, likewise.
	KeepCallback []string `json:"keep_callback,omitempty"`
	// Fields are what people are asked for before they are sent to the provider. Default: the required parameters of the preset that
	// are not given, but for those that name a host.
	Fields []Field `json:"fields,omitempty"`
	// TestCall tells whose token it is. Default: the preset's.
	TestCall *TestCall `json:"test_call,omitempty"`
	// ForwardAuthorization lets the client's own Authorization header pass when the token travels elsewhere. Default: false,
	// since the credentials that a client shows to this site are not meant for the upstream's owner.
	ForwardAuthorization bool `json:"forward_authorization,omitempty"`
	// AllowHosts are the only hosts that may receive the token: `host`, `host:port`, `*.domain` or a CIDR range. Default: the
	// upstreams of the `reverse_proxy` that it is injected in.
	AllowHosts []string `json:"allow_hosts,omitempty"`

	// Allow are the only requests that may travel with the token. Default: all.
	Allow []AllowRule `json:"allow,omitempty"`

	// Refresh says what a token is replaced for: `ahead` of its expiry, `on_401` when the API refuses it, whatever the clock says,
	// or `every_request`. Default: `ahead`.
	Refresh string `json:"refresh,omitempty"`
	// KeepAlive says how often a refresh token is used although nobody asks for an access token: a duration, or `off`. Default: a
	// quarter of the time that it may be idle, and half-way to its end, but not more often than once a day.
	KeepAlive string `json:"keep_alive,omitempty"`
	// RefreshToken is what is known of the server's refresh tokens.
	RefreshToken *RefreshTokenRules `json:"refresh_token,omitempty"`
	// RefreshBefore is how long before its expiry a token is refreshed in the background. Default: 5m, at most a fifth of the lifetime.
	RefreshBefore caddy.Duration `json:"refresh_before,omitempty"`
	// DefaultLifetime is assumed when neither `expires_in` nor the `exp` of a JWT tells how long a token lives. Default: 1h.
	DefaultLifetime caddy.Duration `json:"default_lifetime,omitempty"`
	// Timeout bounds one exchange with the token endpoint and how long a request waits for a token. Default: 15s.
	Timeout caddy.Duration `json:"timeout,omitempty"`
	// IdleAfter is how long after its last use a connection is still refreshed in the background. Default: 24h.
	IdleAfter caddy.Duration `json:"idle_after,omitempty"`

	// Required makes the health endpoint say "not ready" while no token can be had. It is for connections without a subject.
	// Default: false.
	Required bool `json:"required,omitempty"`

	// TLS says whom to trust as the token endpoint. Default: the system's certificate authorities.
	TLS *TokenEndpointTLS `json:"tls,omitempty"`
	// Tenant separates connections of the same name. Default: one tenant for all.
	Tenant string `json:"tenant,omitempty"`
}

// ProviderPreset names a preset and fills in its parameters.
type ProviderPreset struct {
	// Name of the preset, such as `google`.
	Name string `json:"name"`
	// Params of the preset, such as `tenant` or `shop`.
	Params map[string]string `json:"params,omitempty"`
}

// ClientCertificate names a PEM certificate chain and its private key.
type ClientCertificate struct {
	Certificate string `json:"certificate"`
	Key         string `json:"key"`
}

// ClientKey names a private key, in PEM or as a JSON Web Key.
type ClientKey struct {
	File string `json:"file"`
	// KeyID tells the server which of the client's keys it is. Default: that of the JSON Web Key, else none.
	KeyID string `json:"kid,omitempty"`
	// Algorithm of the signature. Default: that of the JSON Web Key, else `RS256`, `ES256`, `ES384`, `ES512` or `EdDSA`, by the kind of key.
	Algorithm string `json:"alg,omitempty"`
}

// HeaderInjection says which header carries the token, and how.
type HeaderInjection struct {
	// Name is the header's name. Default: `Authorization`.
	Name string `json:"name,omitempty"`
	// Template is the header's value; `{token}` stands for the access token. Default: `Bearer {token}`, or `{token}` alone
	// when the name is not `Authorization`.
	Template string `json:"template,omitempty"`
}

// AllowRule lets some methods on some paths through, as they are sent to the upstream.
type AllowRule struct {
	// Methods such as `GET`, in upper case; `*` alone stands for any.
	Methods []string `json:"methods"`
	// Paths such as `/drive/v3/*`, decoded. In a segment `*` stands for any characters; as the whole last segment it stands for
	// everything below.
	Paths []string `json:"paths"`
}

// TokenEndpointTLS says whom to trust as the token endpoint.
type TokenEndpointTLS struct {
	// CA are PEM files with the certificate authorities to trust instead of the system's.
	CA []string `json:"ca,omitempty"`
}
