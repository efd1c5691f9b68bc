package api

import (
	"errors"
	"net/http"
	"time"
)

// Visit admits somebody to a page that is made of the answers to several requests, and returns who it is. The visit is counted once,
// against the limit of the place; an attempt that is denied is in the audit log under the action, as that of a request is. The requests
// of the visit are then served without a limit.
func (a *API) Visit(r *http.Request, action string, access Access) (Caller, error) {
	caller, err := access.Identify(r)
	if err == nil {
		err = a.count(caller, access)
	}
	if err == nil && caller.anywhere() < Viewer {
		err = forbidden("this needs the role %s", Viewer)
	}
	var refusal *Error
	if errors.As(err, &refusal) && isDenied(refusal.Status) {
		a.Record(AuditEvent{
			Time: time.Now().UTC(), Action: action, Outcome: outcomeOf(refusal.Status), Status: refusal.Status, Caller: caller.Name,
			Address: access.Address(r), Tenant: caller.Tenant, Detail: refusal.Type,
		})
	}
	return caller, err
}

// count takes a request from what the caller may send at that place, or says how long to wait.
func (a *API) count(caller Caller, access Access) error {
	wait := a.limits.wait(access.Prefix+"\x00"+caller.Tenant+"\x00"+caller.Name, access.Limit)
	if wait == 0 {
		return nil
	}
	return &Error{Status: http.StatusTooManyRequests, Type: typeRate, Message: "too many requests; slow down", RetryAfter: wait}
}
