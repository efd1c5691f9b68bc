package caddyoauth

import (
	"context"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/connection"
)

// refreshLoop decides WHEN tokens are refreshed in the background: it sleeps until the earliest due time of a connection that
// is in use, or until something was published. HOW is the business of the sources.
type refreshLoop struct {
	*worker
	scheduled func() []scheduledSource
	changed   chan struct{} // one slot: something was published or used, look again
}

// scheduledSource is a source with the settings to refresh it under.
type scheduledSource struct {
	source   *connection.Source
	settings *connection.Settings
}

// idleCheck is how often the loop looks when nothing is due: a connection that was idle may be in use again.
const idleCheck = time.Minute

func newRefreshLoop(scheduled func() []scheduledSource) *refreshLoop {
	return &refreshLoop{worker: newWorker(), scheduled: scheduled, changed: make(chan struct{}, 1)}
}

// start runs first and then the loop.
func (l *refreshLoop) start(first func(context.Context)) {
	l.worker.start(func(ctx context.Context) {
		first(ctx)
		l.run(ctx)
	})
}

// wake makes the loop look again.
func (l *refreshLoop) wake() {
	select {
	case l.changed <- struct{}{}:
	default:
	}
}

func (l *refreshLoop) run(ctx context.Context) {
	for {
		timer := time.NewTimer(l.round())
		select {
		case <-timer.C:
		case <-l.changed:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		timer.Stop()
	}
}

// round starts what is due and returns how long to sleep.
func (l *refreshLoop) round() time.Duration {
	sleep := idleCheck
	for _, s := range l.scheduled() {
		s.source.RefreshIfDue(s.settings)
		if next := s.source.NextRefresh(s.settings); !next.IsZero() {
			sleep = min(sleep, max(time.Until(next), 0))
		}
	}
	return sleep
}

// scheduled returns the app's sources.
func (a *App) scheduled() []scheduledSource { return a.engine.sourcesOf(a) }
