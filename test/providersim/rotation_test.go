package providersim

import (
	"testing"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/provider"
)

// step is something that a client does with the refresh tokens that it has got so far, and what comes of it.
type step struct {
	send int  // which refresh token, counted from 0
	use  int  // which access token is used at the API before; -1 = none
	wait bool // until the grace is over
	ok   bool
}

// TestRotationClasses holds the simulator itself against the table's words for the classes.
func TestRotationClasses(t *testing.T) {
	t.Parallel()
	const none = -1
	for class, steps := range map[provider.RotationClass][]step{
		provider.RotationStatic:      {{0, none, false, true}, {0, none, true, true}},
		provider.RotationOverlapping: {{0, none, false, true}, {0, none, true, true}, {1, none, false, true}, {0, none, false, true}},
		provider.RotationRecoverable: {{0, none, false, true}, {0, none, false, true}, {1, none, false, false}, {0, 2, false, false}, {2, none, false, true}},
		provider.RotationGrace:       {{0, none, false, true}, {0, none, false, true}, {0, none, true, false}, {1, none, false, true}},
		provider.RotationSingleUse:   {{0, none, false, true}, {0, none, false, false}, {1, none, false, true}},
		provider.RotationPunished:    {{0, none, false, true}, {0, none, false, true}, {0, none, true, false}, {2, none, false, false}},
	} {
		s, of := bare(t, class)
		var access []*accessToken
		var refresh []*refreshToken
		keep := func(token *accessToken) {
			access = append(access, token)
			refresh = append(refresh, token.with)
		}
		keep(s.issue(of, nil))
		for i, step := range steps {
			if step.use >= 0 {
				s.prove(access[step.use].with)
			}
			if step.wait && !refresh[step.send].replacedAt.IsZero() {
				refresh[step.send].replacedAt = time.Now().Add(-s.opts.Grace - time.Second)
			}
			refresh[step.send].lost = true // no fault of the test's
			got := s.renew(refresh[step.send].text)
			if (got != nil) != step.ok {
				t.Errorf("class %s, step %d: granted %v, want %v", class, i, got != nil, step.ok)
			}
			if got != nil {
				keep(got)
			}
		}
		if (of.ended != "") != (class == provider.RotationPunished) {
			t.Errorf("class %s: the consent has ended: %q", class, of.ended)
		}
	}
}

// TestOldAccessTokenDies where a refresh ends it, and nowhere else.
func TestOldAccessTokenDies(t *testing.T) {
	t.Parallel()
	for _, kills := range []bool{true, false} {
		s, of := bare(t, provider.RotationSingleUse)
		s.Row.KillsOldAccessToken = kills
		old := s.issue(of, nil)
		next := s.renew(old.with.text)
		if old.dead != kills || next == nil || next.dead {
			t.Errorf("kills %v: the old one is dead: %v; the new one is %+v", kills, old.dead, next)
		}
	}
}

// bare is a simulator that nobody can reach.
func bare(t *testing.T, class provider.RotationClass) (*Sim, *consent) {
	t.Helper()
	of := &consent{account: account}
	return &Sim{
		t: t, Row: &provider.Provider{Rotation: class}, consents: []*consent{of},
		opts:   Options{Name: "class " + string(class), Secret: "secret", Rotation: class, Grace: time.Minute, Lifetime: time.Hour},
		access: make(map[string]*accessToken), refresh: make(map[string]*refreshToken), codes: make(map[string]*code),
	}, of
}
