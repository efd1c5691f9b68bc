package caddyoauth

import (
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddyoauth/caddyoauth/internal/api"
	"github.com/caddyoauth/caddyoauth/internal/connection"
)

// auditLength is how many events are kept in memory, for a dashboard. The log has all of them.
const auditLength = 500

// auditTrail holds the last events of this process, over reloads.
type auditTrail struct {
	mu     sync.Mutex // guards the field below
	events []api.AuditEvent
}

func (t *auditTrail) add(e api.AuditEvent) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if last := len(t.events) - 1; last >= 0 {
		same := t.events[last]
		if same.Time, same.RequestID = e.Time, e.RequestID; same == e && e.Outcome == "denied" {
			t.events[last] = e // who tries the same again and again must not push everything else out
			return
		}
	}
	if len(t.events) >= auditLength {
		t.events = slices.Delete(t.events, 0, len(t.events)-auditLength+1)
	}
	t.events = append(t.events, e)
}

// newest returns the events, the newest first.
func (t *auditTrail) newest() []api.AuditEvent {
	t.mu.Lock()
	defer t.mu.Unlock()
	events := slices.Clone(t.events)
	slices.Reverse(events)
	return events
}

// audit keeps an event, and writes it to the logger oauth2_inject.audit. It says who did what, and nothing of what a request held.
// A subject is logged as a digest, as everywhere.
func (a *App) audit(e api.AuditEvent) {
	if e.Time.IsZero() {
		e.Time = time.Now().UTC()
	}
	a.engine.trail.add(e)
	level := zapcore.InfoLevel
	if e.Outcome != "done" {
		level = zapcore.WarnLevel
	}
	entry := a.logger.Named("audit").Check(level, e.Outcome)
	if entry == nil {
		return
	}
	fields := []zap.Field{zap.String("action", e.Action)}
	for _, one := range []struct{ name, value string }{
		{"caller", e.Caller}, {"address", e.Address}, {"tenant", e.Tenant}, {"target", e.Target}, {"name", e.Name}, {"detail", e.Detail},
		{"request_id", e.RequestID},
	} {
		if one.value != "" {
			fields = append(fields, zap.String(one.name, one.value))
		}
	}
	if e.Status != 0 {
		fields = append(fields, zap.Int("status", e.Status))
	}
	if e.Subject != "" {
		fields = append(fields, zap.String("subject", connection.ID{Tenant: e.Tenant, Connection: e.Name, Subject: e.Subject}.Digest()))
	}
	entry.Write(fields...)
}

// audit keeps what a visitor of the pages did to a connection of theirs.
func (v *visit) audit(action string, c *activeConnection, subject string) {
	v.app.audit(api.AuditEvent{
		Action: action, Outcome: "done", Caller: v.who.identity, Address: clientAddress(v.r), Tenant: c.key.id.Tenant, Name: c.name, Subject: subject,
	})
}

// AuditTrail returns the last changes and denied attempts that this process has seen, the newest first.
func (a *App) AuditTrail() []api.AuditEvent { return a.engine.trail.newest() }
