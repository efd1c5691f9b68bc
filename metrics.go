package caddyoauth

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddyoauth/caddyoauth/internal/connection"
)

const (
	// These bound the values that a label takes in a process; what comes later is `other`.
	maxConnectionLabels = 1000
	maxCodeLabels       = 100
	maxKeyLabels        = 50
	otherLabel          = "other"
)

// What becomes of a request, besides the codes of the problems in problem.go.
const (
	outcomeInjected = "injected"
	outcomeUnused   = "unused"   // a token was there, but no upstream was asked
	outcomeCanceled = "canceled" // the client left while a token was waited for
)

// What becomes of the 401 of an upstream.
const (
	replayHelped     = "helped"
	replayRefused    = "refused"       // the fresh token as well
	replayFailed     = "failed"        // the upstream could not be reached again
	replayNoNewToken = "no_new_token"  // there was none to try
	replayBodyLost   = "body_not_kept" // it was too long, or not read to its end
)

// metrics is what Prometheus sees. There is one for each process: Caddy has a registry for each configuration, and the same
// collectors in all of them count on over reloads. No label holds a subject.
type metrics struct {
	engine *engine

	requests, replays, refreshes, failures, events, storageErrors, deliveries *prometheus.CounterVec
	duration, lockWait                                                        *prometheus.HistogramVec
	tokenSets, expiresIn, certificateExpiresIn, keysetOpen, sealed            *prometheus.Desc

	connections, codes, keys labelValues
}

// durationBuckets reach from a token endpoint next door to one that answers at the last moment.
var durationBuckets = []float64{.025, .05, .1, .25, .5, 1, 2.5, 5, 10, 15, 30, 60}

func newMetrics(engine *engine) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "caddy", Subsystem: appName, Name: name, Help: help}, labels)
	}
	histogram := func(name, help string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "caddy", Subsystem: appName, Name: name, Help: help, Buckets: durationBuckets,
		}, []string{"connection"})
	}
	gauge := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(prometheus.BuildFQName("caddy", appName, name), help, labels, nil)
	}
	m := &metrics{
		engine:        engine,
		requests:      counter("requests_total", "Requests by what became of them.", "connection", "outcome"),
		replays:       counter("replays_total", "Answers 401 of upstreams by what came of sending the request again.", "connection", "result"),
		refreshes:     counter("refreshes_total", "Attempts to get a token by their result and by why they were made.", "connection", "result", "reason"),
		failures:      counter("refresh_failures_total", "Failed attempts to get a token by the error's code.", "connection", "code"),
		events:        counter("events_total", "Events by name, as Caddy's events have it after oauth2_.", "connection", "event"),
		storageErrors: counter("storage_errors_total", "Storage operations that failed.", "operation"),
		deliveries:    counter("alert_deliveries_total", "Attempts to deliver an alert by what came of them.", "receiver", "result"),

		duration: histogram("refresh_duration_seconds", "How long attempts to get a token took, storage included, in which the token endpoint was asked."),
		lockWait: histogram("lock_wait_seconds", "How long the storage lock was waited for."),

		tokenSets:            gauge("token_sets", "Token sets in memory by status.", "connection", "status"),
		expiresIn:            gauge("token_expires_in_seconds", "Time until the first active token of a connection ends; below 0 for one that has not been used since.", "connection"),
		certificateExpiresIn: gauge("client_certificate_expires_in_seconds", "Time until the client certificate ends.", "connection"),
		keysetOpen:           gauge("keyset_open", "Whether the keys are open that stored tokens are sealed with."),
		sealed:               gauge("sealed_records", "Stored records by the data key that they are sealed with, as last counted.", "key"),

		connections: labelValues{most: maxConnectionLabels}, codes: labelValues{most: maxCodeLabels}, keys: labelValues{most: maxKeyLabels},
	}
	for _, operation := range storageOperations {
		m.storageErrors.WithLabelValues(operation)
	}
	for _, kind := range []string{"webhook", "exec"} {
		m.deliveries.WithLabelValues(kind, "delivered")
		m.deliveries.WithLabelValues(kind, "failed")
	}
	return m
}

