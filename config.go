package caddyoauth

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddyoauth/caddyoauth/internal/connection"
	"github.com/caddyoauth/caddyoauth/internal/oauth"
	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// userAgent is how the plugin names itself to token endpoints; some refuse requests without a name.
const userAgent = "caddyoauth (Caddy)"

// Connection is a client at an authorization server, and how its tokens travel. All strings may hold the global placeholders
// `{env.*}` and `{file.*}`; they are resolved when the configuration is loaded, never written back, and it is an error if one
// of them is empty. The fields hold what the user wrote.
type Connection struct {
	// TokenEndpoint is the URL that tokens are requested from. It must be https, or http to a loopback address.
	TokenEndpoint string `json:"token_endpoint,omitempty"`
	// InsecureHTTP allows a TokenEndpoint with plain http on any address. Default: false.
	InsecureHTTP bool `json:"insecure_http,omitempty"`

	// ClientID is the client identifier (RFC 6749 section 2.2).
	ClientID string `json:"client_id,omitempty"`
	// ClientSecret is the client's password. Given as `{file.*}` it is read again when the provider answers `invalid_client`.
	ClientSecret string `json:"client_secret,omitempty"`
	// ClientAuth is the method of client authentication: `client_secret_basic`, `client_secret_post`, `tls_client_auth`,
	// `self_signed_tls_client_auth` or `none`. Default: `client_secret_basic` with a secret, `tls_client_auth` with only a
	// certificate, else `none`.
	ClientAuth string `json:"client_auth,omitempty"`
	// ClientCertificate is shown to the token endpoint (RFC 8705). The files are read anew for every exchange.
	ClientCertificate *ClientCertificate `json:"client_certificate,omitempty"`

	// Grant is the grant type. Default, and so far the only one: `client_credentials`.
	Grant string `json:"grant,omitempty"`
	// Scopes are requested, joined by a space.
	Scopes []string `json:"scopes,omitempty"`
	// Audience is sent as the parameter `audience`.
	Audience string `json:"audience,omitempty"`
	// Resource is sent as the parameter `resource`, once for each entry (RFC 8707).
	Resource []string `json:"resource,omitempty"`
	// TokenParams are sent to the token endpoint besides the standard parameters.
	TokenParams map[string]string `json:"token_params,omitempty"`

	// Header says which header of the upstream request carries the token. Default: `Authorization` with `Bearer {token}`.
	Header *HeaderInjection `json:"header,omitempty"`
	// Query names a query parameter that carries the token instead of a header.
	Query string `json:"query,omitempty"`
	// ForwardAuthorization lets the client's own Authorization header pass when the token travels elsewhere. Default: false,
	// since the credentials that a client shows to this site are not meant for the upstream's owner.
	ForwardAuthorization bool `json:"forward_authorization,omitempty"`
	// AllowHosts are the only hosts that may receive the token: `host`, `host:port`, `*.domain` or a CIDR range. Default: the
	// upstreams of the `reverse_proxy` that it is injected in.
	AllowHosts []string `json:"allow_hosts,omitempty"`

	// RefreshBefore is how long before its expiry a token is refreshed in the background. Default: 5m, at most a fifth of the lifetime.
	RefreshBefore caddy.Duration `json:"refresh_before,omitempty"`
	// DefaultLifetime is assumed when neither `expires_in` nor the `exp` of a JWT tells how long a token lives. Default: 1h.
	DefaultLifetime caddy.Duration `json:"default_lifetime,omitempty"`
	// Timeout bounds one exchange with the token endpoint and how long a request waits for a token. Default: 15s.
	Timeout caddy.Duration `json:"timeout,omitempty"`
	// IdleAfter is how long after its last use a connection is still refreshed in the background. Default: 24h.
	IdleAfter caddy.Duration `json:"idle_after,omitempty"`

	// TLS says whom to trust as the token endpoint. Default: the system's certificate authorities.
	TLS *TokenEndpointTLS `json:"tls,omitempty"`
	// Tenant separates connections of the same name. Default: one tenant for all.
	Tenant string `json:"tenant,omitempty"`
}

