package oauth

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// Certificate is the client certificate for mutual TLS (RFC 8705), kept in PEM files or in memory. The files are read
// again for every exchange, so a renewed pair is used from the next exchange on and the one under way keeps what it
// began with.
type Certificate struct {
	CertFile, KeyFile string

	Chain string      // PEM, instead of files
	Key   secret.Text // PEM, with Chain
	Name  string      // what texts call the pair that is in memory
}

// rereadAfter is how long Load waits before it looks a second time at a pair that does not fit: a renewal replaces two
// files one after the other, and may be between them.
const rereadAfter = 50 * time.Millisecond

// Load reads the pair. Its error is an [*Error] of class [Misconfigured] with code certificate_unreadable,
// certificate_mismatch, certificate_expired or certificate_not_yet_valid; the text names the file.
func (c *Certificate) Load() (*tls.Certificate, error) {
	pair, err := c.read()
	if err != nil && c.Chain != "" {
		return nil, err // what is in memory is not being replaced
	}
	if err != nil {
		time.Sleep(rereadAfter)
		if pair, err = c.read(); err != nil {
			return nil, err
		}
	}
	// Only the leaf is looked at. An old intermediate is the server's business: it may know a newer one.
	now := time.Now()
	if now.After(pair.Leaf.NotAfter) {
		return nil, newError(Misconfigured, "certificate_expired", fmt.Sprintf(
			"client certificate %s expired at %s; renew it", c.called(), pair.Leaf.NotAfter.UTC().Format(time.RFC3339)))
	}
	if now.Before(pair.Leaf.NotBefore) {
		return nil, newError(Misconfigured, "certificate_not_yet_valid", fmt.Sprintf(
			"client certificate %s is not valid before %s; check the clock of this machine",
			c.called(), pair.Leaf.NotBefore.UTC().Format(time.RFC3339)))
	}
	return pair, nil
}

// Life returns when the certificate begins and ends, from its own part alone.
func (c *Certificate) Life() (notBefore, notAfter time.Time, err error) {
	certPEM := []byte(c.Chain)
	if c.Chain == "" {
		if certPEM, err = os.ReadFile(c.CertFile); err != nil {
			return time.Time{}, time.Time{}, unreadableFile("certificate", c.CertFile, err)
		}
	}
	leaf, ok := firstCertificate(certPEM)
	if !ok {
		return time.Time{}, time.Time{}, noCertificate(c.called())
	}
	return leaf.NotBefore, leaf.NotAfter, nil
}

// called is what texts call the certificate.
func (c *Certificate) called() string { return cmp.Or(c.CertFile, c.Name) }

// read looks at both files on its own before it pairs them: tls.X509KeyPair tells a damaged file from a mismatch by
// its text only.
func (c *Certificate) read() (*tls.Certificate, error) {
	if c.Chain != "" {
		held := Certificate{CertFile: c.Name, KeyFile: c.Name}
		return held.pair([]byte(c.Chain), []byte(c.Key.Reveal()))
	}
	certPEM, err := os.ReadFile(c.CertFile)
	if err != nil {
		return nil, unreadableFile("certificate", c.CertFile, err)
	}
	keyPEM, err := os.ReadFile(c.KeyFile)
	if err != nil {
		return nil, unreadableFile("key", c.KeyFile, err)
	}
	return c.pair(certPEM, keyPEM)
}

// pair puts a certificate and its key together.
func (c *Certificate) pair(certPEM, keyPEM []byte) (*tls.Certificate, error) {
	leaf, ok := firstCertificate(certPEM)
	if !ok {
		return nil, noCertificate(c.CertFile)
	}
	if hint := keyTrouble(keyPEM); hint != "" {
		return nil, newError(Misconfigured, "certificate_unreadable", fmt.Sprintf("client key %s %s", c.KeyFile, hint))
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, newError(Misconfigured, "certificate_mismatch",
			fmt.Sprintf("client key %s does not belong to certificate %s", c.KeyFile, c.CertFile))
	}
	pair.Leaf = leaf
	return &pair, nil
}

func unreadableFile(what, name string, err error) error {
	e := newError(Misconfigured, "certificate_unreadable", "client "+what+" cannot be read: "+name)
	var path *os.PathError
	if errors.As(err, &path) {
		e.text, e.cause = "client "+what+" cannot be read: "+path.Error(), path
	}
	return e
}

func noCertificate(name string) error {
	return newError(Misconfigured, "certificate_unreadable", fmt.Sprintf("client certificate %s holds no PEM certificate", name))
}

func firstCertificate(data []byte) (*x509.Certificate, bool) {
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		leaf, err := x509.ParseCertificate(block.Bytes)
		return leaf, err == nil
	}
	return nil, false
}

// keyTrouble says what is wrong with a key file, or "". It shows nothing of the file.
func keyTrouble(data []byte) string {
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		switch {
		case block.Type == "ENCRYPTED PRIVATE KEY" || strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED"):
			return "is encrypted; give a key without a passphrase"
		case block.Type == "PRIVATE KEY" || strings.HasSuffix(block.Type, " PRIVATE KEY"):
			if !parsesAsKey(block.Bytes) {
				return "is damaged or of a kind that TLS does not know"
			}
			return ""
		}
	}
	return "holds no PEM private key"
}

func parsesAsKey(der []byte) bool {
	if _, err := x509.ParsePKCS8PrivateKey(der); err == nil {
		return true
	}
	if _, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return true
	}
	_, err := x509.ParseECPrivateKey(der)
	return err == nil
}
