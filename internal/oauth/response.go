package oauth

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/url"
	"strings"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// maxResponse is the most that is kept of a response besides its tokens.
const maxResponse = 32 << 10

// TokenResponse is a token that was granted.
type TokenResponse struct {
	AccessToken  secret.Text
	RefreshToken secret.Text // zero: the server sent none, the old one stays in force

	TokenType string // as sent; compare it without regard to case (RFC 6749 section 5.1); "" when absent
	Scope     string // as sent, an array joined by spaces; "" means as requested (RFC 6749 section 5.1)

	SentAt    time.Time // just before the request was written, with its monotonic reading
	ExpiresAt time.Time // zero: unknown. Not after SentAt: it was dead on arrival

	RefreshExpiresAt time.Time   // when the refresh token dies of age; zero: unknown, or never
	IDToken          secret.Text // OpenID Connect Core 3.1.3.3, for [ParseIDToken]; zero: the server sent none

	// Response is the answer without the access and refresh token above as a JSON object with sorted keys; zero if it is
	// longer than 32 KiB. It is a secret because servers put further tokens into it.
	Response secret.Text
}

// isHTML reports whether an answer is a page.
func (r *reply) isHTML() bool {
	if bytes.HasPrefix(bytes.TrimSpace(trimBOM(r.body)), []byte("<")) {
		return true
	}
	kind, _, _ := mime.ParseMediaType(r.header.Get("Content-Type"))
	return kind == "text/html" || kind == "application/xhtml+xml"
}

// judge decides what an answer means.
func (c *Client) judge(x *exchange, clientSecret secret.Text, r *reply) (*TokenResponse, error) {
	granted := r.status >= 200 && r.status < 300
	switch {
	case r.status >= 300 && r.status < 400:
		return nil, c.redirected(r)
	case r.readErr != nil:
		return nil, brokenOff(r, granted, c.peer)
	case r.tooLarge && granted:
		return nil, unreadable(r, "response_too_large", "more than 1 MiB")
	}

	object, ok := decodeObject(r.body)
	raw, marked := errorMarker(object)
	if !granted || marked {
		e := c.refusal(x, r, showable(raw, c.echoable(x, clientSecret)))
		e.RetryAfter = retryAfter(r, object, e.Class)
		return nil, e
	}
	holder, leaf := c.tokenPlace(x.grant, object)
	switch token, _ := holder[leaf].(string); {
	case !ok && r.isHTML():
		return nil, unreadable(r, "unreadable_response", "an HTML page")
	case !ok:
		return nil, unreadable(r, "unreadable_response", "neither JSON nor form-encoded")
	case token == "":
		return nil, unreadable(r, "no_access_token", "no access token in it")
	case !sendable(token):
		return nil, unreadable(r, "invalid_access_token", "the access token holds characters that no header can carry")
	}
	return tokenFrom(object, holder, leaf, r.sentAt), nil
}

func (c *Client) redirected(r *reply) *Error {
	e := newError(Misconfigured, "redirect", c.peer.called()+" answered with a redirect, which is never followed; "+
		"set "+c.peer.setBy()+" to its final address")
	e.Status = r.status
	return e
}

// brokenOff is for an answer whose body was lost. A refusal remains one, only its reason is gone; a grant may hold the
// next refresh token.
func brokenOff(r *reply, granted bool, asked peer) *Error {
	var e *Error
	if granted && errors.As(r.readErr, &e) {
		e.Status = r.status
		return e
	}
	e = newError(RetryLater, "connection_lost", asked.called()+" refused, and the connection broke before it said why; "+
		"it is asked again later")
	e.Status, e.RetryAfter = r.status, retryAfter(r, nil, RetryLater)
	return e
}

func unreadable(r *reply, code, what string) *Error {
	e := newError(UnknownOutcome, code, "token endpoint answered with success but the answer is of no use: "+what+
		"; check token_endpoint")
	e.Status = r.status
	return e
}

