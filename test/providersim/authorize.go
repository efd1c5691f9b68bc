package providersim

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/caddyoauth/caddyoauth/internal/provider"
)

// code is an authorization code that was handed out.
type code struct {
	asked url.Values
	used  bool
}

// authorize is the authorization endpoint. Everybody who comes consents at once.
func (s *Sim) authorize(w http.ResponseWriter, r *http.Request) {
	s.counts.Authorizations++
	asked := r.URL.Query()
	want := map[string]string{"response_type": "code", "client_id": s.opts.ClientID}
	for name, value := range s.Row.AuthParams {
		want[name] = value
	}
	scopes := s.Scopes()
	if len(scopes) > 0 {
		want[s.Row.ScopeParam] = strings.Join(scopes, s.Row.ScopeSeparator)
	}
	for _, free := range []string{"state", "redirect_uri"} {
		want[free] = asked.Get(free)
	}
	if slices.Contains(scopes, "openid") {
		want["nonce"] = asked.Get("nonce")
	}
	if s.Row.PKCE != provider.PKCEOmit {
		want["code_challenge"], want["code_challenge_method"] = asked.Get("code_challenge"), "S256"
		if len(asked.Get("code_challenge")) != 43 {
			s.fault("PKCE", "the challenge is not one of S256")
		}
	}
	s.compare("authorization endpoint", asked, want)
	redirect := asked.Get("redirect_uri")
	if s.redirect == "" {
		s.redirect = redirect
	}
	if redirect != s.redirect || redirect == "" {
		s.fault("redirect URI", "%q is not the registered one, %q", redirect, s.redirect)
		http.Error(w, "redirect_uri_mismatch", http.StatusBadRequest) // never sent to an address that is not registered
		return
	}
	text := fmt.Sprintf("%s-code-%d", s.opts.Secret, len(s.codes)+1)
	s.codes[text] = &code{asked: asked}
	back := url.Values{"state": {asked.Get("state")}, "code": {text}}
	if s.act.callback != nil {
		s.act.callback(s, back)
	}
	if s.Row.CallbackHMAC {
		back.Set("hmac", signature(back, s.opts.Secret))
	}
	http.Redirect(w, r, redirect+"?"+back.Encode(), http.StatusFound)
}

// Scopes are those that the client is to ask for; where there is metadata, only such as it lists.
func (s *Sim) Scopes() []string {
	scopes := s.Row.Scopes(s.opts.Scopes)
	if !s.act.discovers {
		return scopes
	}
	return slices.DeleteFunc(scopes, func(scope string) bool { return !slices.Contains(s.act.scopes, scope) })
}

// signature is how Shopify signs a query: the other parameters, sorted, as name=value joined by &.
func signature(query url.Values, secret string) string {
	var pairs []string
	for name := range query {
		pairs = append(pairs, name+"="+query.Get(name))
	}
	slices.Sort(pairs)
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(strings.Join(pairs, "&")))
	return hex.EncodeToString(mac.Sum(nil))
}

// compare reports every parameter that is missing, different, too much, empty or given twice.
func (s *Sim) compare(where string, got url.Values, want map[string]string) {
	for name, value := range want {
		switch {
		case value == "" || !got.Has(name):
			s.fault(where, "%s is missing", name)
		case got.Get(name) != value:
			s.fault(where, "%s is %q, documented is %q", name, got.Get(name), value)
		}
	}
	for name, values := range got {
		if _, known := want[name]; !known {
			s.fault(where, "%s is not documented there", name)
		}
		if len(values) > 1 {
			s.fault(where, "%s is given twice", name)
		}
	}
}

// discoverable makes up endpoints for a provider that has none of its own: they are in its metadata.
func (s *Sim) discoverable() {
	base := strings.TrimSuffix(s.Row.Issuer, "/")
	s.Row.AuthorizationEndpoint, s.Row.TokenEndpoint, s.Row.RevocationEndpoint = base+"/authorize", base+"/token", base+"/revoke"
	s.Row.Revocation = provider.StandardRevocation(provider.KillsToken)
	s.Row.TestCall.Method, s.Row.TestCall.URL = http.MethodGet, base+"/userinfo"
}

// metadata is the document of OpenID Connect Discovery.
func (s *Sim) metadata(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet || !s.act.discovers {
		s.fault("issuer", "nothing says that metadata is there to be read")
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{
		"issuer": s.Row.Issuer, "authorization_endpoint": s.Row.AuthorizationEndpoint, "token_endpoint": s.Row.TokenEndpoint,
		"revocation_endpoint": s.Row.RevocationEndpoint, "userinfo_endpoint": s.Row.TestCall.URL, "jwks_uri": s.Row.Issuer + "/jwks",
		"response_types_supported": []string{"code"}, "subject_types_supported": []string{"public"},
		"id_token_signing_alg_values_supported": []string{"RS256"}, "code_challenge_methods_supported": []string{"S256"},
		"token_endpoint_auth_methods_supported": []string{s.Row.ClientAuth[0]}, "scopes_supported": s.act.scopes,
	})
}
