package connection_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/connection"
	"github.com/caddyoauth/caddyoauth/internal/connection/storetest"
	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// configured is a process whose configuration is that client, and asks people for those scopes. It shares i's store and server.
func (i *instance) configured(client string, scopes ...string) *instance {
	digest := func(scopes []string) string {
		return client + ":" + strings.Join(slices.Sorted(slices.Values(scopes)), "+")
	}
	o := &instance{t: i.t, store: i.store, server: i.server}
	o.set = o.settings(people, func(s *connection.Settings) {
		s.Nonce, s.Scopes, s.FingerprintOf = client, scopes, digest
	})
	o.live = o.set
	o.Source = connection.NewSource(alice, digest(scopes), func() *connection.Settings { return o.live })
	i.t.Cleanup(o.drain)
	return o
}

// consents is a person who authorizes under i's configuration; the server says that those scopes were granted.
func (i *instance) consents(name, granted string) {
	i.t.Helper()
	resp := consent(name)
	resp.Scope = granted
	given := &connection.Consent{Requested: i.set.Scopes}
	if _, err := i.Apply(i.t.Context(), i.set, connection.Authorized(resp, given, i.set, "jane")); err != nil {
		i.t.Fatalf("authorize: %v", err)
	}
}

// untouched runs what must change nothing in storage.
func (i *instance) untouched(what string, run func()) {
	i.t.Helper()
	before := i.store.Use()
	run()
	after := i.store.Use()
	is(i.t, what+": saves", after.Saves, before.Saves)
	is(i.t, what+": archives", after.Archives, before.Archives)
}

func TestScopesAreAdded(t *testing.T) {
	virtual(t, func(t *testing.T) {
		base := newInstance(t)
		old, now := base.configured("c", "read"), base.configured("c", "read", "write", "admin")
		old.consents("one", "")
		base.untouched("a configuration that asks for more", func() {
			u := now.refused(connection.StatusAuthorizationRequired, "scopes_missing")
			is(t, "the scopes are named: "+u.Error(), strings.Contains(u.Error(), "without the scopes write, admin;"), true)
			state := now.peek()
			is(t, "status", state.Status, connection.StatusAuthorizationRequired)
			is(t, "missing", strings.Join(state.Missing, " "), "write admin")
			is(t, "code", state.Failure.Code, "scopes_missing")
			is(t, "generation", state.Generation, 1)
		})
		old.generation(1) // who takes the change back need not connect again
		is(t, "state under the old one", old.peek().Status, connection.StatusActive)
		now.consents("two", "")
		now.generation(2)
		old.force(3) // has all that it asks for, and goes on
		is(t, "refresh token sent", base.server.last().refresh, "refresh-two")
		is(t, "state", now.peek().Status, connection.StatusActive)
		kept := base.store.Records(alice)
		is(t, "the history goes on", len(kept) == 3 && kept[0].Current.AccessToken.Reveal() == "access-one", true)
		is(t, "under its own fingerprint", kept[0].Fingerprint, "c:read")
	})
}

func TestNoDifference(t *testing.T) {
	for name, c := range map[string]struct {
		asked, granted string
		now            []string
	}{
		"scopes were taken away":      {"read write", "", []string{"read"}},
		"all were taken away":         {"read write", "", nil},
		"others were granted as well": {"read", "read write,admin", []string{"admin", "write"}},
		"in another order":            {"read write", "", []string{"write", "read"}},
	} {
		t.Run(name, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				base := newInstance(t)
				old, now := base.configured("c", strings.Fields(c.asked)...), base.configured("c", c.now...)
				old.consents("one", c.granted)
				now.generation(1)
				is(t, "missing", len(now.peek().Missing), 0)
				fingerprint := base.store.Get(alice).Fingerprint
				now.force(2)
				is(t, "the fingerprint is that of the consent", base.store.Get(alice).Fingerprint, fingerprint)
				old.force(3)
				now.force(4)
				later(2 * time.Hour)
				old.generation(5)
				later(2 * time.Hour)
				now.generation(6)
				base.sent()
			})
		})
	}
}

// A refresh token must not be shown to another client's endpoint, nor the token of another account's API be used.
func TestClientIsChanged(t *testing.T) {
	virtual(t, func(t *testing.T) {
		base := newInstance(t)
		old, now := base.configured("c", "read"), base.configured("d", "read")
		old.consents("one", "read")
		base.untouched("another client", func() {
			now.refused(connection.StatusAuthorizationRequired, "client_changed")
			_, err := now.Refresh(t.Context(), now.set, "operator")
			var u *connection.Unavailable
			is(t, "forced", errors.As(err, &u) && u.Code == "client_changed", true)
			is(t, "state", now.peek().Failure.Code, "client_changed")
		})
		base.called(0)
		old.generation(1)
		now.consents("two", "read")
		now.generation(2)
		_, err := now.rollBack(1)
		is(t, "roll back over the client", errors.Is(err, connection.ErrNoRollback), true)
		later(2 * time.Hour)
		old.refused(connection.StatusAuthorizationRequired, "client_changed")
		now.generation(3)
		is(t, "refresh token sent", base.server.last().refresh, "refresh-two")
		base.called(1)
	})
}

