//go:build integration

package lab

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// Names of the client certificates, for [OP.Cert].
const (
	CertTLS     = "client-tls"     // subject C=DE,O=Lab,CN=cc-tls, DNS name cc-tls.lab
	CertTLS2    = "client-tls2"    // the same names, another key: the certificate after a renewal
	CertExpired = "client-expired" // the same names, expired an hour ago
	CertOtherCA = "client-otherca" // the same names, signed by a CA the server does not know
	CertWrong   = "client-wrong"   // another subject
	CertBound   = "client-bound"   // another subject, for certificate-bound tokens
	CertSelf    = "client-self"    // self-signed and registered
	CertSelf2   = "client-self2"   // self-signed and registered as well
)

// pair is a certificate with its key, able to sign others.
type pair struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// writeCertificates makes a small PKI in dir: NAME.pem and NAME.key for each certificate.
func writeCertificates(dir string) error {
	ca, err := newCA(dir, "ca")
	if err != nil {
		return err
	}
	otherCA, err := newCA(dir, "otherca")
	if err != nil {
		return err
	}
	leaves := []struct {
		name   string
		tmpl   x509.Certificate
		signer *pair // nil: self-signed
	}{
		{"server", serverTemplate(), ca},
		{CertTLS, clientTemplate("cc-tls"), ca},
		{CertTLS2, clientTemplate("cc-tls"), ca},
		{CertExpired, expired(clientTemplate("cc-tls")), ca},
		{CertOtherCA, clientTemplate("cc-tls"), otherCA},
		{CertWrong, clientTemplate("somebody-else"), ca},
		{CertBound, clientTemplate("cc-bound"), ca},
		{CertSelf, clientTemplate("cc-self"), nil},
		{CertSelf2, clientTemplate("cc-self"), nil},
	}
	for _, leaf := range leaves {
		if _, err := issue(dir, leaf.name, leaf.tmpl, leaf.signer); err != nil {
			return err
		}
	}
	return writeClientKeys(dir)
}

// Names of the private keys that sign client assertions, for [OP.Key].
const (
	KeyRSA = "client-jwt-rsa"
	KeyEC  = "client-jwt-ec" // on P-256
)

// writeClientKeys makes NAME.key, and NAME.pub.pem for the server.
func writeClientKeys(dir string) error {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return fmt.Errorf("make %s: %w", KeyRSA, err)
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make %s: %w", KeyEC, err)
	}
	for name, key := range map[string]crypto.Signer{KeyRSA: rsaKey, KeyEC: ecKey} {
		private, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return fmt.Errorf("encode %s: %w", name, err)
		}
		public, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			return fmt.Errorf("encode the public half of %s: %w", name, err)
		}
		if err := writePEM(filepath.Join(dir, name+".key"), "PRIVATE KEY", private); err != nil {
			return err
		}
		if err := writePEM(filepath.Join(dir, name+".pub.pem"), "PUBLIC KEY", public); err != nil {
			return err
		}
	}
	return nil
}

func newCA(dir, name string) (*pair, error) {
	tmpl := template("Lab " + name)
	tmpl.IsCA, tmpl.BasicConstraintsValid = true, true
	tmpl.KeyUsage = x509.KeyUsageCertSign
	return issue(dir, name, tmpl, nil)
}

// template keeps the order country, organization, name: op/server.mjs compares the subject as one string.
func template(commonName string) x509.Certificate {
	return x509.Certificate{
		Subject:   pkix.Name{Country: []string{"DE"}, Organization: []string{"Lab"}, CommonName: commonName},
		NotBefore: time.Now().Add(-24 * time.Hour),
		NotAfter:  time.Now().Add(24 * time.Hour),
		KeyUsage:  x509.KeyUsageDigitalSignature,
	}
}

func clientTemplate(commonName string) x509.Certificate {
	tmpl := template(commonName)
	tmpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	tmpl.DNSNames = []string{commonName + ".lab"}
	return tmpl
}

func serverTemplate() x509.Certificate {
	tmpl := template("server")
	tmpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	tmpl.DNSNames = []string{"localhost"}
	tmpl.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	return tmpl
}

func expired(tmpl x509.Certificate) x509.Certificate {
	tmpl.NotAfter = time.Now().Add(-time.Hour)
	return tmpl
}

// issue makes a key, lets signer (or the key itself) sign the template, and writes both as PEM.
func issue(dir, name string, tmpl x509.Certificate, signer *pair) (*pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the key of %s: %w", name, err)
	}
	if tmpl.SerialNumber, err = rand.Int(rand.Reader, big.NewInt(1<<62)); err != nil {
		return nil, fmt.Errorf("make the serial number of %s: %w", name, err)
	}
	if signer == nil {
		signer = &pair{cert: &tmpl, key: key}
	}
	der, err := x509.CreateCertificate(rand.Reader, &tmpl, signer.cert, key.Public(), signer.key)
	if err != nil {
		return nil, fmt.Errorf("sign %s: %w", name, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parse %s: %w", name, err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode the key of %s: %w", name, err)
	}
	if err := writePEM(filepath.Join(dir, name+".pem"), "CERTIFICATE", der); err != nil {
		return nil, err
	}
	return &pair{cert: cert, key: key}, writePEM(filepath.Join(dir, name+".key"), "PRIVATE KEY", keyDER)
}

func writePEM(file, kind string, der []byte) error {
	return os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}
