package caddyoauth

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"

	"github.com/caddyoauth/caddyoauth/internal/envelope"
	"github.com/caddyoauth/caddyoauth/internal/secret"
)

const (
	defaultRekeyPause = time.Minute
	minRekeyPause     = time.Second
	keysetTimeout     = 30 * time.Second // opening or changing the keyset, with the lock and the calls of a key service
	keysetRetries     = 3                // how often a change is tried when others change the keyset at the same time

	// Pauses after the keyset could not be opened. Deriving a key from a passphrase is dear on purpose, so a wrong one is not
	// tried at once again; a key service that is down is asked soon, and then less often.
	wrongKeyPause  = 10 * time.Second
	unreachableMin = time.Second
	unreachableMax = 30 * time.Second
)

// keySource holds the opened data keyset. It opens it when it is first needed, creates it when there is none, and follows what
// other instances make of it. It is shared by all configurations that use the same storage and keys, so that a reload derives
// and opens nothing again.
//
// Who seals with a data key that has been replaced must be found out before that key is removed. Therefore nothing is sealed
// with a keyset that was not compared with the stored one within a third of the pause, a write that took longer than two thirds
// is followed by another look, and a key is removed no earlier than a whole pause after it has ceased to seal (rekey.go). Who
// finds at that look that its key was removed all the same, having slept through everything, brings it back (KeyRing.Merge).
type keySource struct {
	configured []KeyEncryptionKey // empty: the generated key
	generated  string             // path of the generated key file; used when none is configured
	storageID  string
	logger     *zap.Logger
	present    func() *App // the running configuration, whose log counts; nil = logger is all there is

	opened  atomic.Pointer[keyState]
	checked atomic.Int64 // when opened was last known to be what is stored; Unix time, since it must not stop while a machine sleeps
	pause   atomic.Int64 // the configuration's rekey_pause
	counted atomic.Pointer[census]
	// rewrapDue says that the keyset is still to be wrapped with the first key.
	rewrapDue atomic.Bool
	turn      chan struct{} // holds one token: who opens or changes the keyset; a channel, since it is held across I/O and must heed contexts

	keks     []KeyEncryptionKey // those configured, or the generated one; guarded by turn
	failed   error              // why the keyset could not be opened, the last time; guarded by turn
	retryAt  time.Time          // when that is tried again; guarded by turn
	attempts int                // in a row; guarded by turn
	borrowed *keyState          // of an earlier configuration, for when this one's keys cannot be asked; guarded by turn
}

// keyState is an opened keyset and the file that it stands in. It never changes.
type keyState struct {
	ring    *envelope.KeyRing
	file    []byte
	keks    []string  // ids of the configured keys
	by      int       // which of them opens it; -1: none has yet, it was opened by an earlier configuration
	since   time.Time // since when this process knows this revision
	strange bool      // the stored file is another one, which does not open here
}

// several reports whether records are sealed anew somewhere, or may be: writers then take a lock for each record.
func (s *keyState) several() bool { return s.strange || len(s.ring.Keys()) > 1 }

func newKeySource(keks []KeyEncryptionKey, generated string, logger *zap.Logger) *keySource {
	k := &keySource{configured: keks, keks: keks, generated: generated, logger: logger, turn: make(chan struct{}, 1)}
	k.pause.Store(int64(defaultRekeyPause))
	k.turn <- struct{}{}
	return k
}

// log is where news of the keys go. The configuration that this source was made for may have ended long ago.
func (k *keySource) log() *zap.Logger {
	if k.present != nil {
		if app := k.present(); app != nil {
			return app.logger
		}
	}
	return k.logger
}

// rekeyPause is how long all instances get to learn a change of the keyset.
func (k *keySource) rekeyPause() time.Duration { return time.Duration(k.pause.Load()) }

// anyAge is for those who need an opened keyset and can tell themselves when it is out of date.
const anyAge = time.Duration(1<<63 - 1)

// ring returns the data keyset, opened from that storage if it was not before.
func (k *keySource) ring(ctx context.Context, storage certmagic.Storage) (*envelope.KeyRing, error) {
	state, err := k.state(ctx, storage, anyAge)
	if err != nil {
		return nil, err
	}
	return state.ring, nil
}

// state returns the opened keyset as it was in storage at most that long ago.
func (k *keySource) state(ctx context.Context, storage certmagic.Storage, age time.Duration) (*keyState, error) {
	if state := k.fresh(age); state != nil {
		return state, nil
	}
	if err := k.take(ctx); err != nil {
		return nil, err
	}
	defer k.leave()
	switch state := k.fresh(age); {
	case state != nil:
		return state, nil
	case k.opened.Load() != nil:
		return k.follow(ctx, storage)
	case k.failed != nil && time.Now().Before(k.retryAt):
		return nil, k.failed
	}
	return k.first(ctx, storage)
}

