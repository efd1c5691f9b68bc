// Package connection holds the life of a token set: what is known of it, how it changes, and how it is refreshed.
//
// A connection is a configured client at an authorization server; a subject is whose token it is. For each pair there is
// one [Source] in a process. The package decides HOW a token set is refreshed: one flight at a time, under the storage
// lock, loading again first, writing down the intent, asking once, saving before publishing. WHEN a refresh is due in the
// background, where records are stored and how they are sealed is decided by the packages above.
//
// It imports the standard library, internal/oauth and internal/secret. It knows nothing of Caddy.
package connection

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// ID names whose token set it is. It is comparable.
type ID struct {
	Tenant     string // "" is the default tenant
	Connection string // the connection's configured name, never empty
	Subject    string // "" = one token set for the whole connection
}

// Digest returns eight hex digits that tell IDs apart in logs without showing a subject.
func (id ID) Digest() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d:%s%d:%s%d:%s",
		len(id.Tenant), id.Tenant, len(id.Connection), id.Connection, len(id.Subject), id.Subject))
	return hex.EncodeToString(sum[:4])
}

// Status is the state that a token set is in, as operators see it.
type Status string

// The states of a token set.
const (
	StatusAuthorizationRequired Status = "authorization_required" // nobody has authorized yet, or must do so again
	StatusPending               Status = "pending"                // a machine connection whose first token is yet to be fetched
	StatusActive                Status = "active"                 // a usable token is there
	StatusExpiring              Status = "expiring"               // active, but soon only a person can go on; never stored
	StatusFailing               Status = "failing"                // temporary: the current token is served until its own expiry
	StatusMisconfigured         Status = "misconfigured"          // our client is refused; tokens are kept
	StatusRevoked               Status = "revoked"                // the refresh token is dead: a person must authorize again
	StatusLostRotation          Status = "lost_rotation"          // as revoked, caused by an outcome that we never learned
	StatusDisconnected          Status = "disconnected"           // ended on purpose
)

// NeedsPerson reports whether only a person can bring the token set back.
func (s Status) NeedsPerson() bool {
	switch s {
	case StatusAuthorizationRequired, StatusRevoked, StatusLostRotation, StatusDisconnected:
		return true
	default:
		return false
	}
}

// Reason says why a token set was obtained.
type Reason string

// The reasons for a generation.
const (
	ReasonFirst    Reason = "first"    // there was none
	ReasonExpired  Reason = "expired"  // the old one had no usable time left
	ReasonAhead    Reason = "ahead"    // in the background, before expiry
	ReasonRejected Reason = "rejected" // the resource server answered 401 to the old one
	ReasonForced   Reason = "forced"   // somebody asked for it
	ReasonIdle     Reason = "idle"     // nobody asked for a token, and the refresh token would have died of that

	ReasonRequested Reason = "requested" // a request came, and each gets a new one

	ReasonAuthorized   Reason = "authorized"   // a person authorized
	ReasonRolledBack   Reason = "rolled_back"  // an earlier generation was brought back
	ReasonDisconnected Reason = "disconnected" // ended on purpose; such a generation holds no tokens
)

// TokenSet is what the token endpoint returned, whole.
type TokenSet struct {
	// Generation counts the token sets of one ID up from 1; 0 means that there is none.
	Generation   uint64
	AccessToken  secret.Text
	RefreshToken secret.Text
	TokenType    string // as the server sent it
	Scope        string // as granted; "" = as requested
	IssuedAt     time.Time
	ExpiresAt    time.Time // never zero in a stored set: the default lifetime is applied when the server is silent

	// RefreshExpiresAt is when the refresh token dies of age, as far as it is known; zero = not known, or never. RefreshIssuedAt is
	// since when that end stands: a refresh may move it, or leave it where it is.
	RefreshExpiresAt, RefreshIssuedAt time.Time

	Reason       Reason      // why it was obtained
	Nonce        string      // which process obtained it
	By           string      // who authorized, forced, rolled back or disconnected; "" for other refreshes
	Root         uint64      // the generation with which the person authorized; 0 = a machine's, or not known
	AuthorizedAt time.Time   // when they did
	Response     secret.Text // the whole response without the two tokens, as JSON
	Consent      *Consent    // what the authorization brought besides the tokens; nil for machines. Never changed, only replaced
}

// Consent is what a person's authorization brought along besides the tokens. It goes on from generation to generation until the
// next authorization. Nothing in it is secret, but it is about a person: logs show none of it.
type Consent struct {
	Requested []string          // the scopes that were asked for
	Fields    map[string]string // what the person was asked for before (region, shop, ...)
	Callback  map[string]string // parameters of the way back that templates may use (realmId, ...)
	AccountID string            // identifies the account at the provider, as the test call or an ID token said; "" = not known
	Label     string            // names the account for people; "" = not known
	Found     map[string]string // further fields that the test call found (xero_tenant_id, ...)
	Origin    string            // SHA-256 of the refresh token that it began with; "" = it came with none
}

// Intent is written before the token endpoint is called. One that is found later means: the outcome is unknown.
type Intent struct {
	Generation    uint64 // the generation that is to be replaced
	RefreshDigest string // SHA-256 of the refresh token that is sent; "" for grants without one
	Nonce         string // the process that asks
	At            time.Time
	Repeated      bool // an earlier intent for the same refresh token was found open: the exchange before this one is unknown
}

// Failure is the last failed attempt, safe to show.
type Failure struct {
	Code     string // the error code of RFC 6749 section 5.2, or one of ours
	At       time.Time
	Attempts int // in a row
}

// Record is everything that is stored about one ID.
type Record struct {
	ID          ID
	Fingerprint string // digest of what the token depends on; see Settings.Fingerprint
	Status      Status
	Current     TokenSet
	Intent      *Intent  // nil when no outcome is open
	Failure     *Failure // nil when the last attempt succeeded
	UpdatedAt   time.Time
}
