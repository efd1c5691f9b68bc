package caddyoauth

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// frame is what stands above every page.
type frame struct {
	Site string // the host that the visitor came to
	Who  string // who the visitor is, as the site's authentication says; "" = not known
}

// page is what a visitor of the connect pages sees when there is one thing to say: what happened, and what to do next.
type page struct {
	frame
	Status int
	Tone   string // of the mark: on, off, weak, ended or failed
	Title  string
	Detail string
	Next   string // what to do, where the buttons do not say it
	Code   string // the provider's error code, or one of ours; "" = none

	Account     string   // the label of the account; "" = none
	Scopes      []string // what the provider has granted
	Acts        []act    // what to do next; the first stands out
	End         string   // where a form posts to that disconnects; "" = no form
	RedirectURI string   // for the operator, who has to register it; "" = not shown

	forOperator bool // only the operator can put it right, perhaps by registering the redirect URI
}

// act is a button that leads somewhere.
type act struct{ To, Label string }

// What there is to say.
var (
	pageNobody = page{Status: http.StatusForbidden, Tone: "off", Title: "Please sign in",
		Detail: "Accounts can be connected only by somebody who is signed in to this site."}
	pageNothing = page{Status: http.StatusNotFound, Tone: "off", Title: "Nothing here",
		Detail: "There is no such connection, or it is not yours to connect."}
	pageForeign = page{Status: http.StatusForbidden, Tone: "off", Title: "Not from another site",
		Detail: "The request came from another site. Please use the buttons on this page."}
	pageMany = page{Status: http.StatusTooManyRequests, Tone: "weak", Title: "That was too often",
		Detail: "You have begun to connect an account very many times. Please wait a few minutes, and try again."}
	pageTrouble = page{Status: http.StatusServiceUnavailable, Tone: "weak", Title: "That did not work",
		Detail: "Something is not working here at the moment. Please try again in a little while."}
)

//go:embed templates/*.html
var templateFiles embed.FS

//go:embed templates/style.css
var styleCSS string

// templates are all pages, by file name. They share layout.html and one style sheet.
var templates = template.Must(template.New("pages").Funcs(pageFuncs).ParseFS(templateFiles, "templates/*.html"))

// pageFuncs are what templates can call.
var pageFuncs = template.FuncMap{
	"style":  func() template.CSS { return template.CSS(styleCSS) },
	"script": func() template.JS { return template.JS(dashboardScript) },
	"ago":    func(t time.Time) string { return ago(time.Since(t)) },
	"until":  func(t time.Time) moment { return moment{At: t} },
	"ends":   func(t time.Time) moment { return moment{At: t, Before: "token ends ", After: "token ended "} },
	"stops":  func(t time.Time) moment { return moment{At: t, Before: "ends ", After: "ended "} },
	"due":    func(t time.Time) moment { return moment{At: t, Past: "when it is used next"} },
	"retry":  func(t time.Time) moment { return moment{At: t, Past: "now"} },
}

// pagePolicy is the Content-Security-Policy of all pages: they load nothing, run nothing, and have one style sheet, which is named
// by its digest.
//
// form-action covers where the answer to a form redirects to as well, in Chromium: a form that leads to a provider in one step needs
// the provider's origin in it.
var pagePolicy = fmt.Sprintf("default-src 'none'; style-src 'sha256-%s'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'", digestOfStyle())

func digestOfStyle() string {
	sum := sha256.Sum256([]byte(styleCSS))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// setPageHeaders keeps the pages out of caches, frames and the Referer of other sites.
func setPageHeaders(header http.Header) {
	header.Set("Cache-Control", "no-store")
	header.Set("Content-Security-Policy", pagePolicy)
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Cross-Origin-Opener-Policy", "same-origin")
}

// postsForms is for pages with a form. With no-referrer a browser sends `Origin: null` from it, and where it sends no
// Sec-Fetch-Site the form would be taken for another site's.
func postsForms(header http.Header) { header.Set("Referrer-Policy", "same-origin") }

// show answers with a page that says one thing.
func (v *visit) show(p page) error {
	p.frame = v.frame()
	if !slices.ContainsFunc(p.Acts, func(a act) bool { return a.To == v.path }) {
		p.Acts = append(p.Acts, act{v.path, "Connected accounts"})
	}
	if p.forOperator {
		p.RedirectURI = v.redirectURI(v.r)
	}
	return render(v.w, p.Status, "message.html", p)
}

func (v *visit) frame() frame { return frame{Site: v.r.Host, Who: v.who.identity} }

// render writes a page.
func render(w http.ResponseWriter, status int, name string, data any) error {
	var body bytes.Buffer
	if err := templates.ExecuteTemplate(&body, name, data); err != nil {
		return caddyhttp.Error(http.StatusInternalServerError, err)
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
		return ago(-d)
	}
	if said := ago(d); said != "just now" {
		return "in " + strings.TrimSuffix(said, " ago")
	}
	return "in less than a minute"
}

// ago says how long something is past, as people do.
func ago(d time.Duration) string {
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
