package caddyoauth

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"

	"github.com/caddyoauth/caddyoauth/internal/envelope"
)

// A data key is replaced in four steps, each of which any instance can take, and take again after a crash. What has been done
// stands in the keyset itself.
//
//  1. Published: the new key is in the keyset and does not seal. All instances learn it within a third of the pause.
//  2. Promoted, a pause later: the new key seals. An instance that has not heard of it does so by the first record that it
//     cannot open.
//  3. Every record that the old key has sealed is sealed anew. It is written under a lock of its own, which all writers take
//     as long as there is more than one data key, so that nothing newer is written over and nothing deleted comes back.
//  4. Retired: when a look at all records, begun a pause after the promotion, finds none that the old key has sealed, it is
//     removed from the keyset. See keySource why none can follow.

// keysetChange says what is to become of the stored keyset.
type keysetChange struct {
	ring  func(*envelope.KeyRing) (*envelope.KeyRing, error) // nil: as it is, together with what this instance knows
	first bool                                               // wrap it with the first key, also when nothing else changes
}

// alter changes the stored keyset.
func (k *keySource) alter(ctx context.Context, storage certmagic.Storage, change keysetChange) (*keyState, error) {
	if _, err := k.state(ctx, storage, anyAge); err != nil {
		return nil, err
	}
	if err := k.take(ctx); err != nil {
		return nil, err
	}
	defer k.leave()
	ctx, cancel := context.WithTimeout(ctx, keysetTimeout)
	defer cancel()
	return k.change(ctx, storage, change)
}

// change is alter for who has the turn. A lock is not a fence: who finds another keyset stored than its own begins anew, and
// who has lost a change by somebody else's puts the two together when it looks next (follow).
func (k *keySource) change(ctx context.Context, storage certmagic.Storage, change keysetChange) (*keyState, error) {
	for range keysetRetries {
		file, err := storage.Load(ctx, keysetKey)
		if err != nil {
			return nil, fmt.Errorf("load the data keyset: %w", err)
		}
		inside, err := envelope.Look(file)
		if err != nil {
			return nil, err
		}
		state, err := k.replace(ctx, storage, inside.Revision, change)
		if err != nil || state != nil {
			return state, err
		}
	}
	return nil, errors.New("change the data keyset: other instances change it at the same time; try again")
}

// replace replaces one revision of the keyset under its lock. It returns nil when another one is stored by then.
func (k *keySource) replace(ctx context.Context, storage certmagic.Storage, revision uint64, change keysetChange) (*keyState, error) {
	lock := keysetLock(revision)
	if err := storage.Lock(ctx, lock); err != nil {
		return nil, fmt.Errorf("lock the data keyset: %w", err)
	}
	defer func() { _ = storage.Unlock(context.WithoutCancel(ctx), lock) }()
	file, err := storage.Load(ctx, keysetKey) // under the lock, the first thing is to load again
	if err != nil {
		return nil, fmt.Errorf("load the data keyset: %w", err)
	}
	stored, by, err := envelope.Open(ctx, file, k.keks)
	switch {
	case err != nil:
		return nil, err
	case stored.Revision() != revision:
		return nil, nil
	}
	ring := stored
	if known := k.opened.Load(); known != nil {
		ring, _, err = known.ring.Merge(stored)
	}
	if err == nil && change.ring != nil {
		ring, err = change.ring(ring)
	}
	switch {
	case err != nil:
		return nil, err
	case change.first && by != 0:
		by = 0
	case ring == stored:
		return k.adopt(stored, file, by), nil
	}
	wrapped, err := ring.Rewrap(ctx, k.keks[by])
	if err != nil {
		return nil, err
	}
	if err := put(ctx, storage, keysetKey, wrapped); err != nil {
		return nil, fmt.Errorf("store the data keyset: %w", err)
	}
	if now, err := storage.Load(ctx, keysetKey); err != nil || !bytes.Equal(now, wrapped) {
		return nil, err
	}
	return k.adopt(ring, wrapped, by), nil
}

// Rekey begins to replace the data key, or goes on with that. It is carried through in the background, by all instances that
// run, and after a restart too; KeyStatus shows how far it is.
func (a *App) Rekey(ctx context.Context) (KeyStatus, error) {
	_, err := a.store.keys.alter(ctx, a.store.storage, keysetChange{ring: func(ring *envelope.KeyRing) (*envelope.KeyRing, error) {
		if len(ring.Keys()) > 1 {
			return ring, nil // under way
		}
		return ring.Add(time.Now())
	}})
	if err != nil {
		return KeyStatus{}, fmt.Errorf("begin to replace the data key: %w", err)
	}
	a.keeper.wake()
	return a.KeyStatus(ctx)
}

