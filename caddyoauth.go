// Package caddyoauth is a Caddy plugin that puts OAuth2 access tokens on proxied requests.
//
// A site says which connection a request travels with (oauth2_inject). The plugin obtains the token, keeps it sealed in
// Caddy's storage, refreshes it before it expires, and sets it on the upstream request of reverse_proxy. Clients, logs and the
// admin API never see one.
//
// The map of the tree:
//
//	caddyoauth.go  the app: connections, their wiring, start and stop
//	active.go      the connections of a running configuration
//	config.go      what a connection may say, and build() that resolves and checks it
//	policy.go      how early, how often and how long, as a connection says
//	grants.go      what a grant needs, and warns of; implicit.go: tokens that come through the browser
//	preset.go      what a provider's preset fills in; quirks.go: what a connection says of its server instead
//	clientauth.go  how the client proves who it is; discovery.go: where its server's endpoints are
//	caddyfile*.go  the global option, the directive and the transport, one function per block
//	handler.go     http.handlers.oauth2_inject: which connection, is there a token, hand it on
//	plan.go        what the handler hands to the transport for one request
//	transport.go   http.reverse_proxy.transport.oauth2_inject: set the token, check the host, replay after a 401
//	injection.go   how a token travels: header, template, query parameter; defaults.go: what travels with it
//	fields.go      what people are asked for first; counterpart.go: the authorization server as one person meets it
//	owners.go      who else holds the same account
//	testcall.go    whose token it is: a request to the API that tells; address.go: URLs that are made of what is known
//	kept.go        what a connection knows besides its token: fields of answers, for headers and addresses
//	replay.go      what of a request's body is kept for that replay
//	hosts.go       who may receive a token; rules.go: which requests may travel with one
//	problem.go     what a client is told when there is no token
//	connect.go     http.handlers.oauth2_connect: the pages on which people connect their accounts
//	brake.go       how often one person may begin to connect
//	redirect.go    which browsers are led there at once
//	pages.go       what people are told of connecting, on pages; accounts.go and explain.go hold more of it
//	engine.go      the process-wide state that outlives configurations; room.go: what of it stays in memory
//	refresh.go     WHEN tokens are refreshed in the background
//	keepalive.go   what nobody uses is kept alive; who only a person can help is told of
//	operations.go  what people and programs do to token sets: view, refresh, history, roll back, disconnect
//	worker.go      goroutines with an end; loop.go: those that look again and again
//	storage.go     connection.Store over Caddy's storage; record.go and storagekeys.go hold its formats
//	keys.go        key-encryption keys; keyset.go: the data keyset, opened and followed; keystatus.go: what may be shown
//	rekey.go       how a data key is replaced; reseal.go: everything that is written and deleted, sealed anew meanwhile
//	observer.go    what happens to tokens, as log lines; events.go: as events of Caddy
//	tracing.go     what traces show of a request's token
//	health.go      whether requests can be sent here
//	alerts.go      who is told of trouble, and when; alertsend.go: how, and process_*.go: by commands; alertmark.go: once for all instances
//	metrics.go     what Prometheus sees; storagemeter.go counts what storage fails at
//	admin.go       the state of the connections on Caddy's admin endpoint
//	entry.go       what is made at run time, and its stored form; catalog.go: as this process knows it
//	stored*.go     connections that were made at run time; choose.go: which one a request travels with
//	api_*.go       what the REST API is asked for, and where it is served; audit.go: who did what
//	trail.go       the last of that; trailstore.go: kept in storage, by all instances
//	dashboard.go   http.handlers.oauth2_dashboard: where the pages for operators are served; pulse.go: how the last day went
//	command.go     `caddy oauth2-inject`; complete.go: what shells offer; doctor.go: its checks of a configuration
//
//	internal/alert       what is told of trouble, when, and in what form
//	internal/api         the REST API: requests, roles, answers
//	internal/dashboard   the pages for operators, a client of the REST API
//	internal/pages       how all pages look: templates, style, policy
//	internal/cli         the command line: what it asks the API for, and how it shows it
//	internal/connection  the life of a token set: HOW it is refreshed
//	internal/oauth       the token endpoint's protocol
//	internal/envelope    sealing
//	internal/secret      a string that cannot be printed
//	kms                  a module of its own: key-encryption keys in key services
package caddyoauth

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"

	"github.com/caddyoauth/caddyoauth/internal/api"
	"github.com/caddyoauth/caddyoauth/internal/connection"
)

