package caddyoauth

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"go.uber.org/zap"

	"github.com/caddyoauth/caddyoauth/internal/alert"
)

// eventPrefix begins the names of our events, since Caddy's events have one namespace.
const eventPrefix = "oauth2_"

const (
	eventBacklog = 1024            // events that wait for handlers before any are dropped
	eventGrace   = 3 * time.Second // how long Stop waits for the handlers of others
	eventHold    = time.Minute     // how long it is waited for Caddy to say that it has started, which is new and may be called otherwise one day
	watchEvery   = time.Minute     // how often it is looked for what ends soon
)

// announcement is an event that waits to be emitted.
type announcement struct {
	name string
	data map[string]any
}

// announcer emits Caddy's events of one configuration, one after the other in the order in which they happened: handlers run
// in the caller and may take their time, which a flight does not have. It also looks for what ends soon.
type announcer struct {
	*worker
	events *caddyevents.App // nil: nobody subscribes
	queue  chan announcement

	begun chan struct{} // closed once nothing is subscribed any more: Caddy starts apps in any order, and its events app has no lock
	begin func()        // closes begun

	mu     sync.Mutex // held while something is queued; guards closed
	closed bool       // nothing is queued any more
}

func newAnnouncer() *announcer {
	begun := make(chan struct{})
	return &announcer{
		worker: newWorker(), queue: make(chan announcement, eventBacklog), begun: begun, begin: sync.OnceFunc(func() { close(begun) }),
	}
}

// Handle implements caddyevents.Handler: the configuration has started.
func (n *announcer) Handle(context.Context, caddy.Event) error {
	n.begin()
	return nil
}

// hasBegun reports whether handlers may run.
func (n *announcer) hasBegun() bool {
	select {
	case <-n.begun:
		return true
	default:
		return false
	}
}

// put queues an event if the queue is open and has room. One that nobody subscribes to is as good as emitted.
func (n *announcer) put(next announcement) (open, queued bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed || n.events == nil {
		return !n.closed, !n.closed
	}
	select {
	case n.queue <- next:
		return true, true
	default:
		return true, false
	}
}

// close ends queuing. What was queued until then is emitted, or handed on.
func (n *announcer) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = true
}

func (n *announcer) isClosed() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.closed
}

// provisionEvents finds Caddy's events app. It is used if it is configured, and not loaded for our sake.
func (a *App) provisionEvents() error {
	module, err := a.ctx.AppIfConfigured("events")
	switch {
	case errors.Is(err, caddy.ErrNotConfigured):
		return nil
	case err != nil:
		return fmt.Errorf("load the events app: %w", err)
	}
	return a.followEvents(module.(*caddyevents.App))
}

func (a *App) followEvents(events *caddyevents.App) error {
	a.announcer.events = events
	return events.On("started", a.announcer)
}

// announce counts an event and has it emitted, by the running configuration once this one has ended: with its context over, handlers are not
// run. It never waits.
func (a *App) announce(s signal, name string, data map[string]any) {
	a.metrics.event(name, s)
	next := announcement{eventPrefix + s.name, data}
	open, queued := a.announcer.put(next)
	if !open {
		open, queued = a.pass(next)
	}
	if open && !queued {
		a.logger.Warn("an event was dropped, since the handlers of those before it take too long", zap.String("event", next.name))
	}
}

// pass hands an event to the configuration in use; open is false when there is none.
func (a *App) pass(next announcement) (open, queued bool) {
	for !open {
		speaker := a.engine.firstWith(func(app *App) bool { return !app.announcer.isClosed() })
		if speaker == nil {
			return false, false
		}
		open, queued = speaker.announcer.put(next) // not open: it has ended just now
	}
	return open, queued
}

// announceAll is the work of the announcer. What was queued when it is told to end is still emitted.
func (a *App) announceAll(ctx context.Context) {
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	a.watch(time.Now())
	select {
	case <-a.announcer.begun:
	case <-time.After(eventHold):
		a.announcer.begin()
	case <-ctx.Done():
	}
	for {
		select {
		case next := <-a.announcer.queue:
			a.emit(next)
		case now := <-ticker.C:
			a.watch(now)
		case <-ctx.Done():
			a.eachQueued(a.emit)
			return
		}
	}
}

