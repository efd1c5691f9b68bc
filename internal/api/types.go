package api

import (
	"encoding/json"
	"time"
)

// The resources, as clients get them. The tags `doc` become descriptions in the OpenAPI document, `enum` the values that there are.
// None of these types has a place for a secret.

// Secret is a connection or a certificate.
type Secret struct {
	ID                string  `json:"id" format:"uuid"`
	Name              string  `json:"name"`
	SecretType        string  `json:"secret_type" enum:"oauth2,certificate"`
	Provider          *string `json:"provider" doc:"The preset, or custom. Null for a certificate."`
	RedirectURI       *string `json:"redirect_uri" doc:"What to register at the provider. Null where it is not known here, or not needed."`
	ConnectionStatus  *string `json:"connection_status" enum:"not_connected,connected,expiring,failing,misconfigured,revoked,lost_rotation,disconnected,per_subject" doc:"Null for a certificate."`
	BaseEnvironment   *string `json:"base_environment" doc:"Which environment the options are for. Null for a certificate."`
	CollectionID      *string `json:"collection_id" format:"uuid"`
	MTLSCertificateID *string `json:"mtls_certificate_id" format:"uuid"`

	Tenant          string `json:"tenant,omitempty" doc:"Left out for the default tenant."`
	ConnectionError string `json:"connection_error,omitempty" doc:"Why it is not connected: the error code of the last attempt."`
	ReadOnly        bool   `json:"read_only,omitempty" doc:"It comes from the configuration of the server, and is changed there."`

	Token    *Token    `json:"token,omitempty" doc:"The state of its token set. Left out for a certificate, where each subject has its own, and in lists without expand=standing."`
	Standing *Standing `json:"standing,omitempty" doc:"What else there is to know of how a connection is. Left out in lists without expand=standing."`

	Revision  uint64    `json:"-"` // the ETag; 0 = it cannot be changed here
	CreatedAt time.Time `json:"-"`
	UpdatedAt time.Time `json:"-"`
}

// SecretDetail is a secret with all that may be shown of it.
type SecretDetail struct {
	Secret
	Description   string                     `json:"description,omitempty"`
	CreatedAt     *time.Time                 `json:"created_at,omitempty"`
	UpdatedAt     *time.Time                 `json:"updated_at,omitempty"`
	CreatedBy     string                     `json:"created_by,omitempty"`
	UpdatedBy     string                     `json:"updated_by,omitempty"`
	Options       map[string]json.RawMessage `json:"options,omitempty" doc:"The options of the connection that may be shown, by the names that they are set with."`
	SecretOptions []string                   `json:"secret_options,omitempty" doc:"Options that are set and never shown."`
	Environments  map[string]Environment     `json:"environments,omitempty" doc:"Overriding options, by environment."`
	Certificate   *Certificate               `json:"certificate,omitempty"`
}

// Standing is how a connection is, besides its token set.
type Standing struct {
	NeedsAttention bool           `json:"needs_attention" doc:"Somebody has to do something: its status is misconfigured, lost_rotation, revoked, failing, expiring or not_connected, or one of the first five is that of a subject."`
	Personal       bool           `json:"personal" doc:"People authorize it."`
	Unserved       bool           `json:"unserved,omitempty" doc:"People authorize it, and no site serves oauth2_connect for it."`
	SubjectCounts  map[string]int `json:"subject_counts,omitempty" doc:"Where each subject has a token set of its own: how many of those in the memory of this instance are in each status."`
	LastDay        []Hour         `json:"last_day,omitempty" doc:"How exchanges with the token endpoint went in the last 24 hours, by the hour, as this instance has seen them since it started. Hours without one are left out."`
}

// Hour is what happened in one hour.
type Hour struct {
	From      time.Time `json:"from"`
	Succeeded int       `json:"succeeded"`
	Failed    int       `json:"failed"`
	AverageMS int       `json:"average_ms,omitempty" doc:"How long those took that succeeded, on average, in milliseconds."`
}

