package caddyoauth

import (
	"crypto/rand"
	"encoding/hex"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddyoauth/caddyoauth/internal/connection"
	"github.com/caddyoauth/caddyoauth/internal/oauth"
)

// engines holds the one engine of this process. The usage pool counts the configurations that use it: a new configuration
// takes it before the old one lets go, so that token sets, flights and breakers live on over a reload.
var engines = caddy.NewUsagePool()

const engineKey = "oauth2_inject"

// sourceKey is what a token set belongs to. Where any part differs, tokens are not shared.
type sourceKey struct {
	storage     string // digest of the storage's own configuration
	id          connection.ID
	fingerprint string
}

// engine is the state that outlives configurations: the sources with their token sets, and what they share.
type engine struct {
	standings map[string]*standing // what receivers of alerts were told, by rule and target; guarded by mu
	nonce     string               // tells this process from others in intents and records
	told      toldOnce
	brake     brake
	keyUses   keyUses

	metrics *metrics
	pulses  map[connection.ID]*pulse // by connection; guarded by mu
	sweeps  sweeps
	changes atomic.Uint64 // moves whenever something has changed in this process that a dashboard may show

	mu       sync.Mutex // guards the fields below; never held across I/O
	sources  map[sourceKey]*connection.Source
	breakers map[string]*connection.Breaker // by token endpoint
	keys     map[string]*keySource          // by storage and keys
	metadata map[string]*oauth.Metadata     // by what they depend on
	catalogs map[string]*catalog            // by storage and keys
	trails   map[string]*auditTrail         // by storage
	apps     []*App                         // live configurations, oldest first
	keysOf   map[*App]string                // under which name each has its keys, and its catalog
	room     int                            // how many sources of subjects are kept; 0 = the default
	tidied   time.Time
}

// acquireEngine returns the process's engine; every call needs one releaseEngine.
func acquireEngine() (*engine, error) {
	value, _, err := engines.LoadOrNew(engineKey, func() (caddy.Destructor, error) {
		nonce := make([]byte, 8)
		if _, err := rand.Read(nonce); err != nil {
			return nil, err
		}
		e := &engine{
			nonce:    hex.EncodeToString(nonce),
			sources:  make(map[sourceKey]*connection.Source),
			breakers: make(map[string]*connection.Breaker),
			keys:     make(map[string]*keySource),
			catalogs: make(map[string]*catalog),
			metadata: make(map[string]*oauth.Metadata),
			trails:   make(map[string]*auditTrail),
		}
		e.metrics = newMetrics(e)
		running.Store(e)
		return e, nil
	})
	if err != nil {
		return nil, err
	}
	return value.(*engine), nil
}

// releaseEngine gives back what acquireEngine took.
func releaseEngine() error {
	_, err := engines.Delete(engineKey)
	return err
}

// Destruct implements caddy.Destructor. Nothing runs in an engine on its own.
func (e *engine) Destruct() error {
	running.CompareAndSwap(e, nil)
	return nil
}

// source returns the source under that key, made when there is none.
func (e *engine) source(key sourceKey) *connection.Source {
	e.mu.Lock()
	defer e.mu.Unlock()
	source, ok := e.sources[key]
	if !ok {
		e.makeRoom()
		source = e.newSource(key)
		e.sources[key] = source
	}
	return source
}

// glance returns the source under that key without keeping one for it: who only looks takes up no room.
func (e *engine) glance(key sourceKey) *connection.Source {
	e.mu.Lock()
	defer e.mu.Unlock()
	if source, ok := e.sources[key]; ok {
		return source
	}
	return e.newSource(key)
}

// sourcesOf returns the sources of a configuration's connections, each with its settings.
func (e *engine) sourcesOf(app *App) []scheduledSource {
	settings := make(map[sourceKey]*connection.Settings)
	for _, active := range app.active.all() {
		settings[active.key] = active.settings
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	var all []scheduledSource
	for key, source := range e.sources {
		key.id.Subject = ""
		if s, ok := settings[key]; ok {
			all = append(all, scheduledSource{source: source, settings: s})
		}
	}
	return all
}

// subjectsOf returns the sources of a connection that has one for each subject.
func (e *engine) subjectsOf(key sourceKey) []*connection.Source {
	e.mu.Lock()
	defer e.mu.Unlock()
	var all []*connection.Source
	for other, source := range e.sources {
		if other.id.Subject = ""; other == key {
			all = append(all, source)
		}
	}
	return all
}

// breaker returns the breaker that all connections of a token endpoint share.
func (e *engine) breaker(endpoint string) *connection.Breaker {
	e.mu.Lock()
	defer e.mu.Unlock()
	breaker, ok := e.breakers[endpoint]
	if !ok {
		breaker = new(connection.Breaker)
		e.breakers[endpoint] = breaker
	}
	return breaker
}

// sharedMetadata returns the metadata under that key; fresh becomes theirs when there are none.
func (e *engine) sharedMetadata(key string, fresh *oauth.Metadata) *oauth.Metadata {
	e.mu.Lock()
	defer e.mu.Unlock()
	known, ok := e.metadata[key]
	if !ok {
		known = fresh
		e.metadata[key] = known
	}
	return known
}

// keySource returns the key source under that name if its keyset is open, or the one that create makes: keys that did not
// open may have been corrected since, behind the same placeholder. A new one may go on with what another one of the same storage
// has opened, as long as its own keys cannot be asked.
func (e *engine) keySource(name string, create func() *keySource) *keySource {
	e.mu.Lock()
	defer e.mu.Unlock()
	if keys, ok := e.keys[name]; ok && keys.opened.Load() != nil {
		return keys
	}
	keys := create()
	for _, other := range e.keys {
		state := other.opened.Load()
		if state != nil && other.storageID == keys.storageID && (keys.borrowed == nil || state.ring.Revision() > keys.borrowed.ring.Revision()) {
			keys.borrowed = state
		}
	}
	e.keys[name] = keys
	return keys
}

// needKeys notes which keys and which catalog a configuration uses.
func (e *engine) needKeys(app *App, name string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.keysOf == nil {
		e.keysOf = make(map[*App]string)
	}
	e.keysOf[app] = name
}

// catalog returns what this process knows of what was made at run time, in a storage under some keys.
func (e *engine) catalog(name string) *catalog {
	e.mu.Lock()
	defer e.mu.Unlock()
	known, ok := e.catalogs[name]
	if !ok {
		known = newCatalog()
		e.catalogs[name] = known
	}
	return known
}

// keepTrail gives a configuration the list of the last events on its storage.
func (e *engine) keepTrail(app *App) {
	e.mu.Lock()
	defer e.mu.Unlock()
	known, ok := e.trails[app.storageID]
	if !ok {
		known = newAuditTrail()
		e.trails[app.storageID] = known
	}
	app.trail = known
}

// wakeRecorders has all live configurations look whether events are to be stored: that one has seen them which a reload has replaced.
func (e *engine) wakeRecorders() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, app := range e.apps {
		app.recorder.wake()
	}
}

