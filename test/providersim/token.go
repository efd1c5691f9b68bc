package providersim

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/provider"
)

// token is the token endpoint.
func (s *Sim) token(w http.ResponseWriter, r *http.Request, at string) {
	form := s.body("token endpoint", r, s.Row.BodyFormat)
	if r.Method != http.MethodPost || r.URL.RawQuery != "" {
		s.fault("token endpoint", "it wants a POST without a query")
	}
	if agent := r.Header.Get("User-Agent"); agent == "" || strings.HasPrefix(agent, "Go-http-client") {
		s.fault("token endpoint", "the User-Agent %q says nothing", agent)
	}
	want := map[string]string{"grant_type": form.Get("grant_type")}
	if !s.authenticated(claim{"token endpoint", s.Row.ClientAuth[0]}, r, form, want) {
		s.refuse(w, r, s.act.refusedClient())
		return
	}
	var granted *accessToken
	var asked url.Values
	refresh := form.Get("grant_type") == "refresh_token"
	switch {
	case refresh:
		s.refreshing(at, form, want)
		granted = s.renew(form.Get("refresh_token"))
	case form.Get("grant_type") == "authorization_code":
		asked = s.redeeming(at, form, want)
		if asked != nil {
			granted = s.consented(asked)
		}
	default:
		s.fault("grants", "grant_type %q is not one of the table's", form.Get("grant_type"))
	}
	s.compare("token endpoint", form, want)
	switch {
	case granted != nil && refresh && s.lose > 0:
		s.lose--
		s.counts.Lost++
		s.refresh[form.Get("refresh_token")].lost = true
		panic(http.ErrAbortHandler)
	case granted == nil && refresh:
		s.counts.Refusals++
		s.refuse(w, r, s.act.revoked(s))
	case granted == nil:
		s.refuse(w, r, s.act.badCode())
	default:
		if refresh {
			s.counts.Refreshes++
		}
		s.answer(w, r, granted, asked)
	}
}

// refreshing says what a refresh is made of.
func (s *Sim) refreshing(at string, form url.Values, want map[string]string) {
	if s.Row.RefreshEndpoint != "" && at != s.Row.RefreshEndpoint {
		s.fault("refresh endpoint", "a refresh came to %s", at)
	}
	want["refresh_token"] = form.Get("refresh_token")
	for name, value := range s.Row.RefreshParams {
		want[name] = value
	}
	if s.Row.SendScopeOnRefresh {
		want["scope"] = strings.Join(s.Scopes(), s.Row.ScopeSeparator)
	}
}

// redeeming says what the exchange of a code is made of, and returns what the code was asked for with; nil if it is not good.
func (s *Sim) redeeming(at string, form url.Values, want map[string]string) url.Values {
	if at != s.Row.TokenEndpoint {
		s.fault("token endpoint", "a code came to %s", at)
	}
	code := s.codes[form.Get("code")]
	if code == nil || code.used {
		s.fault("code", "it was never handed out, or came twice")
		return nil
	}
	code.used = true
	s.counts.Codes++
	want["code"], want["redirect_uri"] = form.Get("code"), code.asked.Get("redirect_uri")
	for name, value := range s.Row.TokenParams {
		want[name] = value
	}
	if challenge := code.asked.Get("code_challenge"); challenge != "" {
		want["code_verifier"] = form.Get("code_verifier")
		sum := sha256.Sum256([]byte(form.Get("code_verifier")))
		if base64.RawURLEncoding.EncodeToString(sum[:]) != challenge {
			s.fault("PKCE", "the verifier does not belong to the challenge")
			return nil
		}
	}
	return code.asked
}

// consented begins a consent.
func (s *Sim) consented(asked url.Values) *accessToken {
	of := &consent{account: account, scopes: split(asked.Get(s.Row.ScopeParam), s.Row.ScopeSeparator)}
	s.consents = append(s.consents, of)
	return s.issue(of, nil)
}

// account is whose account everybody connects.
const account = "account-1"

func split(scopes, separator string) []string {
	if scopes == "" {
		return nil
	}
	return strings.Split(scopes, separator)
}

// body reads a request's parameters, which must be written as documented.
func (s *Sim) body(where string, r *http.Request, format provider.BodyFormat) url.Values {
	raw, _ := io.ReadAll(r.Body)
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	form := url.Values{}
	switch format {
	case provider.JSON:
		object := make(map[string]string) // a flat object of strings
		if err := json.Unmarshal(raw, &object); err != nil || kind != "application/json" {
			s.fault(where, "the body is %s and not a flat JSON object", kind)
		}
		for name, value := range object {
			form.Set(name, value)
		}
	case provider.Form:
		parsed, err := url.ParseQuery(string(raw))
		if err != nil || kind != "application/x-www-form-urlencoded" {
			s.fault(where, "the body is %q and not a form", kind)
		}
		form = parsed
	default:
		if len(raw) > 0 || kind != "" {
			s.fault(where, "it has a body, of %q", kind)
		}
	}
	return form
}

// claim is by which method the client is to authenticate, and where.
type claim struct{ where, method string }

