package connection_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/connection"
	"github.com/caddyoauth/caddyoauth/internal/connection/storetest"
	"github.com/caddyoauth/caddyoauth/internal/oauth"
	"github.com/caddyoauth/caddyoauth/internal/secret"
)

var alice = connection.ID{Connection: "drive", Subject: "alice"}

const fingerprint = "f1"

var errDown = errors.New("the storage is down")

// server is a token endpoint in memory. By default each answer is a new token that lives an hour.
type server struct {
	mu    sync.Mutex // guards the fields below
	asked []exchange
	delay time.Duration
	life  time.Duration
	// answer, when set, replaces the default; n counts from 1. It is called when the delay is over.
	answer func(n int, x exchange) (*oauth.TokenResponse, error)
}

// exchange is one request that the server saw.
type exchange struct {
	at       time.Time
	refresh  string // the refresh token that was sent
	deadline time.Duration
	context  context.Context
}

func (s *server) ClientCredentials(ctx context.Context) (*oauth.TokenResponse, error) {
	return s.serve(ctx, "")
}

func (s *server) Password(ctx context.Context) (*oauth.TokenResponse, error) {
	return s.serve(ctx, "")
}

func (s *server) Refresh(ctx context.Context, refreshToken secret.Text) (*oauth.TokenResponse, error) {
	return s.serve(ctx, refreshToken.Reveal())
}

func (s *server) serve(ctx context.Context, refresh string) (*oauth.TokenResponse, error) {
	x := exchange{at: time.Now(), refresh: refresh, context: ctx}
	if deadline, ok := ctx.Deadline(); ok {
		x.deadline = time.Until(deadline)
	}
	s.mu.Lock()
	s.asked = append(s.asked, x)
	n, delay, answer := len(s.asked), s.delay, s.answer
	s.mu.Unlock()
	select {
	case <-time.After(delay):
	case <-ctx.Done():
		return nil, &oauth.Error{Class: oauth.UnknownOutcome, Code: "timeout"}
	}
	if answer != nil {
		return answer(n, x)
	}
	return s.token(n, x), nil
}

// token is the answer numbered n.
func (s *server) token(n int, x exchange) *oauth.TokenResponse {
	life := s.life
	if life == 0 {
		life = time.Hour
	}
	resp := &oauth.TokenResponse{
		AccessToken: secret.New(fmt.Sprintf("access-%d", n)), TokenType: "Bearer", SentAt: x.at, ExpiresAt: x.at.Add(life),
	}
	if x.refresh != "" {
		resp.RefreshToken = secret.New(fmt.Sprintf("refresh-%d", n))
	}
	return resp
}

// calls returns how many requests the server saw.
func (s *server) calls() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.asked)
}

// last returns the newest request.
func (s *server) last() exchange {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[len(s.asked)-1]
}

// change alters the server under its lock.
func (s *server) change(change func(*server)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

// fail makes every answer an error of that class, until heal.
func (s *server) fail(class oauth.Class, code string) {
	s.failWith(&oauth.Error{Class: class, Code: code})
}

func (s *server) failWith(err *oauth.Error) {
	s.change(func(s *server) {
		s.answer = func(int, exchange) (*oauth.TokenResponse, error) { return nil, err }
	})
}

func (s *server) heal() { s.change(func(s *server) { s.answer = nil }) }

// instance is one process with one source.
type instance struct {
	t      *testing.T
	store  *storetest.Memory
	server *server
	set    *connection.Settings
	live   *connection.Settings
	*connection.Source

	mu     sync.Mutex // guards events
	events []connection.Event
}

// newInstance returns a process with a machine connection and its own store and server, as altered.
func newInstance(t *testing.T, alter ...func(*connection.Settings)) *instance {
	i := &instance{t: t, store: new(storetest.Memory), server: new(server)}
	i.set = i.settings(alter...)
	i.live = i.set
	i.Source = connection.NewSource(alice, fingerprint, func() *connection.Settings { return i.live })
	t.Cleanup(i.drain)
	return i
}

// drain waits for the flights under way, as the end of a configuration does.
func (i *instance) drain() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	if err := i.set.Tasks.Stop(ctx); err != nil {
		i.t.Errorf("a flight outlives its configuration: %v", err)
		i.live = nil
		i.set.Tasks.Close()
	}
}

