package caddyoauth

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddyoauth/caddyoauth/internal/connection"
)

const (
	healthTimeout = 2 * time.Second // how long keys and storage may take to answer
	healthFor     = time.Second     // how long an answer holds, however many ask
)

// HealthReport says whether requests can be sent here: the keys are open, the storage answers, and no connection that is marked
// as `required` is dead.
type HealthReport struct {
	Ready   bool   `json:"ready"`
	Keys    string `json:"keys"`    // `open`, `unused`, or why not: `wrong_key`, `damaged`, `unreachable`
	Storage string `json:"storage"` // `ok`, `failing` or `silent`
	// Dead has the status of the required connections whose requests get no token.
	Dead map[string]string `json:"dead,omitempty"`
}

// errRequiredSubject: one subject without a token says nothing of the others.
var errRequiredSubject = errors.New("a connection with a subject has a token for each; leave required out")

// healthCheck keeps what was found last. A storage that hangs would else hold up everybody who asks, one by one.
type healthCheck struct {
	looking sync.Mutex   // held by the one who looks
	began   atomic.Int64 // unix nanoseconds
	last    atomic.Pointer[healthFound]
}

type healthFound struct {
	report HealthReport
	at     time.Time
}

// Health returns whether requests can be sent here. It may be called by anybody as often as they like.
func (a *App) Health(ctx context.Context) HealthReport {
	check := a.health
	if last := check.last.Load(); last != nil && time.Since(last.at) < healthFor {
		return last.report
	}
	if !check.looking.TryLock() {
		last := check.last.Load()
		if hangs := time.Since(time.Unix(0, check.began.Load())) > healthTimeout; last == nil || hangs {
			return HealthReport{Keys: "unreachable", Storage: "silent"}
		}
		return last.report
	}
	defer check.looking.Unlock()
	check.began.Store(time.Now().UnixNano())
	// What one caller finds is told to others, so it does not end with that caller.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), healthTimeout)
	defer cancel()
	report := a.look(ctx)
	check.last.Store(&healthFound{report, time.Now()})
	return report
}

// look asks the keys, the storage, and the required connections.
func (a *App) look(ctx context.Context) HealthReport {
	report := HealthReport{Keys: "open", Storage: "ok"}
	all := a.active.all()
	if len(all) == 0 {
		report.Keys = "unused"
	} else if _, err := a.store.keys.ring(ctx, a.store.storage); err != nil {
		report.Keys = keyErrorCode(err)
	}
	if _, err := a.store.storage.Stat(ctx, keysetKey); err != nil && !errors.Is(err, fs.ErrNotExist) {
		report.Storage = "failing"
	}
	for _, active := range all {
		if status := active.dead(ctx); status != "" {
			if report.Dead == nil {
				report.Dead = make(map[string]string)
			}
			report.Dead[active.name] = string(status)
		}
	}
	report.Ready = (report.Keys == "open" || report.Keys == "unused") && report.Storage == "ok" && len(report.Dead) == 0
	return report
}

// dead returns the status of a required connection whose requests get no token; "" for one that is alive, which it is as long as
// it has a token or may get one when it is asked for.
func (c *activeConnection) dead(ctx context.Context) connection.Status {
	if !c.required {
		return ""
	}
	state, err := c.source.Peek(ctx, c.settings)
	if err != nil {
		state.Snapshot = c.source.Snapshot() // what is to be said of the storage is said
	}
	trouble := state.Status == connection.StatusFailing || state.Status == connection.StatusMisconfigured
	if state.Status.NeedsPerson() || trouble && !time.Now().Before(state.ExpiresAt) {
		return state.Status
	}
	return ""
}

// health answers `GET /oauth2_inject/health`: 200 when requests can be sent here, else 503.
func (Admin) health(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD") // RFC 9110 section 15.5.6
		return caddy.APIError{HTTPStatus: http.StatusMethodNotAllowed, Err: errors.New("method not allowed")}
	}
	module, err := caddy.ActiveContext().AppIfConfigured(appName)
	if errors.Is(err, caddy.ErrNotConfigured) {
		return caddy.APIError{HTTPStatus: http.StatusNotFound, Err: errors.New("oauth2_inject is not configured")}
	}
	if err != nil {
		return caddy.APIError{HTTPStatus: http.StatusInternalServerError, Err: err}
	}
	report := module.(*App).Health(r.Context())
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if !report.Ready {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	return json.NewEncoder(w).Encode(report)
}
