package oauth

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/url"

	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// signatureParam carries the signature of a callback's query, at servers that sign it (Shopify).
const signatureParam = "hmac"

// CheckSignature verifies that a callback's raw query was signed with the client secret: HMAC-SHA256, in hex, over all other
// parameters, sorted by name and escaped as in a query. It is to be called before anything else in the query is believed. Its
// errors are of type [*Error]; without a signature the class is [Unrecognized] as well.
func (c *Client) CheckSignature(rawQuery string) error {
	values, err := url.ParseQuery(rawQuery)
	if err != nil || len(values[signatureParam]) != 1 {
		return badCallback("signature_missing", "it is not signed, or cannot be read")
	}
	sent, err := hex.DecodeString(values.Get(signatureParam))
	if err != nil {
		return badCallback("signature_invalid", "its signature is not one")
	}
	values.Del(signatureParam)
	signed := values.Encode()
	key, err := c.clientSecret()
	if err != nil {
		return err
	}
	if isSignature(sent, signed, key) {
		return nil
	}
	// The secret may have been replaced since it was last read, as after invalid_client.
	if fresh, err := c.readSecret(); err == nil && !fresh.Equal(key) && isSignature(sent, signed, fresh) {
		return nil
	}
	return badCallback("signature_invalid", "its signature is not one by client_secret")
}

// isSignature compares in time that does not depend on the contents.
func isSignature(sent []byte, signed string, key secret.Text) bool {
	mac := hmac.New(sha256.New, []byte(key.Reveal()))
	mac.Write([]byte(signed))
	return hmac.Equal(mac.Sum(nil), sent)
}