// authenticated checks the client's authentication, by that method and by no other, and adds to want what it has in the body.
func (s *Sim) authenticated(c claim, r *http.Request, form url.Values, want map[string]string) bool {
	id, secret, basic := r.BasicAuth()
	ok := false
	switch c.method {
	case "client_secret_basic":
		if !s.Row.BasicRaw && !s.Row.SecretAsUser { // RFC 6749 section 2.3.1
			id, _ = url.QueryUnescape(id)
			secret, _ = url.QueryUnescape(secret)
		}
		ok = basic && id == s.opts.ClientID && secret == s.opts.Secret
		if s.Row.SecretAsUser {
			ok = basic && id == s.opts.Secret && secret == ""
		}
	case "client_secret_post":
		want["client_id"], want["client_secret"] = s.opts.ClientID, s.opts.Secret
		ok = r.Header.Get("Authorization") == "" && form.Get("client_id") == s.opts.ClientID && form.Get("client_secret") == s.opts.Secret
	default:
		s.fault(c.where, "the simulator does not know the client authentication %s", c.method)
	}
	if ok && s.stranger {
		return false
	}
	if !ok {
		s.fault(c.where, "the client does not authenticate as documented, by %s", c.method)
	}
	return ok
}

// answer grants. asked is what the code was asked for with; nil for a refresh.
func (s *Sim) answer(w http.ResponseWriter, r *http.Request, granted *accessToken, asked url.Values) {
	holder := map[string]any{"access_token": granted.text, "token_type": "Bearer"}
	if scopes := granted.of.scopes; len(scopes) > 0 {
		holder["scope"] = strings.Join(scopes, s.Row.ScopeSeparator)
	}
	if s.Row.ExpiresIn == provider.ExpiryStated || s.Row.ExpiresIn == provider.ExpirySometimes && !s.opts.Endless {
		holder["expires_in"] = s.expiresIn()
	}
	offline := s.Row.OfflineScope == "" || slices.Contains(granted.of.scopes, s.Row.OfflineScope)
	if granted.with != nil && offline && (asked != nil || s.opts.Rotation != provider.RotationStatic || s.act.echoes) {
		holder["refresh_token"] = granted.with.text
	}
	object := map[string]any{}
	path := strings.Split(s.Row.TokenPath, ".")
	if asked == nil && s.Row.RefreshAnswersAtTheRoot {
		path = path[len(path)-1:]
	}
	if asked != nil {
		for _, field := range s.Row.KeepFields {
			put(object, strings.Split(field, "."), "kept-"+field)
		}
	}
	for name, value := range holder {
		put(object, append(slices.Clone(path[:len(path)-1]), name), value)
	}
	if slices.Contains(granted.of.scopes, "openid") {
		object["id_token"] = s.idToken(asked)
	}
	if s.Row.Errors.OKField != "" {
		object[s.Row.Errors.OKField] = true
	}
	if s.act.grant != nil {
		s.act.grant(s, object, asked == nil)
	}
	s.write(w, r, http.StatusOK, object)
}

func (s *Sim) expiresIn() any {
	seconds := int(s.opts.Lifetime / time.Second)
	if s.opts.ExpiresIn != nil {
		return s.opts.ExpiresIn(seconds)
	}
	return seconds
}

// put sets a value at a path.
func put(object map[string]any, path []string, value any) {
	for ; len(path) > 1; path = path[1:] {
		inner, ok := object[path[0]].(map[string]any)
		if !ok {
			inner = make(map[string]any)
			object[path[0]] = inner
		}
		object = inner
	}
	object[path[0]] = value
}

// idToken is an ID token, whose signature nobody checks: it came over TLS (OpenID Connect Core section 3.1.3.7).
func (s *Sim) idToken(asked url.Values) string {
	claims := map[string]any{
		"iss": s.Row.Issuer, "sub": account, "aud": s.opts.ClientID, "email": "jane@example.com",
		"iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(),
	}
	if nonce := asked.Get("nonce"); nonce != "" {
		claims["nonce"] = nonce
	}
	text, _ := json.Marshal(claims)
	part := base64.RawURLEncoding.EncodeToString
	return part([]byte(`{"alg":"RS256"}`)) + "." + part(text) + "." + part([]byte(s.opts.Secret))
}

// refuse says no in the provider's words.
func (s *Sim) refuse(w http.ResponseWriter, r *http.Request, no refusal) {
	object := map[string]any{"error": no.code, "error_description": "in the provider's own words"}
	if s.Row.Errors.CodeField != "" && no.detail != "" {
		object[s.Row.Errors.CodeField] = no.detail
	}
	if s.Row.Errors.OKField != "" {
		object = map[string]any{s.Row.Errors.OKField: false, "error": no.code}
	}
	status := no.status
	if s.Row.Errors.SuccessStatus {
		status = http.StatusOK
	}
	s.write(w, r, status, object)
}

// write writes an answer: JSON, and form-encoded by those who want to be asked for JSON (GitHub).
func (s *Sim) write(w http.ResponseWriter, r *http.Request, status int, object map[string]any) {
	w.Header().Set("Cache-Control", "no-store")
	if s.act.formUnlessAsked && !strings.Contains(r.Header.Get("Accept"), "application/json") {
		form := url.Values{}
		for name, value := range object {
			form.Set(name, strings.Trim(text(value), `"`))
		}
		w.Header().Set("Content-Type", "application/x-www-form-urlencoded")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, form.Encode())
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text(object))
}

func text(value any) string {
	out, _ := json.Marshal(value)
	return string(out)
}