// keyKeeper keeps the keyset of one configuration: it opens it, follows it, and carries a change of the data key through.
type keyKeeper struct {
	*loop
	store  *recordStore
	needed func() bool // are there keys to open
	logger *zap.Logger
	sealed func(dataKey string) // tells that another data key seals
	told   string               // what was said in the last round, so that it is not said again
	said   string               // what is said in this one
}

func newKeyKeeper(a *App, needed func() bool) *keyKeeper {
	k := &keyKeeper{store: a.store, needed: needed, logger: a.logger, sealed: a.keyRotated}
	k.loop = newLoop(k.keep)
	return k
}

// keep does what is due and returns when to look again.
func (k *keyKeeper) keep(ctx context.Context) time.Duration {
	keys := k.store.keys
	pause := keys.rekeyPause()
	k.told, k.said = k.said, ""
	if keys.opened.Load() == nil && !k.needed() {
		return pause / 3
	}
	state, err := keys.state(ctx, k.store.storage, pause/6)
	if err == nil && state.by < 0 {
		err = keys.confirm(ctx)
	}
	if err == nil && state.by >= 0 && !state.strange {
		err = errors.Join(keys.rewrapAgain(ctx, k.store.storage), k.advance(ctx, state))
	}
	if last := keys.counted.Load(); err == nil && (last == nil || time.Since(last.at) > countEvery) {
		_, err = k.store.counted(ctx, true)
	}
	switch {
	case ctx.Err() != nil:
	case keys.opened.Load() == nil:
		return unreachableMin // openKeys has said why; state heeds its own pauses
	case err != nil:
		k.tell("look after the data keyset; trying again", zap.Error(err), zap.String("hint", unreadableHint(err)))
	}
	return pause/4 + rand.N(pause/12) // within a third, and not all instances at once
}

// tell logs an error, unless the round before has said the same.
func (k *keyKeeper) tell(sentence string, fields ...zap.Field) {
	k.said = fmt.Sprint(sentence, fields)
	if k.said != k.told {
		k.logger.Error(sentence, fields...)
	}
}

// advance takes the next step of replacing a data key, if one is under way.
func (k *keyKeeper) advance(ctx context.Context, state *keyState) error {
	if len(state.ring.Keys()) == 1 {
		return nil
	}
	if next := state.ring.Next(); next != 0 {
		if time.Since(state.since) < k.store.keys.rekeyPause() {
			return nil
		}
		promoted, err := k.store.keys.alter(ctx, k.store.storage, keysetChange{ring: func(ring *envelope.KeyRing) (*envelope.KeyRing, error) {
			if ring.Next() != next {
				return ring, nil
			}
			return ring.Promote(next)
		}})
		if err != nil {
			return err
		}
		k.sealed(strconv.FormatUint(uint64(next), 10))
		state = promoted
	}
	return k.finish(ctx, state)
}

// finish seals everything with the primary key and retires the others, as soon as nothing can be sealed with them.
func (k *keyKeeper) finish(ctx context.Context, state *keyState) error {
	settled := time.Since(state.since) >= k.store.keys.rekeyPause()
	found, err := k.store.resealAll(ctx, state.ring)
	if err != nil {
		return fmt.Errorf("seal all records with the new data key: %w", err)
	}
	for _, key := range state.ring.Keys() {
		left := found.byKey[key.ID]
		switch {
		case key.Primary:
		case left > 0:
			k.tell("a data key cannot be removed yet, since records that it has sealed could not be sealed anew",
				zap.Uint32("data_key", key.ID), zap.Int("records", left), zap.Strings("storage_keys", found.stuck))
		case settled:
			if err := k.retire(ctx, state.ring.Primary(), key.ID); err != nil {
				return err
			}
		}
	}
	return nil
}

// retire removes a data key that nothing is sealed with.
func (k *keyKeeper) retire(ctx context.Context, primary, id uint32) error {
	_, err := k.store.keys.alter(ctx, k.store.storage, keysetChange{ring: func(ring *envelope.KeyRing) (*envelope.KeyRing, error) {
		if ring.Primary() != primary || !ring.Holds(id) {
			return ring, nil // somebody else was faster, or the next change has begun
		}
		return ring.Retire(id)
	}})
	if err == nil {
		k.logger.Info("removed a data key that nothing is sealed with any more", zap.Uint32("removed", id), zap.Uint32("data_key", primary))
	}
	return err
}

// confirm asks the keys of this configuration for the keyset that an earlier one has opened.
func (k *keySource) confirm(ctx context.Context) error {
	if err := k.take(ctx); err != nil {
		return err
	}
	defer k.leave()
	ctx, cancel := context.WithTimeout(ctx, keysetTimeout)
	defer cancel()
	state := k.opened.Load()
	_, by, err := envelope.Open(ctx, state.file, k.keks)
	if err != nil {
		return fmt.Errorf("open the data keyset with the keys of this configuration, a restart would need them: %w", err)
	}
	k.log().Info("the encryption keys of this configuration open the data keyset now")
	k.adopt(state.ring, state.file, by)
	return nil
}
