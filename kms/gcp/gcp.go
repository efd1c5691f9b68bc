// Package gcp brings `encryption gcp_kms`: a key-encryption key in Google Cloud KMS. It speaks to the service through Tink's
// driver and keeps nothing. It may import the root package's exported names, Caddy, Tink and Google's libraries.
package gcp

import (
	"context"
	"fmt"
	"regexp"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/tink-crypto/tink-go-gcpkms/v2/integration/gcpkms"
	"github.com/tink-crypto/tink-go/v2/tink"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/caddyoauth/caddyoauth"
	"github.com/caddyoauth/caddyoauth/kms/internal/remote"
)

func init() {
	caddy.RegisterModule(Key{})
}

// Key is a key-encryption key in Google Cloud KMS. Credentials are the application default ones: `GOOGLE_APPLICATION_CREDENTIALS`,
// gcloud's, or those of the machine or pod. They need the role `roles/cloudkms.cryptoKeyEncrypterDecrypter` on the key.
type Key struct {
	// Key is the resource name of a symmetric key, `projects/P/locations/L/keyRings/R/cryptoKeys/K`, also as `gcp-kms://...`.
	Key string `json:"key"`
	// Endpoint is the URL of the service. An http URL (loopback only) is asked without TLS and credentials. Default: Google's.
	Endpoint string `json:"endpoint,omitempty"`

	name    string // resolved
	options []option.ClientOption
}

const scheme = "gcp-kms://"

var nameForm = regexp.MustCompile(`^projects/[a-z0-9.:-]+/locations/[a-z0-9-]+/keyRings/[A-Za-z0-9_-]+/cryptoKeys/[A-Za-z0-9_-]+$`)

// CaddyModule returns the Caddy module information.
func (Key) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "oauth2_inject.keys.gcp_kms", New: func() caddy.Module { return new(Key) }}
}

// UnmarshalCaddyfile parses `gcp_kms <name> { endpoint <url> }`.
func (k *Key) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	return remote.Parse(d, &k.Key, map[string]*string{"endpoint": &k.Endpoint})
}

// Provision resolves and checks the configuration. The service is not asked.
func (k *Key) Provision(caddy.Context) error {
	values, err := remote.Resolve([2]string{"key", k.Key}, [2]string{"endpoint", k.Endpoint})
	if err != nil {
		return fmt.Errorf("encryption gcp_kms: %w", err)
	}
	if k.name = strings.TrimPrefix(values[0], scheme); !nameForm.MatchString(k.name) {
		return fmt.Errorf("encryption gcp_kms: %q is not the name of a key; want projects/P/locations/L/keyRings/R/cryptoKeys/K", k.name)
	}
	if values[1] == "" {
		return nil
	}
	address, err := remote.Endpoint(values[1])
	if err != nil {
		return fmt.Errorf("encryption gcp_kms: endpoint: %w", err)
	}
	host := address.Host
	if address.Port() == "" {
		host += ":443"
	}
	k.options = []option.ClientOption{option.WithEndpoint(host)}
	if address.Scheme == "http" {
		k.options = append(k.options, option.WithoutAuthentication(),
			option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())))
	}
	return nil
}

// KeyEncryptionKey implements caddyoauth.KeyModule.
func (k *Key) KeyEncryptionKey() caddyoauth.KeyEncryptionKey {
	return remote.New(remote.Service{ID: scheme + k.name, Tag: "KMSg", Open: k.open, Foreign: foreign})
}

// open returns Tink's driver over gRPC, which heeds contexts; its REST driver does not.
func (k *Key) open(ctx context.Context) (tink.AEADWithContext, func(), error) {
	client, err := gcpkms.NewClient(ctx, scheme+k.name, gcpkms.WithGoogleAPIClientOptions(k.options...))
	if err != nil {
		return nil, nil, err
	}
	done := func() { _ = client.Close() }
	plain, err := client.GetAEAD(scheme + k.name)
	cipher, ok := plain.(tink.AEADWithContext)
	if err == nil && !ok {
		err = fmt.Errorf("the driver gives a %T, which heeds no context", plain)
	}
	if err != nil {
		done()
		return nil, nil, err
	}
	return cipher, done, nil
}

// foreign reports whether KMS says that the ciphertext is not this key's, or was made for something else.
func foreign(err error) bool { return status.Code(err) == codes.InvalidArgument }

// Interface guards.
var (
	_ caddy.Provisioner     = (*Key)(nil)
	_ caddyfile.Unmarshaler = (*Key)(nil)
	_ caddyoauth.KeyModule  = (*Key)(nil)
)
