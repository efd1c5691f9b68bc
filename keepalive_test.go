package caddyoauth

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddyoauth/caddyoauth/internal/connection"
	"github.com/caddyoauth/caddyoauth/internal/oauth"
	"github.com/caddyoauth/caddyoauth/internal/secret"
)

const day = 24 * time.Hour

// idleServer is a token endpoint whose refresh tokens work once, and die of idleness or of age. It is shared by all instances.
type idleServer struct {
	mu       sync.Mutex // guards the fields below
	alive    map[string]grantOfServer
	issued   int
	asked    int
	refused  int
	idle     time.Duration // 0 = they do not die of it
	lifetime time.Duration // that each answer states; 0 = none
	access   time.Duration // life of an access token; 0 = an hour
	fixed    bool          // lifetime counts from the consent
	err      error         // instead of any answer
}

type grantOfServer struct{ used, began time.Time }

func (s *idleServer) ClientCredentials(context.Context) (*oauth.TokenResponse, error) {
	return nil, errors.New("not this grant")
}

func (s *idleServer) Password(context.Context) (*oauth.TokenResponse, error) {
	return nil, errors.New("not this grant")
}

func (s *idleServer) Refresh(_ context.Context, refresh secret.Text) (*oauth.TokenResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	if s.err != nil {
		return nil, s.err
	}
	grant, ok := s.alive[refresh.Reveal()]
	dead := s.idle > 0 && time.Since(grant.used) > s.idle || s.lifetime > 0 && s.fixed && time.Since(grant.began) > s.lifetime
	if !ok || dead {
		s.refused++
		return nil, &oauth.Error{Class: oauth.Revoked, Code: "invalid_grant"}
	}
	delete(s.alive, refresh.Reveal())
	return s.issue(grant.began), nil
}

// issue gives tokens for a consent. The caller holds mu.
func (s *idleServer) issue(began time.Time) *oauth.TokenResponse {
	s.issued++
	now := time.Now()
	refresh := fmt.Sprint("seeded-refresh-", s.issued)
	s.alive[refresh] = grantOfServer{used: now, began: began}
	resp := &oauth.TokenResponse{
		AccessToken: secret.New(fmt.Sprint("seeded-access-", s.issued)), RefreshToken: secret.New(refresh), TokenType: "Bearer",
		SentAt: now, ExpiresAt: now.Add(cmp.Or(s.access, time.Hour)),
	}
	switch {
	case s.lifetime > 0 && s.fixed:
		resp.RefreshExpiresAt = began.Add(s.lifetime)
	case s.lifetime > 0:
		resp.RefreshExpiresAt = now.Add(s.lifetime)
	}
	return resp
}

// counts returns how often the server was asked, and how often it refused.
func (s *idleServer) counts() (asked, refused int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked, s.refused
}

func newMemStorage() *memoryStorage { return &memoryStorage{memoryFiles: newMemoryFiles()} }

// lifeLab is one instance with a connection "drive" that has a token set for each subject.
type lifeLab struct {
	*App
	t     *testing.T
	drive *activeConnection
	logs  *observer.ObservedLogs
}

// newLifeLab returns an instance on a storage and a server that others may share.
func newLifeLab(t *testing.T, storage *memoryStorage, server *idleServer, policy connection.Policy) *lifeLab {
	t.Helper()
	core, logs := observer.New(zapcore.DebugLevel)
	e := emptyEngine()
	lab := &lifeLab{t: t, logs: logs, App: &App{
		logger: zap.New(core), engine: e, announcer: newAnnouncer(), metrics: newMetrics(e), sweeper: newWorker(), tasks: new(connection.Tasks), wake: func() {},
		active: &activeSet{byName: make(map[string]*activeConnection)},
		store: &recordStore{storage: storage, history: defaultHistory, keys: newKeySource([]KeyEncryptionKey{storeKey(t, 1)},
			filepath.Join(t.TempDir(), "unused.key"), zap.NewNop())},
	}}
	lab.drive = &activeConnection{
		name: "drive", subject: "{http.auth.user.id}", engine: e, key: sourceKey{id: connection.ID{Connection: "drive"}, fingerprint: "f"},
		settings: connection.Settings{
			Store: lab.store, Client: server, Tasks: lab.tasks, Observe: lab.observe, Policy: policy, Grant: oauth.GrantRefreshToken, Nonce: "n",
		}.Complete(),
	}
	lab.active.put(lab.drive)
	e.join(lab.App)
	return lab
}

func newIdleServer() *idleServer { return &idleServer{alive: make(map[string]grantOfServer)} }

// connect has a subject authorize.
func (l *lifeLab) connect(server *idleServer, subject string) {
	l.t.Helper()
	server.mu.Lock()
	resp := server.issue(time.Now())
	server.mu.Unlock()
	if _, err := l.of(subject).Apply(l.t.Context(), l.drive.settings, connection.Authorized(resp, nil, l.drive.settings, subject)); err != nil {
		l.t.Fatal(err)
	}
}

