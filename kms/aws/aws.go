// Package aws brings `encryption aws_kms`: a key-encryption key in AWS KMS. It speaks to the service through Tink's driver and
// keeps nothing. It may import the root package's exported names, Caddy, Tink and Amazon's libraries.
package aws

import (
	"context"
	"errors"
	"fmt"
	"regexp"

	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/tink-crypto/tink-go-awskms/v3/integration/awskms"
	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/caddyoauth/caddyoauth"
	"github.com/caddyoauth/caddyoauth/kms/internal/remote"
)

func init() {
	caddy.RegisterModule(Key{})
}

// Key is a key-encryption key in AWS KMS. Credentials come from the environment, the shared files, or the role of the machine,
// container or pod, as in all of Amazon's own tools. They need `kms:Encrypt` and `kms:Decrypt`.
type Key struct {
	// Key is the ARN of a symmetric key or of an alias.
	Key string `json:"key"`
	// Endpoint is the URL of the service. Default: that of the key's region.
	Endpoint string `json:"endpoint,omitempty"`
	// Profile names a profile of the shared configuration files. Default: `AWS_PROFILE`, or `default`.
	Profile string `json:"profile,omitempty"`

	arn, region, endpoint, profile string // resolved
}

// arnForm has the region as its group. https://docs.aws.amazon.com/kms/latest/developerguide/concepts.html, "Key ARN".
var arnForm = regexp.MustCompile(`^arn:aws[a-z-]*:kms:([a-z0-9-]+):[0-9]{12}:(?:key|alias)/[A-Za-z0-9/_-]{1,150}$`)

// CaddyModule returns the Caddy module information.
func (Key) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "oauth2_inject.keys.aws_kms", New: func() caddy.Module { return new(Key) }}
}

// UnmarshalCaddyfile parses `aws_kms <arn> { endpoint <url>; profile <name> }`.
func (k *Key) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	return remote.Parse(d, &k.Key, map[string]*string{"endpoint": &k.Endpoint, "profile": &k.Profile})
}

// Provision resolves and checks the configuration. The service is not asked.
func (k *Key) Provision(caddy.Context) error {
	values, err := remote.Resolve([2]string{"key", k.Key}, [2]string{"endpoint", k.Endpoint}, [2]string{"profile", k.Profile})
	if err != nil {
		return fmt.Errorf("encryption aws_kms: %w", err)
	}
	k.arn, k.endpoint, k.profile = values[0], values[1], values[2]
	match := arnForm.FindStringSubmatch(k.arn)
	if match == nil {
		return fmt.Errorf("encryption aws_kms: %q is not the ARN of a key or an alias; want arn:aws:kms:REGION:ACCOUNT:key/ID", k.arn)
	}
	k.region = match[1]
	if k.endpoint != "" {
		if _, err := remote.Endpoint(k.endpoint); err != nil {
			return fmt.Errorf("encryption aws_kms: endpoint: %w", err)
		}
	}
	return nil
}

// KeyEncryptionKey implements caddyoauth.KeyModule.
func (k *Key) KeyEncryptionKey() caddyoauth.KeyEncryptionKey {
	return remote.New(remote.Service{ID: "aws-kms:" + k.arn, Tag: "KMSa", Open: k.open, Foreign: foreign})
}

// open returns Tink's driver with a client of this configuration.
func (k *Key) open(ctx context.Context) (tink.AEADWithContext, func(), error) {
	settings := []func(*config.LoadOptions) error{config.WithRegion(k.region)}
	if k.profile != "" {
		settings = append(settings, config.WithSharedConfigProfile(k.profile))
	}
	cfg, err := config.LoadDefaultConfig(ctx, settings...)
	if err != nil {
		return nil, nil, err
	}
	client := kms.NewFromConfig(cfg, func(o *kms.Options) {
		if k.endpoint != "" {
			o.BaseEndpoint = &k.endpoint
		}
	})
	cipher, err := awskms.NewAEADWithContext(ctx, k.arn, awskms.WithKMS(client))
	return cipher, func() {}, err
}

// foreign reports whether KMS says that the ciphertext is not this key's, or was made for something else.
func foreign(err error) bool {
	var invalid *types.InvalidCiphertextException
	var incorrect *types.IncorrectKeyException
	return errors.As(err, &invalid) || errors.As(err, &incorrect)
}

// Interface guards.
var (
	_ caddy.Provisioner     = (*Key)(nil)
	_ caddyfile.Unmarshaler = (*Key)(nil)
	_ caddyoauth.KeyModule  = (*Key)(nil)
)