// Environment overrides options of a connection.
type Environment struct {
	Options          map[string]json.RawMessage `json:"options"`
	SecretOptions    []string                   `json:"secret_options"`
	ConnectionStatus string                     `json:"connection_status"`
}

// Certificate is what may be shown of a certificate.
type Certificate struct {
	Subject     string     `json:"subject,omitempty"`
	Issuer      string     `json:"issuer,omitempty"`
	Serial      string     `json:"serial,omitempty" doc:"In hex."`
	NotBefore   *time.Time `json:"not_before,omitempty"`
	NotAfter    *time.Time `json:"not_after,omitempty"`
	Fingerprint string     `json:"fingerprint,omitempty" doc:"SHA-256 of the certificate, in hex."`
	ChainLength int        `json:"chain_length" doc:"0: it is a key alone, which signs client assertions."`
	HasKey      bool       `json:"has_key" doc:"Without a key it can only be trusted, not shown to a server."`
}

// Token is the state of a token set.
type Token struct {
	Subject    string `json:"subject,omitempty" doc:"Whose it is. Left out for a connection with one token set for all."`
	Status     string `json:"status" enum:"authorization_required,pending,active,expiring,failing,misconfigured,revoked,lost_rotation,disconnected"`
	Code       string `json:"code,omitempty" doc:"The error code of the last failed attempt."`
	Generation uint64 `json:"generation,omitempty" doc:"Counts token sets, up."`
	Reason     string `json:"reason,omitempty" doc:"Why this generation was obtained."`
	By         string `json:"by,omitempty" doc:"Who did it."`

	IssuedAt         *time.Time `json:"issued_at,omitempty"`
	ExpiresAt        *time.Time `json:"expires_at,omitempty"`
	RefreshAt        *time.Time `json:"refresh_at,omitempty" doc:"When it is refreshed in the background."`
	RefreshExpiresAt *time.Time `json:"refresh_expires_at,omitempty" doc:"When nothing is left to refresh with, as far as the provider says."`
	LastUsed         *time.Time `json:"last_used,omitempty" doc:"By this instance, since it started."`
	NextAttempt      *time.Time `json:"next_attempt,omitempty" doc:"End of the pause after a failure."`
	Attempts         int        `json:"attempts,omitempty" doc:"That failed in a row."`
	Uses             int64      `json:"uses,omitempty" doc:"Requests that asked this instance for the token since it started."`

	Renewable bool `json:"renewable" doc:"There is something to refresh with."`
	Unsaved   bool `json:"unsaved,omitempty" doc:"It is in memory only, because storage fails."`
	Busy      bool `json:"busy,omitempty" doc:"A refresh or a change is under way."`

	Granted   []string `json:"scopes_granted,omitempty"`
	AccountID string   `json:"account_id,omitempty" doc:"Identifies the account at the provider."`
	Label     string   `json:"label,omitempty" doc:"Names the account for people."`
	Also      int      `json:"also_connected,omitempty" doc:"How many others in the tenant have connected the same account."`
	SameToken bool     `json:"same_refresh_token,omitempty" doc:"One of them has the same refresh token: ending one ends both."`

	Actions []string `json:"actions,omitempty" doc:"What the caller may do with it as it is now: authorize, refresh, test, revoke. Left out in lists of subjects."`
}

// Version is one generation of a token set.
type Version struct {
	Version   uint64     `json:"version" doc:"The generation."`
	Current   bool       `json:"current,omitempty"`
	Status    string     `json:"status,omitempty" doc:"How it ended, or how the current one is."`
	Reason    string     `json:"reason,omitempty"`
	By        string     `json:"by,omitempty"`
	IssuedAt  *time.Time `json:"issued_at,omitempty"`
	ExpiresAt *time.Time `json:"expires_at,omitempty"`
	Granted   []string   `json:"scopes_granted,omitempty"`
	AccountID string     `json:"account_id,omitempty"`
	Label     string     `json:"label,omitempty"`

	CanRollBack bool `json:"can_roll_back,omitempty" doc:"The caller may bring it back, as things are now."`
}

