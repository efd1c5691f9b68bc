package caddyoauth

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"net/http"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/oauth"
	"github.com/caddyoauth/caddyoauth/internal/pages"
)

// The implicit grant (RFC 6749 section 4.2) is for servers that have nothing else. The token comes behind the # of the callback's
// address, which a browser keeps from us. So a page at that address takes it out of the address bar and the history, and hands it
// over by a form. No server log, ours included, has ever seen it; the browser has, which no other grant allows.

// maxHandedOver bounds what is handed over: the longest fragment that is read, with every character escaped.
const maxHandedOver = 64 << 10

// implicitPage is what the page that takes the fragment needs.
type implicitPage struct {
	frame
	Nonce string // of its one script
	Back  string // the list
}

// awaitsFragment reports whether a request for the callback may have something behind its #, which it does not show: there is no
// query, and a connection here that asks for a token in this way.
func (v *visit) awaitsFragment() bool {
	if v.r.URL.RawQuery != "" {
		return false
	}
	for _, c := range v.app.active.all() {
		if _, _, ok := v.find(c.name); ok && c.consent.implicit {
			return true
		}
	}
	return false
}

// takeFragment answers with the page that hands the fragment over. Its script is the only one of all pages: the policy names it by a
// value that nobody could have known before.
func (v *visit) takeFragment() error {
	random := make([]byte, 16)
	_, _ = rand.Read(random) // never fails: crypto/rand aborts the program instead
	nonce := base64.RawURLEncoding.EncodeToString(random)
	v.w.Header().Set("Content-Security-Policy", pages.Policy+"; script-src 'nonce-"+nonce+"'")
	pages.PostsForms(v.w.Header())
	return render(v.w, http.StatusOK, "implicit.html", implicitPage{frame: v.frame(), Nonce: nonce, Back: v.path})
}

// fragment is what that page sends.
func (v *visit) fragment() error {
	if err := v.sameOrigin.Check(v.r); err != nil {
		return v.show(pageForeign)
	}
	v.r.Body = http.MaxBytesReader(v.w, v.r.Body, maxHandedOver)
	if err := v.r.ParseForm(); err != nil { // the error may repeat a part of it
		return v.show(page{Status: http.StatusBadRequest, Tone: "failed", Title: "That could not be read",
			Detail: "What came back from the provider is no answer." + nothingConnected})
	}
	return v.finished(v.app.finishImplicit(v.r.Context(), v.r.PostForm.Get("fragment"), v.who))
}

// finishImplicit is finishAuthorization for a token that came through the browser.
func (a *App) finishImplicit(ctx context.Context, fragment string, who visitor) (outcome, error) {
	answer, token, err := oauth.ParseImplicitResponse(fragment, time.Now())
	if err != nil {
		return outcome{}, err
	}
	return a.finish(ctx, wayBack{answer: answer, raw: fragment, implicit: true, token: token}, who)
}
