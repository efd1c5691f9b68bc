package caddyoauth

import (
	"net/http"
	"slices"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddyoauth/caddyoauth/internal/pages"
)

// frame is what stands above every page.
type frame = pages.Frame

// act is a button that leads somewhere.
type act struct{ To, Label string }

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

// render answers with a page.
func render(w http.ResponseWriter, status int, name string, data any) error {
	if err := pages.Render(w, status, name, data); err != nil {
		return caddyhttp.Error(http.StatusInternalServerError, err)
	}
	return nil
}
