package oauth

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// Keys of every kind, made once: RSA takes a while.
var (
	rsaKey      = must(rsa.GenerateKey(rand.Reader, 2048))
	p256        = must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	p384        = must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	p521        = must(ecdsa.GenerateKey(elliptic.P521(), rand.Reader))
	p224        = must(ecdsa.GenerateKey(elliptic.P224(), rand.Reader))
	_, ed, edOK = ed25519.GenerateKey(rand.Reader)
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// keyFile writes a key into a file, as PKCS #8.
func keyFile(t *testing.T, key any) string {
	t.Helper()
	return writeKey(t, "PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(key)))
}

func writeKey(t *testing.T, kind string, der []byte) string {
	t.Helper()
	return writeText(t, string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})))
}

func writeText(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func jwkOf(t *testing.T, key jose.JSONWebKey) string {
	t.Helper()
	return writeText(t, string(must(key.MarshalJSON()))+"\n")
}

// asserted asks once and returns the assertion that arrived: its header and its claims, after the signature was checked.
func asserted(t *testing.T, cfg Config, public crypto.PublicKey) (jose.Header, map[string]any) {
	t.Helper()
	endpoint, got := recorder(t)
	cfg.TokenEndpoint = endpoint
	if _, err := newTestClient(t, cfg).ClientCredentials(t.Context()); err != nil {
		t.Fatal(err)
	}
	have := <-got
	if have.header.Get("Authorization") != "" || have.form.Get("client_secret") != "" || have.form.Get("client_id") != cfg.ClientID ||
		have.form.Get("client_assertion_type") != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" {
		t.Errorf("sent with the assertion: %v %v", have.header, have.form)
	}
	return opened(t, have.form.Get("client_assertion"), public)
}

func opened(t *testing.T, assertion string, public crypto.PublicKey) (jose.Header, map[string]any) {
	t.Helper()
	var known []jose.SignatureAlgorithm
	for _, name := range append(AssertionAlgorithms(), "HS256") {
		known = append(known, jose.SignatureAlgorithm(name))
	}
	signed, err := jose.ParseSigned(assertion, known)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := signed.Verify(public)
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := json.Unmarshal(payload, &claims); err != nil {
		t.Fatal(err)
	}
	return signed.Signatures[0].Header, claims
}

// TestAssertions: every kind of key in every kind of file, and the algorithm that goes with it.
func TestAssertions(t *testing.T) {
	t.Parallel()
	if edOK != nil {
		t.Fatal(edOK)
	}
	for name, tc := range map[string]struct {
		key    ClientKey
		public crypto.PublicKey
		alg    string
		kid    string
	}{
		"RSA":                   {ClientKey{File: keyFile(t, rsaKey)}, rsaKey.Public(), "RS256", ""},
		"RSA, as PKCS #1":       {ClientKey{File: writeKey(t, "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rsaKey)), KeyID: "k"}, rsaKey.Public(), "RS256", "k"},
		"RSA, PSS":              {ClientKey{File: keyFile(t, rsaKey), KeyID: "k", Algorithm: "PS256"}, rsaKey.Public(), "PS256", "k"},
		"P-256":                 {ClientKey{File: keyFile(t, p256)}, p256.Public(), "ES256", ""},
		"P-384, as SEC 1":       {ClientKey{File: writeKey(t, "EC PRIVATE KEY", must(x509.MarshalECPrivateKey(p384)))}, p384.Public(), "ES384", ""},
		"P-521":                 {ClientKey{File: keyFile(t, p521)}, p521.Public(), "ES512", ""},
		"Ed25519":               {ClientKey{File: keyFile(t, ed)}, ed.Public(), "EdDSA", ""},
		"JWK":                   {ClientKey{File: jwkOf(t, jose.JSONWebKey{Key: rsaKey, KeyID: "own", Algorithm: "PS256"})}, rsaKey.Public(), "PS256", "own"},
		"JWK, overruled":        {ClientKey{File: jwkOf(t, jose.JSONWebKey{Key: rsaKey, KeyID: "own", Algorithm: "PS256"}), KeyID: "k", Algorithm: "RS512"}, rsaKey.Public(), "RS512", "k"},
		"JWK without a name":    {ClientKey{File: jwkOf(t, jose.JSONWebKey{Key: p256})}, p256.Public(), "ES256", ""},
		"after EC parameters":   {ClientKey{File: writeText(t, "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"+string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: must(x509.MarshalECPrivateKey(p256))})))}, p256.Public(), "ES256", ""},
		"among other PEM parts": {ClientKey{File: writeText(t, "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n"+string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(p256))})))}, p256.Public(), "ES256", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			header, claims := asserted(t, Config{ClientID: oddID, Method: PrivateKeyJWT, Key: &tc.key}, tc.public)
			if header.Algorithm != tc.alg || header.KeyID != tc.kid || header.ExtraHeaders["typ"] != "JWT" || header.JSONWebKey != nil {
				t.Errorf("the header is %+v, want %s and %q", header, tc.alg, tc.kid)
			}
			if claims["iss"] != oddID || claims["sub"] != oddID || len(claims["jti"].(string)) != 43 || len(claims) != 6 {
				t.Errorf("the claims are %v", claims)
			}
			now := float64(time.Now().Unix())
			if issued, expires := claims["iat"].(float64), claims["exp"].(float64); issued > now-25 || issued < now-40 || expires < now+50 || expires > now+61 {
				t.Errorf("issued %v s and expires %v s from now", issued-now, expires-now)
			}
		})
	}
}