// appName is the app's module id and the name of its global option.
const appName = "oauth2_inject"

// drainTimeout is how long Stop waits for refreshes that use this configuration's storage. A reload holds Caddy's
// configuration lock meanwhile, so it is short.
const drainTimeout = 15 * time.Second

// storageGrace is how long Stop waits for requests that are using this configuration's storage.
const storageGrace = 5 * time.Second

func init() {
	caddy.RegisterModule(App{})
}

// App holds the OAuth2 connections that sites may send proxied requests with, and the keys that seal their tokens.
type App struct {
	// Encryption are the key-encryption keys, in the namespace `oauth2_inject.keys`. The first seals, all open. Default: with
	// file storage, a key generated into Caddy's data directory.
	EncryptionRaw []json.RawMessage `json:"encryption,omitempty" caddy:"namespace=oauth2_inject.keys inline_key=source"`
	// RekeyPause is how long all instances get to learn that the data key has changed: a new one is known that long before it
	// seals, an old one is removed no earlier than that after it has ceased to. Default: 1m.
	RekeyPause caddy.Duration `json:"rekey_pause,omitempty"`
	// Connections by name.
	Connections map[string]*Connection `json:"connections,omitempty"`
	// Alerts say who is told of connections in trouble.
	Alerts []*Alert `json:"alerts,omitempty"`
	// HistoryLength is how many superseded token sets are kept of each connection and subject. Default: 10.
	HistoryLength int `json:"history,omitempty"`
	// SubjectsInMemory is how many token sets of subjects are in memory at most; the others are read from storage when they are used
	// again. Default: 10000.
	SubjectsInMemory int `json:"subjects_in_memory,omitempty"`
	// Stored lets connections be made at run time. Default: those of the configuration are all.
	Stored *StoredConnections `json:"stored_connections,omitempty"`
	// Environment says which environment the sites are, for stored connections that have values for several. A handler may say
	// otherwise. Default: that of the connection's own values.
	Environment string `json:"environment,omitempty"`

	ctx       caddy.Context
	logger    *zap.Logger
	engine    *engine // of the process; set once, and used by flights that outlive this configuration
	released  bool    // Cleanup has given it back
	store     *recordStore
	storage   *meteredStorage // what store writes to
	storageID string
	tasks     *connection.Tasks
	loop      *refreshLoop
	sweeper   *worker // keeps alive what nobody uses
	keeper    *keyKeeper
	wake      func() // the loops of all live configurations
	active    *activeSet
	announcer *announcer
	metrics   *metrics
	ready     *atomic.Bool // Provision is through
	started   *atomic.Bool // so far as this app goes, the configuration is in use
	health    *healthCheck
	receivers []*receiver // of alerts; set under the lock of the engine
	trail     *auditTrail // likewise
	recorder  *loop       // stores it
	startedAt time.Time

	rest    *api.API // what the REST API is served by
	limits  limits   // of what may be made at run time
	catalog *catalog // what was made at run time; nil = nothing can be
	poller  *worker  // follows the catalog; nil = as above
}

// CaddyModule returns the Caddy module information.
func (App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: appName, New: func() caddy.Module { return new(App) }}
}

