package connection_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/connection"
	"github.com/caddyoauth/caddyoauth/internal/connection/storetest"
	"github.com/caddyoauth/caddyoauth/internal/oauth"
)

// lastTold returns the newest event of that kind, once everything has come to rest.
func (i *instance) lastTold(kind connection.Kind) (last connection.Event) {
	i.t.Helper()
	if i.told(kind) == 0 {
		i.t.Fatalf("no %s was told", kind)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, e := range i.events {
		if e.Kind == kind {
			last = e
		}
	}
	return last
}

// TestEventsTellWhatWasBefore: an observer knows from an event whether a status has begun, and whether the endpoint was asked.
func TestEventsTellWhatWasBefore(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := authorized(t, -time.Hour)
		i.server.fail(oauth.Misconfigured, "invalid_client")
		i.refused(connection.StatusMisconfigured, "invalid_client")
		e := i.lastTold(connection.KindFailed)
		is(t, "before", e.Was, connection.StatusPending)
		is(t, "asked", e.Asked, true)
		later(time.Hour)
		i.refused(connection.StatusMisconfigured, "invalid_client")
		is(t, "before the second", i.lastTold(connection.KindFailed).Was, connection.StatusMisconfigured)
		i.server.heal()
		later(time.Hour)
		i.token()
		is(t, "before the success", i.lastTold(connection.KindRecovered).Was, connection.StatusMisconfigured)
		is(t, "asked for it", i.lastTold(connection.KindRefreshed).Asked, true)
	})
}

func TestEventsOfWhatWasNotAsked(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t, people)
		i.refused(connection.StatusAuthorizationRequired, "authorization_required")
		is(t, "asked", i.lastTold(connection.KindFailed).Asked, false)
	})
}

// TestEventsTellTheWaitForTheLock: another process holds it for a while.
func TestEventsTellTheWaitForTheLock(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := authorized(t, -time.Hour)
		i.store.Change(func(f *storetest.Faults) { f.Latency = 2 * time.Second })
		i.server.delay = 5 * time.Second
		go func() { _, _ = i.Token(t.Context(), i.set) }()
		later(time.Minute)
		synctest.Wait()
		e := i.lastTold(connection.KindRefreshed)
		is(t, "waited", e.Waited, 2*time.Second)
		is(t, "took more than the wait and the exchange", e.Took >= 7*time.Second, true)
	})
}
