package caddyoauth

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/http/httpguts"

	"github.com/caddyoauth/caddyoauth/internal/api"
)

// ruleSet says which requests a token may travel with. An empty one allows all.
type ruleSet []rule

// rule allows some methods on some paths.
type rule struct {
	methods []string // nil = any
	paths   []pathPattern
}

// pathPattern is a path in segments. In a segment, `*` stands for any characters; as the whole last segment it stands for
// everything below.
type pathPattern []string

// errNotAllowed means that a connection's rules do not let the request through.
var errNotAllowed = errors.New("the connection does not allow this request")

// newRule parses one rule. What it does not understand it refuses: a rule that was misread would be a hole.
func newRule(methods, paths []string) (rule, error) {
	if len(methods) == 0 || len(paths) == 0 {
		return rule{}, errors.New("give a method and a path, such as GET /v1/*")
	}
	var out rule
	for _, method := range methods {
		switch {
		case method == "*" && len(methods) == 1:
		case !httpguts.ValidHeaderFieldName(method) || method == "*": // the same grammar, RFC 9110 section 9.1
			return rule{}, fmt.Errorf("%q is not a method; use names such as GET, or * alone for any", method)
		case method != strings.ToUpper(method):
			return rule{}, fmt.Errorf("methods are case-sensitive (RFC 9110 section 9.1); did you mean %s?", strings.ToUpper(method))
		default:
			out.methods = append(out.methods, method)
		}
	}
	for _, path := range paths {
		pattern, err := newPathPattern(path)
		if err != nil {
			return rule{}, err
		}
		out.paths = append(out.paths, pattern)
	}
	return out, nil
}

func newPathPattern(path string) (pathPattern, error) {
	rest, absolute := strings.CutPrefix(path, "/")
	switch {
	case !absolute:
		return nil, fmt.Errorf("%q is not a path; it starts with a slash", path)
	case strings.Contains(path, "%"):
		return nil, fmt.Errorf("%q is percent-encoded; write the path as it reads decoded", path)
	}
	pattern := pathPattern(strings.Split(rest, "/"))
	if err := checkPath(path); err != nil {
		return nil, fmt.Errorf("%q can never match: %w", path, err)
	}
	if err := checkSegments(pattern); err != nil {
		return nil, fmt.Errorf("%q can never match: %w", path, err)
	}
	return pattern, nil
}

// permits reports why a request must not get a token. Whichever way the upstream reads the path, it must be allowed.
func (s ruleSet) permits(req *http.Request) error {
	if len(s) == 0 {
		return nil
	}
	if name := disguise(req); name != "" {
		return fmt.Errorf("%w: %s asks the upstream to take it for another one", errNotAllowed, name)
	}
	readings, err := readPath(req.URL)
	if err != nil {
		return fmt.Errorf("%w: %w", errNotAllowed, err)
	}
	for _, segments := range readings {
		if !s.allows(req.Method, segments) {
			return fmt.Errorf("%w: no rule is for %s on this path", errNotAllowed, req.Method)
		}
	}
	return nil
}

// tellRefused puts a request that the rules refused into the audit log: method and path as the upstream would have got them, no query.
func tellRefused(req *http.Request, p *plan, why error) {
	path := req.URL.EscapedPath()
	p.conn.audit(api.AuditEvent{
		Action: "request", Outcome: "denied", Status: problemRequest.Status, Tenant: p.conn.key.id.Tenant, Name: p.conn.name,
		Subject: p.source.ID().Subject, Address: clientAddress(req), Detail: req.Method + " " + path[:min(len(path), 256)] + ": " + why.Error(),
	})
}

func (s ruleSet) allows(method string, segments []string) bool {
	return slices.ContainsFunc(s, func(r rule) bool {
		return (r.methods == nil || slices.Contains(r.methods, method)) &&
			slices.ContainsFunc(r.paths, func(p pathPattern) bool { return p.matches(segments) })
	})
}

func (p pathPattern) matches(segments []string) bool {
	for i, want := range p {
		switch {
		case i >= len(segments):
			return false
		case want == "*" && i == len(p)-1:
			return true
		case !matchSegment(want, segments[i]):
			return false
		}
	}
	return len(p) == len(segments)
}

