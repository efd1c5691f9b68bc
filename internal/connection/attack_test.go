package connection_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/connection"
	"github.com/caddyoauth/caddyoauth/internal/connection/storetest"
	"github.com/caddyoauth/caddyoauth/internal/oauth"
	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// The tests here attack the life of a rotating refresh token with everything that can happen at once: requests, refusals, forced
// refreshes, consents, rollbacks, disconnects, reloads, eviction from memory and a storage that fails, in several processes. The
// server forgives nothing: a refresh token that comes twice ends its whole consent.

// strict is that server.
type strict struct {
	mu      sync.Mutex // guards the fields below
	random  *rand.Rand
	owner   map[string]int // refresh token -> consent; used ones too
	used    map[string]bool
	over    map[int]bool // consents that have ended
	granted int          // consents so far
	issued  int
	asked   int
	reused  int            // refresh tokens that came twice
	again   []string       // which
	strays  int            // of consents that had been revoked at our own wish
	lost    map[string]int // refresh tokens whose answer never arrived
	revoked map[int]bool   // at our wish
	slow    time.Duration  // an answer takes up to so long
	losing  float64        // how many answers are lost
	prompt  bool           // decides at once, and then takes all of slow
	busy    float64        // how many requests are not served
}

func newStrict(seed uint64) *strict {
	return &strict{
		random: rand.New(rand.NewPCG(seed, 1)), owner: make(map[string]int), used: make(map[string]bool), over: make(map[int]bool),
		lost: make(map[string]int), revoked: make(map[int]bool), slow: 5 * time.Second, busy: 0.1,
	}
}

func (s *strict) ClientCredentials(context.Context) (*oauth.TokenResponse, error) {
	return nil, errors.New("not this grant")
}

func (s *strict) Password(context.Context) (*oauth.TokenResponse, error) {
	return nil, errors.New("not this grant")
}

// Refresh takes its time on the way there and on the way back, and decides in between.
func (s *strict) Refresh(ctx context.Context, refresh secret.Text) (*oauth.TokenResponse, error) {
	s.mu.Lock()
	there, back, fate := s.chance(s.slow/2), s.chance(s.slow/2), s.random.Float64()
	if s.prompt {
		there, back = 0, s.slow
	}
	s.mu.Unlock()
	sent := time.Now()
	if !slept(ctx, there) {
		return nil, &oauth.Error{Class: oauth.UnknownOutcome, Code: "timeout"}
	}
	resp, err := s.decide(refresh.Reveal(), sent, fate)
	if !slept(ctx, back) || fate > 1-s.losing {
		s.mu.Lock()
		s.lost[refresh.Reveal()]++
		s.mu.Unlock()
		return nil, &oauth.Error{Class: oauth.UnknownOutcome, Code: "connection_lost"}
	}
	return resp, err
}

func (s *strict) chance(most time.Duration) time.Duration {
	return time.Duration(s.random.Int64N(int64(most) + 1))
}

func slept(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

func (s *strict) decide(refresh string, sent time.Time, fate float64) (*oauth.TokenResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	if fate < s.busy {
		return nil, &oauth.Error{Class: oauth.RetryLater, Code: "temporarily_unavailable"}
	}
	consent, known := s.owner[refresh]
	switch {
	case s.revoked[consent]:
		s.strays++
	case s.used[refresh]:
		s.reused++
		s.again = append(s.again, refresh)
		s.over[consent] = true
	}
	if !known || s.over[consent] {
		return nil, &oauth.Error{Class: oauth.Revoked, Code: "invalid_grant"}
	}
	s.used[refresh] = true
	return s.issue(consent, sent), nil
}

// issue gives tokens for a consent. The caller holds mu.
func (s *strict) issue(consent int, sent time.Time) *oauth.TokenResponse {
	s.issued++
	refresh := fmt.Sprintf("refresh-%d-%d", consent, s.issued)
	s.owner[refresh] = consent
	return &oauth.TokenResponse{
		AccessToken: secret.New(fmt.Sprintf("access-%d-%d", consent, s.issued)), RefreshToken: secret.New(refresh), TokenType: "Bearer",
		SentAt: sent, ExpiresAt: sent.Add(time.Hour),
	}
}

// consent is a person who authorizes.
func (s *strict) consent() *oauth.TokenResponse {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.granted++
	return s.issue(s.granted, time.Now())
}

// revoke ends a consent at our wish.
func (s *strict) revoke(set connection.TokenSet) {
	s.mu.Lock()
	defer s.mu.Unlock()
	consent := s.owner[set.RefreshToken.Reveal()]
	s.over[consent], s.revoked[consent] = true, true
}

// process is one instance: its source can be thrown out of memory and its configuration replaced at any moment.
type process struct {
	name   string
	store  *storetest.Memory
	server *strict
	policy connection.Policy

	mu     sync.Mutex // guards the fields below
	set    *connection.Settings
	source *connection.Source
}

func newProcess(name string, store *storetest.Memory, server *strict) *process {
	p := &process{name: name, store: store, server: server}
	p.set = p.settings()
	p.evict()
	return p
}

func (p *process) settings() *connection.Settings {
	return connection.Settings{Store: p.store, Client: p.server, Grant: oauth.GrantRefreshToken, Nonce: p.name, Policy: p.policy}.Complete()
}

// now returns what a request finds.
func (p *process) now() (*connection.Source, *connection.Settings) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.source, p.set
}

