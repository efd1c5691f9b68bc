package caddyoauth

import (
	"fmt"
	"maps"
	"slices"
	"sync"

	"go.uber.org/zap"

	"github.com/caddyoauth/caddyoauth/internal/connection"
)

// activeConnection is a connection of a running configuration: its source with what this configuration says about it.
type activeConnection struct {
	name      string
	key       sourceKey
	source    *connection.Source
	settings  *connection.Settings
	injection *injection
	allow     *hostList // nil = the upstreams of the reverse_proxy
	config    string    // digest of the configuration, to tell whether two inline connections are the same
}

// activeSet holds the connections of one configuration by name. Inline connections join it while handlers are provisioned.
type activeSet struct {
	mu       sync.Mutex // guards the fields below
	byName   map[string]*activeConnection
	warnings []string // what the status should show besides the connections
}

func (s *activeSet) get(name string) (*activeConnection, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	active, ok := s.byName[name]
	return active, ok
}

func (s *activeSet) put(active *activeConnection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byName[active.name] = active
}

// all returns the connections, sorted by name.
func (s *activeSet) all() []*activeConnection {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*activeConnection
	for _, name := range slices.Sorted(maps.Keys(s.byName)) {
		all = append(all, s.byName[name])
	}
	return all
}

// addConnection builds and wires one connection. The same inline connection may be added many times.
func (a *App) addConnection(name string, config *Connection) (*activeConnection, error) {
	if config == nil {
		return nil, fmt.Errorf("connection %q has no options", name)
	}
	digest, err := digestOf(config)
	if err != nil {
		return nil, err
	}
	if known, ok := a.active.get(name); ok {
		if known.config != digest {
			return nil, fmt.Errorf("connection %q is configured twice, differently; give each a name of its own", name)
		}
		return known, nil
	}
	b, err := config.build(name)
	if err != nil {
		return nil, err
	}
	key := sourceKey{storage: a.storageID, id: b.id, fingerprint: b.fingerprint}
	active := &activeConnection{
		name: name, key: key, source: a.engine.source(key), injection: b.injection, allow: b.allow, config: digest,
		settings: connection.Settings{
			Store: a.store, Client: b.client, Breaker: a.engine.breaker(b.endpoint), Tasks: a.tasks,
			Observe: a.observe, Policy: b.policy, Grant: b.grant, Nonce: a.engine.nonce,
		}.Complete(),
	}
	a.active.put(active)
	return active, nil
}

// settingsOf returns this configuration's settings for a source; nil when it does not have it or is closed.
func (a *App) settingsOf(key sourceKey) *connection.Settings {
	if a.tasks.Closed() {
		return nil
	}
	a.active.mu.Lock()
	defer a.active.mu.Unlock()
	for _, active := range a.active.byName {
		if active.key == key {
			return active.settings
		}
	}
	return nil
}

// warn keeps a sentence for the status and logs it, once for each configuration.
func (s *activeSet) warn(logger *zap.Logger, sentence string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.Contains(s.warnings, sentence) {
		return
	}
	s.warnings = append(s.warnings, sentence)
	logger.Warn(sentence)
}

// warned returns the sentences that were kept.
func (s *activeSet) warned() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.warnings)
}
