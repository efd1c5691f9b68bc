package kms_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"google.golang.org/grpc/codes"

	"github.com/caddyoauth/caddyoauth"
	"github.com/caddyoauth/caddyoauth/kms/internal/standin"
)

// The keys that the stand-ins hold. Of each service there is a second one.
const (
	awsKey   = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
	awsOther = "arn:aws:kms:eu-central-1:111122223333:alias/other"
	gcpKey   = "projects/p/locations/europe-west3/keyRings/caddy/cryptoKeys/tokens"
	gcpOther = "projects/p/locations/europe-west3/keyRings/caddy/cryptoKeys/other"
)

// environment has where the services' libraries look for credentials, and keeps them from asking the network for more.
var environment = map[string]string{
	"AWS_ACCESS_KEY_ID": standin.AWSAccessKey, "AWS_SECRET_ACCESS_KEY": standin.AWSSecretKey, "AWS_EC2_METADATA_DISABLED": "true",
	"AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull, "AWS_PROFILE": "", "AWS_SESSION_TOKEN": "",
	"VAULT_TOKEN": standin.VaultToken, "VAULT_NAMESPACE": standin.VaultNamespace, "VAULT_ADDR": "", "BAO_ADDR": "",
}

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "caddyoauth-kms-")
	if err != nil {
		panic(err)
	}
	for name, value := range environment {
		if err := os.Setenv(name, value); err != nil {
			panic(err)
		}
	}
	caddy.DefaultStorage.Path = filepath.Join(dir, "data")
	caddy.ConfigAutosavePath = filepath.Join(dir, "autosave.json")
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// service is one kind of key service with its stand-in.
type service struct {
	name       string // of the module
	gate       *standin.Gate
	key, other string
	endpoint   string // the option that names the address
	deny       func() // from now on nothing is allowed
}

func services(t *testing.T) []service {
	t.Helper()
	aws, err := standin.NewAWS(awsKey, awsOther)
	if err != nil {
		t.Fatal(err)
	}
	gcp, err := standin.NewGCP(gcpKey, gcpOther)
	if err != nil {
		t.Fatal(err)
	}
	vault, err := standin.NewVault("tokens", "other")
	if err != nil {
		t.Fatal(err)
	}
	all := []service{
		{"aws_kms", aws.Gate, awsKey, awsOther, "endpoint", func() { aws.Refuse("AccessDeniedException") }},
		{"gcp_kms", gcp.Gate, gcpKey, gcpOther, "endpoint", func() { gcp.Refuse(codes.PermissionDenied) }},
		{"vault_transit", vault.Gate, "tokens", "transit/keys/other", "address", func() { vault.Refuse(http.StatusForbidden) }},
	}
	t.Cleanup(func() {
		for _, s := range all {
			_ = s.gate.Close()
			s.gate.SetDown(true)
		}
	})
	return all
}

func (s service) address() string { return "http://" + s.gate.Addr().String() }

// module provisions the module of that name as Caddy does.
func module(name string, config map[string]string) (caddyoauth.KeyEncryptionKey, error) {
	info, err := caddy.GetModule("oauth2_inject.keys." + name)
	if err != nil {
		return nil, err
	}
	raw, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	value := info.New()
	if err := caddy.StrictUnmarshalJSON(raw, value); err != nil {
		return nil, err
	}
	if err := value.(caddy.Provisioner).Provision(caddy.Context{}); err != nil {
		return nil, err
	}
	return value.(caddyoauth.KeyModule).KeyEncryptionKey(), nil
}

func (s service) kek(t *testing.T, key string) caddyoauth.KeyEncryptionKey {
	t.Helper()
	kek, err := module(s.name, map[string]string{"key": key, s.endpoint: s.address()})
	if err != nil {
		t.Fatal(err)
	}
	return kek
}

