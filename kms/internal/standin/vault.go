package standin

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The token and the namespace that Vault takes.
const (
	VaultToken     = "seeded-vault-token"
	VaultNamespace = "team"
)

// Vault stands in for the transit engine of HashiCorp Vault and OpenBao: encrypt and decrypt, with versions of a key.
type Vault struct {
	*Gate
	mu     sync.Mutex // guards the fields below
	keys   map[string][]*secretKey
	oldest int // versions before it do not decrypt (min_decryption_version)
	refuse int // the status that all calls get; 0 = none
}

// NewVault starts a server that holds the keys of those names, under the mount `transit`. It runs until its gate is closed.
func NewVault(names ...string) (*Vault, error) {
	gate, err := NewGate()
	if err != nil {
		return nil, err
	}
	v := &Vault{Gate: gate, keys: make(map[string][]*secretKey), oldest: 1}
	for _, name := range names {
		v.keys[name] = []*secretKey{newSecretKey()}
	}
	go func() { _ = (&http.Server{Handler: v, ReadHeaderTimeout: time.Minute}).Serve(gate) }()
	return v, nil
}

// Refuse makes all calls fail with that status.
func (v *Vault) Refuse(status int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.refuse = status
}

// Rotate adds a version to a key. Versions before oldest do not decrypt any more.
func (v *Vault) Rotate(name string, oldest int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.keys[name], v.oldest = append(v.keys[name], newSecretKey()), oldest
}

// ServeHTTP implements http.Handler.
func (v *Vault) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	defer v.mu.Unlock()
	data, status, message := v.handle(r)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if message != "" {
		_ = json.NewEncoder(w).Encode(map[string]any{"errors": []string{message}})
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"request_id": "1", "data": data})
}

func (v *Vault) handle(r *http.Request) (data map[string]any, status int, message string) {
	var in struct {
		Plaintext      string `json:"plaintext"`
		Ciphertext     string `json:"ciphertext"`
		AssociatedData string `json:"associated_data"`
	}
	operation, name, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v1/transit/"), "/")
	versions, known := v.keys[name]
	switch {
	case v.refuse != 0:
		return nil, v.refuse, "refused by the stand-in"
	case r.Header.Get("X-Vault-Request") != "true":
		return nil, http.StatusPreconditionFailed, "required 'X-Vault-Request' header is missing"
	case r.Header.Get("X-Vault-Token") != VaultToken || r.Header.Get("X-Vault-Namespace") != VaultNamespace:
		return nil, http.StatusForbidden, "permission denied"
	case r.Method != http.MethodPut && r.Method != http.MethodPost:
		return nil, http.StatusMethodNotAllowed, "unsupported operation"
	case json.NewDecoder(r.Body).Decode(&in) != nil:
		return nil, http.StatusBadRequest, "failed to parse JSON input"
	case !known:
		return nil, http.StatusBadRequest, "encryption key not found"
	}
	associated, err := base64.StdEncoding.DecodeString(in.AssociatedData)
	if err != nil {
		return nil, http.StatusBadRequest, "failed to base64-decode associated_data"
	}
	switch operation {
	case "encrypt":
		plaintext, err := base64.StdEncoding.DecodeString(in.Plaintext)
		if err != nil {
			return nil, http.StatusBadRequest, "failed to base64-decode plaintext"
		}
		newest := versions[len(versions)-1].encrypt(plaintext, associated)
		return map[string]any{"ciphertext": fmt.Sprintf("vault:v%d:%s", len(versions), base64.StdEncoding.EncodeToString(newest))}, http.StatusOK, ""
	case "decrypt":
		plaintext, message := v.decrypt(versions, in.Ciphertext, associated)
		if message != "" {
			return nil, http.StatusBadRequest, message
		}
		return map[string]any{"plaintext": base64.StdEncoding.EncodeToString(plaintext)}, http.StatusOK, ""
	}
	return nil, http.StatusNotFound, "no handler for route"
}

func (v *Vault) decrypt(versions []*secretKey, text string, associated []byte) (plaintext []byte, message string) {
	version, encoded, _ := strings.Cut(strings.TrimPrefix(text, "vault:v"), ":")
	number, err := strconv.Atoi(version)
	ciphertext, decodeErr := base64.StdEncoding.DecodeString(encoded)
	switch {
	case err != nil || decodeErr != nil || number < 1 || number > len(versions):
		return nil, "invalid ciphertext: version is too new"
	case number < v.oldest:
		return nil, "ciphertext or signature version is disallowed by policy (too old)"
	}
	if plaintext, err = versions[number-1].decrypt(ciphertext, associated); err != nil {
		return nil, "cipher: message authentication failed"
	}
	return plaintext, ""
}
