package caddyoauth

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/caddyoauth/caddyoauth/internal/connection"
	"github.com/caddyoauth/caddyoauth/internal/oauth"
	"github.com/caddyoauth/caddyoauth/internal/provider"
)

// TestCall is a request to the API that tells whose token it is: made after a person has connected, and on demand.
type TestCall struct {
	// Off switches the test call of a preset off.
	Off bool `json:"off,omitempty"`
	// Method of the request. Default: `GET`.
	Method string `json:"method,omitempty"`
	// URL of the request. It may hold `{token.NAME}`, and `{host.token.NAME}` as its host if that is among the allowed hosts.
	URL string `json:"url,omitempty"`
	// Headers of the request, besides the token and those that every request gets.
	Headers map[string]string `json:"headers,omitempty"`
	// Body of the request.
	Body string `json:"body,omitempty"`
	// ID are dotted paths in the answer, where a number is an index, that together identify the account. `{token.NAME}` is a kept field.
	ID []string `json:"id,omitempty"`
	// Label are paths of which the first that is not empty names the account for people.
	Label []string `json:"label,omitempty"`
	// Keep are further fields of the answer, by the name that `{token.NAME}` has for them.
	Keep map[string]string `json:"keep,omitempty"`
	// Scopes are those without which the call is refused whatever the token is.
	Scopes []string `json:"scopes,omitempty"`
}

// TestResult is what a test call found out. It holds no secret.
type TestResult struct {
	OK        bool     `json:"ok"`
	Fault     string   `json:"fault,omitempty"` // token, scope or api
	Detail    string   `json:"detail"`          // a sentence for people
	Status    int      `json:"http_status,omitempty"`
	Code      string   `json:"code,omitempty"`           // the API's, or one of ours
	Missing   []string `json:"missing_scopes,omitempty"` // that the call needs, as far as it is known
	Unfound   []string `json:"not_found,omitempty"`      // what should be in the answer and is not
	AccountID string   `json:"account_id,omitempty"`
	Label     string   `json:"label,omitempty"`
	Also      []Owner  `json:"also_connected_as,omitempty"` // who else holds the account, for operators
	SameToken bool     `json:"same_refresh_token,omitempty"`
}

// ErrNoTestCall means that nobody said how to find out whose token it is.
var ErrNoTestCall = errors.New("the connection has no test call; describe one with test_call")

// testCall is a TestCall, resolved.
type testCall struct {
	method   string
	url      address
	userinfo bool // instead of url: the endpoint that the metadata name (OpenID Connect Core section 5.3)
	headers  []named
	body     string
	id       []string
	label    []string
	keep     map[string]string
	scopes   []string
	roots    *x509.CertPool // nil = the system's
}

// testCall returns the test call as the user or the preset has it; nil when there is none. A preset's without a URL goes to the
// userinfo endpoint, where that is discovered.
func (c *Connection) testCall(preset *provider.Provider) *TestCall {
	if c.TestCall != nil {
		if c.TestCall.Off {
			return nil
		}
		return c.TestCall
	}
	call := preset.TestCall
	if call.URL == "" && len(call.IDPath) == 0 {
		return nil
	}
	return &TestCall{
		Method: call.Method, URL: call.URL, Headers: call.Headers, Body: call.Body,
		ID: call.IDPath, Label: call.LabelPath, Keep: call.Keep, Scopes: call.Scopes,
	}
}

// buildTestCall settles how to find out whose token it is; nil when nobody said.
func (c *Connection) buildTestCall(r *resolver, call *TestCall, in *injection) *testCall {
	if call == nil || in == nil {
		return nil
	}
	out := &testCall{
		method: strings.ToUpper(call.Method), body: call.Body,
		id: call.ID, label: call.Label, keep: call.Keep, scopes: r.texts("test_call scopes", call.Scopes), roots: c.callRoots(r),
	}
	if out.userinfo = call.URL == "" && c.TestCall == nil; !out.userinfo {
		out.url = r.address("test_call", call.URL)
	}
	if out.method == "" {
		out.method = http.MethodGet
	}
	if !methodName.MatchString(out.method) {
		r.fault("test_call", fmt.Errorf("%q is not a method", out.method))
	}
	for name, value := range call.Headers {
		if err := checkDefaultHeader(name, value, in.header); err != nil {
			r.fault("test_call header", err)
		}
	}
	out.headers = in.defaults(r, "test_call header", canonical(call.Headers))
	texts := []wording{out.url.wording}
	for _, path := range slices.Concat(out.id, out.label, slices.Collect(maps.Values(out.keep))) {
		if m, isMark := markOf(path); isMark {
			texts = append(texts, wording{literals: []string{"", ""}, marks: []mark{m}})
		} else if !keptName.MatchString(path) || isSecretName(path) {
			r.fault("test_call", fmt.Errorf("%q is not a path in the answer, or sounds like a secret", path))
		}
	}
	for _, text := range texts {
		if err := in.keeping.check(text); err != nil {
			r.fault("test_call", err)
		}
	}
	return out
}

