package cli

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"

	"golang.org/x/text/width"
)

// table writes columns that are as wide as they need to be, without colours: it is read in logs and over serial lines as well.
type table struct {
	out  io.Writer
	now  time.Time
	rows [][]string // since the last line of text; columns run through them
	err  error
}

// columnGap stands between two columns.
const columnGap = 2

func newTable(out io.Writer, now time.Time) *table { return &table{out: out, now: now} }

// row writes one line. An empty cell is a dash, so that columns can be counted.
func (t *table) row(cells ...string) {
	for i, cell := range cells {
		if cells[i] = printable(cell); cells[i] == "" {
			cells[i] = "-"
		}
	}
	t.rows = append(t.rows, cells)
}

// field writes a name and its value, or nothing for an empty one.
func (t *table) field(name, value string) {
	if value != "" {
		t.row(name, value)
	}
}

// line writes a line of text, or an empty one. Columns begin anew after it.
func (t *table) line(text string) {
	t.writeRows()
	t.write(printable(text))
}

func (t *table) flush() error {
	t.writeRows()
	return t.err
}

func (t *table) writeRows() {
	var widths []int
	for _, cells := range t.rows {
		for i, cell := range cells {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], columns(cell))
		}
	}
	for _, cells := range t.rows {
		var text strings.Builder
		for i, cell := range cells {
			text.WriteString(cell)
			if i < len(cells)-1 {
				text.WriteString(strings.Repeat(" ", widths[i]-columns(cell)+columnGap))
			}
		}
		t.write(text.String())
	}
	t.rows = nil
}

func (t *table) write(text string) {
	if _, err := fmt.Fprintln(t.out, text); err != nil && t.err == nil {
		t.err = err
	}
}

// columns counts the cells of a terminal that a text takes: two for most characters of East Asia and for pictures, none for accents that
// stand over the one before (Unicode Standard Annex 11).
func columns(text string) (n int) {
	for _, r := range text {
		kind := width.LookupRune(r).Kind()
		switch {
		case unicode.In(r, unicode.Mn, unicode.Me):
		case kind == width.EastAsianWide || kind == width.EastAsianFullwidth:
			n += 2
		default:
			n++
		}
	}
	return n
}

// printable takes out what would steer a terminal: labels of accounts are foreign text.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '\uFFFD'
		}
		return r
	}, text)
}

// when says how far away a time is: "in 42m", "3d ago"; "" for none.
func (t *table) when(at *time.Time) string {
	if at == nil || at.IsZero() {
		return ""
	}
	if d := at.Sub(t.now); d >= 0 {
		return "in " + span(d)
	}
	return span(t.now.Sub(*at)) + " ago"
}

// moment is when with the time itself.
func (t *table) moment(at *time.Time) string {
	if at == nil || at.IsZero() {
		return ""
	}
	return at.Format(time.RFC3339) + " (" + t.when(at) + ")"
}

// span rounds a duration to what matters: a day more or less does not when it is a year.
func span(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d >= 1000*day:
		return fmt.Sprintf("%dy", d/(365*day))
	case d >= 2*day:
		return fmt.Sprintf("%dd", d/day)
	case d >= 2*time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	case d >= 2*time.Minute:
		return fmt.Sprintf("%dm", d/time.Minute)
	}
	return fmt.Sprintf("%ds", d/time.Second)
}
