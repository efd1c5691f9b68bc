package caddyoauth

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddyoauth/caddyoauth/internal/api"
)

// keys answers `GET /oauth2_inject/keys`.
func (Admin) keys(w http.ResponseWriter, r *http.Request) error {
	return answerKeys(w, r, http.MethodGet, (*App).KeyStatus)
}

// rekey answers `POST /oauth2_inject/rekey`, which begins to replace the data key. Its own path lets Caddy's access control tell
// who may from who may look.
func (Admin) rekey(w http.ResponseWriter, r *http.Request) error {
	return answerKeys(w, r, http.MethodPost, (*App).Rekey)
}

func answerKeys(w http.ResponseWriter, r *http.Request, method string, of func(*App, context.Context) (KeyStatus, error)) error {
	if r.Method != method {
		w.Header().Set("Allow", method) // RFC 9110 section 15.5.6
		return caddy.APIError{HTTPStatus: http.StatusMethodNotAllowed, Err: errors.New("method not allowed")}
	}
	module, err := caddy.ActiveContext().AppIfConfigured(appName)
	if errors.Is(err, caddy.ErrNotConfigured) {
		return caddy.APIError{HTTPStatus: http.StatusNotFound, Err: errors.New("oauth2_inject is not configured")}
	}
	if err != nil {
		return caddy.APIError{HTTPStatus: http.StatusInternalServerError, Err: err}
	}
	app := module.(*App)
	status, err := of(app, r.Context())
	if method == http.MethodPost {
		app.audit(api.AuditEvent{Action: "keys.rekey", Outcome: map[bool]string{true: "done", false: "failed"}[err == nil], Caller: adminCaller(r), Address: r.RemoteAddr})
	}
	if err != nil {
		return caddy.APIError{HTTPStatus: http.StatusServiceUnavailable, Err: err}
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	return json.NewEncoder(w).Encode(status)
}
