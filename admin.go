package caddyoauth

import (
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddyoauth/caddyoauth/internal/connection"
)

func init() {
	caddy.RegisterModule(Admin{})
}

// Admin serves the state of the connections and of the keys on Caddy's admin endpoint: `GET /oauth2_inject/connections`,
// `GET /oauth2_inject/keys`, `POST /oauth2_inject/rekey`. It shows no tokens and no keys.
//
// It keeps nothing between requests: after a failed reload the admin endpoint belongs to the configuration that failed, while
// traffic is served by the one before, so the running configuration is looked up anew each time.
type Admin struct{}

// CaddyModule returns the Caddy module information.
func (Admin) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "admin.api.oauth2_inject", New: func() caddy.Module { return new(Admin) }}
}

// Provision makes the metrics known to the endpoint's own configuration.
func (Admin) Provision(ctx caddy.Context) error { return registerMetrics(ctx) }

// Routes implements caddy.AdminRouter.
func (a Admin) Routes() []caddy.AdminRoute {
	return append(adminRoutes(),
		caddy.AdminRoute{Pattern: "/oauth2_inject/connections", Handler: caddy.AdminHandlerFunc(a.list)},
		caddy.AdminRoute{Pattern: "/oauth2_inject/health", Handler: caddy.AdminHandlerFunc(a.health)},
		caddy.AdminRoute{Pattern: "/oauth2_inject/keys", Handler: caddy.AdminHandlerFunc(a.keys)},
		caddy.AdminRoute{Pattern: "/oauth2_inject/rekey", Handler: caddy.AdminHandlerFunc(a.rekey)},
	)
}

// StatusReport is the answer of `GET /oauth2_inject/connections`.
type StatusReport struct {
	Connections []ConnectionStatus `json:"connections"`
	Warnings    []string           `json:"warnings,omitempty"`
}

// ConnectionStatus is what may be shown of one connection.
type ConnectionStatus struct {
	Connection  string     `json:"connection"`
	Status      string     `json:"status"`
	Generation  uint64     `json:"generation,omitempty"`
	IssuedAt    *time.Time `json:"issued_at,omitempty"`
	ExpiresAt   *time.Time `json:"expires_at,omitempty"`
	RefreshAt   *time.Time `json:"refresh_at,omitempty"`
	LastUsed    *time.Time `json:"last_used,omitempty"`
	NextAttempt *time.Time `json:"next_attempt,omitempty"`
	Error       string     `json:"error,omitempty"`
	Failures    int        `json:"failures,omitempty"` // attempts in a row
	Unsaved     bool       `json:"unsaved,omitempty"`  // the token is in memory only, because storage fails

	// Subjects counts, for a connection with a token for each subject, those that are in memory, by their status.
	Subjects map[string]int `json:"subjects,omitempty"`
	Counters Counters       `json:"counters"`
}

// Counters count since the process started.
type Counters struct {
	TokenRequests int64 `json:"token_requests"`
	Refreshes     int64 `json:"refreshes"`
	Adoptions     int64 `json:"adoptions"`
	Unchanged     int64 `json:"unchanged"`
	Failures      int64 `json:"failures"`
	TakeOvers     int64 `json:"lock_take_overs"`
	LocksLost     int64 `json:"locks_lost"`
	StorageErrors int64 `json:"storage_errors"`
}

func (Admin) list(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodGet {
		w.Header().Set("Allow", http.MethodGet) // RFC 9110 section 15.5.6
		return caddy.APIError{HTTPStatus: http.StatusMethodNotAllowed, Err: errors.New("method not allowed")}
	}
	report := StatusReport{Connections: []ConnectionStatus{}}
	module, err := caddy.ActiveContext().AppIfConfigured(appName)
	if err == nil {
		report = module.(*App).Status()
	} else if !errors.Is(err, caddy.ErrNotConfigured) {
		return caddy.APIError{HTTPStatus: http.StatusInternalServerError, Err: err}
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	return json.NewEncoder(w).Encode(report)
}

// Status returns the state of all connections, sorted by name. It holds no secret.
func (a *App) Status() StatusReport {
	report := StatusReport{Connections: []ConnectionStatus{}, Warnings: a.active.warned()}
	for _, active := range a.active.all() {
		report.Connections = append(report.Connections, active.status())
	}
	return report
}

func (c *activeConnection) status() ConnectionStatus {
	if c.source == nil {
		return c.statusOfSubjects()
	}
	snap, stats := c.source.Snapshot(), c.source.Stats()
	status := ConnectionStatus{
		Connection: c.name, Status: string(snap.Status), Generation: snap.Generation, Unsaved: snap.Unsaved,
		IssuedAt: known(snap.IssuedAt), ExpiresAt: known(snap.ExpiresAt), RefreshAt: known(snap.RefreshAt),
		LastUsed: known(snap.LastUsed), NextAttempt: known(snap.NextAttempt),
	}
	status.Counters.add(stats)
	if snap.Failure != nil {
		status.Error, status.Failures = snap.Failure.Code, snap.Failure.Attempts
	}
	return status
}

// statusOfSubjects sums up the subjects of a connection. It names none.
func (c *activeConnection) statusOfSubjects() ConnectionStatus {
	status := ConnectionStatus{Connection: c.name, Status: "per_subject", Subjects: make(map[string]int)}
	for _, source := range c.engine.subjectsOf(c.key) {
		status.Subjects[string(source.Snapshot().Status)]++
		status.Counters.add(source.Stats())
	}
	return status
}

func (c *Counters) add(stats *connection.Stats) {
	c.TokenRequests += stats.Requests.Load()
	c.Refreshes += stats.Refreshes.Load()
	c.Adoptions += stats.Adoptions.Load()
	c.Unchanged += stats.Unchanged.Load()
	c.Failures += stats.Failures.Load()
	c.TakeOvers += stats.TakeOvers.Load()
	c.LocksLost += stats.LocksLost.Load()
	c.StorageErrors += stats.StorageErrors.Load()
}

// known returns nil for "never", so that it is left out.
func known(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// Interface guards.
var (
	_ caddy.AdminRouter = (*Admin)(nil)
	_ caddy.Provisioner = (*Admin)(nil)
)
