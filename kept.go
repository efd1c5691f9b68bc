package caddyoauth

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/caddyoauth/caddyoauth/internal/connection"
	"github.com/caddyoauth/caddyoauth/internal/oauth"
	"github.com/caddyoauth/caddyoauth/internal/provider"
	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// What a connection knows besides its token: fields of the token response and of the way back, what a test call found, and what
// the person gave. Headers, query parameters and upstream addresses may be made of it, so no secret is ever among it.

// mark stands for a fact in a text: {token.NAME} came with the token, {field.NAME} the person gave; with host. in front it is only
// the host of the address that the fact is.
type mark struct {
	host bool
	kind string // "token" or "field"
	name string
}

func (m mark) String() string {
	if m.host {
		return "{host." + m.kind + "." + m.name + "}"
	}
	return "{" + m.kind + "." + m.name + "}"
}

var markText = regexp.MustCompile(`\{(host\.)?(token|field)\.([^{}]*)\}`)

// parseMark reads what stands between the braces.
func parseMark(text string) (mark, bool) {
	found := markText.FindStringSubmatch("{" + text + "}")
	if found == nil || len(found[0]) != len(text)+2 {
		return mark{}, false
	}
	return mark{host: found[1] != "", kind: found[2], name: found[3]}, true
}

// markOf reads a text that is nothing but a mark.
func markOf(text string) (mark, bool) {
	if !strings.HasPrefix(text, "{") || !strings.HasSuffix(text, "}") {
		return mark{}, false
	}
	return parseMark(text[1 : len(text)-1])
}

// wording is a text with marks in it: a literal, a mark, a literal, and so on.
type wording struct {
	literals []string
	marks    []mark
}

// parseWording takes a text apart.
func parseWording(text string) wording {
	var w wording
	end := 0
	for _, at := range markText.FindAllStringIndex(text, -1) {
		w.literals = append(w.literals, text[end:at[0]])
		m, _ := parseMark(text[at[0]+1 : at[1]-1])
		w.marks = append(w.marks, m)
		end = at[1]
	}
	w.literals = append(w.literals, text[end:])
	return w
}

// wording resolves the global placeholders of a text, and leaves the marks for when the facts are known.
func (r *resolver) wording(field, raw string) wording {
	w := parseWording(raw)
	for i, literal := range w.literals {
		w.literals[i] = r.text(field, literal)
	}
	return w
}

// String returns the text with its marks.
func (w wording) String() string {
	text := w.literals[0]
	for i, m := range w.marks {
		text += m.String() + w.literals[i+1]
	}
	return text
}

// marked is text for what may hold marks.
func (r *resolver) marked(field, raw string) string { return r.wording(field, raw).String() }

// markedParams is params for what may hold marks.
func (r *resolver) markedParams(field string, raw map[string]string) map[string]string {
	values := make(map[string]string, len(raw))
	for name, value := range raw {
		values[name] = r.marked(field+" "+name, value)
	}
	return values
}

// fill puts the facts into the text. A fact that is not known is an error: half a header would say something else.
func (w wording) fill(known facts) (string, error) {
	text := w.literals[0]
	for i, m := range w.marks {
		value, ok := known.value(m)
		if !ok {
			return "", &unknownFact{m}
		}
		text += value + w.literals[i+1]
	}
	return text, nil
}

// unknownFact says which fact a request needs and the connection does not have.
type unknownFact struct{ mark mark }

func (e *unknownFact) Error() string {
	return "the connection does not know " + e.mark.String() + "; connect it again, and check that the provider sends it"
}

// facts is what is known of one token set.
type facts struct {
	token  map[string]string // for {token.NAME}
	fields map[string]string // for {field.NAME}
}

// maxFact bounds a fact; what is longer is not one.
const maxFact = 1024

func (f facts) value(m mark) (string, bool) {
	value := f.token[m.name]
	if m.kind == "field" {
		value = f.fields[m.name]
	}
	if m.host {
		value = hostOf(value)
	}
	return value, value != "" && len(value) <= maxFact && httpguts.ValidHeaderFieldValue(value)
}

var hostName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$`)

// hostOf returns the host of an https URL, or of a text that is nothing but a host; "" if there is none.
func hostOf(address string) string {
	if u, err := url.Parse(address); err == nil && u.Scheme != "" && u.Host != "" {
		if u.Scheme != "https" || u.User != nil {
			return ""
		}
		address = u.Hostname()
	}
	if address = strings.ToLower(address); len(address) > 253 || !hostName.MatchString(address) {
		return ""
	}
	return address
}

// keeping says which facts of a connection's token sets may be used, by where they come from. A name means one place, so that what
// the token endpoint did not say cannot be slipped in by whoever writes the query of the way back.
type keeping struct {
	response []string // dotted paths in the token response
	callback []string // parameters of the way back
	found    []string // by the test call
	fields   []string // that the person is asked for
	asked    []field  // the same, with what fits
}

// buildKeeping settles which facts are kept.
func (c *Connection) buildKeeping(r *resolver, preset *provider.Provider, fields []field) *keeping {
	call := c.testCall(preset)
	if call == nil {
		call = new(TestCall)
	}
	k := &keeping{
		response: slices.Concat(preset.KeepFields, c.Keep),
		callback: slices.Concat(preset.CallbackFields, c.KeepCallback),
		found:    slices.Sorted(maps.Keys(call.Keep)),
	}
	for option, names := range map[string][]string{"keep": k.response, "keep_callback": k.callback, "test_call": k.found} {
		for _, name := range names {
			if err := checkKept(name); err != nil {
				r.fault(option, err)
			}
		}
	}
	for _, f := range fields {
		k.fields, k.asked = append(k.fields, f.name), append(k.asked, f)
	}
	return k
}

var keptName = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$`)

