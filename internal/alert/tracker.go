package alert

import (
	"cmp"
	"math"
	"slices"
	"sync"
	"time"
)

const (
	settle     = 5 * time.Minute  // after trouble was told and is over, new trouble of the connection waits that long
	doubtEvery = 10 * time.Minute // how often it is asked whether the others of the cluster think that all is well
	burst      = 20               // messages that a rule may send at once
	refill     = time.Minute      // and one more after each of these
	retryFirst = time.Second
	retryMost  = 5 * time.Minute
	giveUp     = 24 * time.Hour // a recovery that cannot be delivered for so long is forgotten
	maxMembers = 10_000         // subjects in trouble that are told apart
)

// Rule says what is told, and when.
type Rule struct {
	On     []string      // statuses; empty = Default
	After  time.Duration // trouble that is over before is not told
	Repeat time.Duration // trouble that lasts is told again after so long; 0 = never
}

// Tracker keeps what one receiver was told and what it should know. It is safe for concurrent use.
type Tracker struct {
	rule  Rule
	newID func() string

	mu        sync.Mutex // guards the fields below; never held across I/O
	incidents map[string]*incident
	budget    float64 // messages that may be sent now
	filledAt  time.Time
}

// incident is the trouble of one connection, and what was told of it.
type incident struct {
	members map[string]string // who is in trouble: a subject, "" for the connection, or its certificate
	since   time.Time         // of the present trouble, or of the one that was told
	code    string

	told      string // status; "" = that all is well, or nothing
	toldCount int
	toldAt    time.Time // of trouble
	unsure    bool      // what others were told is not known yet
	doubtedAt time.Time

	pending   News // what is being delivered, to keep its ID; an empty ID = nothing
	failures  int
	notBefore time.Time // the next attempt to deliver
	overSince time.Time
}

// NewTracker returns a tracker that knows nothing yet. newID makes the IDs of messages, which must be unique.
func NewTracker(rule Rule, newID func() string) *Tracker {
	if len(rule.On) == 0 {
		rule.On = Default
	}
	return &Tracker{rule: rule, newID: newID, incidents: make(map[string]*incident), budget: burst}
}

// Sighting is how a member of a connection was seen.
type Sighting struct {
	Connection string
	Member     string // tells subjects apart; "" for a connection without subjects, or Certificate
	Status     string
	Code       string // of the failure; "" = none
}

// Observe notes what was seen. A status that the rule is not about means that the member is well.
func (t *Tracker) Observe(seen Sighting, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	member, status := seen.Member, seen.Status
	in, known := t.incidents[seen.Connection]
	if !known {
		in = &incident{members: make(map[string]string), unsure: true}
		t.incidents[seen.Connection] = in
	}
	if !slices.Contains(t.rule.On, status) {
		if delete(in.members, member); len(in.members) == 0 && in.overSince.IsZero() {
			in.overSince = now
		}
		return
	}
	if len(in.members) == 0 {
		in.overSince = time.Time{}
		if in.told == "" || in.since.IsZero() {
			in.since = now
		}
	}
	if _, counted := in.members[member]; counted || len(in.members) < maxMembers {
		in.members[member] = status
	}
	in.code = seen.Code
}

// Keep has everything be well that is not configured any more.
func (t *Tracker) Keep(configured func(connection string) bool, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for name, in := range t.incidents {
		if !configured(name) && len(in.members) > 0 {
			clear(in.members)
			in.overSince = now
		}
	}
}

// Due returns what is to be delivered now, the worst first. Each must be reported by Told or Failed before Due is called again.
func (t *Tracker) Due(now time.Time) []News {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.fill(now)
	var due []News
	troubled := t.troubled()
	for name, in := range t.incidents {
		if at, n := t.next(name, in, troubled); n != nil && !now.Before(at) {
			due = append(due, *n)
		}
	}
	slices.SortFunc(due, func(a, b News) int {
		switch {
		case worse(a.Status, b.Status):
			return -1
		case worse(b.Status, a.Status):
			return 1
		}
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Connection, b.Connection))
	})
	left := int(t.budget)
	due = slices.DeleteFunc(due, func(n News) bool {
		if !n.Unsure {
			left--
		}
		return !n.Unsure && left < 0
	})
	for i := range due {
		t.assign(&due[i])
	}
	return due
}