// TestResult is what a test call found out.
type TestResult struct {
	OK        bool     `json:"ok"`
	Fault     string   `json:"fault,omitempty" enum:"token,scope,api" doc:"What is at fault."`
	Detail    string   `json:"detail" doc:"For people."`
	Status    int      `json:"http_status,omitempty" doc:"Of the API's answer."`
	Code      string   `json:"code,omitempty"`
	Missing   []string `json:"missing_scopes,omitempty"`
	Unfound   []string `json:"not_found,omitempty" doc:"What should be in the answer and is not."`
	AccountID string   `json:"account_id,omitempty" doc:"Identifies the account at the provider."`
	Label     string   `json:"label,omitempty" doc:"Names the account for people."`
	Also      int      `json:"also_connected,omitempty" doc:"How many others in the tenant have connected the same account."`
	SameToken bool     `json:"same_refresh_token,omitempty" doc:"One of them has the same refresh token: ending one ends both."`
}

// Link is where a person connects an account.
type Link struct {
	AuthorizeURL string `json:"authorize_url" doc:"Open it in the browser of the person whose account it is. Without scheme and host it is on the site that serves oauth2_connect."`
}

// Ended says what became of a connection that was revoked or removed.
type Ended struct {
	ID           string `json:"id" format:"uuid"`
	Deleted      bool   `json:"deleted,omitempty" doc:"The secret itself is gone."`
	Revoked      int    `json:"revoked" doc:"Token sets that ended, and were told to the provider."`
	NotTold      int    `json:"not_told" doc:"Token sets that ended here, while the provider could not be told. Withdraw the consent there."`
	StillRunning int    `json:"still_stored,omitempty" doc:"Token sets that could not be ended in time. Try again."`
}

// Collection groups secrets, so that roles can be given for them.
type Collection struct {
	ID          string    `json:"id" format:"uuid"`
	Name        string    `json:"name"`
	Description string    `json:"description,omitempty"`
	Tenant      string    `json:"tenant,omitempty"`
	Secrets     int       `json:"secrets" doc:"How many there are in it."`
	CreatedAt   time.Time `json:"created_at"`
	UpdatedAt   time.Time `json:"updated_at"`
	Revision    uint64    `json:"-"`
}

// Key is an API key, without the key.
type Key struct {
	ID          string     `json:"id" format:"uuid"`
	Name        string     `json:"name"`
	Prefix      string     `json:"prefix" doc:"How the key begins."`
	Role        string     `json:"role" enum:"viewer,operator,admin"`
	Collections []string   `json:"collections,omitempty" doc:"IDs of the collections that it is for. Left out: all."`
	Tenant      string     `json:"tenant,omitempty"`
	AllTenants  bool       `json:"all_tenants,omitempty"`
	CreatedAt   time.Time  `json:"created_at"`
	CreatedBy   string     `json:"created_by,omitempty"`
	ExpiresAt   *time.Time `json:"expires_at,omitempty"`
	LastUsed    *time.Time `json:"last_used,omitempty"`
	Key         string     `json:"key,omitempty" doc:"The key itself: once, in the answer that made it."`
}

// SealingKeys are the keys that seal what is stored, without the keys.
type SealingKeys struct {
	Open           bool            `json:"open" doc:"Whether what is stored can be read."`
	Error          string          `json:"error,omitempty" doc:"Why not: wrong_key, damaged or unreachable. With open keys: unconfirmed or keyset_changed."`
	Hint           string          `json:"hint,omitempty"`
	EncryptionKeys []EncryptionKey `json:"encryption_keys" doc:"Those that are configured, in their order."`
	DataKeys       []DataKey       `json:"data_keys"`
	Rekey          *RekeyProgress  `json:"rekey,omitempty" doc:"Left out when none is under way."`
	Records        int             `json:"records" doc:"Sealed records."`
	CountedAt      *time.Time      `json:"counted_at,omitempty"`
}

