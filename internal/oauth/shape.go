package oauth

import (
	"errors"
	"fmt"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
)

// ownHeaders are the headers that ExtraHeaders must not carry: those of HTTP itself, of client authentication, and those
// that a field of [Config] sets.
var ownHeaders = []string{
	"Accept", "Authorization", "Connection", "Content-Length", "Content-Type", "Expect", "Host", "Keep-Alive",
	"Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "User-Agent",
}

// checkShape checks what servers differ in: the fields below [Config.UserAgent].
func (c *Config) checkShape() error {
	switch {
	case c.BodyFormat != FormatForm && c.BodyFormat != FormatJSON:
		return fmt.Errorf("unknown body format %q: form or json", c.BodyFormat)
	case c.BasicRaw && strings.Contains(c.ClientID, ":"):
		return errors.New("client id holds a ':', which an unencoded Basic header cannot carry: leave basic_raw off")
	case c.ScopeParam != "scope" && (slices.Contains(ownAuthParams, c.ScopeParam) || c.ScopeParam == "audience" || c.ScopeParam == "resource"):
		return fmt.Errorf("scope parameter %q is set by this client itself", c.ScopeParam)
	case strings.ContainsFunc(c.ScopeSeparator, func(r rune) bool { return r < ' ' || r > '~' }):
		return errors.New("scope separator is not printable ASCII")
	}
	for name, value := range c.ExtraHeaders {
		if !isHeaderName(name) || strings.ContainsFunc(value, notInHeader) {
			return fmt.Errorf("extra header %q holds a character that a header cannot carry", name)
		}
		if slices.Contains(ownHeaders, textproto.CanonicalMIMEHeaderKey(name)) {
			return fmt.Errorf("extra header %q is set by this client itself", name)
		}
	}
	for _, path := range c.TokenPath {
		if slices.Contains(strings.Split(path, "."), "") {
			return fmt.Errorf("token path %q has an empty part: write it as a.b.access_token", path)
		}
	}
	if err := c.checkAuthorizationQuery(); err != nil {
		return err
	}
	return c.checkRevocation()
}

// checkAuthorizationQuery: no parameter may stand twice (RFC 6749 section 3.1), and ours will stand there.
func (c *Config) checkAuthorizationQuery() error {
	u, _ := url.Parse(c.AuthorizationEndpoint) // parsed before
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return errors.New("authorization endpoint has a query that cannot be read")
	}
	for name := range query {
		if slices.Contains(ownAuthParams, name) {
			return fmt.Errorf("authorization endpoint sets %q in its query, which this client sets itself", name)
		}
	}
	return nil
}

// isHeaderName reports whether name is a token (RFC 9110 section 5.1).
func isHeaderName(name string) bool {
	return name != "" && !strings.ContainsFunc(name, func(r rune) bool {
		return r <= ' ' || r > '~' || strings.ContainsRune("\"(),/:;<=>?@[\\]{}", r)
	})
}

func notInHeader(r rune) bool { return r < ' ' || r > '~' }

// placeOf looks up the place that a path names: the object that holds its last part, and that part.
func placeOf(object map[string]any, path string) (holder map[string]any, leaf string) {
	parts := strings.Split(path, ".")
	holder = object
	for _, part := range parts[:len(parts)-1] {
		holder, _ = holder[part].(map[string]any) // reading from a nil map gives nil
	}
	return holder, parts[len(parts)-1]
}

// tokenPlace finds the access token in a granted answer. The first place counts if there is none anywhere.
func (c *Client) tokenPlace(grant string, object map[string]any) (holder map[string]any, leaf string) {
	paths := c.cfg.TokenPath
	if len(paths) == 0 || grant == GrantRefreshToken {
		paths = append(slices.Clip(paths), "access_token")
	}
	for _, path := range paths {
		holder, leaf = placeOf(object, path)
		if token, _ := holder[leaf].(string); token != "" {
			return holder, leaf
		}
	}
	return placeOf(object, paths[0])
}
