package caddyoauth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/api"
)

// apiCollections are the collections, as the REST API wants them.
type apiCollections struct{ *App }

// List implements api.Collections.
func (s apiCollections) List(ctx context.Context) ([]api.Collection, error) {
	if err := s.awaitStored(ctx); err != nil {
		return nil, err
	}
	entries := s.entries()
	var all []api.Collection
	for _, e := range entries {
		if e.Kind == kindCollection {
			all = append(all, s.collectionOf(e))
		}
	}
	slices.SortFunc(all, func(a, b api.Collection) int { return strings.Compare(a.Tenant+"/"+a.Name, b.Tenant+"/"+b.Name) })
	return all, nil
}

func (s apiCollections) collectionOf(e *entry) api.Collection {
	out := api.Collection{ID: e.ID, Name: e.Name, Description: e.Note, Tenant: e.Tenant, CreatedAt: e.CreatedAt, UpdatedAt: e.UpdatedAt, Revision: e.Revision}
	for _, other := range s.entries() {
		if other.Collection == e.ID {
			out.Secrets++
		}
	}
	return out
}

// Create implements api.Collections.
func (s apiCollections) Create(ctx context.Context, by string, draft api.CollectionDraft) (api.Collection, error) {
	if s.catalog == nil {
		return api.Collection{}, asAPI(errNoStored)
	}
	e := &entry{Kind: kindCollection, Tenant: draft.Tenant, CreatedBy: by, UpdatedBy: by}
	var wrong faults
	e.Name = wrong.nameOf(draft.Name)
	if draft.Description != nil {
		e.Note = *draft.Description
	}
	if err := wrong.err(); err != nil {
		return api.Collection{}, err
	}
	made, err := s.make(ctx, e)
	if err != nil {
		return api.Collection{}, err
	}
	return s.collectionOf(made), nil
}

// nameOf is name for one that was read already.
func (f *faults) nameOf(name *string) string {
	text := ""
	if name != nil {
		text = *name
	}
	raw, _ := json.Marshal(text) // a text always encodes
	return f.name(map[string]json.RawMessage{"name": raw})
}

// make stores a new entry, unless its name is taken.
func (a *App) make(ctx context.Context, e *entry) (*entry, error) {
	made, err := a.put(ctx, entryKey(e.Tenant, e.Kind.space(), e.Name), func(current *entry) (*entry, error) {
		if current != nil {
			return nil, errNameTaken
		}
		e.ID = newID()
		return e, a.room(e)
	})
	return made, asAPI(err)
}

// replace changes or removes an entry that is still as the caller has seen it.
func (a *App) replace(ctx context.Context, at api.Target, alter func(*entry) *entry) (*entry, error) {
	known := a.entryByID(at.ID)
	if known == nil {
		return nil, api.NotFound()
	}
	made, err := a.put(ctx, entryKey(known.Tenant, known.Kind.space(), known.Name), func(current *entry) (*entry, error) {
		if current == nil || current.ID != at.ID {
			return nil, api.NotFound()
		}
		if at.Revision != 0 && current.Revision != at.Revision {
			return nil, errRevision
		}
		return alter(current), nil
	})
	return made, asAPI(err)
}

// Update implements api.Collections.
func (s apiCollections) Update(ctx context.Context, at api.Target, draft api.CollectionDraft) (api.Collection, error) {
	known := s.entryByID(at.ID)
	var wrong faults
	if known != nil && draft.Name != nil && wrong.nameOf(draft.Name) != known.Name {
		wrong.add("name", "cannot be changed; the ID stays the same anyway")
	}
	if err := wrong.err(); err != nil {
		return api.Collection{}, err
	}
	made, err := s.replace(ctx, at, func(current *entry) *entry {
		next := *current
		if next.UpdatedBy = at.By; draft.Description != nil {
			next.Note = *draft.Description
		}
		return &next
	})
	if err != nil {
		return api.Collection{}, err
	}
	return s.collectionOf(made), nil
}

// Delete implements api.Collections.
func (s apiCollections) Delete(ctx context.Context, at api.Target) error {
	if e := s.entryByID(at.ID); e != nil && s.collectionOf(e).Secrets > 0 {
		return api.Conflict("%q is not empty", e.Name)
	}
	_, err := s.replace(ctx, at, func(*entry) *entry { return nil })
	return err
}

// apiKeys are the API keys, as the REST API wants them.
type apiKeys struct{ *App }

