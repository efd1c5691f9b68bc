package oauth

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	metadataFresh = 24 * time.Hour   // how long a document is used before it is read again
	metadataPause = 2 * time.Second  // after a failure, while there is no document
	metadataRetry = 5 * time.Minute  // after a failure, while there is an older one
	metadataDoubt = 60 * time.Second // a document is read again this early when its endpoints do not answer
)

// Metadata is what discovery has found about one authorization server. All clients of the issuer share one: a document is read
// when it is first needed, once for all who wait, and again after a day. A server that is down then keeps nobody from working:
// the last good document stays in use. It holds one document, and starts nothing by itself.
type Metadata struct {
	cfg  DiscoverConfig
	turn chan struct{} // one slot: whoever holds it asks the server; waiting for it ends with the waiter's context

	mu      sync.Mutex // guards the fields below; never held over I/O
	server  *Server    // the last good document, never changed; nil when there is none
	readAt  time.Time
	retryAt time.Time // the server is not asked before
	failure error     // the last one, while there is no document
}

// NewMetadata checks whose metadata it is to be, and asks nobody.
func NewMetadata(cfg DiscoverConfig) (*Metadata, error) {
	if _, err := issuerURL(&cfg); err != nil {
		return nil, err
	}
	return &Metadata{cfg: cfg, turn: make(chan struct{}, 1)}, nil
}

// News is what happened when metadata was read. Old is nil the first time, New is nil when it failed and Old stays in use.
type News struct {
	Old, New *Server
	Err      error
}

// Server returns the metadata, and tells listen, which may be nil, if something has happened to them. Its errors are those of
// [Discover].
func (m *Metadata) Server(ctx context.Context, listen func(News)) (*Server, error) {
	server, known, err := m.known(time.Now())
	if known {
		return server, err
	}
	if !m.takeTurn(ctx, server != nil) {
		if server != nil { // somebody is asking; until they know more it is good
			return server, nil
		}
		return nil, newError(RetryLater, "timeout", "metadata of the authorization server did not come in time; it is asked again later")
	}
	defer func() { <-m.turn }()
	if server, known, err := m.known(time.Now()); known { // whoever was before us has asked
		return server, err
	}
	server, err = m.read(ctx)
	old := m.settle(server, err)
	if err != nil && old == nil {
		return nil, err
	}
	if listen != nil {
		listen(News{Old: old, New: server, Err: err})
	}
	return cmp.Or(server, old), nil
}

