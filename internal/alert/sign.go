package alert

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// secretPrefix begins a secret of the Standard Webhooks specification (https://www.standardwebhooks.com).
const secretPrefix = "whsec_"

// Lengths of a key in bytes, as the specification has them.
const minKey, maxKey = 24, 64

// ErrSecret says what a signing secret must look like.
var ErrSecret = errors.New("must be whsec_ and 24 to 64 random bytes in base64, as `openssl rand -base64 32` makes them")

// Key signs messages.
type Key struct{ bytes secret.Text }

// ParseKey reads a secret.
func ParseKey(text secret.Text) (Key, error) {
	encoded, found := strings.CutPrefix(text.Reveal(), secretPrefix)
	raw, err := base64.StdEncoding.DecodeString(encoded)
	if !found || err != nil || len(raw) < minKey || len(raw) > maxKey {
		return Key{}, ErrSecret
	}
	return Key{secret.New(string(raw))}, nil
}

// Sign returns the value of the header webhook-signature: one signature for each key, so that a receiver can change its secret while
// both are sent.
func Sign(keys []Key, id string, at time.Time, body []byte) string {
	var signatures []string
	for _, key := range keys {
		mac := hmac.New(sha256.New, []byte(key.bytes.Reveal()))
		mac.Write([]byte(id + "." + strconv.FormatInt(at.Unix(), 10) + "."))
		mac.Write(body)
		signatures = append(signatures, "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	return strings.Join(signatures, " ")
}
