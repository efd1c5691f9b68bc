//go:build integration

package integration

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// upstream is an API that looks at the tokens that it receives. Its answers hold none of them.
type upstream struct {
	*httptest.Server
	mu      sync.Mutex // guards the fields below
	tokens  []string   // distinct, in the order of their first use
	seen    map[string]int
	expired int // JWTs that arrived after their `exp`
	missing int
}

func startUpstream(t *testing.T) *upstream {
	t.Helper()
	u := &upstream{seen: make(map[string]int)}
	u.Server = httptest.NewServer(u)
	t.Cleanup(u.Close)
	return u
}

// ServeHTTP implements http.Handler.
func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	now := time.Now()
	token, found := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	u.mu.Lock()
	defer u.mu.Unlock()
	if !found {
		u.missing++
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if u.seen[token]++; u.seen[token] == 1 {
		u.tokens = append(u.tokens, token)
	}
	if exp := expiryOf(token); !exp.IsZero() && !now.Before(exp) {
		u.expired++
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	_, _ = w.Write([]byte("ok"))
}

// address is what reverse_proxy dials.
func (u *upstream) address() string { return strings.TrimPrefix(u.URL, "http://") }

func (u *upstream) distinct() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return append([]string(nil), u.tokens...)
}

func (u *upstream) last(t *testing.T) string {
	t.Helper()
	tokens := u.distinct()
	if len(tokens) == 0 {
		t.Fatal("the upstream has seen no token")
	}
	return tokens[len(tokens)-1]
}

// harm returns how many requests came with an expired token, and without one.
func (u *upstream) harm() (expired, missing int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.expired, u.missing
}

// expiryOf reads the claim `exp` of a JWT; zero for other tokens.
func expiryOf(token string) time.Time {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return time.Time{}
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return time.Time{}
	}
	var claims struct {
		Exp int64 `json:"exp"`
	}
	if json.Unmarshal(payload, &claims) != nil || claims.Exp == 0 {
		return time.Time{}
	}
	return time.Unix(claims.Exp, 0)
}
