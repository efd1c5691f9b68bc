package caddyoauth

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
)

// What a trace shows of a request's token are events on the span that Caddy's `tracing` directive has begun. Neither spans nor
// exporters are made here. No event holds a token or a subject.

// Names of span events, and of their attributes.
const (
	spanInjected = "oauth2_inject.injected" // the token travels with the request
	spanRefused  = "oauth2_inject.refused"  // there is none, or it must not travel
	spanRefresh  = "oauth2_inject.refresh"  // the request has waited for a token
	spanReplay   = "oauth2_inject.replay"   // the upstream answered 401

	spanConnection = attribute.Key("oauth2_inject.connection")
	spanGeneration = attribute.Key("oauth2_inject.generation")
	spanOutcome    = attribute.Key("oauth2_inject.outcome") // as in the metrics
	spanResult     = attribute.Key("oauth2_inject.result")  // as in the metrics
	spanWaited     = attribute.Key("oauth2_inject.waited_ms")
)

// recordedSpan returns the span of a request if it is recorded, else nil.
func recordedSpan(ctx context.Context) trace.Span {
	if span := trace.SpanFromContext(ctx); span.IsRecording() {
		return span
	}
	return nil
}

// trace adds an event to the request's span.
func (p *plan) trace(event string, attributes ...attribute.KeyValue) {
	if p.conn != nil {
		attributes = append(attributes, spanConnection.String(p.conn.name))
	}
	p.span.AddEvent(event, trace.WithAttributes(attributes...))
}

// obtain gets the token that the request travels with, and shows in a trace what the request has waited for.
func (p *plan) obtain(ctx context.Context) error {
	if p.span == nil {
		p.token, p.err = p.source.Token(ctx, p.conn.settings)
		return p.err
	}
	before, began := p.source.Current(), time.Now()
	if p.token, p.err = p.source.Token(ctx, p.conn.settings); p.token != nil && p.token != before {
		p.trace(spanRefresh, spanGeneration.Int64(int64(p.token.Generation())), spanWaited.Int64(time.Since(began).Milliseconds()))
	}
	return p.err
}
