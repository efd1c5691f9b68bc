package oauth

import (
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// Bounds on an ID token. A subject has at most 255 characters (OpenID Connect Core section 2).
const (
	maxIDToken = 64 << 10
	maxSubject = 255
	maxLabel   = 200 // characters of a name that is there to be shown
	idLeeway   = time.Minute
)

// IDClaims is who a person is, by the word of the authorization server (OpenID Connect Core sections 2 and 5.1).
type IDClaims struct {
	Issuer          string
	Subject         string // with Issuer the only stable identifier
	Audience        []string
	AuthorizedParty string
	Nonce           string
	Tenant          string // Microsoft: the tenant that Issuer names
	ExpiresAt       time.Time

	// For display only, without control characters and cut to 200 characters; "" when absent. Still foreign text: escape
	// it.
	Email, Name, PreferredUsername string
}

// ParseIDToken reads an ID token that came from the token endpoint. The signature is not checked: TLS vouches for the
// server there (OpenID Connect Core section 3.1.3.7, item 6). A token that came any other way must not be passed in. Its
// error is an [*Error] of class [Unrecognized]. The claims are worth nothing before [IDClaims.Check].
func ParseIDToken(raw secret.Text) (IDClaims, error) {
	token := raw.Reveal()
	if len(token) > maxIDToken {
		return IDClaims{}, badIDToken("it is longer than 64 KiB")
	}
	parts := strings.Split(token, ".")
	if len(parts) == 5 {
		return IDClaims{}, badIDToken("it is encrypted; switch encryption off for this client")
	}
	if len(parts) != 3 {
		return IDClaims{}, badIDToken("it is not a JWT")
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(parts[1], "="))
	if err != nil {
		return IDClaims{}, badIDToken("it is not a JWT")
	}
	object, ok := decodeDocument(payload)
	if !ok {
		return IDClaims{}, badIDToken("its claims cannot be read")
	}
	return claimsFrom(object)
}

func claimsFrom(object map[string]any) (IDClaims, error) {
	text := func(name string) string { s, _ := object[name].(string); return s }
	claims := IDClaims{
		Issuer: text("iss"), Subject: text("sub"), AuthorizedParty: text("azp"), Nonce: text("nonce"),
		Tenant: text("tid"),
		Email:  label(text("email")), Name: label(text("name")), PreferredUsername: label(text("preferred_username")),
	}
	switch audience := object["aud"].(type) {
	case string:
		claims.Audience = []string{audience}
	case []any:
		for _, item := range audience {
			one, isString := item.(string)
			if !isString {
				return IDClaims{}, badIDToken("its audience is not a list of names")
			}
			claims.Audience = append(claims.Audience, one)
		}
	}
	stamp, isNumber := object["exp"].(json.Number)
	seconds, err := stamp.Float64()
	switch {
	case !isNumber || err != nil || seconds <= 0 || seconds > 1e11:
		return IDClaims{}, badIDToken("it does not say when it expires")
	case claims.Issuer == "" || len(claims.Issuer) > maxURL:
		return IDClaims{}, badIDToken("it names no issuer")
	case claims.Subject == "" || len(claims.Subject) > maxSubject || !sendable(claims.Subject):
		return IDClaims{}, badIDToken("it names no subject of at most 255 ASCII characters")
	}
	claims.ExpiresAt = time.Unix(int64(seconds), 0)
	return claims, nil
}

func badIDToken(what string) *Error {
	return newError(Unrecognized, "invalid_id_token", "ID token of the token endpoint cannot be used: "+what)
}

// label makes foreign text fit for a line on a page.
func label(s string) string {
	var out []rune
	for _, r := range strings.ToValidUTF8(s, "") {
		// Neither control characters nor those that turn the direction of writing around.
		if unicode.IsPrint(r) && len(out) < maxLabel {
			out = append(out, r)
		}
	}
	return strings.TrimSpace(string(out))
}

// Check decides if the claims are about this login (OpenID Connect Core section 3.1.3.7). issuer is "" where it is not known, and
// that of the metadata where they name one for all tenants (Microsoft); nonce is "" where none was sent. Its error is an [*Error]
// of class [Unrecognized].
func (c IDClaims) Check(issuer, clientID, nonce string, now time.Time) error {
	switch {
	case issuer != "" && !sameIssuer(issuer, c.Issuer): // items 1 and 2
		return badIDToken("it is from another issuer; check issuer")
	case strings.Contains(issuer, tenantMark) && strings.ReplaceAll(issuer, tenantMark, c.Tenant) != c.Issuer:
		return badIDToken("its issuer and its tenant are not the same")
	case !slices.Contains(c.Audience, clientID): // item 3
		return badIDToken("it is for another client")
	case len(c.Audience) > 1 && c.AuthorizedParty == "", c.AuthorizedParty != "" && c.AuthorizedParty != clientID: // 4 and 5
		return badIDToken("it was issued to another client")
	case !now.Before(c.ExpiresAt.Add(idLeeway)): // item 9
		return badIDToken("it has expired; check the clock of this machine")
	case nonce != "" && subtle.ConstantTimeCompare([]byte(c.Nonce), []byte(nonce)) != 1: // item 11
		return badIDToken("it does not belong to this login (nonce)")
	}
	return nil
}
