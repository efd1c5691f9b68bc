package caddyoauth

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"
)

// StoredConnections lets connections, certificates, collections and API keys be made at run time, through the API. They are kept
// sealed in storage, and every instance that shares it has them within seconds. `oauth2_inject` names such a connection as it names
// a configured one; a configured connection of the same name wins.
//
// With it, a name that is not configured is no error at load any more: it may be made later. Until then requests get a 403.
type StoredConnections struct {
	// PollInterval is how often this instance looks for what others made. Default: 2s.
	PollInterval caddy.Duration `json:"poll_interval,omitempty"`
	// MaxConnections bounds the connections of each tenant. Default: 0, which is no bound.
	MaxConnections int `json:"max_connections,omitempty"`
	// Endpoints are the only hosts where the endpoints of stored connections may be: `host`, `host:port`, `*.domain` or a CIDR range.
	// Default: all with a public address, over https.
	Endpoints []string `json:"endpoints,omitempty"`
	// Subjects are the only texts that a stored connection may have as its subject. Default: `{http.auth.user.id}` alone, since another
	// placeholder could make anything of a request, such as its cookies, a name that is shown.
	Subjects []string `json:"subjects,omitempty"`
}

// minPoll keeps polling from becoming a load.
const minPoll = 100 * time.Millisecond

// errNoStored means that nothing can be made at run time here.
var errNoStored = errors.New("connections cannot be made at run time; add stored_connections to the global option oauth2_inject")

// provisionStored settles the bounds of what may be made at run time, and takes over what this process knows already.
func (a *App) provisionStored(keysID string) error {
	if a.Environment != "" && !isEntryName(a.Environment) {
		return fmt.Errorf("environment: %q is not a name", a.Environment)
	}
	if a.Stored == nil {
		return nil
	}
	if poll := time.Duration(a.Stored.PollInterval); poll != 0 && poll < minPoll || a.Stored.MaxConnections < 0 {
		return fmt.Errorf("stored_connections: poll_interval must be at least %s, and max_connections not negative", minPoll)
	}
	a.limits = limits{subjects: a.Stored.Subjects, maxConnections: a.Stored.MaxConnections}
	if len(a.limits.subjects) == 0 {
		a.limits.subjects = []string{defaultIdentity}
	}
	if len(a.Stored.Endpoints) > 0 {
		r := &resolver{repl: caddy.NewReplacer()}
		hosts := r.texts("endpoints", a.Stored.Endpoints)
		list, err := newHostList(hosts)
		if err = errors.Join(append(r.faults, err)...); err != nil {
			return fmt.Errorf("stored_connections: endpoints: %w", err)
		}
		a.limits.endpoints = list
	}
	a.catalog = a.engine.catalog(keysID)
	a.poller = newWorker()
	return nil
}

// poll follows what other instances make, until ctx ends.
func (a *App) poll(ctx context.Context) {
	interval := time.Duration(a.Stored.PollInterval)
	if interval == 0 {
		interval = defaultPoll
	}
	failing := false
	for {
		err := a.follow(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !failing:
			a.logger.Error("what was made at run time cannot be read; going on with what is known", zap.Error(err), zap.String("hint", unreadableHint(err)))
		case err == nil && failing:
			a.logger.Info("what was made at run time can be read again")
		}
		failing = err != nil
		a.noteKeyUses(ctx)
		timer := time.NewTimer(interval)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// follow reads what has changed in storage and puts it to use.
func (a *App) follow(ctx context.Context) error {
	if a.catalog == nil {
		return nil
	}
	err := a.catalog.sync(ctx, a.store)
	a.activate()
	a.warnOfClashes()
	return err
}

// spread has the other configurations of this process know what was changed: during a reload there are two, and whoever changed
// something may be answered by the other one next.
func (a *App) spread(ctx context.Context) {
	for _, other := range a.engine.sharing(a) {
		if other.catalog == a.catalog {
			other.activate()
		} else if err := other.follow(ctx); err != nil && ctx.Err() == nil {
			other.logger.Warn("what was changed at run time is known a little later", zap.Error(err))
		}
	}
}

// warnOfClashes names what is configured as well. Connections that are written inline are known last, so it is looked at again and again.
func (a *App) warnOfClashes() {
	for _, name := range a.active.clashes() {
		a.active.warn(a.logger, fmt.Sprintf("connection %q is stored as well as configured; the configured one is used", name))
	}
}

// activate puts what the catalog knows to use: every connection in each of its environments. What has not changed stays as it is.
func (a *App) activate() {
	a.active.applying.Lock()
	defer a.active.applying.Unlock()
	entries, version := a.catalog.all()
	if version == a.active.storedVersion() {
		return
	}
	byID := make(map[string]*entry, len(entries))
	for _, e := range entries {
		byID[e.ID] = e
	}
	next := make(map[string]*activeConnection)
	faults := make(map[string]error)
	for _, e := range entries {
		if e.Kind != kindOAuth2 {
			continue
		}
		for _, environment := range environmentsOf(e) {
			c, err := a.activateOne(e, environment, func(id string) *entry { return byID[id] })
			name := fullName(e.Tenant, e.Name, environment, e.BaseEnvironment)
			if err != nil {
				if old := a.active.fault(name); old == nil || old.Error() != err.Error() {
					a.logger.Error("a stored connection cannot be used", zap.String("connection", name), zap.Error(err))
				}
				faults[name] = err
				continue
			}
			next[name] = c
		}
	}
	a.active.setStored(next, faults, version)
	a.engine.changes.Add(1)
	a.engine.prune()
	a.wake()
}

// activateOne wires a stored connection in one environment, or returns the one that is in use if it is the same.
func (a *App) activateOne(e *entry, environment string, find func(id string) *entry) (*activeConnection, error) {
	b, said, err := a.buildStored(e, environment, find)
	if err != nil {
		return nil, err
	}
	parts := []any{indexedOf(e), environment}
	for _, id := range said.certificates() {
		if held := find(id); held != nil {
			parts = append(parts, indexedOf(held))
		}
	}
	digest, err := digestOf(parts)
	if err != nil {
		return nil, err
	}
	name := fullName(e.Tenant, e.Name, environment, e.BaseEnvironment)
	if known, ok := a.active.getStored(name); ok && known.config == digest {
		return known, nil
	}
	c := a.wired(name, b, said.Subject)
	c.config, c.entry, c.environment = digest, e, environment
	return c, nil
}

func (s *activeSet) getStored(name string) (*activeConnection, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.stored[name]
	return c, ok
}

// storedVersion returns the version of the catalog that the stored connections are of; 0 = none yet.
func (s *activeSet) storedVersion() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.version
}

func (s *activeSet) setStored(stored map[string]*activeConnection, faults map[string]error, version uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stored, s.faults, s.version = stored, faults, version
	for _, c := range stored {
		delete(s.wiring, c.key)
	}
}

// fault returns why a stored connection cannot be used; nil when it can, or when there is none.
func (s *activeSet) fault(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.faults[name]
}

// clashes returns the names that are configured as well as stored.
func (s *activeSet) clashes() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var both []string
	for name := range s.stored {
		if _, configured := s.byName[name]; configured {
			both = append(both, name)
		}
	}
	slices.Sort(both)
	return both
}