// evict throws the source out of memory. Whoever holds on to it goes on with it.
func (p *process) evict() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.source = connection.NewSource(alice, fingerprint, func() *connection.Settings {
		_, set := p.now()
		return set
	})
}

// reload replaces the configuration, as Caddy does: the new one is there before the old one ends, which waits for its flights.
func (p *process) reload() {
	p.mu.Lock()
	old := p.set
	p.set = p.settings()
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	_ = old.Tasks.Stop(ctx)
	old.Tasks.Close()
}

// act does one thing that can happen.
func (p *process) act(random *rand.Rand) {
	ctx := context.Background()
	source, set := p.now()
	switch n := random.IntN(100); {
	case n < 45:
		if random.IntN(4) == 0 { // whose client leaves
			short, cancel := context.WithTimeout(ctx, time.Duration(random.IntN(3000))*time.Millisecond)
			defer cancel()
			ctx = short
		}
		_, _ = source.Token(ctx, set)
	case n < 60:
		if token, err := source.Token(ctx, set); err == nil {
			_ = source.Rejected(ctx, set, token)
		}
	case n < 65:
		if token, err := source.Token(ctx, set); err == nil {
			source.Suspect(set, token)
		}
	case n < 72:
		_, _ = source.Refresh(ctx, set, "operator")
	case n < 78:
		source.RefreshIfDue(set)
	case n < 82:
		rec := p.store.Get(alice)
		rec.Current.IssuedAt = rec.Current.IssuedAt.AddDate(-1, 0, 0) // as if it had been idle
		_, _ = source.KeepAlive(ctx, set, rec, 0)
	case n < 86:
		p.evict()
	case n < 89:
		p.reload()
	case n < 92:
		_, _ = source.Apply(ctx, set, connection.Authorized(p.server.consent(), nil, set, "jane"))
	case n < 95:
		kept := p.store.Records(alice)
		_, _ = source.Apply(ctx, set, connection.RolledBack(kept, kept[random.IntN(len(kept))].Current.Generation, set, "operator"))
	case n < 96:
		p.disconnect(ctx)
	case n < 98: // a test call, here and in another instance
		_, _ = source.Apply(ctx, set, connection.Learned(source.Snapshot().Generation, connection.Consent{Label: fmt.Sprint(random.IntN(9))}))
		_ = source.LookAgain(ctx, set)
	default:
		p.trouble(random)
	}
}

// disconnect ends the connection as the pages do. Everything of it is forgotten.
func (p *process) disconnect(ctx context.Context) {
	source, set := p.now()
	err := source.End(ctx, set, "jane", func(_ context.Context, tokens connection.TokenSet) { p.server.revoke(tokens) })
	if err == nil {
		p.store.Forget(alice)
	}
}

// trouble has the storage fail a few times.
func (p *process) trouble(random *rand.Rand) {
	fault := &storetest.Fault{Err: errDown, Times: 1 + random.IntN(5)}
	p.store.Change(func(f *storetest.Faults) {
		*[]**storetest.Fault{&f.Load, &f.Save, &f.Archive, &f.Lock, &f.Unlock}[random.IntN(5)] = fault
	})
}

