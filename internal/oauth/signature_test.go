package oauth

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// signedWith returns the hex HMAC of a text.
func signedWith(key, text string) string {
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write([]byte(text))
	return hex.EncodeToString(mac.Sum(nil))
}

// TestAttackUnsignedCallback: a query that was not signed with the secret, to the letter, is not believed.
func TestAttackUnsignedCallback(t *testing.T) {
	t.Parallel()
	const key, sorted = "hush", "code=0907a61c&host=YWRtaW4&shop=acme.myshopify.com&state=x1&timestamp=1337178173"
	good := signedWith(key, sorted)
	c := newTestClient(t, Config{TokenEndpoint: "https://a.example/token", Secret: fixed(key)})
	for name, tc := range map[string]struct{ query, code string }{
		"signed":            {sorted + "&hmac=" + good, ""},
		"in another order":  {"hmac=" + good + "&timestamp=1337178173&state=x1&shop=acme.myshopify.com&host=YWRtaW4&code=0907a61c", ""},
		"escaped otherwise": {strings.Replace(sorted, "acme.", "acme%2E", 1) + "&hmac=" + good, ""},
		"upper case":        {sorted + "&hmac=" + strings.ToUpper(good), ""},
		"unsigned":          {sorted, "signature_missing"},
		"signed twice":      {sorted + "&hmac=" + good + "&hmac=" + good, "signature_missing"},
		"not a query":       {sorted + "&a=%zz&hmac=" + good, "signature_missing"},
		"empty":             {sorted + "&hmac=", "signature_invalid"},
		"cut short":         {sorted + "&hmac=" + good[:32], "signature_invalid"},
		"not hex":           {sorted + "&hmac=zz" + good[2:], "signature_invalid"},
		"another key":       {sorted + "&hmac=" + signedWith("other", sorted), "signature_invalid"},
		"without a key":     {sorted + "&hmac=" + signedWith("", sorted), "signature_invalid"},
		"another shop":      {strings.Replace(sorted, "acme", "evil", 1) + "&hmac=" + good, "signature_invalid"},
		"one more":          {sorted + "&extra=1&hmac=" + good, "signature_invalid"},
		"one less":          {strings.TrimPrefix(sorted, "code=0907a61c&") + "&hmac=" + good, "signature_invalid"},
		"one twice":         {sorted + "&shop=evil.myshopify.com&hmac=" + good, "signature_invalid"},
		"two made of one":   {"code=0907a61c%26host=YWRtaW4&shop=acme.myshopify.com&state=x1&timestamp=1337178173&hmac=" + good, "signature_invalid"},
	} {
		err := c.CheckSignature(tc.query)
		var e *Error
		switch {
		case tc.code == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case tc.code != "" && (!errors.As(err, &e) || e.Code != tc.code || e.Class != Unrecognized):
			t.Errorf("%s: got %v, want %s", name, err, tc.code)
		}
		if err != nil && (strings.Contains(err.Error(), key+"\"") || strings.Contains(err.Error(), good) || strings.Contains(err.Error(), "acme")) {
			t.Errorf("%s: the error repeats the query: %v", name, err)
		}
	}
}

// TestSignatureAfterNewSecret: the secret is read again before a signature is refused.
func TestSignatureAfterNewSecret(t *testing.T) {
	t.Parallel()
	now := "first"
	c := newTestClient(t, Config{TokenEndpoint: "https://a.example/token", Secret: func() (secret.Text, error) { return secret.New(now), nil }})
	for _, key := range []string{"first", "second", "second"} {
		now = key
		if err := c.CheckSignature("code=1&hmac=" + signedWith(key, "code=1")); err != nil {
			t.Errorf("%s: %v", key, err)
		}
	}
	if err := c.CheckSignature("code=1&hmac=" + signedWith("first", "code=1")); err == nil {
		t.Error("the old secret still signs")
	}
}
