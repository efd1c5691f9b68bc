// Package standin has servers that stand in for key services in tests: they speak the services' real wire, refuse what those
// refuse, and break when they are told to. They know nothing of Caddy.
package standin

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"net"
	"sync"
)

// Gate is a listener that can be closed and opened again on the same address: a service that is down, to whoever calls it.
type Gate struct {
	net.Listener
	mu    sync.Mutex // guards the fields below
	down  bool
	conns map[net.Conn]struct{}
	calls int // connections that were let in
}

// NewGate listens on a free loopback port.
func NewGate() (*Gate, error) {
	listener, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	return &Gate{Listener: listener, conns: make(map[net.Conn]struct{})}, nil
}

// SetDown closes the gate, for connections that are open too, or opens it.
func (g *Gate) SetDown(down bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.down = down
	for conn := range g.conns {
		_ = conn.Close()
		delete(g.conns, conn)
	}
}

// Calls returns how many connections were let in so far.
func (g *Gate) Calls() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.calls
}

// Accept implements net.Listener.
func (g *Gate) Accept() (net.Conn, error) {
	for {
		conn, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if g.admit(conn) {
			return conn, nil
		}
		_ = conn.Close()
	}
}

func (g *Gate) admit(conn net.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.down {
		return false
	}
	g.calls++
	g.conns[conn] = struct{}{}
	return true
}

// errForeign says that a ciphertext is not this key's, or was changed.
var errForeign = errors.New("cannot be decrypted")

// secretKey is a key that a service holds.
type secretKey struct{ aead cipher.AEAD }

func newSecretKey() *secretKey {
	raw := make([]byte, 32)
	if _, err := rand.Read(raw); err != nil {
		panic(err)
	}
	block, err := aes.NewCipher(raw)
	if err != nil {
		panic(err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err)
	}
	return &secretKey{aead}
}

func (k *secretKey) encrypt(plaintext, associatedData []byte) []byte {
	return k.aead.Seal(nil, nil, plaintext, associatedData)
}

func (k *secretKey) decrypt(ciphertext, associatedData []byte) ([]byte, error) {
	plaintext, err := k.aead.Open(nil, nil, ciphertext, associatedData)
	if err != nil {
		return nil, errForeign
	}
	return plaintext, nil
}
