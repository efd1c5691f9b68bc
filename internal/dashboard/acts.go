package dashboard

import (
	"cmp"
	"errors"
	"math"
	"net/http"
	"net/url"
	"strconv"

	"github.com/caddyoauth/caddyoauth/internal/api"
	"github.com/caddyoauth/caddyoauth/internal/pages"
)

// doneWords say what was done just now.
var doneWords = map[string]string{
	"refresh": "The token was replaced.", "revoke": "The connection was ended, and its tokens are removed.", "rollback": "The earlier version is back, as a new one.",
}

// act does what a button says, and leads back to the page.
func (v *visit) act(at spot, parts []string) error {
	if v.r.Method != http.MethodPost {
		return v.refused(&api.Error{Status: http.StatusMethodNotAllowed, Message: "this is done by POST"})
	}
	back := v.path + at.page()
	var err error
	switch path := at.api() + "/"; parts[0] {
	case "refresh":
		var token api.Token
		_, err = v.ask(http.MethodPost, path+"refresh", &token)
	case "revoke":
		var ended api.Ended
		_, err = v.ask(http.MethodPost, path+"revoke", &ended)
	case "rollback":
		var token api.Token
		_, err = v.ask(http.MethodPost, path+"versions/"+url.PathEscape(parts[len(parts)-1])+"/rollback", &token)
	case "authorize":
		return v.authorize(at)
	case "test":
		return v.test(at)
	default:
		err = api.NotFound()
	}
	if err != nil {
		return v.refused(err, act{back, "Back"})
	}
	http.Redirect(v.w, v.r, back+"?done="+parts[0], http.StatusSeeOther)
	return nil
}

// authorize shows where the person connects the account.
func (v *visit) authorize(at spot) error {
	var link api.Link
	back := act{v.path + at.page(), "Back"}
	if _, err := v.ask(http.MethodPost, at.api()+"/authorize", &link); err != nil {
		return v.refused(err, back)
	}
	return v.say(message{
		Status: http.StatusOK, Tone: "off", Title: "Connect the account", Acts: []act{{link.AuthorizeURL, "Go on"}, back},
		Detail: "The person whose account it is has to do this, signed in to the site as themselves. If that is not you, send them the link behind the button.",
	})
}

// test shows what the provider's API says.
func (v *visit) test(at spot) error {
	var result api.TestResult
	back := act{v.path + at.page(), "Back"}
	if _, err := v.ask(http.MethodPost, at.api()+"/test", &result); err != nil {
		return v.refused(err, back)
	}
	p := message{Status: http.StatusOK, Tone: "on", Title: "The API accepts the token", Detail: result.Detail, Account: result.Label, Acts: []act{back}}
	if !result.OK {
		p.Tone, p.Title, p.Code, p.Scopes = "failed", "The API does not accept the token", result.Code, result.Missing
		p.Detail = cmp.Or(result.Detail, "At fault: "+result.Fault)
	}
	return v.say(p)
}

// confirm asks before a connection is ended.
func (v *visit) confirm(at spot) error {
	var detail api.SecretDetail
	if _, err := v.ask(http.MethodGet, spot{id: at.id}.api(), &detail); err != nil {
		return v.refused(err)
	}
	return v.say(message{
		Status: http.StatusOK, Tone: "weak", Title: "End " + detail.Name + "?", Account: at.subject, End: v.path + at.page() + "/revoke",
		Detail: "The provider is told, and the tokens are removed. Requests are refused until a person connects the account again.",
		Acts:   []act{{v.path + at.page(), "Keep it"}},
	})
}

// refused says why something was not done.
func (v *visit) refused(err error, acts ...act) error {
	p := message{Status: http.StatusServiceUnavailable, Tone: "weak", Title: "That did not work", Acts: acts,
		Detail: "Something is not working here at the moment. Please try again in a little while."}
	var refusal *api.Error
	if errors.As(err, &refusal) {
		p.Status, p.Tone, p.Detail, p.Code = refusal.Status, "off", refusal.Message, refusal.Type
		if refusal.RetryAfter > 0 {
			v.w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(refusal.RetryAfter.Seconds()))))
		}
		switch refusal.Status {
		case http.StatusUnauthorized:
			p.Title, p.Detail, p.Code = "Please sign in", "The dashboard is for those who are signed in to this site and have a role here.", ""
		case http.StatusForbidden:
			p.Title = "Not allowed"
		case http.StatusTooManyRequests:
			p.Tone, p.Title, p.Detail, p.Code = "weak", "That was too often", "You have asked for very many pages within a minute. Please wait a little while.", ""
		case http.StatusNotFound:
			p.Title, p.Detail, p.Code = "Nothing here", "There is no such connection, or it is not yours to see.", ""
		}
	}
	return v.say(p)
}

// act is a button that leads somewhere.
type act struct{ To, Label string }

// message is a page with one thing to say: what happened, and what to do next.
type message struct {
	pages.Frame
	Status int
	Tone   string // of the mark: on, off, weak, ended or failed
	Title  string
	Detail string
	Next   string // what to do, where the buttons do not say it; never here, but the template knows it
	Code   string // the provider's error code, or one of ours; "" = none

	Account     string   // its label; "" = none
	Scopes      []string // that are missing
	Acts        []act    // what to do next; the first stands out
	End         string   // where a form posts to that disconnects; "" = no form
	RedirectURI string   // likewise never
}

// say answers with a page that says one thing.
func (v *visit) say(p message) error {
	p.Frame = pages.Frame{Site: v.r.Host, Who: v.caller.Name}
	if v.caller.Anywhere() >= api.Viewer {
		p.Acts = append(p.Acts, act{v.path, "All connections"})
	}
	return pages.Render(v.w, p.Status, "message.html", p)
}
