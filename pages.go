package caddyoauth

import (
	"bytes"
	_ "embed"
	"errors"
	"html/template"
	"net/http"
	"net/url"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddyoauth/caddyoauth/internal/connection"
	"github.com/caddyoauth/caddyoauth/internal/oauth"
)

// page is what a visitor of the connect pages sees when there is something to say instead of the list.
type page struct {
	Status int
	Title  string
	Detail string
	Code   string // the provider's error code, or one of ours; "" = none
	Again  string // where to try again; "" = nowhere
	Label  string // of the button that leads there; "" = Try again
	Back   string // the list; "" = no list for this visitor
}

// What there is to say.
var (
	pageNobody  = page{Status: http.StatusForbidden, Title: "Please sign in", Detail: "Accounts can be connected only by somebody who is signed in to this site."}
	pageNothing = page{Status: http.StatusNotFound, Title: "Nothing here", Detail: "There is no such connection, or it is not yours to connect."}
	pageForeign = page{Status: http.StatusForbidden, Title: "Not from another site", Detail: "The request came from another site. Please use the buttons on this page."}
	pageTrouble = page{Status: http.StatusServiceUnavailable, Title: "That did not work", Detail: "Something is not working here at the moment. Please try again in a little while."}
)

// explain puts a failed authorization into words that a person understands. The provider's own words are never shown.
func explain(err error) page {
	var denied *deniedError
	var reply *oauth.Error
	switch {
	case errors.Is(err, errPendingUnknown):
		return page{Status: http.StatusBadRequest, Title: "Please begin again",
			Detail: "This way back from the provider is not valid any more. It works once, and within 15 minutes."}
	case errors.Is(err, errPendingForeign):
		return page{Status: http.StatusForbidden, Title: "This was begun elsewhere",
			Detail: "The connection was begun by somebody else, or in another browser. Nothing was connected."}
	case errors.Is(err, errOtherAnswer):
		return page{Status: http.StatusForbidden, Title: "That was another account",
			Detail: "The provider answered for something else than was asked for. Nothing was connected. Please begin again."}
	case errors.As(err, &denied):
		return explainCode(denied.code)
	case errors.As(err, &reply) && reply.Class == oauth.Misconfigured:
		return page{Status: http.StatusBadGateway, Title: "The provider refuses this site", Code: reply.Code,
			Detail: "The provider does not accept this site as a client. Its operator has to correct the configuration."}
	case errors.As(err, &reply):
		return page{Status: http.StatusBadGateway, Title: "The provider did not answer as it should", Code: reply.Code,
			Detail: "Nothing was connected. Please try again; if it fails again, tell the operator of this site the code."}
	}
	return pageTrouble
}

// explainCode puts the error codes of RFC 6749 section 4.1.2.1, and common others, into words.
func explainCode(code string) page {
	p := page{Status: http.StatusForbidden, Code: code}
	switch code {
	case "access_denied", "consent_required", "interaction_required":
		p.Title, p.Detail = "Not connected", "You did not give your consent, or somebody did not allow you to. Nothing was connected."
	case "login_required":
		p.Title, p.Detail = "Please sign in at the provider", "The provider wants you to sign in first. Nothing was connected."
	case "server_error", "temporarily_unavailable":
		p.Status, p.Title, p.Detail = http.StatusBadGateway, "The provider has trouble", "Please try again in a little while. Nothing was connected."
	case "invalid_scope", "unauthorized_client", "redirect_uri_mismatch", "invalid_request", "unsupported_response_type":
		p.Status, p.Title = http.StatusBadGateway, "The provider refuses this site"
		p.Detail = "The provider does not accept what this site asks for. Its operator has to correct the configuration."
	default:
		p.Title, p.Detail = "Not connected", "The provider did not agree. Nothing was connected."
	}
	return p
}

// row is a connection on the list.
type row struct {
	Name, Title   string
	State, Advice string
	Connected     bool
	Connect, End  string // links
}

// list shows what the visitor may connect, and how each connection is.
func (v *visit) list() error {
	var data struct {
		Rows        []row
		RedirectURI string
		Empty       bool
	}
	data.RedirectURI = v.redirectURI(v.r)
	for _, c := range v.app.active.all() {
		_, source, ok := v.find(c.name)
		if !ok {
			continue
		}
		state, err := source.Peek(v.r.Context(), c.settings)
		one := rowOf(state, err)
		one.Name, one.Title = c.name, c.consent.title
		one.Connect, one.End = v.link(c, ""), v.path+"/disconnect/"+url.PathEscape(c.name)
		data.Rows = append(data.Rows, one)
	}
	data.Empty = len(data.Rows) == 0
	// With no-referrer a browser sends `Origin: null` from the buttons here, and where it sends no Sec-Fetch-Site they would fail.
	v.w.Header().Set("Referrer-Policy", "same-origin")
	return v.render(v.w, http.StatusOK, listPage, data)
}

var rowEnded = row{State: "Needs you again", Advice: "The provider has ended this connection. Connect it again to go on."}

// rowOf says how a connection is, and what to do about it. err means that its record cannot be read at the moment.
func rowOf(state connection.State, err error) row {
	switch {
	case state.Status == connection.StatusRevoked || state.Status == connection.StatusLostRotation:
		return rowEnded // what is left of the last token may still work; there will be no other
	case err != nil, state.Status == connection.StatusFailing && !time.Now().Before(state.ExpiresAt):
		return row{State: "Interrupted", Connected: true, Advice: "The provider cannot be reached at the moment. This will be tried again by itself."}
	case state.Status.NeedsPerson():
		return row{State: "Not connected"}
	case state.Status == connection.StatusMisconfigured:
		return row{State: "Refused", Connected: true, Advice: "The provider refuses this site. Its operator has to correct the configuration."}
	}
	return row{State: "Connected", Connected: true}
}

//go:embed templates/connect.html
var listHTML string

//go:embed templates/message.html
var messageHTML string

//go:embed templates/style.css
var styleCSS string

var (
	pageFuncs   = template.FuncMap{"style": func() template.CSS { return template.CSS(styleCSS) }}
	listPage    = template.Must(template.New("list").Funcs(pageFuncs).Parse(listHTML))
	messagePage = template.Must(template.New("message").Funcs(pageFuncs).Parse(messageHTML))
)

// show answers with a page that says one thing.
func (h *Connect) show(w http.ResponseWriter, _ *http.Request, p page) error {
	if p.Status != pageNobody.Status || p.Title != pageNobody.Title {
		p.Back = h.path
	}
	return h.render(w, p.Status, messagePage, p)
}

func (h *Connect) render(w http.ResponseWriter, status int, t *template.Template, data any) error {
	var body bytes.Buffer
	if err := t.Execute(&body, data); err != nil {
		return caddyhttp.Error(http.StatusInternalServerError, err)
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(body.Bytes()) // an error would be logged with the request, whose query may hold a code
	return nil
}

// setPageHeaders keeps the pages out of caches, frames and the Referer of other sites.
func setPageHeaders(header http.Header) {
	header.Set("Cache-Control", "no-store")
	header.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Cross-Origin-Opener-Policy", "same-origin")
}