// assign gives the news its ID: a new one, or that of the attempt before with the same content.
func (t *Tracker) assign(n *News) {
	in := t.incidents[n.Connection]
	p := in.pending
	if p.ID == "" || p.Status != n.Status || p.Affected != n.Affected || p.Reminder != n.Reminder {
		in.pending = *n
		in.pending.ID = t.newID()
	}
	n.ID = in.pending.ID
}

// next returns what the receiver should be told of an incident, and when; nil = nothing. troubled is how many there are.
func (t *Tracker) next(name string, in *incident, troubled int) (time.Time, *News) {
	status, count := worst(in.members)
	n := &News{Connection: name, Status: status, Was: in.told, Code: in.code, Since: in.since, Affected: count, Others: troubled}
	if status != "" {
		n.Others--
	}
	if status == "" {
		if in.told == "" && !in.unsure {
			return time.Time{}, nil
		}
		n.Code, n.Unsure = "", in.unsure
		return in.notBefore, n
	}
	var at time.Time
	switch {
	case in.told == "":
		at = in.since.Add(t.rule.After)
		if quiet := in.toldAt.Add(settle); !in.toldAt.IsZero() && quiet.After(at) {
			at = quiet
		}
	case worse(status, in.told), count >= 2*max(in.toldCount, 1):
	case t.rule.Repeat > 0:
		at, n.Reminder = in.toldAt.Add(t.rule.Repeat), true
	default:
		return time.Time{}, nil
	}
	if in.notBefore.After(at) {
		at = in.notBefore
	}
	return at, n
}

// troubled counts the connections in trouble.
func (t *Tracker) troubled() (count int) {
	for _, in := range t.incidents {
		if len(in.members) > 0 {
			count++
		}
	}
	return count
}

// Told says that the news was delivered, or that somebody else has: then sent is false.
func (t *Tracker) Told(n News, sent bool, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	in, ok := t.incidents[n.Connection]
	if !ok {
		return
	}
	if sent {
		t.spend(now)
	}
	in.pending, in.failures, in.notBefore, in.unsure, in.doubtedAt = News{}, 0, time.Time{}, false, now
	in.told, in.toldCount = n.Status, n.Affected
	if n.Status != "" {
		in.toldAt = now
	}
}

// Failed says that the news could not be delivered. after is how long the receiver wants not to be asked; 0 = it did not say.
func (t *Tracker) Failed(n News, after time.Duration, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	in, ok := t.incidents[n.Connection]
	if !ok {
		return
	}
	t.spend(now)
	in.failures++
	in.notBefore = now.Add(max(after, min(retryFirst<<min(in.failures-1, 10), retryMost)))
	if n.Status == "" && !in.overSince.IsZero() && now.Sub(in.overSince) > giveUp {
		in.told, in.unsure, in.pending = "", false, News{}
	}
}

// Doubtful returns connections whose trouble was told a while ago. Whoever finds that others have told of a recovery since says so
// by Doubt. It returns each once in a while.
func (t *Tracker) Doubtful(now time.Time) (connections []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for name, in := range t.incidents {
		if len(in.members) > 0 && in.told != "" && now.Sub(in.doubtedAt) >= doubtEvery {
			in.doubtedAt = now
			connections = append(connections, name)
		}
	}
	slices.Sort(connections)
	return connections
}

// Doubt says that the receiver thinks that the connection is well.
func (t *Tracker) Doubt(connection string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if in, ok := t.incidents[connection]; ok {
		in.told, in.toldCount, in.toldAt = "", 0, time.Time{}
	}
}

// Next returns how long there is nothing to do, unless something is observed.
func (t *Tracker) Next(now time.Time) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.fill(now)
	wait := time.Duration(math.MaxInt64)
	troubled := t.troubled()
	for name, in := range t.incidents {
		if at, n := t.next(name, in, troubled); n != nil {
			if t.budget < 1 && !n.Unsure {
				at = later(at, now.Add(time.Duration((1-t.budget)*float64(refill))))
			}
			wait = min(wait, max(at.Sub(now), 0))
		}
		if len(in.members) > 0 && in.told != "" {
			wait = min(wait, max(in.doubtedAt.Add(doubtEvery).Sub(now), 0))
		}
	}
	return wait
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// fill adds to the budget what time has earned.
func (t *Tracker) fill(now time.Time) {
	if !t.filledAt.IsZero() && now.After(t.filledAt) {
		t.budget = min(t.budget+float64(now.Sub(t.filledAt))/float64(refill), burst)
	}
	t.filledAt = later(t.filledAt, now)
}

func (t *Tracker) spend(now time.Time) {
	t.fill(now)
	t.budget = max(t.budget-1, 0)
}
