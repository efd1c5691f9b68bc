package alert

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// Generic is the body of a message for programs, in the form that the Standard Webhooks specification proposes.
type Generic struct {
	Type      string    `json:"type"` // oauth2_inject.alert or oauth2_inject.recovery
	Timestamp time.Time `json:"timestamp"`
	Data      Data      `json:"data"`
}

// Data is what a program is told. What is not known is left out.
type Data struct {
	Connection     string     `json:"connection"`
	Status         string     `json:"status"` // `well` after a recovery
	PreviousStatus string     `json:"previous_status,omitempty"`
	Code           string     `json:"code,omitempty"`
	Since          *time.Time `json:"since,omitempty"`
	Affected       int        `json:"affected,omitempty"`
	Others         int        `json:"others,omitempty"`
	Reminder       bool       `json:"reminder,omitempty"`
	Instance       string     `json:"instance,omitempty"`
	Summary        string     `json:"summary"`
}

// JSON returns the body for programs. instance is the machine that tells.
func JSON(n News, instance string, now time.Time) []byte {
	message := Generic{Type: "oauth2_inject.alert", Timestamp: now.UTC().Truncate(time.Second), Data: Data{
		Connection: n.Connection, Status: n.Status, PreviousStatus: n.Was, Code: n.Code, Affected: n.Affected, Others: n.Others,
		Reminder: n.Reminder, Instance: instance, Summary: n.Summary(now),
	}}
	if n.Status == "" {
		message.Type, message.Data.Status = "oauth2_inject.recovery", "well"
	}
	if !n.Since.IsZero() {
		since := n.Since.UTC().Truncate(time.Second)
		message.Data.Since = &since
	}
	return encode(message)
}

// Slack returns the body for an incoming webhook of Slack, and of what speaks its language (Mattermost, Rocket.Chat, Discord's
// /slack).
func Slack(n News, instance string, now time.Time) []byte {
	sign := ":rotating_light:"
	if n.Status == "" {
		sign = ":white_check_mark:"
	}
	// https://api.slack.com/reference/surfaces/formatting#escaping: a name must not become a link or a mention.
	escape := strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")
	return encode(map[string]string{"text": fmt.Sprintf("%s %s\n_Caddy on %s_", sign, escape.Replace(n.Summary(now)), escape.Replace(instance))})
}

func encode(message any) []byte {
	body, err := json.Marshal(message)
	if err != nil {
		panic(err) // strings, numbers and times always encode
	}
	return body
}

// meanings say what a status means, and what to do.
var meanings = map[string]string{
	"disconnected":           "was ended",
	"authorization_required": "nobody has connected an account; a person has to",
	"expiring":               "access ends soon and cannot be prolonged; a person has to connect the account again",
	"certificate_expiring":   "the client certificate ends soon; renew its files",
	"failing":                "no new token can be had at the moment; it is tried again and again",
	"misconfigured":          "the provider refuses the client; correct its configuration",
	"revoked":                "the consent is gone; a person has to connect the account again",
	"lost_rotation":          "a new refresh token was lost; a person has to connect the account again",
	"unsaved":                "a new token cannot be stored; repair the storage before anything is restarted",
}

// Summary says it in one sentence.
func (n News) Summary(now time.Time) string {
	if n.Status == "" {
		text := fmt.Sprintf("OAuth2 connection %q is in no trouble any more", n.Connection)
		if n.Was != "" {
			text += fmt.Sprintf(" (was %s", n.Was)
			if !n.Since.IsZero() {
				text += " for " + now.Sub(n.Since).Round(time.Second).String()
			}
			text += ")"
		}
		return text
	}
	text := fmt.Sprintf("OAuth2 connection %q is %s: %s", n.Connection, n.Status, meanings[n.Status])
	if n.Reminder {
		text = fmt.Sprintf("OAuth2 connection %q is still %s: %s", n.Connection, n.Status, meanings[n.Status])
	}
	if n.Code != "" {
		text += fmt.Sprintf(" [%s]", n.Code)
	}
	text += ". Since " + n.Since.UTC().Format("2006-01-02 15:04 MST")
	if n.Affected > 1 {
		text += fmt.Sprintf(", %d subjects", n.Affected)
	}
	if n.Others > 0 {
		text += fmt.Sprintf("; %d more connections are in trouble", n.Others)
	}
	return text
}
