// Package envelope seals records so that whoever reads the storage learns nothing and whoever writes it fools nobody.
//
// A [KeyRing] is an opened data keyset (Tink, AES-256-GCM). It seals records into small self-describing JSON envelopes
// and binds each to the place it belongs to (the associated data). The keyset itself is stored wrapped by a
// [KeyEncryptionKey]: a key, a passphrase, or a key service. Changing that key rewraps the keyset and leaves every
// record as it is.
//
// It does not store anything, does not know what a record means, and does not protect memory. It may import the
// standard library, tink-go and internal/secret.
package envelope

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// MaxSize bounds an envelope and a wrapped keyset. Larger ones are neither made nor read.
const MaxSize = 1 << 20

// The three ways in which opening fails; callers branch on them with errors.Is.
var (
	// ErrWrongKey: the data may be perfectly well, the key for it is not here.
	ErrWrongKey = errors.New("sealed with another key; give it as a previous key")
	// ErrMalformed: not an envelope of ours, cut short, or of a version this build does not know.
	ErrMalformed = errors.New("not an envelope this build can read; check that it is whole and not of a newer version")
	// ErrTampered: the envelope is whole and the key is here, but the two and the place do not belong together.
	ErrTampered = errors.New("sealed data was changed or moved from another place; restore it from a backup")
)

const (
	formatVersion = 1
	cipherName    = "tink-aes256-gcm"

	// A Tink ciphertext is 0x01, the key id (4 bytes, big endian), the nonce, the data and the tag. The sizes are those
	// of RFC 5116 section 5.2 (AEAD_AES_256_GCM).
	tinkPrefix = 0x01
	prefixSize = 5
	nonceSize  = 12
	tagSize    = 16

	// The domains keep the three uses of associated data apart and carry the format's version: an envelope of a later
	// version can never be passed off as one of this version by editing its header.
	recordDomain     = "caddyoauth/envelope/1/record\x00"
	keysetDomain     = "caddyoauth/envelope/1/keyset\x00"
	passphraseDomain = "caddyoauth/envelope/1/passphrase\x00"
)

// sealed is the stored form of a record. Field order is part of the format (see decode).
type sealed struct {
	Version    int    `json:"version"`
	Cipher     string `json:"cipher"`
	KeyID      uint32 `json:"key_id"` // repeated from the ciphertext, for people and for tools
	Ciphertext []byte `json:"ciphertext"`
}

func (s *sealed) version() int { return s.Version }

// Seal encrypts plaintext and binds it to associatedData, which says where the record belongs and is not stored:
// [KeyRing.Open] has to be given the same. The result is JSON and safe to store anywhere.
//
// Nonces are random, so one keyset is good for 2^32 records (NIST SP 800-38D section 8.3).
func (r *KeyRing) Seal(plaintext, associatedData []byte) ([]byte, error) {
	ciphertext, err := r.aead.Encrypt(plaintext, bind(recordDomain, associatedData))
	if err != nil {
		return nil, fmt.Errorf("seal record: %w", err)
	}
	envelope, err := encode(&sealed{
		Version: formatVersion, Cipher: cipherName, KeyID: r.primary, Ciphertext: ciphertext,
	})
	if err != nil {
		return nil, fmt.Errorf("seal record of %d bytes: %w", len(plaintext), err)
	}
	return envelope, nil
}

// Open decrypts what [KeyRing.Seal] made, if it was made for the same associatedData. The error is [ErrMalformed],
// [ErrWrongKey] or [ErrTampered], wrapped.
func (r *KeyRing) Open(envelope, associatedData []byte) ([]byte, error) {
	var s sealed
	if err := decode(envelope, &s); err != nil {
		return nil, fmt.Errorf("open record: %w", err)
	}
	if s.Cipher != cipherName {
		return nil, fmt.Errorf("open record: %w (unknown cipher)", ErrMalformed)
	}
	if len(s.Ciphertext) < prefixSize+nonceSize+tagSize {
		return nil, fmt.Errorf("open record: %w (ciphertext cut short)", ErrMalformed)
	}
	if binary.BigEndian.Uint32(s.Ciphertext[1:]) != s.KeyID {
		return nil, fmt.Errorf("open record: %w (it contradicts itself about its key)", ErrTampered)
	}
	// Asked before decrypting: Tink answers "decryption failed" to an unknown key and to changed data alike, and the
	// operator has to do different things about the two.
	if !r.Holds(s.KeyID) {
		return nil, fmt.Errorf("open record sealed with data key %d: %w", s.KeyID, ErrWrongKey)
	}
	plaintext, err := r.aead.Decrypt(s.Ciphertext, bind(recordDomain, associatedData))
	if err != nil {
		return nil, fmt.Errorf("open record: %w", ErrTampered) // Tink's own text adds nothing
	}
	return plaintext, nil
}

// bind prefixes the caller's associated data with the domain it is used in. The domains end in a zero byte and none is a
// prefix of another, so the result is unambiguous.
func bind(domain string, associatedData []byte) []byte {
	bound := make([]byte, 0, len(domain)+len(associatedData))
	return append(append(bound, domain...), associatedData...)
}
