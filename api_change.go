package caddyoauth

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"reflect"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/caddyoauth/caddyoauth/internal/api"
	"github.com/caddyoauth/caddyoauth/internal/connection"
)

// deleteWait bounds how long the answer to a removal waits until all token sets have ended.
const deleteWait = 45 * time.Second

// Update implements api.Secrets.
func (s apiService) Update(ctx context.Context, at api.Target, draft api.Draft) (api.SecretDetail, error) {
	known, err := s.changeable(at.ID)
	if err != nil {
		return api.SecretDetail{}, err
	}
	made, err := s.put(ctx, entryKey(known.Tenant, known.Kind.space(), known.Name), func(current *entry) (*entry, error) {
		if current == nil || current.ID != at.ID {
			return nil, api.NotFound()
		}
		if at.Revision != 0 && current.Revision != at.Revision {
			return nil, errRevision
		}
		return s.altered(current, at.By, draft)
	})
	if err != nil {
		return api.SecretDetail{}, asAPI(err)
	}
	s.fetchFirst(ctx, made)
	return s.detail(ctx, held{entry: made}), nil
}

// changeable returns the entry that a change is about. What is configured is changed in the configuration.
func (s apiService) changeable(id string) (*entry, error) {
	if e := s.entryByID(id); e != nil {
		return e, nil
	}
	for _, c := range s.active.all() {
		if c.entry == nil && configuredID(c) == id {
			return nil, api.Conflict("%q comes from the configuration of the server, and is changed there", c.name)
		}
	}
	return nil, api.NotFound()
}

// altered returns an entry as a draft changes it.
func (s apiService) altered(current *entry, by string, draft api.Draft) (*entry, error) {
	next := *current
	next.UpdatedBy = by
	wrong := faults(slices.Clone(draft.Faults))
	if draft.SecretType != "" && draft.SecretType != string(current.Kind) {
		wrong.add("secret_type", "cannot be changed")
	}
	fields := maps.Clone(draft.Fields)
	if _, said := fields["name"]; said && wrong.name(fields) != current.Name {
		wrong.add("name", "cannot be changed: the tokens are kept under it")
	}
	if draft.Collection != nil {
		next.Collection = *draft.Collection
	}
	if next.Kind == kindCertificate {
		draftCertificate(&next, fields, &wrong)
		return &next, wrong.err()
	}
	if _, said := fields["description"]; said {
		next.Note = wrong.text(fields, "description")
	}
	if _, said := fields["base_environment"]; said && wrong.text(fields, "base_environment") != current.BaseEnvironment {
		wrong.add("base_environment", "cannot be changed: the tokens are kept under it")
	}
	environments := wrong.environments(fields)
	all := current.Options.reveal()
	wrong.apply(all, fields, "", func(use) bool { return true })
	next.Options = newEntryOptions(all)
	s.overrides(&next, environments, &wrong)
	s.checkConnection(&next, &wrong)
	wrong.checkMoves(current, &next, draft.Fields)
	return &next, wrong.err()
}

// checkMoves refuses a change that would send a secret, which its owner alone knows, to another place: whoever changes where it goes has
// to bring it along. So a role that may change a connection is no way to read what it keeps.
func (f *faults) checkMoves(current, next *entry, said map[string]json.RawMessage) {
	var environments map[string]map[string]json.RawMessage
	_ = json.Unmarshal(said["environments"], &environments) // was read before
	for _, environment := range append([]string{next.BaseEnvironment}, slices.Sorted(maps.Keys(next.Environments))...) {
		before, after := places(current, environment), places(next, environment)
		if reflect.DeepEqual(before, after) {
			continue
		}
		overrides := next.Environments[environment] // none of the base environment
		secrets := 0
		for _, name := range hiddenOptions {
			field, given := name, said[name]
			if _, own := overrides.hidden[name]; own {
				field, given = "environments."+environment+"."+name, environments[environment][name]
			} else if _, has := next.Options.hidden[name]; !has {
				continue
			}
			if secrets++; given == nil {
				f.add(field, "is required again, since the change would send it to another place")
			}
		}
		if secrets == 0 {
			f.add("environments."+environment, "has no secret to confirm another endpoint or host with; make a new connection")
		}
	}
}