// Provision resolves the configuration. It touches neither network nor storage, so that `caddy validate` needs none.
func (a *App) Provision(ctx caddy.Context) error {
	a.ctx = ctx
	a.logger = ctx.Logger()
	a.active = &activeSet{byName: make(map[string]*activeConnection)}
	a.tasks = new(connection.Tasks)
	engine, err := acquireEngine()
	if err != nil {
		return err
	}
	a.engine, a.wake = engine, engine.wake
	a.loop = newRefreshLoop(a.scheduled)
	a.ready, a.started, a.health = new(atomic.Bool), new(atomic.Bool), new(healthCheck)
	a.announcer, a.metrics = newAnnouncer(), engine.metrics
	a.sweeper, a.recorder = newWorker(), newLoop(a.record)
	a.rest = api.New(a.service())
	a.engine.join(a)
	if err := errors.Join(a.provisionStore(), a.provisionEvents(), a.provisionAlerts(), registerMetrics(ctx)); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(a.Connections)) {
		if _, err := a.addConnection(name, a.Connections[name]); err != nil {
			return err
		}
	}
	if a.catalog != nil {
		a.activate() // what this process knows already: no request of this configuration waits for it
	}
	a.ready.Store(true)
	return nil
}

// provisionStore settles where records go and which keys seal them.
func (a *App) provisionStore() error {
	storage := a.ctx.Storage()
	identity, err := storageIdentity(storage)
	if err != nil {
		return err
	}
	a.storageID = identity
	a.engine.keepTrail(a)
	var keks []KeyEncryptionKey
	if len(a.EncryptionRaw) > 0 {
		modules, err := a.ctx.LoadModule(a, "EncryptionRaw")
		if err != nil {
			return fmt.Errorf("load the encryption keys: %w", err)
		}
		for _, module := range modules.([]any) {
			keyModule, ok := module.(KeyModule)
			if !ok {
				return fmt.Errorf("%T is not a key-encryption key", module)
			}
			keks = append(keks, keyModule.KeyEncryptionKey())
		}
	} else if _, isFile := storage.(*certmagic.FileStorage); !isFile {
		return errors.New("encryption: with a storage other than files a key is needed; add `encryption key {file./path}` or `encryption passphrase {file./path}` to the oauth2_inject global option")
	}
	generated := filepath.Join(caddy.AppDataDir(), appName, "encryption.key")
	keysID, err := digestOf([]any{identity, generated, a.EncryptionRaw, keyIDs(keks)})
	if err != nil {
		return err
	}
	if n := a.SubjectsInMemory; n != 0 && (n < leastRoom || n > mostRoom) {
		return fmt.Errorf("subjects_in_memory: %d is not a number from %d to %d", n, leastRoom, mostRoom)
	}
	if a.HistoryLength < 0 || a.HistoryLength > maxHistory {
		return fmt.Errorf("history: %d is not a number of token sets from 1 to %d", a.HistoryLength, maxHistory)
	}
	if a.RekeyPause != 0 && time.Duration(a.RekeyPause) < minRekeyPause {
		return fmt.Errorf("rekey_pause: shorter than %v, in which not all instances may learn of a new key", minRekeyPause)
	}
	a.storage = &meteredStorage{Storage: storage, failures: a.metrics.storageErrors, next: func() *meteredStorage { return a.engine.heir(identity) }}
	a.store = &recordStore{storage: a.storage, history: cmp.Or(a.HistoryLength, defaultHistory)}
	a.engine.needKeys(a, keysID)
	a.store.keys = a.engine.keySource(keysID, func() *keySource {
		keys := newKeySource(keks, generated, a.logger)
		keys.storageID, keys.present = identity, a.engine.running
		return keys
	})
	a.store.keys.pause.Store(int64(cmp.Or(time.Duration(a.RekeyPause), defaultRekeyPause)))
	a.keeper = newKeyKeeper(a, a.keysNeeded)
	return a.provisionStored(keysID)
}

func keyIDs(keks []KeyEncryptionKey) []string {
	var ids []string
	for _, kek := range keks {
		ids = append(ids, kek.ID())
	}
	return ids
}

