//go:build integration

package lab

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// The clients of op/server.mjs. Unless said otherwise they authenticate with [Secret] and client_secret_basic.
const (
	ClientBasic    = "cc-basic"
	ClientPost     = "cc-post"      // client_secret_post
	ClientOdd      = "cc:odd id"    // with [OddSecret]: both need the form-encoding of RFC 6749 2.3.1
	ClientLong     = "cc-long"      // tokens of one hour
	ClientWeb      = "web"          // authorization_code with rotating refresh tokens; needs Options.RedirectURIs
	Client1s       = "cc-1s"        // tokens of one second by expires_in; see Options.AccessTokenTTL
	ClientTLS      = "cc-tls"       // tls_client_auth by subject: certificates client-tls, client-tls2
	ClientTLSSAN   = "cc-tls-san"   // tls_client_auth by DNS name: the same certificates
	ClientTLSBound = "cc-tls-bound" // as ClientTLS, with certificate-bound tokens
	ClientSelf     = "cc-self"      // self_signed_tls_client_auth: certificates client-self, client-self2
	ClientBound    = "cc-bound"     // secret, and tokens bound to whatever certificate is shown

	// Assertions (RFC 7523): signed with KeyRSA, or KeyEC for ES256, whose kid is [KeyID]; or with [Secret].
	ClientRS256     = "cc-jwt-RS256"
	ClientPS256     = "cc-jwt-PS256"
	ClientES256     = "cc-jwt-ES256"
	ClientSecretJWT = "cc-secret-jwt"
	KeyID           = "client-key"

	Secret    = "lab-only-lab-only-lab-only-lab-only"
	OddSecret = "lab%41only:w+rd ~/=&-padding-padding-padding"

	resourceServer = "rs" // may introspect, with [Secret]
)

// readyWithin is generous: a cold Node.js on two busy cores takes seconds.
const readyWithin = 60 * time.Second

// Options configure [StartOP]. The zero value is a good server.
type Options struct {
	// AccessTokenTTL is the lifetime of the tokens of clients that do not fix their own; whole seconds, 5 s by default.
	// The server counts from the full second before the request, so a token really lives up to a second less than its
	// expires_in says.
	AccessTokenTTL time.Duration

	// RedirectURIs are those of the client [ClientWeb], whose people sign in with any name and password.
	RedirectURIs []string

	// RequireClientCert makes the TLS handshake of the mTLS endpoint itself refuse a client whose certificate does not
	// come from the lab's CA. With TLS 1.3 such a client sees its connection closed after the handshake (RFC 8446 4.4.2.4).
	RequireClientCert bool
}

// OP is a running authorization server.
type OP struct {
	ready struct {
		Issuer string `json:"issuer"`
		MTLS   string `json:"mtls"`
		Admin  string `json:"admin"`
	}
	certs string
}

// Issuer returns the issuer identifier, a plain http URL on loopback.
func (op *OP) Issuer() string { return op.ready.Issuer }

// TokenEndpoint returns the token endpoint without TLS.
func (op *OP) TokenEndpoint() string { return op.ready.Issuer + "/token" }

// MTLSTokenEndpoint returns the token endpoint that asks for a client certificate.
func (op *OP) MTLSTokenEndpoint() string { return op.ready.MTLS + "/token" }

// CAFile returns the PEM file of the CA that signed the server's certificate.
func (op *OP) CAFile() string { return filepath.Join(op.certs, "ca.pem") }

// Cert returns the PEM files of one of the client certificates; certs.go lists their names.
func (op *OP) Cert(name string) (certFile, keyFile string) {
	return filepath.Join(op.certs, name+".pem"), filepath.Join(op.certs, name+".key")
}

// Key returns the PEM file of one of the private keys; certs.go lists their names.
func (op *OP) Key(name string) string { return filepath.Join(op.certs, name+".key") }

