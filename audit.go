package caddyoauth

import (
	"context"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddyoauth/caddyoauth/internal/api"
	"github.com/caddyoauth/caddyoauth/internal/connection"
)

// audit writes an event to the logger oauth2_inject.audit, and puts it on the list of the last ones. It says who did what, and nothing of
// what a request held. A subject is logged as a digest, as everywhere. It does not wait.
func (a *App) audit(e api.AuditEvent) {
	if e.Time.IsZero() {
		e.Time = time.Now().UTC()
	}
	a.logAudit(e)
	if a.trail.add(e) {
		a.engine.wakeRecorders()
	}
	a.engine.changes.Add(1)
	if caddy.Exiting() {
		a.lastWord()
	}
}

func (a *App) logAudit(e api.AuditEvent) {
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

// AuditTrail returns the last changes and denied attempts that the instances on this storage have seen.
func (a *App) AuditTrail(ctx context.Context) api.AuditTrail {
	lists, err := a.trail.others(ctx, a)
	events := mergeTrails(append(lists, a.trail.list()))
	return api.AuditTrail{Events: events, Incomplete: err != nil}
}
