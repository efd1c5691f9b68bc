package caddyoauth

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/api"
)

// Bounds of the list of the last events. The log has all of them.
const (
	auditLength = 500 // events on the list
	auditSlack  = 50  // so many more before the oldest go, so that a flood costs little
	auditAlike  = 32  // among how many of the last events an attempt alike is looked for
	auditText   = 512 // bytes of each text of an event
)

// auditTrail is what this process knows of the last events on one storage, over reloads. Each process keeps one object there, which nobody
// else writes (trailstore.go). The zero value is not usable; call newAuditTrail.
type auditTrail struct {
	writer string // random; names the object

	mu      sync.Mutex        // guards the fields below; never held across I/O
	events  []api.AuditEvent  // oldest first; also those of processes that are gone
	numbers map[string]uint64 // of the last event, by tenant
	changes uint64
	saved   uint64    // how many of the changes are stored
	since   time.Time // the first change that is not
	retryAt time.Time // not before, after a failure
	failed  int       // writes in a row

	turn    chan struct{} // holds one token: who writes the object; a channel, since it is held across I/O and must heed contexts
	tidied  time.Time     // guarded by turn
	looking chan struct{} // holds one token: who reads the objects of others
	seen    trailsSeen    // guarded by looking
}

func newAuditTrail() *auditTrail {
	random := make([]byte, 8)
	_, _ = rand.Read(random) // never fails: crypto/rand aborts the program instead
	t := &auditTrail{writer: hex.EncodeToString(random), numbers: make(map[string]uint64), turn: make(chan struct{}, 1), looking: make(chan struct{}, 1)}
	t.turn <- struct{}{}
	t.looking <- struct{}{}
	return t
}

// add puts an event on the list. It reports whether everything was stored before, so that somebody has to be told that something is not.
func (t *auditTrail) add(e api.AuditEvent) (first bool) {
	for _, text := range []*string{&e.Caller, &e.Address, &e.Tenant, &e.Target, &e.Name, &e.Subject, &e.Detail, &e.RequestID} {
		*text = strings.ToValidUTF8((*text)[:min(len(*text), auditText)], "")
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	e.Writer = t.writer
	if i := t.alike(e); i >= 0 { // who tries the same again and again must not push everything else out
		e.Number, e.Times = t.events[i].Number, max(t.events[i].Times, 1)+1
		t.events = slices.Delete(t.events, i, i+1)
	} else {
		t.numbers[e.Tenant]++
		e.Number = t.numbers[e.Tenant]
	}
	t.events = append(t.events, e)
	if len(t.events) > auditLength+auditSlack {
		t.events = trimTrail(t.events)
	}
	return t.changed()
}

// changed counts a change. The caller holds mu.
func (t *auditTrail) changed() (first bool) {
	if first = t.changes == t.saved; first {
		t.since = time.Now()
	}
	t.changes++
	return first
}

// alike returns where among the last events a denied attempt is that differs in nothing but its time; -1 if there is none. The caller
// holds mu.
func (t *auditTrail) alike(e api.AuditEvent) int {
	if e.Outcome != "denied" {
		return -1
	}
	for i := len(t.events) - 1; i >= max(0, len(t.events)-auditAlike); i-- {
		same := t.events[i]
		same.Time, same.RequestID, same.Number, same.Times = e.Time, e.RequestID, e.Number, e.Times
		if same == e {
			return i
		}
	}
	return -1
}

// list returns the events, the oldest first.
func (t *auditTrail) list() []api.AuditEvent {
	t.mu.Lock()
	defer t.mu.Unlock()
	return trimTrail(slices.Clone(t.events))
}

// absorb takes over the events of a process that is gone.
func (t *auditTrail) absorb(events []api.AuditEvent) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.events = combineTrails([][]api.AuditEvent{events, t.events})
	t.changed()
}

// due returns how long it is until the list is to be stored.
func (t *auditTrail) due(now time.Time) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.changes == t.saved {
		return auditIdle
	}
	at := t.since.Add(auditPause)
	if t.retryAt.After(at) {
		at = t.retryAt
	}
	return max(at.Sub(now), 0)
}

// unsaved reports whether something is not stored, and up to which change it is known.
func (t *auditTrail) unsaved() (changes uint64, is bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.changes, t.changes != t.saved
}

// wrote notes how a write ended that held all up to that change. It reports whether that is news.
func (t *auditTrail) wrote(changes uint64, err error) (news bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if err != nil {
		t.failed++
		t.retryAt = now.Add(min(auditPause<<min(t.failed, 10), auditRetryMax))
		return t.failed == 1
	}
	news = t.failed > 0
	t.saved, t.since, t.failed, t.retryAt = changes, now, 0, time.Time{}
	return news
}

// eventName tells events apart, whichever list they are on.
type eventName struct {
	writer, tenant string
	number         uint64
}

// combineTrails puts lists together, the oldest first, each event once, and no more than there is room for.
func combineTrails(lists [][]api.AuditEvent) []api.AuditEvent {
	latest := make(map[eventName]api.AuditEvent)
	for _, e := range slices.Concat(lists...) {
		name := eventName{e.Writer, e.Tenant, e.Number}
		if known, ok := latest[name]; !ok || e.Times > known.Times {
			latest[name] = e
		}
	}
	all := slices.SortedFunc(maps.Values(latest), func(a, b api.AuditEvent) int {
		return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.Writer, b.Writer), cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Number, b.Number))
	})
	return trimTrail(all)
}

// mergeTrails returns the events of several lists, the newest first.
func mergeTrails(lists [][]api.AuditEvent) []api.AuditEvent {
	all := combineTrails(lists)
	slices.Reverse(all)
	return all
}

// share is what divides the room: neither does a tenant push out what another one's administrators look for, nor a flood of denied
// attempts the changes.
type share struct {
	tenant string
	denied bool
}

// trimTrail drops the oldest events of those shares that have the most, until there is room.
func trimTrail(events []api.AuditEvent) []api.AuditEvent {
	if len(events) <= auditLength {
		return events
	}
	counts := make(map[share]int)
	for _, e := range events {
		counts[share{e.Tenant, e.Outcome == "denied"}]++
	}
	level := 1
	for level < auditLength && roomAt(counts, level+1) <= auditLength {
		level++
	}
	events = slices.DeleteFunc(events, func(e api.AuditEvent) bool {
		one := share{e.Tenant, e.Outcome == "denied"}
		counts[one]--
		return counts[one] >= level
	})
	return events[max(0, len(events)-auditLength):] // more shares than there is room for
}

// roomAt is how many events there are if each share has no more than level.
func roomAt(counts map[share]int, level int) (total int) {
	for _, count := range counts {
		total += min(count, level)
	}
	return total
}