// TestRollBackOverScopes: a consent for fewer scopes than are asked for today is not brought back.
func TestRollBackOverScopes(t *testing.T) {
	virtual(t, func(t *testing.T) {
		base := newInstance(t)
		old, now := base.configured("c", "read"), base.configured("c", "read", "write")
		old.consents("one", "")
		now.consents("two", "")
		_, err := now.rollBack(1)
		is(t, "refused", errors.Is(err, connection.ErrNoRollback), true)
		now.generation(2)
		_, err = old.rollBack(1)
		is(t, "not by those who ask for less: "+errorText(err), err, nil)
		is(t, "fingerprint", base.store.Get(alice).Fingerprint, "c:read")
	})
}

// TestRecordsFromBeforeConsentsWereKept: the fingerprint is over what was asked for then, and all that is left of that is what was
// granted.
func TestRecordsFromBeforeConsentsWereKept(t *testing.T) {
	for name, c := range map[string]struct {
		granted, fingerprint string
		code                 string // "" = usable
	}{
		"granted as asked":               {"write read", "c:read+write", ""},
		"fewer were granted than wanted": {"read", "c:read", "scopes_missing"},
		"not known what was asked":       {"", "c:read+write+admin", "client_changed"},
		"another client":                 {"read write", "d:read+write", "client_changed"},
	} {
		t.Run(name, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				base := newInstance(t)
				now := base.configured("c", "write")
				rec := record(time.Hour)
				rec.Fingerprint, rec.Current.Scope = c.fingerprint, c.granted
				base.store.Put(rec)
				if c.code != "" {
					now.refused(connection.StatusAuthorizationRequired, c.code)
					return
				}
				now.generation(1)
				now.force(2)
				now.force(3)
			})
		})
	}
}

// TestRollingDeployment: for days, instances with an old and a new configuration use one storage. Neither writes over the other, and
// what a person does meanwhile counts for both.
func TestRollingDeployment(t *testing.T) {
	virtual(t, func(t *testing.T) {
		base := newInstance(t)
		old, now := base.configured("c", "read", "list"), base.configured("c", "read", "write")
		old.consents("one", "")
		for range 48 {
			_, _ = now.Token(t.Context(), now.set)
			_ = old.token()
			later(time.Hour)
		}
		before := base.server.calls()
		is(t, "refreshes of two days: "+errorText(nil), before >= 46 && before <= 50, true)
		is(t, "nothing was written by the new one", now.Stats().Requests.Load(), 0)
		now.consents("two", "")
		for range 48 {
			_ = now.token()
			_, _ = old.Token(t.Context(), old.set)
			later(time.Hour)
		}
		is(t, "the old one asks no more", base.store.Get(alice).Current.Nonce, "c")
		old.refused(connection.StatusAuthorizationRequired, "scopes_missing")
		is(t, "refreshes of the next two days", base.server.calls() <= before+50, true)
		base.sent()
	})
}

// TestTwoMachineConfigurations: each fetches its own, no more often than alone.
func TestTwoMachineConfigurations(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t)
		o := i.another()
		o.Source = connection.NewSource(alice, "f2", func() *connection.Settings { return o.live })
		for range 24 * 60 {
			i.token()
			o.token()
			later(time.Minute)
		}
		is(t, "requests of a day", i.server.calls() <= 2*27, true)
	})
}

// TestDifferenceOverALaggingStorage: what this process knows better keeps its own fingerprint.
func TestDifferenceOverALaggingStorage(t *testing.T) {
	virtual(t, func(t *testing.T) {
		base := newInstance(t)
		old, now := base.configured("c", "read", "write"), base.configured("c", "read")
		old.consents("one", "")
		now.force(2)
		base.store.Change(func(f *storetest.Faults) { f.StaleLoads = 3 })
		now.force(3)
		is(t, "fingerprint", base.store.Get(alice).Fingerprint, "c:read+write")
		rec := base.store.Get(alice)
		rec.Fingerprint, rec.Current.Generation, rec.Current.Consent = "d:read", 1, &connection.Consent{Requested: []string{"read"}}
		base.store.Put(rec) // from a backup
		now.force(4)
		is(t, "fingerprint after a backup", base.store.Get(alice).Fingerprint, "c:read+write")
		old.force(5)
		base.sent()
	})
}

// TestForeignConsentDuringOurRefresh: somebody connects again under the next configuration, past a lock that does not hold. Their
// consent stays, and theirs is not used here.
func TestForeignConsentDuringOurRefresh(t *testing.T) {
	for name, generation := range map[string]uint64{"a later generation": 3, "the same": 2, "an earlier one": 1} {
		t.Run(name, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				base := newInstance(t)
				old := base.configured("c", "read")
				old.consents("one", "")
				later(2 * time.Hour)
				foreign := base.store.Get(alice)
				foreign.Fingerprint, foreign.Current.Generation, foreign.Current.AccessToken = "d:read", generation, secret.New("access-theirs")
				foreign.Current.IssuedAt, foreign.Current.ExpiresAt = time.Now().Add(time.Hour), time.Now().Add(2*time.Hour)
				afterOurSave(old, foreign)
				is(t, "the token that is used", old.token().TokenSet().AccessToken.Reveal(), "access-1")
				is(t, "theirs is kept", base.store.Get(alice).Fingerprint, "d:read")
				is(t, "locks lost", old.Stats().LocksLost.Load(), 1)
			})
		})
	}
}