// places returns what says where secrets and tokens go.
func places(e *entry, environment string) map[string]any {
	out := make(map[string]any)
	for _, options := range []entryOptions{e.Options, e.Environments[environment]} {
		for name, raw := range options.open {
			if u := storedUses[name]; u != usePlace && u != useOverride {
				continue
			}
			var value any
			_ = json.Unmarshal(raw, &value) // what is stored is JSON
			out[name] = value
		}
		if raw, ok := options.hidden["test_call"]; ok {
			out["test_call"] = raw.Digest() // it may hold a secret, and says where the token goes
		}
	}
	return out
}

// Delete implements api.Secrets. Tokens end before the secret does, so that a removal that broke off can be tried again.
func (s apiService) Delete(ctx context.Context, at api.Target) (api.Ended, error) {
	known, err := s.changeable(at.ID)
	if err != nil {
		return api.Ended{}, err
	}
	if at.Revision != 0 && known.Revision != at.Revision {
		return api.Ended{}, api.Stale()
	}
	if used := s.users(known); used != "" {
		return api.Ended{}, api.Conflict("%q is in use by %q", known.Name, used)
	}
	ended := api.Ended{ID: known.ID}
	for _, c := range s.activeOf(known) {
		if err := s.endAll(ctx, c, at.By, &ended); err != nil {
			return api.Ended{}, asAPI(err)
		}
	}
	if ended.StillRunning > 0 {
		return api.Ended{}, api.Unavailable(time.Second, "not all tokens could be ended in time; try again")
	}
	_, err = s.put(ctx, entryKey(known.Tenant, known.Kind.space(), known.Name), func(current *entry) (*entry, error) {
		if current == nil || current.ID != at.ID {
			return nil, api.NotFound()
		}
		if at.Revision != 0 && current.Revision != at.Revision {
			return nil, errRevision
		}
		return nil, nil
	})
	ended.Deleted = err == nil
	return ended, asAPI(err)
}

// users returns the name of a connection that uses a certificate; "" if none does.
func (s apiService) users(certificate *entry) string {
	for _, e := range s.entries() {
		for _, options := range append(slices.Collect(maps.Values(e.Environments)), e.Options) {
			var key SigningKey
			_ = json.Unmarshal(options.open["client_key"], &key) // none has no ID
			if id := certificate.ID; options.text("mtls_certificate_id") == id || options.text("ca_certificate_id") == id || key.ID == id {
				return e.Name
			}
		}
	}
	return ""
}

// activeOf returns the connections that an entry is in use as, one for each environment.
func (a *App) activeOf(e *entry) []*activeConnection {
	var all []*activeConnection
	for _, environment := range append([]string{""}, slices.Sorted(maps.Keys(e.Environments))...) {
		if c, ok := a.active.getStored(fullName(e.Tenant, e.Name, environment, e.BaseEnvironment)); ok && c.entry.ID == e.ID {
			all = append(all, c)
		}
	}
	return all
}

// endAll ends every token set of a connection, and removes what is stored of it.
func (a *App) endAll(ctx context.Context, c *activeConnection, by string, ended *api.Ended) error {
	if _, clash := a.active.configured(c.name); clash {
		return nil // what is stored under the name is the configured connection's
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), deleteWait)
	defer cancel()
	for _, key := range a.keysOf(ctx, c) {
		if ctx.Err() != nil {
			ended.StillRunning++
			continue
		}
		if c.needsPerson() {
			told, err := a.end(ctx, c, a.engine.source(key), by)
			switch {
			case err != nil:
				return err
			case told || !c.consent.revocable:
				ended.Revoked++
			default:
				ended.NotTold++
			}
		}
		if err := a.store.forget(ctx, key.id); err != nil {
			return err
		}
	}
	return nil
}

// keysOf returns the keys of all token sets of a connection.
func (a *App) keysOf(ctx context.Context, c *activeConnection) []sourceKey {
	if c.subject == "" {
		return []sourceKey{c.key}
	}
	var keys []sourceKey
	unreadable, err := a.store.each(ctx, c.key.id, func(rec connection.Record) error {
		if key := c.key; rec.ID.Subject != "" {
			key.id.Subject = rec.ID.Subject
			keys = append(keys, key)
		}
		return nil
	})
	if err != nil || unreadable > 0 {
		a.logger.Warn("not all token sets of a connection can be read", zap.String("connection", c.name), zap.Int("unreadable", unreadable), zap.Error(err))
	}
	return keys
}

// forget removes everything that is stored of an ID.
func (s *recordStore) forget(ctx context.Context, id connection.ID) error {
	if err := s.forgetHistory(ctx, id); err != nil {
		return err
	}
	key := recordKey(id)
	if err := s.remove(ctx, key); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
