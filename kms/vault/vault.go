// Package vault brings `encryption vault_transit`: a key-encryption key in the transit engine of HashiCorp Vault or OpenBao. It
// speaks to the server through Tink's driver and keeps nothing. It may import the root package's exported names, Caddy, Tink and
// HashiCorp's client.
package vault

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/hashicorp/vault/api"
	"github.com/tink-crypto/tink-go-hcvault/v2/integration/hcvault"
	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/caddyoauth/caddyoauth"
	"github.com/caddyoauth/caddyoauth/kms/internal/remote"
)

func init() {
	caddy.RegisterModule(Key{})
}

// Key is a key-encryption key in the transit engine of HashiCorp Vault or OpenBao: of a type with associated data
// (`aes256-gcm96`, `chacha20-poly1305`), not derived. What is not said here comes from the environment: `VAULT_ADDR`, `VAULT_TOKEN`,
// `VAULT_NAMESPACE` or the same with `BAO_`, and `VAULT_CACERT`, `VAULT_CLIENT_CERT` and so on. The token needs `update` on
// `MOUNT/encrypt/NAME` and `MOUNT/decrypt/NAME`.
type Key struct {
	// Key is the key's name, or `MOUNT/keys/NAME`. The mount's default is `transit`.
	Key string `json:"key"`
	// Address is the URL of the server.
	Address string `json:"address,omitempty"`
	// Namespace of the mount.
	Namespace string `json:"namespace,omitempty"`
	// TokenFile is a file with the token, as an agent writes it. It is read for each call.
	TokenFile string `json:"token_file,omitempty"`

	mount, name, address, namespace, tokenFile string // resolved
}

var keyForm = regexp.MustCompile(`^(?:([A-Za-z0-9_./-]{1,100})/keys/)?([A-Za-z0-9_.-]{1,100})$`)

// CaddyModule returns the Caddy module information.
func (Key) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "oauth2_inject.keys.vault_transit", New: func() caddy.Module { return new(Key) }}
}

// UnmarshalCaddyfile parses `vault_transit <key> { address <url>; namespace <name>; token_file <path> }`.
func (k *Key) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	return remote.Parse(d, &k.Key, map[string]*string{"address": &k.Address, "namespace": &k.Namespace, "token_file": &k.TokenFile})
}

// Provision resolves and checks the configuration. The server is not asked.
func (k *Key) Provision(caddy.Context) error {
	values, err := remote.Resolve([2]string{"key", k.Key}, [2]string{"address", k.Address},
		[2]string{"namespace", k.Namespace}, [2]string{"token_file", k.TokenFile})
	if err != nil {
		return fmt.Errorf("encryption vault_transit: %w", err)
	}
	match := keyForm.FindStringSubmatch(values[0])
	if match == nil || strings.Contains(values[0], "..") {
		return fmt.Errorf("encryption vault_transit: %q is not a key; want NAME or MOUNT/keys/NAME", values[0])
	}
	k.mount, k.name = cmp.Or(strings.Trim(match[1], "/"), "transit"), match[2]
	k.address = cmp.Or(values[1], os.Getenv(api.EnvVaultAddress), os.Getenv("BAO_ADDR"))
	k.namespace = cmp.Or(values[2], os.Getenv(api.EnvVaultNamespace), os.Getenv("BAO_NAMESPACE"))
	k.tokenFile = values[3]
	if k.address == "" {
		return errors.New("encryption vault_transit: no address; give `address`, or set VAULT_ADDR or BAO_ADDR")
	}
	if _, err := remote.Endpoint(k.address); err != nil {
		return fmt.Errorf("encryption vault_transit: address: %w", err)
	}
	return nil
}

// KeyEncryptionKey implements caddyoauth.KeyModule.
func (k *Key) KeyEncryptionKey() caddyoauth.KeyEncryptionKey {
	return remote.New(remote.Service{ID: "vault-transit:" + k.mount + "/keys/" + k.name, Tag: "KMSv", Open: k.open, Foreign: foreign})
}

// open returns Tink's driver with a client that lives for one call: the driver takes no context, so the client's transport does.
func (k *Key) open(ctx context.Context) (tink.AEADWithContext, func(), error) {
	token, err := k.token()
	if err != nil {
		return nil, nil, err
	}
	config := api.DefaultConfig()
	if config.Error != nil {
		return nil, nil, config.Error
	}
	config.Address, config.MaxRetries = k.address, 0 // whoever asks for the keys tries again by itself
	base := config.HttpClient.Transport
	config.HttpClient.Transport = &bound{ctx: ctx, base: base}
	client, err := api.NewClient(config)
	if err != nil {
		return nil, nil, err
	}
	client.SetToken(token)
	if k.namespace != "" {
		client.SetNamespace(k.namespace)
	}
	cipher, err := hcvault.NewAEAD("/"+k.mount+"/keys/"+k.name, client.Logical())
	return &contextual{cipher}, func() {
		if closer, ok := base.(interface{ CloseIdleConnections() }); ok {
			closer.CloseIdleConnections()
		}
	}, err
}

// token returns the token as it is now.
func (k *Key) token() (string, error) {
	if k.tokenFile != "" {
		text, err := os.ReadFile(k.tokenFile)
		if err != nil {
			return "", err
		}
		return strings.TrimSpace(string(text)), nil
	}
	if token := cmp.Or(os.Getenv(api.EnvVaultToken), os.Getenv("BAO_TOKEN")); token != "" {
		return token, nil
	}
	return "", errors.New("no token; give `token_file`, or set VAULT_TOKEN or BAO_TOKEN")
}

// bound sends requests on a context of its own.
type bound struct {
	ctx  context.Context
	base http.RoundTripper
}

func (b *bound) RoundTrip(req *http.Request) (*http.Response, error) {
	return b.base.RoundTrip(req.WithContext(b.ctx))
}

// contextual gives a driver without contexts, over a client that is bound to one, the form of a driver with them.
type contextual struct{ tink.AEAD }

func (c *contextual) EncryptWithContext(_ context.Context, plaintext, associatedData []byte) ([]byte, error) {
	return c.Encrypt(plaintext, associatedData)
}

func (c *contextual) DecryptWithContext(_ context.Context, ciphertext, associatedData []byte) ([]byte, error) {
	return c.Decrypt(ciphertext, associatedData)
}

// foreign reports whether the server refuses the ciphertext. It has the status 400 for everything that is wrong with a request,
// a key that does not exist included; its own words follow in the error.
func foreign(err error) bool {
	var response *api.ResponseError
	return errors.As(err, &response) && response.StatusCode == http.StatusBadRequest
}

// Interface guards.
var (
	_ caddy.Provisioner     = (*Key)(nil)
	_ caddyfile.Unmarshaler = (*Key)(nil)
	_ caddyoauth.KeyModule  = (*Key)(nil)
)
