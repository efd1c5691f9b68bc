package connection

import (
	"errors"
	"testing"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// A request that looked before a flight ended and asks after it must use what was published, not begin another flight.
func TestJoinUsesWhatWasPublishedMeanwhile(t *testing.T) {
	t.Parallel()
	now := time.Now()
	p := publish(TokenSet{Generation: 2, IssuedAt: now, ExpiresAt: now.Add(time.Hour)}, Policy{}.withDefaults(), now)
	down := errors.New("down")
	for name, c := range map[string]struct {
		want   want
		result *Published
	}{
		"none was there":           {want{reason: ReasonFirst}, p},
		"the old one had expired":  {want{reason: ReasonExpired}, p},
		"the old one was rejected": {want{reason: ReasonRejected, newer: 1}, p},
		"this one was rejected":    {want{reason: ReasonRejected, newer: 2}, nil},
	} {
		s := NewSource(ID{Connection: "c"}, "f", nil)
		s.lastErr, s.retryAt = down, now.Add(time.Hour) // so that no flight begins
		s.published.Store(p)
		f, err := s.join(Settings{}.Complete(), c.want)
		if c.result == nil && !errors.Is(err, down) {
			t.Errorf("%s: got a flight, want the pause's error", name)
		}
		if c.result != nil && (err != nil || !f.resolved() || f.result != c.result) {
			t.Errorf("%s: got %v, want what is published", name, err)
		}
		if s.flight != nil {
			t.Errorf("%s: a flight was begun", name)
		}
	}
}

func TestRenderBuildsOnce(t *testing.T) { // not parallel, because it counts allocations
	now := time.Now()
	p := publish(TokenSet{Generation: 1, AccessToken: secret.New("access"), IssuedAt: now, ExpiresAt: now.Add(time.Hour)}, Policy{}.withDefaults(), now)
	first, second := new(int), new(int)
	built := 0
	build := func(TokenSet) any {
		built++
		return &built
	}
	p.Render(first, build)
	value := p.Render(first, build)
	if built != 1 || value != &built {
		t.Fatalf("the value was built %d times for one recipe, want once", built)
	}
	if later := p.postponed(now); later.Render(first, build) != value || built != 1 {
		t.Fatal("the same token set with a later refresh builds its value again")
	}
	if p.Render(second, build); built != 2 {
		t.Fatal("another recipe was given the value of the first")
	}
	if n := testing.AllocsPerRun(100, func() { p.Render(second, build) }); n != 0 {
		t.Fatalf("a value that is there costs %v allocations", n)
	}
}

func TestPostponedKeepsTheRest(t *testing.T) {
	t.Parallel()
	now := time.Now()
	p := publish(TokenSet{Generation: 3, IssuedAt: now, ExpiresAt: now.Add(time.Hour)}, Policy{}.withDefaults(), now)
	p.refusedAt, p.unsaved = time.Now(), true
	p.suspect.Store(true)
	p.refreshing.Store(true)
	next := p.postponed(now.Add(time.Minute))
	if next.set != p.set || next.refusedAt != p.refusedAt || !next.unsaved || !next.suspect.Load() || next.usableUntil != p.usableUntil || next.publishedAt != p.publishedAt {
		t.Error("something besides the refresh time changed")
	}
	if next.refreshing.Load() || !next.refreshAt.Equal(now.Add(time.Minute)) {
		t.Error("the copy is not due at the time that was asked for")
	}
}

func TestAmendedIsBuiltAnew(t *testing.T) {
	t.Parallel()
	now := time.Now()
	p := publish(TokenSet{Generation: 3, IssuedAt: now, ExpiresAt: now.Add(time.Hour)}, Policy{}.withDefaults(), now)
	p.suspect.Store(true)
	label := func(set TokenSet) any {
		if set.Consent == nil {
			return ""
		}
		return set.Consent.Label
	}
	if p.Render(p, label) != "" {
		t.Fatal("there is a label already")
	}
	next := p.amended(&Consent{Label: "Jane"})
	if next.Render(p, label) != "Jane" || !next.suspect.Load() || next.Generation() != 3 || next.refreshAt != p.refreshAt {
		t.Error("what follows from the consent is the old one's, or what does not follow is not")
	}
}
