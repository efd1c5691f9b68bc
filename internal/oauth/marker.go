package oauth

import "encoding/json"

// errorMarker looks for the ways in which servers say "no", also under a status of 200, and returns the code that came
// with it as it was sent, or "".
//
//	{"error":"invalid_grant"}                     RFC 6749 section 5.2; GitHub, Zoho, Reddit with 200
//	{"error":{"type":"...","code":190}}           Meta
//	{"ok":false,"error":"token_revoked"}          Slack
//	{"success":false}, {"errors":[{"code":...}]}  Square and others
//	{"status":"BAD_REFRESH_TOKEN","message":...}  HubSpot; Twitch with a number as status
//	{"errorCode":"invalid_client"}                Okta
//	{"error":{".tag":"expired_access_token"}}     Dropbox's API, where tokens are revoked
func errorMarker(object map[string]any) (code string, marked bool) {
	for _, name := range []string{"error", "errors"} {
		if v := object[name]; !blank(v) {
			marked = true
			if code = codeIn(v); code != "" {
				return code, true
			}
		}
	}
	for _, name := range []string{"ok", "success"} {
		if v, isBool := object[name].(bool); isBool && !v {
			marked = true
		}
	}
	if _, granted := object["access_token"]; !granted {
		for _, name := range []string{"errorCode", "error_code", "message"} {
			marked = marked || !blank(object[name])
		}
	}
	if !marked {
		return "", false
	}
	// A sibling's text counts if it can be a code at all; "status" may as well be "error" or a sentence.
	for _, name := range []string{"error_code", "errorCode", "code", "status", "type"} {
		if s, isString := object[name].(string); isString && plainCode(s) {
			return s, true
		}
	}
	return "", true
}

// codeIn finds the code in the value of an error field.
func codeIn(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case []any:
		return codeIn(v[0]) // not blank, so it has one
	case map[string]any:
		for _, name := range []string{"code", "error", "errorCode", "type", "status", "reason", ".tag"} {
			if s, isString := v[name].(string); isString && s != "" {
				return s
			}
		}
	}
	return ""
}

// blank reports whether a field is there in name only.
func blank(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case bool:
		return !v
	case string:
		return v == ""
	case json.Number:
		n, err := v.Float64()
		return err == nil && n == 0
	case []any:
		return len(v) == 0
	case map[string]any:
		return len(v) == 0
	}
	return false
}
