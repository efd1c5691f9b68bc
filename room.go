package caddyoauth

import (
	"slices"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/connection"
)

// Only token sets in use are in memory. One that was dropped is read from storage, once, when it is used again.

// Bounds of how many token sets of subjects are in memory.
const (
	defaultRoom = 10_000
	leastRoom   = 100
	mostRoom    = 10_000_000
	tidyEvery   = time.Minute // how often it is looked for those that nobody uses
)

// settleRoom takes over the most that a live configuration wants. The caller holds mu.
func (e *engine) settleRoom() {
	e.room = 0
	for _, app := range e.apps {
		e.room = max(e.room, app.SubjectsInMemory)
		if app.SubjectsInMemory == 0 {
			e.room = max(e.room, defaultRoom)
		}
	}
}

// makeRoom drops a tenth of the sources when there are too many: first those without a token, which cost nothing to lose and which
// anybody can have made by asking for subjects that do not exist, then those that were used the longest ago. Those at work stay. The
// caller holds mu.
func (e *engine) makeRoom() {
	room := e.room
	if room == 0 {
		room = defaultRoom
	}
	if len(e.sources) < room {
		return
	}
	type idle struct {
		key   sourceKey
		empty bool
		since time.Time
	}
	var candidates []idle
	for key, source := range e.sources {
		if snap := source.Snapshot(); key.id.Subject != "" && !snap.Busy {
			candidates = append(candidates, idle{key, snap.Generation == 0, source.IdleSince()})
		}
	}
	slices.SortFunc(candidates, func(a, b idle) int {
		if a.empty != b.empty {
			if a.empty {
				return -1
			}
			return 1
		}
		return a.since.Compare(b.since)
	})
	for _, candidate := range candidates[:min(len(candidates), max(room/10, 1))] {
		delete(e.sources, candidate.key)
	}
}

// tidy drops the subjects that nobody has asked for since the policy's IdleAfter: nothing is refreshed for them any more.
func (e *engine) tidy(now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if now.Sub(e.tidied) < tidyEvery {
		return
	}
	e.tidied = now
	idleAfter := make(map[sourceKey]time.Duration)
	for _, app := range e.apps {
		for _, active := range app.active.all() {
			idleAfter[active.key] = max(idleAfter[active.key], active.settings.Policy.IdleAfter)
		}
	}
	for key, source := range e.sources {
		connectionKey := key
		connectionKey.id.Subject = ""
		if key.id.Subject != "" && now.Sub(source.IdleSince()) > idleAfter[connectionKey] && !source.Snapshot().Busy {
			delete(e.sources, key)
		}
	}
}

// newSource returns a source that finds its settings in the configurations to come.
func (e *engine) newSource(key sourceKey) *connection.Source {
	return connection.NewSource(key.id, key.fingerprint, func() *connection.Settings { return e.liveSettings(key) })
}
