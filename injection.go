package caddyoauth

import (
	"errors"
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

	headers []named // that the API wants as well, for requests that do not bring them
	params  []named // likewise, in the query
	keeping *keeping
	hosts   *hostWordings // who may receive the token, where that depends on what is known; nil = it does not
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
	case markText.MatchString(template):
		return nil, errors.New("the header that carries the token holds nothing else that a connection knows; use a header of its own")
	case !httpguts.ValidHeaderFieldValue(template):
		return nil, fmt.Errorf("the template holds characters that no header value may have")
	}
	return &injection{header: name, prefix: prefix, suffix: suffix, keeping: new(keeping)}, nil
}

// isConnectionHeader reports whether a header has a meaning for the connection itself (RFC 9110 section 7.6.1) or frames the message.
func isConnectionHeader(name string) bool {
	switch name {
	case "Connection", "Keep-Alive", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "Content-Length", "Host", "Proxy-Connection":
		return true
	}
	return false
}

// rendition is what an injection makes of one token set.
type rendition struct {
	token   []string // the value of the header that carries it
	known   facts
	headers []worded
	params  []worded
	allow   *hostList // nil = the connection's
}

// worded is a header or parameter that requests get unless they bring their own.
type worded struct {
	name  string
	value []string
	err   error // why there is no value
}

// rendition returns what to put on requests for a token set, built once for each.
func (in *injection) rendition(p *connection.Published) *rendition {
	return p.Render(in, in.render).(*rendition)
}

func (in *injection) render(set connection.TokenSet) any {
	made := &rendition{token: []string{in.prefix + set.AccessToken.Reveal() + in.suffix}, known: in.keeping.facts(set)}
	if in.hosts != nil {
		made.allow = in.hosts.fill(made.known)
	}
	made.headers, made.params = wordAll(in.headers, made.known), wordAll(in.params, made.known)
	return made
}

// wordAll fills in what is known.
func wordAll(all []named, known facts) []worded {
	var made []worded
	for _, one := range all {
		text, err := one.value.fill(known)
		made = append(made, worded{name: one.name, value: []string{text}, err: err})
	}
	return made
}

// apply puts the token on a request that nobody else holds: its header map is replaced by a copy, so that the request which
// it was made from, and with it every log line, stays without a token. Its error is an *unknownFact.
func (in *injection) apply(out *http.Request, p *connection.Published) error {
	return in.put(out, p, in.rendition(p))
}

func (in *injection) put(out *http.Request, p *connection.Published, made *rendition) error {
	header := make(http.Header, len(out.Header)+1)
	for name, values := range out.Header {
		if name == "Authorization" && !in.keepAuthorization {
			continue
		}
		header[name] = values
	}
	for _, one := range made.headers {
		if brings(header, one.name) {
			continue
		}
		if one.err != nil {
			return one.err
		}
		header[one.name] = one.value
	}
	out.Header = header
	if in.header != "" {
		header[in.header] = made.token
	}
	if in.query == "" && len(made.params) == 0 {
		return nil
	}
	next, err := in.withQuery(out.URL, made, p)
	if err == nil { // else there may be another attempt
		out.URL = next
	}
	return err
}

// dress puts the token on a request's own headers, and returns what it put there.
func (in *injection) dress(header http.Header, p *connection.Published) (worn []string, err error) {
	if !in.keepAuthorization {
		header.Del("Authorization")
	}
	made := in.rendition(p)
	wear := func(name string, value []string) {
		keepOnConnection(header, name)
		header[name] = value
		worn = append(worn, name)
	}
	for _, one := range made.headers {
		if brings(header, one.name) {
			continue
		}
		if one.err != nil {
			return worn, one.err
		}
		wear(one.name, one.value)
	}
	wear(in.header, made.token) // replaces the client's own value
	return worn, nil
}

// undress takes away what dress put there.
func undress(header http.Header, worn []string) {
	for _, name := range worn {
		header.Del(name)
	}
}

// echoes reports whether a text of the API's gives away the token, or a piece of it.
func (in *injection) echoes(made *rendition, text string) bool {
	token := strings.TrimSuffix(strings.TrimPrefix(made.token[0], in.prefix), in.suffix)
	return text != "" && strings.Contains(text, token) || len(text) >= 8 && strings.Contains(token, text)
}

// brings reports whether a request has a header of its own. An empty one is none: Caddy sets User-Agent to nothing for a client
// that sent none.
func brings(header http.Header, name string) bool {
	values := header[name]
	return len(values) > 1 || len(values) == 1 && values[0] != ""
}

// withQuery returns a copy of the URL whose query has the token once, if it travels there, and the parameters that the client did
// not give. The rest of the query stays as the client wrote it.
func (in *injection) withQuery(u *url.URL, made *rendition, p *connection.Published) (*url.URL, error) {
	next := *u
	var kept []string
	given := make(map[string]bool)
	for pair := range strings.SplitSeq(u.RawQuery, "&") {
		name, _, _ := strings.Cut(pair, "=")
		decoded, err := url.QueryUnescape(name)
		if pair == "" || err == nil && in.query != "" && decoded == in.query {
			continue
		}
		given[decoded] = true
		kept = append(kept, pair)
	}
	for _, one := range made.params {
		if given[one.name] {
			continue
		}
		if one.err != nil {
			return nil, one.err
		}
		kept = append(kept, url.QueryEscape(one.name)+"="+url.QueryEscape(one.value[0]))
	}
	if in.query != "" {
		kept = append(kept, url.QueryEscape(in.query)+"="+url.QueryEscape(p.TokenSet().AccessToken.Reveal()))
	}
	next.RawQuery = strings.Join(kept, "&")
	return &next, nil
}