// StartOP starts an authorization server of its own for the test and ends it with the test.
func StartOP(t testing.TB, opts Options) *OP {
	t.Helper()
	dir, node := parts(t)
	op := &OP{certs: t.TempDir()}
	if err := writeCertificates(op.certs); err != nil {
		t.Fatalf("make the lab's certificates: %v", err)
	}

	cmd := exec.CommandContext(context.Background(), node, "server.mjs") // not t.Context: cleanups may still ask the server
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), opts.environ(t, op.certs)...)
	stderr := &lockedBuffer{}
	cmd.Stderr = stderr
	// The server ends when its stdin ends, so it cannot outlive a test process that died without its cleanups.
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatalf("open the authorization server's stdin: %v", err)
	}
	// A pipe of our own: Wait must not close it under the reader.
	out, outW, err := os.Pipe()
	if err != nil {
		t.Fatalf("open the authorization server's stdout: %v", err)
	}
	cmd.Stdout = outW
	err = cmd.Start()
	outW.Close()
	if err != nil {
		t.Fatalf("start the authorization server: %v", err)
	}
	t.Cleanup(func() {
		stdin.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // "signal: killed"
		out.Close()
		if t.Failed() {
			t.Logf("stderr of the authorization server:\n%s", stderr)
		}
	})

	if err := op.awaitReady(out); err != nil {
		t.Fatalf("wait for the authorization server: %v", err)
	}
	return op
}

// parts finds Node.js and the installed server. They come from outside of Go, so their absence has one answer.
func parts(t testing.TB) (dir, node string) {
	t.Helper()
	node, err := exec.LookPath("node")
	if err != nil {
		t.Fatal("node is missing: run make test-parts")
	}
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	dir = filepath.Join(root, "test", "lab", "op")
	if _, err := os.Stat(filepath.Join(dir, "node_modules", "oidc-provider", "package.json")); err != nil {
		t.Fatal("oidc-provider is missing: run make test-parts")
	}
	return dir, node
}

// moduleRoot walks up from the working directory, which go test sets to the package's; paths in the binary may be trimmed. The
// browser tests are a module of their own inside this one, so that not every go.mod will do.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "test", "lab", "op", "server.mjs")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("find the module: no test/lab above the working directory")
		}
		dir = parent
	}
}

func (o Options) environ(t testing.TB, certs string) []string {
	t.Helper()
	env := []string{"OP_CERTS=" + certs}
	if o.AccessTokenTTL%time.Second != 0 || o.AccessTokenTTL < 0 {
		t.Fatalf("AccessTokenTTL %s: expires_in counts whole seconds", o.AccessTokenTTL)
	}
	if o.AccessTokenTTL > 0 {
		env = append(env, "OP_AT_TTL="+strconv.Itoa(int(o.AccessTokenTTL/time.Second)))
	}
	if len(o.RedirectURIs) > 0 {
		env = append(env, "OP_REDIRECTS="+strings.Join(o.RedirectURIs, ","))
	}
	if o.RequireClientCert {
		env = append(env, "OP_TLS_REJECT=1")
	}
	return env
}

// awaitReady reads the line that names the listeners.
func (op *OP) awaitReady(stdout *os.File) error {
	if err := stdout.SetReadDeadline(time.Now().Add(readyWithin)); err != nil {
		return err
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("no ready line within %s", readyWithin)
	}
	if err != nil {
		return fmt.Errorf("it ended before it was ready (%w); its stderr says why", err)
	}
	if err := json.Unmarshal([]byte(line), &op.ready); err != nil {
		return fmt.Errorf("read its ready line %q: %w", strings.TrimSpace(line), err)
	}
	if op.ready.Issuer == "" || op.ready.MTLS == "" || op.ready.Admin == "" {
		return fmt.Errorf("its ready line %q lacks a listener", strings.TrimSpace(line))
	}
	return nil
}

// lockedBuffer is written by os/exec and read when the test has failed, perhaps while the server still writes.
type lockedBuffer struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
