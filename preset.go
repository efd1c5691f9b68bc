package caddyoauth

import (
	"cmp"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/caddyoauth/caddyoauth/internal/oauth"
	"github.com/caddyoauth/caddyoauth/internal/provider"
)

// preset returns the connection's preset with its parameters filled in; an empty one when there is none.
func (c *Connection) preset(r *resolver) *provider.Provider {
	if c.Provider == nil {
		return new(provider.Provider)
	}
	params := r.params("provider", c.Provider.Params)
	preset, err := provider.Resolve(c.Provider.Name, params)
	if row, ok := provider.Lookup(c.Provider.Name); ok && len(c.asked(row)) > 0 {
		preset, err = row.ExpandAsking(params, c.asked(row))
	}
	if err != nil {
		r.fault("provider", err)
		return new(provider.Provider)
	}
	return preset
}

// confirms returns those fields of the way back that repeat a parameter, with the parameter's value: whoever answers for another
// shop than the one that was asked must not be believed.
func (c *Connection) confirms(r *resolver, preset *provider.Provider) map[string]string {
	values := make(map[string]string)
	for _, param := range preset.Params {
		if !slices.Contains(preset.CallbackFields, param.Name) {
			continue
		}
		if given, ok := c.Provider.Params[param.Name]; ok {
			values[param.Name] = r.text("provider "+param.Name, given)
		} else if slices.Contains(c.asked(preset), param.Name) {
			values[param.Name] = mark{kind: "field", name: param.Name}.String()
		}
	}
	return values
}

// amend changes the preset to what the connection says of its server: a revocation endpoint of one's own is that of RFC 7009, unless
// its quirks say otherwise.
func (c *Connection) amend(r *resolver, preset *provider.Provider) {
	if own := r.endpoint("revocation_endpoint", c.RevocationEndpoint, c.InsecureHTTP); own != "" {
		preset.RevocationEndpoint, preset.Revocation = own, provider.StandardRevocation(provider.KillsToken)
	}
	c.Quirks.amend(r, preset, c.InsecureHTTP)
}

// shapeFor sets the quirks of a preset's wire.
func shapeFor(conf *oauth.Config, preset *provider.Provider) {
	conf.RefreshEndpoint = preset.RefreshEndpoint
	conf.CodeParams = unsaid(preset.TokenParams, conf.Params)
	conf.RefreshParams = unsaid(preset.RefreshParams, conf.Params)
	maps.DeleteFunc(conf.Params, func(name, value string) bool { // said to be left out
		return value == "" && (preset.TokenParams[name] != "" || preset.RefreshParams[name] != "")
	})
	conf.SendScopeOnRefresh = preset.SendScopeOnRefresh
	conf.ScopeParam, conf.ScopeSeparator = preset.ScopeParam, preset.ScopeSeparator
	conf.BasicRaw, conf.SecretAsUser = preset.BasicRaw, preset.SecretAsUser
	conf.BodyFormat = oauth.BodyFormat(preset.BodyFormat)
	conf.Codes = oauth.Codes{
		Revoked: preset.Errors.Revoked, Misconfigured: preset.Errors.Misconfigured, RetryLater: preset.Errors.RetryLater,
	}
	if preset.TokenPath != "" {
		conf.TokenPath = []string{preset.TokenPath}
	}
}

// unsaid returns what a preset says and the user did not.
func unsaid(preset, said map[string]string) map[string]string {
	left := maps.Clone(preset)
	maps.DeleteFunc(left, func(name, _ string) bool { _, is := said[name]; return is })
	return left
}

// revokeAs sets how a preset's server wants to be told that a connection has ended; nothing if that cannot be said to it, since
// asking in a way that the server does not understand would revoke nothing.
func revokeAs(conf *oauth.Config, preset *provider.Provider) {
	shape, ok := revocationShape(preset.Revocation)
	withSecret := shape.Auth == oauth.RevokeWithBasic || shape.Auth == oauth.RevokeWithPost
	if !ok || preset.RevocationEndpoint == "" || withSecret && conf.Secret == nil {
		return
	}
	conf.RevocationEndpoint = strings.ReplaceAll(preset.RevocationEndpoint, "{client_id}", url.PathEscape(conf.ClientID))
	conf.Revocation = shape
	if shape.Auth == oauth.RevokeWithToken && preset.HeaderName != "Authorization" {
		conf.Revocation.Header = preset.HeaderName // as at the API
	}
}

// revocationAuth translates by what a provider has a revocation authorized. What is missing has no translation: Stripe's names
// the account, which only a token response tells.
var revocationAuth = map[provider.RevocationAuth]oauth.RevocationAuth{
	"":                       oauth.RevokeAsClient,
	provider.AuthClient:      oauth.RevokeAsClient,
	provider.AuthClientBasic: oauth.RevokeWithBasic,
	provider.AuthClientPost:  oauth.RevokeWithPost,
	provider.AuthNone:        oauth.RevokeWithout,
	provider.AuthAccessToken: oauth.RevokeWithToken,
}

// revocationShape translates how a provider wants to be told, or reports that it cannot.
func revocationShape(r provider.Revocation) (shape oauth.RevocationShape, ok bool) {
	auth, known := revocationAuth[r.Auth]
	if !known {
		return oauth.RevocationShape{}, false
	}
	shape = oauth.RevocationShape{
		Method: r.Method, Format: oauth.BodyFormat(cmp.Or(r.Body, provider.BodyFormat(oauth.FormatNone))), Auth: auth,
		Names: map[string]string{"token_type_hint": ""}, Gone: r.Gone, // a hint only where the provider is known to take one
	}
	for name, value := range r.Fields {
		switch value {
		case "{refresh_token}", "{access_token}":
			shape.Names["token"] = name
		case "refresh_token": // what the token is; oauth.Client says so itself
			shape.Names["token_type_hint"] = name
		default:
			return oauth.RevocationShape{}, false
		}
	}
	return shape, true
}

// revokesAccessToken reports whether a provider wants to be told of the access token, or told by it.
func revokesAccessToken(r provider.Revocation) bool {
	for _, value := range r.Fields {
		if value == "{access_token}" {
			return true
		}
	}
	return r.Auth == provider.AuthAccessToken
}
