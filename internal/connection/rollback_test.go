package connection_test

import (
	"errors"
	"testing"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/connection"
	"github.com/caddyoauth/caddyoauth/internal/connection/storetest"
	"github.com/caddyoauth/caddyoauth/internal/oauth"
)

// rollBack brings a generation back by what the storage holds.
func (i *instance) rollBack(generation uint64) (*connection.Published, error) {
	return i.Apply(i.t.Context(), i.set, connection.RolledBack(i.store.Records(alice), generation, i.set, "operator"))
}

// rolledBack expects it to work.
func (i *instance) rolledBack(generation uint64) connection.TokenSet {
	i.t.Helper()
	p, err := i.rollBack(generation)
	if err != nil {
		i.t.Fatalf("roll back to %d: %v", generation, err)
	}
	return p.TokenSet()
}

// sent expects that no refresh token was sent twice.
func (i *instance) sent() {
	i.t.Helper()
	seen := map[string]bool{}
	for _, x := range i.server.asked {
		is(i.t, "refresh token "+x.refresh+" was sent before", seen[x.refresh], false)
		seen[x.refresh] = true
	}
}

// TestRollBackOverAConsent is for somebody who connected the wrong account: the one before comes back, whole.
func TestRollBackOverAConsent(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t, people)
		i.authorize("one")
		later(2 * time.Hour)
		i.generation(2) // refreshed: refresh-one is spent, refresh-1 lives
		i.authorize("two")
		set := i.rolledBack(1)
		is(t, "generation", set.Generation, 4)
		is(t, "access token", set.AccessToken.Reveal(), "access-one")
		is(t, "the refresh token is the last of that consent", set.RefreshToken.Reveal(), "refresh-1")
		is(t, "reason", set.Reason, connection.ReasonRolledBack)
		is(t, "by", set.By, "operator")
		is(t, "root", set.Root, 1)
		i.generation(5) // what came back has expired
		is(t, "refresh token sent", i.server.last().refresh, "refresh-1")
		set = i.rolledBack(3)
		is(t, "and forth again", set.AccessToken.Reveal()+" "+set.RefreshToken.Reveal(), "access-two refresh-two")
		i.sent()
	})
}

// TestRollBackWithinAConsent: the earlier access token comes back, with the refresh token that is alive now.
func TestRollBackWithinAConsent(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t, people)
		i.authorize("one")
		for generation := range uint64(5) {
			later(2 * time.Hour)
			i.generation(generation + 2)
		}
		set := i.rolledBack(3)
		is(t, "access token", set.AccessToken.Reveal(), "access-2")
		is(t, "refresh token", set.RefreshToken.Reveal(), "refresh-5")
		i.generation(8)
		i.sent()
	})
}

func TestRollBackIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		spoil      func(i *instance)
		generation uint64
		want       error
	}{
		"the current one": {func(*instance) {}, 3, connection.ErrNoRollback},
		"a later one":     {func(*instance) {}, 4, connection.ErrNoRollback},
		"none":            {func(*instance) {}, 0, connection.ErrNoRollback},
		"its consent is not known": {func(i *instance) {
			rec := i.store.Records(alice)[0]
			rec.Current.Root = 0
			_ = i.store.Archive(i.t.Context(), rec)
		}, 1, connection.ErrNoRollback},
		"of another configuration": {func(i *instance) {
			rec := i.store.Records(alice)[0]
			rec.Fingerprint = "f2"
			_ = i.store.Archive(i.t.Context(), rec)
		}, 1, connection.ErrNoRollback},
		"it holds no token": {func(i *instance) {
			rec := i.store.Records(alice)[0]
			rec.Current = connection.TokenSet{Generation: 1}
			_ = i.store.Archive(i.t.Context(), rec)
		}, 1, connection.ErrNoRollback},
	} {
		t.Run(name, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				i := newInstance(t, people)
				i.authorize("one")
				i.authorize("two")
				i.authorize("three")
				c.spoil(i)
				_, err := i.rollBack(c.generation)
				is(t, "refused: "+errorText(err), errors.Is(err, c.want), true)
				i.generation(3)
			})
		})
	}
}

func errorText(err error) string {
	if err == nil {
		return "no error"
	}
	return err.Error()
}

// TestRollBackToAWithdrawnConsent: its refresh token is known to be dead, also when the current consent is the one.
func TestRollBackToAWithdrawnConsent(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t, people)
		i.authorize("one")
		later(2 * time.Hour)
		i.generation(2)
		i.server.fail(oauth.Revoked, "invalid_grant")
		later(2 * time.Hour)
		i.refused(connection.StatusRevoked, "invalid_grant")
		_, err := i.rollBack(1)
		is(t, "refused", errors.Is(err, connection.ErrNoRollback), true)
		i.authorize("two")
		for _, generation := range []uint64{1, 2} {
			_, err = i.rollBack(generation)
			is(t, "refused after the next consent", errors.Is(err, connection.ErrNoRollback), true)
		}
		is(t, "how it ended", i.store.Records(alice)[1].Status, connection.StatusRevoked)
		i.generation(3)
	})
}

// TestRollBackOverAGap: a generation that never got into the history may be the one that used up what would be sent.
func TestRollBackOverAGap(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t, people)
		i.authorize("one")
		later(2 * time.Hour)
		i.generation(2)
		i.store.Change(func(f *storetest.Faults) { f.Archive = &storetest.Fault{Err: errDown, Times: 1} })
		i.authorize("two")
		_, err := i.rollBack(1)
		is(t, "refused", errors.Is(err, connection.ErrNoRollback), true)
	})
}

// TestRollBackOverARace: what was looked at is not the last any more, so the caller has to look again.
func TestRollBackOverARace(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t, people)
		i.authorize("one")
		i.authorize("two")
		seen := i.store.Records(alice)
		i.authorize("three")
		_, err := i.Apply(t.Context(), i.set, connection.RolledBack(seen, 1, i.set, "operator"))
		is(t, "busy", errors.Is(err, connection.ErrBusy), true)
		i.generation(3)
	})
}

// TestRollBackKeepsTheUnknownOutcome: the consent's last exchange may have succeeded unseen; what follows from that is a rotation
// that was lost, not a consent that was withdrawn.
func TestRollBackKeepsTheUnknownOutcome(t *testing.T) {
	virtual(t, func(t *testing.T) {
		i := newInstance(t, people)
		i.authorize("one")
		i.server.fail(oauth.UnknownOutcome, "truncated")
		later(2 * time.Hour)
		i.refused(connection.StatusFailing, "truncated")
		i.authorize("two")
		i.rolledBack(1)
		i.server.fail(oauth.Revoked, "invalid_grant")
		i.refused(connection.StatusLostRotation, "invalid_grant")
	})
}
