package providersim

import (
	"net/http"
	"strings"

	"github.com/caddyoauth/caddyoauth/internal/provider"
)

// revoke is the revocation endpoint, in the provider's shape and with its radius.
func (s *Sim) revoke(w http.ResponseWriter, r *http.Request) {
	if s.down {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	shape := s.Row.Revocation
	if r.Method != shape.Method || r.URL.RawQuery != "" {
		s.fault("revocation", "it wants a %s without a query, not a %s", shape.Method, r.Method)
	}
	if !s.Documented() {
		s.fault("revocation", "it ends the %s, which nobody asked for", shape.Kills)
	}
	form := s.body("revocation", r, shape.Body)
	want := make(map[string]string)
	text := ""
	switch shape.Auth {
	case provider.AuthClient:
		s.authenticated(claim{"revocation", s.Row.ClientAuth[0]}, r, form, want)
	case provider.AuthClientBasic:
		s.authenticated(claim{"revocation", "client_secret_basic"}, r, form, want)
	case provider.AuthClientPost:
		s.authenticated(claim{"revocation", "client_secret_post"}, r, form, want)
	case provider.AuthAccessToken:
		text = s.carried(r)
	case provider.AuthNone:
		if r.Header.Get("Authorization") != "" {
			s.fault("revocation", "it wants no authentication")
		}
	}
	for name, value := range shape.Fields {
		if !strings.HasPrefix(value, "{") {
			want[name] = value
			continue
		}
		text, want[name] = form.Get(name), form.Get(name)
		_, isRefresh := s.refresh[text]
		if isRefresh != (value == "{refresh_token}") && text != "" && !s.opts.Endless {
			s.fault("revocation", "%s is not the %s", name, strings.Trim(value, "{}"))
		}
	}
	s.compare("revocation", form, want)
	of := s.ownerOf(text)
	if of == nil {
		s.fault("revocation", "the token was never handed out")
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	s.counts.Revocations++
	for _, other := range s.consents {
		if other == of || shape.Kills != provider.KillsToken && other.account == of.account {
			s.end(other, "revoked")
		}
	}
	object := map[string]any{}
	if s.Row.Errors.OKField != "" {
		object = map[string]any{s.Row.Errors.OKField: true, "revoked": true}
	}
	s.write(w, r, http.StatusOK, object)
}

// ownerOf returns the consent that a token came from.
func (s *Sim) ownerOf(text string) *consent {
	if token := s.refresh[text]; token != nil {
		return token.of
	}
	if token := s.access[text]; token != nil {
		return token.of
	}
	return nil
}
