package oauth

import (
	"context"
	"encoding/base64"
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
		// RFC 6749 section 3.2.1 and RFC 8705 section 2: without a header the id identifies the client.
		form.Set("client_id", c.cfg.ClientID)
	}
	if c.cfg.Method == ClientSecretPost {
		form.Set("client_secret", clientSecret.Reveal())
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.cfg.TokenEndpoint, strings.NewReader(form.Encode()))
	if err != nil { // cannot be: NewClient parsed the URL. The error would repeat it, so it is dropped.
		return nil, newError(Misconfigured, "token_endpoint", "token endpoint is not a usable URL")
	}
	req.GetBody = nil // net/http replays a request only if it can have the body again
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json") // GitHub answers form-encoded otherwise
	req.Header.Set("User-Agent", c.cfg.UserAgent)
	if c.cfg.Method == ClientSecretBasic {
		req.Header.Set("Authorization", "Basic "+basicBlob(c.cfg.ClientID, clientSecret))
	}
	return req, nil
}

// basicBlob is the value of a Basic header. Both parts are form-urlencoded first (RFC 6749 section 2.3.1), which is
// also what keeps a ':' in the id apart from the separator.
func basicBlob(id string, clientSecret secret.Text) string {
	pair := url.QueryEscape(id) + ":" + url.QueryEscape(clientSecret.Reveal())
	return base64.StdEncoding.EncodeToString([]byte(pair))
}
