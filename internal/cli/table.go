package cli

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
)

// table writes columns that are as wide as they need to be, without colours: it is read in logs and over serial lines as well.
type table struct {
	writer *tabwriter.Writer
	now    time.Time
	err    error
}

func newTable(out io.Writer, now time.Time) *table {
	return &table{writer: tabwriter.NewWriter(out, 0, 4, 2, ' ', 0), now: now}
}

// row writes one line. An empty cell is a dash, so that columns can be counted.
func (t *table) row(cells ...string) {
	for i, cell := range cells {
		if cells[i] = printable(cell); cells[i] == "" {
			cells[i] = "-"
		}
	}
	if _, err := fmt.Fprintln(t.writer, strings.Join(cells, "\t")); err != nil {
		t.err = err
	}
}

// field writes a name and its value, or nothing for an empty one.
func (t *table) field(name, value string) {
	if value != "" {
		t.row(name, value)
	}
}

// line writes a line of text, or an empty one.
func (t *table) line(text string) {
	if _, err := fmt.Fprintln(t.writer, printable(text)); err != nil {
		t.err = err
	}
}

func (t *table) flush() error {
	if t.err != nil {
		return t.err
	}
	return t.writer.Flush()
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
