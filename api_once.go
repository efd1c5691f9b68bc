package caddyoauth

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"path"
	"time"

	"go.uber.org/zap"

	"github.com/caddyoauth/caddyoauth/internal/api"
	"github.com/caddyoauth/caddyoauth/internal/connection"
)

// onceLifetime is how long an answer is kept for its Idempotency-Key.
const onceLifetime = 24 * time.Hour

// maxOnce bounds how many are kept of one tenant. The oldest would not be found by a client that repeats so late.
const maxOnce = 10_000

// onceV1 is the stored form of an answer.
type onceV1 struct {
	Version   int         `json:"version"`
	Digest    string      `json:"digest"` // of the request
	Outcome   api.Outcome `json:"outcome"`
	ExpiresAt time.Time   `json:"expires_at"`
}

// apiOnce keeps the answers to requests with an Idempotency-Key in storage, so that a repetition may reach another instance.
type apiOnce struct{ *App }

// Perform implements api.Once.
func (o apiOnce) Perform(ctx context.Context, key api.OnceKey, run func() (api.Outcome, error)) (api.Outcome, error) {
	name := onceKey(key.Tenant, key.Key)
	lockCtx, cancel := context.WithTimeout(ctx, changeTimeout)
	defer cancel()
	lock := onceLock(name)
	if err := o.store.storage.Lock(lockCtx, lock); err != nil {
		return api.Outcome{}, api.Conflict("a request with this Idempotency-Key is still under way")
	}
	defer func() { _ = o.store.storage.Unlock(context.WithoutCancel(ctx), lock) }()
	kept, err := o.store.once(ctx, name)
	switch {
	case err != nil:
		return api.Outcome{}, asAPI(errors.Join(ErrStorage, err))
	case kept != nil && kept.Digest != key.Digest:
		return api.Outcome{}, api.Conflict("the Idempotency-Key was used for another request")
	case kept != nil:
		kept.Outcome.Replayed = true
		return kept.Outcome, nil
	}
	outcome, err := run()
	if err != nil {
		return api.Outcome{}, err // nothing was done, so the next attempt may do it
	}
	plain, err := json.Marshal(onceV1{Version: 1, Digest: key.Digest, Outcome: outcome, ExpiresAt: time.Now().Add(onceLifetime).UTC()})
	if err == nil {
		ctx := context.WithoutCancel(ctx) // it is done: a client that is gone comes back and asks
		if err = o.store.seal(ctx, name, plain); err == nil {
			err = o.store.sweepOnce(ctx, key.Tenant)
		}
	}
	if err != nil {
		o.logger.Warn("an answer could not be kept for its Idempotency-Key", zap.Error(err))
	}
	return outcome, nil
}

// once reads an answer that is still good; nil if there is none.
func (s *recordStore) once(ctx context.Context, key string) (*onceV1, error) {
	plain, err := s.unseal(ctx, key)
	if errors.Is(err, connection.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	kept := new(onceV1)
	if err := json.Unmarshal(plain, kept); err != nil || kept.Version != 1 {
		return nil, connection.ErrUnreadable
	}
	if time.Now().After(kept.ExpiresAt) {
		return nil, nil
	}
	return kept, nil
}

// sweepOnce removes what is too old, by the storage's own time.
func (s *recordStore) sweepOnce(ctx context.Context, tenant string) error {
	keys, err := s.list(ctx, onceDir(tenant), false)
	if err != nil {
		return err
	}
	for i, key := range keys {
		if path.Ext(key) != recordsExt {
			continue
		}
		info, err := s.storage.Stat(ctx, key)
		if err == nil && (time.Since(info.Modified) > onceLifetime || len(keys)-i > maxOnce) {
			err = s.remove(ctx, key)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Interface guard.
var _ api.Once = apiOnce{}
