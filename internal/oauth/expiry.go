package oauth

import (
	"encoding/base64"
	"encoding/json"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// maxLife caps what a server claims; a token that is said to live longer is refreshed once a year all the same.
const maxLife = 365 * 24 * time.Hour

// expiry works out when a token dies, counted from the moment before the request was written: the server cannot have
// stamped it earlier. The zero time means unknown; a time not after sentAt means dead on arrival.
//
// The smaller of expires_in and an absolute time wins; failing both, the exp claim of a JWT access token.
func expiry(object map[string]any, access string, sentAt time.Time) time.Time {
	life, known := relativeLife(object["expires_in"])
	for _, name := range []string{"expires_at", "expires_on", "exp"} {
		if l, ok := absoluteLife(object[name], sentAt); ok && (!known || l < life) {
			life, known = l, true
		}
	}
	if !known {
		life, known = absoluteLife(jwtExpiry(access), sentAt)
	}
	if !known {
		return time.Time{}
	}
	return sentAt.Add(life) // keeps the monotonic reading
}

// maxRefreshLife caps what a server claims of a refresh token. QuickBooks has five years.
const maxRefreshLife = 10 * maxLife

// refreshExpiry works out when the refresh token of an answer dies of age. Zero means it does not, or that it is not
// known: 0 is an offline token at Keycloak, and what is not a number says nothing.
func refreshExpiry(object map[string]any, sentAt time.Time) time.Time {
	for _, name := range []string{"refresh_token_expires_in", "refresh_expires_in", "x_refresh_token_expires_in"} {
		seconds, ok := number(object[name])
		switch {
		case !ok || seconds == 0:
			continue
		case seconds < 0:
			return sentAt
		case seconds >= maxRefreshLife.Seconds():
			return sentAt.Add(maxRefreshLife)
		}
		return sentAt.Add(time.Duration(seconds * float64(time.Second)))
	}
	return time.Time{}
}

// relativeLife reads expires_in: a number (RFC 6749 section 5.1), a numeric string (PayPal, Microsoft v1) or a float.
// Zero means "never" at Mailchimp and nothing elsewhere, so it counts as unknown. Negative means expired already.
//
// A margin of min(1 s, life/2) is taken off: servers count in whole seconds, so a token said to live 5 s can be dead
// after 4.01 s.
func relativeLife(v any) (time.Duration, bool) {
	seconds, ok := number(v)
	if !ok || seconds == 0 {
		return 0, false
	}
	life := toDuration(seconds)
	return life - min(time.Second, life/2), true
}

// absoluteLife reads a point in time: unix seconds (Strava), milliseconds, or RFC 3339 (Square).
func absoluteLife(v any, sentAt time.Time) (time.Duration, bool) {
	if s, isString := v.(string); isString {
		if at, err := time.Parse(time.RFC3339, strings.TrimSpace(s)); err == nil {
			return toDuration(at.Sub(sentAt).Seconds()), true
		}
	}
	stamp, ok := number(v)
	if !ok || stamp <= 0 {
		return 0, false
	}
	if stamp > 1e11 { // the year 5138 in seconds, March 1973 in milliseconds
		stamp /= 1000
	}
	return toDuration(stamp - float64(sentAt.UnixNano())/1e9), true
}

// toDuration bounds seconds to 0..maxLife.
func toDuration(seconds float64) time.Duration {
	switch {
	case seconds <= 0:
		return 0
	case seconds >= maxLife.Seconds():
		return maxLife
	}
	return time.Duration(seconds * float64(time.Second))
}

// number reads a JSON number or a string that looks like one. "NaN", "Infinity" and hexadecimal, which ParseFloat would
// take, are not numbers; one too large for a float64 is infinite.
func number(v any) (float64, bool) {
	var s string
	switch v := v.(type) {
	case json.Number:
		s = v.String()
	case string:
		s = strings.TrimSpace(v)
	}
	if s == "" || strings.Trim(s, "+-.0123456789eE") != "" {
		return 0, false
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil && !math.IsInf(f, 0) {
		return 0, false
	}
	return f, true
}

// jwtExpiry returns the exp claim of a JWT (RFC 7519 section 4.1.4), or nil. The signature is not checked: the claim is
// a hint about our own token, not a proof of anything.
func jwtExpiry(token string) any {
	_, rest, _ := strings.Cut(token, ".")
	payload, signature, ok := strings.Cut(rest, ".")
	if !ok || strings.Contains(signature, ".") {
		return nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil {
		return nil
	}
	var claims struct {
		Expiry json.Number `json:"exp"`
	}
	if json.Unmarshal(raw, &claims) != nil || claims.Expiry == "" {
		return nil
	}
	return claims.Expiry
}

// maxRetryAfter caps how long a server can silence us.
const maxRetryAfter = time.Hour

// retryAfter reads how long the server wants to be left alone: Retry-After (RFC 9110 section 10.2.3), retry_after in
// the body (Discord), and, if the refusal is about load, the reset headers of the rate limiters. Those also travel on
// answers that have nothing to do with a limit.
func retryAfter(r *reply, object map[string]any, class Class) time.Duration {
	now := time.Now()
	if s := r.header.Get("Retry-After"); s != "" {
		if at, err := http.ParseTime(s); err == nil {
			// Both stamps are the server's, so its clock does not matter.
			if date, err := http.ParseTime(r.header.Get("Date")); err == nil {
				now = date
			}
			return capWait(at.Sub(now).Seconds())
		}
		if seconds, ok := number(s); ok {
			return capWait(seconds)
		}
	}
	if seconds, ok := number(object["retry_after"]); ok {
		return capWait(seconds)
	}
	if class != RetryLater || r.status/100 == 5 && r.status != http.StatusServiceUnavailable {
		return 0
	}
	for _, name := range []string{"Ratelimit-Reset", "X-Ratelimit-Reset", "X-Rate-Limit-Reset"} {
		reset, ok := number(r.header.Get(name))
		switch {
		case !ok:
			continue
		case reset > 1e11: // unix milliseconds
			reset = reset/1000 - float64(now.Unix())
		case reset > 1e9: // unix seconds; anything less is a span
			reset -= float64(now.Unix())
		}
		return capWait(reset)
	}
	return 0
}

func capWait(seconds float64) time.Duration { return min(toDuration(seconds), maxRetryAfter) }