// attack lets processes act for a while, each in several requests at once.
func attack(t *testing.T, seed uint64, length time.Duration, processes ...*process) {
	t.Helper()
	var all sync.WaitGroup
	for n, p := range processes {
		for worker := range 4 {
			random := rand.New(rand.NewPCG(seed, uint64(100*n+worker)))
			all.Go(func() {
				for end := time.Now().Add(length); time.Now().Before(end); {
					p.act(random)
					pause := time.Duration(random.ExpFloat64() * float64(2*time.Minute))
					if random.IntN(3) == 0 {
						pause = 0 // storms
					}
					time.Sleep(pause)
				}
			})
		}
	}
	all.Wait()
	for _, p := range processes {
		_, set := p.now()
		if err := set.Tasks.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	}
	synctest.Wait()
}

// TestNoRefreshTokenIsEverSentTwice, whatever happens at once, unless an answer is lost.
func TestNoRefreshTokenIsEverSentTwice(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				store, server := new(storetest.Memory), newStrict(seed)
				store.Change(func(f *storetest.Faults) { f.Latency = 20 * time.Millisecond })
				processes := []*process{newProcess("a", store, server), newProcess("b", store, server), newProcess("c", store, server)}
				_, err := processes[0].source.Apply(t.Context(), processes[0].set, connection.Authorized(server.consent(), nil, processes[0].set, "jane"))
				is(t, "connect", err, nil)
				attack(t, seed, 24*time.Hour, processes...)
				is(t, "refresh tokens that were sent twice", server.reused, 0)
				is(t, "refresh tokens that were sent after we had them revoked", server.strays, 0)
				if server.asked < 100 || server.granted < 20 {
					t.Errorf("the attack was lame: %d exchanges, %d consents", server.asked, server.granted)
				}
				is(t, "locks held at the end", store.Held(), 0)
			})
		})
	}
}

// TestLostAnswersCostOneReuseEach: what was sent is sent once more, since nobody can know, and then never again.
func TestLostAnswersCostOneReuseEach(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				store, server := new(storetest.Memory), newStrict(seed)
				server.losing = 0.05
				processes := []*process{newProcess("a", store, server), newProcess("b", store, server)}
				attack(t, seed, 24*time.Hour, processes...)
				lost := 0
				for _, times := range server.lost {
					lost += times
				}
				for _, refresh := range server.again {
					if server.lost[refresh] == 0 {
						t.Errorf("%s was sent twice, and no answer was lost", refresh)
					}
				}
				if server.reused > lost || lost == 0 {
					t.Errorf("%d answers were lost, and %d refresh tokens sent twice", lost, server.reused)
				}
			})
		})
	}
}

// lossy is a storage whose locks are lost while their holders ask, as leases are when a process pauses.
func lossy(store *storetest.Memory) {
	store.Change(func(f *storetest.Faults) { f.LockLife, f.Latency = 500*time.Millisecond, 50*time.Millisecond })
}

// TestYoungIntentOfAnotherProcess: the lock is lost while its holder asks. Who finds its intent waits where a second request would end
// the consent, and asks where it would not.
func TestYoungIntentOfAnotherProcess(t *testing.T) {
	for name, c := range map[string]struct {
		policy connection.Policy
		age    time.Duration // of the intent
		waits  bool
	}{
		"punished":                        {waits: true},
		"punished, and nearly over":       {age: 29 * time.Second, waits: true},
		"punished, and over":              {age: 30 * time.Second},
		"of a clock that is ahead":        {age: -time.Minute, waits: true},
		"harmless":                        {policy: connection.Policy{ReuseHarmless: true}},
		"within the server's grace":       {policy: connection.Policy{ReuseGrace: 30 * time.Second}, age: 20 * time.Second},
		"at the end of the grace":         {policy: connection.Policy{ReuseGrace: 30 * time.Second}, age: 25 * time.Second, waits: true},
		"punished, with a short time-out": {policy: connection.Policy{Timeout: 2 * time.Second}, age: 3 * time.Second, waits: true},
	} {
		t.Run(name, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				i := authorized(t, -time.Hour, func(s *connection.Settings) { s.Policy = c.policy })
				rec := record(-time.Hour)
				rec.Intent = &connection.Intent{Generation: 1, RefreshDigest: rec.Current.RefreshToken.Digest(), Nonce: "another", At: time.Now().Add(-c.age)}
				i.store.Put(rec)
				if !c.waits {
					i.generation(2)
					return
				}
				left := min(2*i.set.Policy.Timeout-c.age, 2*i.set.Policy.Timeout)
				u := i.refused(connection.StatusFailing, "busy")
				wait := time.Until(u.RetryAt)
				is(t, "asked for too soon or too late: "+wait.String(), wait >= left && wait <= left+2*time.Second, true)
				_, err := i.Refresh(t.Context(), i.set, "operator")
				is(t, "not by force either", err != nil, true)
				i.called(0)
				later(left - time.Second)
				_, _ = i.Token(t.Context(), i.set)
				i.called(0)
				later(2 * time.Minute)
				i.generation(2)
			})
		})
	}
}