// wake makes the refresh loops of all live configurations look again: a flight tells the configuration that it began under,
// which a reload may have replaced meanwhile.
func (e *engine) wake() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, app := range e.apps {
		app.loop.wake()
	}
}

// newest returns the newest live configuration; nil when there is none.
func (e *engine) newest() *App {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, app := range slices.Backward(e.apps) {
		if app.ready.Load() && !app.tasks.Closed() {
			return app
		}
	}
	return nil
}

// running returns the configuration that is in use: the oldest that has not ended, as one that is being loaded may fail yet. nil when
// there is none.
func (e *engine) running() *App {
	return e.firstWith(func(*App) bool { return true })
}

// heir returns who goes on with a storage when a configuration has ended; nil when nobody has it.
func (e *engine) heir(storageID string) *meteredStorage {
	app := e.firstWith(func(app *App) bool { return app.storageID == storageID })
	if app == nil {
		return nil
	}
	return app.storage
}

// firstWith returns the oldest configuration in use for which that holds; nil when there is none.
func (e *engine) firstWith(holds func(*App) bool) *App {
	if all := e.inUse(holds); len(all) > 0 {
		return all[0]
	}
	return nil
}

// sharing returns the other configurations in which the same connections can be made at run time.
func (e *engine) sharing(app *App) []*App {
	return e.inUse(func(other *App) bool { return other != app && other.catalog != nil && other.storageID == app.storageID })
}

// inUse returns the configurations for which that holds, oldest first, of those that were started and have not ended.
func (e *engine) inUse(holds func(*App) bool) (all []*App) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, app := range e.apps {
		if app.started.Load() && !app.storage.hasEnded() && holds(app) {
			all = append(all, app)
		}
	}
	return all
}

// join adds a configuration.
func (e *engine) join(app *App) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.apps = append(e.apps, app)
	e.settleRoom()
}

// leave removes a configuration, and the sources that no other one has.
func (e *engine) leave(app *App) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.apps = slices.DeleteFunc(e.apps, func(other *App) bool { return other == app })
	delete(e.keysOf, app)
	e.settleRoom()
	e.drop()
}

// prune removes the sources that no configuration has any more: connections that were made at run time come and go.
func (e *engine) prune() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.drop()
}

// drop is prune for who holds mu.
func (e *engine) drop() {
	for key := range e.sources {
		if !slices.ContainsFunc(e.apps, func(other *App) bool { return other.settingsOf(key) != nil }) {
			delete(e.sources, key)
		}
	}
	e.forgetStandings()
	e.forgetPulses()
	maps.DeleteFunc(e.trails, func(_ string, known *auditTrail) bool {
		return !slices.ContainsFunc(e.apps, func(other *App) bool { return other.trail == known })
	})
	for key := range e.metadata {
		if !slices.ContainsFunc(e.apps, func(other *App) bool { return other.discovers(key) }) {
			delete(e.metadata, key)
		}
	}
	e.dropShared()
}

// dropShared removes keys, catalogs and breakers that no configuration uses. What a catalog knew would be out of date when its keys are
// configured again. The caller holds mu.
func (e *engine) dropShared() {
	needed := make(map[string]bool)
	for _, name := range e.keysOf {
		needed[name] = true
	}
	unneeded := func(name string) bool { return !needed[name] }
	maps.DeleteFunc(e.keys, func(name string, _ *keySource) bool { return unneeded(name) })
	maps.DeleteFunc(e.catalogs, func(name string, _ *catalog) bool { return unneeded(name) })
	used := make(map[*connection.Breaker]bool)
	for _, app := range e.apps {
		for _, c := range app.active.all() {
			if c.settings != nil {
				used[c.settings.Breaker] = true
			}
		}
	}
	maps.DeleteFunc(e.breakers, func(_ string, b *connection.Breaker) bool { return !used[b] && b.Forgettable(time.Now()) })
}

// liveSettings returns the settings of the newest live configuration that has the source; nil when there is none.
func (e *engine) liveSettings(key sourceKey) *connection.Settings {
	e.mu.Lock()
	apps := slices.Clone(e.apps)
	e.mu.Unlock()
	for _, app := range slices.Backward(apps) {
		if settings := app.settingsOf(key); settings != nil {
			return settings
		}
	}
	return nil
}