// takeTurn reports whether the caller is the one to ask. In a hurry it does not wait for somebody else to be done.
func (m *Metadata) takeTurn(ctx context.Context, hurry bool) bool {
	select {
	case m.turn <- struct{}{}:
		return true
	default:
	}
	if hurry {
		return false
	}
	select {
	case m.turn <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// read asks to the end, since others wait for the answer: a visitor who has left does not stop it, the time-out does.
func (m *Metadata) read(ctx context.Context) (*Server, error) {
	asking, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	if deadline, has := ctx.Deadline(); has {
		asking, cancel = context.WithDeadline(asking, deadline)
		defer cancel()
	}
	return Discover(asking, m.cfg)
}

// known returns the document, and whether that, or the failure to get one, is the answer for now.
func (m *Metadata) known(now time.Time) (server *Server, known bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now.Before(m.retryAt) {
		return m.server, true, m.failure
	}
	return m.server, false, nil
}

// settle keeps the outcome and returns the document before it.
func (m *Metadata) settle(server *Server, err error) (old *Server) {
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	old = m.server
	switch {
	case err == nil:
		m.server, m.readAt, m.retryAt, m.failure = server, now, now.Add(metadataFresh), nil
	case old == nil:
		m.failure, m.retryAt = err, now.Add(max(metadataPause, retryAfterOf(err)))
	default:
		m.retryAt = now.Add(max(metadataRetry, retryAfterOf(err)))
	}
	return old
}

func retryAfterOf(err error) time.Duration {
	var e *Error
	if errors.As(err, &e) {
		return e.RetryAfter
	}
	return 0
}

// doubt has that document read again before the next exchange.
func (m *Metadata) doubt(server *Server) {
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	fresh := m.retryAt.Equal(m.readAt.Add(metadataFresh))
	if m.server == server && fresh && now.Sub(m.readAt) > metadataDoubt {
		m.retryAt = now
	}
}

// Discovery is where a client finds the endpoints that its [Config] leaves out.
type Discovery struct {
	Metadata *Metadata
	Listen   func(News) // told what happens to the metadata; nil = nobody

	// MethodByServer lets the metadata choose between client_secret_basic and client_secret_post, if they name only the other one
	// than [Config.Method]. That is no probing: nothing is sent to find out.
	MethodByServer bool
	// OptionalScopes are left out of what is asked for unless the server says that it knows them.
	OptionalScopes []string
}

// located is a client for the endpoints that one document names.
type located struct {
	server *Server
	client *Client
}

// origin is where a client has its endpoints from.
type origin struct {
	metadata *Metadata
	server   *Server
}

// At returns the client for the endpoints as they are now, and the metadata that they come from. Where nothing is discovered it is
// c itself, and there are no metadata.
func (c *Client) At(ctx context.Context) (*Client, *Server, error) {
	discovery := c.cfg.Discovery
	if discovery == nil {
		return c, nil, nil
	}
	server, err := discovery.Metadata.Server(ctx, discovery.Listen)
	if err != nil {
		return nil, nil, err
	}
	if known := c.located.Load(); known != nil && known.server == server {
		return known.client, server, nil
	}
	next, err := NewClient(c.cfg.at(server))
	if err != nil {
		return nil, nil, badMetadata("invalid_metadata", 0, err.Error())
	}
	next.origin = &origin{discovery.Metadata, server}
	c.located.Store(&located{server, next})
	return next, server, nil
}

// at returns the configuration with what the metadata say. What was configured stays.
func (c Config) at(server *Server) Config {
	discovery := c.Discovery
	c.Discovery = nil
	token, revocation := server.TokenEndpoint, server.RevocationEndpoint
	if c.Certificate != nil { // RFC 8705 section 5
		token = cmp.Or(server.MTLSEndpointAliases.TokenEndpoint, token)
		revocation = cmp.Or(server.MTLSEndpointAliases.RevocationEndpoint, revocation)
		if !strings.HasPrefix(revocation, "https:") { // of a server on this machine: no certificate can be shown there
			revocation = ""
		}
	}
	c.TokenEndpoint = cmp.Or(c.TokenEndpoint, token)
	c.AuthorizationEndpoint = cmp.Or(c.AuthorizationEndpoint, server.AuthorizationEndpoint)
	c.RevocationEndpoint = cmp.Or(c.RevocationEndpoint, revocation)
	c.Issuer = server.Issuer
	c.Scopes = slices.DeleteFunc(slices.Clone(c.Scopes), func(scope string) bool {
		return slices.Contains(discovery.OptionalScopes, scope) && !slices.Contains(server.ScopesSupported, scope)
	})
	names := func(m Method) bool { return slices.Contains(server.TokenEndpointAuthMethodsSupported, string(m)) }
	if discovery.MethodByServer && !names(c.Method) {
		for _, other := range []Method{ClientSecretBasic, ClientSecretPost} {
			if names(other) {
				c.Method = other
			}
		}
	}
	return c
}

// at is At for those who need only the client.
func (c *Client) at(ctx context.Context) (*Client, error) {
	client, _, err := c.At(ctx)
	return client, err
}

// learn has the metadata read again if a failure may mean that an endpoint is not where it was.
func (c *Client) learn(err error) {
	var failure *Error
	if c.origin == nil || !errors.As(err, &failure) {
		return
	}
	switch failure.Code {
	case "redirect", "dns", "unreachable", "server_certificate":
	default:
		if failure.Status != http.StatusNotFound && failure.Status != http.StatusGone {
			return
		}
	}
	c.origin.metadata.doubt(c.origin.server)
}

// tenantMark stands for the tenant in the issuer that Microsoft's metadata for all tenants name.
const tenantMark = "{tenantid}"

// sameIssuer reports whether got is that issuer, to the letter. Where the issuer has a mark in its path, got has one tenant there.
func sameIssuer(issuer, got string) bool {
	before, after, marked := strings.Cut(issuer, tenantMark)
	if !marked {
		return issuer == got
	}
	_, path, _ := strings.Cut(before, "://")
	rest, begins := strings.CutPrefix(got, before)
	tenant, ends := strings.CutSuffix(rest, after)
	return strings.HasSuffix(path, "/") && begins && ends && tenant != "" && !strings.ContainsFunc(tenant, func(r rune) bool {
		letter := (r|0x20) >= 'a' && (r|0x20) <= 'z'
		return !letter && !(r >= '0' && r <= '9') && r != '-' && r != '.'
	})
}