// Parts of an API key: a mark, by which scanners find keys that were published by mistake, what names the key, and 256 random bits.
const (
	keyMark    = "oi_"
	prefixSize = len(keyMark) + 8
	keySize    = prefixSize + 1 + 43
)

// List implements api.Keys.
func (s apiKeys) List(ctx context.Context) ([]api.Key, error) {
	if err := s.awaitStored(ctx); err != nil {
		return nil, err
	}
	var all []api.Key
	for _, e := range s.entries() {
		if e.Kind == kindAPIKey {
			all = append(all, s.keyOf(e))
		}
	}
	slices.SortFunc(all, func(a, b api.Key) int { return a.CreatedAt.Compare(b.CreatedAt) })
	return all, nil
}

func (s apiKeys) keyOf(e *entry) api.Key {
	return api.Key{
		ID: e.ID, Name: e.Name, Prefix: e.Access.Prefix, Role: e.Access.Role, Collections: e.Access.Collections, Tenant: e.Tenant,
		AllTenants: e.Access.AllTenants, CreatedAt: e.CreatedAt, CreatedBy: e.CreatedBy, ExpiresAt: known(e.Access.ExpiresAt),
		LastUsed: known(s.engine.keyUses.last(e.ID)),
	}
}

// Create implements api.Keys.
func (s apiKeys) Create(ctx context.Context, by string, draft api.KeyDraft) (api.Key, error) {
	if s.catalog == nil {
		return api.Key{}, asAPI(errNoStored)
	}
	var wrong faults
	name := wrong.nameOf(&draft.Name)
	if err := wrong.err(); err != nil {
		return api.Key{}, err
	}
	var random [4 + 32]byte
	_, _ = rand.Read(random[:]) // never fails: crypto/rand aborts the program instead
	prefix := keyMark + hex.EncodeToString(random[:4])
	text := prefix + "_" + base64.RawURLEncoding.EncodeToString(random[4:])
	made, err := s.make(ctx, &entry{
		Kind: kindAPIKey, Tenant: draft.Tenant, Name: name, CreatedBy: by, UpdatedBy: by, Access: &access{
			Prefix: prefix, Hash: keyHash(text), Role: draft.Role.String(), Collections: draft.Collections, AllTenants: draft.AllTenants, ExpiresAt: draft.ExpiresAt,
		},
	})
	if err != nil {
		return api.Key{}, err
	}
	key := s.keyOf(made)
	key.Key = text // this once; only its hash is kept
	return key, nil
}

// Delete implements api.Keys.
func (s apiKeys) Delete(ctx context.Context, at api.Target) error {
	_, err := s.replace(ctx, at, func(*entry) *entry { return nil })
	return err
}

// keyHash is what is kept of an API key. A slow hash would add nothing: there is no dictionary of 256 random bits.
func keyHash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// authenticate returns whose API key it is. Every key with that prefix is compared in constant time.
func (s apiKeys) authenticate(ctx context.Context, text string) (api.Caller, error) {
	if len(text) != keySize || !strings.HasPrefix(text, keyMark) {
		return api.Caller{}, api.Unauthorized()
	}
	if err := s.awaitStored(ctx); err != nil {
		return api.Caller{}, err
	}
	hash := []byte(keyHash(text))
	for _, e := range s.entries() {
		if e.Kind != kindAPIKey || e.Access.Prefix != text[:prefixSize] || subtle.ConstantTimeCompare([]byte(e.Access.Hash), hash) != 1 {
			continue
		}
		role, err := api.ParseRole(e.Access.Role)
		if err != nil || !e.Access.ExpiresAt.IsZero() && time.Now().After(e.Access.ExpiresAt) {
			return api.Caller{}, api.Unauthorized()
		}
		s.engine.keyUses.use(e.ID)
		return api.Caller{
			Name: "api-key " + e.Name + " (" + e.Access.Prefix + ")", Tenant: e.Tenant, AllTenants: e.Access.AllTenants,
			Grants: []api.Grant{{Role: role, Collections: e.Access.Collections}},
		}, nil
	}
	return api.Caller{}, api.Unauthorized()
}

// keyUses remembers when this process saw each API key last.
type keyUses struct {
	mu   sync.Mutex // guards the field below
	seen map[string]time.Time
}

func (u *keyUses) use(id string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.seen == nil {
		u.seen = make(map[string]time.Time)
	}
	u.seen[id] = time.Now()
}

func (u *keyUses) last(id string) time.Time {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.seen[id]
}

// Interface guards.
var (
	_ api.Collections = apiCollections{}
	_ api.Keys        = apiKeys{}
)
