package caddyoauth

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/caddyserver/caddy/v2"

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

// What a key-encryption key answers to bytes that it cannot unwrap, wrapped in an error of its own. Any other error is taken for
// trouble with reaching the key, which may be over at the next try.
var (
	ErrWrongKey  = envelope.ErrWrongKey  // another key wrapped them
	ErrTampered  = envelope.ErrTampered  // this key wrapped them, and they were changed since
	ErrMalformed = envelope.ErrMalformed // this key wrapped them, and they were cut short
)

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
