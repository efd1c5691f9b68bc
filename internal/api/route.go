package api

import (
	"crypto/rand"
	"encoding/hex"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// route is one line of the table of routes.
type route struct {
	method, path string
	action       string // for the audit log and as the operation's name
	role         Role   // that it needs; Nobody = open to all
	whole        bool   // the role is needed for the whole tenant, not only in some collections
	global       bool   // it concerns all tenants, and is for callers that may act for all of them
	knows        bool   // it answers more to callers that it knows
	doc          string

	params []param  // of the query
	body   any      // what the body looks like; nil = none
	answer any      // what `data` looks like; nil = none
	list   bool     // `data` is a list of that
	status int      // of success
	etag   bool     // it answers with an ETag
	match  bool     // it wants If-Match
	needs  []string // what must stand in the body

	conflicts bool // the state of things may not allow it
	asks      bool // it may ask a provider, who may refuse

	find   func(*call) error            // looks up what {id} names, and checks the role there
	handle func(*call) (*answer, error) // does the work
	raw    func(*call)                  // instead of handle: writes the answer itself
}

// param is a parameter of the query.
type param struct {
	name, doc string
	enum      []string
	number    bool
}

// kinds are the media types of its body. A change is a merge patch (RFC 7396), by either name.
func (r *route) kinds() []string {
	if r.method == http.MethodPatch {
		return []string{"application/json", "application/merge-patch+json"}
	}
	return []string{"application/json"}
}

// audited reports whether the audit log has a line for an answer: for every change, and for whatever was denied. What is not there has
// one as what is somebody else's: the log, which administrators read, must not tell them apart either.
func (r *route) audited(status int) bool {
	return isDenied(status) || status == http.StatusNotFound || r.method != http.MethodGet
}

// isDenied reports whether a status says that the caller may not.
func isDenied(status int) bool {
	return status == http.StatusUnauthorized || status == http.StatusForbidden || status == http.StatusTooManyRequests
}

var environmentParam = param{name: "environment", doc: "Which environment of the secret. Default: the base environment."}

var subjectSort = param{name: "sort", doc: "By what; a minus in front turns it round. Default: subject.", enum: []string{"subject", "-subject", "attention", "-attention"}}

// pageParams are those of every list.
var pageParams = []param{
	{name: "page", doc: "From 1 on.", number: true}, {name: "per_page", doc: "From 1 to 200. Default: 50.", number: true},
}

// auditParams are those of the list of events.
var auditParams = append([]param{
	{name: "target", doc: "Only those about what has this ID."}, {name: "subject", doc: "Only those about this subject."},
}, pageParams...)

// listParams are those of the list of secrets.
var listParams = append([]param{
	{name: "name", doc: "Only those whose name holds this text."},
	{name: "secret_type", doc: "Only those of this kind.", enum: []string{"oauth2", "certificate"}},
	{name: "provider", doc: "Only those of this provider."},
	{name: "connection_status", doc: "Only those in this state."},
	{name: "collection_id", doc: "Only those in this collection; none = in no collection."},
	{name: "tenant", doc: "Only those of this tenant. For callers that may see several."},
	{name: "sort", doc: "By what; a minus in front turns it round. Default: name.", enum: []string{
		"name", "-name", "created_at", "-created_at", "updated_at", "-updated_at", "provider", "-provider", "connection_status", "-connection_status",
		"attention", "-attention",
	}},
	{name: "expand", doc: "standing: also the token set of each connection, and how it fares.", enum: []string{"standing"}},
}, pageParams...)

// routes is the table. It is filled in init, since the handlers of the OpenAPI document read it.
var routes []*route

func init() {
	routes = slices.Concat(secretRoutes(), tokenRoutes("/v1/secrets/{id}"), tokenRoutes("/v1/secrets/{id}/subjects/{subject}"), otherRoutes())
}

func secretRoutes() []*route {
	return []*route{
		{method: "GET", path: "/v1/secrets", action: "secret.list", role: Viewer, doc: "Lists connections and certificates.",
			params: listParams, answer: Secret{}, list: true, status: 200, handle: (*call).listSecrets},
		{method: "POST", path: "/v1/secrets", action: "secret.create", role: Admin, doc: "Makes a connection or a certificate.",
			body: secretBody{}, needs: []string{"secret_type", "name"}, answer: Secret{}, status: 201, etag: true, handle: (*call).createSecret},
		{method: "POST", path: "/v1/secrets/oauth2", action: "secret.create_oauth2", role: Admin, doc: "Makes a connection.",
			body: secretBody{}, needs: []string{"name", "provider", "client_id"}, answer: Secret{}, status: 201, etag: true, handle: (*call).createConnection},
		{method: "GET", path: "/v1/secrets/{id}", action: "secret.get", role: Viewer, doc: "Shows one, without its secrets.",
			answer: SecretDetail{}, status: 200, etag: true, find: (*call).findSecret, handle: (*call).getSecret},
		{method: "PATCH", path: "/v1/secrets/{id}", action: "secret.update", role: Admin, match: true, conflicts: true,
			doc:  "Changes fields of one; null removes an option (RFC 7396). A change of an endpoint or host needs the secret again.",
			body: secretBody{}, answer: SecretDetail{}, status: 200, etag: true, find: (*call).findSecret, handle: (*call).updateSecret},
		{method: "DELETE", path: "/v1/secrets/{id}", action: "secret.delete", role: Admin, match: true, conflicts: true, asks: true,
			doc: "Revokes all its tokens and removes it.", answer: Ended{}, status: 200, find: (*call).findSecret, handle: (*call).deleteSecret},
		{method: "GET", path: "/v1/secrets/{id}/subjects", action: "subject.list", role: Viewer, conflicts: true, doc: "Lists whose token sets there are.",
			params: append([]param{environmentParam, subjectSort}, pageParams...), answer: Token{}, list: true, status: 200,
			find: (*call).findSecret, handle: (*call).listSubjects},
		{method: "GET", path: "/v1/secrets/{id}/subjects/{subject}", action: "subject.get", role: Viewer, conflicts: true, doc: "Shows the state of one subject's token set.",
			params: []param{environmentParam}, answer: Token{}, status: 200, find: (*call).findSecret, handle: (*call).viewToken},
	}
}

// tokenRoutes are those of a token set, of a whole connection or of one subject.
func tokenRoutes(base string) []*route {
	kind := "token."
	if strings.Contains(base, "{subject}") {
		kind = "subject."
	}
	one := func(method, path, action string, role Role) *route {
		return &route{method: method, path: base + path, action: kind + action, role: role, status: 200,
			params: []param{environmentParam}, find: (*call).findSecret, conflicts: true}
	}
	authorize, refresh, test, revoke := one("POST", "/authorize", "authorize", Operator), one("POST", "/refresh", "refresh", Operator),
		one("POST", "/test", "test", Operator), one("POST", "/revoke", "revoke", Admin)
	versions, rollback := one("GET", "/versions", "versions", Viewer), one("POST", "/versions/{n}/rollback", "rollback", Admin)
	authorize.doc, authorize.answer, authorize.handle = "Answers where a person connects the account.", Link{}, (*call).authorize
	refresh.doc, refresh.answer, refresh.handle = "Replaces the token now.", Token{}, (*call).refresh
	test.doc, test.answer, test.handle = "Asks the provider whose token it is.", TestResult{}, (*call).test
	revoke.doc, revoke.answer, revoke.handle = "Ends the connection: the provider is told, and the tokens are removed.", Ended{}, (*call).revoke
	versions.doc, versions.answer, versions.list, versions.handle = "Lists the token sets that are kept, without tokens.", Version{}, true, (*call).versions
	rollback.doc, rollback.answer, rollback.handle = "Brings an earlier token set back, as a new version.", Token{}, (*call).rollBack
	for _, r := range []*route{refresh, test, revoke, rollback} {
		r.asks = true
	}
	return []*route{authorize, refresh, test, revoke, versions, rollback}
}

func otherRoutes() []*route {
	return []*route{
		{method: "GET", path: "/v1/collections", action: "collection.list", role: Viewer, doc: "Lists collections.",
			params: pageParams, answer: Collection{}, list: true, status: 200, handle: (*call).listCollections},
		{method: "POST", path: "/v1/collections", action: "collection.create", role: Admin, whole: true, doc: "Makes a collection.",
			body: collectionBody{}, needs: []string{"name"}, answer: Collection{}, status: 201, etag: true, handle: (*call).createCollection},
		{method: "GET", path: "/v1/collections/{id}", action: "collection.get", role: Viewer, doc: "Shows a collection.",
			answer: Collection{}, status: 200, etag: true, handle: (*call).getCollection},
		{method: "PATCH", path: "/v1/collections/{id}", action: "collection.update", role: Admin, whole: true, match: true, doc: "Changes a collection.",
			body: collectionBody{}, answer: Collection{}, status: 200, etag: true, handle: (*call).updateCollection},
		{method: "DELETE", path: "/v1/collections/{id}", action: "collection.delete", role: Admin, whole: true, match: true, conflicts: true,
			doc: "Removes an empty collection.", answer: Removed{}, status: 200, handle: (*call).deleteCollection},
		{method: "GET", path: "/v1/api-keys", action: "api_key.list", role: Admin, whole: true, doc: "Lists API keys, without the keys.",
			params: pageParams, answer: Key{}, list: true, status: 200, handle: (*call).listKeys},
		{method: "POST", path: "/v1/api-keys", action: "api_key.create", role: Admin, whole: true, doc: "Makes an API key, and shows it this once.",
			body: keyBody{}, answer: Key{}, status: 201, handle: (*call).createKey},
		{method: "GET", path: "/v1/api-keys/{id}", action: "api_key.get", role: Admin, whole: true, doc: "Shows an API key, without the key.",
			answer: Key{}, status: 200, handle: (*call).getKey},
		{method: "DELETE", path: "/v1/api-keys/{id}", action: "api_key.delete", role: Admin, whole: true, doc: "Revokes an API key.",
			answer: Removed{}, status: 200, handle: (*call).deleteKey},
		{method: "GET", path: "/v1/sealing-keys", action: "sealing_key.get", role: Admin, whole: true, global: true,
			doc: "Shows the keys that seal what is stored, and how far a replacement is.", answer: SealingKeys{}, status: 200, handle: (*call).sealingKeys},
		{method: "POST", path: "/v1/sealing-keys/rekey", action: "sealing_key.rekey", role: Admin, whole: true, global: true,
			doc:    "Begins to replace the data key, while everything runs. One that is under way goes on.",
			answer: SealingKeys{}, status: 200, handle: (*call).rekey},
		{method: "GET", path: "/v1/audit", action: "audit.list", role: Admin, whole: true,
			doc:    "Lists the last changes and denied attempts, of all instances on the storage, the newest first.",
			params: auditParams, answer: AuditEvent{}, list: true, status: 200, handle: (*call).listAudit},
		{method: "GET", path: "/v1/health", action: "health", knows: true, doc: "Tells a load balancer whether this instance is ready: 200 or 503.",
			answer: Health{}, status: 200, handle: (*call).health},
		{method: "GET", path: "/v1/openapi.json", action: "openapi", doc: "This document.", status: 200, raw: (*call).openAPI},
	}
}

// match finds the route of a path, as it was escaped. allowed are the methods that there would have been.
func match(method, path string) (found *route, vars map[string]string, allowed []string) {
	parts := strings.Split(path, "/")
	best := 0 // what is written out counts more than a variable: /v1/secrets/oauth2 is not an ID
	for _, r := range routes {
		got, literal, ok := r.fits(parts)
		if !ok {
			continue
		}
		if r.method != method && !(method == http.MethodHead && r.method == http.MethodGet) {
			if !slices.Contains(allowed, r.method) {
				allowed = append(allowed, r.method)
			}
			continue
		}
		if literal > best {
			found, vars, best = r, got, literal
		}
	}
	if slices.Contains(allowed, http.MethodGet) {
		allowed = append(allowed, http.MethodHead)
	}
	slices.Sort(allowed)
	return found, vars, allowed
}

// fits compares a path with the route's, and counts the parts that are written out in it.
func (r *route) fits(parts []string) (vars map[string]string, literal int, ok bool) {
	pattern := strings.Split(r.path, "/")
	if len(pattern) != len(parts) {
		return nil, 0, false
	}
	vars = make(map[string]string)
	for i, want := range pattern {
		if !strings.HasPrefix(want, "{") {
			if parts[i] != want {
				return nil, 0, false
			}
			literal++
			continue
		}
		value, err := url.PathUnescape(parts[i])
		if err != nil || value == "" {
			return nil, 0, false
		}
		vars[strings.Trim(want, "{}")] = value
	}
	return vars, literal, true
}

// newRequestID makes what a request is called in logs.
func newRequestID() string {
	id := make([]byte, 12)
	_, _ = rand.Read(id) // never fails: crypto/rand aborts the program instead
	return "req_" + hex.EncodeToString(id)
}
