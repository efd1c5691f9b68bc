package providersim

import (
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// api is the provider's API: it wants the token where the row says, its companions, and nothing of the client's own.
func (s *Sim) api(w http.ResponseWriter, r *http.Request) {
	text := s.carried(r)
	for name, value := range s.Row.APIHeaders {
		got := r.Header.Get(name)
		if strings.HasPrefix(value, "{token.") {
			if s.isTestCall(r) {
				continue // it is what finds the value out
			}
			value = "kept-" + strings.TrimSuffix(strings.TrimPrefix(value, "{token."), "}")
		}
		if got == "" || s.act.companion != nil && !s.act.companion(name, got, value) || strings.HasPrefix(value, "kept-") && got != value {
			s.fault("API header", "%s is %q, mandatory is %q", name, got, value)
			http.Error(w, `{"message":"a header is missing"}`, http.StatusForbidden)
			return
		}
	}
	if !strings.HasPrefix(r.URL.Path, s.act.apiPath) {
		s.fault("API", "there is nothing at %s; every path begins with %s", r.URL.Path, s.act.apiPath)
		http.NotFound(w, r)
		return
	}
	token := s.access[text]
	switch {
	case token == nil:
		s.fault("API", "the token was never handed out")
		s.unauthorized(w)
		return
	case token.dead || token.of.ended != "" || !time.Now().Before(token.expires):
		s.counts.Unauthorized++
		s.unauthorized(w)
		return
	}
	s.prove(token.with)
	s.counts.API++
	if s.isTestCall(r) {
		s.me(w, r)
		return
	}
	_, _ = io.Copy(io.Discard, r.Body)
	w.Header().Set("Content-Type", "text/plain")
	_, _ = io.WriteString(w, s.opts.Name+" answers "+r.Method+" /"+strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, s.act.apiPath), "/"))
}

// carried returns the token of a request, from the header that the row names.
func (s *Sim) carried(r *http.Request) string {
	values := r.Header.Values(s.Row.HeaderName)
	prefix, suffix, _ := strings.Cut(s.Row.HeaderTemplate, "{token}")
	if s.Row.HeaderName != "Authorization" && r.Header.Get("Authorization") != "" {
		s.fault("API", "Authorization came along")
	}
	if len(values) != 1 || !strings.HasPrefix(values[0], prefix) || !strings.HasSuffix(values[0], suffix) {
		s.fault("API", "%s is there %d times, or not as in %q", s.Row.HeaderName, len(values), s.Row.HeaderTemplate)
		return ""
	}
	return strings.TrimSuffix(strings.TrimPrefix(values[0], prefix), suffix)
}

// unauthorized refuses a dead token as the provider does.
func (s *Sim) unauthorized(w http.ResponseWriter) {
	status := http.StatusUnauthorized
	if s.act.silent {
		status = http.StatusOK
	} else {
		w.Header().Set("WWW-Authenticate", `Bearer realm="`+s.opts.Name+`", error="invalid_token"`)
	}
	body := s.act.unauthorized
	if body == "" {
		body = `{"error":"invalid_token"}`
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

// isTestCall reports whether the request is the one that tells whose token it is.
func (s *Sim) isTestCall(r *http.Request) bool {
	want := s.Row.TestCall.URL
	for _, field := range slices.Concat(s.Row.KeepFields, s.Row.CallbackFields) {
		want = strings.ReplaceAll(want, "{token."+field+"}", "kept-"+field)
	}
	return want != "" && "https://"+r.Host+r.URL.Path == want
}

// me tells whose token it is, in a document that the row's paths find their way in.
func (s *Sim) me(w http.ResponseWriter, r *http.Request) {
	call := s.Row.TestCall
	body, _ := io.ReadAll(r.Body)
	if r.Method != call.Method || string(body) != call.Body {
		s.fault("test call", "got %s with %q, documented is %s with %q", r.Method, body, call.Method, call.Body)
	}
	for name, value := range call.Headers {
		if r.Header.Get(name) != value {
			s.fault("test call", "%s is %q, documented is %q", name, r.Header.Get(name), value)
		}
	}
	var document any
	for name, path := range call.Keep { // first: a field that is kept may be the id as well
		document = set(document, path, "kept-"+name)
	}
	for i, path := range call.IDPath {
		document = set(document, path, account+"-"+strconv.Itoa(i))
	}
	for _, path := range call.LabelPath {
		document = set(document, path, "Jane's account")
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(document)
}

// set returns the document with a value at a dotted path, where a number is an index.
func set(document any, path, value string) any {
	if strings.HasPrefix(path, "{") { // a field that is kept already
		return document
	}
	if path == "" {
		return value
	}
	name, rest, _ := strings.Cut(path, ".")
	if index, err := strconv.Atoi(name); err == nil {
		list, _ := document.([]any)
		for len(list) <= index {
			list = append(list, nil)
		}
		list[index] = set(list[index], rest, value)
		return list
	}
	object, ok := document.(map[string]any)
	if !ok {
		object = make(map[string]any)
	}
	if taken, ok := object[name].(string); ok && rest == "" && taken != "" {
		return object // an id that is the label as well
	}
	object[name] = set(object[name], rest, value)
	return object
}
