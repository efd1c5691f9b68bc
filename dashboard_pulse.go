package caddyoauth

import (
	"fmt"
	"time"
)

// pulseView is a pulse as a small picture: a bar for each hour, the successes upwards and the failures below them.
type pulseView struct {
	Bars []bar
	Text string // the same in words
}

// bar is a rectangle in the picture, which is 120 wide and 28 high with its line at 20.
type bar struct {
	X, Y, Height int
	Bad          bool
}

const (
	pulseLine = 20 // where the bars stand
	pulseDeep = 8  // the longest bar below
)

// viewPulse draws a pulse; nil if there is nothing to draw.
func viewPulse(p *pulse, now time.Time) *pulseView {
	if p == nil {
		return nil
	}
	day := p.day(now)
	most, good, bad, took := 0, 0, 0, time.Duration(0)
	for _, h := range day {
		most, good, bad, took = max(most, h.good, h.bad), good+h.good, bad+h.bad, took+h.took
	}
	if most == 0 {
		return nil
	}
	view := new(pulseView)
	for i, h := range day {
		if h.good > 0 {
			height := max(2, h.good*pulseLine/most)
			view.Bars = append(view.Bars, bar{X: i * 5, Y: pulseLine - height, Height: height})
		}
		if h.bad > 0 {
			view.Bars = append(view.Bars, bar{X: i * 5, Y: pulseLine + 1, Height: max(2, h.bad*pulseDeep/most), Bad: true})
		}
	}
	// Rounded down, so that nothing but success reads as 100 %.
	view.Text = fmt.Sprintf("%d %% of %d refreshes in 24 h", good*100/(good+bad), good+bad)
	if good > 0 {
		view.Text += fmt.Sprintf(", %d ms on average", (took / time.Duration(good)).Milliseconds())
	}
	return view
}
