package caddyoauth

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"

	"github.com/caddyoauth/caddyoauth/internal/envelope"
	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// KeyEncryptionKey is what a module in the namespace `oauth2_inject.keys` gives: a key that wraps the data keyset. Unwrap and
// Wrap may call a remote service; they are called when the program starts and when keys change, never for a request.
type KeyEncryptionKey = envelope.KeyEncryptionKey

// KeyModule is a module in the namespace `oauth2_inject.keys`.
type KeyModule interface {
	// KeyEncryptionKey returns the key. It is called after Provision and does no I/O.
	KeyEncryptionKey() KeyEncryptionKey
}

func init() {
	caddy.RegisterModule(KeyLiteral{})
	caddy.RegisterModule(KeyPassphrase{})
}

// KeyLiteral is a key-encryption key of 32 random bytes.
type KeyLiteral struct {
	// Key is the key in base64 or hex. Use a placeholder: `{env.NAME}` or `{file./path}`.
	Key string `json:"key"`

	kek KeyEncryptionKey
}

// CaddyModule returns the Caddy module information.
func (KeyLiteral) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "oauth2_inject.keys.key", New: func() caddy.Module { return new(KeyLiteral) }}
}

// Provision resolves and checks the key.
func (k *KeyLiteral) Provision(caddy.Context) (err error) {
	text, err := resolveSecret(k.Key)
	if err != nil {
		return fmt.Errorf("encryption key: %w", err)
	}
	k.kek, err = envelope.NewKey(text)
	return err
}

// KeyEncryptionKey implements KeyModule.
func (k *KeyLiteral) KeyEncryptionKey() KeyEncryptionKey { return k.kek }

// KeyPassphrase is a key-encryption key derived from a passphrase with PBKDF2-HMAC-SHA256.
type KeyPassphrase struct {
	// Passphrase is at least 12 characters long. Use a placeholder: `{env.NAME}` or `{file./path}`.
	Passphrase string `json:"passphrase"`
	// Iterations of PBKDF2. Default: 600000, at least 100000.
	Iterations int `json:"iterations,omitempty"`

	kek KeyEncryptionKey
}

// CaddyModule returns the Caddy module information.
func (KeyPassphrase) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "oauth2_inject.keys.passphrase", New: func() caddy.Module { return new(KeyPassphrase) }}
}

// Provision resolves and checks the passphrase. The key itself is derived when it is first used.
func (k *KeyPassphrase) Provision(caddy.Context) (err error) {
	text, err := resolveSecret(k.Passphrase)
	if err != nil {
		return fmt.Errorf("encryption passphrase: %w", err)
	}
	k.kek, err = envelope.NewPassphrase(text, k.Iterations)
	return err
}

// KeyEncryptionKey implements KeyModule.
func (k *KeyPassphrase) KeyEncryptionKey() KeyEncryptionKey { return k.kek }

// resolveSecret replaces the global placeholders of a configured secret.
func resolveSecret(raw string) (secret.Text, error) {
	value, err := caddy.NewReplacer().ReplaceOrErr(raw, true, true)
	if err == nil && value == "" {
		err = errors.New("is empty")
	}
	return secret.New(value), err
}

// wrongKeyPause is how long a keyset that no key opened is not tried again: deriving a key from a passphrase is dear on purpose.
const wrongKeyPause = 10 * time.Second

// keySource opens the data keyset when it is first needed, and creates it when there is none. It is shared by all
// configurations that use the same storage and keys, so that a reload derives and opens nothing again.
type keySource struct {
	keks      []KeyEncryptionKey // empty: the generated key
	generated string             // path of the generated key file; used when keks is empty
	logger    *zap.Logger

	opened atomic.Pointer[envelope.KeyRing]
	turn   chan struct{} // holds one token: who opens the keyset; a channel, since it is held across I/O and must heed contexts

	wrong      error     // the last time no key opened the keyset; guarded by turn
	wrongSince time.Time // guarded by turn
}

func newKeySource(keks []KeyEncryptionKey, generated string, logger *zap.Logger) *keySource {
	k := &keySource{keks: keks, generated: generated, logger: logger, turn: make(chan struct{}, 1)}
	k.turn <- struct{}{}
	return k
}