// eachQueued takes everything out of the queue.
func (a *App) eachQueued(take func(announcement)) {
	for {
		select {
		case next := <-a.announcer.queue:
			take(next)
		default:
			return
		}
	}
}

// emit has handlers run. They do not when the configuration was given up before it ran: not all may be there, or its context is over.
func (a *App) emit(next announcement) {
	if a.ctx.Err() != nil || !a.announcer.hasBegun() {
		a.pass(next)
		return
	}
	a.announcer.events.Emit(a.ctx, next.name, next.data)
}

// stopAnnouncing has this configuration's handlers run for what has happened until now, for a while. What they do not get to goes to those
// of the next configuration, after a reload.
func (a *App) stopAnnouncing() {
	a.announcer.close()
	if !a.announcer.stopWithin(eventGrace) {
		a.logger.Warn("a handler of events is still at work; it is not waited for")
	}
	lost := 0
	a.eachQueued(func(next announcement) {
		if _, queued := a.pass(next); !queued {
			lost++
		}
	})
	if lost > 0 {
		a.logger.Warn("events were dropped, since the handlers of those before them take too long", zap.Int("events", lost))
	}
}

// keyRotated tells that another key seals the tokens. Of the key it tells the public id.
func (a *App) keyRotated(keyID string) {
	a.logger.Info(signalKeyRotated.text, zap.String("key", keyID))
	a.announce(signalKeyRotated, "", map[string]any{"key": keyID})
}

// Warnings of a client certificate come a month before its end, but at most a third of its life, since some are made for a day.
const (
	certificateNotice = 30 * 24 * time.Hour
	certificateShare  = 3
	certificateEvery  = 24 * time.Hour // how often a certificate that ends soon is told of
)

// watch tells of tokens that end soon and that only a person can replace, and of client certificates that end soon.
func (a *App) watch(now time.Time) {
	for _, active := range a.active.all() {
		a.watchCertificate(active, now)
	}
	for _, s := range a.engine.sourcesOf(a) {
		if p := s.source.Current(); p != nil {
			if end, soon := p.Ending(now); soon && !s.source.Snapshot().Status.NeedsPerson() {
				a.tellEnd(s.source, p.Generation(), end)
			}
		}
	}
}

// watchCertificate looks at the file of a connection's client certificate. One that cannot be read is told of by the exchange
// that fails for it.
func (a *App) watchCertificate(active *activeConnection, now time.Time) {
	if active.certificate == nil {
		return
	}
	begins, ends, err := active.certificate.Life()
	if err != nil {
		return
	}
	active.certificateEnds.Store(ends.Unix())
	left := ends.Sub(now)
	if left > min(certificateNotice, ends.Sub(begins)/certificateShare) {
		a.engine.alarm(alert.Sighting{Connection: active.name, Member: alert.Certificate})
		return
	}
	a.engine.alarm(alert.Sighting{Connection: active.name, Member: alert.Certificate, Status: signalCertificate.name})
	if !a.engine.told.first(active.name+" "+ends.String(), certificateEvery, now) {
		return
	}
	a.logger.Warn(signalCertificate.text, zap.String("connection", active.name), zap.Time("not_after", ends), zap.Duration("left", left.Round(time.Minute)))
	a.announce(signalCertificate, active.name, map[string]any{
		"connection": active.name, "not_after": ends.UTC().Format(time.RFC3339), "seconds_left": left.Seconds(),
	})
}

// toldOnce remembers what was told, so that it is not told again too soon. The zero value is ready.
type toldOnce struct {
	mu sync.Mutex // guards at
	at map[string]time.Time
}

// first reports whether something was not told within the time before now, and remembers it as told.
func (o *toldOnce) first(what string, within time.Duration, now time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if at, ok := o.at[what]; ok && now.Sub(at) < within {
		return false
	}
	if o.at == nil {
		o.at = make(map[string]time.Time)
	}
	maps.DeleteFunc(o.at, func(_ string, at time.Time) bool { return now.Sub(at) >= within })
	o.at[what] = now
	return true
}
