package oauth

import (
	"cmp"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// assertionType is what RFC 7523 section 2.2 calls a JWT that authenticates a client.
const assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

// A client assertion lives for one exchange: long enough for a server whose clock is a minute ahead, and issued in the past for
// one whose clock is half a minute behind, since servers refuse what comes from the future.
const (
	assertionAge  = 30 * time.Second
	assertionLife = time.Minute
)

// ClientKey is the private key that signs client assertions (RFC 7523 section 2.2, OpenID Connect Core section 9): PEM, or a JSON
// Web Key (RFC 7517). The file is read for each assertion, so a renewed key is used from the next exchange on.
type ClientKey struct {
	File      string
	Held      secret.Text // what the file would hold, instead of one
	Name      string      // what texts call a key that is held
	KeyID     string      // empty means that of the JSON Web Key, if the file is one, else none
	Algorithm string      // empty means that of the JSON Web Key, else the usual one for the kind of key; see [AssertionAlgorithms]
}

// AssertionAlgorithms are the names that [ClientKey.Algorithm] may have (RFC 7518 section 3.1, RFC 8037). The first that fits the
// key is the default.
func AssertionAlgorithms() []string {
	return []string{"RS256", "PS256", "RS384", "PS384", "RS512", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
}

// assertion makes a client assertion, another one for each request: servers refuse one that they have seen (jti).
func (c *Client) assertion(clientSecret secret.Text) (secret.Text, error) {
	signer, err := c.assertionSigner(clientSecret)
	if err != nil {
		return secret.Text{}, err
	}
	now := time.Now()
	payload, _ := json.Marshal(map[string]any{ // strings and numbers: cannot fail
		"iss": c.cfg.ClientID, "sub": c.cfg.ClientID, "aud": c.cfg.assertionAudience(), "jti": RandomState(),
		"iat": now.Add(-assertionAge).Unix(), "exp": now.Add(assertionLife).Unix(),
	})
	signed, err := signer.Sign(payload)
	if err != nil {
		return secret.Text{}, badKey("key_unusable", "client key "+c.cfg.Key.name()+" cannot sign")
	}
	compact, err := signed.CompactSerialize()
	if err != nil {
		return secret.Text{}, badKey("key_unusable", "client key "+c.cfg.Key.name()+" gives no signature")
	}
	return secret.New(compact), nil
}

// assertionAudience names whom an assertion is for: the issuer where it is known, since a token endpoint may be named by somebody
// else's metadata, and an assertion for it could be used there (the attack that RFC 7523bis ends).
func (c *Config) assertionAudience() string {
	switch {
	case c.AssertionAudience != "":
		return c.AssertionAudience
	case c.Issuer != "" && !strings.Contains(c.Issuer, tenantMark):
		return c.Issuer
	}
	return c.TokenEndpoint
}

// assertionSigner signs with the key of the method.
func (c *Client) assertionSigner(clientSecret secret.Text) (jose.Signer, error) {
	var key jose.SigningKey
	if c.cfg.Method == ClientSecretJWT {
		const enough = 32 // bytes: RFC 7518 section 3.2
		raw := []byte(clientSecret.Reveal())
		if len(raw) < enough {
			return nil, badKey("secret_too_short", "client secret is too short for client_secret_jwt, which needs 32 bytes; use client_secret_basic")
		}
		key = jose.SigningKey{Algorithm: jose.HS256, Key: raw}
	} else {
		own, err := c.cfg.Key.load()
		if err != nil {
			return nil, err
		}
		key = *own
	}
	signer, err := jose.NewSigner(key, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return nil, badKey("key_unusable", "client key "+c.cfg.Key.name()+" cannot be used")
	}
	return signer, nil
}

func badKey(code, text string) *Error { return newError(Misconfigured, code, text) }

func (k *ClientKey) name() string {
	if k == nil {
		return "of the secret"
	}
	return cmp.Or(k.File, k.Name)
}

// Check reports what is wrong with the key. Its errors are of type [*Error].
func (k *ClientKey) Check() error {
	_, err := k.load()
	return err
}

func (k *ClientKey) read() ([]byte, error) {
	if !k.Held.IsZero() {
		return []byte(k.Held.Reveal()), nil
	}
	data, err := os.ReadFile(k.File)
	if err != nil {
		e := badKey("key_unreadable", "client key cannot be read: "+k.File)
		var path *os.PathError
		if errors.As(err, &path) {
			e.text, e.cause = "client key cannot be read: "+path.Error(), path
		}
		return nil, e
	}
	return data, nil
}

// load reads the key. Its errors name the file and show nothing of it.
func (k *ClientKey) load() (*jose.SigningKey, error) {
	data, err := k.read()
	if err != nil {
		return nil, err
	}
	key := jose.JSONWebKey{KeyID: k.KeyID, Algorithm: k.Algorithm}
	if text := strings.TrimSpace(string(data)); strings.HasPrefix(text, "{") {
		var own jose.JSONWebKey
		if own.UnmarshalJSON([]byte(text)) != nil || own.IsPublic() {
			return nil, badKey("key_unreadable", "client key "+k.name()+" is not a private JSON Web Key")
		}
		key.Key = own.Key
		if key.KeyID == "" {
			key.KeyID = own.KeyID
		}
		if key.Algorithm == "" {
			key.Algorithm = own.Algorithm
		}
	} else {
		if hint := keyTrouble(data); hint != "" {
			return nil, badKey("key_unreadable", "client key "+k.name()+" "+hint)
		}
		key.Key = firstKey(data)
	}
	fit, what := algorithmsFor(key.Key)
	switch {
	case len(fit) == 0:
		return nil, badKey("key_unusable", "client key "+k.name()+" "+what)
	case key.Algorithm == "":
		key.Algorithm = fit[0]
	case !slices.Contains(fit, key.Algorithm):
		return nil, badKey("key_unusable", fmt.Sprintf("client key %s cannot sign with %q; it is %s, for %s",
			k.name(), key.Algorithm, what, strings.Join(fit, ", ")))
	}
	return &jose.SigningKey{Algorithm: jose.SignatureAlgorithm(key.Algorithm), Key: key}, nil
}

// firstKey returns the first private key of PEM text in which [keyTrouble] found none.
func firstKey(data []byte) any {
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if !strings.HasSuffix(block.Type, "PRIVATE KEY") {
			continue
		}
		if key, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
			return key
		}
		if key, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
			return key
		}
		if key, err := x509.ParseECPrivateKey(block.Bytes); err == nil {
			return key
		}
	}
	return nil
}

// algorithmsFor returns what a key can sign with, the default first, and what kind of key it is or why there is nothing.
func algorithmsFor(key any) (fit []string, what string) {
	switch key := key.(type) {
	case *rsa.PrivateKey:
		if key.N.BitLen() < 2048 { // RFC 7518 section 3.3
			return nil, "is an RSA key of less than 2048 bits; make a longer one"
		}
		return []string{"RS256", "PS256", "RS384", "PS384", "RS512", "PS512"}, "an RSA key"
	case *ecdsa.PrivateKey:
		switch size := key.Curve.Params().BitSize; size {
		case 256, 384:
			return []string{fmt.Sprintf("ES%d", size)}, "a key on the curve " + key.Curve.Params().Name
		case 521:
			return []string{"ES512"}, "a key on the curve P-521"
		}
	case ed25519.PrivateKey:
		return []string{"EdDSA"}, "an Ed25519 key"
	}
	return nil, "is of a kind that cannot sign client assertions; use RSA, P-256, P-384, P-521 or Ed25519"
}