// ClientCertificate names a PEM certificate chain and its private key.
type ClientCertificate struct {
	Certificate string `json:"certificate"`
	Key         string `json:"key"`
}

// HeaderInjection says which header carries the token, and how.
type HeaderInjection struct {
	// Name is the header's name. Default: `Authorization`.
	Name string `json:"name,omitempty"`
	// Template is the header's value; `{token}` stands for the access token. Default: `Bearer {token}`, or `{token}` alone
	// when the name is not `Authorization`.
	Template string `json:"template,omitempty"`
}

// TokenEndpointTLS says whom to trust as the token endpoint.
type TokenEndpointTLS struct {
	// CA are PEM files with the certificate authorities to trust instead of the system's.
	CA []string `json:"ca,omitempty"`
}

// resolver replaces global placeholders and collects what is wrong, so that one load names every fault.
type resolver struct {
	repl   *caddy.Replacer
	faults []error
}

// text returns raw with its placeholders replaced. The result must never go through a replacer again.
func (r *resolver) text(field, raw string) string {
	value, err := r.repl.ReplaceOrErr(raw, true, true)
	if err != nil {
		r.fault(field, fmt.Errorf("%w; placeholders here are resolved at load time, so only {env.*} and {file.*} work and none may be empty", err))
		return ""
	}
	return value
}

func (r *resolver) texts(field string, raw []string) []string {
	var values []string
	for _, one := range raw {
		values = append(values, r.text(field, one))
	}
	return values
}

func (r *resolver) fault(field string, err error) {
	r.faults = append(r.faults, fmt.Errorf("%s: %w", field, err))
}

// built is a connection with everything resolved: what the configuration says, as the packages below want it.
type built struct {
	id          connection.ID
	client      *oauth.Client
	endpoint    string // the token endpoint, to share its breaker
	policy      connection.Policy
	grant       string
	fingerprint string
	injection   *injection
	allow       *hostList // nil = the upstreams of the reverse_proxy
}

// build resolves and checks the connection. It touches no network and writes nothing.
func (c *Connection) build(name string) (*built, error) {
	r := &resolver{repl: caddy.NewReplacer()}
	conf := oauth.Config{
		TokenEndpoint: r.text("token_endpoint", c.TokenEndpoint),
		ClientID:      r.text("client_id", c.ClientID),
		Timeout:       time.Duration(c.Timeout), // 0 = the default, in both packages 15 s
		Scopes:        r.texts("scopes", c.Scopes),
		Resources:     r.texts("resource", c.Resource),
		Audience:      r.text("audience", c.Audience),
		Params:        make(map[string]string, len(c.TokenParams)),
		UserAgent:     userAgent,
	}
	for param, raw := range c.TokenParams {
		conf.Params[param] = r.text("token_param "+param, raw)
	}
	if conf.TokenEndpoint != "" || c.TokenEndpoint == "" { // else it could not be resolved
		if err := checkTokenEndpoint(conf.TokenEndpoint, c.InsecureHTTP); err != nil {
			r.fault("token_endpoint", err)
		}
	}
	c.buildAuthentication(r, &conf)
	out := &built{
		id:        connection.ID{Tenant: r.text("tenant", c.Tenant), Connection: name},
		endpoint:  conf.TokenEndpoint,
		policy:    c.policy(),
		grant:     c.grant(r),
		injection: c.buildInjection(r),
	}
	if len(c.AllowHosts) > 0 {
		var err error
		if out.allow, err = newHostList(r.texts("allow_hosts", c.AllowHosts)); err != nil {
			r.fault("allow_hosts", err)
		}
	}
	if len(r.faults) > 0 {
		return nil, fmt.Errorf("connection %q: %w", name, errors.Join(r.faults...))
	}
	client, err := oauth.NewClient(conf)
	if err != nil {
		return nil, fmt.Errorf("connection %q: %w", name, err)
	}
	out.client = client
	out.fingerprint = fingerprint(conf, out.grant)
	return out, nil
}