func (l *lifeLab) of(subject string) *connection.Source {
	l.t.Helper()
	key, err := l.drive.keyOf(subject)
	if err != nil {
		l.t.Fatal(err)
	}
	return l.engine.source(key)
}

// restart is what a process does that has just started: nothing is in memory.
func (l *lifeLab) restart() {
	l.engine.mu.Lock()
	defer l.engine.mu.Unlock()
	clear(l.engine.sources)
}

func (l *lifeLab) told(message string) int { return l.logs.FilterMessageSnippet(message).Len() }

// TestIdleAccountsStayConnected: nobody uses them for half a year. Two instances see to it that no refresh token dies, no more often
// than is needed, and without keeping them in memory.
func TestIdleAccountsStayConnected(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		server   func(*idleServer)
		policy   connection.Policy
		most     int // refreshes of one subject
		least    int
		restarts bool
	}{
		"idle limit":         {func(s *idleServer) { s.idle = 30 * day }, connection.Policy{RefreshIdle: 30 * day}, 28, 23, false},
		"idle limit, reload": {func(s *idleServer) { s.idle = 30 * day }, connection.Policy{RefreshIdle: 30 * day}, 28, 23, true},
		"stated lifetime":    {func(s *idleServer) { s.idle, s.lifetime = 90*day, 90*day }, connection.Policy{}, 5, 3, false},
		"often":              {func(s *idleServer) { s.idle = 14 * time.Hour }, connection.Policy{KeepAlive: 12 * time.Hour}, 480, 350, false},
		"as configured":      {func(s *idleServer) { s.idle = 8 * day }, connection.Policy{KeepAlive: 7 * day}, 30, 24, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				const subjects = 5
				storage, server := newMemStorage(), newIdleServer()
				c.server(server)
				a, b := newLifeLab(t, storage, server, c.policy), newLifeLab(t, storage, server, c.policy)
				for n := range subjects {
					a.connect(server, fmt.Sprint("person-", n))
				}
				a.restart()
				a.sweeper.start(a.keepAlive)
				if !c.restarts {
					b.sweeper.start(b.keepAlive)
				}
				for range 180 * 8 {
					time.Sleep(3 * time.Hour)
					if c.restarts { // which comes more often than sweeps do
						a.sweeper.stop()
						a.sweeper = newWorker()
						a.sweeper.start(a.keepAlive)
					}
				}
				a.sweeper.stop()
				b.sweeper.stop()
				asked, refused := server.counts()
				if refused != 0 || asked > c.most*subjects || asked < c.least*subjects {
					t.Errorf("the server was asked %d times and refused %d times", asked, refused)
				}
				if len(a.engine.sources)+len(b.engine.sources) != 0 {
					t.Errorf("%d and %d sources are in memory", len(a.engine.sources), len(b.engine.sources))
				}
				for n := range subjects { // and in the end everybody has access
					source := b.of(fmt.Sprint("person-", n))
					if _, err := source.Token(t.Context(), b.drive.settings); err != nil {
						t.Errorf("person %d: %v", n, err)
					}
				}
				if n := a.told("expiring") + a.told("ends soon"); n != 0 {
					t.Errorf("%d warnings", n)
				}
			})
		})
	}
}

// TestKeepAliveIsOff: nothing is asked, and whoever runs the site hears of the end, once for each.
func TestKeepAliveIsOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		storage, server := newMemStorage(), newIdleServer()
		lab := newLifeLab(t, storage, server, connection.Policy{RefreshIdle: 30 * day, KeepAlive: -1})
		lab.connect(server, "alice")
		lab.connect(server, "bob")
		lab.restart()
		lab.sweeper.start(lab.keepAlive)
		defer lab.sweeper.stop()
		time.Sleep(23 * day)
		if lab.told("ends soon") != 0 {
			t.Error("it was told too soon")
		}
		time.Sleep(20 * day)
		if asked, _ := server.counts(); asked != 0 || lab.told("ends soon") != 2 {
			t.Errorf("asked %d times, told %d times", asked, lab.told("ends soon"))
		}
	})
}