// echoable lists what was sent in confidence, in each form it had on the wire, for [showable].
func (c *Client) echoable(x *exchange, clientSecret secret.Text) []string {
	var list []string
	for _, s := range append([]secret.Text{clientSecret}, x.sent...) {
		plain := s.Reveal()
		list = append(list, plain, url.QueryEscape(plain))
	}
	if !clientSecret.IsZero() { // the method of a revocation may be another
		list = append(list, c.cfg.basic(clientSecret))
	}
	return list
}

var utf8BOM = []byte("\xef\xbb\xbf")

func trimBOM(body []byte) []byte { return bytes.TrimPrefix(body, utf8BOM) }

// decodeObject reads a body as a JSON object, whatever its content type says, and else as form-encoded (old GitHub and
// Facebook). Numbers stay as they were written.
func decodeObject(body []byte) (map[string]any, bool) {
	body = bytes.TrimSpace(trimBOM(body))
	if len(body) == 0 || body[0] == '<' {
		return nil, false
	}
	if body[0] == '{' {
		var object map[string]any
		decoder := json.NewDecoder(bytes.NewReader(body))
		decoder.UseNumber()
		if decoder.Decode(&object) != nil {
			return nil, false
		}
		_, err := decoder.Token()
		return object, errors.Is(err, io.EOF) // anything behind the object: not what it seems
	}
	form, err := url.ParseQuery(string(body))
	if err != nil || (form.Get("access_token") == "" && form.Get("error") == "") {
		return nil, false
	}
	object := make(map[string]any, len(form))
	for name := range form {
		object[name] = form.Get(name)
	}
	return object, true
}

// decodeDocument reads a body as a JSON object and as nothing else.
func decodeDocument(body []byte) (map[string]any, bool) {
	if !bytes.HasPrefix(bytes.TrimSpace(trimBOM(body)), []byte("{")) {
		return nil, false
	}
	return decodeObject(body)
}

// tokenFrom takes a grant apart. The access token is the member leaf of holder, and what belongs to it stands beside it.
func tokenFrom(object, holder map[string]any, leaf string, sentAt time.Time) *TokenResponse {
	access, _ := holder[leaf].(string)
	refresh, _ := holder["refresh_token"].(string)
	kind, _ := holder["token_type"].(string)
	identity, _ := object["id_token"].(string) // about the person, so it may stand outside
	token := &TokenResponse{
		AccessToken:      secret.New(access),
		RefreshToken:     secret.New(refresh),
		TokenType:        kind,
		Scope:            scopeOf(holder["scope"]),
		SentAt:           sentAt,
		ExpiresAt:        expiry(holder, access, sentAt),
		RefreshExpiresAt: refreshExpiry(holder, sentAt),
		IDToken:          secret.New(identity),
	}
	delete(holder, leaf)
	delete(holder, "refresh_token")
	token.Response = rest(object)
	return token
}

// scopeOf reads a scope: a string (RFC 6749 section 3.3), or an array (Twitch).
func scopeOf(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case []any:
		var names []string
		for _, item := range v {
			if name, ok := item.(string); ok && name != "" {
				names = append(names, name)
			}
		}
		return strings.Join(names, " ")
	}
	return ""
}

// rest is the response without its two tokens.
func rest(object map[string]any) secret.Text {
	kept := make(map[string]any, len(object))
	for name, value := range object {
		if name != "access_token" && name != "refresh_token" {
			kept[name] = value
		}
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if encoder.Encode(kept) != nil || out.Len() > maxResponse {
		return secret.Text{}
	}
	return secret.New(strings.TrimSuffix(out.String(), "\n"))
}

// sendable reports whether token is what RFC 6749 appendix A.12 allows: printable ASCII, so that it cannot break out of
// the header it will travel in.
func sendable(token string) bool {
	return !strings.ContainsFunc(token, func(r rune) bool { return r < ' ' || r > '~' })
}
