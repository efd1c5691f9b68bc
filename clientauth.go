package caddyoauth

import (
	"cmp"
	"crypto/x509"
	"fmt"
	"os"

	"github.com/caddyoauth/caddyoauth/internal/oauth"
	"github.com/caddyoauth/caddyoauth/internal/provider"
)

// buildAuthentication settles the method of client authentication and what it needs, and whom to trust as the server.
func (c *Connection) buildAuthentication(r *resolver, conf *oauth.Config, preset *provider.Provider) {
	conf.Method = cmp.Or(oauth.Method(c.ClientAuth), c.defaultMethod(preset))
	if c.ClientSecret != "" {
		conf.Secret = r.secret("client_secret", c.ClientSecret)
	}
	if c.ClientKey != nil {
		conf.Key = &oauth.ClientKey{
			File: r.text("client_key", c.ClientKey.File), KeyID: r.text("client_key", c.ClientKey.KeyID), Algorithm: c.ClientKey.Algorithm,
		}
	}
	conf.AssertionAudience = r.text("assertion_audience", c.AssertionAudience)
	if c.ClientCertificate != nil {
		conf.Certificate = &oauth.Certificate{
			CertFile: r.text("client_certificate", c.ClientCertificate.Certificate),
			KeyFile:  r.text("client_certificate", c.ClientCertificate.Key),
		}
	}
	if c.TLS != nil && len(c.TLS.CA) > 0 {
		conf.RootCAs = r.authorities(x509.NewCertPool(), c.TLS.CA)
	}
}

// defaultMethod is the one that what was given is for. A key is for nothing but an assertion; a certificate may also be there to
// have the tokens bound to it.
func (c *Connection) defaultMethod(preset *provider.Provider) oauth.Method {
	switch {
	case c.ClientKey != nil:
		return oauth.PrivateKeyJWT
	case c.ClientSecret != "" && len(preset.ClientAuth) > 0:
		return oauth.Method(preset.ClientAuth[0])
	case c.ClientSecret != "":
		return oauth.ClientSecretBasic
	case c.ClientCertificate != nil:
		return oauth.TLSClientAuth
	}
	return oauth.None
}

// authorities reads the certificate authorities to trust instead of the system's.
func (r *resolver) authorities(pool *x509.CertPool, files []string) *x509.CertPool {
	for _, file := range r.texts("tls ca", files) {
		pem, err := os.ReadFile(file)
		r.trusted = append(r.trusted, pem)
		if err != nil {
			r.fault("tls ca", err)
		} else if !pool.AppendCertsFromPEM(pem) {
			r.fault("tls ca", fmt.Errorf("%s holds no PEM certificate", file))
		}
	}
	return pool
}