// TestAssertionAudience: whom it is for.
func TestAssertionAudience(t *testing.T) {
	t.Parallel()
	key := &ClientKey{File: keyFile(t, p256)}
	for _, tc := range []struct{ issuer, said, want string }{
		{"", "", "http://"}, {"https://idp.example", "", "https://idp.example"}, {"https://idp.example", "urn:x", "urn:x"}, {"", "urn:x", "urn:x"},
	} {
		_, claims := asserted(t, Config{ClientID: "c", Method: PrivateKeyJWT, Key: key, Issuer: tc.issuer, AssertionAudience: tc.said}, p256.Public())
		audience, _ := claims["aud"].(string) // a string, not a list: the audience is exactly one
		if audience != tc.want && (tc.want != "http://" || !strings.HasPrefix(audience, tc.want) || !strings.HasSuffix(audience, "/token")) {
			t.Errorf("issuer %q, said %q: the audience is %v", tc.issuer, tc.said, claims["aud"])
		}
	}
}

// TestSecretAssertion signs with the client secret.
func TestSecretAssertion(t *testing.T) {
	t.Parallel()
	const long = "s3cret-of-the-client-with-32-bytes"
	header, claims := asserted(t, Config{ClientID: "c", Method: ClientSecretJWT, Secret: fixed(long)}, []byte(long))
	if header.Algorithm != "HS256" || claims["sub"] != "c" {
		t.Errorf("got %+v %v", header, claims)
	}
	endpoint, got := recorder(t)
	token, err := newTestClient(t, Config{TokenEndpoint: endpoint, Method: ClientSecretJWT, Secret: fixed(long[:31])}).ClientCredentials(t.Context())
	expect(t, mustFail(t, token, err), Misconfigured, "secret_too_short")
	if len(got) != 0 {
		t.Error("a request was sent")
	}
}

