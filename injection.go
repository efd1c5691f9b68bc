package caddyoauth

import (
	"fmt"
	"net/http"
	"net/textproto"
	"net/url"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/caddyoauth/caddyoauth/internal/connection"
)

// tokenMark stands for the access token in a header template.
const tokenMark = "{token}"

// injection is how a token travels on a request: in one header, or in one query parameter.
type injection struct {
	header            string // canonical name; "" = in the query
	prefix, suffix    string // around the token in the header's value
	query             string
	keepAuthorization bool // the client's own Authorization may pass

	companions map[string]string // headers that the API wants as well, for requests that do not bring them
}

// newHeaderInjection checks a header's name and template.
func newHeaderInjection(name, template string) (*injection, error) {
	if name == "" {
		name = "Authorization"
	}
	name = textproto.CanonicalMIMEHeaderKey(name)
	if template == "" {
		template = tokenMark
		if name == "Authorization" {
			template = "Bearer " + tokenMark
		}
	}
	prefix, suffix, found := strings.Cut(template, tokenMark)
	switch {
	case !httpguts.ValidHeaderFieldName(name):
		return nil, fmt.Errorf("%q is not a header name", name)
	case isConnectionHeader(name):
		return nil, fmt.Errorf("%s belongs to the connection between two servers and cannot carry a token", name)
	case !found || strings.Contains(suffix, tokenMark):
		return nil, fmt.Errorf("the template needs %s exactly once", tokenMark)
	case !httpguts.ValidHeaderFieldValue(template):
		return nil, fmt.Errorf("the template holds characters that no header value may have")
	}
	return &injection{header: name, prefix: prefix, suffix: suffix}, nil
}

// isConnectionHeader reports whether a header has a meaning for the connection itself (RFC 9110 section 7.6.1) or frames the message.
func isConnectionHeader(name string) bool {
	switch name {
	case "Connection", "Keep-Alive", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "Content-Length", "Host", "Proxy-Connection":
		return true
	}
	return false
}

// values returns the header's value for a token set, built once for each.
func (in *injection) values(p *connection.Published) []string {
	return p.Render(in, in.render)
}

func (in *injection) render(set connection.TokenSet) []string {
	return []string{in.prefix + set.AccessToken.Reveal() + in.suffix}
}

// apply puts the token on a request that nobody else holds: its header map is replaced by a copy, so that the request which
// it was made from, and with it every log line, stays without a token.
func (in *injection) apply(out *http.Request, p *connection.Published) {
	header := make(http.Header, len(out.Header)+1)
	for name, values := range out.Header {
		if name == "Authorization" && !in.keepAuthorization {
			continue
		}
		header[name] = values
	}
	for name, value := range in.companions {
		if _, has := header[name]; !has {
			header[name] = []string{value}
		}
	}
	out.Header = header
	if in.header != "" {
		header[in.header] = in.values(p)
		return
	}
	out.URL = in.withQuery(out.URL, p)
}

// withQuery returns a copy of the URL whose query has the token once. The rest of the query stays as the client wrote it.
func (in *injection) withQuery(u *url.URL, p *connection.Published) *url.URL {
	next := *u
	var kept []string
	for pair := range strings.SplitSeq(u.RawQuery, "&") {
		name, _, _ := strings.Cut(pair, "=")
		if decoded, err := url.QueryUnescape(name); pair == "" || err == nil && decoded == in.query {
			continue
		}
		kept = append(kept, pair)
	}
	kept = append(kept, url.QueryEscape(in.query)+"="+url.QueryEscape(p.TokenSet().AccessToken.Reveal()))
	next.RawQuery = strings.Join(kept, "&")
	return &next
}
