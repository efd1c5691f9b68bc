// Package api is the REST API: which requests there are, who may send them, what they look like, and how they are answered.
//
// It knows callers, roles, tenants and collections, and decides alone what a caller may see or do: everything that it is given
// to look through is looked through with the caller's eyes. It knows nothing of OAuth, storage or Caddy; what the requests do is done
// by the operations that it is given. The routes are one table, from which the OpenAPI document is made as well.
//
// It may import the standard library, nothing else.
package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// Secrets are the connections and certificates. Names, tenants and collections in what they are given were checked against the
// caller's role; everything else they check themselves. Their errors are of type [*Error], or unexpected.
type Secrets interface {
	// List returns all of them, of all tenants. Without their states it asks nobody, not even the storage.
	List(ctx context.Context, states bool) ([]Secret, error)
	Describe(ctx context.Context, id string) (SecretDetail, error)
	Create(ctx context.Context, by string, draft Draft) (Secret, error)
	// Update changes one if it is still of that revision.
	Update(ctx context.Context, at Target, draft Draft) (SecretDetail, error)
	Delete(ctx context.Context, at Target) (Ended, error)
}

// Tokens are the token sets of connections.
type Tokens interface {
	View(ctx context.Context, ref Ref) (Token, error)
	Refresh(ctx context.Context, ref Ref) (Token, error)
	Test(ctx context.Context, ref Ref) (TestResult, error)
	Revoke(ctx context.Context, ref Ref) (Ended, error)
	Authorize(ctx context.Context, ref Ref) (Link, error)
}

// Versions are the generations of token sets.
type Versions interface {
	History(ctx context.Context, ref Ref) ([]Version, error)
	RollBack(ctx context.Context, ref Ref, version uint64) (Token, error)
	Subjects(ctx context.Context, ref Ref) ([]Token, error)
}

// Collections group secrets.
type Collections interface {
	List(ctx context.Context) ([]Collection, error)
	Create(ctx context.Context, by string, draft CollectionDraft) (Collection, error)
	Update(ctx context.Context, at Target, draft CollectionDraft) (Collection, error)
	Delete(ctx context.Context, at Target) error
}

// Keys are the API keys.
type Keys interface {
	List(ctx context.Context) ([]Key, error)
	Create(ctx context.Context, by string, draft KeyDraft) (Key, error)
	Delete(ctx context.Context, at Target) error
}

// Sealing are the keys that seal what is stored, of all tenants.
type Sealing interface {
	Status(ctx context.Context) (SealingKeys, error)
	// Rekey begins to replace the key that seals, or leaves a replacement that is under way alone.
	Rekey(ctx context.Context) (SealingKeys, error)
}

// Service is what the API works with.
type Service struct {
	Secrets     Secrets
	Tokens      Tokens
	Versions    Versions
	Collections Collections
	Keys        Keys
	Sealing     Sealing
	Health      func(ctx context.Context) Health
	Trail       func(ctx context.Context) AuditTrail // of all tenants
	Record      func(AuditEvent)                     // keeps one
	Once        Once                                 // for Idempotency-Key; nil = the header is ignored
	Options     []Option                             // that a connection may have besides those of Draft, for the OpenAPI document
}

// Option is an option of a connection by its name in the configuration.
type Option struct {
	Name string
	Type reflect.Type
	Doc  string
}

// Target is what a change is about, and what the caller thinks that it is.
type Target struct {
	ID       string
	Revision uint64 // that it must have; 0 = any
	By       string
}

// Ref names a token set, and who acts on it.
type Ref struct {
	ID          string // of the secret
	Subject     string // whose; "" for a connection with one token set for all
	Environment string // "" = the base environment
	By          string
}

// API answers requests. Its zero value is not usable; call New.
type API struct {
	Service
	limits *limiter
}

// New returns the API over a service.
func New(service Service) *API {
	return &API{Service: service, limits: newLimiter()}
}

// Access says how requests come in at one place: who they are from, and how many there may be.
type Access struct {
	// Identify returns who sends a request, or why it is not known. Its error is an [*Error].
	Identify func(r *http.Request) (Caller, error)
	// Address says where a request comes from, for the audit log.
	Address func(r *http.Request) string
	// Limit is how many requests a minute one caller may send; 0 = no limit.
	Limit int
	// Prefix is what stands before /v1 in links.
	Prefix string
}

// call is one request on its way through the API.
type call struct {
	*API
	access Access
	w      http.ResponseWriter
	r      *http.Request
	route  *route
	vars   map[string]string // of the path
	query  url.Values
	id     string // of the request
	caller Caller

	secret *Secret // what the path names; nil = none
	target string  // what the answer is about, for the audit log
	name   string
	tenant string
	body   []byte
	fresh  *answer // of work that was done just now
}

// answer is what a handler answers.
type answer struct {
	status   int
	data     any
	meta     meta
	revision uint64 // becomes the ETag; 0 = none
	location string
}

// Serve answers a request whose path begins with /v1, escaped as it came.
func (a *API) Serve(w http.ResponseWriter, r *http.Request, path string, access Access) {
	c := &call{API: a, access: access, w: w, r: r, id: newRequestID()}
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("X-Request-Id", c.id)
	var allowed []string
	c.route, c.vars, allowed = match(r.Method, path)
	if c.route == nil {
		err := NotFound()
		if len(allowed) > 0 {
			header.Set("Allow", strings.Join(allowed, ", ")) // RFC 9110 section 15.5.6
			err = &Error{Status: http.StatusMethodNotAllowed, Type: typeMethod, Message: "this path has no " + r.Method}
		}
		c.refuse(err)
		return
	}
	if err := c.admit(); err != nil {
		c.finish(nil, err)
		return
	}
	if c.route.raw != nil {
		c.route.raw(c)
		return
	}
	out, err := c.run()
	c.finish(out, err)
}

