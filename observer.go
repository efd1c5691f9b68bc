package caddyoauth

import (
	"errors"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddyoauth/caddyoauth/internal/connection"
)

// signal is how one kind of news is told: to operators as a log line, to programs under a name. Events of Caddy, metrics and
// docs/metrics.md use the same names.
type signal struct {
	name  string
	level zapcore.Level
	text  string
}

// The signals.
var (
	signalConnected     = signal{"connected", zapcore.InfoLevel, "a person has connected an account"}
	signalRefreshed     = signal{"refreshed", zapcore.InfoLevel, "got a new token"}
	signalUnchanged     = signal{"unchanged", zapcore.InfoLevel, "the token endpoint gave the same token again; asking less often"}
	signalAdopted       = signal{"adopted", zapcore.InfoLevel, "took a stored token"}
	signalRecovered     = signal{"recovered", zapcore.InfoLevel, "refreshing works again"}
	signalRolledBack    = signal{"rolled_back", zapcore.WarnLevel, "an earlier token was brought back"}
	signalDisconnected  = signal{"disconnected", zapcore.InfoLevel, "the connection was ended"}
	signalFailed        = signal{"refresh_failed", zapcore.ErrorLevel, "could not get a new token"}
	signalMisconfigured = signal{"misconfigured", zapcore.ErrorLevel, "the provider refuses the client; nothing works before its configuration is corrected"}
	signalRevoked       = signal{"revoked", zapcore.ErrorLevel, "the consent is gone; a person has to connect the account again"}
	signalLostRotation  = signal{"lost_rotation", zapcore.ErrorLevel, "a new refresh token was lost on its way; a person has to connect the account again"}
	signalUnauthorized  = signal{"authorization_required", zapcore.WarnLevel, "nobody has connected an account yet"}
	signalExpiring      = signal{"expiring", zapcore.WarnLevel, "an account's access ends soon and cannot be prolonged; a person has to connect it again"}
	signalRepeated      = signal{"repeated", zapcore.WarnLevel, "an earlier refresh ended without a known outcome; asking once more"}
	signalTakenOver     = signal{"lock_taken_over", zapcore.WarnLevel, "the storage lock could not be had and its holder shows no sign of life; going on without it"}
	signalLockLost      = signal{"lock_lost", zapcore.WarnLevel, "the storage lock did not keep another instance out"}
	signalUnsaved       = signal{"unsaved", zapcore.ErrorLevel, "the new token cannot be stored; serving it from memory, a crash now would lose it"}
	signalSaved         = signal{"saved", zapcore.InfoLevel, "the new token is stored at last"}
	signalSaveDropped   = signal{"save_dropped", zapcore.ErrorLevel, "gave up storing a token"}
	signalHistory       = signal{"history_error", zapcore.WarnLevel, "the previous token could not be put into the history"}

	signalCertificate = signal{"certificate_expiring", zapcore.WarnLevel, "the client certificate ends soon; renew its files, they are read anew for each exchange"}
	signalKeyRotated  = signal{"key_rotated", zapcore.InfoLevel, "another key seals the tokens now"}
)

// kindSignals are the signals of those kinds of events that are always told the same way.
var kindSignals = map[connection.Kind]signal{
	connection.KindRefreshed: signalRefreshed, connection.KindUnchanged: signalUnchanged, connection.KindAdopted: signalAdopted,
	connection.KindRecovered: signalRecovered, connection.KindRepeated: signalRepeated, connection.KindTakenOver: signalTakenOver,
	connection.KindLockLost: signalLockLost, connection.KindUnsaved: signalUnsaved, connection.KindSaved: signalSaved,
	connection.KindSaveDropped: signalSaveDropped, connection.KindHistory: signalHistory, connection.KindExpiring: signalExpiring,
}

// statusSignals are the signals of a status that was not there before.
var statusSignals = map[connection.Status]signal{
	connection.StatusMisconfigured: signalMisconfigured, connection.StatusRevoked: signalRevoked,
	connection.StatusLostRotation: signalLostRotation, connection.StatusAuthorizationRequired: signalUnauthorized,
}

