package caddyoauth

import (
	"context"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/connection"
)

// refreshLoop decides WHEN tokens are refreshed in the background: it sleeps until the earliest due time of a connection that
// is in use, or until something was published or used. HOW is the business of the sources.
type refreshLoop struct {
	*loop
	scheduled func() []scheduledSource
}

// scheduledSource is a source with the settings to refresh it under.
type scheduledSource struct {
	source   *connection.Source
	settings *connection.Settings
}

// idleCheck is how often the loop looks when nothing is due: a connection that was idle may be in use again.
const idleCheck = time.Minute

func newRefreshLoop(scheduled func() []scheduledSource) *refreshLoop {
	l := &refreshLoop{scheduled: scheduled}
	l.loop = newLoop(l.look)
	return l
}

// look starts what is due and returns how long to sleep.
func (l *refreshLoop) look(context.Context) time.Duration {
	sleep := idleCheck
	for _, s := range l.scheduled() {
		s.source.RefreshIfDue(s.settings)
		if next := s.source.NextRefresh(s.settings); !next.IsZero() {
			sleep = min(sleep, max(time.Until(next), 0))
		}
	}
	return sleep
}

// scheduled returns the app's sources, without those that nobody uses.
func (a *App) scheduled() []scheduledSource {
	a.engine.tidy(time.Now())
	return a.engine.sourcesOf(a)
}
