package caddyoauth

import (
	"context"
	"sync"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/connection"
)

// refreshLoop decides WHEN tokens are refreshed in the background: it sleeps until the earliest due time of a connection that
// is in use, or until something was published. HOW is the business of the sources.
type refreshLoop struct {
	scheduled func() []scheduledSource
	changed   chan struct{} // one slot: something was published or used, look again
	ctx       context.Context
	cancel    context.CancelFunc
	done      chan struct{}
	started   sync.Once
	stopped   sync.Once
}

// scheduledSource is a source with the settings to refresh it under.
type scheduledSource struct {
	source   *connection.Source
	settings *connection.Settings
}

// idleCheck is how often the loop looks when nothing is due: a connection that was idle may be in use again.
const idleCheck = time.Minute

func newRefreshLoop(scheduled func() []scheduledSource) *refreshLoop {
	ctx, cancel := context.WithCancel(context.Background())
	return &refreshLoop{scheduled: scheduled, changed: make(chan struct{}, 1), ctx: ctx, cancel: cancel, done: make(chan struct{})}
}

// start runs first and then the loop, in the one goroutine that this file starts.
func (l *refreshLoop) start(first func(context.Context)) {
	l.started.Do(func() {
		go func() {
			defer close(l.done)
			first(l.ctx)
			l.run()
		}()
	})
}

// stop ends the loop and waits for it. It may be called often, and without start.
func (l *refreshLoop) stop() {
	l.stopped.Do(func() {
		l.cancel()
		l.started.Do(func() { close(l.done) }) // never started: nothing to wait for
	})
	<-l.done
}

// wake makes the loop look again.
func (l *refreshLoop) wake() {
	select {
	case l.changed <- struct{}{}:
	default:
	}
}

func (l *refreshLoop) run() {
	for {
		timer := time.NewTimer(l.round())
		select {
		case <-timer.C:
		case <-l.changed:
		case <-l.ctx.Done():
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
