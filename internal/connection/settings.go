package connection

import (
	"context"
	"sync"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/oauth"
	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// Client is the door to the token endpoint; *oauth.Client is one.
type Client interface {
	ClientCredentials(ctx context.Context) (*oauth.TokenResponse, error)
	Password(ctx context.Context) (*oauth.TokenResponse, error)
	Refresh(ctx context.Context, refreshToken secret.Text) (*oauth.TokenResponse, error)
}

// Settings is what a refresh needs of the configuration. Each configuration has its own Settings, while the Source with
// the token set lives on over reloads; a flight keeps the Settings that it began with.
type Settings struct {
	Store   Store
	Client  Client
	Breaker *Breaker
	Tasks   *Tasks      // flights that use these Settings, for draining
	Observe func(Event) // told what happens; must not block; nil = nobody
	Policy  Policy
	Grant   string // one of ways; oauth.GrantRefreshToken is that of a person with an authorization code
	Nonce   string // tells this process from others in intents and records

	// Scopes are those that people are asked for, and FingerprintOf digests what a token depends on, had other scopes been asked
	// for; see differs. Both may be nil.
	Scopes        []string
	FingerprintOf func(scopes []string) string

	// DoorOf gives the client, and the breaker of its token endpoint, where what a person gave decides which one that is (a shop, a
	// region). nil: it is Client and Breaker for everybody.
	DoorOf func(*Consent) (Client, *Breaker, error)
}

// door returns whom to ask about the tokens of a consent.
func (s *Settings) door(consent *Consent) (Client, *Breaker, error) {
	if s.DoorOf == nil {
		return s.Client, s.Breaker, nil
	}
	client, breaker, err := s.DoorOf(consent)
	if err != nil {
		return nil, nil, &finding{"the token endpoint is not known: " + err.Error(), &oauth.Error{Class: oauth.Misconfigured, Code: codeIncomplete}}
	}
	return client, breaker, nil
}

// codeIncomplete is for a consent that lacks what its token endpoint's address is made of.
const codeIncomplete = "incomplete_connection"

// Complete fills in what may be left out: the defaults of the policy, a breaker, an observer and a task group of its own.
func (s Settings) Complete() *Settings {
	s.Policy = s.Policy.withDefaults()
	if s.Breaker == nil {
		s.Breaker = new(Breaker)
	}
	if s.Tasks == nil {
		s.Tasks = new(Tasks)
	}
	if s.Observe == nil {
		s.Observe = func(Event) {}
	}
	return &s
}

// Kind names what happened in an [Event].
type Kind string

// The kinds of events.
const (
	KindRefreshed   Kind = "refreshed"     // a new generation was obtained and saved
	KindUnchanged   Kind = "unchanged"     // the server gave the same token again, with no more lifetime
	KindAdopted     Kind = "adopted"       // another instance had refreshed already
	KindFailed      Kind = "failed"        // an attempt failed; Err says why
	KindChanged     Kind = "changed"       // a person authorized, or the connection was rolled back or disconnected
	KindRecovered   Kind = "recovered"     // the first success after failures
	KindTakenOver   Kind = "taken_over"    // the storage lock could not be had; its holder is taken to be dead
	KindLockLost    Kind = "lock_lost"     // somebody else wrote while this process held the lock
	KindRepeated    Kind = "repeated"      // an earlier intent was found open: asking once more
	KindUnsaved     Kind = "unsaved"       // a new token set cannot be saved; it is served from memory
	KindSaved       Kind = "saved"         // an unsaved token set has been saved at last
	KindSaveDropped Kind = "save_dropped"  // an unsaved token set was given up: expired, or the process ends
	KindHistory     Kind = "history_error" // the old token set could not be put into the history
	KindExpiring    Kind = "expiring"      // a token set ends soon that cannot be refreshed; told by those who watch sources
)

// Event is what a Source tells its observer. It cannot carry a secret.
type Event struct {
	Kind       Kind
	ID         ID
	Status     Status
	Was        Status // the status before the flight began
	Reason     Reason
	Generation uint64
	ExpiresAt  time.Time
	RetryAt    time.Time // when the next attempt may be made, for KindFailed
	Took       time.Duration
	Waited     time.Duration // of that, for the storage lock
	Asked      bool          // the token endpoint was asked
	Err        error
}

// Tasks counts the flights that use one configuration's storage, so that its end can wait for them. The zero value is ready.
type Tasks struct {
	mu      sync.Mutex // guards all fields
	running int
	stopped bool
	closed  bool
	idle    chan struct{} // closed when running falls to zero; nil when nobody waits
	ending  chan struct{} // closed by Close; nil when nobody asked
}

func (t *Tasks) enter() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.running++
}

func (t *Tasks) leave() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.running--
	if t.running == 0 && t.idle != nil {
		close(t.idle)
		t.idle = nil
	}
}

// Stop ends background refreshes under these Settings and waits until the running flights are done or ctx ends. A request
// that still needs a token gets its own flight, and waits for it.
func (t *Tasks) Stop(ctx context.Context) error {
	t.mu.Lock()
	t.stopped = true
	if t.running == 0 {
		t.mu.Unlock()
		return nil
	}
	if t.idle == nil {
		t.idle = make(chan struct{})
	}
	idle := t.idle
	t.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close says that the storage of these Settings must not be used any more. It may be called twice.
func (t *Tasks) Close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stopped = true
	if !t.closed {
		t.closed = true
		if t.ending != nil {
			close(t.ending)
		}
	}
}

// closing returns a channel that is closed once Close is called; after that it returns nil, which never is.
func (t *Tasks) closing() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil
	}
	if t.ending == nil {
		t.ending = make(chan struct{})
	}
	return t.ending
}

func (t *Tasks) isStopped() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.stopped
}

// Closed reports whether Close was called.
func (t *Tasks) Closed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.closed
}
