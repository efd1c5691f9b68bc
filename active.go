package caddyoauth

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/caddyoauth/caddyoauth/internal/connection"
	"github.com/caddyoauth/caddyoauth/internal/oauth"
)

// activeConnection is a connection of a running configuration: its source with what this configuration says about it.
type activeConnection struct {
	name      string
	key       sourceKey          // with an empty subject
	source    *connection.Source // of the empty subject; nil when each subject has its own
	settings  *connection.Settings
	injection *injection
	allow     *hostList // nil = the upstreams of the reverse_proxy
	rules     ruleSet   // which requests the token may travel with
	config    string    // digest of the configuration, to tell whether two inline connections are the same
	subject   string    // template that says whose token a request travels with; "" = one for all
	consent   consent
	call      *testCall    // nil = there is none
	plain     *counterpart // nil when it depends on the person
	blueprint *blueprint   // nil when it does not
	discovery *discovery   // nil where the endpoints are configured
	engine    *engine
	required  bool // it counts for the health of this Caddy
	meter     *meter

	certificate     *oauth.Certificate // of the client; nil = none
	certificateEnds atomic.Int64       // unix seconds, as its file said last; 0 = not known
}

// maxSubject bounds a subject, which a request gives.
const maxSubject = 512

// forSubject returns the source of one subject. An empty or unknown subject is refused: it would be somebody else's token.
func (c *activeConnection) forSubject(repl *caddy.Replacer) (*connection.Source, error) {
	if c.subject == "" {
		return c.source, nil
	}
	subject, err := repl.ReplaceOrErr(c.subject, true, true)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoSubject, err)
	}
	key, err := c.keyOf(subject)
	if err != nil {
		return nil, err
	}
	return c.engine.source(key), nil
}

// keyOf returns the key of a subject's source.
func (c *activeConnection) keyOf(subject string) (sourceKey, error) {
	key := c.key
	key.id.Subject = subject
	if (subject == "") != (c.subject == "") || len(subject) > maxSubject || !utf8.ValidString(subject) {
		return sourceKey{}, errNoSubject
	}
	return key, nil
}

// allowed returns who may receive a token set's token; nil = the upstreams of the reverse_proxy.
func (c *activeConnection) allowed(p *connection.Published) *hostList {
	if c.injection.hosts == nil {
		return c.allow
	}
	return c.injection.rendition(p).allow
}

// needsPerson reports whether the connection is one that people authorize.
func (c *activeConnection) needsPerson() bool { return c.settings.NeedsPerson() }

// activeSet holds the connections of one configuration by name. Inline connections join it while handlers are provisioned.
type activeSet struct {
	mu       sync.Mutex // guards the fields below
	byName   map[string]*activeConnection
	warnings []string // what the status should show besides the connections
	offers   []offer  // where people can connect their accounts
}

// offer is a place where connections can be connected.
type offer struct {
	path        string
	connections []string // empty = all that people authorize
}

// offer makes known where connections can be connected.
func (s *activeSet) offer(path string, connections []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.offers = append(s.offers, offer{path: path, connections: connections})
}

// connectPath returns where a connection can be connected; "" when nowhere.
func (s *activeSet) connectPath(name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.offers {
		if len(o.connections) == 0 || slices.Contains(o.connections, name) {
			return o.path
		}
	}
	return ""
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
	a.share(b.discovery, name)
	key := sourceKey{storage: a.storageID, id: b.id, fingerprint: b.fingerprint}
	active := &activeConnection{
		name: name, key: key, injection: b.injection, allow: b.allow, rules: b.rules, config: digest,
		subject: config.Subject, consent: b.consent, call: b.call, plain: b.counterpart, blueprint: b.blueprint, engine: a.engine,
		certificate: b.certificate, discovery: b.discovery, meter: a.metrics.meter(name), required: config.Required,
	}
	settings := connection.Settings{
		Store: a.store, Tasks: a.tasks, Observe: a.observe, Policy: b.policy, Grant: b.grant, Nonce: a.engine.nonce,
		Scopes: b.consent.scopes, FingerprintOf: b.digest, DoorOf: active.doorOf(),
	}
	if b.counterpart != nil {
		settings.Client, settings.Breaker = b.client, a.engine.breaker(b.endpoint)
	}
	active.settings = settings.Complete()
	if config.Subject == "" {
		active.source = a.engine.source(key)
	}
	a.active.put(active)
	for _, sentence := range b.warnings {
		a.active.warn(a.logger, sentence)
	}
	return active, nil
}

// settingsOf returns this configuration's settings for a source; nil when it does not have it or is closed.
func (a *App) settingsOf(key sourceKey) *connection.Settings {
	if a.tasks.Closed() {
		return nil
	}
	key.id.Subject = "" // all subjects of a connection share its settings
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
