package caddyoauth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/caddyoauth/caddyoauth/internal/connection"
)

// One account, one owner. Who connects an account that somebody else has connected already, or a second time, should know: many
// servers end what was granted before, or end both when one is revoked, and two holders of one refresh token that rotates end each
// other for certain. So it is noted, sealed, who holds which account: by what the test call or an ID token said, and by the refresh
// token that the consent began with. A note is a hint, the records are the truth: it is checked against them whenever it is read.

// Owner names a token set by whose it is.
type Owner struct {
	Connection string `json:"connection"`
	Subject    string `json:"subject,omitempty"`
}

const (
	ownersTimeout = 10 * time.Second
	maxOwners     = 50 // of one account
)

// ownersV1 is the stored form of a note.
type ownersV1 struct {
	Version int     `json:"version"`
	Owners  []Owner `json:"owners"`
}

// claims returns the keys of the notes about the account of a consent.
func (c *activeConnection) claims(consent *connection.Consent) []string {
	if consent == nil {
		return nil
	}
	server, err := c.counterpart(consent)
	if err != nil {
		return nil
	}
	var keys []string
	for kind, value := range map[string]string{"account": consent.AccountID, "origin": consent.Origin} {
		if value != "" {
			keys = append(keys, accountKey(c.key.id.Tenant, server.endpoint, c.consent.clientID, kind+" "+value))
		}
	}
	return keys
}

// sameAccount reports whether two consents are about one account at one server; the server is part of where notes are kept.
func sameAccount(a, b *connection.Consent) bool {
	return a.AccountID != "" && a.AccountID == b.AccountID || sameOrigin(a, b)
}

// sameOrigin reports whether two consents began with one and the same refresh token.
func sameOrigin(a, b *connection.Consent) bool { return a.Origin != "" && a.Origin == b.Origin }

// holding is what others have to do with an account.
type holding struct {
	owners    []Owner // who else holds it
	sameToken bool    // one of them by the same refresh token
}

// others returns who else holds the account of a consent.
func (a *App) others(ctx context.Context, c *activeConnection, id connection.ID, consent *connection.Consent) (holding, error) {
	var found holding
	for _, key := range c.claims(consent) {
		noted, err := a.store.noted(ctx, key)
		if err != nil {
			return holding{}, err
		}
		for _, owner := range noted {
			if (owner == Owner{id.Connection, id.Subject}) || slices.Contains(found.owners, owner) {
				continue
			}
			rec, err := a.store.Load(ctx, connection.ID{Tenant: id.Tenant, Connection: owner.Connection, Subject: owner.Subject})
			if err != nil || rec.Status.NeedsPerson() || rec.Current.Consent == nil || !sameAccount(rec.Current.Consent, consent) {
				continue
			}
			found.owners = append(found.owners, owner)
			found.sameToken = found.sameToken || sameOrigin(rec.Current.Consent, consent)
		}
	}
	return found, nil
}

// settleOwners brings the notes up to date after a consent has changed, and says who else holds the account. before is nil when there
// was none. Notes that cannot be kept cost no connection.
func (a *App) settleOwners(ctx context.Context, c *activeConnection, source *connection.Source, before *connection.Consent) holding {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ownersTimeout)
	defer cancel()
	id := source.ID()
	state, err := source.Peek(ctx, c.settings)
	var found holding
	if err == nil {
		found, err = a.renote(ctx, c, state, before)
	}
	fields := []zap.Field{zap.String("connection", id.Connection), zap.String("subject", id.Digest())}
	if err != nil {
		a.logger.Warn("could not find out who else holds an account", append(fields, zap.Error(err))...)
	}
	if len(found.owners) > 0 {
		var others []string
		for _, owner := range found.owners {
			others = append(others, owner.Connection+" "+connection.ID{Tenant: id.Tenant, Connection: owner.Connection, Subject: owner.Subject}.Digest())
		}
		a.logger.Warn("the same account is connected more than once", append(fields, zap.Strings("also", others), zap.Bool("same_refresh_token", found.sameToken))...)
	}
	return found
}

// renote takes a token set out of the notes about the account that it had, and puts it into those about the one that it has.
func (a *App) renote(ctx context.Context, c *activeConnection, state connection.State, before *connection.Consent) (holding, error) {
	owner := Owner{state.ID.Connection, state.ID.Subject}
	has := c.claims(state.Consent)
	for _, key := range c.claims(before) {
		if slices.Contains(has, key) {
			continue
		}
		if err := a.store.note(ctx, key, func(all []Owner) []Owner { return without(all, owner) }); err != nil {
			return holding{}, err
		}
	}
	for _, key := range has {
		err := a.store.note(ctx, key, func(all []Owner) []Owner {
			all = slices.DeleteFunc(all, func(other Owner) bool { return other != owner && !a.holds(ctx, state, other) })
			if !slices.Contains(all, owner) && len(all) < maxOwners {
				all = append(all, owner)
			}
			return all
		})
		if err != nil {
			return holding{}, err
		}
	}
	return a.others(ctx, c, state.ID, state.Consent)
}

// holds reports whether another one may still hold the account of this state. One that cannot be read may.
func (a *App) holds(ctx context.Context, state connection.State, other Owner) bool {
	rec, err := a.store.Load(ctx, connection.ID{Tenant: state.ID.Tenant, Connection: other.Connection, Subject: other.Subject})
	if err != nil {
		return !errors.Is(err, connection.ErrNotFound)
	}
	return rec.Current.Consent != nil && sameAccount(rec.Current.Consent, state.Consent)
}

func without(all []Owner, owner Owner) []Owner {
	return slices.DeleteFunc(all, func(other Owner) bool { return other == owner })
}

// noted returns who is in a note.
func (s *recordStore) noted(ctx context.Context, key string) ([]Owner, error) {
	plain, err := s.unseal(ctx, key)
	if errors.Is(err, connection.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var note ownersV1
	if err := json.Unmarshal(plain, &note); err != nil || note.Version != 1 {
		return nil, fmt.Errorf("%w: it is not of a known form", connection.ErrUnreadable)
	}
	return note.Owners, nil
}

// note changes a note under its lock. One that nobody is in is removed.
func (s *recordStore) note(ctx context.Context, key string, change func([]Owner) []Owner) error {
	lock := accountLock(key)
	if err := s.storage.Lock(ctx, lock); err != nil {
		return err
	}
	defer func() { _ = s.storage.Unlock(context.WithoutCancel(ctx), lock) }()
	before, err := s.noted(ctx, key) // under the lock, the first thing is to load again
	if err != nil {
		return err
	}
	after := change(slices.Clone(before))
	switch {
	case slices.Equal(before, after):
		return nil
	case len(after) == 0:
		if err := s.remove(ctx, key); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	plain, err := json.Marshal(ownersV1{Version: 1, Owners: after})
	if err != nil {
		return err
	}
	return s.seal(ctx, key, plain)
}
