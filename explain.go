package caddyoauth

import (
	"errors"
	"net/http"

	"github.com/caddyoauth/caddyoauth/internal/oauth"
)

// nothingConnected is the first thing that people want to know when something went wrong.
const nothingConnected = " Nothing was connected."

// explain puts a failed authorization into words that a person understands. The provider's own words are never shown.
func explain(err error) page {
	var denied *deniedError
	var reply *oauth.Error
	switch {
	case errors.Is(err, errPendingUnknown):
		return page{Status: http.StatusBadRequest, Tone: "off", Title: "Please begin again",
			Detail: "This way back from the provider is not valid any more. It works once, and within 15 minutes.",
			Next:   "If you have just connected an account, all is well: the list says so. Otherwise begin again from there."}
	case errors.Is(err, errPendingForeign):
		return page{Status: http.StatusForbidden, Tone: "off", Title: "This was begun elsewhere",
			Detail: "The connection was begun by somebody else, or in another browser." + nothingConnected,
			Next:   "Check that you are signed in as yourself, and begin again in this browser."}
	case errors.Is(err, errOtherAnswer):
		return page{Status: http.StatusForbidden, Tone: "off", Title: "That was another account",
			Detail: "The provider answered for something else than was asked for." + nothingConnected, Next: "Please begin again."}
	case errors.As(err, &denied):
		return explainCode(denied.code)
	case errors.As(err, &reply) && reply.Class == oauth.Misconfigured:
		return refusesSite(reply.Code)
	case errors.As(err, &reply) && reply.Class == oauth.RetryLater:
		return providerTrouble(reply.Code)
	case errors.As(err, &reply):
		return page{Status: http.StatusBadGateway, Tone: "failed", Title: "The provider did not answer as it should", Code: reply.Code,
			Detail: "What came back could not be used." + nothingConnected,
			Next:   "Please try again. If it fails again, tell the operator of this site the code."}
	}
	return pageTrouble
}

// explainCode puts the error codes of RFC 6749 section 4.1.2.1, and common others, into words.
func explainCode(code string) page {
	p := page{Status: http.StatusForbidden, Tone: "off", Code: code, Title: "Not connected"}
	switch code {
	case "access_denied", "consent_required", "interaction_required":
		p.Detail = "You did not give your consent, or somebody did not allow you to." + nothingConnected
		p.Next = "If you did not mean that, try again and agree at the provider. In a company an administrator may have to agree first."
	case "login_required":
		p.Title, p.Detail = "Please sign in at the provider", "The provider wants you to sign in there first."+nothingConnected
	case "server_error", "temporarily_unavailable":
		return providerTrouble(code)
	case "invalid_scope", "unauthorized_client", "redirect_uri_mismatch", "invalid_request", "unsupported_response_type":
		return refusesSite(code)
	default:
		p.Detail = "The provider did not agree." + nothingConnected
		p.Next = "Please try again. If it fails again, tell the operator of this site the code."
	}
	return p
}

func providerTrouble(code string) page {
	return page{Status: http.StatusBadGateway, Tone: "weak", Title: "The provider has trouble", Code: code,
		Detail: "It cannot answer at the moment." + nothingConnected, Next: "Please try again in a little while."}
}

func refusesSite(code string) page {
	return page{Status: http.StatusBadGateway, Tone: "failed", Title: "The provider refuses this site", Code: code, forOperator: true,
		Detail: "The provider does not accept this site, or what it asks for." + nothingConnected,
		Next:   "You cannot put this right yourself: tell the operator of this site the code. The configuration has to be corrected."}
}

// untested is for an account that is connected, and whose API refused the first call.
func untested(title string, result TestResult, acts []act) page {
	return page{
		Status: http.StatusOK, Tone: "weak", Title: title + " is connected, but its API refuses", Detail: result.Detail, Code: result.Code, Acts: acts,
	}
}
