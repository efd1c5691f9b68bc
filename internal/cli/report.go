package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Report collects what a check has found, and writes each finding as soon as it is there.
type Report struct {
	out      io.Writer
	json     bool
	findings []Finding
	failed   int
}

// Finding is the outcome of one check. Its texts hold no secret.
type Finding struct {
	Connection string `json:"connection,omitempty"` // "" = of what all share
	Check      string `json:"check"`
	Result     string `json:"result"` // ok, warning, failed or skipped
	Text       string `json:"text"`
	Fix        string `json:"fix,omitempty"`
}

// NewReport returns an empty report.
func NewReport(out io.Writer, asJSON bool) *Report {
	return &Report{out: out, json: asJSON, findings: []Finding{}}
}

// OK notes that a check passed. It returns true.
func (r *Report) OK(connection, check, text string) bool {
	r.add(Finding{Connection: connection, Check: check, Result: "ok", Text: text})
	return true
}

// Warn notes what works but should be looked at.
func (r *Report) Warn(connection, check, text, fix string) {
	r.add(Finding{Connection: connection, Check: check, Result: "warning", Text: text, Fix: fix})
}

// Skip notes what was not checked, and why.
func (r *Report) Skip(connection, check, text, fix string) {
	r.add(Finding{Connection: connection, Check: check, Result: "skipped", Text: text, Fix: fix})
}

// Fail notes that a check failed, and what to do about it. It returns false.
func (r *Report) Fail(connection, check, text, fix string) bool {
	r.failed++
	r.add(Finding{Connection: connection, Check: check, Result: "failed", Text: text, Fix: fix})
	return false
}

func (r *Report) add(f Finding) {
	r.findings = append(r.findings, f)
	if r.json {
		return
	}
	where := f.Check
	if f.Connection != "" {
		where = f.Connection + ": " + f.Check
	}
	_, _ = fmt.Fprintf(r.out, "%-8s %s: %s\n", f.Result, printable(where), printable(f.Text))
	if f.Fix != "" {
		_, _ = fmt.Fprintf(r.out, "%-8s %s\n", "", "→ "+printable(f.Fix))
	}
}

// Finish writes the report as JSON, if that was asked for, or else its sum, and returns an error if a check has failed.
func (r *Report) Finish() error {
	if r.json {
		encoder := json.NewEncoder(r.out)
		encoder.SetIndent("", "  ")
		encoder.SetEscapeHTML(false)
		if err := encoder.Encode(r.findings); err != nil {
			return err
		}
	}
	text := fmt.Sprintf("%d of %d checks failed", r.failed, len(r.findings))
	if !r.json {
		_, _ = fmt.Fprintf(r.out, "\n%s\n", text)
	}
	if r.failed == 0 {
		return nil
	}
	return errors.New(text)
}
