package caddyoauth

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/caddyoauth/caddyoauth/internal/oauth"
	"github.com/caddyoauth/caddyoauth/internal/provider"
)

// Quirks says in what an authorization server differs from the standards. What is left out stays as the preset has it, and without
// a preset as the standards do.
type Quirks struct {
	// PKCE says whether RFC 7636 parameters are sent. Default: true, unless the preset knows that the server refuses them.
	PKCE *bool `json:"pkce,omitempty"`
	// BasicRaw leaves out the form encoding of `client_secret_basic` (RFC 6749 section 2.3.1). Default: false.
	BasicRaw *bool `json:"basic_raw,omitempty"`
	// SecretAsUser sends the secret as the user name of `client_secret_basic`, with no password. Default: false.
	SecretAsUser *bool `json:"secret_as_user,omitempty"`
	// Body is how requests to the token endpoint are written, `form` or `json`. Default: `form`.
	Body string `json:"body,omitempty"`
	// ScopeParam is the parameter of the authorization request that the scopes travel in. Default: `scope`.
	ScopeParam string `json:"scope_param,omitempty"`
	// ScopeSeparator stands between scopes. Default: one space.
	ScopeSeparator string `json:"scope_separator,omitempty"`
	// OfflineScope is asked for besides the scopes, so that there is a refresh token; `off` is none. Default: the preset's.
	OfflineScope string `json:"offline_scope,omitempty"`
	// RefreshEndpoint is where tokens are refreshed if not at the token endpoint. Same rules as there.
	RefreshEndpoint string `json:"refresh_endpoint,omitempty"`
	// RefreshParams are sent when a token is refreshed; one with an empty value leaves out the preset's.
	RefreshParams map[string]string `json:"refresh_params,omitempty"`
	// RefreshScope sends the scopes on a refresh too. Default: false.
	RefreshScope *bool `json:"refresh_scope,omitempty"`
	// TokenPath is where the access token is in an answer, as member names joined by dots. Default: `access_token`.
	TokenPath string `json:"token_path,omitempty"`

	// Revoked are error codes with which a refresh says that a person must authorize again, besides `invalid_grant`.
	Revoked []string `json:"revoked,omitempty"`
	// Misconfigured are error codes with which the server refuses the client, besides `invalid_client` and the like.
	Misconfigured []string `json:"misconfigured,omitempty"`
	// RetryLater are error codes that mean "not now", besides `temporarily_unavailable` and the like.
	RetryLater []string `json:"retry_later,omitempty"`

	// Revocation says how the server is told that a connection has ended. Default: as RFC 7009 has it, or the preset.
	Revocation *RevocationQuirks `json:"revocation,omitempty"`
}

// RevocationQuirks says how a server is told that a connection has ended. What is left out is as RFC 7009 has it.
type RevocationQuirks struct {
	// Method is `POST` or `DELETE`. Default: `POST`.
	Method string `json:"method,omitempty"`
	// Auth is what authorizes the request: `client` (as at the token endpoint), `client_secret_basic`, `client_secret_post`,
	// `access_token` or `none`. Default: `client`.
	Auth string `json:"auth,omitempty"`
	// Body is `form`, `json`, or `none` when the access token that authorizes the request is the one to revoke. Default: `form`.
	Body string `json:"body,omitempty"`
	// Token says which token is named: `refresh_token` or `access_token`. Default: `refresh_token`.
	Token string `json:"token,omitempty"`
	// Name is that of the parameter with the token. Default: `token`.
	Name string `json:"name,omitempty"`
}

// amend changes a preset, or the empty one of a connection without, to what the connection says of its server.
func (q *Quirks) amend(r *resolver, preset *provider.Provider, insecure bool) {
	if q == nil {
		return
	}
	text := func(option, raw string, field *string) { *field = cmp.Or(r.text("quirks "+option, raw), *field) }
	text("scope_param", q.ScopeParam, &preset.ScopeParam)
	text("scope_separator", q.ScopeSeparator, &preset.ScopeSeparator)
	text("token_path", q.TokenPath, &preset.TokenPath)
	text("offline_scope", q.OfflineScope, &preset.OfflineScope)
	if preset.OfflineScope == "off" {
		preset.OfflineScope = ""
	}
	preset.RefreshEndpoint = cmp.Or(r.endpoint("quirks refresh_endpoint", q.RefreshEndpoint, insecure), preset.RefreshEndpoint)
	preset.RefreshParams = overridden(preset.RefreshParams, r.params("quirks refresh_param", q.RefreshParams))
	preset.BodyFormat = cmp.Or(provider.BodyFormat(q.Body), preset.BodyFormat)
	if q.PKCE != nil {
		preset.PKCE = map[bool]provider.PKCE{true: provider.PKCESupported, false: provider.PKCEOmit}[*q.PKCE]
	}
	for _, one := range []struct{ said, field *bool }{
		{q.BasicRaw, &preset.BasicRaw}, {q.SecretAsUser, &preset.SecretAsUser}, {q.RefreshScope, &preset.SendScopeOnRefresh},
	} {
		if one.said != nil {
			*one.field = *one.said
		}
	}
	q.amendErrors(&preset.Errors)
	if q.Revocation != nil {
		if preset.RevocationEndpoint == "" {
			r.fault("quirks revocation", errors.New("there is nobody to tell; give revocation_endpoint"))
		}
		preset.Revocation = q.Revocation.build(r)
	}
}

// amendErrors gives codes another meaning than the preset does.
func (q *Quirks) amendErrors(known *provider.ErrorQuirks) {
	said := slices.Concat(q.Revoked, q.Misconfigured, q.RetryLater)
	merge := func(list *[]string, more []string) {
		*list = slices.DeleteFunc(*list, func(code string) bool {
			return slices.ContainsFunc(said, func(other string) bool { return strings.EqualFold(code, other) })
		})
		*list = append(*list, more...)
	}
	merge(&known.Revoked, q.Revoked)
	merge(&known.Misconfigured, q.Misconfigured)
	merge(&known.RetryLater, q.RetryLater)
}

// build returns the revocation in the table's words.
func (q *RevocationQuirks) build(r *resolver) provider.Revocation {
	out := provider.Revocation{
		Method: cmp.Or(q.Method, "POST"), Auth: provider.RevocationAuth(cmp.Or(q.Auth, string(provider.AuthClient))),
		Body: provider.BodyFormat(cmp.Or(q.Body, string(provider.Form))), Kills: provider.KillsToken,
	}
	if _, known := revocationAuth[out.Auth]; !known {
		r.fault("quirks revocation", fmt.Errorf("auth: %q is unknown", q.Auth))
	}
	token := cmp.Or(q.Token, "refresh_token")
	if token != "refresh_token" && token != "access_token" {
		r.fault("quirks revocation", fmt.Errorf("token: %q is neither refresh_token nor access_token", q.Token))
	}
	if out.Body == provider.BodyFormat(oauth.FormatNone) {
		out.Body = ""
		return out
	}
	out.Fields = map[string]string{cmp.Or(q.Name, "token"): "{" + token + "}"}
	return out
}

// overridden returns known with said on top; saying nothing to something that is known leaves it out.
func overridden(known, said map[string]string) map[string]string {
	out := make(map[string]string, len(known)+len(said))
	maps.Copy(out, known)
	maps.Copy(out, said)
	maps.DeleteFunc(out, func(name, value string) bool { return value == "" && known[name] != "" })
	return out
}