// ring returns the data keyset, opened from that storage if it was not before.
func (k *keySource) ring(ctx context.Context, storage certmagic.Storage) (*envelope.KeyRing, error) {
	if ring := k.opened.Load(); ring != nil {
		return ring, nil
	}
	select {
	case <-k.turn:
		defer func() { k.turn <- struct{}{} }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if ring := k.opened.Load(); ring != nil {
		return ring, nil
	}
	if k.wrong != nil && time.Since(k.wrongSince) < wrongKeyPause {
		return nil, k.wrong
	}
	ring, err := k.open(ctx, storage)
	if err != nil {
		err = fmt.Errorf("open the encryption keys: %w", err)
		if errors.Is(err, envelope.ErrWrongKey) {
			k.wrong, k.wrongSince = err, time.Now()
		}
		return nil, err
	}
	k.opened.Store(ring)
	return ring, nil
}

// open reads the stored keyset. A keyset that does not open is left alone.
func (k *keySource) open(ctx context.Context, storage certmagic.Storage) (*envelope.KeyRing, error) {
	wrapped, err := storage.Load(ctx, keysetKey)
	missing := errors.Is(err, fs.ErrNotExist)
	if err != nil && !missing {
		return nil, err
	}
	keks := k.keks
	if len(keks) == 0 {
		kek, err := k.generatedKey(missing)
		if err != nil {
			return nil, err
		}
		keks = []KeyEncryptionKey{kek}
	}
	if missing {
		return k.create(ctx, storage, keks)
	}
	ring, by, err := envelope.Open(ctx, wrapped, keks)
	if err != nil {
		return nil, err
	}
	if by != 0 {
		k.rewrap(ctx, storage, ring, keks[0])
	}
	return ring, nil
}

// create makes the keyset once, even if several instances start together.
func (k *keySource) create(ctx context.Context, storage certmagic.Storage, keks []KeyEncryptionKey) (*envelope.KeyRing, error) {
	if err := storage.Lock(ctx, keysetLock); err != nil {
		return nil, err
	}
	defer func() { _ = storage.Unlock(context.WithoutCancel(ctx), keysetLock) }()
	if wrapped, err := storage.Load(ctx, keysetKey); err == nil {
		ring, _, err := envelope.Open(ctx, wrapped, keks)
		return ring, err
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	_, wrapped, err := envelope.New(ctx, keks)
	if err != nil {
		return nil, err
	}
	if err := put(ctx, storage, keysetKey, wrapped); err != nil {
		return nil, err
	}
	// A lock is not a fence: what is stored now is the keyset, whoever wrote it.
	stored, err := storage.Load(ctx, keysetKey)
	if err != nil {
		return nil, err
	}
	ring, _, err := envelope.Open(ctx, stored, keks)
	if err == nil {
		k.logger.Info("made a new data keyset", zap.String("key", keks[0].ID()))
	}
	return ring, err
}

// rewrap wraps the keyset with the first key, so that the key before it can be taken out of the configuration. A failure
// changes nothing: the old wrapping still opens.
func (k *keySource) rewrap(ctx context.Context, storage certmagic.Storage, ring *envelope.KeyRing, kek KeyEncryptionKey) {
	wrapped, err := ring.Rewrap(ctx, kek)
	if err == nil {
		err = put(ctx, storage, keysetKey, wrapped)
	}
	if err != nil {
		k.logger.Error("wrap the data keyset with the first key; the previous key is still needed", zap.Error(err))
		return
	}
	k.logger.Info("wrapped the data keyset with the first key; the previous key is no longer needed", zap.String("key", kek.ID()))
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
	k.logger.Warn("no `encryption` is configured: tokens are sealed with a generated key; who can read the key file and the storage can read the tokens, and if the file is lost so are they",
		zap.String("key_file", k.generated))
	return envelope.NewKey(secret.New(string(text)))
}

// createKeyFile writes a new random key, whole or not at all; if another process was faster, its key stays.
func createKeyFile(file string) error {
	key, err := envelope.GenerateKey()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	temp, err := os.CreateTemp(filepath.Dir(file), ".key-*") // made with mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name())
	_, err = temp.WriteString(key.Reveal())
	err = errors.Join(err, temp.Sync(), temp.Close())
	if err != nil {
		return err
	}
	if err := os.Link(temp.Name(), file); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// digestOf identifies a configuration value without keeping it.
func digestOf(value any) (string, error) {
	text, err := json.Marshal(value)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:16]), nil
}

// Interface guards.
var (
	_ caddy.Provisioner = (*KeyLiteral)(nil)
	_ caddy.Provisioner = (*KeyPassphrase)(nil)
	_ KeyModule         = (*KeyLiteral)(nil)
	_ KeyModule         = (*KeyPassphrase)(nil)
)