// buildAuthentication settles the method of client authentication and what it needs.
func (c *Connection) buildAuthentication(r *resolver, conf *oauth.Config) {
	conf.Method = oauth.Method(c.ClientAuth)
	if c.ClientAuth == "" {
		switch {
		case c.ClientSecret != "":
			conf.Method = oauth.ClientSecretBasic
		case c.ClientCertificate != nil:
			conf.Method = oauth.TLSClientAuth
		default:
			conf.Method = oauth.None
		}
	}
	if c.ClientSecret != "" {
		r.text("client_secret", c.ClientSecret) // only to refuse an unset one at load
		raw := c.ClientSecret
		conf.Secret = func() (secret.Text, error) {
			value, err := caddy.NewReplacer().ReplaceOrErr(raw, true, true)
			return secret.New(value), err
		}
	}
	if c.ClientCertificate != nil {
		conf.Certificate = &oauth.Certificate{
			CertFile: r.text("client_certificate", c.ClientCertificate.Certificate),
			KeyFile:  r.text("client_certificate", c.ClientCertificate.Key),
		}
	}
	if c.TLS != nil && len(c.TLS.CA) > 0 {
		conf.RootCAs = x509.NewCertPool()
		for _, file := range r.texts("tls ca", c.TLS.CA) {
			pem, err := os.ReadFile(file)
			if err != nil {
				r.fault("tls ca", err)
			} else if !conf.RootCAs.AppendCertsFromPEM(pem) {
				r.fault("tls ca", fmt.Errorf("%s holds no PEM certificate", file))
			}
		}
	}
}

func (c *Connection) grant(r *resolver) string {
	if c.Grant != "" && c.Grant != oauth.GrantClientCredentials {
		r.fault("grant", fmt.Errorf("%q is not supported; use %s", c.Grant, oauth.GrantClientCredentials))
	}
	return oauth.GrantClientCredentials
}

func (c *Connection) policy() connection.Policy {
	return connection.Policy{
		RefreshBefore:   time.Duration(c.RefreshBefore),
		DefaultLifetime: time.Duration(c.DefaultLifetime),
		Timeout:         time.Duration(c.Timeout),
		IdleAfter:       time.Duration(c.IdleAfter),
	}
}

func (c *Connection) buildInjection(r *resolver) *injection {
	if c.Query != "" {
		if c.Header != nil {
			r.fault("query", errors.New("give header or query, not both"))
		}
		return &injection{query: r.text("query", c.Query), keepAuthorization: c.ForwardAuthorization}
	}
	header := HeaderInjection{}
	if c.Header != nil {
		header = *c.Header
	}
	// The template is not resolved: {token} is ours, and a header value has no business in the environment.
	in, err := newHeaderInjection(r.text("header", header.Name), header.Template)
	if err != nil {
		r.fault("header", err)
		return nil
	}
	in.keepAuthorization = c.ForwardAuthorization
	return in
}

// checkTokenEndpoint refuses an endpoint to which a client secret would travel in the clear.
func checkTokenEndpoint(raw string, insecure bool) error {
	u, err := url.Parse(raw)
	switch {
	case raw == "":
		return errors.New("is required")
	case err != nil:
		return errors.New("is not a URL") // the parse error repeats the URL, which may carry a password
	case u.User != nil || u.Fragment != "" || u.Hostname() == "":
		return errors.New("must be a URL with a host and without user, password or fragment")
	case u.Scheme == "https":
		return nil
	case u.Scheme == "http" && (insecure || isLoopback(u.Hostname())):
		return nil
	case u.Scheme == "http":
		return fmt.Errorf("http:// to %s would send the client's credentials in the clear; use https, or allow it with insecure_http", u.Hostname())
	default:
		return errors.New("must be an https:// URL")
	}
}

// isLoopback reports whether host can only mean this machine (RFC 6761 section 6.3 for the names).
func isLoopback(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}

// fingerprint digests what a token depends on. Another secret, certificate or method of client authentication keeps it.
func fingerprint(conf oauth.Config, grant string) string {
	scopes := slices.Sorted(slices.Values(conf.Scopes))
	resources := slices.Sorted(slices.Values(conf.Resources))
	// JSON is a length-safe encoding here, and it sorts the keys of the map.
	text, err := json.Marshal([]any{conf.TokenEndpoint, conf.ClientID, grant, scopes, conf.Audience, resources, conf.Params})
	if err != nil {
		panic(err) // strings always encode
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:16])
}