// TestConsentEnds: refreshing does not put the end off. It is told once, shown in the status, and asked for ever more rarely.
func TestConsentEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		storage, server := newMemStorage(), newIdleServer()
		server.lifetime, server.fixed = 90*day, true
		lab := newLifeLab(t, storage, server, connection.Policy{})
		lab.connect(server, "alice")
		lab.restart()
		lab.sweeper.start(lab.keepAlive)
		defer lab.sweeper.stop()
		status := func() TokenView {
			view, err := lab.View(t.Context(), Ref{Connection: "drive", Subject: "alice"})
			if err != nil {
				t.Fatal(err)
			}
			return view
		}
		end := time.Now().Add(90 * day)
		time.Sleep(82 * day)
		if v := status(); v.Status != "active" || v.EndsAt == nil || v.EndsAt.Sub(end).Abs() > time.Minute || lab.told("ends soon") != 0 {
			t.Errorf("eight days before: %+v", v)
		}
		time.Sleep(2 * day)
		if v := status(); v.Status != "expiring" || lab.told("ends soon") != 1 {
			t.Errorf("six days before: %s, told %d times", v.Status, lab.told("ends soon"))
		}
		if len(lab.engine.sources) != 0 {
			t.Error("looking keeps something in memory")
		}
		lab.watch(time.Now())
		source := lab.of("alice")
		if _, err := source.Token(t.Context(), lab.drive.settings); err != nil {
			t.Fatal(err)
		}
		lab.watch(time.Now())
		if got := source.Snapshot().Status; got != connection.StatusExpiring || lab.told("ends soon") != 1 {
			t.Errorf("in use: %s, told %d times", got, lab.told("ends soon"))
		}
		time.Sleep(5 * day)
		if asked, refused := server.counts(); asked > 20 || refused != 0 {
			t.Errorf("asked %d times, refused %d times", asked, refused)
		}
		time.Sleep(10 * day) // it has ended
		if lab.told("ends soon") != 1 {
			t.Errorf("told %d times", lab.told("ends soon"))
		}
		lab.connect(server, "alice")
		if v := status(); v.Status != "active" {
			t.Errorf("connected again: %+v", v)
		}
	})
}

// TestSweepStopsWhereAllWouldFail: a server that refuses our client, or is down, is not asked for every account there is.
func TestSweepStopsWhereAllWouldFail(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		err  error
		most int // requests in a day
	}{
		"client refused": {&oauth.Error{Class: oauth.Misconfigured, Code: "invalid_client"}, 6},
		"down":           {&oauth.Error{Class: oauth.RetryLater, Code: "server_error"}, 40},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				storage, server := newMemStorage(), newIdleServer()
				lab := newLifeLab(t, storage, server, connection.Policy{KeepAlive: 7 * day})
				for n := range 50 {
					lab.connect(server, fmt.Sprint("person-", n))
				}
				lab.restart()
				server.err = c.err
				lab.sweeper.start(lab.keepAlive)
				time.Sleep(8 * day)
				before, _ := server.counts()
				time.Sleep(day)
				asked, _ := server.counts()
				if asked -= before; asked == 0 || asked > c.most {
					t.Errorf("asked %d times in a day", asked)
				}
				if lab.told("could not be kept alive") == 0 {
					t.Error("nothing was logged")
				}
				server.mu.Lock()
				server.err = nil
				server.mu.Unlock()
				time.Sleep(day)
				lab.sweeper.stop()
				if len(server.alive) != 50 || server.issued != 100 {
					t.Errorf("%d tokens were issued, %d are alive", server.issued, len(server.alive))
				}
			})
		})
	}
}

// TestSweepLeavesAlone what has ended, what nothing can be done about, and what is not readable.
func TestSweepLeavesAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		storage, server := newMemStorage(), newIdleServer()
		lab := newLifeLab(t, storage, server, connection.Policy{KeepAlive: time.Hour})
		for subject, change := range map[string]func(*connection.Record){
			"revoked":      func(rec *connection.Record) { rec.Status = connection.StatusRevoked },
			"disconnected": func(rec *connection.Record) { rec.Status = connection.StatusDisconnected },
			"another's":    func(rec *connection.Record) { rec.Fingerprint = "other" },
			"not renewable": func(rec *connection.Record) {
				rec.Current.RefreshToken, rec.Current.ExpiresAt = secret.Text{}, time.Now().Add(365*day)
			},
			"fresh": func(rec *connection.Record) { rec.Current.IssuedAt = time.Now().Add(365 * day) },
		} {
			lab.connect(server, subject)
			rec, err := lab.store.Load(t.Context(), lab.of(subject).ID())
			if err != nil {
				t.Fatal(err)
			}
			change(&rec)
			if err := lab.store.Save(t.Context(), rec); err != nil {
				t.Fatal(err)
			}
		}
		lab.connect(server, "unreadable")
		if err := storage.Store(t.Context(), recordKey(lab.of("unreadable").ID()), []byte("damaged")); err != nil {
			t.Fatal(err)
		}
		lab.restart()
		before := lab.logs.Len()
		lab.sweeper.start(lab.keepAlive)
		time.Sleep(10 * day)
		lab.sweeper.stop()
		if asked, _ := server.counts(); asked != 0 {
			t.Errorf("the server was asked %d times", asked)
		}
		for _, entry := range lab.logs.All()[before:] {
			t.Errorf("it was said that %s: %v", entry.Message, entry.ContextMap())
		}
	})
}
