package caddyoauth

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"path"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/caddyoauth/caddyoauth/internal/api"
	"github.com/caddyoauth/caddyoauth/internal/connection"
)

// deleteWait bounds how long the answer to a removal waits until all token sets have ended.
const deleteWait = 45 * time.Second

// Delete implements api.Secrets. Tokens end before the secret does, so that a removal that broke off can be tried again; but none does
// before it is certain that this is what the caller has seen.
func (s apiService) Delete(ctx context.Context, at api.Target) (api.Ended, error) {
	_ = s.follow(ctx) // what another instance has just made of it has tokens as well; storage that fails shows below
	known, err := s.changeable(at.ID)
	if err != nil {
		return api.Ended{}, err
	}
	key := entryKey(known.Tenant, known.Kind.space(), known.Name)
	stored, err := s.store.entry(ctx, key)
	switch {
	case errors.Is(err, connection.ErrNotFound):
		return api.Ended{}, api.NotFound()
	case err != nil:
		return api.Ended{}, asAPI(errors.Join(ErrStorage, err))
	}
	if err := unchanged(stored, at); err != nil {
		return api.Ended{}, asAPI(err)
	}
	ended := api.Ended{ID: stored.ID}
	if stored.Kind == kindOAuth2 {
		if err := s.endConnection(ctx, stored, at.By, &ended); err != nil {
			return api.Ended{}, asAPI(err)
		}
	}
	_, err = s.put(ctx, key, func(current *entry) (*entry, error) {
		if err := unchanged(current, at); err != nil {
			return nil, err
		}
		if len(s.users(current)) > 0 {
			return nil, api.Conflict("%q is in use by a connection", current.Name) // which one is for who may see it
		}
		return nil, nil
	})
	ended.Deleted = err == nil
	return ended, asAPI(err)
}

// users returns the connections that use a certificate.
func (s apiService) users(certificate *entry) []*entry {
	var all []*entry
	for _, e := range s.entries() {
		for _, options := range append(slices.Collect(maps.Values(e.Environments)), e.Options) {
			var key SigningKey
			_ = json.Unmarshal(options.open["client_key"], &key) // none has no ID
			if id := certificate.ID; options.text("mtls_certificate_id") == id || options.text("ca_certificate_id") == id || key.ID == id {
				all = append(all, e)
				break
			}
		}
	}
	return all
}

// checkUsers refuses a change of a certificate that a connection could not be used with any more.
func (s apiService) checkUsers(certificate *entry, wrong *faults) {
	find := func(id string) *entry {
		if id == certificate.ID {
			return certificate
		}
		return s.entryByID(id)
	}
	for _, e := range s.users(certificate) {
		for _, environment := range environmentsOf(e) {
			if _, _, err := s.buildStored(e, environment, s.entryByID); err != nil {
				continue // it cannot be used as it is
			}
			if _, _, err := s.buildStored(e, environment, find); err != nil {
				wrong.add("certificate", "a connection uses it, and could not any more")
				return
			}
		}
	}
}

// environmentsOf returns the environments of a connection, its base environment first.
func environmentsOf(e *entry) []string {
	return append([]string{e.BaseEnvironment}, slices.Sorted(maps.Keys(e.Environments))...)
}

// activeOf returns the connections that an entry is in use as, one for each environment.
func (a *App) activeOf(e *entry) []*activeConnection {
	var all []*activeConnection
	for _, environment := range environmentsOf(e) {
		if c, ok := a.active.getStored(fullName(e.Tenant, e.Name, environment, e.BaseEnvironment)); ok && c.entry.ID == e.ID {
			all = append(all, c)
		}
	}
	return all
}

// endConnection ends every token set of a connection, in all its environments, and removes what is stored of it: also of one that cannot
// be used as it is, whose provider cannot be told. Whoever makes another one of that name begins with nothing.
func (a *App) endConnection(ctx context.Context, e *entry, by string, ended *api.Ended) error {
	for _, c := range a.activeOf(e) {
		if err := a.endAll(ctx, c, by, ended); err != nil {
			return err
		}
	}
	if ended.StillRunning > 0 {
		return api.Unavailable(time.Second, "not all tokens could be ended in time; try again")
	}
	for _, environment := range environmentsOf(e) {
		id := connection.ID{Tenant: e.Tenant, Connection: fullName(e.Tenant, e.Name, environment, e.BaseEnvironment)}
		untold, err := a.forgetConnection(ctx, id)
		if ended.NotTold += untold; err != nil {
			return err
		}
	}
	return nil
}

// endLeft ends the token sets of the environments that a connection has no more.
func (a *App) endLeft(ctx context.Context, before []*activeConnection, now *entry, by string) {
	for _, c := range before {
		if slices.Contains(environmentsOf(now), c.environment) {
			continue
		}
		var ended api.Ended
		err := a.endAll(ctx, c, by, &ended)
		if err == nil {
			_, err = a.forgetConnection(ctx, c.key.id)
		}
		if err != nil || ended.StillRunning > 0 {
			a.logger.Error("tokens of an environment that was removed could not be ended", zap.String("connection", c.name), zap.Error(err))
		}
	}
}

// endAll ends every token set that people have given a connection.
func (a *App) endAll(ctx context.Context, c *activeConnection, by string, ended *api.Ended) error {
	if _, clash := a.active.configured(c.name); clash || !c.needsPerson() {
		return nil // what is stored under the name is the configured connection's
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), deleteWait)
	defer cancel()
	for _, key := range a.keysOf(ctx, c) {
		if ctx.Err() != nil {
			ended.StillRunning++
			continue
		}
		told, err := a.end(ctx, c, a.engine.source(key), by)
		switch {
		case err != nil:
			return err
		case told || !c.consent.revocable:
			ended.Revoked++
		default:
			ended.NotTold++
		}
		if err := a.store.remove(ctx, recordKey(key.id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// keysOf returns the keys of all token sets that are stored of a connection: also of those from before its subject was changed.
func (a *App) keysOf(ctx context.Context, c *activeConnection) []sourceKey {
	var keys []sourceKey
	unreadable, err := a.store.each(ctx, c.key.id, func(rec connection.Record) error {
		key := c.key
		key.id.Subject = rec.ID.Subject
		keys = append(keys, key)
		return nil
	})
	if err != nil || unreadable > 0 {
		a.logger.Warn("not all token sets of a connection can be read", zap.String("connection", c.name), zap.Int("unreadable", unreadable), zap.Error(err))
	}
	return keys
}

// forgetConnection removes everything that is stored of a connection, and counts the consents that nobody has ended. What is stored under
// the name of a configured connection is that one's.
func (a *App) forgetConnection(ctx context.Context, id connection.ID) (untold int, err error) {
	if _, clash := a.active.configured(id.Connection); clash {
		return 0, nil
	}
	ctx = context.WithoutCancel(ctx)
	if _, err := a.store.each(ctx, id, func(rec connection.Record) error {
		if rec.Current.Consent != nil && !rec.Status.NeedsPerson() {
			untold++
		}
		return nil
	}); err != nil {
		return 0, err
	}
	keys, err := a.store.list(ctx, connectionDir(id), true)
	if err != nil {
		return untold, err
	}
	for _, key := range keys {
		if path.Ext(key) != recordsExt {
			continue
		}
		if err := a.store.remove(ctx, key); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return untold, err
		}
	}
	return untold, nil
}
