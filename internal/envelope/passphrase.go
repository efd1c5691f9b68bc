package envelope

import (
	"bytes"
	"context"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"sync"
	"unicode/utf8"

	"github.com/tink-crypto/tink-go/v2/aead/aesgcm"
	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// Bounds of PBKDF2 iterations. They hold for configuration and for stored files: the lower one keeps a file from asking for
// a cheap derivation, the upper one from burning processor time for minutes.
const (
	DefaultIterations = 600_000 // OWASP Password Storage Cheat Sheet, PBKDF2-HMAC-SHA256
	MinIterations     = 100_000
	MaxIterations     = 10_000_000

	minPassphrase = 12 // characters
)

const (
	passphraseID    = "passphrase" // constant: anything derived from the words would be a means to test guesses
	passphraseMagic = "PBK1"
	saltSize        = 16 // bytes: NIST SP 800-132 section 5.1 and FIPS mode ask for at least 128 bits

	// header = magic, iterations (4 bytes, big endian), salt. It travels before the ciphertext and is authenticated with it.
	headerSize = len(passphraseMagic) + 4 + saltSize

	// maxDerived bounds the cache. Opening and sealing anew need two entries.
	maxDerived = 8
)

// passphrase derives one AES-256 key per salt with PBKDF2-HMAC-SHA256 (RFC 8018 section 5.2).
type passphrase struct {
	text       secret.Text
	iterations int

	mu sync.Mutex // guards derived; not held while deriving
	// derived remembers keys by header, so that checking what was just wrapped does not derive twice. It holds ready
	// primitives, never key bytes: fmt prints a map's bytes, a pointer it does not follow.
	derived map[[headerSize]byte]tink.AEAD
}

// NewPassphrase takes a passphrase of at least 12 characters, exactly as it is. iterations counts for what is wrapped from
// now on (0 means [DefaultIterations]); what was wrapped before says itself how it was derived.
func NewPassphrase(text secret.Text, iterations int) (KeyEncryptionKey, error) {
	if iterations == 0 {
		iterations = DefaultIterations
	}
	if iterations < MinIterations || iterations > MaxIterations {
		return nil, fmt.Errorf("read encryption passphrase: %d iterations are outside %d to %d; leave it out for %d",
			iterations, MinIterations, MaxIterations, DefaultIterations)
	}
	if utf8.RuneCountInString(text.Reveal()) < minPassphrase {
		return nil, fmt.Errorf("read encryption passphrase: shorter than %d characters; take several random words", minPassphrase)
	}
	return &passphrase{text: text, iterations: iterations, derived: make(map[[headerSize]byte]tink.AEAD)}, nil
}

// ID is the same for all passphrases.
func (*passphrase) ID() string { return passphraseID }

// Wrap derives a key from a fresh salt and encrypts with it.
func (p *passphrase) Wrap(ctx context.Context, plaintext, associatedData []byte) ([]byte, error) {
	var header [headerSize]byte
	copy(header[:], passphraseMagic)
	binary.BigEndian.PutUint32(header[len(passphraseMagic):], uint32(p.iterations))
	if _, err := rand.Read(header[headerSize-saltSize:]); err != nil {
		return nil, fmt.Errorf("make salt: %w", err)
	}
	cipher, err := p.derive(ctx, header)
	if err != nil {
		return nil, err
	}
	ciphertext, err := cipher.Encrypt(plaintext, bindHeader(header, associatedData))
	if err != nil {
		return nil, fmt.Errorf("wrap with passphrase: %w", err)
	}
	p.remember(header, cipher)
	return append(header[:], ciphertext...), nil
}

// Unwrap derives the key the header describes. A wrong passphrase and a changed file look the same here, by design of any
// scheme that does not store a means to test guesses; [ErrWrongKey] is by far the likelier of the two.
func (p *passphrase) Unwrap(ctx context.Context, ciphertext, associatedData []byte) ([]byte, error) {
	header, rest, err := splitHeader(ciphertext)
	if err != nil {
		return nil, err
	}
	cipher, err := p.derive(ctx, header)
	if err != nil {
		return nil, err
	}
	plaintext, err := cipher.Decrypt(rest, bindHeader(header, associatedData))
	if err != nil {
		return nil, ErrWrongKey
	}
	p.remember(header, cipher)
	return plaintext, nil
}

// splitHeader checks everything that can be checked before time is spent on deriving.
func splitHeader(ciphertext []byte) (header [headerSize]byte, rest []byte, err error) {
	if !bytes.HasPrefix(ciphertext, []byte(passphraseMagic)) {
		return header, nil, ErrWrongKey
	}
	if len(ciphertext) < headerSize+nonceSize+tagSize {
		return header, nil, fmt.Errorf("%w (wrapped keyset cut short)", ErrMalformed)
	}
	copy(header[:], ciphertext)
	if n := iterationsOf(header); n < MinIterations || n > MaxIterations {
		return header, nil, fmt.Errorf("%w (%d iterations are outside %d to %d)", ErrMalformed, n, MinIterations, MaxIterations)
	}
	return header, ciphertext[headerSize:], nil
}

func iterationsOf(header [headerSize]byte) int64 {
	return int64(binary.BigEndian.Uint32(header[len(passphraseMagic):]))
}

// bindHeader binds the caller's associated data and the header, which has a fixed length, to the ciphertext.
func bindHeader(header [headerSize]byte, associatedData []byte) []byte {
	return append(bind(passphraseDomain, header[:]), associatedData...)
}

// derive takes a noticeable part of a second and cannot be interrupted, so the context is asked first.
func (p *passphrase) derive(ctx context.Context, header [headerSize]byte) (tink.AEAD, error) {
	p.mu.Lock()
	cipher, ok := p.derived[header]
	p.mu.Unlock()
	if ok {
		return cipher, nil
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("derive key from passphrase: %w", err)
	}
	raw, err := pbkdf2.Key(sha256.New, p.text.Reveal(), header[headerSize-saltSize:], int(iterationsOf(header)), keySize)
	if err != nil {
		return nil, fmt.Errorf("derive key from passphrase: %w", err)
	}
	defer clear(raw)
	return newAEAD(raw, aesgcm.VariantNoPrefix, 0)
}

// remember keeps a key that proved useful. Keys of foreign headers never get here, so a hostile file cannot fill the
// cache.
func (p *passphrase) remember(header [headerSize]byte, cipher tink.AEAD) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.derived) >= maxDerived {
		clear(p.derived)
	}
	p.derived[header] = cipher
}

// Interface guard.
var _ KeyEncryptionKey = (*passphrase)(nil)