// TestOwnIntentIsNotWaitedFor: its exchange is over, or this process would still hold the lock.
func TestOwnIntentIsNotWaitedFor(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := authorized(t, -time.Hour)
		i.server.fail(oauth.UnknownOutcome, "truncated")
		i.refused(connection.StatusFailing, "truncated")
		i.server.heal()
		later(5 * time.Second)
		i.generation(2)
	})
}

// TestWaitingOutAnIntentServesTheOldToken, while there is one.
func TestWaitingOutAnIntentServesTheOldToken(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := authorized(t, time.Minute) // due
		rec := record(time.Minute)
		rec.Intent = &connection.Intent{Generation: 1, RefreshDigest: rec.Current.RefreshToken.Digest(), Nonce: "crashed", At: time.Now()}
		i.store.Put(rec)
		is(t, "requests without a token", i.traffic(2*time.Minute, time.Second), 0)
		i.called(1)
		i.generation(2)
	})
}

// TestLostLocksDoNotCostTheConsent: every lock is lost while its holder asks, and two processes are under load for a day.
func TestLostLocksDoNotCostTheConsent(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				store, server := new(storetest.Memory), newStrict(seed)
				a, b := newProcess("a", store, server), newProcess("b", store, server)
				_, err := a.source.Apply(t.Context(), a.set, connection.Authorized(server.consent(), nil, a.set, "jane"))
				is(t, "connect", err, nil)
				lossy(store)
				random := rand.New(rand.NewPCG(seed, 7))
				for end := time.Now().Add(24 * time.Hour); time.Now().Before(end); {
					p := []*process{a, b}[random.IntN(2)]
					source, set := p.now()
					_, _ = source.Token(t.Context(), set)
					time.Sleep(time.Duration(random.IntN(60)) * time.Second)
				}
				for _, p := range []*process{a, b} {
					_, set := p.now()
					_ = set.Tasks.Stop(t.Context())
				}
				is(t, "refresh tokens that were sent twice", server.reused, 0)
				if server.asked < 20 {
					t.Errorf("only %d exchanges", server.asked)
				}
			})
		})
	}
}

// TestDisconnectDuringARefresh: the server is told under the lock, so that no refresh token is sent that it was told to forget, and
// what a refresh brings past a lost lock does not bring the connection back.
func TestDisconnectDuringARefresh(t *testing.T) {
	for name, lost := range map[string]bool{"with the lock": false, "past a lost lock": true} {
		t.Run(name, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				store, server := new(storetest.Memory), newStrict(1)
				server.busy, server.prompt = 0, true
				a, b := newProcess("a", store, server), newProcess("b", store, server)
				_, err := a.source.Apply(t.Context(), a.set, connection.Authorized(server.consent(), nil, a.set, "jane"))
				is(t, "connect", err, nil)
				if lost {
					lossy(store)
				}
				later(2 * time.Hour)
				go func() { _, _ = a.source.Token(context.Background(), a.set) }()
				later(300 * time.Millisecond) // it has written its intent, and asks
				b.disconnect(t.Context())
				later(time.Minute)
				stored := store.Get(alice)
				is(t, "status", stored.Status, connection.StatusDisconnected)
				is(t, "tokens that are left", stored.Current.AccessToken.IsZero() && stored.Current.RefreshToken.IsZero(), true)
				later(2 * time.Hour)
				for _, p := range []*process{a, b} {
					_, err := p.source.Token(t.Context(), p.set)
					var u *connection.Unavailable
					is(t, "no token", errors.As(err, &u) && u.Status == connection.StatusDisconnected, true)
				}
				if !lost {
					is(t, "sent after it was revoked", server.strays, 0)
				}
			})
		})
	}
}
