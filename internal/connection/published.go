package connection

import (
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// Published is a token set that requests may use. It never changes but for its flags; a new state is a new Published.
type Published struct {
	set         TokenSet
	fingerprint string // that it was obtained under
	refreshAt   time.Time
	usableUntil time.Time
	endsAt      time.Time // only a person can go on then; zero = not known
	noticeAt    time.Time // from when on that should be said; zero = never
	publishedAt time.Time
	refusedAt   time.Time // when this process asked for one because the resource server had refused the one before; zero = it had not
	unsaved     bool      // it is in memory only, because storage fails

	refreshing atomic.Bool // a background refresh has been started for it
	suspect    atomic.Bool // the resource server refused it
	rendered   atomic.Pointer[rendered]
}

type rendered struct {
	recipe, value any
}

func publish(set TokenSet, policy Policy, now time.Time) *Published {
	refreshAt, usableUntil := policy.windowOf(set, rand.Float64())
	return &Published{set: set, refreshAt: refreshAt, usableUntil: usableUntil, publishedAt: now}
}

// wanted takes note of why the token set was asked for.
func (p *Published) wanted(reason Reason) {
	if reason == ReasonRejected {
		p.refusedAt = p.publishedAt
	}
}

// TokenSet returns the token set.
func (p *Published) TokenSet() TokenSet { return p.set }

// Generation returns the token set's generation without copying it.
func (p *Published) Generation() uint64 { return p.set.Generation }

// ExpiresAt returns when the access token ends.
func (p *Published) ExpiresAt() time.Time { return p.set.ExpiresAt }

// Usable reports whether the token may be sent at that time.
func (p *Published) Usable(now time.Time) bool { return now.Before(p.usableUntil) }

// Ending returns when only a person can go on, if that is so soon that somebody should be told.
func (p *Published) Ending(now time.Time) (end time.Time, soon bool) {
	return p.endsAt, endsSoon(p.endsAt, p.noticeAt, now)
}

func endsSoon(end, notice, now time.Time) bool {
	return !notice.IsZero() && !now.Before(notice) && now.Before(end)
}

// satisfies reports whether the token set is what w asks for.
func (p *Published) satisfies(w want, now time.Time) bool {
	return p.Generation() > w.newer && p.Usable(now)
}

// Render returns what build gave for this recipe the first time, so that the request path does not build the same headers
// again and again. The recipe is compared by identity: pass a pointer. The value must not be changed.
func (p *Published) Render(recipe any, build func(TokenSet) any) any {
	if r := p.rendered.Load(); r != nil && r.recipe == recipe {
		return r.value
	}
	r := &rendered{recipe: recipe, value: build(p.set)}
	p.rendered.Store(r)
	return r.value
}

// postponed returns the same token set with a later background refresh.
func (p *Published) postponed(refreshAt time.Time) *Published {
	next := &Published{
		set: p.set, refreshAt: refreshAt, usableUntil: p.usableUntil, publishedAt: p.publishedAt,
		refusedAt: p.refusedAt, unsaved: p.unsaved, fingerprint: p.fingerprint, endsAt: p.endsAt, noticeAt: p.noticeAt,
	}
	next.suspect.Store(p.suspect.Load())
	next.rendered.Store(p.rendered.Load())
	return next
}

// amended returns the same token set with another consent, and what follows from that built anew.
func (p *Published) amended(consent *Consent) *Published {
	next := p.postponed(p.refreshAt)
	next.set.Consent = consent
	next.rendered.Store(nil)
	return next
}