// settings returns another configuration for the same source.
func (i *instance) settings(alter ...func(*connection.Settings)) *connection.Settings {
	s := connection.Settings{
		Store: i.store, Client: i.server, Observe: i.observe, Grant: oauth.GrantClientCredentials, Nonce: "process-1",
	}
	for _, a := range alter {
		a(&s)
	}
	return s.Complete()
}

// another returns a second process that shares i's store and server.
func (i *instance) another() *instance {
	o := &instance{t: i.t, store: i.store, server: i.server}
	o.set = o.settings(func(s *connection.Settings) {
		s.Grant, s.Policy, s.Nonce = i.set.Grant, i.set.Policy, "process-2"
	})
	o.live = o.set
	o.Source = connection.NewSource(alice, fingerprint, func() *connection.Settings { return o.live })
	i.t.Cleanup(o.drain)
	return o
}

// people makes the connection one with refresh tokens.
func people(s *connection.Settings) { s.Grant = oauth.GrantRefreshToken }

// authorized returns a process with a person's connection whose stored token set has that much life left of an hour.
func authorized(t *testing.T, left time.Duration, alter ...func(*connection.Settings)) *instance {
	i := newInstance(t, append([]func(*connection.Settings){people}, alter...)...)
	i.store.Put(record(left))
	return i
}

// record is a stored generation 1 with that much life left of an hour.
func record(left time.Duration) connection.Record {
	now := time.Now()
	return connection.Record{
		ID: alice, Fingerprint: fingerprint, Status: connection.StatusActive, UpdatedAt: now,
		Current: connection.TokenSet{
			Generation: 1, AccessToken: secret.New("access-0"), RefreshToken: secret.New("refresh-0"), TokenType: "Bearer",
			IssuedAt: now.Add(left - time.Hour), ExpiresAt: now.Add(left), Reason: connection.ReasonFirst,
		},
	}
}

func (i *instance) observe(e connection.Event) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.events = append(i.events, e)
}

// told returns how many events of that kind there were, once everything has come to rest: a flight wakes its waiters first.
func (i *instance) told(kind connection.Kind) int {
	synctest.Wait()
	i.mu.Lock()
	defer i.mu.Unlock()
	n := 0
	for _, e := range i.events {
		if e.Kind == kind {
			n++
		}
	}
	return n
}

// token asks as a request does and expects a token.
func (i *instance) token() *connection.Published {
	i.t.Helper()
	p, err := i.Token(i.t.Context(), i.set)
	if err != nil {
		i.t.Fatalf("ask for a token: %v", err)
	}
	if !p.Usable(time.Now()) {
		i.t.Fatal("a token was given out that is not usable")
	}
	return p
}

// refused asks as a request does and expects none.
func (i *instance) refused(status connection.Status, code string) *connection.Unavailable {
	i.t.Helper()
	_, err := i.Token(i.t.Context(), i.set)
	var u *connection.Unavailable
	if !errors.As(err, &u) {
		i.t.Fatalf("ask for a token: got %v, want *Unavailable", err)
	}
	if u.Status != status || u.Code != code {
		i.t.Fatalf("ask for a token: got %s (%s), want %s (%s)", u.Status, u.Code, status, code)
	}
	return u
}

// generation expects a token of that generation.
func (i *instance) generation(want uint64) *connection.Published {
	i.t.Helper()
	p := i.token()
	if p.Generation() != want {
		i.t.Fatalf("got generation %d, want %d", p.Generation(), want)
	}
	return p
}

// called expects that many token requests up to now.
func (i *instance) called(want int) {
	i.t.Helper()
	if got := i.server.calls(); got != want {
		i.t.Fatalf("the token endpoint was asked %d times, want %d", got, want)
	}
}

// traffic asks for a token at each step for that long and returns how often none was given.
func (i *instance) traffic(length, step time.Duration) (failed int) {
	for end := time.Now().Add(length); time.Now().Before(end); time.Sleep(step) {
		if _, err := i.Token(i.t.Context(), i.set); err != nil {
			failed++
		}
	}
	return failed
}

// is fails the test when got is not want.
func is[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Fatalf("%s: got %v, want %v", what, got, want)
	}
}

// virtual runs a test in virtual time, and fails it when a flight, a lock or a goroutine outlives it.
func virtual(t *testing.T, test func(*testing.T)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, test)
}

// later lets virtual time pass, and what is due then happen.
func later(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}
