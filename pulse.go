package caddyoauth

import (
	"maps"
	"sync"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/connection"
)

// pulse is how a connection's exchanges with the token endpoint went over the last day, by the hour, as this instance saw them.
type pulse struct {
	mu    sync.Mutex // guards hours; never held across I/O
	hours [24]hour   // a ring, by the number of the hour
}

// hour is what happened in one hour.
type hour struct {
	number    int64 // since 1970
	good, bad int
	took      time.Duration // of the good ones together
}

// maxPulses bounds how many connections are followed. There is one for each connection, not for each subject.
const maxPulses = 10_000

// beat notes how an exchange ended.
func (p *pulse) beat(now time.Time, good bool, took time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	number := now.Unix() / 3600
	one := &p.hours[number%24]
	if one.number != number {
		*one = hour{number: number}
	}
	if !good {
		one.bad++
		return
	}
	one.good++
	one.took += took
}

// day returns the last 24 hours, the present one last.
func (p *pulse) day(now time.Time) (hours [24]hour) {
	p.mu.Lock()
	defer p.mu.Unlock()
	number := now.Unix() / 3600
	for i := range hours {
		want := number - 23 + int64(i)
		if one := p.hours[want%24]; one.number == want {
			hours[i] = one
		}
	}
	return hours
}

// pulseOf returns the pulse of a connection, made when there is none; nil if there are too many.
func (e *engine) pulseOf(id connection.ID) *pulse {
	id.Subject = ""
	e.mu.Lock()
	defer e.mu.Unlock()
	one, ok := e.pulses[id]
	if !ok && len(e.pulses) < maxPulses {
		if e.pulses == nil {
			e.pulses = make(map[connection.ID]*pulse)
		}
		one = new(pulse)
		e.pulses[id] = one
	}
	return one
}

// forgetPulses drops those of connections that no configuration has any more. The caller holds mu.
func (e *engine) forgetPulses() {
	known := make(map[connection.ID]bool)
	for _, app := range e.apps {
		for _, c := range app.active.all() {
			known[c.key.id] = true
		}
	}
	maps.DeleteFunc(e.pulses, func(id connection.ID, _ *pulse) bool { return !known[id] })
}

// feel notes an event in the pulse of its connection, if the token endpoint was asked.
func (e *engine) feel(event connection.Event) {
	good := event.Kind == connection.KindRefreshed || event.Kind == connection.KindUnchanged
	if !good && (event.Kind != connection.KindFailed || !event.Asked) {
		return
	}
	if p := e.pulseOf(event.ID); p != nil {
		p.beat(time.Now(), good, event.Took-event.Waited)
	}
}
