package dashboard

import (
	"cmp"
	"fmt"
	"net/url"
	"slices"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/api"
)

// standingRow is a connection, or one subject of it, as the pages show it.
type standingRow struct {
	Key                    string // names it in the page
	Name, Tenant, Provider string
	Href                   string
	Tone, State, Advice    string
	Code                   string
	api.Token
	Alarm   bool     // it needs somebody
	Renews  bool     // it has ended, and is refreshed when it is used next
	Counts  []string // of the subjects in memory, by state
	Account string   // its ID, as people read it; the API escapes its parts
	Day     *dayView
}

// statusWords say how bad a status is, what it is called, and what to do.
type statusWords struct {
	tone, state, advice string
	alarm               bool // it needs somebody, if it is that of a subject; of connections the API says so
}

// stateWords are those of each status, of token sets and of connections.
var stateWords = map[string]statusWords{
	"misconfigured":          {"failed", "Refused", "The provider refuses the client. Correct the configuration; a secret or certificate file is read again by itself.", true},
	"lost_rotation":          {"ended", "Lost rotation", "A new refresh token was lost on its way. A person has to connect the account again.", true},
	"revoked":                {"ended", "Revoked", "The consent is gone. A person has to connect the account again.", true},
	"failing":                {"weak", "Failing", "The provider cannot be asked at the moment. This is tried again by itself.", true},
	"expiring":               {"weak", "Ends soon", "What refreshes it ends soon. A person has to connect the account again before.", true},
	"authorization_required": {"off", "Not connected", "A person has to connect the account.", true},
	"not_connected":          {"off", "Not connected", "A person has to connect the account.", true},
	"disconnected":           {"off", "Disconnected", "It was ended on purpose.", false},
	"pending":                {"off", "Ready", "The first token is fetched when it is needed.", false},
	"per_subject":            {"on", "One for each person", "", false},
	"active":                 {"on", "Active", "", false},
	"connected":              {"on", "Active", "", false},
}

// faultWords are those of what is wrong with a connection that has no token set to look at, by its code.
var faultWords = map[string]statusWords{
	"storage":                   {"weak", "Not known", "The storage cannot be read at the moment.", true},
	"invalid_options":           {"failed", "Not usable", "Its options cannot be used as they are. The log says why.", true},
	"shadowed_by_configuration": {"failed", "Hidden", "The server's configuration has a connection of the same name, and that one is used.", true},
}

// troubles are the statuses of one subject that are the connection's trouble, the worst first.
var troubles = []string{"misconfigured", "lost_rotation", "revoked", "failing", "expiring"}

// order is that in which states are counted, the worst first.
var order = append(slices.Clone(troubles), "not_connected", "disconnected", "per_subject", "connected")

// unserved is what to do where nobody can connect an account.
const unserved = "No site serves oauth2_connect for it, so nobody can connect an account. Add oauth2_connect to a site."

// What to do about the accounts of people, on the overview and on the page that lists them.
const (
	troubled      = "An account of somebody is in trouble; open the connection to see whose."
	troubledBelow = "An account of somebody is in trouble: the first of those below."
)

// describe puts a status into words.
func (row *standingRow) describe(status string) {
	said, known := stateWords[status]
	if !known {
		said = statusWords{tone: "weak", state: status}
	}
	row.Tone, row.State, row.Advice, row.Alarm = said.tone, said.state, said.advice, said.alarm
	row.Account = row.AccountID
	if plain, err := url.QueryUnescape(row.AccountID); err == nil {
		row.Account = plain
	}
	if said.tone == "ended" || said.tone == "off" {
		row.NextAttempt = nil // which nobody waits for: it would not help
		row.ExpiresAt = nil   // of a token that is not sent any more
	}
	if row.Renews = said.tone == "on" && row.Renewable && row.ExpiresAt != nil && row.ExpiresAt.Before(time.Now()); row.Renews {
		row.State, row.Advice = "Resting", "Its token has ended while nobody used it, and is refreshed when it is used next."
	}
}

// rowOf shows a connection.
func (b *Board) rowOf(secret api.Secret) standingRow {
	row := standingRow{
		Key: secret.ID, Name: secret.Name, Tenant: secret.Tenant, Provider: textOf(secret.Provider), Href: b.path + spot{id: secret.ID}.page(),
		Code: secret.ConnectionError,
	}
	status := textOf(secret.ConnectionStatus)
	if secret.Token != nil {
		row.Token = *secret.Token
		status, row.Code = secret.Token.Status, cmp.Or(secret.Token.Code, row.Code)
	}
	row.describe(status)
	if said, known := faultWords[row.Code]; known && secret.Token == nil {
		row.Tone, row.State, row.Advice = said.tone, said.state, said.advice
	}
	if standing := secret.Standing; standing != nil {
		row.count(standing.SubjectCounts)
		row.Alarm, row.Day = standing.NeedsAttention, viewDay(standing.LastDay, time.Now())
		if standing.Unserved && row.Tone != "on" {
			row.Advice = unserved
		}
	}
	return row
}

// count sums up the subjects in memory, and takes over the trouble of the one who is worst off.
func (row *standingRow) count(subjects map[string]int) {
	for _, status := range sortedNames(subjects) {
		row.Counts = append(row.Counts, fmt.Sprintf("%d %s", subjects[status], lowerFirst(cmp.Or(stateWords[status].state, status))))
	}
	for _, status := range troubles {
		if subjects[status] > 0 {
			row.Tone, row.Advice = stateWords[status].tone, troubled
			return
		}
	}
}

// rowsOf shows subjects of a connection.
func (b *Board) rowsOf(at spot, subjects []api.Token) []standingRow {
	rows := make([]standingRow, 0, len(subjects))
	for _, one := range subjects {
		row := standingRow{Key: one.Subject, Token: one, Name: one.Subject, Code: one.Code, Href: b.path + spot{id: at.id, subject: one.Subject}.page()}
		row.describe(one.Status)
		rows = append(rows, row)
	}
	return rows
}