var methodName = regexp.MustCompile(`^[A-Z]{1,20}$`)

// canonical returns headers by their canonical names.
func canonical(headers map[string]string) map[string]string {
	out := make(map[string]string, len(headers))
	for name, value := range headers {
		out[http.CanonicalHeaderKey(name)] = value
	}
	return out
}

// TestCall asks the API whose token it is, keeps what it learns, and says what is at fault if it learns nothing. An error means that
// it could not be asked at all.
func (a *App) TestCall(ctx context.Context, ref Ref) (TestResult, error) {
	c, key, err := a.resolve(ref)
	if err != nil {
		return TestResult{}, err
	}
	if c.call == nil {
		return TestResult{}, fmt.Errorf("connection %q: %w", c.name, ErrNoTestCall)
	}
	source := a.engine.source(key)
	p, err := source.Token(ctx, c.settings)
	if err != nil {
		return TestResult{}, asOperation(err)
	}
	result := a.test(ctx, c, source, p)
	found := a.settleOwners(ctx, c, source, p.TokenSet().Consent)
	result.Also, result.SameToken = found.owners, found.sameToken
	return result, nil
}

// test makes the call with a token set, and keeps what it finds with that set.
func (a *App) test(ctx context.Context, c *activeConnection, source *connection.Source, p *connection.Published) TestResult {
	result, found := c.probe(ctx, p)
	fields := []zap.Field{zap.String("connection", c.name), zap.String("subject", source.ID().Digest()), zap.Int("status", result.Status)}
	if !result.OK {
		a.logger.Warn("a test call failed", append(fields, zap.String("fault", result.Fault), zap.String("code", result.Code),
			zap.Strings("missing_scopes", result.Missing))...)
		return result
	}
	_, err := source.Apply(ctx, c.settings, connection.Learned(p.Generation(), found))
	if err != nil {
		a.logger.Warn("what a test call found could not be kept", append(fields, zap.Error(err))...)
		return result
	}
	a.engine.changes.Add(1) // nothing is told of it otherwise
	a.logger.Info("a test call was answered", append(fields, zap.Strings("not_found", result.Unfound))...)
	return result
}

// probe makes the call and reads the answer.
func (c *activeConnection) probe(ctx context.Context, p *connection.Published) (TestResult, connection.Consent) {
	set := p.TokenSet()
	server, err := c.counterpart(set.Consent)
	var req *http.Request
	if err == nil {
		req, err = c.call.request(ctx, c, server.client, p)
	}
	if err != nil {
		return TestResult{Fault: string(oauth.BlameAPI), Code: "no_address", Detail: "The API cannot be asked: " + err.Error() + "."}, connection.Consent{}
	}
	answer, err := server.client.Call(req, c.call.roots)
	if err != nil {
		result := TestResult{Fault: string(oauth.BlameAPI), Detail: "The API could not be asked, or gave no whole answer. The connection may work all the same."}
		var failure *oauth.Error
		if errors.As(err, &failure) {
			result.Code, result.Status = failure.Code, failure.Status
		}
		return result, connection.Consent{}
	}
	if answer.Blame == oauth.BlameNothing {
		return c.call.read(answer, c.injection, c.injection.rendition(p))
	}
	return c.call.blame(answer, granted(set.Scope, set.Consent)), connection.Consent{}
}

