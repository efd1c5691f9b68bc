package connection

import (
	"math/rand/v2"
	"time"
)

// Defaults of a [Policy].
const (
	DefaultRefreshBefore     = 5 * time.Minute
	DefaultLifetime          = time.Hour
	DefaultTimeout           = 15 * time.Second
	DefaultIdleAfter         = 24 * time.Hour
	DefaultRejectionCooldown = 30 * time.Second
	DefaultUnsavedAfter      = 5 * time.Second
)

const (
	refreshShare  = 5               // refresh_before is never more than this part of the lifetime
	jitterShare   = 0.25            // how much of the margin is given to chance
	maxLeeway     = 5 * time.Second // how long before its expiry a token stops being used
	minRefreshGap = time.Second     // two background refreshes are at least this far apart
	unlimited     = 50 * 365 * 24 * time.Hour
	hastyPause    = 200 * time.Millisecond // shortest pause after a failure, while a token is still usable

	// Pauses after temporary failures. The longest is short, so that whoever waits for a token has it soon after an outage;
	// the breaker shields the endpoint.
	backoffBase = time.Second
	backoffMax  = time.Minute
	// Pauses after our client was refused, or while a person is needed.
	refusedBase = 30 * time.Second
	refusedMax  = 5 * time.Minute
)

// Policy says how early, how often and how long. The zero value of a field means its default.
type Policy struct {
	RefreshBefore     time.Duration // how long before expiry the background refresh starts; at most a fifth of the lifetime
	DefaultLifetime   time.Duration // assumed when neither the response nor a JWT says when the token expires
	Timeout           time.Duration // one exchange with the token endpoint; also how long a request waits for a token
	IdleAfter         time.Duration // a connection unused for this long is not refreshed in the background
	RejectionCooldown time.Duration // a token set that replaced a rejected one is not replaced for a 401 within this time
	UnsavedAfter      time.Duration // how long a new token set that cannot be saved is held back before it is served from memory
	Mode              Mode          // what a token is replaced for

	// Whether a refresh token that was used may be sent again without harm, at all or for so long after. When nothing is known, it
	// may not.
	ReuseHarmless bool
	ReuseGrace    time.Duration

	KeepAlive       time.Duration // how often an idle refresh token is used; 0 = as the three below suggest, below 0 = never
	RefreshIdle     time.Duration // a refresh token that is not used for so long dies; 0 = not known
	RefreshLifetime time.Duration // of a refresh token, where answers do not say; 0 = not known
	ConsentLifetime time.Duration // from the consent on, whatever was refreshed meanwhile; 0 = not known
}

// withDefaults fills the fields that are zero. A negative duration means nothing and is taken for zero.
func (p Policy) withDefaults() Policy {
	for _, field := range []struct {
		value    *time.Duration
		fallback time.Duration
	}{
		{&p.RefreshBefore, DefaultRefreshBefore},
		{&p.DefaultLifetime, DefaultLifetime},
		{&p.Timeout, DefaultTimeout},
		{&p.IdleAfter, DefaultIdleAfter},
		{&p.RejectionCooldown, DefaultRejectionCooldown},
		{&p.UnsavedAfter, DefaultUnsavedAfter},
	} {
		if *field.value <= 0 {
			*field.value = field.fallback
		}
	}
	return p
}

// lease is how long an intent counts as "somebody is asking right now": twice the exchange's time-out. It is also how long
// the storage lock is waited for.
func (p Policy) lease() time.Duration { return 2 * p.Timeout }

// window returns when a token set is to be refreshed in the background and until when it may be used. chance is in [0,1).
//
// The margin before expiry is RefreshBefore, at most a fifth of the lifetime, less up to a quarter of it by chance so that
// many instances and connections do not refresh in one instant.
func (p Policy) window(set TokenSet, chance float64) (refreshAt, usableUntil time.Time) {
	life := max(set.ExpiresAt.Sub(set.IssuedAt), 0)
	before := min(p.RefreshBefore, life/refreshShare)
	usableUntil = set.ExpiresAt.Add(-min(before/4, maxLeeway))
	refreshAt = set.ExpiresAt.Add(-before + time.Duration(float64(before)*jitterShare*chance))
	if earliest := set.IssuedAt.Add(minRefreshGap); refreshAt.Before(earliest) {
		refreshAt = earliest
	}
	if refreshAt.After(usableUntil) {
		refreshAt = usableUntil
	}
	return refreshAt, usableUntil
}

// backoff returns the pause after the given number of failures in a row: full jitter between one base and base times two
// to the power of attempts, at most most.
func backoff(base, most time.Duration, attempts int) time.Duration {
	ceiling := min(base<<min(attempts, 10), most)
	if ceiling <= base {
		return base
	}
	return base + rand.N(ceiling-base)
}
