// Package alert decides who is told what of troubled connections, and when: it waits for trouble to last, tells each thing once,
// tells more only when it gets worse, tells of the recovery, tries again what could not be delivered, and never floods anybody.
// It also makes the messages and signs them.
//
// It is pure: no clock, no network, no storage, no goroutine. Whoever uses it says what happened and what time it is, and carries
// messages to where they belong. It imports the standard library and internal/secret.
package alert

import (
	"slices"
	"time"
)

// Statuses are the kinds of trouble that a rule may be about, from the least to the worst.
var Statuses = []string{
	"disconnected", "authorization_required", "expiring", "certificate_expiring", "failing", "misconfigured", "revoked", "lost_rotation",
	"unsaved",
}

// Default are the statuses of a rule that names none: all but those that are somebody's wish.
var Default = Statuses[2:]

// Certificate is the member of a connection that stands for its client certificate.
const Certificate = "certificate"

// worst returns the worst of the statuses, and how many subjects have one. A certificate beside them is nobody.
func worst(members map[string]string) (status string, count int) {
	for member, one := range members {
		if worse(one, status) {
			status = one
		}
		if member != Certificate {
			count++
		}
	}
	return status, max(count, min(len(members), 1))
}

// worse reports whether a is worse than b; anything is worse than "".
func worse(a, b string) bool { return slices.Index(Statuses, a) > slices.Index(Statuses, b) }

// News is what a receiver should be told of one connection.
type News struct {
	ID         string    // the same for every attempt to deliver it
	Connection string    // its name
	Status     string    // the worst of the connection; "" = all is well again
	Was        string    // what was told before; "" = nothing, or not known
	Code       string    // of the last failure; "" = none
	Since      time.Time // when the trouble began; of a recovery too, zero = not known
	Affected   int       // how many subjects are in trouble; 1 for a connection without subjects
	Others     int       // how many other connections are in trouble
	Reminder   bool      // told before, and nothing has changed
	// Unsure marks a recovery of which it is not known whether there was trouble: this process knows nothing yet of the connection.
	// It is delivered only if another process, or this one before a restart, has told of trouble.
	Unsure bool
}

// Mark is what the instances of a cluster know of what was told of one connection. The zero value: nothing, or that it is well.
type Mark struct {
	Status   string    `json:"status"`
	Affected int       `json:"affected,omitempty"`
	At       time.Time `json:"at"`
	Since    time.Time `json:"since"`
}

// markLife is how long a mark of a rule without reminders keeps others from telling the same once more.
const markLife = 24 * time.Hour

// Covers reports whether somebody has told the news already. repeat is the rule's.
func (m Mark) Covers(n News, repeat time.Duration, now time.Time) bool {
	if n.Status == "" {
		return m.Status == ""
	}
	life := repeat
	if life == 0 {
		life = markLife
	}
	known := m.Status != "" && !worse(n.Status, m.Status) && n.Affected < 2*max(m.Affected, 1)
	// Instances do not remind at the same moment: the second one is not to be taken for the next reminder.
	return known && now.Sub(m.At) < life-life/10
}

// Of returns the mark after the news was told.
func Of(n News, now time.Time) Mark {
	return Mark{Status: n.Status, Affected: n.Affected, At: now, Since: n.Since}
}
