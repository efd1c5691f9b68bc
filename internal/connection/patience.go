package connection

import (
	"time"

	"github.com/caddyoauth/caddyoauth/internal/oauth"
)

// A storage lock can be lost while its holder asks: its lease lapses during a pause of the process, or the storage forgets it. Then
// a young intent of somebody else is found under a lock that was free. Where a refresh token may be sent twice, asking at once is
// the best that can be done: if its holder has died the server may know the new token for a while only. Where sending it twice ends
// the consent it is the worst, and the intent's lease is waited out: whoever wrote it has stored its answer by then, or never will.
// That costs half a minute after a crash in the middle of an exchange, if the access token has run out as well.

// graceShare is how much of a server's grace is relied upon.
const graceShare = 0.8

// patience returns why the refresh token must not be sent yet; nil when it may.
func (r *refresh) patience(rec Record) error {
	policy := r.set.Policy
	if !rec.openIntent() || rec.Current.RefreshToken.IsZero() || rec.Intent.Nonce == r.set.Nonce || policy.ReuseHarmless {
		return nil
	}
	age := max(time.Since(rec.Intent.At), 0) // of a clock that is ahead of ours
	left := policy.lease() - age
	if left <= 0 || age < time.Duration(graceShare*float64(policy.ReuseGrace)) {
		return nil
	}
	return &finding{"another instance may be refreshing the token at this moment, and sending the refresh token twice could end the consent",
		&oauth.Error{Class: oauth.RetryLater, Code: codeBusy, RetryAfter: left}}
}