// request builds the call. Headers that the call itself is to find out are left out.
func (t *testCall) request(ctx context.Context, c *activeConnection, client *oauth.Client, p *connection.Published) (*http.Request, error) {
	made := *c.injection.rendition(p)
	target, err := t.target(ctx, client, made.known)
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(target)
	if err != nil {
		return nil, errors.New("its address is not a URL")
	}
	if allowed := c.allowed(p); t.url.steered() && (allowed == nil || !allowed.allows(u.Hostname(), u.Port())) {
		return nil, fmt.Errorf("its host %s is not among the allowed hosts", u.Hostname())
	}
	req, err := http.NewRequestWithContext(ctx, t.method, target, strings.NewReader(t.body))
	if err != nil {
		return nil, errors.New("its address is not a URL")
	}
	if t.body == "" {
		req.Body = http.NoBody // else net/http sends Content-Length: 0 and a type is expected, which Dropbox refuses
	}
	for _, one := range wordAll(t.headers, made.known) {
		if one.err != nil {
			return nil, one.err
		}
		req.Header[one.name] = one.value
	}
	made.headers = slices.DeleteFunc(slices.Clone(made.headers), func(one worded) bool { return one.err != nil })
	made.params = slices.DeleteFunc(slices.Clone(made.params), func(one worded) bool { return one.err != nil })
	return req, c.injection.put(req, p, &made)
}

// target returns the URL of the call.
func (t *testCall) target(ctx context.Context, client *oauth.Client, known facts) (string, error) {
	if !t.userinfo {
		return t.url.fill(known)
	}
	_, server, err := client.At(ctx)
	if err == nil && (server == nil || server.UserinfoEndpoint == "") {
		err = errors.New("its authorization server names no userinfo endpoint")
	}
	if err != nil {
		return "", err
	}
	return server.UserinfoEndpoint, nil
}

// blame says what is at fault.
func (t *testCall) blame(answer *oauth.Answer, granted []string) TestResult {
	result := TestResult{Fault: string(answer.Blame), Status: answer.Status, Code: answer.Code, Missing: missingScopes(t.scopes, granted)}
	switch {
	case answer.Blame == oauth.BlameScope, answer.Blame == oauth.BlameToken && len(result.Missing) > 0:
		result.Fault = string(oauth.BlameScope)
		result.Detail = "The token is good, but it does not allow this call."
		if len(result.Missing) > 0 {
			result.Detail += " It lacks the scopes " + strings.Join(result.Missing, ", ") + "."
		}
	case answer.Blame == oauth.BlameToken:
		result.Missing = nil
		result.Detail = "The API does not accept the token. Connecting the account again may help; else the token is meant for another API."
	default:
		result.Missing = nil
		result.Detail = "The API did not answer as it should. The connection may work all the same."
	}
	return result
}

// missingScopes returns those of the scopes that were not granted, as far as it is known. Microsoft names them with and without
// the API in front.
func missingScopes(wanted, granted []string) []string {
	if len(granted) == 0 {
		return nil
	}
	short := func(scope string) string { return strings.ToLower(scope[strings.LastIndexByte(scope, '/')+1:]) }
	return slices.DeleteFunc(slices.Clone(wanted), func(scope string) bool {
		return slices.ContainsFunc(granted, func(other string) bool { return short(other) == short(scope) })
	})
}

// maxAccountID bounds what identifies an account.
const maxAccountID = 512

// read takes from an answer what it says about the account.
func (t *testCall) read(answer *oauth.Answer, in *injection, made *rendition) (TestResult, connection.Consent) {
	result := TestResult{OK: true, Status: answer.Status, Detail: "The API has answered."}
	document := parseDocument(answer.Body)
	text := func(path string) string {
		var value string
		if m, isMark := markOf(path); isMark {
			value, _ = made.known.value(m)
		} else {
			value = textAt(document, path)
		}
		if in.echoes(made, value) || looksLikeJWT(value) || len(value) > maxFact {
			return ""
		}
		return value
	}
	var id []string
	for _, path := range t.id {
		value := text(path)
		if value == "" {
			result.Unfound = append(result.Unfound, path)
		}
		id = append(id, url.QueryEscape(value))
	}
	if joined := strings.Join(id, "/"); len(result.Unfound) == 0 && len(joined) <= maxAccountID {
		result.AccountID = joined
	}
	for _, path := range t.label {
		if result.Label = oauth.Label(text(path)); result.Label != "" {
			break
		}
	}
	kept := make(map[string]string)
	for name, path := range t.keep {
		if kept[name] = text(path); kept[name] == "" {
			delete(kept, name)
			result.Unfound = append(result.Unfound, path)
		}
	}
	slices.Sort(result.Unfound)
	return result, connection.Consent{AccountID: result.AccountID, Label: result.Label, Found: kept}
}

// callRoots returns whom to trust as the API: the system's authorities, and those that are configured for the token endpoint.
func (c *Connection) callRoots(r *resolver) *x509.CertPool {
	if c.TLS == nil || len(c.TLS.CA) == 0 {
		return nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	return r.authorities(pool, c.TLS.CA)
}
