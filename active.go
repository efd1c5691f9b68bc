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

	"github.com/caddyoauth/caddyoauth/internal/api"
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

	audit       func(api.AuditEvent)
	entry       *entry // what it was made from at run time; nil = it is configured
	environment string // of the entry
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
	applying sync.Mutex // one at a time puts the catalog to use
	mu       sync.Mutex // guards the fields below
	byName   map[string]*activeConnection
	warnings []string // what the status should show besides the connections
	offers   []offer  // where people can connect their accounts

	wiring  map[sourceKey]*connection.Settings // of connections that are not in a map yet, but may have a source
	stored  map[string]*activeConnection       // made at run time; byName counts first
	faults  map[string]error                   // of those that cannot be used
	version uint64                             // of the catalog that stored is of
}

// offer is a place where connections can be connected.
type offer struct {
	base        string // scheme and host, where they are said; "" = those of a request
	path        string
	connections []string // empty = all that people authorize, but for those of tenants
}

// offer makes known where connections can be connected.
func (s *activeSet) offer(o offer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.offers = append(s.offers, o)
}

// has reports whether a connection can be connected there. One of a tenant has to be named: its name is nobody else's business.
func (o offer) has(c *activeConnection) bool {
	if len(o.connections) == 0 {
		return c.entry == nil || c.entry.Tenant == ""
	}
	return slices.Contains(o.connections, c.name)
}

// offerOf returns where a connection can be connected.
func (s *activeSet) offerOf(c *activeConnection) (offer, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.offers, func(o offer) bool { return o.has(c) })
	if i < 0 {
		return offer{}, false
	}
	return s.offers[i], true
}

// redirectURI returns what to register at the provider, as far as it is known without a request; nil when it is not, or not needed.
func (a *App) redirectURI(c *activeConnection) *string {
	o, ok := a.active.offerOf(c)
	if !ok || o.base == "" || !c.needsPerson() {
		return nil
	}
	return new(o.base + o.path + "/callback")
}

func (s *activeSet) get(name string) (*activeConnection, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	active, ok := s.byName[name]
	if !ok {
		active, ok = s.stored[name]
	}
	return active, ok
}

// configured returns a connection of the configuration.
func (s *activeSet) configured(name string) (*activeConnection, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	active, ok := s.byName[name]
	return active, ok
}

func (s *activeSet) put(active *activeConnection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byName[active.name] = active
	delete(s.wiring, active.key)
}

// expect keeps the sources of a connection that is about to be put to use: another configuration may be dropping at this moment what
// nobody has.
func (s *activeSet) expect(active *activeConnection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wiring == nil {
		s.wiring = make(map[sourceKey]*connection.Settings)
	}
	s.wiring[active.key] = active.settings
}

// all returns the connections, sorted by name.
func (s *activeSet) all() []*activeConnection {
	s.mu.Lock()
	defer s.mu.Unlock()
	merged := maps.Clone(s.stored)
	if merged == nil {
		merged = make(map[string]*activeConnection, len(s.byName))
	}
	maps.Copy(merged, s.byName)
	var all []*activeConnection
	for _, name := range slices.Sorted(maps.Keys(merged)) {
		all = append(all, merged[name])
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
	if known, ok := a.active.configured(name); ok {
		if known.config != digest {
			return nil, fmt.Errorf("connection %q is configured twice, differently; give each a name of its own", name)
		}
		return known, nil
	}
	b, err := config.build(name)
	if err != nil {
		return nil, err
	}
	active := a.wired(name, b, config.Subject)
	active.config, active.required = digest, config.Required
	a.active.put(active)
	for _, sentence := range b.warnings {
		a.active.warn(a.logger, sentence)
	}
	return active, nil
}

// wired puts a connection together with what it needs of the app.
func (a *App) wired(name string, b *built, subject string) *activeConnection {
	a.share(b.discovery, name)
	key := sourceKey{storage: a.storageID, id: b.id, fingerprint: b.fingerprint}
	active := &activeConnection{
		name: name, key: key, injection: b.injection, allow: b.allow, rules: b.rules,
		subject: subject, consent: b.consent, call: b.call, plain: b.counterpart, blueprint: b.blueprint, engine: a.engine,
		certificate: b.certificate, discovery: b.discovery, meter: a.metrics.meter(name), audit: a.audit,
	}
	settings := connection.Settings{
		Store: a.store, Tasks: a.tasks, Observe: a.observe, Policy: b.policy, Grant: b.grant, Nonce: a.engine.nonce,
		Scopes: b.consent.scopes, FingerprintOf: b.digest, DoorOf: active.doorOf(),
	}
	if b.counterpart != nil {
		settings.Client, settings.Breaker = b.client, a.engine.breaker(b.endpoint)
	}
	active.settings = settings.Complete()
	a.active.expect(active)
	if subject == "" {
		active.source = a.engine.source(key)
	}
	return active
}

// settingsOf returns this configuration's settings for a source; nil when it does not have it or is closed.
func (a *App) settingsOf(key sourceKey) *connection.Settings {
	if a.tasks.Closed() {
		return nil
	}
	key.id.Subject = "" // all subjects of a connection share its settings
	a.active.mu.Lock()
	defer a.active.mu.Unlock()
	for _, set := range []map[string]*activeConnection{a.active.byName, a.active.stored} {
		for _, active := range set {
			if active.key == key {
				return active.settings
			}
		}
	}
	return a.active.wiring[key]
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
