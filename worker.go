package caddyoauth

import (
	"context"
	"sync"
	"time"
)

// worker is a goroutine with an end. Whatever a configuration does in the background runs in one; the only go statement of this
// package is here.
type worker struct {
	ctx     context.Context
	cancel  context.CancelFunc
	done    chan struct{}
	started sync.Once
	stopped sync.Once
}

func newWorker() *worker {
	ctx, cancel := context.WithCancel(context.Background())
	return &worker{ctx: ctx, cancel: cancel, done: make(chan struct{})}
}

// start runs the function, which must return soon after its context ends. Only the first call counts, and none after stop.
func (w *worker) start(run func(context.Context)) {
	w.started.Do(func() {
		go func() {
			defer close(w.done)
			run(w.ctx)
		}()
	})
}

// stop ends the worker and waits for it. It may be called often, and without start.
func (w *worker) stop() {
	w.end()
	<-w.done
}

// stopWithin is stop for a worker that runs code of others, which may hang. It reports whether the worker has ended.
func (w *worker) stopWithin(limit time.Duration) bool {
	w.end()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-w.done:
		return true
	case <-timer.C:
		return false
	}
}

func (w *worker) end() {
	w.stopped.Do(func() {
		w.cancel()
		w.started.Do(func() { close(w.done) }) // never started: nothing to wait for
	})
}

// ended reports whether the worker was told to end.
func (w *worker) ended() bool { return w.ctx.Err() != nil }
