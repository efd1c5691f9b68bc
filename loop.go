package caddyoauth

import (
	"context"
	"time"
)

// loop is a worker that calls round again and again: when the time that round asked for is over, or when it is woken.
type loop struct {
	*worker
	round   func(context.Context) time.Duration
	changed chan struct{} // one slot: look again
}

func newLoop(round func(context.Context) time.Duration) *loop {
	return &loop{worker: newWorker(), round: round, changed: make(chan struct{}, 1)}
}

// start runs first and then the loop.
func (l *loop) start(first func(context.Context)) {
	l.worker.start(func(ctx context.Context) {
		first(ctx)
		l.run(ctx)
	})
}

// wake makes the loop look again.
func (l *loop) wake() {
	select {
	case l.changed <- struct{}{}:
	default:
	}
}

func (l *loop) run(ctx context.Context) {
	for {
		timer := time.NewTimer(l.round(ctx))
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

// sleep waits, and reports whether the context is still alive.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
