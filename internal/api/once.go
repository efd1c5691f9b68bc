package api

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
)

// Once keeps the answers to requests with an Idempotency-Key.
type Once interface {
	// Perform runs the function unless it was run for that key before, by any instance, and returns its outcome. Two with the same key
	// take turns.
	Perform(ctx context.Context, key OnceKey, run func() (Outcome, error)) (Outcome, error)
}

// OnceKey names a request that is to be answered once.
type OnceKey struct {
	Tenant string
	Key    string // the caller and the Idempotency-Key
	Digest string // of the request: if the one before was another, it is a conflict
}

// Outcome is an answer as it is kept: none of a failure that another attempt may not have.
type Outcome struct {
	Status   int             `json:"status"`
	Data     json.RawMessage `json:"data"`
	Revision uint64          `json:"revision,omitempty"`
	Location string          `json:"location,omitempty"`
	Target   string          `json:"target,omitempty"`
	Name     string          `json:"name,omitempty"`

	Replayed bool `json:"-"` // it was kept
}

// maxIdempotencyKey bounds a key.
const maxIdempotencyKey = 255

// once lets the route do its work unless it was done before.
func (c *call) once(key string) (*answer, error) {
	if len(key) > maxIdempotencyKey {
		return nil, Invalid(Fault{"Idempotency-Key", "is too long"})
	}
	outcome, err := c.Once.Perform(c.r.Context(), OnceKey{c.caller.Tenant, c.caller.Name + "\x00" + key, c.digest()}, c.perform)
	if err != nil {
		return nil, err
	}
	if !outcome.Replayed {
		return c.fresh, nil
	}
	c.w.Header().Set("Idempotent-Replayed", "true")
	c.target, c.name = outcome.Target, outcome.Name
	return &answer{status: outcome.Status, data: outcome.Data, revision: outcome.Revision, location: outcome.Location}, nil
}

// perform does the work, and returns what may be kept of it. An API key is shown once, so it is not kept.
func (c *call) perform() (Outcome, error) {
	out, err := c.route.handle(c)
	if err != nil {
		return Outcome{}, err
	}
	c.fresh = out
	kept := out.data
	if made, ok := kept.(Key); ok {
		made.Key = ""
		kept = made
	}
	data, err := json.Marshal(kept)
	return Outcome{Status: out.status, Data: data, Revision: out.revision, Location: out.location, Target: c.target, Name: c.name}, err
}

// digest identifies what is asked for.
func (c *call) digest() string {
	hash := sha256.New()
	for _, part := range []string{c.r.Method, c.route.path, c.vars["id"], c.vars["subject"], c.vars["n"], c.query.Encode(), string(c.body)} {
		hash.Write([]byte(part))
		hash.Write([]byte{0})
	}
	return hex.EncodeToString(hash.Sum(nil))
}