// admit decides whether the caller may send this request at all.
func (c *call) admit() (err error) {
	if c.route.role > Nobody || c.route.knows {
		if c.caller, err = c.access.Identify(c.r); err != nil && c.route.role > Nobody {
			return err
		}
	}
	if c.route.role == Nobody {
		return nil
	}
	c.tenant = c.caller.Tenant
	if err = c.count(c.caller, c.access); err != nil {
		return err
	}
	if c.route.global && !c.caller.AllTenants {
		return forbidden("this is for callers that may act for all tenants")
	}
	// Before anything is looked up: a role that is nowhere enough is told so for every ID, whether it is there or not.
	if c.caller.anywhere() < c.route.role || c.route.whole && c.caller.in(c.caller.Tenant, "") < c.route.role {
		return forbidden("this needs the role %s", c.route.role)
	}
	if c.query, err = c.readQuery(); err != nil {
		return err
	}
	if _, ok := c.vars["id"]; ok && c.route.find != nil {
		return c.route.find(c)
	}
	return nil
}

// run reads the body and lets the route do its work, once for each Idempotency-Key.
func (c *call) run() (*answer, error) {
	if err := c.readBody(); err != nil {
		return nil, err
	}
	key := c.r.Header.Get("Idempotency-Key")
	if key == "" || c.r.Method != http.MethodPost || c.Once == nil {
		return c.route.handle(c)
	}
	return c.once(key)
}

// finish writes the answer, and into the audit log what was changed or denied.
func (c *call) finish(out *answer, err error) {
	var status int
	if err != nil {
		status = c.refuse(err)
	} else {
		status = out.status
		c.write(out)
	}
	if !c.route.audited(status) {
		return
	}
	c.Record(AuditEvent{
		Time: time.Now().UTC(), Action: c.route.action, Outcome: outcomeOf(status), Status: status, Caller: c.caller.Name, Address: c.access.Address(c.r),
		Tenant: c.tenant, Target: c.target, Name: c.name, Subject: c.vars["subject"], RequestID: c.id, Detail: detailOf(err),
	})
}

// outcomeOf puts a status into the audit log's words.
func outcomeOf(status int) string {
	switch {
	case isDenied(status), status == http.StatusNotFound:
		return "denied"
	case status >= http.StatusBadRequest:
		return "failed"
	}
	return "done"
}

func detailOf(err error) string {
	var refusal *Error
	if errors.As(err, &refusal) {
		return refusal.Type
	}
	return ""
}

// write sends an answer.
func (c *call) write(out *answer) {
	out.meta.RequestID = c.id
	if out.revision > 0 {
		c.w.Header().Set("ETag", etag(out.revision))
	}
	if out.location != "" {
		c.w.Header().Set("Location", c.access.Prefix+out.location)
	}
	c.send(out.status, map[string]any{"data": out.data, "meta": out.meta})
}

// refuse sends an error and returns its status. What is unexpected is not shown.
func (c *call) refuse(err error) int {
	var refusal *Error
	if !errors.As(err, &refusal) {
		refusal = &Error{Status: http.StatusInternalServerError, Type: typeInternal, Message: "something is not working here; the log has the request's ID"}
		if cause := c.r.Context().Err(); cause != nil {
			refusal = Unavailable(0, "the request was given up")
		}
	}
	if refusal.Status == http.StatusUnauthorized {
		c.w.Header().Set("WWW-Authenticate", `Bearer realm="oauth2_api"`)
	}
	if refusal.RetryAfter > 0 {
		c.w.Header().Set("Retry-After", strconv.Itoa(int((refusal.RetryAfter+time.Second-1)/time.Second)))
	}
	body := errorBody{Error: errorDetail{Type: refusal.Type, Message: refusal.Message, Fields: refusal.Fields}, Meta: meta{RequestID: c.id}}
	if len(refusal.Fields) > 0 {
		body.Error.Field = refusal.Fields[0].Field
	}
	c.send(refusal.Status, body)
	return refusal.Status
}

func (c *call) send(status int, body any) {
	text, err := json.Marshal(body)
	if err != nil { // cannot be: the types here always encode
		status, text = http.StatusInternalServerError, []byte(`{"error":{"type":"internal_error","message":"the answer cannot be written"},"meta":{}}`)
	}
	c.w.Header().Set("Content-Type", "application/json")
	c.w.WriteHeader(status)
	if c.r.Method != http.MethodHead {
		_, _ = c.w.Write(append(text, '\n'))
	}
}

// etag is the entity tag of a revision.
func etag(revision uint64) string { return `"` + strconv.FormatUint(revision, 10) + `"` }

// precondition returns the revision that the client has seen (RFC 9110 section 13.1.1); 0 = any.
func (c *call) precondition() (uint64, error) {
	seen := c.r.Header.Get("If-Match")
	switch seen {
	case "":
		return 0, &Error{Status: http.StatusPreconditionRequired, Type: typePrecondition, Message: "send the ETag that you have seen as If-Match"}
	case "*":
		return 0, nil
	}
	revision, err := strconv.ParseUint(strings.Trim(seen, `"`), 10, 64)
	if err != nil || etag(revision) != seen || revision == 0 {
		return 0, Stale()
	}
	return revision, nil
}
