package envelope

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/tink-crypto/tink-go/v2/aead/aesgcm"
	"github.com/tink-crypto/tink-go/v2/insecuresecretdataaccess"
	"github.com/tink-crypto/tink-go/v2/secretdata"
	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/caddyoauth/caddyoauth/internal/secret"
)

const (
	keySize   = 32  // bytes: AES-256
	maxIDSize = 256 // bytes: the longest cloud key names stay below
)

// KeyEncryptionKey wraps the data keyset. [NewKey] and [NewPassphrase] make one; drivers of key services are others.
// Implementations are safe for concurrent use.
type KeyEncryptionKey interface {
	// ID names the key for ever, in up to 256 printable ASCII characters. It is stored beside the wrapped keyset and
	// printed, so it must not help to guess the key.
	ID() string
	// Wrap encrypts plaintext and binds it to associatedData.
	Wrap(ctx context.Context, plaintext, associatedData []byte) ([]byte, error)
	// Unwrap reverts Wrap. It has to expect bytes that another key wrapped. An error that wraps [ErrWrongKey] says "not
	// made by this key", [ErrTampered] and [ErrMalformed] say "made by this key and damaged"; any other error is taken
	// for trouble with reaching the key, which may be over at the next try.
	Unwrap(ctx context.Context, ciphertext, associatedData []byte) ([]byte, error)
}

// key is an AES-256 key held by this process. Its prefix (Tink's 0x01 and four bytes of the key's digest) stands before
// everything it wraps and tells "another key" from "changed".
type key struct {
	id     string
	prefix []byte
	aead   tink.AEAD
}

// NewKey takes exactly 32 bytes as base64 (standard or URL alphabet, padded or not) or as 64 hex digits. White space
// around the text is ignored, since key files tend to end in a line break.
func NewKey(text secret.Text) (KeyEncryptionKey, error) {
	raw, err := decodeKey(strings.TrimSpace(text.Reveal()))
	if err != nil {
		return nil, fmt.Errorf("read encryption key: %w", err)
	}
	defer clear(raw)
	// Four bytes of a digest of 32 random bytes give nothing away. The label keeps the id apart from any other digest
	// of the same key.
	digest := sha256.Sum256(bind("caddyoauth/envelope/1/key-id\x00", raw))
	cipher, err := newAEAD(raw, aesgcm.VariantTink, binary.BigEndian.Uint32(digest[:4]))
	if err != nil {
		return nil, fmt.Errorf("read encryption key: %w", err)
	}
	return &key{
		id:     "key:" + hex.EncodeToString(digest[:4]),
		prefix: append([]byte{tinkPrefix}, digest[:4]...),
		aead:   cipher,
	}, nil
}

// GenerateKey returns a new random key in the form [NewKey] reads.
func GenerateKey() (secret.Text, error) {
	raw := make([]byte, keySize)
	if _, err := rand.Read(raw); err != nil {
		return secret.Text{}, fmt.Errorf("generate encryption key: %w", err)
	}
	return secret.New(base64.StdEncoding.EncodeToString(raw)), nil
}

// ID is "key:" and eight hex digits.
func (k *key) ID() string { return k.id }

// Wrap encrypts with AES-256-GCM under a random nonce.
func (k *key) Wrap(_ context.Context, plaintext, associatedData []byte) ([]byte, error) {
	ciphertext, err := k.aead.Encrypt(plaintext, associatedData)
	if err != nil {
		return nil, fmt.Errorf("wrap with %s: %w", k.id, err)
	}
	return ciphertext, nil
}

// Unwrap reverts Wrap.
func (k *key) Unwrap(_ context.Context, ciphertext, associatedData []byte) ([]byte, error) {
	if !strings.HasPrefix(string(ciphertext), string(k.prefix)) {
		return nil, ErrWrongKey
	}
	if len(ciphertext) < prefixSize+nonceSize+tagSize {
		return nil, fmt.Errorf("%w (wrapped keyset cut short)", ErrMalformed)
	}
	plaintext, err := k.aead.Decrypt(ciphertext, associatedData)
	if err != nil {
		return nil, ErrTampered
	}
	return plaintext, nil
}

// errKeyText says what is wanted and nothing about what was given: the decoders' own errors quote the input.
var errKeyText = errors.New("want 32 bytes as base64 or as 64 hex digits, for instance from `openssl rand -base64 32`; " +
	"for words or text of another length use a passphrase")

// decodeKey is strict about the two spare bits at the end of 43 base64 characters: text that was not made by encoding 32
// bytes (a random string, a password) is refused instead of being stretched into a key.
func decodeKey(text string) ([]byte, error) {
	if strings.ContainsAny(text, "\r\n") { // the base64 decoders skip line breaks
		return nil, errKeyText
	}
	decoders := []func(string) ([]byte, error){
		hex.DecodeString,
		base64.StdEncoding.Strict().DecodeString,
		base64.RawStdEncoding.Strict().DecodeString,
		base64.URLEncoding.Strict().DecodeString,
		base64.RawURLEncoding.Strict().DecodeString,
	}
	for _, decode := range decoders {
		if raw, err := decode(text); err == nil && len(raw) == keySize {
			return raw, nil
		}
	}
	return nil, errKeyText
}

// newAEAD makes one AES-256-GCM primitive outside any keyset.
func newAEAD(raw []byte, variant aesgcm.Variant, id uint32) (tink.AEAD, error) {
	parameters, err := aesgcm.NewParameters(aesgcm.ParametersOpts{
		KeySizeInBytes: keySize, IVSizeInBytes: nonceSize, TagSizeInBytes: tagSize, Variant: variant,
	})
	if err != nil {
		return nil, fmt.Errorf("prepare AES-256-GCM: %w", err)
	}
	tinkKey, err := aesgcm.NewKey(secretdata.NewBytesFromData(raw, insecuresecretdataaccess.Token{}), id, parameters)
	if err != nil {
		return nil, fmt.Errorf("prepare AES-256-GCM: %w", err)
	}
	cipher, err := aesgcm.NewAEAD(tinkKey)
	if err != nil {
		return nil, fmt.Errorf("prepare AES-256-GCM: %w", err)
	}
	return cipher, nil
}

// checkKeys finds what would otherwise be a nil dereference or a file that cannot be read back.
func checkKeys(keks []KeyEncryptionKey) error {
	if len(keks) == 0 {
		return errors.New("no encryption key given; configure a key or a passphrase")
	}
	for i, kek := range keks {
		if kek == nil {
			return fmt.Errorf("encryption key %d is missing", i+1)
		}
		if err := checkID(kek.ID()); err != nil {
			return fmt.Errorf("encryption key %d: %w", i+1, err)
		}
	}
	return nil
}

// checkID keeps ids printable: they stand in error texts, also when they come from a foreign file.
func checkID(id string) error {
	printable := func(r rune) bool { return r > ' ' && r <= '~' }
	if id == "" || len(id) > maxIDSize || strings.ContainsFunc(id, func(r rune) bool { return !printable(r) }) {
		return fmt.Errorf("key id must be 1 to %d printable ASCII characters without spaces", maxIDSize)
	}
	return nil
}

// Interface guard.
var _ KeyEncryptionKey = (*key)(nil)
