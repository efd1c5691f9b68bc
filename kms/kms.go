// Package kms brings key-encryption keys from key services to oauth2_inject: `encryption aws_kms`, `encryption gcp_kms` and
// `encryption vault_transit`, through Tink's drivers.
//
// It is a Go module of its own, so that a build without it links none of the services' libraries. Who needs one service only
// builds with its package: kms/aws, kms/gcp or kms/vault. The packages may import the root package's exported names, Caddy,
// tink-go and the libraries of their service.
package kms

import (
	// Each registers its module.
	_ "github.com/caddyoauth/caddyoauth/kms/aws"
	_ "github.com/caddyoauth/caddyoauth/kms/gcp"
	_ "github.com/caddyoauth/caddyoauth/kms/vault"
)
