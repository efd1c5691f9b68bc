// Package remote makes a key-encryption key of a key that a service holds: what the drivers of all services have in common.
//
// It keeps nothing between calls. They are few (at a start, and when the keyset changes), and so what has changed meanwhile,
// credentials above all, needs no care.
package remote

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/caddyoauth/caddyoauth"
)

// callTimeout bounds one call, with all tries of the service's own library. Whoever asks for the keys tries again by itself.
const callTimeout = 5 * time.Second

// Service is a key that a service holds.
type Service struct {
	// ID names the key for ever: the kind of service, and the service's own name of the key.
	ID string
	// Tag is four bytes that stand before all that the key has wrapped. Services cannot be asked offline whether bytes are theirs, so
	// without it every other key's keyset would be sent to them.
	Tag string
	// Open returns what encrypts and decrypts during one call, and what ends it.
	Open func(context.Context) (cipher tink.AEADWithContext, done func(), err error)
	// Foreign reports whether an error of decrypting means that the bytes are not the key's.
	Foreign func(error) bool
}

// key implements the key-encryption key.
type key struct{ service Service }

// New returns the key-encryption key of a service. It does no I/O.
func New(service Service) caddyoauth.KeyEncryptionKey { return &key{service} }

// ID implements caddyoauth.KeyEncryptionKey.
func (k *key) ID() string { return k.service.ID }

// Wrap implements caddyoauth.KeyEncryptionKey.
func (k *key) Wrap(ctx context.Context, plaintext, associatedData []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	cipher, done, err := k.service.Open(ctx)
	if err != nil {
		return nil, fmt.Errorf("reach %s: %w", k.service.ID, err)
	}
	defer done()
	wrapped, err := cipher.EncryptWithContext(ctx, plaintext, associatedData)
	if err != nil {
		return nil, fmt.Errorf("wrap with %s: %w", k.service.ID, err)
	}
	return append([]byte(k.service.Tag), wrapped...), nil
}

// Unwrap implements caddyoauth.KeyEncryptionKey.
func (k *key) Unwrap(ctx context.Context, ciphertext, associatedData []byte) ([]byte, error) {
	wrapped, ours := strings.CutPrefix(string(ciphertext), k.service.Tag)
	if !ours {
		return nil, caddyoauth.ErrWrongKey
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	cipher, done, err := k.service.Open(ctx)
	if err != nil {
		return nil, fmt.Errorf("reach %s: %w", k.service.ID, err)
	}
	defer done()
	plaintext, err := cipher.DecryptWithContext(ctx, []byte(wrapped), associatedData)
	if err != nil && k.service.Foreign(err) {
		return nil, fmt.Errorf("%w: %s says: %w", caddyoauth.ErrWrongKey, k.service.ID, err)
	}
	if err != nil {
		return nil, fmt.Errorf("unwrap with %s: %w", k.service.ID, err)
	}
	return plaintext, nil
}

// Parse reads `NAME KEY` and a block of options with one value each, of which none may come twice.
func Parse(d *caddyfile.Dispenser, key *string, options map[string]*string) error {
	d.Next()
	name := d.Val()
	if !d.Args(key) || d.NextArg() {
		return d.ArgErr()
	}
	seen := make(map[string]bool)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		option := d.Val()
		value, ok := options[option]
		switch {
		case !ok:
			return d.Errf("unknown option %q of encryption %s", option, name)
		case seen[option]:
			return d.Errf("%s is given twice", option)
		case !d.Args(value) || d.NextArg():
			return d.ArgErr()
		case d.NextBlock(nesting + 1):
			return d.Errf("%s takes no block", option)
		}
		seen[option] = true
	}
	return nil
}

// Resolve returns the values with their global placeholders replaced, in the same order. The error names what is wrong by the
// word before each value.
func Resolve(named ...[2]string) ([]string, error) {
	values := make([]string, 0, len(named))
	for _, one := range named {
		value, err := caddy.NewReplacer().ReplaceOrErr(one[1], true, true)
		switch {
		case err != nil:
			return nil, fmt.Errorf("%s: %w", one[0], err)
		case one[1] != "" && value == "":
			return nil, fmt.Errorf("%s: is empty", one[0])
		}
		values = append(values, value)
	}
	return values, nil
}
