package caddyoauth

import (
	"cmp"
	"context"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/api"
	"github.com/caddyoauth/caddyoauth/internal/connection"
)

// look is how a connection is in one environment.
type look struct {
	connection   *activeConnection // that answers for it; nil when none does
	status, code string            // in the API's words, and what is wrong
	state        *connection.State // of its token set; nil where each subject has its own, and where it cannot be read
}

// lookAt looks at a connection, and reads the storage once.
func (s apiService) lookAt(ctx context.Context, h held, environment string) look {
	c := h.configured
	if h.entry != nil {
		name := fullName(h.entry.Tenant, h.entry.Name, environment, h.entry.BaseEnvironment)
		if s.active.fault(name) != nil {
			return look{status: string(connection.StatusMisconfigured), code: "invalid_options"}
		}
		if _, clash := s.active.configured(name); clash {
			return look{status: string(connection.StatusMisconfigured), code: "shadowed_by_configuration"}
		}
		var ok bool
		if c, ok = s.active.getStored(name); !ok {
			return look{status: "not_connected"}
		}
	}
	if c.subject != "" {
		return look{connection: c, status: "per_subject"}
	}
	state, err := s.engine.glance(c.key).Peek(ctx, c.settings)
	out := look{connection: c, status: connectionStatus(state.Status), state: &state}
	if err != nil {
		out.code, out.state = "storage", nil
	}
	if failure := state.Failure; failure != nil {
		out.code = cmp.Or(failure.Code, out.code, "unspecified") // the server gave none
	}
	return out
}

// connectionStatus puts the status of a token set into the API's words.
func connectionStatus(status connection.Status) string {
	switch status {
	case connection.StatusActive:
		return "connected"
	case connection.StatusPending, connection.StatusAuthorizationRequired:
		return "not_connected"
	}
	return string(status)
}

// addStanding adds how a connection is, in its base environment.
func (s apiService) addStanding(ctx context.Context, h held, to *api.Secret) look {
	if h.entry != nil && h.entry.Kind != kindOAuth2 {
		return look{}
	}
	seen := s.lookAt(ctx, h, "")
	to.ConnectionStatus, to.ConnectionError, to.Standing = &seen.status, seen.code, new(api.Standing)
	c := seen.connection
	if c == nil {
		return seen
	}
	if seen.state != nil {
		token := tokenOf(viewOf(*seen.state))
		token.Actions = s.actionsOn(c, token)
		to.Token = &token
	}
	_, served := s.active.offerOf(c)
	to.Standing.Personal, to.Standing.Unserved = c.needsPerson(), c.needsPerson() && !served
	to.Standing.LastDay = s.engine.lastDay(c.key.id, time.Now())
	if c.subject != "" {
		to.Standing.SubjectCounts = c.statusOfSubjects().Subjects
	}
	return seen
}

// actionsOn returns what can be done with a token set as it is: what would be refused whoever asks is left out.
func (a *App) actionsOn(c *activeConnection, token api.Token) (actions []string) {
	personal, status := c.needsPerson(), connection.Status(token.Status)
	if _, served := a.active.offerOf(c); personal && served {
		actions = append(actions, "authorize")
	}
	if !personal || token.Renewable && !status.NeedsPerson() {
		actions = append(actions, "refresh")
	}
	if c.call != nil && !status.NeedsPerson() {
		actions = append(actions, "test")
	}
	if personal && token.Generation > 0 && status != connection.StatusDisconnected {
		actions = append(actions, "revoke")
	}
	return actions
}

// lastDay returns how the exchanges of a connection went, by the hour.
func (e *engine) lastDay(id connection.ID, now time.Time) (hours []api.Hour) {
	e.mu.Lock()
	p := e.pulses[id]
	e.mu.Unlock()
	if p == nil {
		return nil
	}
	for _, one := range p.day(now) {
		if one.good+one.bad == 0 {
			continue
		}
		hour := api.Hour{From: time.Unix(one.number*3600, 0).UTC(), Succeeded: one.good, Failed: one.bad}
		if one.good > 0 {
			hour.AverageMS = int((one.took / time.Duration(one.good)).Milliseconds())
		}
		hours = append(hours, hour)
	}
	return hours
}