// TestKeys: what a key-encryption key has to do, over the real wire of each service.
func TestKeys(t *testing.T) {
	t.Parallel()
	for _, s := range services(t) {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			kek, other := s.kek(t, s.key), s.kek(t, s.other)
			if id := kek.ID(); id == other.ID() || len(id) > 256 || strings.ContainsAny(id, " \n") {
				t.Errorf("the ids are %q and %q", id, other.ID())
			}
			keyset, purpose := bytes.Repeat([]byte("seeded"), 500), []byte("purpose\x00")
			wrapped, err := kek.Wrap(t.Context(), keyset, purpose)
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(wrapped, []byte("seeded")) {
				t.Error("it wraps in the clear")
			}
			if plain, err := s.kek(t, s.key).Unwrap(t.Context(), wrapped, purpose); err != nil || !bytes.Equal(plain, keyset) {
				t.Errorf("got %d bytes, %v", len(plain), err)
			}
			changed := bytes.Clone(wrapped)
			changed[len(changed)-9] ^= 1
			for name, test := range map[string]struct {
				kek     caddyoauth.KeyEncryptionKey
				wrapped []byte
				purpose string
			}{
				"another key": {other, wrapped, string(purpose)}, "another purpose": {kek, wrapped, "else"}, "changed": {kek, changed, string(purpose)},
				"cut short": {kek, wrapped[:8], string(purpose)}, "nothing": {kek, nil, ""},
			} {
				if _, err := test.kek.Unwrap(t.Context(), test.wrapped, []byte(test.purpose)); !errors.Is(err, caddyoauth.ErrWrongKey) {
					t.Errorf("%s: %v", name, err)
				}
			}
			calls := s.gate.Calls()
			if _, err := kek.Unwrap(t.Context(), []byte("\x01abcd: what a local key has wrapped"), purpose); !errors.Is(err, caddyoauth.ErrWrongKey) || s.gate.Calls() != calls {
				t.Errorf("another key's keyset was sent to the service, or: %v", err)
			}
			s.gate.SetDown(true)
			wantTrouble(t, "down", kek, wrapped)
			s.gate.SetDown(false)
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if _, err := kek.Unwrap(ctx, wrapped, purpose); err == nil || errors.Is(err, caddyoauth.ErrWrongKey) {
				t.Errorf("canceled: %v", err)
			}
			if _, err := kek.Unwrap(t.Context(), wrapped, purpose); err != nil {
				t.Errorf("up again: %v", err)
			}
			s.deny()
			wantTrouble(t, "denied", kek, wrapped)
		})
	}
}

// wantTrouble: not being able to ask is not the same as a wrong key, which an operator would look for in vain.
func wantTrouble(t *testing.T, when string, kek caddyoauth.KeyEncryptionKey, wrapped []byte) {
	t.Helper()
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second) // libraries that try again must heed it
	defer cancel()
	_, wrapErr := kek.Wrap(ctx, []byte("seeded"), nil)
	_, unwrapErr := kek.Unwrap(ctx, wrapped, nil)
	for _, err := range []error{wrapErr, unwrapErr} {
		if err == nil || errors.Is(err, caddyoauth.ErrWrongKey) || errors.Is(err, caddyoauth.ErrTampered) || errors.Is(err, caddyoauth.ErrMalformed) {
			t.Errorf("%s: %v", when, err)
		}
		if err != nil && (strings.Contains(err.Error(), "seeded") || !strings.Contains(err.Error(), kek.ID())) {
			t.Errorf("%s: the error shows a secret, or not which key it was: %v", when, err)
		}
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("%s: that took %v", when, took)
	}
}

// TestVaultRotation: the service's own rotation changes nothing until the oldest version is cut off; wrapping anew before that is
// what `rekey` does.
func TestVaultRotation(t *testing.T) {
	t.Parallel()
	vault, err := standin.NewVault("tokens")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = vault.Close() })
	kek := service{name: "vault_transit", gate: vault.Gate, endpoint: "address"}.kek(t, "tokens")
	before, err := kek.Wrap(t.Context(), []byte("keyset"), nil)
	if err != nil {
		t.Fatal(err)
	}
	vault.Rotate("tokens", 1)
	if _, err := kek.Unwrap(t.Context(), before, nil); err != nil {
		t.Errorf("after a rotation: %v", err)
	}
	after, err := kek.Wrap(t.Context(), []byte("keyset"), nil)
	if err != nil || !bytes.HasPrefix(after, []byte("KMSvvault:v2:")) {
		t.Errorf("wrapped anew: %.20q, %v", after, err)
	}
	vault.Rotate("tokens", 2)
	if _, err := kek.Unwrap(t.Context(), before, nil); !errors.Is(err, caddyoauth.ErrWrongKey) || !strings.Contains(err.Error(), "too old") {
		t.Errorf("with the old version cut off: %v", err)
	}
	if plain, err := kek.Unwrap(t.Context(), after, nil); err != nil || string(plain) != "keyset" {
		t.Errorf("wrapped with a later version: %v", err)
	}
}

