package oauth

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"

	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// newRequest builds the POST of RFC 6749 section 3.2 with the client's authentication in it: in the header or in the
// body, never both (RFC 6749 section 2.3; Dropbox refuses both at once).
func (c *Client) newRequest(ctx context.Context, x *exchange, clientSecret secret.Text) (*http.Request, error) {
	form := maps.Clone(x.form)
	if c.cfg.Method != ClientSecretBasic {
		if err := c.identify(x, form, clientSecret); err != nil {
			return nil, err
		}
	}
	req, err := c.message(ctx, http.MethodPost, x.url, c.cfg.BodyFormat.encode(form))
	if err != nil {
		return nil, err
	}
	if c.cfg.Method == ClientSecretBasic {
		req.Header.Set("Authorization", "Basic "+c.cfg.basic(clientSecret))
	}
	return req, nil
}

// identify puts into the body who the client is, and its authentication for the methods that have it there. RFC 6749 section
// 3.2.1 and RFC 8705 section 2: without a header the id identifies the client; RFC 7521 section 4.2 allows it beside an assertion.
func (c *Client) identify(x *exchange, form url.Values, clientSecret secret.Text) error {
	form.Set("client_id", c.cfg.ClientID)
	switch c.cfg.Method {
	case ClientSecretPost:
		form.Set("client_secret", clientSecret.Reveal())
	case PrivateKeyJWT, ClientSecretJWT:
		assertion, err := c.assertion(clientSecret)
		if err != nil {
			return err
		}
		form.Set("client_assertion_type", assertionType)
		form.Set("client_assertion", assertion.Reveal())
		x.sent = append(x.sent, assertion)
	}
	return nil
}

// message builds a request to the authorization server, with what every request carries.
func (c *Client) message(ctx context.Context, method, target string, content payload) (*http.Request, error) {
	var body io.Reader
	if content.kind != "" {
		body = strings.NewReader(content.text)
	}
	req, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil { // cannot be: NewClient parsed the URL. The error would repeat it, so it is dropped.
		return nil, newError(Misconfigured, "token_endpoint", c.peer.called()+" is not a usable URL")
	}
	req.GetBody = nil // net/http replays a request only if it can have the body again
	for name, value := range c.cfg.ExtraHeaders {
		req.Header.Set(name, value)
	}
	if content.kind != "" {
		req.Header.Set("Content-Type", content.kind)
	}
	req.Header.Set("Accept", "application/json") // GitHub answers form-encoded otherwise
	req.Header.Set("User-Agent", c.cfg.UserAgent)
	return req, nil
}

// basic is the value of a Basic header. Both parts are form-urlencoded first (RFC 6749 section 2.3.1), which is also
// what keeps a ':' in the id apart from the separator; [Config.BasicRaw] and [Config.SecretAsUser] are for servers that
// want it otherwise.
func (c *Config) basic(clientSecret secret.Text) string {
	pair := url.QueryEscape(c.ClientID) + ":" + url.QueryEscape(clientSecret.Reveal())
	switch {
	case c.SecretAsUser:
		pair = url.QueryEscape(clientSecret.Reveal()) + ":"
	case c.BasicRaw:
		pair = c.ClientID + ":" + clientSecret.Reveal()
	}
	return base64.StdEncoding.EncodeToString([]byte(pair))
}

// BodyFormat is how the parameters of a request are written.
type BodyFormat string

// The formats. RFC 6749 knows the form only; Notion and Square want JSON, Discord refuses it.
const (
	FormatForm BodyFormat = "form"
	FormatJSON BodyFormat = "json"
	FormatNone BodyFormat = "none" // no body; for revocation only
)

// payload is a body and its content type; kind is "" if there is none.
type payload struct{ kind, text string }

// encode writes the parameters. In JSON a parameter that stands once is a string, else an array.
func (f BodyFormat) encode(form url.Values) payload {
	switch f {
	case FormatNone:
		return payload{}
	case FormatJSON:
		object := make(map[string]any, len(form))
		for name, values := range form {
			if object[name] = values; len(values) == 1 {
				object[name] = values[0]
			}
		}
		var out bytes.Buffer
		encoder := json.NewEncoder(&out)
		encoder.SetEscapeHTML(false)
		_ = encoder.Encode(object) // strings and slices of them: cannot fail
		return payload{"application/json", strings.TrimSuffix(out.String(), "\n")}
	}
	return payload{"application/x-www-form-urlencoded", form.Encode()}
}
