package caddyoauth

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/caddyoauth/caddyoauth/internal/alert"
	"github.com/caddyoauth/caddyoauth/internal/connection"
)

// Alert tells somebody when connections are in trouble, and when they are well again.
type Alert struct {
	// On lists the statuses that are told of: `expiring`, `certificate_expiring`, `failing`, `misconfigured`, `revoked`,
	// `lost_rotation`, `unsaved`, `authorization_required`, `disconnected`. Default: all but the last two.
	On []string `json:"on,omitempty"`
	// After is how long trouble must last before it is told. Default: 1m.
	After caddy.Duration `json:"after,omitempty"`
	// Repeat is how often lasting trouble is told again. Default: never.
	Repeat caddy.Duration `json:"repeat,omitempty"`
	// Webhook is told by an HTTP request.
	Webhook *AlertWebhook `json:"webhook,omitempty"`
	// Exec is a command with its arguments. It gets the message as JSON on its standard input. No shell is involved.
	Exec []string `json:"exec,omitempty"`
}

const (
	defaultAfter = time.Minute
	alertGrace   = 5 * time.Second  // how long Stop waits for what is being delivered
	alertTurn    = time.Second      // how soon it is looked again whether another configuration has ceased to deliver
	alertIdle    = time.Hour        // how long at most nothing is looked at
	keepAfter    = time.Minute      // how long after its start a configuration's connections are all there
	markPatience = 15 * time.Second // how long the lock is waited for under which instances agree on who tells
)

// standing is what one receiver was told. It lives in the engine, so that a reload neither tells again nor forgets to tell.
type standing struct {
	tracker *alert.Tracker
	turn    chan struct{} // holds one token: the configuration that delivers; a channel, since it is held across I/O
}

// receiver is one target of an alert.
type receiver struct {
	*loop
	*standing
	name   string // for the log
	kind   string // `webhook` or `exec`, for the metrics
	digest string // of the rule and the target
	rule   alert.Rule
	send   func(ctx context.Context, n alert.News) (wait time.Duration, err error)
	hard   context.Context // ends when Stop waits no longer
	abort  context.CancelFunc
	known  bool // the engine had its standing already
}

// provisionAlerts resolves and checks the alerts.
func (a *App) provisionAlerts() error {
	instance, err := os.Hostname()
	if err != nil {
		instance = "unknown"
	}
	var all []*receiver
	for i, config := range a.Alerts {
		r := &resolver{repl: caddy.NewReplacer()}
		receivers := config.build(r, instance)
		if err := errors.Join(r.faults...); err != nil {
			return fmt.Errorf("alert %d: %w", i+1, err)
		}
		for _, one := range receivers {
			one.hard, one.abort = context.WithCancel(context.Background())
			one.loop = newLoop(func(ctx context.Context) time.Duration { return a.tell(ctx, one) })
			one.standing, one.known = a.engine.standingOf(one)
			all = append(all, one)
		}
	}
	a.engine.mu.Lock()
	defer a.engine.mu.Unlock()
	a.receivers = all
	return nil
}

// build makes the receivers of an alert.
func (c *Alert) build(r *resolver, instance string) (receivers []*receiver) {
	rule := alert.Rule{On: c.On, After: cmp.Or(time.Duration(c.After), defaultAfter), Repeat: time.Duration(c.Repeat)}
	for _, status := range c.On {
		if !slices.Contains(alert.Statuses, status) {
			r.fault("on", fmt.Errorf("%q is not a status that can be told of", status))
		}
	}
	if c.After < 0 || c.Repeat < 0 {
		r.fault("after", errors.New("durations are above zero"))
	}
	if c.Webhook == nil && len(c.Exec) == 0 {
		r.fault("alert", errNoReceiver)
	}
	add := func(kind, name string, target any, send func(context.Context, alert.News) (time.Duration, error)) {
		digest, err := digestOf([]any{rule, target})
		if err != nil {
			r.fault(kind, err)
			return
		}
		receivers = append(receivers, &receiver{name: name, kind: kind, digest: digest, rule: rule, send: send})
	}
	if c.Webhook != nil {
		if hook := c.Webhook.build(r, instance); hook != nil {
			add("webhook", hook.host, c.Webhook, hook.send)
		}
	}
	if len(c.Exec) > 0 {
		command := buildCommand(r, c.Exec, instance)
		add("exec", command.name, c.Exec, command.send)
	}
	return receivers
}

var errNoReceiver = errors.New("needs a webhook, an exec, or both")

// standingOf returns what a receiver was told, by whatever configuration, and whether that was known already.
func (e *engine) standingOf(r *receiver) (*standing, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	one, known := e.standings[r.digest]
	if !known {
		one = &standing{alert.NewTracker(r.rule, func() string { return "msg_" + rand.Text() }), make(chan struct{}, 1)}
		one.turn <- struct{}{}
		if e.standings == nil {
			e.standings = make(map[string]*standing)
		}
		e.standings[r.digest] = one
	}
	return one, known
}

// forgetStandings drops what no configuration tells any more. The caller holds mu.
func (e *engine) forgetStandings() {
	for digest := range e.standings {
		if !slices.ContainsFunc(e.apps, func(app *App) bool {
			return slices.ContainsFunc(app.receivers, func(r *receiver) bool { return r.digest == digest })
		}) {
			delete(e.standings, digest)
		}
	}
}