// TestVaultToken: a token file is read for each call, so that an agent can renew it; without any token the error says what to do.
func TestVaultToken(t *testing.T) {
	vault, err := standin.NewVault("tokens")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = vault.Close() })
	t.Setenv("VAULT_TOKEN", "")
	t.Setenv("BAO_TOKEN", "")
	file := filepath.Join(t.TempDir(), "token")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("expired")
	address := "http://" + vault.Addr().String()
	kek, err := module("vault_transit", map[string]string{"key": "tokens", "address": address, "token_file": file})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kek.Wrap(t.Context(), nil, nil); err == nil {
		t.Error("an expired token is good enough")
	}
	write(standin.VaultToken + "\n")
	if _, err := kek.Wrap(t.Context(), nil, nil); err != nil {
		t.Error(err)
	}
	without, err := module("vault_transit", map[string]string{"key": "tokens", "address": address})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := without.Wrap(t.Context(), nil, nil); err == nil || !strings.Contains(err.Error(), "token_file") {
		t.Errorf("without a token: %v", err)
	}
	t.Setenv("BAO_TOKEN", standin.VaultToken)
	t.Setenv("BAO_ADDR", address)
	if kek, err = module("vault_transit", map[string]string{"key": "tokens"}); err != nil {
		t.Fatal(err)
	}
	if _, err := kek.Wrap(t.Context(), nil, nil); err != nil {
		t.Errorf("with OpenBao's names: %v", err)
	}
}

// TestConfigurationsRefused: what is wrong is said at load, before anything is asked.
func TestConfigurationsRefused(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ module, key, option, value, want string }{
		{"aws_kms", "", "", "", "not the ARN"},
		{"aws_kms", "1234abcd-12ab-34cd-56ef-1234567890ab", "", "", "not the ARN"},
		{"aws_kms", "arn:aws:s3:::bucket", "", "", "not the ARN"},
		{"aws_kms", awsKey + "/..", "", "", "not the ARN"},
		{"aws_kms", "{env.TEST_KMS_UNSET}", "", "", "key"},
		{"aws_kms", awsKey, "endpoint", "http://kms.example", "endpoint"},
		{"aws_kms", awsKey, "profile", "{env.TEST_KMS_UNSET}", "profile"},
		{"gcp_kms", "", "", "", "not the name"},
		{"gcp_kms", gcpKey + "/cryptoKeyVersions/1", "", "", "not the name"},
		{"gcp_kms", gcpKey, "endpoint", "cloudkms.example:443", "endpoint"},
		{"vault_transit", "", "address", "https://vault.example", "not a key"},
		{"vault_transit", "../sys/keys/tokens", "address", "https://vault.example", "not a key"},
		{"vault_transit", "tokens", "", "", "VAULT_ADDR"},
		{"vault_transit", "tokens", "address", "http://vault.example", "neither https nor"},
	} {
		config := map[string]string{"key": test.key}
		if test.option != "" {
			config[test.option] = test.value
		}
		if _, err := module(test.module, config); err == nil || !strings.Contains(err.Error(), "encryption "+test.module) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%+v: %v", test, err)
		}
	}
	for _, good := range []struct{ module, key string }{
		{"aws_kms", "arn:aws-us-gov:kms:us-gov-west-1:111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab"}, {"gcp_kms", "gcp-kms://" + gcpKey},
	} {
		if _, err := module(good.module, map[string]string{"key": good.key}); err != nil {
			t.Error(err)
		}
	}
}
