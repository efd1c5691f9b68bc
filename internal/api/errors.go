package api

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Error is a refusal as the client gets it. Its texts are safe to show: they repeat no secret, and nothing of other tenants.
type Error struct {
	Status     int
	Type       string
	Message    string
	Fields     []Fault // what is wrong with which field, for a validation_error
	RetryAfter time.Duration
}

// Fault says what is wrong with one field of a request.
type Fault struct {
	Field   string `json:"field" doc:"Name of the field, as it was sent; that of a nested one is joined by dots."`
	Message string `json:"message"`
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

// The kinds of errors.
const (
	typeValidation   = "validation_error"
	typeUnauthorized = "unauthorized"
	typeForbidden    = "forbidden"
	typePlanLimit    = "plan_limit"
	typeNotFound     = "not_found"
	typeMethod       = "method_not_allowed"
	typeConflict     = "conflict"
	typeStale        = "precondition_failed"
	typeTooLarge     = "payload_too_large"
	typeMedia        = "unsupported_media_type"
	typePrecondition = "precondition_required"
	typeRate         = "rate_limited"
	typeInternal     = "internal_error"
	typeProvider     = "provider_error"
	typeUnavailable  = "temporarily_unavailable"
)

// NotFound is the answer for what is not there, and for what the caller must not know of.
func NotFound() *Error {
	return &Error{Status: http.StatusNotFound, Type: typeNotFound, Message: "there is nothing here"}
}

// Invalid names every field that is wrong, once each, in their order.
func Invalid(faults ...Fault) *Error {
	faults = slices.Clone(faults)
	slices.SortStableFunc(faults, func(a, b Fault) int { return strings.Compare(a.Field, b.Field) })
	faults = slices.CompactFunc(faults, func(a, b Fault) bool { return a.Field == b.Field })
	var texts []string
	for _, fault := range faults {
		texts = append(texts, fault.Field+": "+fault.Message)
	}
	return &Error{Status: http.StatusBadRequest, Type: typeValidation, Message: strings.Join(texts, "; "), Fields: faults}
}

// malformed is Invalid for a body that has no fields to name.
func malformed(message string) *Error {
	return &Error{Status: http.StatusBadRequest, Type: typeValidation, Message: message}
}

// Conflict says that the state of things does not allow it.
func Conflict(format string, args ...any) *Error {
	return &Error{Status: http.StatusConflict, Type: typeConflict, Message: fmt.Sprintf(format, args...)}
}

// PlanLimit says that the operator allows no more.
func PlanLimit(format string, args ...any) *Error {
	return &Error{Status: http.StatusForbidden, Type: typePlanLimit, Message: fmt.Sprintf(format, args...)}
}

// Stale says that the thing was changed since the client looked at it.
func Stale() *Error {
	return &Error{Status: http.StatusPreconditionFailed, Type: typeStale, Message: "it was changed since you looked at it; look again, and send its new ETag as If-Match"}
}

// Provider says that the authorization server refused, by its error code.
func Provider(code, message string) *Error {
	return &Error{Status: http.StatusBadGateway, Type: typeProvider, Message: message + " (" + code + ")"}
}

// Unavailable says that trying again helps.
func Unavailable(retryAfter time.Duration, message string) *Error {
	return &Error{Status: http.StatusServiceUnavailable, Type: typeUnavailable, Message: message, RetryAfter: max(retryAfter, time.Second)}
}

func forbidden(format string, args ...any) *Error {
	return &Error{Status: http.StatusForbidden, Type: typeForbidden, Message: fmt.Sprintf(format, args...)}
}

// Unauthorized says that it is not known who asks.
func Unauthorized() *Error {
	return &Error{Status: http.StatusUnauthorized, Type: typeUnauthorized, Message: "sign in, or send an API key as a Bearer token"}
}

// CrossOrigin says that a browser sends the request on behalf of another site.
func CrossOrigin() *Error { return forbidden("the request comes from another site") }

// errorBody is the JSON of a refusal.
type errorBody struct {
	Error errorDetail `json:"error"`
	Meta  meta        `json:"meta"`
}

type errorDetail struct {
	Type    string  `json:"type" doc:"What kind of error it is."`
	Message string  `json:"message" doc:"For people. It names every wrong field."`
	Field   string  `json:"field,omitempty" doc:"The first field that is wrong."`
	Fields  []Fault `json:"fields,omitempty" doc:"Every field that is wrong."`
}
