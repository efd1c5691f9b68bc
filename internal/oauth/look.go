package oauth

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// Sight is what can be seen of an endpoint without showing it anything: no credentials are sent.
type Sight struct {
	Endpoint string // "token endpoint"
	Host     string
	Status   int           // of its answer; that it answers counts, a token endpoint refuses a GET
	Offset   time.Duration // how far its clock is ahead of ours; 0 when it does not tell the time
	CertEnds time.Time     // when its certificate ends; zero without TLS
	Err      error         // an [*Error]; nil if it answered
}

// Look asks every endpoint of the server for a page, to learn whether it can be reached and trusted. Its error says that the
// endpoints could not be found at all.
func (c *Client) Look(ctx context.Context) ([]Sight, error) {
	c, err := c.at(ctx)
	if err != nil {
		return nil, err
	}
	var all []Sight
	for _, one := range []struct{ name, option, url string }{
		{"token endpoint", "token_endpoint", c.cfg.TokenEndpoint},
		{"authorization endpoint", "authorization_endpoint", c.cfg.AuthorizationEndpoint},
		{"revocation endpoint", "revocation_endpoint", c.cfg.RevocationEndpoint},
	} {
		if one.url != "" {
			all = append(all, c.look(ctx, peer{one.name, one.option}, one.url))
		}
	}
	return all, nil
}

// LookAt asks for one page, such as the one that a person would be sent to.
func (c *Client) LookAt(ctx context.Context, page string) Sight {
	return c.look(ctx, peer{"authorization endpoint", "authorization_endpoint"}, page)
}

func (c *Client) look(ctx context.Context, at peer, page string) Sight {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	sight := Sight{Endpoint: at.name}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, page, nil)
	if err != nil {
		sight.Err = newError(Misconfigured, "bad_url", at.name+" is not a URL; check "+at.option)
		return sight
	}
	req.Header.Set("User-Agent", c.cfg.UserAgent)
	sight.Host = req.URL.Host
	asking := &Client{cfg: c.cfg, peer: at}
	answer, err := asking.send(req)
	if err != nil {
		sight.Err = err
		return sight
	}
	sight.Status, sight.CertEnds = answer.status, answer.certEnds
	if date, err := http.ParseTime(answer.header.Get("Date")); err == nil {
		sight.Offset = date.Sub(answer.sentAt.Truncate(time.Second)) // the header has whole seconds (RFC 9110 section 6.6.1)
	}
	return sight
}

// Introduce finds out whether the server accepts this client, by an authorization code that nobody has issued: who is refused for
// the code was accepted as a client (RFC 6749 section 5.2). It costs no consent and no token. accepted is false with no error when
// the answer does not tell.
func (c *Client) Introduce(ctx context.Context, redirectURI string) (accepted bool, err error) {
	_, err = c.ExchangeCode(ctx, CodeExchange{Code: secret.New("nobody-has-issued-this"), Verifier: secret.New(RandomState()), RedirectURI: redirectURI})
	var failure *Error
	switch {
	case err == nil:
		return true, nil
	case errors.As(err, &failure) && deadTokenCodes[failure.Code], failure != nil && badCodeCodes[failure.Code]:
		return true, nil
	case failure != nil && failure.Class == Unrecognized:
		return false, nil
	}
	return false, err
}
