package caddyoauth

import (
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddyoauth/caddyoauth/internal/connection"
)

// observe turns what happens to a token set into a log line. Events cannot carry a secret; subjects are shown as a digest.
func (a *App) observe(e connection.Event) {
	a.wake()
	level, message := describe(e)
	entry := a.logger.Check(level, message)
	if entry == nil {
		return
	}
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
	entry.Write(append(fields, zap.Duration("took", e.Took.Round(time.Millisecond)))...)
}

// describe gives each kind of event its level and sentence.
func describe(e connection.Event) (zapcore.Level, string) {
	switch e.Kind {
	case connection.KindRefreshed:
		return zapcore.InfoLevel, "got a new token"
	case connection.KindUnchanged:
		return zapcore.InfoLevel, "the token endpoint gave the same token again; asking less often"
	case connection.KindAdopted:
		return zapcore.InfoLevel, "took a stored token"
	case connection.KindRecovered:
		return zapcore.InfoLevel, "refreshing works again"
	case connection.KindRepeated:
		return zapcore.WarnLevel, "an earlier refresh ended without a known outcome; asking once more"
	case connection.KindTakenOver:
		return zapcore.WarnLevel, "the storage lock could not be had and its holder shows no sign of life; going on without it"
	case connection.KindLockLost:
		return zapcore.WarnLevel, "the storage lock did not keep another instance out"
	case connection.KindUnsaved:
		return zapcore.ErrorLevel, "the new token cannot be stored; serving it from memory, a crash now would lose it"
	case connection.KindSaved:
		return zapcore.InfoLevel, "the new token is stored at last"
	case connection.KindSaveDropped:
		return zapcore.ErrorLevel, "gave up storing a token"
	case connection.KindHistory:
		return zapcore.WarnLevel, "the previous token could not be put into the history"
	default:
		return zapcore.ErrorLevel, "could not get a new token"
	}
}