// signalsOf returns what an event means, the most telling signal last. A failed attempt may be two things: a failure, and the
// beginning of a status. Being asked again for what only a person can give is none.
func signalsOf(e connection.Event) []signal {
	if one, ok := kindSignals[e.Kind]; ok {
		return []signal{one}
	}
	if e.Kind == connection.KindChanged {
		switch {
		case e.Status == connection.StatusDisconnected:
			return []signal{signalDisconnected}
		case e.Reason == connection.ReasonRolledBack:
			return []signal{signalRolledBack}
		}
		return []signal{signalConnected}
	}
	var signals []signal
	if e.Asked || !e.Status.NeedsPerson() {
		signals = append(signals, signalFailed)
	}
	if begun, ok := statusSignals[e.Status]; ok && e.Status != e.Was {
		signals = append(signals, begun)
	}
	return signals
}

// observe tells of what happened to a token set, in all ways that there are. Events cannot carry a secret; subjects are shown
// as a digest. It is called while a flight is under way, so nothing here may wait.
func (a *App) observe(e connection.Event) {
	a.wake()
	signals := signalsOf(e)
	said := signal{level: zapcore.DebugLevel, text: "there is still no token, since a person is needed"}
	if len(signals) > 0 {
		said = signals[len(signals)-1]
	}
	if entry := a.logger.Check(said.level, said.text); entry != nil {
		entry.Write(logFields(e)...)
	}
	a.metrics.observe(e, signals)
	a.engine.feel(e)
	a.engine.changes.Add(1)
	a.engine.alarmOf(e)
	for _, one := range signals {
		a.announce(one, e.ID.Connection, eventData(e))
	}
}

// logFields are what a log line says of an event.
func logFields(e connection.Event) []zap.Field {
	fields := []zap.Field{zap.String("connection", e.ID.Connection)}
	if e.ID.Subject != "" {
		fields = append(fields, zap.String("subject", e.ID.Digest()))
	}
	if e.Generation > 0 {
		fields = append(fields, zap.Uint64("generation", e.Generation))
	}
	if !e.ExpiresAt.IsZero() {
		fields = append(fields, zap.Duration("expires_in", time.Until(e.ExpiresAt).Round(100*time.Millisecond)))
	}
	if e.Reason != "" {
		fields = append(fields, zap.String("reason", string(e.Reason)))
	}
	if e.Err != nil {
		fields = append(fields, zap.Error(e.Err))
		if hint := unreadableHint(e.Err); hint != "" {
			fields = append(fields, zap.String("hint", hint))
		}
	}
	if !e.RetryAt.IsZero() {
		fields = append(fields, zap.Duration("retry_in", time.Until(e.RetryAt).Round(100*time.Millisecond)))
	}
	return append(fields, zap.Duration("took", e.Took.Round(time.Millisecond)))
}

// eventData is what a program is told of an event. What is not known is left out.
func eventData(e connection.Event) map[string]any {
	data := map[string]any{"connection": e.ID.Connection, "status": string(e.Status)}
	text := func(name, value string) {
		if value != "" {
			data[name] = value
		}
	}
	moment := func(name string, at time.Time) {
		if !at.IsZero() {
			data[name] = at.UTC().Format(time.RFC3339)
		}
	}
	text("tenant", e.ID.Tenant)
	if e.ID.Subject != "" {
		data["subject"] = e.ID.Digest()
	}
	text("previous_status", string(e.Was))
	text("reason", string(e.Reason))
	if e.Generation > 0 {
		data["generation"] = e.Generation
	}
	moment("expires_at", e.ExpiresAt)
	moment("retry_at", e.RetryAt)
	if e.Err != nil {
		text("code", codeOf(e.Err))
		data["error"] = e.Err.Error()
	}
	data["took_seconds"] = e.Took.Seconds()
	return data
}

// codeOf returns the code of a failure; "" when it has none.
func codeOf(err error) string {
	var unavailable *connection.Unavailable
	if errors.As(err, &unavailable) {
		return unavailable.Code
	}
	return ""
}