// vectors are the collectors that count.
func (m *metrics) vectors() []prometheus.Collector {
	return []prometheus.Collector{m.requests, m.replays, m.refreshes, m.failures, m.events, m.storageErrors, m.deliveries, m.duration, m.lockWait}
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(descs chan<- *prometheus.Desc) {
	for _, vector := range m.vectors() {
		vector.Describe(descs)
	}
	descs <- m.tokenSets
	descs <- m.expiresIn
	descs <- m.certificateExpiresIn
	descs <- m.keysetOpen
	descs <- m.sealed
}

// Collect implements prometheus.Collector. The gauges tell of the newest configuration, whichever registry is asked: after a
// failed reload Caddy's admin endpoint has that of the configuration that failed.
func (m *metrics) Collect(out chan<- prometheus.Metric) {
	for _, vector := range m.vectors() {
		vector.Collect(out)
	}
	app := m.engine.newest()
	if app == nil {
		return
	}
	now := time.Now()
	for label, g := range m.gaugesOf(app, now) {
		for status, count := range g.tokenSets {
			out <- prometheus.MustNewConstMetric(m.tokenSets, prometheus.GaugeValue, float64(count), label, string(status))
		}
		if !g.ends.IsZero() {
			out <- prometheus.MustNewConstMetric(m.expiresIn, prometheus.GaugeValue, g.ends.Sub(now).Seconds(), label)
		}
		if !g.certificateEnds.IsZero() {
			out <- prometheus.MustNewConstMetric(m.certificateExpiresIn, prometheus.GaugeValue, g.certificateEnds.Sub(now).Seconds(), label)
		}
	}
	open := 0.0
	if app.store.keys.opened.Load() != nil {
		open = 1
	}
	out <- prometheus.MustNewConstMetric(m.keysetOpen, prometheus.GaugeValue, open)
	sealed := make(map[string]int) // records that are damaged may name any key
	for id, records := range app.sealedRecords() {
		sealed[m.keys.of(strconv.FormatUint(uint64(id), 10))] += records
	}
	for label, records := range sealed {
		out <- prometheus.MustNewConstMetric(m.sealed, prometheus.GaugeValue, float64(records), label)
	}
}

// gauges are the present values of one connection, or of all that share the label `other`.
type gauges struct {
	tokenSets             map[connection.Status]int
	ends, certificateEnds time.Time // the first; zero = none
}

// gaugesOf adds up the sources of a configuration by label.
func (m *metrics) gaugesOf(app *App, now time.Time) map[string]*gauges {
	all := make(map[string]*gauges)
	of := func(name string) *gauges {
		label := m.connections.of(name)
		g, ok := all[label]
		if !ok {
			g = &gauges{tokenSets: make(map[connection.Status]int)}
			for _, status := range statuses {
				g.tokenSets[status] = 0
			}
			all[label] = g
		}
		return g
	}
	for _, active := range app.active.all() {
		g := of(active.name)
		if ends := active.certificateEnds.Load(); ends != 0 {
			g.certificateEnds = earlier(g.certificateEnds, time.Unix(ends, 0))
		}
	}
	for _, s := range m.engine.sourcesOf(app) {
		snap := s.source.Snapshot()
		g := of(snap.ID.Connection)
		g.tokenSets[snap.Status]++
		// A person who is on holiday lets a token lapse, which says nothing: only the tokens of machines count below zero.
		if lapsed := !snap.ExpiresAt.After(now); !snap.ExpiresAt.IsZero() && (!lapsed || snap.ID.Subject == "") {
			g.ends = earlier(g.ends, snap.ExpiresAt)
		}
	}
	return all
}

// statuses are always shown, with 0 where there is none: what is not there cannot be compared.
var statuses = []connection.Status{
	connection.StatusAuthorizationRequired, connection.StatusPending, connection.StatusActive, connection.StatusExpiring, connection.StatusFailing,
	connection.StatusMisconfigured, connection.StatusRevoked, connection.StatusLostRotation, connection.StatusDisconnected,
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}

// observe counts an event, and what it tells of the attempt that it ends.
func (m *metrics) observe(e connection.Event, signals []signal) {
	label := m.connections.of(e.ID.Connection)
	result := ""
	switch e.Kind {
	case connection.KindRefreshed, connection.KindUnchanged, connection.KindAdopted:
		result = string(e.Kind)
	case connection.KindFailed:
		if slices.Contains(signals, signalFailed) {
			result = string(e.Kind)
			m.failures.WithLabelValues(label, m.codes.of(codeOf(e.Err))).Inc()
		}
	}
	if result == "" {
		return
	}
	m.refreshes.WithLabelValues(label, result, string(e.Reason)).Inc()
	if e.Asked {
		m.duration.WithLabelValues(label).Observe(e.Took.Seconds())
	}
	if e.Waited > 0 {
		m.lockWait.WithLabelValues(label).Observe(e.Waited.Seconds())
	}
}

// delivery counts an attempt to deliver an alert.
func (m *metrics) delivery(kind string, err error) {
	result := "delivered"
	if err != nil {
		result = "failed"
	}
	m.deliveries.WithLabelValues(kind, result).Inc()
}

// event counts what is told, of a connection or of none.
func (m *metrics) event(name string, s signal) {
	m.events.WithLabelValues(m.connections.of(name), s.name).Inc()
}

// meter counts the requests of one connection. The counter that every request needs is looked up once.
type meter struct {
	all      *metrics
	label    string
	injected prometheus.Counter
}

// alarming are the events that ops/prometheus/rules.yml looks at.
var alarming = []signal{
	signalLostRotation, signalRevoked, signalExpiring, signalUnsaved, signalSaveDropped, signalLockLost, signalTakenOver,
}

// meter returns the meter of a connection.
func (m *metrics) meter(name string) *meter {
	label := m.connections.of(name)
	for _, s := range alarming {
		m.events.WithLabelValues(label, s.name) // from 0 on: Prometheus takes no notice of a counter that begins with 1
	}
	return &meter{all: m, label: label, injected: m.requests.WithLabelValues(label, outcomeInjected)}
}

func (m *meter) request(outcome string) { m.all.requests.WithLabelValues(m.label, outcome).Inc() }

func (m *meter) replay(result string) { m.all.replays.WithLabelValues(m.label, result).Inc() }

// labelValues gives out the values of a label, a bounded number of them in a process.
type labelValues struct {
	most  int
	mu    sync.RWMutex // guards known
	known map[string]bool
}

// of returns the value itself, or `other` for one too many.
func (v *labelValues) of(value string) string {
	v.mu.RLock()
	known := v.known[value]
	v.mu.RUnlock()
	if known {
		return value
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.known == nil {
		v.known = make(map[string]bool)
	}
	if len(v.known) >= v.most && !v.known[value] {
		return otherLabel
	}
	v.known[value] = true
	return value
}

// exposition is what registries get: the metrics of whatever engine there is when they are collected. It outlives engines, since
// the admin endpoint is provisioned before any.
type exposition struct{}

// running is the process's engine.
var running atomic.Pointer[engine]

// Describe implements prometheus.Collector.
func (exposition) Describe(descs chan<- *prometheus.Desc) { newMetrics(nil).Describe(descs) }

// Collect implements prometheus.Collector.
func (exposition) Collect(out chan<- prometheus.Metric) {
	if e := running.Load(); e != nil {
		e.metrics.Collect(out)
	}
}

// registerMetrics makes the metrics part of a configuration's registry. The admin endpoint does so as well as the app: after a
// reload that failed before the app's turn, it goes on with the registry of the configuration that failed.
func registerMetrics(ctx caddy.Context) error {
	registry := ctx.GetMetricsRegistry()
	if registry == nil {
		return nil
	}
	err := registry.Register(exposition{})
	if already := new(prometheus.AlreadyRegisteredError); err == nil || errors.As(err, already) {
		return nil
	}
	return fmt.Errorf("register the metrics: %w", err)
}

// Interface guards.
var (
	_ prometheus.Collector = (*metrics)(nil)
	_ prometheus.Collector = (*exposition)(nil)
)
