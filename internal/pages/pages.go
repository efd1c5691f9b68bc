// Package pages is how all pages look that people see: their templates with one style sheet, the policy that lets through nothing else,
// and how times are said. What a page says is the business of whoever renders it.
//
// It may import the standard library, nothing else.
package pages

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"io"
	"net/http"
	"strings"
	"time"
)

// Frame is what stands above every page.
type Frame struct {
	Site string // the host that the visitor came to
	Who  string // who the visitor is, as the site's authentication says; "" = not known
}

//go:embed templates/*.html
var templateFiles embed.FS

//go:embed templates/style.css
var styleCSS string

//go:embed templates/dashboard.js
var dashboardScript string

// templates are all pages, by file name. They share layout.html and one style sheet.
var templates = template.Must(template.New("pages").Funcs(pageFuncs).ParseFS(templateFiles, "templates/*.html"))

// pageFuncs are what templates can call.
var pageFuncs = template.FuncMap{
	"style":  func() template.CSS { return template.CSS(styleCSS) },
	"script": func() template.JS { return template.JS(dashboardScript) },
	"ago":    func(t time.Time) string { return Ago(time.Since(t)) },
	"until":  func(t time.Time) moment { return moment{At: t} },
	"ends":   func(t time.Time) moment { return moment{At: t, Before: "token ends ", After: "token ended "} },
	"stops":  func(t time.Time) moment { return moment{At: t, Before: "ends ", After: "ended "} },
	"due":    func(t time.Time) moment { return moment{At: t, Past: "when it is used next"} },
	"retry":  func(t time.Time) moment { return moment{At: t, Past: "now"} },
}

// Policy is the Content-Security-Policy of all pages: they load nothing, run nothing, and have one style sheet, which is named
// by its digest.
//
// form-action covers where the answer to a form redirects to as well, in Chromium: a form that leads to a provider in one step needs
// the provider's origin in it.
var Policy = fmt.Sprintf("default-src 'none'; style-src 'sha256-%s'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'", digestOf(styleCSS))

// ScriptPolicy is that of the dashboard's pages, and allows their one script, which fetches what is new from this site.
var ScriptPolicy = strings.Replace(Policy, "form-action", fmt.Sprintf("script-src 'sha256-%s'; connect-src 'self'; form-action", digestOf(dashboardScript)), 1)

func digestOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// SetHeaders keeps the pages out of caches, frames and the Referer of other sites.
func SetHeaders(header http.Header) {
	header.Set("Cache-Control", "no-store")
	header.Set("Content-Security-Policy", Policy)
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Cross-Origin-Opener-Policy", "same-origin")
}

// PostsForms is for pages with a form. With no-referrer a browser sends `Origin: null` from it, and where it sends no
// Sec-Fetch-Site the form would be taken for another site's.
func PostsForms(header http.Header) { header.Set("Referrer-Policy", "same-origin") }

// Execute writes what a template makes of some data.
func Execute(out io.Writer, name string, data any) error {
	return templates.ExecuteTemplate(out, name, data)
}

// Render answers with a page.
func Render(w http.ResponseWriter, status int, name string, data any) error {
	var body bytes.Buffer
	if err := Execute(&body, name, data); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(body.Bytes()) // an error would be logged with the request, whose query may hold a code
	return nil
}

// moment is a time that a page counts down to, and what stands around it.
type moment struct {
	At            time.Time
	Before, After string // in front of what is to come, and of what is over
	Past          string // instead of how long it is over; "" = that
}

// Text says how far away it is.
func (m moment) Text() string {
	left := time.Until(m.At)
	switch {
	case left >= 0:
		return m.Before + until(left)
	case m.Past != "":
		return m.Past
	}
	return m.After + until(left)
}

// until says how far away something is.
func until(d time.Duration) string {
	if d < 0 {
		return Ago(-d)
	}
	if said := Ago(d); said != "just now" {
		return "in " + strings.TrimSuffix(said, " ago")
	}
	return "in less than a minute"
}

// Ago says how long something is past, as people do.
func Ago(d time.Duration) string {
	for _, unit := range []struct {
		name string
		is   time.Duration
	}{{"day", 24 * time.Hour}, {"hour", time.Hour}, {"minute", time.Minute}} {
		switch n := int(d / unit.is); {
		case n == 1:
			return "1 " + unit.name + " ago"
		case n > 1:
			return fmt.Sprintf("%d %ss ago", n, unit.name)
		}
	}
	return "just now"
}
