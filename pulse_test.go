package caddyoauth

import (
	"fmt"
	"testing"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/connection"
)

// TestPulseForgetsOldHours: the ring's place of an hour is that of the same hour on other days, whose counts must not come along.
func TestPulseForgetsOldHours(t *testing.T) {
	t.Parallel()
	noon := time.Date(2026, 1, 2, 12, 30, 0, 0, time.UTC)
	p := new(pulse)
	p.beat(noon, true, time.Second)
	p.beat(noon, false, time.Second)
	for hours, want := range map[int]int{0: 1, 1: 1, 23: 1, 24: 0, 25: 0, 48: 0} {
		sum := 0
		for i, one := range p.day(noon.Add(time.Duration(hours) * time.Hour)) {
			if sum += one.good; one.good > 0 && i != 23-hours {
				t.Errorf("after %d hours it is at %d", hours, i)
			}
		}
		if sum != want {
			t.Errorf("after %d hours there are %d", hours, sum)
		}
	}
	p.beat(noon.Add(24*time.Hour), true, 5*time.Second)
	if last := p.day(noon.Add(24 * time.Hour))[23]; last.good != 1 || last.bad != 0 || last.took != 5*time.Second {
		t.Errorf("a day later the same place has %+v", last)
	}
}

// TestPulsesAreBounded: however many connections come and go, no more are followed; and looking at one follows none.
func TestPulsesAreBounded(t *testing.T) {
	t.Parallel()
	e := new(engine)
	for i := range maxPulses + 5 {
		e.feel(connection.Event{ID: connection.ID{Connection: fmt.Sprint(i), Subject: "jane"}, Kind: connection.KindRefreshed})
	}
	e.feel(connection.Event{ID: connection.ID{Connection: "0", Subject: "joe"}, Kind: connection.KindRefreshed})
	if len(e.pulses) != maxPulses {
		t.Errorf("%d connections are followed", len(e.pulses))
	}
	now := time.Now()
	if hours := e.lastDay(connection.ID{Connection: "0"}, now); len(hours) == 0 || hours[len(hours)-1].Succeeded == 0 {
		t.Errorf("the first has %+v", hours)
	}
	e.pulses = nil
	if hours := e.lastDay(connection.ID{Connection: "0"}, now); hours != nil || len(e.pulses) != 0 {
		t.Errorf("looking made %d, %v", len(e.pulses), hours)
	}
}

// TestPulsesOfRemovedConnections: what no configuration has any more is dropped, what one still has stays.
func TestPulsesOfRemovedConnections(t *testing.T) {
	t.Parallel()
	kept, gone := connection.ID{Connection: "kept"}, connection.ID{Connection: "gone"}
	app := &App{active: &activeSet{byName: map[string]*activeConnection{"kept": {name: "kept", key: sourceKey{id: kept}}}}}
	e := &engine{apps: []*App{app}}
	for _, id := range []connection.ID{kept, gone} {
		e.feel(connection.Event{ID: id, Kind: connection.KindRefreshed})
	}
	e.prune()
	if len(e.pulses) != 1 || e.pulses[kept] == nil {
		t.Errorf("there are %v", e.pulses)
	}
}
