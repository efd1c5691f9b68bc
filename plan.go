package caddyoauth

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/caddyoauth/caddyoauth/internal/connection"
)

// planKey is the context key of a *plan.
type planKey struct{}

// plan is what the handler hands to the transport for one request.
type plan struct {
	conn   *activeConnection
	source *connection.Source
	token  *connection.Published
	err    error

	guarded  bool  // a transport sends the token, and checks where to
	lacks    *mark // a placeholder asked for it in vain, so that address, path or headers may be wrong
	taken    bool  // a transport has seen the plan
	replayed bool  // the one replay of this request is spent
	counted  bool  // what became of the request was counted

	span trace.Span // of the request; nil when no trace is recorded

	out     http.Request // the first copy of the request that is sent, here to spare an allocation
	outUsed bool         // further copies are made anew: net/http may hold on to the first
}

// countInjected counts a request that travels with a token. Whatever came first is what became of a request.
func (p *plan) countInjected() {
	if !p.counted {
		p.counted = true
		p.conn.meter.injected.Inc()
		if p.span != nil {
			p.trace(spanInjected, spanGeneration.Int64(int64(p.token.Generation())))
		}
	}
}

// count counts a request that travels without one.
func (p *plan) count(outcome string) {
	if p.counted {
		return
	}
	p.counted = true
	if p.conn != nil {
		p.conn.meter.request(outcome)
	}
	if p.span != nil {
		p.trace(spanRefused, spanOutcome.String(outcome))
	}
}

// countReplay counts what came of the upstream's 401.
func (p *plan) countReplay(result string) {
	p.conn.meter.replay(result)
	if p.span != nil {
		p.trace(spanReplay, spanResult.String(result))
	}
}

// copyOf returns a shallow copy of the request.
func (p *plan) copyOf(req *http.Request) *http.Request {
	out := &p.out
	if p.outUsed {
		out = new(http.Request)
	}
	p.outUsed = true
	*out = *req
	return out
}

// placeholder gives what may be shown of the request's token. There is no placeholder for the token itself.
func (p *plan) placeholder(key string) (any, bool) {
	name, found := strings.CutPrefix(key, "http.oauth2_inject.")
	if !found {
		return nil, false
	}
	switch name {
	case "connection":
		if p.conn == nil {
			return "", true
		}
		return p.conn.name, true
	case "subject":
		if p.source == nil {
			return "", true
		}
		return p.source.ID().Subject, true
	case "status":
		return p.status(), true
	case "expires_at":
		if p.token == nil {
			return "", true
		}
		return p.token.ExpiresAt().UTC().Format(time.RFC3339), true
	case "error":
		if p.err == nil {
			return "", true
		}
		return problemOf(p.err).code, true
	}
	return p.fact(name)
}

func (p *plan) status() string {
	var unavailable *connection.Unavailable
	switch {
	case errors.As(p.err, &unavailable):
		return string(unavailable.Status)
	case p.err != nil || p.source == nil:
		return "unknown"
	}
	return string(p.source.Snapshot().Status)
}