// fresh returns the opened keyset if it is no older than that; nil otherwise.
func (k *keySource) fresh(age time.Duration) *keyState {
	state := k.opened.Load()
	old := time.Since(time.Unix(0, k.checked.Load()))
	if state != nil && (age == anyAge || 0 <= old && old < age) { // negative: the clock was put back
		return state
	}
	return nil
}

func (k *keySource) take(ctx context.Context) error {
	select {
	case <-k.turn:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (k *keySource) leave() { k.turn <- struct{}{} }

// first opens the keyset, or says why it cannot be opened and when that is tried again.
func (k *keySource) first(ctx context.Context, storage certmagic.Storage) (*keyState, error) {
	deadline, cancel := context.WithTimeout(ctx, keysetTimeout)
	defer cancel()
	state, err := k.open(deadline, storage)
	if err == nil {
		if k.failed != nil {
			k.log().Info("the encryption keys are open now")
		}
		k.failed, k.attempts, k.borrowed = nil, 0, nil
		return state, nil
	}
	err = fmt.Errorf("open the encryption keys: %w", err)
	if errors.Is(ctx.Err(), context.Canceled) {
		return nil, err // who asked has left; that says nothing about the keys
	}
	k.failed, k.retryAt = err, time.Now().Add(min(unreachableMin<<min(k.attempts, 10), unreachableMax))
	k.attempts++
	switch {
	case errors.Is(err, envelope.ErrWrongKey):
		k.retryAt = time.Now().Add(wrongKeyPause)
	case k.borrowed != nil && !errors.Is(err, envelope.ErrTampered) && !errors.Is(err, envelope.ErrMalformed):
		k.log().Error("the encryption keys of this configuration cannot be asked; going on with the data keys that this process has opened before, a restart would have none",
			zap.Error(err))
		return k.adopt(k.borrowed.ring, k.borrowed.file, -1), nil
	}
	return nil, err
}

// open reads the stored keyset. A keyset that does not open is left alone.
func (k *keySource) open(ctx context.Context, storage certmagic.Storage) (*keyState, error) {
	file, err := storage.Load(ctx, keysetKey)
	missing := errors.Is(err, fs.ErrNotExist)
	if err != nil && !missing {
		return nil, err
	}
	if len(k.keks) == 0 {
		kek, err := k.generatedKey(missing)
		if err != nil {
			return nil, err
		}
		k.keks = []KeyEncryptionKey{kek}
	}
	if missing {
		if file, err = k.create(ctx, storage); err != nil {
			return nil, err
		}
	}
	ring, by, err := envelope.Open(ctx, file, k.keks)
	if err != nil {
		return nil, err
	}
	if by > 0 {
		if state := k.rewrap(ctx, storage); state != nil {
			return state, nil
		}
	}
	return k.adopt(ring, file, by), nil
}

// create makes the keyset once, even if several instances start together, and returns its file.
func (k *keySource) create(ctx context.Context, storage certmagic.Storage) ([]byte, error) {
	lock := keysetLock(0)
	if err := storage.Lock(ctx, lock); err != nil {
		return nil, err
	}
	defer func() { _ = storage.Unlock(context.WithoutCancel(ctx), lock) }()
	if file, err := storage.Load(ctx, keysetKey); !errors.Is(err, fs.ErrNotExist) {
		return file, err
	}
	_, file, err := envelope.New(ctx, k.keks)
	if err != nil {
		return nil, err
	}
	if err := put(ctx, storage, keysetKey, file); err != nil {
		return nil, err
	}
	k.log().Info("made a new data keyset", zap.String("key", k.keks[0].ID()))
	// A lock is not a fence: what is stored now is the keyset, whoever wrote it.
	return storage.Load(ctx, keysetKey)
}

// rewrap wraps the keyset with the first key, so that the key before it can be taken out of the configuration. A failure
// changes nothing, since the old wrapping still opens, and is made good later. It is done when a keyset is opened, and not whenever
// another instance's wrapping is met: two instances with the same keys in another order would wrap against each other for ever.
func (k *keySource) rewrap(ctx context.Context, storage certmagic.Storage) *keyState {
	state, err := k.change(ctx, storage, keysetChange{first: true})
	k.rewrapDue.Store(err != nil)
	if err != nil {
		k.log().Error("wrap the data keyset with the first key; the previous key is still needed", zap.Error(err))
		return nil
	}
	k.log().Info("wrapped the data keyset with the first key; the previous key is no longer needed", zap.String("key", k.keks[0].ID()))
	return state
}

// rewrapAgain makes good what failed when the keyset was opened.
func (k *keySource) rewrapAgain(ctx context.Context, storage certmagic.Storage) error {
	if !k.rewrapDue.Load() {
		return nil
	}
	if _, err := k.alter(ctx, storage, keysetChange{first: true}); err != nil {
		return fmt.Errorf("wrap the data keyset with the first key; the previous key is still needed: %w", err)
	}
	k.rewrapDue.Store(false)
	k.log().Info("wrapped the data keyset with the first key at last; the previous key is no longer needed")
	return nil
}

// adopt makes a keyset the opened one.
func (k *keySource) adopt(ring *envelope.KeyRing, file []byte, by int) *keyState {
	state := &keyState{ring: ring, file: file, keks: keyIDs(k.keks), by: by, since: time.Now()}
	if known := k.opened.Load(); known != nil && known.ring.Revision() == ring.Revision() && known.ring.Primary() == ring.Primary() {
		state.since = known.since
	}
	k.opened.Store(state)
	k.checked.Store(time.Now().UnixNano())
	return state
}

// follow compares the opened keyset with the stored one and takes over what was changed there.
func (k *keySource) follow(ctx context.Context, storage certmagic.Storage) (*keyState, error) {
	ctx, cancel := context.WithTimeout(ctx, keysetTimeout)
	defer cancel()
	known := k.opened.Load()
	file, err := storage.Load(ctx, keysetKey)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		k.log().Warn("the data keyset was deleted from storage; storing it again, or what was sealed with it would be lost")
		if err := put(ctx, storage, keysetKey, known.file); err != nil {
			return nil, err
		}
		return k.adopt(known.ring, known.file, known.by), nil
	case err != nil:
		return nil, fmt.Errorf("look whether the data keyset was changed: %w", err)
	case bytes.Equal(file, known.file):
		return k.adopt(known.ring, known.file, known.by), nil
	}
	stored, by, err := envelope.Open(ctx, file, k.keks)
	if err != nil {
		return k.estranged(known, file, err)
	}
	merged, changed, err := known.ring.Merge(stored)
	if err != nil {
		return nil, err
	}
	if !changed {
		return k.adopt(merged, file, by), nil
	}
	k.log().Warn("the stored data keyset is an earlier one, or lacks data keys that this instance has; putting the two together. Was a backup restored?",
		zap.Uint64("stored_revision", stored.Revision()), zap.Uint64("revision", known.ring.Revision()))
	return k.change(ctx, storage, keysetChange{})
}

// estranged decides what to do about a stored keyset that does not open here: another instance has wrapped it with a key that
// this configuration lacks or cannot ask, or it was damaged. It is left alone. What this instance has opened stays good, for
// sealing too, unless the stored keyset says that it no longer holds the key that seals here.
func (k *keySource) estranged(known *keyState, file []byte, err error) (*keyState, error) {
	inside, lookErr := envelope.Look(file)
	if lookErr == nil && inside.Keys != nil && !slices.Contains(inside.Keys, known.ring.Primary()) {
		return nil, fmt.Errorf("the stored data keyset no longer holds the data key of this instance, and does not open here: %w", err)
	}
	if !known.strange {
		k.log().Error("the stored data keyset was changed and does not open here; going on with the one in memory, a restart would have none",
			zap.Error(err), zap.String("hint", unreadableHint(err)))
	}
	state := *known
	state.strange = true
	k.opened.Store(&state)
	k.checked.Store(time.Now().UnixNano())
	return &state, nil
}

// learned reports whether the keyset is another one than ring, after looking in storage if need be: a record that was sealed
// with a data key that this instance has not heard of is how it hears of it.
func (k *keySource) learned(ctx context.Context, storage certmagic.Storage, ring *envelope.KeyRing) bool {
	if state := k.opened.Load(); state != nil && state.ring != ring {
		return true
	}
	state, err := k.state(ctx, storage, 0)
	return err == nil && state.ring != ring
}

// generatedKey reads the generated key file, and makes it when there is no keyset yet that another key could belong to.
func (k *keySource) generatedKey(mayCreate bool) (KeyEncryptionKey, error) {
	text, err := os.ReadFile(k.generated)
	if errors.Is(err, fs.ErrNotExist) {
		if !mayCreate {
			return nil, fmt.Errorf("%w: the keyset exists, but the generated key file %s is missing", envelope.ErrWrongKey, k.generated)
		}
		if err = createKeyFile(k.generated); err == nil {
			text, err = os.ReadFile(k.generated)
		}
	}
	if err != nil {
		return nil, err
	}
	k.log().Warn("no `encryption` is configured: tokens are sealed with a generated key; who can read the key file and the storage can read the tokens, and if the file is lost so are they",
		zap.String("key_file", k.generated))
	return envelope.NewKey(secret.New(string(text)))
}
