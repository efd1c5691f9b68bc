package providersim

import (
	"net/http"
	"net/url"
	"strings"
)

// act is how one provider words what it says, beyond its row: the documented oddities that clients stumble over.
type act struct {
	apiHost string // where the API is, if the row leaves that open
	apiPath string // what every path of the API begins with
	silent  bool   // the API's refusals come with 200
	echoes  bool   // a refresh repeats a refresh token that stays

	formUnlessAsked bool // answers are form-encoded unless JSON is asked for
	discovers       bool // endpoints are found in metadata
	scopes          []string

	unauthorized string // body of the API's 401
	client       refusal
	code         refusal
	dead         refusal

	callback  func(s *Sim, back url.Values)
	grant     func(s *Sim, object map[string]any, refresh bool)
	companion func(name, got, want string) bool
}

// refusal is an error answer. status counts where failures do not all come with 200.
type refusal struct {
	status int
	code   string
	detail string
}

func (r refusal) or(status int, code string) refusal {
	if r.code == "" {
		r.code = code
	}
	if r.status == 0 {
		r.status = status
	}
	return r
}

func (a act) refusedClient() refusal { return a.client.or(http.StatusUnauthorized, "invalid_client") }
func (a act) badCode() refusal       { return a.code.or(http.StatusBadRequest, "invalid_grant") }

// revoked is how a dead refresh token shows: by the first code of the row.
func (a act) revoked(s *Sim) refusal {
	status := s.Row.Errors.RevokedStatus
	if status == 0 {
		status = http.StatusBadRequest
	}
	return a.dead.or(status, s.Row.Errors.Revoked[0])
}

// answering sets one field of every answer.
func answering(path, value string) func(*Sim, map[string]any, bool) {
	return func(_ *Sim, object map[string]any, _ bool) { put(object, strings.Split(path, "."), value) }
}

// acts are the providers that have something of their own.
var acts = map[string]act{
	"salesforce": {
		apiHost:      "acme.my.salesforce.com",
		unauthorized: `[{"message":"Session expired or invalid","errorCode":"INVALID_SESSION_ID"}]`,
		grant: func(_ *Sim, object map[string]any, _ bool) { // neither expires_in nor any other word on the token's life
			object["instance_url"], object["id"] = "https://acme.my.salesforce.com", "https://login.salesforce.com/id/00Dx/005x"
			object["issued_at"], object["signature"] = "1795370731000", "c2lnbmF0dXJl"
		},
	},
	"github": {
		formUnlessAsked: true, unauthorized: `{"message":"Bad credentials","status":"401"}`,
		client: refusal{code: "incorrect_client_credentials"}, code: refusal{code: "bad_verification_code"},
		grant: func(s *Sim, object map[string]any, _ bool) {
			object["token_type"] = "bearer"
			if scope, ok := object["scope"].(string); ok {
				object["scope"] = strings.ReplaceAll(scope, " ", ",") // asked for with spaces, granted with commas
			}
			if !s.opts.Endless {
				object["refresh_token_expires_in"] = 15897600
			}
		},
	},
	"slack": {
		silent: true, unauthorized: `{"ok":false,"error":"token_expired"}`,
		client: refusal{code: "bad_client_secret"}, code: refusal{code: "code_already_used"},
		grant: answering("token_type", "bot"),
	},
	"slack_user": {
		silent: true, unauthorized: `{"ok":false,"error":"token_expired"}`,
		client: refusal{code: "bad_client_secret"}, code: refusal{code: "code_already_used"},
		grant: func(_ *Sim, object map[string]any, refresh bool) {
			if refresh {
				object["token_type"] = "user"
			}
		},
	},
	"shopify": {
		unauthorized: `{"errors":"[API] Invalid API key or access token (unrecognized login or wrong password)"}`,
		callback: func(s *Sim, back url.Values) {
			back.Set("shop", s.opts.Params["shop"])
			back.Set("host", "YWRtaW4uc2hvcGlmeS5jb20vc3RvcmUvYWNtZQ")
			back.Set("timestamp", "1795370731")
		},
		grant: func(s *Sim, object map[string]any, _ bool) {
			delete(object, "token_type")
			if !s.opts.Endless {
				object["refresh_token_expires_in"] = 7776000
			}
		},
	},
	"quickbooks": {
		unauthorized: `{"Fault":{"Error":[{"Message":"message=AuthenticationFailed","code":"3200"}],"type":"AUTHENTICATION"}}`,
		apiPath:      "/v3/company/kept-realmId/",
		callback:     func(_ *Sim, back url.Values) { back.Set("realmId", "kept-realmId") },
		grant:        func(_ *Sim, object map[string]any, _ bool) { object["x_refresh_token_expires_in"] = 8726400 },
	},
	"hubspot":           {echoes: true, dead: refusal{code: "invalid_grant", detail: "BAD_REFRESH_TOKEN"}, code: refusal{code: "invalid_grant", detail: "BAD_AUTH_CODE"}},
	"stripe":            {echoes: true},
	"zoom":              {unauthorized: `{"code":124,"message":"Access token is expired."}`, grant: answering("api_url", "https://api.zoom.us")},
	"dropbox":           {unauthorized: `{"error_summary":"expired_access_token/","error":{".tag":"expired_access_token"}}`},
	"okta":              {unauthorized: `{"errorCode":"E0000011","errorSummary":"Invalid token provided"}`},
	"linear":            {unauthorized: `{"errors":[{"message":"Authentication required","extensions":{"code":"AUTHENTICATION_ERROR"}}]}`},
	"github_enterprise": {formUnlessAsked: true, unauthorized: `{"message":"Bad credentials"}`},
	"discord": {
		unauthorized: `{"message":"401: Unauthorized","code":0}`,
		companion:    func(_, got, _ string) bool { return strings.HasPrefix(got, "DiscordBot (") },
	},
	"keycloak":  {grant: func(_ *Sim, object map[string]any, _ bool) { object["refresh_expires_in"] = 0 }}, // an offline token
	"airtable":  {grant: func(_ *Sim, object map[string]any, _ bool) { object["refresh_expires_in"] = 5184000 }},
	"microsoft": {grant: func(_ *Sim, object map[string]any, _ bool) { object["ext_expires_in"] = object["expires_in"] }},
	"zoho": { // no preset has this: the way back says which data centre the account is in, and tokens come from there
		unauthorized: `{"code":"INVALID_TOKEN","message":"invalid oauth token"}`,
		callback: func(s *Sim, back url.Values) {
			back.Set("accounts-server", s.opts.Params["accounts-server"])
			back.Set("location", "eu")
		},
		grant: func(_ *Sim, object map[string]any, _ bool) { object["api_domain"] = "https://www.zohoapis.eu" },
	},
	"oidc": {discovers: true, scopes: []string{"openid", "email", "offline_access"}},
}