// checkKept refuses what is no name, or the name of a secret.
func checkKept(name string) error {
	switch {
	case !keptName.MatchString(name) || len(name) > 100:
		return fmt.Errorf("%q is not a name, or a path of names as in team.id", name)
	case isSecretName(name):
		return fmt.Errorf("%q sounds like a secret, and secrets are never handed out", name)
	}
	return nil
}

// secretWords are in the names of what gives access. Letters alone count: refreshToken and refresh_token are one.
var secretWords = []string{
	"token", "secret", "passw", "passphrase", "credential", "assertion", "jwt", "apikey", "accesskey", "privatekey", "signingkey", "secretkey",
	"session", "cookie", "bearer", "webhook", "signature", "hmac", "verifier",
}

// isSecretName reports whether any part of a path sounds like a secret.
func isSecretName(path string) bool {
	for part := range strings.SplitSeq(strings.ToLower(path), ".") {
		part = strings.NewReplacer("_", "", "-", "").Replace(part)
		if part == "code" || slices.ContainsFunc(secretWords, func(word string) bool { return strings.Contains(part, word) }) {
			return true
		}
	}
	return false
}

// check refuses a text that is made of what nobody keeps.
func (k *keeping) check(w wording) error {
	for _, m := range w.marks {
		switch {
		case m.kind == "field" && !slices.Contains(k.fields, m.name):
			return fmt.Errorf("%s is not asked for", m)
		case m.kind == "token" && !slices.Contains(slices.Concat(k.response, k.callback, k.found), m.name):
			return fmt.Errorf("%s is not kept; name it with keep, if it is in the token response, or with keep_callback", m)
		}
	}
	return nil
}

// facts takes from a token set what may be used of it.
func (k *keeping) facts(set connection.TokenSet) facts {
	known := facts{token: make(map[string]string)}
	isToken := func(value string) bool {
		text := secret.New(value)
		return text.Equal(set.AccessToken) || text.Equal(set.RefreshToken) || looksLikeJWT(value)
	}
	keep := func(names []string, value func(name string) string) {
		for _, name := range names {
			if text := value(name); text != "" && !isToken(text) {
				known.token[name] = text
			}
		}
	}
	consent := set.Consent
	if consent == nil {
		consent = new(connection.Consent)
	}
	document := parseDocument([]byte(set.Response.Reveal()))
	keep(k.callback, func(name string) string { return consent.Callback[name] })
	keep(k.response, func(name string) string { return cmp.Or(textAt(document, name), consent.Found[name]) })
	keep(k.found, func(name string) string { return consent.Found[name] })
	known.fields = make(map[string]string, len(k.fields))
	for _, name := range k.fields {
		known.fields[name] = consent.Fields[name]
	}
	return known
}

// told takes from the first token response of a consent what is kept of it: the answer to a refresh may say less.
func (k *keeping) told(resp *oauth.TokenResponse) map[string]string {
	return k.facts(connection.TokenSet{AccessToken: resp.AccessToken, RefreshToken: resp.RefreshToken, Response: resp.Response}).token
}

// looksLikeJWT reports whether a text is a signed token, by whatever name it came.
func looksLikeJWT(value string) bool {
	return strings.HasPrefix(value, "eyJ") && strings.Count(value, ".") >= 2
}

// parseDocument reads JSON; nil if it is none.
func parseDocument(raw []byte) any {
	var document any
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	if decoder.Decode(&document) != nil {
		return nil
	}
	return document
}

// textAt returns the text, number or truth at a dotted path, where a number is an index; "" for anything else.
func textAt(document any, path string) string {
	for part := range strings.SplitSeq(path, ".") {
		switch holder := document.(type) {
		case map[string]any:
			document = holder[part]
		case []any:
			i, err := strconv.Atoi(part)
			if err != nil || i < 0 || i >= len(holder) {
				return ""
			}
			document = holder[i]
		default:
			return ""
		}
	}
	switch value := document.(type) {
	case string:
		return value
	case json.Number:
		return value.String()
	case bool:
		return strconv.FormatBool(value)
	}
	return ""
}

// fact gives what the connection knows besides its token, where a transport checks the host that is dialled: an address that is made
// of it would else lead the token anywhere.
func (p *plan) fact(name string) (any, bool) {
	m, ok := parseMark(name)
	if !ok || !p.guarded {
		return nil, false
	}
	if p.token == nil {
		return "", true
	}
	value, known := p.conn.injection.rendition(p.token).known.value(m)
	if !known && p.lookAgain() {
		value, known = p.conn.injection.rendition(p.token).known.value(m)
	}
	if !known {
		p.lacks = &m
		return "", true
	}
	return value, true
}

// lookAgain reports whether another instance has learned more about the connection than this one knew.
func (p *plan) lookAgain() bool {
	// Not the request's context, which a placeholder does not have. The storage has time-outs of its own.
	next := p.source.LookAgain(context.Background(), p.conn.settings)
	if next == nil || next == p.token || next.Generation() < p.token.Generation() {
		return false
	}
	p.token = next
	return true
}
