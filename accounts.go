package caddyoauth

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/connection"
	"github.com/caddyoauth/caddyoauth/internal/pages"
)

// account is a connection as its person sees it.
type account struct {
	Name, Title string
	Account     string // the label, such as "Jane's Google Drive"; "" = not known
	Tone, State string // of the mark, and in words
	Advice      string // what to do about it; "" = nothing
	Connected   bool   // there is something to disconnect
	Needed      bool   // it works again only when the person connects it again
	Shared      bool   // one account for all who use this site
	Elsewhere   bool   // the same account is connected once more, here or by somebody else
	Refreshed   time.Time
	Scopes      []string
	Connect     string // link
	End         string // link
}

// elsewhere tells a person that an account is connected once more. Whose connection that is would be none of their business.
const elsewhere = "The same account is also connected elsewhere on this site."

// account returns how a connection is. Looking asks no provider.
func (v *visit) account(c *activeConnection, source *connection.Source) account {
	state, err := source.Peek(v.r.Context(), c.settings)
	one := accountOf(state, err)
	one.Name, one.Title, one.Shared = c.name, c.consent.title, c.subject == ""
	one.Connect, one.End = v.link(c, ""), v.path+"/disconnect/"+url.PathEscape(c.name)
	if one.Connected {
		found, err := v.app.others(v.r.Context(), c, source.ID(), state.Consent) // who they are is not for visitors
		one.Elsewhere = err == nil && len(found.owners) > 0
	}
	return one
}

// accountOf says how a connection is, and what to do about it. err means that its record cannot be read at the moment.
func accountOf(state connection.State, err error) account {
	var one account
	switch {
	case len(state.Missing) > 0:
		one = account{Tone: "ended", State: "Needs you again", Connected: true, Needed: true,
			Advice: "This site asks for more than you allowed: " + strings.Join(state.Missing, ", ") + ". Connect it again to go on."}
	case state.Status == connection.StatusRevoked || state.Status == connection.StatusLostRotation:
		// What is left of the last token may still work; there will be no other.
		one = account{Tone: "ended", State: "Needs you again", Connected: true, Needed: true,
			Advice: "The provider has ended this connection. Connect it again to go on."}
	case err != nil, state.Status == connection.StatusFailing && !time.Now().Before(state.ExpiresAt):
		one = account{Tone: "weak", State: "Interrupted", Connected: true,
			Advice: "The provider cannot be reached at the moment. This will be tried again by itself."}
	case state.Status == connection.StatusAuthorizationRequired && state.Generation > 0:
		one = account{Tone: "ended", State: "Needs you again", Connected: true, Needed: true, Advice: "Connect it again to go on."}
	case state.Status.NeedsPerson():
		return account{Tone: "off", State: "Not connected"}
	case state.Status == connection.StatusMisconfigured:
		one = account{Tone: "failed", State: "Refused", Connected: true,
			Advice: "The provider refuses this site. Its operator has to correct the configuration."}
	case state.Status == connection.StatusExpiring:
		one = account{Tone: "weak", State: "Ends soon", Connected: true, Needed: true,
			Advice: "The access ends on " + state.EndsAt.UTC().Format("2 January 2006, 15:04 MST") + ". Connect it again before that, and nothing stops working."}
	default:
		one = account{Tone: "on", State: "Connected", Connected: true}
	}
	one.Refreshed, one.Scopes = state.IssuedAt, granted(state.Scope, state.Consent)
	if state.Consent != nil {
		one.Account = state.Consent.Label
	}
	return one
}

// list shows what the visitor may connect, and how each connection is.
func (v *visit) list() error {
	data := struct {
		frame
		Title       string
		Rows        []account
		RedirectURI string
	}{frame: v.frame(), Title: "Connected accounts", RedirectURI: v.redirectURI(v.r)}
	for _, c := range v.app.active.all() {
		if _, source, ok := v.find(c.name); ok {
			data.Rows = append(data.Rows, v.account(c, source))
		}
	}
	slices.SortStableFunc(data.Rows, func(a, b account) int { return strings.Compare(strings.ToLower(a.Title), strings.ToLower(b.Title)) })
	return render(v.w, http.StatusOK, "list.html", data)
}

// result says how a connection is after it was connected or disconnected, and where to go on. It says what is so, not what the
// link claims: anybody can make the link.
func (v *visit) result(name string) error {
	c, source, ok := v.find(name)
	if !ok {
		return v.show(pageNothing)
	}
	one := v.account(c, source)
	p := page{Status: http.StatusOK, Tone: one.Tone, Account: one.Account, Scopes: one.Scopes}
	switch {
	case one.State == "Connected":
		p.Title, p.Detail = one.Title+" is connected", "This site can now use the account on your behalf, until you disconnect it."
		if one.Shared {
			p.Detail = "Everybody who uses this site now uses this account, until it is disconnected."
		}
		if to := localPath(v.r.URL.Query().Get("return_to")); to != "" {
			p.Acts = []act{{to, "Continue"}}
		}
		if one.Elsewhere {
			p.Next = elsewhere
		}
	case one.Connected:
		p.Title, p.Detail, p.Acts = one.Title+": "+strings.ToLower(one.State), one.Advice, []act{{one.Connect, "Reconnect"}}
	default:
		p.Title, p.Detail = one.Title+" is not connected", "This site cannot use the account, and keeps nothing of it."
		p.Acts = []act{{v.path, "Connected accounts"}, {one.Connect, "Connect"}}
	}
	return v.show(p)
}

// resultLink returns the way to [visit.result].
func (v *visit) resultLink(c *activeConnection) string {
	return v.path + "/done/" + url.PathEscape(c.name)
}

// confirm asks before a connection is ended.
func (v *visit) confirm(name string) error {
	c, source, ok := v.find(name)
	if !ok {
		return v.show(pageNothing)
	}
	one := v.account(c, source)
	p := page{
		Status: http.StatusOK, Tone: one.Tone, Title: "Disconnect " + one.Title + "?", Account: one.Account, End: one.End, Acts: []act{{v.path, "Keep it"}},
		Detail: "This site will forget its access to the account. What needs it stops working until you connect it again.",
	}
	if one.Shared {
		p.Next = "The account is shared: it stops working for everybody who uses this site."
	} else if one.Elsewhere {
		p.Next = elsewhere + " That may end as well, since some providers end everything at once."
	}
	pages.PostsForms(v.w.Header())
	return v.show(p)
}

// notTold says that a connection is ended here, and what the person can do where it is not.
func notTold(title string) page {
	return page{
		Status: http.StatusOK, Tone: "off", Title: title + " is disconnected here",
		Detail: "This site can no longer use the account, and has forgotten what it kept of it. The provider could not be told.",
		Next:   "To end it there as well, open the settings of your account at the provider and remove this site.",
	}
}
