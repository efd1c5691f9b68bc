package oauth

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"
)

// DefaultCallTimeout bounds one [Client.Call].
const DefaultCallTimeout = 10 * time.Second

// Blame says what a call that failed is to be blamed on.
type Blame string

// What can be at fault.
const (
	BlameNothing Blame = ""
	BlameToken   Blame = "token" // the API does not accept it
	BlameScope   Blame = "scope" // the token is good, but not for this
	BlameAPI     Blame = "api"   // the API could not be asked, or did not answer as it should
)

// Answer is what a resource server said. Its body is foreign text.
type Answer struct {
	Status int
	Body   []byte // at most 1 MiB
	Blame  Blame
	Code   string // the server's code for a failure, fit to show; "" if it gave none
}

// Call sends one request to a resource server, to learn whose token it carries. It leaves by the same door as every request to
// the authorization server: once, over a connection of its own, with no redirect followed. roots are whom to trust as that server;
// nil means the system's. Its errors are of type [*Error].
func (c *Client) Call(req *http.Request, roots *x509.CertPool) (*Answer, error) {
	ctx, cancel := context.WithTimeout(req.Context(), DefaultCallTimeout)
	defer cancel()
	asked := &Client{cfg: c.cfg, peer: peer{"API", "test_call"}}
	asked.cfg.RootCAs = roots
	req = req.WithContext(ctx)
	req.GetBody = nil // net/http replays a request only if it can have the body again
	if req.Header.Get("User-Agent") == "" {
		req.Header.Set("User-Agent", c.cfg.UserAgent)
	}
	reply, err := asked.send(req)
	switch {
	case err != nil:
		return nil, err
	case reply.readErr != nil:
		return nil, reply.readErr
	case reply.tooLarge:
		e := newError(Unrecognized, "response_too_large", "the API answered with more than 1 MiB; check test_call")
		e.Status = reply.status
		return nil, e
	}
	code, failed := refusalIn(reply.body)
	answer := &Answer{Status: reply.status, Body: reply.body, Blame: c.blame(reply, code, failed)}
	if answer.Blame != BlameNothing {
		answer.Code = showable(code, carried(req))
	}
	return answer, nil
}

// carried lists what of a request may hold the token.
func carried(req *http.Request) []string {
	list := []string{req.URL.RawQuery}
	for name, values := range req.Header {
		if name != "Accept" && name != "Content-Type" && name != "User-Agent" {
			list = append(list, values...)
		}
	}
	return list
}

// Codes with which APIs blame the token and its scope (RFC 6750 section 3.1); the others carry the name of the server that sends
// them. All in lower case.
var (
	tokenCodes = map[string]bool{
		"invalid_token": true, "expired_token": true, "token_expired": true, "token_revoked": true,
		"invalid_auth": true, "not_authed": true, "account_inactive": true, // Slack
		"expired_access_token": true, "invalid_access_token": true, // Dropbox
		"invalid_session_id": true, // Salesforce
	}
	scopeCodes = map[string]bool{
		"insufficient_scope": true, "insufficient_permissions": true, "permission_denied": true,
		"missing_scope": true, // Slack
	}
)

// blame decides what an answer is to be blamed on. A limit that was reached comes as 403 from some (GitHub), and says nothing
// about the token.
func (c *Client) blame(r *reply, code string, failed bool) Blame {
	low := strings.ToLower(code)
	challenge := strings.Join(r.header.Values("WWW-Authenticate"), ",")
	switch {
	case r.status < 300 && !failed:
		return BlameNothing
	case scopeCodes[low], strings.Contains(challenge, `error="insufficient_scope"`):
		return BlameScope
	case r.status == http.StatusUnauthorized, tokenCodes[low], slices.Contains(c.cfg.Codes.Revoked, low):
		return BlameToken
	case r.status == http.StatusForbidden && r.header.Get("Retry-After") == "" && r.header.Get("X-Ratelimit-Remaining") != "0":
		return BlameScope
	}
	return BlameAPI
}

// refusalIn looks into an answer of an API for its word that it refuses, and for the code that came with it. Many say so with a
// status of 200: {"ok":false,"error":"..."} is Slack, {"errors":[...]} GraphQL, [{"errorCode":"..."}] Salesforce.
func refusalIn(body []byte) (code string, failed bool) {
	if list := bytes.TrimSpace(body); len(list) > 0 && list[0] == '[' {
		var entries []struct {
			Code string `json:"errorCode"`
		}
		if json.Unmarshal(list, &entries) == nil && len(entries) > 0 && entries[0].Code != "" {
			return entries[0].Code, true
		}
		return "", false
	}
	object, ok := decodeDocument(body)
	if !ok {
		return "", false
	}
	delete(object, "message") // which is prose, and no word of failure
	object["access_token"] = true
	return errorMarker(object)
}

// Label makes foreign text fit for a line on a page: printable, at most 200 characters. It is still to be escaped.
func Label(text string) string { return label(text) }
