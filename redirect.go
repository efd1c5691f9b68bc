package caddyoauth

import (
	"cmp"
	"net/http"
	"strings"
)

// redirects reports whether a browser without a token is to be led to where the account can be connected, instead of being told
// so on a page.
//
// It happens at most once in a while for each browser and connection: whoever comes back without an account, because they did not
// agree or because something is wrong, gets the page. The cookie that remembers it proves nothing and opens nothing.
func (h *Handler) redirects(r *http.Request, p *plan) bool {
	if !h.RedirectToConnect || !navigates(r) {
		return false
	}
	_, err := r.Cookie(redirectedCookie(p.conn))
	return err != nil
}

// redirect leads the browser away, and has it remember that.
func (h *Handler) redirect(w http.ResponseWriter, r *http.Request, p *plan, to string) {
	http.SetCookie(w, &http.Cookie{
		Name: redirectedCookie(p.conn), Value: "1", Path: "/", HttpOnly: true, Secure: r.TLS != nil, SameSite: http.SameSiteLaxMode,
		MaxAge: int(pendingLifetime.Seconds()),
	})
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Add("Vary", "Accept, Cookie, Sec-Fetch-Mode, Sec-Fetch-Dest, Sec-Purpose")
	http.Redirect(w, r, to, http.StatusSeeOther)
}

// redirectedCookie names the cookie of a connection: being led to one must not keep a browser from being led to another.
func redirectedCookie(c *activeConnection) string { return "oauth2_redirected_" + c.key.id.Digest() }

// navigates reports whether a person is waiting for a page of their own. Programs, scripts, frames and browsers that load ahead get
// the answer that says what is missing: a redirect would have them begin authorizations that nobody sees.
func navigates(r *http.Request) bool {
	mode, kind := cmp.Or(r.Header.Get("Sec-Fetch-Mode"), "navigate"), cmp.Or(r.Header.Get("Sec-Fetch-Dest"), "document")
	return r.Method == http.MethodGet && prefersHTML(r.Header.Get("Accept")) && mode == "navigate" && kind == "document" &&
		!strings.Contains(r.Header.Get("Sec-Purpose"), "prefetch") && r.Header.Get("X-Requested-With") == ""
}