// storageIdentity tells whether two configurations use the same storage, by what the storage module was configured with. One
// that cannot be encoded is like no other: token sets are then loaded anew after a reload, which is slower but never wrong.
func storageIdentity(storage certmagic.Storage) (string, error) {
	if files, ok := storage.(*certmagic.FileStorage); ok {
		absolute, err := filepath.Abs(files.Path)
		if err != nil {
			return "", err
		}
		return digestOf([]string{"file", absolute})
	}
	identity, err := digestOf([]any{fmt.Sprintf("%T", storage), storage})
	if err != nil {
		return digestOf(fmt.Sprintf("%T %p", storage, storage))
	}
	return identity, nil
}

// Start opens the keys and begins background refreshing. Keys that do not open are a state, not a failure to start: every
// other site of this Caddy goes on.
func (a *App) Start() error {
	a.started.Store(true)
	a.loop.start(a.openKeys)
	a.keeper.start(func(context.Context) {})
	a.sweeper.start(a.keepAlive)
	a.announcer.start(a.announceAll)
	a.recorder.worker.start(a.recordAll)
	a.startedAt = time.Now()
	a.startAlerts()
	if a.poller != nil {
		a.activate() // again: something may have been made since, through the configuration before
		a.poller.start(a.poll)
	}
	return nil
}

func (a *App) openKeys(ctx context.Context) {
	if !a.keysNeeded() {
		return
	}
	if _, err := a.store.keys.ring(ctx, a.store.storage); err != nil && ctx.Err() == nil {
		a.logger.Error("tokens can be neither read nor stored", zap.Error(err), zap.String("hint", unreadableHint(err)))
	}
}

// Stop ends background refreshing and waits, for a bounded time, until the refreshes under way have stored what they got:
// after the Stop of all apps comes their Cleanup, which closes the storage.
func (a *App) Stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	a.stopWork(ctx)
	if err := a.tasks.Stop(ctx); err != nil {
		a.logger.Error("a token refresh is still under way; it goes on with the next configuration's storage", zap.Error(err))
	}
	a.stopAnnouncing()
	a.stopAlerts()
	if !a.recorder.stopWithin(auditGrace) {
		a.logger.Warn("the storage holds up the list of the last changes; it is not waited for, and the log has them all")
	}
	a.endStorage(storageGrace)
	return nil
}

// stopWork ends what is done in the background. A storage that hangs is not waited for longer than for refreshes: Caddy could not be
// given another configuration meanwhile, nor be stopped.
func (a *App) stopWork(ctx context.Context) {
	workers := []*worker{a.loop.worker, a.sweeper, a.poller}
	if a.keeper != nil {
		workers = append(workers, a.keeper.worker)
	}
	workers = slices.DeleteFunc(workers, func(w *worker) bool { return w == nil || w.ended() })
	for _, w := range workers {
		w.end()
	}
	for _, w := range workers {
		select {
		case <-w.done:
		case <-ctx.Done():
			a.logger.Error("the storage does not answer; not waiting for it")
			return
		}
	}
}

// endStorage has requests that outlive this configuration use the storage of the next one, and waits for what they are at.
func (a *App) endStorage(grace time.Duration) {
	if a.storage == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if err := a.storage.end(ctx); err != nil && grace > 0 {
		a.logger.Error("the storage is still in use by requests; not waiting for them", zap.Error(err))
	}
}

// Cleanup releases what Provision took, however far it came.
func (a *App) Cleanup() error {
	if a.engine == nil || a.released {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	a.stopWork(ctx) // when Start of another app failed, Stop was not called
	if !a.announcer.ended() {
		a.stopAnnouncing()
	}
	a.stopAlerts()
	if !a.recorder.ended() {
		a.recorder.stopWithin(auditGrace)
	}
	a.endStorage(0)
	a.tasks.Close()
	a.engine.leave(a)
	a.released = true // the engine stays known: a flight that outlives this configuration still tells it how it ended
	return releaseEngine()
}

// Interface guards.
var (
	_ caddy.App          = (*App)(nil)
	_ caddy.Provisioner  = (*App)(nil)
	_ caddy.CleanerUpper = (*App)(nil)
)
