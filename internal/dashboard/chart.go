package dashboard

import (
	"fmt"
	"slices"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/api"
)

// dayView is how the last day went, as two small pictures of 24 hours: how many exchanges succeeded and failed, and how long they took.
type dayView struct {
	Bars          []bar  // successes upwards, failures below the line
	Went, WentSay string // the same in a few words, and in a sentence
	Slow          []bar  // how long those of an hour took on average; none = nothing succeeded
	Took, TookSay string
}

// bar is a rectangle in the first picture.
type bar struct {
	X, Y, Height int
	Bad          bool
}

// The pictures are 120 wide, 5 for each hour, and 29 high.
const (
	hourWide = 5
	dayLine  = 20 // where the bars stand
	dayDeep  = 8  // the longest bar below
)

// viewDay draws a day; nil if nothing has happened in it.
func viewDay(hours []api.Hour, now time.Time) *dayView {
	at := func(h api.Hour) int { return 23 - int(now.Truncate(time.Hour).Sub(h.From)/time.Hour) } // its place
	hours = slices.DeleteFunc(slices.Clone(hours), func(h api.Hour) bool { return at(h) < 0 || at(h) > 23 })
	most, slowest, good, bad, took := 0, 0, 0, 0, 0
	for _, h := range hours {
		most, slowest = max(most, h.Succeeded, h.Failed), max(slowest, h.AverageMS)
		good, bad, took = good+h.Succeeded, bad+h.Failed, took+h.Succeeded*h.AverageMS
	}
	if most == 0 {
		return nil
	}
	view := new(dayView)
	for _, h := range hours {
		at := at(h)
		if h.Succeeded > 0 {
			height, slow := max(2, h.Succeeded*dayLine/most), max(2, h.AverageMS*dayLine/max(slowest, 1))
			view.Bars = append(view.Bars, bar{X: at * hourWide, Y: dayLine - height, Height: height})
			view.Slow = append(view.Slow, bar{X: at * hourWide, Y: dayLine - slow, Height: slow})
		}
		if h.Failed > 0 {
			view.Bars = append(view.Bars, bar{X: at * hourWide, Y: dayLine + 1, Height: max(2, h.Failed*dayDeep/most), Bad: true})
		}
	}
	// Rounded down, so that nothing but success reads as 100 %.
	share := good * 100 / (good + bad)
	view.Went = fmt.Sprintf("%d %% of %d in 24 h", share, good+bad)
	view.WentSay = fmt.Sprintf("Last 24 hours: %d %% of %s succeeded, %d failed.", share, plural(good+bad, "refresh", "refreshes"), bad)
	if good > 0 {
		view.Took = sayMS(took/good) + " each"
		view.TookSay = fmt.Sprintf("Last 24 hours: a refresh took %s on average, %s in the slowest hour.", sayMS(took/good), sayMS(slowest))
	}
	return view
}

// sayMS says a time in the unit that fits.
func sayMS(ms int) string {
	if ms < 1000 {
		return fmt.Sprintf("%d ms", ms)
	}
	return fmt.Sprintf("%.1f s", float64(ms)/1000)
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
