package oauth

import (
	"context"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// maxURL bounds every URL that a server may name.
const maxURL = 2048

// Server is an authorization server's metadata, with the names of RFC 8414 section 2 and OpenID Connect Discovery
// section 3. Every URL in it is absolute and https, or http if the issuer itself is.
type Server struct {
	Issuer                string
	AuthorizationEndpoint string
	TokenEndpoint         string // empty only where the authorization endpoint is all that there is (RFC 8414 section 2)
	RevocationEndpoint    string
	UserinfoEndpoint      string

	CodeChallengeMethodsSupported     []string
	TokenEndpointAuthMethodsSupported []string // empty: client_secret_basic (RFC 8414 section 2)
	ScopesSupported                   []string // empty: it does not say
	// AuthorizationResponseIssParameterSupported: the callback must carry iss (RFC 9207 section 3).
	AuthorizationResponseIssParameterSupported bool
	// MTLSEndpointAliases are for clients with a certificate (RFC 8705 section 5).
	MTLSEndpointAliases MTLSEndpointAliases
}

// MTLSEndpointAliases are the endpoints that a client with a certificate uses instead; "" where there is no other.
type MTLSEndpointAliases struct{ TokenEndpoint, RevocationEndpoint string }

// DiscoverConfig says whose metadata to read.
type DiscoverConfig struct {
	Issuer       string         // to the letter: the metadata must name the same
	RootCAs      *x509.CertPool // nil means the system's
	Timeout      time.Duration  // for all attempts together; 0 means DefaultTimeout
	InsecureHTTP bool           // allow http to any address; else to a loopback address only
	Certificate  *Certificate   // for servers that ask everybody for one

	Reach     func(netip.AddrPort) error // as in Config
	UserAgent string                     // empty means "caddyoauth"
}

// Discover reads the metadata of an authorization server: where OpenID Connect has it, then where RFC 8414 has it. The
// issuer must be the one that was asked for, to the letter, else anybody's server could speak for another (RFC 8414
// section 3.3). Its errors are of type [*Error], of class [Misconfigured] or [RetryLater].
func Discover(ctx context.Context, cfg DiscoverConfig) (*Server, error) {
	issuer, err := issuerURL(&cfg)
	if err != nil {
		return nil, err
	}
	settings := Config{RootCAs: cfg.RootCAs, Timeout: cfg.Timeout, Certificate: cfg.Certificate, UserAgent: cfg.UserAgent, Reach: cfg.Reach}
	client := &Client{cfg: settings.withDefaults(), peer: peer{"metadata of the authorization server", "issuer"}}
	ctx, cancel := context.WithTimeout(ctx, client.cfg.Timeout)
	defer cancel()

	var refusal *Error // the most telling so far
	for _, address := range wellKnown(issuer) {
		server, err := client.metadata(ctx, address, &cfg)
		if err == nil {
			return server, nil
		}
		if refusal == nil || refusal.Code == codeNoMetadata {
			refusal = err
		}
		if err.Status == 0 { // no answer: the other addresses are on the same host
			return nil, err
		}
	}
	return nil, refusal
}

// codeNoMetadata is for an address that has no metadata, which one of several may well be.
const codeNoMetadata = "no_metadata"

// issuerURL checks an issuer (RFC 8414 section 2). The issuer is configuration, so it is not repeated in errors: the
// name of the option is enough.
func issuerURL(cfg *DiscoverConfig) (*url.URL, error) {
	u, err := url.Parse(cfg.Issuer)
	var hint string
	switch {
	case err != nil || u.Host == "" || len(cfg.Issuer) > maxURL || (u.Scheme != "https" && u.Scheme != "http"):
		hint = "is not an absolute https URL"
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || strings.Contains(cfg.Issuer, "#"):
		hint = "must have no user name, query or fragment"
	case u.Scheme == "http" && !cfg.allowsHTTP(u):
		hint = "is not https; http is for loopback addresses, or with insecure_http"
	case cfg.Certificate != nil && u.Scheme != "https":
		hint = "is not https, which a client certificate needs"
	default:
		return u, nil
	}
	return nil, newError(Misconfigured, "invalid_issuer", "issuer "+hint)
}

// allowsHTTP decides about an endpoint with http: an https issuer never has one, another under the rule for itself.
func (cfg *DiscoverConfig) allowsHTTP(endpoint *url.URL) bool {
	return strings.HasPrefix(cfg.Issuer, "http:") && (cfg.InsecureHTTP || isLoopback(endpoint.Hostname()))
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// isInside reports whether a host is this machine, or an address that has a meaning inside of a network only (RFC 6890), such as that
// of a cloud's own metadata. Only literal addresses are looked at: a name that resolves to one is right where the same server has
// an inner and an outer side, and whoever answers there must have a certificate for the name.
func isInside(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return false
	}
	addr = addr.Unmap().WithZone("")
	return !addr.IsGlobalUnicast() || addr.IsPrivate() || sharedSpace.Contains(addr)
}

var sharedSpace = netip.MustParsePrefix("100.64.0.0/10") // RFC 6598

// wellKnown lists where metadata may be. OpenID Connect Discovery section 4 appends to the path of the issuer, RFC 8414
// section 3.1 puts the well-known part before it, and Okta does the one with the name of the other.
func wellKnown(issuer *url.URL) []string {
	const oidc, oauth = "/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"
	path := strings.TrimSuffix(issuer.EscapedPath(), "/")
	origin := issuer.Scheme + "://" + issuer.Host
	list := []string{origin + path + oidc, origin + oauth + path}
	if path != "" {
		list = append(list, origin+oidc+path, origin+path+oauth)
	}
	return list
}

// metadata reads one address.
func (c *Client) metadata(ctx context.Context, address string, cfg *DiscoverConfig) (*Server, *Error) {
	req, err := c.message(ctx, http.MethodGet, address, payload{})
	if err != nil {
		return nil, newError(Misconfigured, "invalid_issuer", "issuer is not a usable URL")
	}
	answer, err := c.send(req)
	if err == nil && answer.readErr != nil {
		err = answer.readErr
	}
	var failure *Error
	if errors.As(err, &failure) {
		if failure.Class == UnknownOutcome { // a question may always be asked again
			failure.Class = RetryLater
		}
		return nil, failure
	}
	if failure = c.refusedMetadata(answer); failure != nil {
		return nil, failure
	}
	object, ok := decodeDocument(answer.body) // of a body that is too large nothing is left
	if !ok {
		return nil, noMetadata(answer.status, "the answer is not a JSON object of at most 1 MiB")
	}
	return serverFrom(object, cfg, answer.status)
}

func noMetadata(status int, what string) *Error {
	e := newError(Misconfigured, codeNoMetadata, "authorization server has no metadata: "+what+
		"; check issuer, or set the endpoints one by one")
	e.Status = status
	return e
}

// refusedMetadata judges the status.
func (c *Client) refusedMetadata(r *reply) *Error {
	switch {
	case r.status == http.StatusOK:
		return nil
	case r.status >= 300 && r.status < 400:
		return c.redirected(r)
	case Codes{}.classify("", r.status, "", false) == RetryLater:
		e := newError(RetryLater, "metadata_unavailable", "authorization server cannot show its metadata now: HTTP "+
			strconv.Itoa(r.status)+"; it is asked again later")
		e.Status, e.RetryAfter = r.status, retryAfter(r, nil, RetryLater)
		return e
	}
	return noMetadata(r.status, "HTTP "+strconv.Itoa(r.status))
}

// serverFrom takes a metadata document apart. Members are looked up by their exact names: encoding/json would take
// "ISSUER" for issuer.
func serverFrom(object map[string]any, cfg *DiscoverConfig, status int) (*Server, *Error) {
	named, _ := object["issuer"].(string)
	if named != cfg.Issuer && !(strings.Contains(named, tenantMark) && sameIssuer(named, cfg.Issuer)) {
		hint := "check issuer"
		if strings.TrimSuffix(named, "/") == strings.TrimSuffix(cfg.Issuer, "/") {
			hint = "the two differ by the slash at the end"
		}
		return nil, badMetadata("issuer_mismatch", status, "it names another issuer than was asked for; "+hint)
	}
	s := &Server{
		Issuer:                            named,
		CodeChallengeMethodsSupported:     names(object["code_challenge_methods_supported"]),
		TokenEndpointAuthMethodsSupported: names(object["token_endpoint_auth_methods_supported"]),
		ScopesSupported:                   scopesOf(object["scopes_supported"]),
	}
	issuer, _ := url.Parse(cfg.Issuer) // checked before
	s.AuthorizationResponseIssParameterSupported, _ = object["authorization_response_iss_parameter_supported"].(bool)
	aliases, _ := object["mtls_endpoint_aliases"].(map[string]any)
	for _, one := range []struct {
		into *string
		from map[string]any
		name string
	}{
		{&s.AuthorizationEndpoint, object, "authorization_endpoint"},
		{&s.TokenEndpoint, object, "token_endpoint"},
		{&s.RevocationEndpoint, object, "revocation_endpoint"},
		{&s.UserinfoEndpoint, object, "userinfo_endpoint"},
		{&s.MTLSEndpointAliases.TokenEndpoint, aliases, "token_endpoint"},
		{&s.MTLSEndpointAliases.RevocationEndpoint, aliases, "revocation_endpoint"},
	} {
		value, has := one.from[one.name]
		if !has || value == nil {
			continue
		}
		text, _ := value.(string)
		u, err := parseEndpoint(one.name, text)
		if err != nil || len(text) > maxURL || (u.Scheme != "https" && !cfg.allowsHTTP(u)) {
			return nil, badMetadata("invalid_metadata", status, one.name+" is not an absolute https URL without user name and fragment")
		}
		if isInside(u.Hostname()) && !isInside(issuer.Hostname()) {
			return nil, badMetadata("invalid_metadata", status, one.name+" leads to an address inside of a network, from a server that is not there; "+
				"set it by the option of that name if it is right")
		}
		*one.into = text
	}
	if s.TokenEndpoint == "" && s.AuthorizationEndpoint == "" {
		return nil, badMetadata("invalid_metadata", status, "it names no token_endpoint")
	}
	return s, nil
}

func badMetadata(code string, status int, what string) *Error {
	e := newError(Misconfigured, code, "metadata of the authorization server is not used: "+what)
	e.Status = status
	return e
}

// names reads a list of strings, up to a sane number.
func names(v any) []string {
	var list []string
	items, _ := v.([]any)
	for _, item := range items[:min(len(items), 64)] {
		if name, ok := item.(string); ok && plainCode(name) {
			list = append(list, name)
		}
	}
	return list
}

// scopesOf reads the scopes that a server says it knows.
func scopesOf(v any) []string {
	var list []string
	items, _ := v.([]any)
	for _, item := range items[:min(len(items), 1000)] {
		if name, ok := item.(string); ok && len(name) <= maxExtraValue && name != "" && sendable(name) {
			list = append(list, name)
		}
	}
	return list
}
