package oauth

import (
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// Bounds on what comes back through a browser, which anybody can make up. Microsoft's codes run to 2 KiB.
const (
	maxCallback   = 16 << 10
	maxCode       = 8 << 10
	maxExtra      = 24  // further parameters that are kept
	maxExtraValue = 512 // bytes in one of them
)

// AuthorizationResponse is what an authorization server sent back through the browser (RFC 6749 section 4.1.2). All of it
// is foreign text: nothing in it is true before State was found and bound to the person, and [CheckIssuer] passed.
type AuthorizationResponse struct {
	Code   secret.Text // zero if Error is set, and in the implicit grant
	State  string      // printable, unescaped characters only
	Issuer string      // RFC 9207; "" if the server does not send it. Not for display
	Error  string      // the server's code, fit to show, or "unreadable_code"; "" if there is none

	// Extra are further parameters that some servers send along (realmId, accounts-server, location, shop, ...): printable
	// ASCII, bounded, each sent once. They are claims of the browser: a host among them is to be checked against a list.
	Extra map[string]string
}

// ParseAuthorizationResponse reads the raw query of a callback. Its error is an [*Error] of class [Unrecognized], with a
// text that holds nothing of the query; the description and the URI of an error are never read.
func ParseAuthorizationResponse(rawQuery string) (*AuthorizationResponse, error) {
	r, values, err := parseResponse(rawQuery)
	if err != nil {
		return nil, err
	}
	code := values.Get("code")
	switch {
	case r.Error != "" && code != "": // two answers: somebody added one
		return nil, badCallback("callback_ambiguous", "it holds a code and an error")
	case r.Error == "" && code == "":
		return nil, badCallback("callback_incomplete", "it holds neither a code nor an error")
	case len(code) > maxCode || !sendable(code): // RFC 6749 appendix A.11
		return nil, badCallback("callback_malformed", "the code is not one")
	}
	r.Code = secret.New(code)
	return r, nil
}

// ParseImplicitResponse reads the fragment of a callback of the implicit grant (RFC 6749 section 4.2.2), without its
// '#'. The token is nil if the server answered with an error. A refresh token is dropped: section 4.2.2 forbids one.
func ParseImplicitResponse(fragment string, receivedAt time.Time) (*AuthorizationResponse, *TokenResponse, error) {
	r, values, err := parseResponse(fragment)
	if err != nil {
		return nil, nil, err
	}
	access := values.Get("access_token")
	switch {
	case r.Error != "" && access != "":
		return nil, nil, badCallback("callback_ambiguous", "it holds a token and an error")
	case r.Error != "":
		return r, nil, nil
	case access == "":
		return nil, nil, badCallback("callback_incomplete", "it holds neither a token nor an error")
	case !sendable(access):
		return nil, nil, badCallback("callback_malformed", "the access token is not one")
	}
	object := map[string]any{}
	for _, name := range []string{"access_token", "token_type", "expires_in", "scope"} {
		if v := values.Get(name); v != "" {
			object[name] = v
		}
	}
	for name, value := range r.Extra {
		object[name] = value
	}
	return r, tokenFrom(object, object, "access_token", receivedAt), nil
}

// onceParams may stand once (RFC 6749 section 3.1), and are not among the extra ones.
var onceParams = []string{
	"code", "state", "iss", "error", "error_description", "error_uri",
	"access_token", "refresh_token", "id_token", "token_type", "expires_in",
}

// parseResponse reads what both grants have in common.
func parseResponse(raw string) (*AuthorizationResponse, url.Values, error) {
	if len(raw) > maxCallback {
		return nil, nil, badCallback("callback_too_large", "it is longer than 16 KiB")
	}
	values, err := url.ParseQuery(raw)
	if err != nil {
		return nil, nil, badCallback("callback_malformed", "its parameters cannot be read")
	}
	for _, name := range onceParams {
		if len(values[name]) > 1 {
			return nil, nil, badCallback("callback_duplicate", "the parameter "+name+" stands there more than once")
		}
	}
	state, issuer := values.Get("state"), values.Get("iss")
	switch {
	case state == "":
		return nil, nil, badCallback("callback_incomplete", "it holds no state")
	case !isState(state):
		return nil, nil, badCallback("callback_malformed", "the state is not one of ours")
	case len(issuer) > maxURL || !sendable(issuer):
		return nil, nil, badCallback("callback_malformed", "the issuer is not one")
	}
	r := &AuthorizationResponse{State: state, Issuer: issuer, Extra: extras(values)}
	if values.Has("error") {
		if r.Error = showable(values.Get("error"), []string{state, values.Get("code")}); r.Error == "" {
			r.Error = "unreadable_code"
		}
	}
	return r, values, nil
}

func badCallback(code, what string) *Error {
	return newError(Unrecognized, code, "answer of the authorization server cannot be used: "+what+"; connect again")
}

// extras picks the further parameters that are harmless to keep, the first ones by name.
func extras(values url.Values) map[string]string {
	var names []string
	for name, list := range values {
		if len(list) == 1 && plainCode(name) && len(list[0]) <= maxExtraValue && sendable(list[0]) &&
			!slices.Contains(onceParams, strings.ToLower(name)) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	kept := map[string]string{}
	for _, name := range names[:min(len(names), maxExtra)] {
		kept[name] = values.Get(name)
	}
	return kept
}

// CheckIssuer compares who answered with who was asked (RFC 9207 section 2.4), against mix-up attacks. issuer is ""
// where it is not known, and announced is [Server.AuthorizationResponseIssParameterSupported]. Its error is an [*Error]
// of class [Unrecognized].
func (r *AuthorizationResponse) CheckIssuer(issuer string, announced bool) error {
	switch {
	case r.Issuer == "" && announced:
		return newError(Unrecognized, "issuer_missing",
			"answer of the authorization server lacks the issuer that this server always sends; connect again")
	case r.Issuer != "" && issuer != "" && !sameIssuer(issuer, r.Issuer):
		return newError(Unrecognized, "issuer_mismatch",
			"answer comes from another authorization server than the one that was asked; connect again, and check issuer")
	}
	return nil
}
