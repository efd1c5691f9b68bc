package caddyoauth

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddyoauth/caddyoauth/internal/connection"
	"github.com/caddyoauth/caddyoauth/internal/oauth"
	"github.com/caddyoauth/caddyoauth/internal/provider"
)

// resolver replaces global placeholders and collects what is wrong, so that one load names every fault.
type resolver struct {
	repl    *caddy.Replacer
	faults  []error
	trusted [][]byte     // the certificate authorities that were read
	stored  *storedParts // of a connection that was made at run time: nothing is replaced in it; nil = it is configured
}

// text returns raw with its placeholders replaced. The result must never go through a replacer again.
func (r *resolver) text(field, raw string) string {
	if r.stored != nil {
		return raw
	}
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

// params resolves the values of a map.
func (r *resolver) params(field string, raw map[string]string) map[string]string {
	values := make(map[string]string, len(raw))
	for name, value := range raw {
		values[name] = r.text(field+" "+name, value)
	}
	return values
}

// endpoint resolves and checks the URL of an endpoint; "" is none.
func (r *resolver) endpoint(field, raw string, insecure bool) string {
	value := r.wording(field, raw)
	if value.String() == "" {
		return ""
	}
	if err := (address{value, insecure}).check(); err != nil {
		r.fault(field, err)
	}
	return value.String()
}

func (r *resolver) fault(field string, err error) {
	r.faults = append(r.faults, &optionError{option: field, err: err})
}

// optionError says what is wrong with one option.
type optionError struct {
	option string
	err    error
}

func (e *optionError) Error() string { return e.option + ": " + e.err.Error() }

func (e *optionError) Unwrap() error { return e.err }

// built is a connection with everything resolved: what the configuration says, as the packages below want it.
type built struct {
	id           connection.ID
	*counterpart                    // nil when it depends on the person
	blueprint    *blueprint         // nil when it does not
	certificate  *oauth.Certificate // nil = none
	discovery    *discovery         // nil where the endpoints are configured
	policy       connection.Policy
	grant        string   // as connection.Settings has it
	warnings     []string // what the operator should know about the grant
	fingerprint  string
	digest       func(scopes []string) string // the fingerprint, had other scopes been asked for
	injection    *injection
	call         *testCall // nil = there is none
	allow        *hostList // nil = the upstreams of the reverse_proxy
	rules        ruleSet
	consent      consent
}

// consent is how a person authorizes a connection. The zero value is for connections of machines.
type consent struct {
	title     string // for people: the provider's, or the connection's name
	endpoint  string // where people are sent, with marks; "" = not known yet
	clientID  string
	scopes    []string // that are asked for
	fields    []field  // that people are asked for first
	pkce      bool
	implicit  bool // the token itself comes back, not a code
	openID    bool // ask for, and check, a nonce
	revocable bool // ending the connection may call the revocation endpoint

	revokeAccess bool // and what it wants to hear of is the access token

	signed  bool     // the way back is signed with the client secret
	keeping *keeping // what is kept of the answers
}

// build resolves and checks the connection. It touches no network and writes nothing.
func (c *Connection) build(name string) (*built, error) {
	return c.buildWith(&resolver{repl: caddy.NewReplacer()}, name)
}

func (c *Connection) buildWith(r *resolver, name string) (*built, error) {
	preset := c.preset(r)
	c.amend(r, preset)
	conf := c.wire(r, preset)
	fields := c.buildFields(r, preset)
	out := &built{
		id:        connection.ID{Tenant: r.text("tenant", c.Tenant), Connection: name},
		discovery: c.buildDiscovery(r, &conf, preset),
		policy:    c.policy(r, preset),
		grant:     c.grant(r, conf),
	}
	if r.stored != nil {
		r.stored.restrict(r, c, &conf)
	}
	out.warnings = c.buildGrant(r, &conf, name)
	conf.Scopes = c.scopes(r, preset, out.grant)
	keep := c.buildKeeping(r, preset, fields)
	out.injection = c.buildInjection(r, preset, keep)
	out.call = c.buildTestCall(r, c.testCall(preset), out.injection)
	if out.call != nil && out.call.userinfo && out.discovery == nil {
		out.call = nil
	}
	out.allow = c.buildAllowList(r, preset, out.injection)
	out.rules = c.buildRules(r)
	out.consent = c.buildConsent(preset, conf)
	out.consent.title, out.consent.keeping, out.consent.fields = cmp.Or(out.consent.title, name), keep, fields
	plan := c.buildBlueprint(r, conf, preset, keep)
	if c.Required && c.Subject != "" {
		r.fault("required", errRequiredSubject)
	}
	if len(r.faults) > 0 {
		return nil, fmt.Errorf("connection %q: %w", name, errors.Join(r.faults...))
	}
	out.certificate = conf.Certificate
	out.digest = func(scopes []string) string {
		other := conf
		other.Scopes = scopes
		return fingerprint(other, out.grant)
	}
	out.fingerprint = out.digest(conf.Scopes)
	plain, err := plan.trial()
	if err == nil && (out.grant == oauth.GrantRefreshToken || out.consent.implicit) {
		err = plan.try(out.consent.implicit)
	}
	if err != nil {
		return nil, fmt.Errorf("connection %q: %w", name, err)
	}
	if out.counterpart = plain; !plan.plain() {
		out.counterpart, out.blueprint = nil, plan // what was tried out is nobody's
	}
	return out, nil
}

// wire settles what goes over the wire to the authorization server. Of the preset it takes what is not said.
func (c *Connection) wire(r *resolver, preset *provider.Provider) oauth.Config {
	conf := oauth.Config{
		TokenEndpoint:         cmp.Or(r.endpoint("token_endpoint", c.TokenEndpoint, c.InsecureHTTP), preset.TokenEndpoint),
		AuthorizationEndpoint: cmp.Or(r.endpoint("authorization_endpoint", c.AuthorizationEndpoint, c.InsecureHTTP), preset.AuthorizationEndpoint),
		ClientID:              r.text("client_id", c.ClientID),
		Issuer:                r.marked("issuer", c.Issuer),
		Timeout:               time.Duration(c.Timeout), // 0 = the default, in both packages 15 s
		Resources:             r.texts("resource", c.Resource),
		Audience:              r.marked("audience", c.Audience),
		Params:                r.markedParams("token_param", c.TokenParams),
		UserAgent:             userAgent,
	}
	shapeFor(&conf, preset)
	c.buildAuthentication(r, &conf, preset)
	revokeAs(&conf, preset)
	if r.stored != nil {
		r.stored.equip(&conf)
	}
	return conf
}

// scopes settles what is asked for: what the connection says, where a preset's name for a set of scopes may stand, or the
// preset's default.
func (c *Connection) scopes(r *resolver, preset *provider.Provider, grant string) []string {
	wanted := r.texts("scopes", c.Scopes)
	switch {
	case grant == oauth.GrantImplicit && !slices.Contains(wanted, preset.OfflineScope): // there is no refresh token to ask for
		return slices.DeleteFunc(preset.Scopes(wanted), func(scope string) bool { return scope == preset.OfflineScope })
	case grant != oauth.GrantClientCredentials:
		return preset.Scopes(wanted)
	case len(wanted) > 0:
		return wanted
	}
	return preset.AppScopes
}

// buildAllowList settles who may receive the token. nil = the upstreams of the reverse_proxy, or, with marks in it, those that the
// injection makes of what is known of a token set.
func (c *Connection) buildAllowList(r *resolver, preset *provider.Provider, in *injection) *hostList {
	hosts, own := preset.APIHosts, len(c.AllowHosts) > 0
	if own {
		hosts = nil
		for _, host := range c.AllowHosts {
			hosts = append(hosts, r.marked("allow_hosts", host))
		}
	}
	if len(hosts) == 0 || in == nil {
		return nil
	}
	if slices.ContainsFunc(hosts, markText.MatchString) {
		in.hosts = c.buildHosts(r, hosts, in.keeping)
		return nil
	}
	list, err := newHostList(hosts)
	if err != nil {
		r.fault("allow_hosts", err)
		return nil
	}
	list.tlsOnly = !own // a public API is never called in the clear
	return list
}

// buildRules settles which requests the token may travel with.
func (c *Connection) buildRules(r *resolver) ruleSet {
	var rules ruleSet
	for _, allow := range c.Allow {
		one, err := newRule(allow.Methods, r.texts("allow", allow.Paths))
		if err != nil {
			r.fault("allow", err)
		}
		rules = append(rules, one)
	}
	return rules
}

// buildConsent settles how people authorize.
func (c *Connection) buildConsent(preset *provider.Provider, conf oauth.Config) consent {
	title, _, _ := strings.Cut(preset.Title, " (") // what follows is for operators
	implicit := c.Grant == oauth.GrantImplicit
	return consent{
		title:     title,
		endpoint:  conf.AuthorizationEndpoint,
		clientID:  conf.ClientID,
		scopes:    slices.Clone(conf.Scopes),
		pkce:      preset.PKCE != provider.PKCEOmit && !implicit,
		implicit:  implicit,
		openID:    slices.Contains(conf.Scopes, "openid") && !implicit, // no ID token comes with response_type=token
		revocable: conf.Discovery != nil || conf.RevocationEndpoint != "" && preset.Revocation.Automatic(),

		revokeAccess: revokesAccessToken(preset.Revocation),

		signed: preset.CallbackHMAC,
	}
}

func (c *Connection) buildInjection(r *resolver, preset *provider.Provider, keep *keeping) *injection {
	in := c.buildCarrier(r, preset)
	if in == nil {
		return nil
	}
	in.keepAuthorization, in.keeping = c.ForwardAuthorization, keep
	c.buildDefaults(r, in, preset)
	return in
}

// buildCarrier settles what of a request carries the token.
func (c *Connection) buildCarrier(r *resolver, preset *provider.Provider) *injection {
	if c.Query != "" {
		if c.Header != nil {
			r.fault("query", errors.New("give header or query, not both"))
		}
		return &injection{query: r.text("query", c.Query)}
	}
	header := HeaderInjection{Name: preset.HeaderName, Template: preset.HeaderTemplate}
	if c.Header != nil {
		header = *c.Header
	}
	// The template is not resolved: {token} is ours, and a header value has no business in the environment.
	in, err := newHeaderInjection(r.text("header", header.Name), header.Template)
	if err != nil {
		r.fault("header", err)
	}
	return in
}

// checkTokenEndpoint refuses an endpoint to which a client secret would travel in the clear.
func checkTokenEndpoint(raw string, insecure bool) error {
	return checkURL(raw, insecure, "the client's credentials")
}

// checkURL refuses a URL to which something would travel in the clear.
func checkURL(raw string, insecure bool, what string) error {
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
		return fmt.Errorf("http:// to %s would send %s in the clear; use https, or allow it with insecure_http", u.Hostname(), what)
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
	server := cmp.Or(conf.TokenEndpoint, conf.AuthorizationEndpoint)
	if conf.TokenEndpoint == "" && conf.Discovery != nil { // not what discovery says today: tokens outlive a move of their server
		server = "issuer " + conf.Issuer
	}
	parts := []any{server, conf.ClientID, grant, scopes, conf.Audience, resources, conf.Params}
	if conf.Username != "" {
		parts = append(parts, conf.Username)
	}
	text, err := json.Marshal(parts) // a length-safe encoding here, which sorts the keys of the map
	if err != nil {
		panic(err) // strings always encode
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:16])
}
