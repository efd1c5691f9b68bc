package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/secret"
)

const (
	maxAnswer   = 8 << 20          // bytes; a page of 200 connections is far below
	callTimeout = 60 * time.Second // a forced refresh may wait for a slow provider
)

// Client calls the REST API, on Caddy's admin endpoint or on a site.
type Client struct {
	Base string // URL up to the /v1 of the API, without a slash at the end
	HTTP *http.Client
	Key  secret.Text // API key; zero on the admin endpoint, which asks for none
}

// Refusal is an answer of the API that says no.
type Refusal struct {
	Status  int
	Type    string
	Message string
}

// Error returns the API's own message.
func (r *Refusal) Error() string {
	if r.Message == "" {
		return fmt.Sprintf("Caddy answered with status %d", r.Status)
	}
	return r.Message
}

// typeProvider is the type of the API's answer when the provider refuses our client.
const typeProvider = "provider_error"

// errUnreachable marks that nobody answered.
var errUnreachable = errors.New("reach Caddy's API")

// envelope is the form of every answer.
type envelope struct {
	Data  json.RawMessage `json:"data"`
	Meta  struct{ Total int }
	Error reason
}

// reason says why not. Caddy's admin endpoint itself gives a text alone.
type reason struct{ Type, Message string }

// UnmarshalJSON implements json.Unmarshaler.
func (r *reason) UnmarshalJSON(text []byte) error {
	if json.Unmarshal(text, &r.Message) == nil {
		return nil
	}
	type plain reason
	return json.Unmarshal(text, (*plain)(r))
}

// ask is a request to the API.
type ask struct {
	method, path string
	body         any // nil = none
}

// call sends a request and decodes `data` of its answer into result.
func (c *Client) call(ctx context.Context, what ask, result any) (total int, err error) {
	answer, err := c.exchange(ctx, what)
	if err != nil {
		return 0, err
	}
	if err := json.Unmarshal(answer.Data, result); err != nil {
		return 0, fmt.Errorf("read the answer of Caddy's API: %w", err)
	}
	return answer.Meta.Total, nil
}

func (c *Client) exchange(ctx context.Context, what ask) (*envelope, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	req, err := c.request(ctx, what)
	if err != nil {
		return nil, err
	}
	status, text, err := c.send(req)
	if err != nil {
		return nil, fmt.Errorf("%w: %w; is Caddy running, and is this its address?", errUnreachable, withoutURL(err))
	}
	answer := new(envelope)
	decodeErr := json.Unmarshal(text, answer)
	switch {
	case status == http.StatusNotFound && answer.Error.Type == "": // nobody says so who knows connections
		return nil, fmt.Errorf("read the answer of Caddy's API: %s; is this the address of the API?", cmp.Or(answer.Error.Message, "there is none"))
	case status >= http.StatusMultipleChoices && status < http.StatusBadRequest:
		return nil, fmt.Errorf("read the answer of Caddy's API: it leads elsewhere (%d); give the address that it leads to", status)
	case status >= http.StatusBadRequest:
		return nil, &Refusal{Status: status, Type: answer.Error.Type, Message: answer.Error.Message}
	case decodeErr != nil:
		return nil, errors.New("read the answer of Caddy's API: it is not JSON; is this the address of the API?")
	}
	return answer, nil
}

// Direct makes an HTTP client follow no redirect: the API has none, and a key does not go where somebody else points to, nor in the clear to
// the same host.
func Direct(client *http.Client) *http.Client {
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return client
}

func (c *Client) request(ctx context.Context, what ask) (*http.Request, error) {
	var content io.Reader
	if what.body != nil {
		text, err := json.Marshal(what.body)
		if err != nil {
			return nil, err
		}
		content = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, what.method, c.Base+what.path, content)
	if err != nil {
		return nil, errors.New("the address of the API is not a URL")
	}
	if what.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if !c.Key.IsZero() {
		req.Header.Set("Authorization", "Bearer "+c.Key.Reveal())
	}
	return req, nil
}

// send is the one place where the command line talks to Caddy.
func (c *Client) send(req *http.Request) (status int, text []byte, err error) {
	resp, err := c.HTTP.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err == nil && len(text) > maxAnswer {
		err = errors.New("the answer is too large")
	}
	return resp.StatusCode, text, err
}

// withoutURL takes the URL out of an error of net/http: the user has given it.
func withoutURL(err error) error {
	var with *url.Error
	if errors.As(err, &with) {
		return with.Err
	}
	return err
}

// target is the connection that a command is about.
type target struct {
	id   string
	name string
}

// path returns the API's path of something about the target, or about one subject of it.
func (t target) path(subject, rest string) string {
	path := "/v1/secrets/" + url.PathEscape(t.id)
	if subject != "" {
		path += "/subjects/" + url.PathEscape(subject)
	}
	return path + rest
}

// query returns "?..." of what is not empty.
func query(pairs ...string) string {
	values := make(url.Values)
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			values.Set(pairs[i], pairs[i+1])
		}
	}
	if len(values) == 0 {
		return ""
	}
	return "?" + strings.ReplaceAll(values.Encode(), "+", "%20")
}