// matchSegment compares one segment with a pattern in which each * stands for any characters. They are compared to the letter:
// an upstream that does not tell upper from lower case is asked with the case of the rule, or not at all.
func matchSegment(pattern, segment string) bool {
	parts := strings.Split(pattern, "*")
	rest, found := strings.CutPrefix(segment, parts[0])
	if len(parts) == 1 {
		return found && rest == ""
	}
	last := len(parts) - 1
	for _, part := range parts[1:last] {
		_, after, has := strings.Cut(rest, part)
		rest, found = after, found && has
	}
	return found && strings.HasSuffix(rest, parts[last])
}

// readPath returns the segments of a path in every way in which an upstream may take it apart: an encoded slash is one character
// of a segment or a separator, and what follows a semicolon is part of the segment or a parameter (RFC 3986 section 3.3).
func readPath(u *url.URL) ([][]string, error) {
	escaped := u.EscapedPath() // what goes over the wire
	if u.Opaque != "" || !strings.HasPrefix(escaped, "/") {
		return nil, errors.New("the request has no path")
	}
	path, err := url.PathUnescape(escaped)
	if err != nil {
		return nil, errors.New("the path is not properly encoded")
	}
	if err := checkPath(path); err != nil {
		return nil, err
	}
	whole := strings.Split(path[1:], "/")
	apart := strings.Split(escaped[1:], "/")
	for i := range apart {
		apart[i], _ = url.PathUnescape(apart[i]) // was checked with the whole
	}
	readings := [][]string{whole, apart, withoutParams(whole), withoutParams(apart)}
	for _, segments := range readings {
		if err := checkSegments(segments); err != nil {
			return nil, err
		}
	}
	return readings, nil
}

// withoutParams cuts the parameters off all segments. Some servers do so before they look for `..`.
func withoutParams(segments []string) []string {
	out := make([]string, len(segments))
	for i, segment := range segments {
		out[i], _, _ = strings.Cut(segment, ";")
	}
	return out
}

// checkPath refuses what upstreams are known to read in different ways. path is decoded once.
func checkPath(path string) error {
	switch {
	case !utf8.ValidString(path):
		return errors.New("the path is not UTF-8") // over-long forms of dots and slashes among them
	case strings.ContainsFunc(path, unicode.IsControl):
		return errors.New("the path holds a control character")
	case strings.ContainsAny(path, `\?#`):
		return errors.New(`the path holds \, ? or #, which some servers take for the end of a segment`)
	}
	for rest := path; ; {
		_, after, found := strings.Cut(rest, "%")
		if !found {
			return nil
		}
		if len(after) >= 2 && isHex(after[0]) && isHex(after[1]) {
			return errors.New("the path is encoded twice")
		}
		rest = after
	}
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'f'
}

// checkSegments refuses segments that a server may walk the tree with.
func checkSegments(segments []string) error {
	for i, segment := range segments {
		if segment == "" && i < len(segments)-1 {
			return errors.New("the path holds two slashes in a row")
		}
		if segment != "" && strings.Trim(segment, ". ") == "" { // with spaces and more dots, Windows takes them for . and ..
			return errors.New("the path holds a segment of dots")
		}
	}
	return nil
}

// overrideHeaders and overrideParams have servers take a request for one with another method or path.
var (
	overrideHeaders = []string{"X-Http-Method-Override", "X-Http-Method", "X-Method-Override", "X-Original-Url", "X-Rewrite-Url"}
	overrideParams  = []string{"_method", "$httpmethod", "x-http-method-override"}
)

// disguise names what asks the upstream to take the request for another one; "" if nothing does.
func disguise(req *http.Request) string {
	for name := range req.Header {
		canonical := http.CanonicalHeaderKey(strings.ReplaceAll(name, "_", "-")) // CGI takes the two for one
		if slices.Contains(overrideHeaders, canonical) {
			return "the header " + canonical
		}
	}
	for pair := range strings.FieldsFuncSeq(req.URL.RawQuery, func(r rune) bool { return r == '&' || r == ';' }) {
		raw, _, _ := strings.Cut(pair, "=")
		name, err := url.QueryUnescape(raw)
		if err != nil {
			name = raw
		}
		if name = strings.ToLower(name); slices.Contains(overrideParams, name) {
			return "the query parameter " + name
		}
	}
	return ""
}
