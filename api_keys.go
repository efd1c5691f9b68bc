package caddyoauth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddyoauth/caddyoauth/internal/api"
	"github.com/caddyoauth/caddyoauth/internal/connection"
)

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
		if e.Kind != kindAPIKey {
			continue
		}
		key := s.keyOf(e)
		noted, err := s.store.keyUse(ctx, e.ID)
		if err != nil {
			s.logger.Warn("the last use of an API key cannot be read", zap.Error(err))
		}
		if used := s.engine.keyUses.last(e.ID); used.After(noted) {
			noted = used
		}
		key.LastUsed = known(noted)
		all = append(all, key)
	}
	slices.SortFunc(all, func(a, b api.Key) int { return a.CreatedAt.Compare(b.CreatedAt) })
	return all, nil
}

func (s apiKeys) keyOf(e *entry) api.Key {
	return api.Key{
		ID: e.ID, Name: e.Name, Prefix: e.Access.Prefix, Role: e.Access.Role, Collections: e.Access.Collections, Tenant: e.Tenant,
		AllTenants: e.Access.AllTenants, CreatedAt: e.CreatedAt, CreatedBy: e.CreatedBy, ExpiresAt: known(e.Access.ExpiresAt),
	}
}

// Create implements api.Keys.
func (s apiKeys) Create(ctx context.Context, by string, draft api.KeyDraft) (api.Key, error) {
	if s.catalog == nil {
		return api.Key{}, asAPI(errNoStored)
	}
	wrong := faults(draft.Faults)
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
	_, err := s.replace(ctx, at, func(*entry) (*entry, error) { return nil, nil })
	if err != nil {
		return err
	}
	if err := s.store.remove(ctx, keyUseKey(at.ID)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.logger.Warn("the last use of a revoked API key could not be removed", zap.Error(err))
	}
	return nil
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

// keyUses remembers when this process saw each API key last. It is written down now and then, for the other instances, and so that it
// outlives the process.
type keyUses struct {
	mu    sync.Mutex // guards the fields below
	seen  map[string]time.Time
	noted map[string]time.Time // what of it is written down
}

// keyUseNote is how often a use of a key is written down.
const keyUseNote = time.Minute

func (u *keyUses) use(id string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.seen == nil {
		u.seen, u.noted = make(map[string]time.Time), make(map[string]time.Time)
	}
	u.seen[id] = time.Now()
}

func (u *keyUses) last(id string) time.Time {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.seen[id]
}

// due returns the uses that are to be written down, and takes them as written.
func (u *keyUses) due() map[string]time.Time {
	u.mu.Lock()
	defer u.mu.Unlock()
	all := make(map[string]time.Time)
	for id, at := range u.seen {
		if at.Sub(u.noted[id]) >= keyUseNote {
			all[id], u.noted[id] = at, at
		}
	}
	return all
}

// keyUseV1 is the stored form of a key's last use.
type keyUseV1 struct {
	Version  int       `json:"version"`
	ID       string    `json:"id"`
	LastUsed time.Time `json:"last_used"`
}

// noteKeyUses writes down which keys were used. Two instances may write at once: either is near enough.
func (a *App) noteKeyUses(ctx context.Context) {
	for id, at := range a.engine.keyUses.due() {
		plain, err := json.Marshal(keyUseV1{Version: 1, ID: id, LastUsed: at.UTC()})
		if err == nil && a.entryByID(id) != nil {
			err = a.store.seal(ctx, keyUseKey(id), plain)
		}
		if err != nil {
			a.logger.Warn("the last use of an API key could not be written down", zap.Error(err))
		}
	}
}

// keyUse reads when a key was used last, as far as it is written down.
func (s *recordStore) keyUse(ctx context.Context, id string) (time.Time, error) {
	plain, err := s.unseal(ctx, keyUseKey(id))
	if errors.Is(err, connection.ErrNotFound) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, err
	}
	var use keyUseV1
	if err := json.Unmarshal(plain, &use); err != nil || use.Version != 1 || use.ID != id {
		return time.Time{}, connection.ErrUnreadable
	}
	return use.LastUsed, nil
}

// Interface guard.
var _ api.Keys = apiKeys{}