// EncryptionKey is a configured key-encryption key.
type EncryptionKey struct {
	ID        string `json:"id"`
	Wraps     bool   `json:"wraps" doc:"The data keys are wrapped with it."`
	Removable bool   `json:"removable" doc:"Nothing needs it: it can be taken out of the configuration."`
}

// DataKey is a key that records are sealed with.
type DataKey struct {
	ID      uint32     `json:"id"`
	Created *time.Time `json:"created,omitempty"`
	State   string     `json:"state" enum:"seals,next,old,missing"`
	Records int        `json:"records"`
}

// RekeyProgress is how far the replacement of a data key is.
type RekeyProgress struct {
	Phase string   `json:"phase" enum:"publishing,sealing,retiring"`
	Done  int      `json:"done" doc:"Records that are sealed with the new key."`
	Total int      `json:"total"`
	Stuck []string `json:"stuck,omitempty" doc:"Storage keys of some records that could not be sealed anew."`
}

// Health is for load balancers.
type Health struct {
	Status string        `json:"status" enum:"ok,unready"`
	Checks []HealthCheck `json:"checks,omitempty" doc:"Only for callers with a role."`
}

// HealthCheck is one of the things that make up the health.
type HealthCheck struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail,omitempty" doc:"Only for callers who act for all tenants."`
}

// AuditEvent is one change, or one attempt that was denied.
type AuditEvent struct {
	Time      time.Time `json:"time"`
	Action    string    `json:"action"`
	Outcome   string    `json:"outcome" enum:"done,denied,failed"`
	Status    int       `json:"status,omitempty" doc:"HTTP status of the answer."`
	Caller    string    `json:"caller,omitempty"`
	Address   string    `json:"address,omitempty" doc:"From where."`
	Tenant    string    `json:"tenant,omitempty"`
	Target    string    `json:"target,omitempty" doc:"ID of what it was about."`
	Name      string    `json:"name,omitempty" doc:"Name of what it was about."`
	Subject   string    `json:"subject,omitempty"`
	Detail    string    `json:"detail,omitempty"`
	RequestID string    `json:"request_id,omitempty"`
	Times     int       `json:"times,omitempty" doc:"How many attempts alike this one stands for; time is that of the last."`

	Writer string `json:"-"` // the process that has seen it
	Number uint64 `json:"-"` // among those of the tenant that the process has seen, from 1
}

// AuditTrail are the last events, the newest first.
type AuditTrail struct {
	Events     []AuditEvent
	Incomplete bool // what other instances have seen cannot be read
}

// leftOut returns how many events are missing among those that were given, of one tenant and process: its numbers have no other gaps.
func leftOut(events []AuditEvent) (count int) {
	type line struct{ tenant, writer string }
	highest := make(map[line]uint64)
	for _, e := range events {
		at := line{e.Tenant, e.Writer}
		highest[at] = max(highest[at], e.Number)
		count--
	}
	for _, number := range highest {
		count += int(number)
	}
	return max(count, 0)
}

// meta goes with every answer.
type meta struct {
	RequestID string `json:"request_id" doc:"Also in the header X-Request-Id, and in the audit log."`
	Page      int    `json:"page,omitempty"`
	PerPage   int    `json:"per_page,omitempty"`
	Total     *int   `json:"total,omitempty" doc:"How many there are on all pages."`

	NeedsAttention *int           `json:"needs_attention,omitempty" doc:"Of lists of secrets and subjects: how many on all pages need somebody."`
	Statuses       map[string]int `json:"statuses,omitempty" doc:"Likewise: how many on all pages are in each status."`
	LeftOut        int            `json:"left_out,omitempty" doc:"How many events there was no room for, at least. The log has them."`
	Incomplete     bool           `json:"incomplete,omitempty" doc:"The storage cannot be read: only what this instance knows is listed."`
}
