package providersim

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// Internet is a proxy that leads to simulators, whatever the host is called in the rest of the world. It serves nothing else.
type Internet struct {
	URL  *url.URL // of the proxy
	CA   string   // file with the authority that all certificates are signed by
	pool *x509.CertPool

	ca   *x509.Certificate
	key  *ecdsa.PrivateKey
	http *http.Server

	mu        sync.Mutex
	hosts     map[string]string // host name -> address of the simulator
	leafs     map[string]*tls.Certificate
	strangers []string
}

// NewInternet starts the proxy; dir is for the authority's certificate. It lives until Close.
func NewInternet(dir string) (*Internet, error) {
	n := &Internet{hosts: make(map[string]string), leafs: make(map[string]*tls.Certificate), pool: x509.NewCertPool()}
	listener, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	if n.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	n.ca = &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Simulated providers"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, n.ca, n.ca, n.key.Public(), n.key)
	if err != nil {
		return nil, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	n.pool.AppendCertsFromPEM(text)
	n.CA = filepath.Join(dir, "simulated-ca.pem")
	n.URL = &url.URL{Scheme: "http", Host: listener.Addr().String()}
	n.http = &http.Server{Handler: http.HandlerFunc(n.connect), ReadHeaderTimeout: time.Minute}
	go func() { _ = n.http.Serve(listener) }()
	return n, os.WriteFile(n.CA, text, 0o600)
}

// Close ends the proxy.
func (n *Internet) Close() { _ = n.http.Close() }

// Client is a browser in this internet. It follows no redirect by itself.
func (n *Internet) Client() *http.Client {
	return &http.Client{
		Transport: &http.Transport{Proxy: http.ProxyURL(n.URL), TLSClientConfig: &tls.Config{RootCAs: n.pool, MinVersion: tls.VersionTLS12}},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		},
	}
}

// Strangers are the hosts that somebody wanted to go to since the last call, and that nobody simulates.
func (n *Internet) Strangers() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	asked := n.strangers
	n.strangers = nil
	return asked
}

// connect is the proxy (RFC 9110 section 9.3.6).
func (n *Internet) connect(w http.ResponseWriter, r *http.Request) {
	host, port, err := net.SplitHostPort(r.Host)
	n.mu.Lock()
	address := n.hosts[host]
	if address == "" {
		n.strangers = append(n.strangers, r.Host)
	}
	n.mu.Unlock()
	if r.Method != http.MethodConnect || err != nil || port != "443" || address == "" {
		http.Error(w, "nobody is there", http.StatusBadGateway)
		return
	}
	there, err := new(net.Dialer).DialContext(r.Context(), "tcp", address)
	if err != nil {
		http.Error(w, "nobody is there", http.StatusBadGateway)
		return
	}
	defer there.Close()
	w.WriteHeader(http.StatusOK)
	here, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer here.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(there, buffered)
		_ = there.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(here, there)
	_ = here.Close() // ends the other direction too
	<-done
}

// serve gives a simulator its hosts until the test ends.
func (n *Internet) serve(t testing.TB, s *Sim) {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{
		Handler: s, ReadHeaderTimeout: time.Minute, ErrorLog: nil,
		TLSConfig: &tls.Config{GetCertificate: n.certificate, MinVersion: tls.VersionTLS12},
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		if err := server.ServeTLS(listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("serve %s: %v", s.opts.Name, err)
		}
	}()
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, host := range s.hosts() {
		if n.hosts[host] != "" {
			t.Fatalf("two simulators want the host %s at once", host)
		}
		n.hosts[host] = listener.Addr().String()
	}
	t.Cleanup(func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		for _, host := range s.hosts() {
			delete(n.hosts, host)
		}
		_ = server.Close()
		<-stopped
	})
}

// certificate makes the certificate of a host.
func (n *Internet) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	host := strings.ToLower(hello.ServerName)
	n.mu.Lock()
	defer n.mu.Unlock()
	if leaf := n.leafs[host]; leaf != nil {
		return leaf, nil
	}
	serial := big.NewInt(int64(len(n.leafs)) + 2)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: host}, DNSNames: []string{host}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, NotBefore: n.ca.NotBefore, NotAfter: n.ca.NotAfter,
	}, n.ca, n.key.Public(), n.key)
	if err != nil {
		return nil, err
	}
	n.leafs[host] = &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: n.key}
	return n.leafs[host], nil
}