// TestAttackAssertionReplay: no assertion is sent twice, neither by the same client nor for another call, and each is for one
// exchange only: the key of the file at that time signs it.
func TestAttackAssertionReplay(t *testing.T) {
	t.Parallel()
	endpoint, got := recorder(t)
	file := keyFile(t, p256)
	c := newTestClient(t, Config{
		TokenEndpoint: endpoint, RevocationEndpoint: endpoint, Method: PrivateKeyJWT, Key: &ClientKey{File: file}, Username: "u", Password: fixed("p"),
	})
	seen := map[string]bool{}
	calls := []func(context.Context) error{
		func(ctx context.Context) error { _, err := c.ClientCredentials(ctx); return err },
		func(ctx context.Context) error { _, err := c.Refresh(ctx, secret.New("r")); return err },
		func(ctx context.Context) error { _, err := c.Password(ctx); return err },
		func(ctx context.Context) error {
			_, err := c.ExchangeCode(ctx, CodeExchange{Code: secret.New("c"), RedirectURI: callback})
			return err
		},
		func(ctx context.Context) error { return c.Revoke(ctx, secret.New("r"), "refresh_token") },
	}
	for round, public := range []crypto.PublicKey{p256.Public(), p384.Public()} {
		for n, call := range calls {
			if err := call(t.Context()); err != nil {
				t.Fatalf("call %d: %v", n, err)
			}
			_, claims := opened(t, (<-got).form.Get("client_assertion"), public)
			if id := claims["jti"].(string); seen[id] {
				t.Errorf("round %d, call %d: an assertion came twice", round, n)
			} else {
				seen[id] = true
			}
		}
		renewed, err := os.ReadFile(keyFile(t, p384))
		if err == nil {
			err = os.WriteFile(file, renewed, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestClientKeysThatCannotSign: what is wrong is named, with the file, and nothing is sent.
func TestClientKeysThatCannotSign(t *testing.T) {
	t.Parallel()
	short := must(x509.MarshalPKCS8PrivateKey(must(rsa.GenerateKey(rand.Reader, 1024))))
	public := must(x509.MarshalPKIXPublicKey(p256.Public()))
	for name, tc := range map[string]struct {
		key        ClientKey
		code, says string
	}{
		"missing":            {ClientKey{File: filepath.Join(t.TempDir(), "none")}, "key_unreadable", "no such file"},
		"empty":              {ClientKey{File: writeText(t, "")}, "key_unreadable", "holds no PEM private key"},
		"not PEM":            {ClientKey{File: writeText(t, "Seeded0")}, "key_unreadable", "holds no PEM private key"},
		"damaged":            {ClientKey{File: writeKey(t, "PRIVATE KEY", []byte("Seeded0"))}, "key_unreadable", "is damaged"},
		"encrypted":          {ClientKey{File: writeKey(t, "ENCRYPTED PRIVATE KEY", []byte("Seeded0"))}, "key_unreadable", "is encrypted"},
		"public":             {ClientKey{File: writeKey(t, "PUBLIC KEY", public)}, "key_unreadable", "holds no PEM private key"},
		"public JWK":         {ClientKey{File: jwkOf(t, jose.JSONWebKey{Key: p256.Public()})}, "key_unreadable", "is not a private JSON Web Key"},
		"broken JWK":         {ClientKey{File: writeText(t, `{"kty":"RSA","n":"Seeded0"}`)}, "key_unreadable", "is not a private JSON Web Key"},
		"symmetric JWK":      {ClientKey{File: writeText(t, `{"kty":"oct","k":"U2VlZGVkMFNlZWRlZDBTZWVkZWQwU2VlZGVkMA"}`)}, "key_unusable", "of a kind that cannot sign"},
		"short RSA":          {ClientKey{File: writeKey(t, "PRIVATE KEY", short)}, "key_unusable", "less than 2048 bits"},
		"P-224":              {ClientKey{File: keyFile(t, p224)}, "key_unusable", "of a kind that cannot sign"},
		"ES256 with RSA":     {ClientKey{File: keyFile(t, rsaKey), Algorithm: "ES256"}, "key_unusable", `cannot sign with "ES256"; it is an RSA key, for RS256`},
		"RS256 with P-256":   {ClientKey{File: keyFile(t, p256), Algorithm: "RS256"}, "key_unusable", "it is a key on the curve P-256, for ES256"},
		"the JWK says none":  {ClientKey{File: jwkOf(t, jose.JSONWebKey{Key: p256, Algorithm: "none"})}, "key_unusable", `cannot sign with "none"`},
		"the JWK says HS256": {ClientKey{File: jwkOf(t, jose.JSONWebKey{Key: rsaKey, Algorithm: "HS256"})}, "key_unusable", `cannot sign with "HS256"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			endpoint, got := recorder(t)
			token, err := newTestClient(t, Config{TokenEndpoint: endpoint, Method: PrivateKeyJWT, Key: &tc.key}).ClientCredentials(t.Context())
			e := mustFail(t, token, err)
			expect(t, e, Misconfigured, tc.code)
			if !strings.Contains(e.Error(), tc.key.File) || !strings.Contains(e.Error(), tc.says) || strings.Contains(e.Error(), "Seeded0") {
				t.Errorf("the error is %q, want the file and %q", e, tc.says)
			}
			if len(got) != 0 {
				t.Error("a request was sent")
			}
		})
	}
}

// TestAttackEchoOfAssertion: a server that repeats the assertion as its error code gets none of it into an error.
func TestAttackEchoOfAssertion(t *testing.T) {
	t.Parallel()
	var part string
	c := newTestClient(t, Config{Method: PrivateKeyJWT, Key: &ClientKey{File: keyFile(t, p256)}, TokenEndpoint: serve(t, echoing(&part))})
	token, err := c.ClientCredentials(t.Context())
	e := mustFail(t, token, err)
	if e.Code != "unreadable_code" || strings.Contains(e.Error(), part) || len(part) < echoRun {
		t.Errorf("the code is %q, the error %q", e.Code, e)
	}
}

// echoing answers with a part of the assertion as the error code.
func echoing(part *string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		letters := strings.FieldsFunc(r.PostFormValue("client_assertion"), func(r rune) bool { return r == '.' })
		*part = "e" + strings.TrimLeft(letters[1][1:21], "-_0123456789")
		answer(400, "application/json", `{"error":"`+*part+`"}`)(w, r)
	}
}