// alarm notes how a member of a connection was seen, for all receivers of all live configurations, and has them look.
func (e *engine) alarm(seen alert.Sighting) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	for _, one := range e.standings {
		one.tracker.Observe(seen, now)
	}
	for _, app := range e.apps {
		for _, r := range app.receivers {
			r.wake()
		}
	}
}

// alarmOf notes what an event tells of how a connection is; not all do.
func (e *engine) alarmOf(event connection.Event) {
	status := event.Status
	switch event.Kind {
	case connection.KindRefreshed, connection.KindUnchanged, connection.KindAdopted, connection.KindChanged, connection.KindSaved:
	case connection.KindUnsaved, connection.KindExpiring:
		status = connection.Status(event.Kind)
	case connection.KindFailed:
		var unavailable *connection.Unavailable
		if errors.As(event.Err, &unavailable) && unavailable.Busy() {
			return // another instance is at it
		}
	default:
		return
	}
	e.alarm(alert.Sighting{
		Connection: event.ID.Connection, Member: memberOf(event.ID), Status: string(status), Code: codeOf(event.Err),
	})
}

// memberOf tells subjects apart without showing any.
func memberOf(id connection.ID) string {
	if id.Subject == "" {
		return ""
	}
	return id.Digest()
}

// startAlerts begins to tell. A receiver that is new hears of the trouble that there is.
func (a *App) startAlerts() {
	for _, r := range a.receivers {
		r.start(func(context.Context) {
			if r.known {
				return
			}
			now := time.Now()
			for _, s := range a.engine.sourcesOf(a) {
				snap, code := s.source.Snapshot(), ""
				if snap.Status == connection.StatusPending {
					continue // nobody has looked yet
				}
				if snap.Failure != nil {
					code = snap.Failure.Code
				}
				r.tracker.Observe(alert.Sighting{
					Connection: snap.ID.Connection, Member: memberOf(snap.ID), Status: string(snap.Status), Code: code,
				}, now)
			}
		})
	}
}

// stopAlerts ends the loops. What is being delivered gets a while; what is not goes to the next configuration.
func (a *App) stopAlerts() {
	for _, r := range a.receivers {
		r.end()
	}
	deadline := time.Now().Add(alertGrace)
	for _, r := range a.receivers {
		if !r.stopWithin(time.Until(deadline)) {
			r.abort()
			if !r.stopWithin(time.Second) {
				a.logger.Warn("the storage holds up an alert; it is not waited for", zap.String("receiver", r.name))
			}
		}
		r.abort()
	}
}

// tell delivers what is due, and returns how long there is nothing to do.
func (a *App) tell(ctx context.Context, r *receiver) time.Duration {
	select {
	case <-r.turn:
		defer func() { r.turn <- struct{}{} }()
	default:
		return alertTurn
	}
	if wait := keepAfter - time.Since(a.startedAt); wait <= 0 {
		r.tracker.Keep(func(name string) bool { _, ok := a.active.get(name); return ok }, time.Now())
	}
	for _, name := range r.tracker.Doubtful(time.Now()) {
		if mark, err := a.store.loadMark(r.hard, alertKey(r.digest, name)); err == nil && mark.Status == "" {
			r.tracker.Doubt(name)
		}
	}
	for _, n := range r.tracker.Due(time.Now()) {
		if ctx.Err() != nil {
			return 0
		}
		a.deliver(r, n)
	}
	return min(r.tracker.Next(time.Now()), alertIdle)
}

// deliver tells one piece of news, unless another instance has.
func (a *App) deliver(r *receiver, n alert.News) {
	key := alertKey(r.digest, n.Connection)
	if a.toldByOthers(r, key, &n) {
		return
	}
	unlock := a.store.lockMark(r.hard, alertLock(key))
	defer unlock()
	if a.toldByOthers(r, key, &n) { // under the lock, the first thing is to load again
		return
	}
	wait, err := r.send(r.hard, n)
	a.metrics.delivery(r.kind, err)
	fields := []zap.Field{zap.String("receiver", r.name), zap.String("connection", n.Connection), zap.String("status", cmp.Or(n.Status, "well"))}
	if err != nil {
		r.tracker.Failed(n, wait, time.Now())
		a.logger.Error("an alert could not be delivered; it is tried again", append(fields, zap.Error(err))...)
		return
	}
	now := time.Now()
	r.tracker.Told(n, true, now)
	a.logger.Info("told of a connection", fields...)
	if err := a.store.saveMark(r.hard, key, alert.Of(n, now)); err != nil {
		a.logger.Warn("other instances may tell the same once more", append(fields, zap.Error(err))...)
	}
}

// toldByOthers reports whether another instance has told the news, and adds to the news what only it knows. A storage that fails
// does not keep anything from being told: twice is better than never.
func (a *App) toldByOthers(r *receiver, key string, n *alert.News) bool {
	mark, err := a.store.loadMark(r.hard, key)
	if err != nil && !n.Unsure {
		return false
	}
	if mark.Covers(*n, r.rule.Repeat, time.Now()) {
		r.tracker.Told(*n, false, time.Now())
		return true
	}
	if n.Unsure {
		n.Was, n.Since = mark.Status, mark.Since
	}
	return false
}
