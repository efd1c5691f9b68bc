package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/api"
)

// List shows all connections.
func (c *CLI) List(ctx context.Context, choice Choice) error {
	all, err := c.connections(ctx, choice.Tenant)
	if err != nil {
		return err
	}
	if all == nil {
		all = []api.Secret{}
	}
	return c.show(all, func(t *table) {
		t.row("NAME", "STATUS", "PROVIDER", "TENANT", "FROM", "ERROR")
		for _, one := range all {
			from := "api"
			if one.ReadOnly {
				from = "config"
			}
			t.row(one.Name, text(one.ConnectionStatus), text(one.Provider), one.Tenant, from, one.ConnectionError)
		}
	})
}

// shown is what Show writes as JSON.
type shown struct {
	api.SecretDetail
	Subjects []api.Token `json:"subjects,omitempty"`
}

// Show shows one connection with the state of its token set, or of one subject's.
func (c *CLI) Show(ctx context.Context, choice Choice) error {
	to, err := c.find(ctx, choice)
	if err != nil {
		return err
	}
	if choice.Subject != "" {
		token, err := c.token(ctx, to, choice)
		if err != nil {
			return err
		}
		return c.show(token, func(t *table) { t.field("Connection", to.name); t.token(token) })
	}
	var detail shown
	if _, err := c.Client.call(ctx, ask{http.MethodGet, to.path("", query("environment", choice.Environment)), nil}, &detail.SecretDetail); err != nil {
		return err
	}
	if detail.Token == nil {
		if detail.Subjects, err = pages[api.Token](ctx, c.Client, to.path("", "/subjects"), "environment", choice.Environment); err != nil {
			return err
		}
	}
	return c.show(detail, func(t *table) { t.detail(&detail) })
}

func (t *table) detail(detail *shown) {
	t.field("Connection", detail.Name)
	t.field("ID", detail.ID)
	t.field("Tenant", detail.Tenant)
	t.field("Provider", text(detail.Provider))
	t.field("Status", text(detail.ConnectionStatus))
	t.field("Error", detail.ConnectionError)
	t.field("Redirect URI", text(detail.RedirectURI))
	if detail.Token != nil {
		t.token(*detail.Token)
	}
	if len(detail.Subjects) == 0 {
		return
	}
	t.line("")
	t.row("SUBJECT", "STATUS", "ACCOUNT", "EXPIRES", "LAST USED", "ERROR")
	for _, one := range detail.Subjects {
		t.row(one.Subject, one.Status, one.Label, t.when(one.ExpiresAt), t.when(one.LastUsed), one.Code)
	}
}

func (t *table) token(token api.Token) {
	t.field("Subject", token.Subject)
	t.field("Token", token.Status)
	t.field("Error", token.Code)
	t.field("Account", strings.TrimSpace(token.Label+" "+parenthesized(token.AccountID)))
	t.field("Scopes", strings.Join(token.Granted, " "))
	if token.Generation > 0 {
		t.field("Version", strconv.FormatUint(token.Generation, 10))
	}
	t.field("Obtained", strings.TrimSpace(t.moment(token.IssuedAt)+" "+because(token.Reason, token.By)))
	t.field("Expires", t.moment(token.ExpiresAt))
	t.field("Refresh", t.moment(token.RefreshAt))
	t.field("Consent ends", t.moment(token.RefreshExpiresAt))
	t.field("Next attempt", t.moment(token.NextAttempt))
	t.field("Last used", t.moment(token.LastUsed))
}

func because(reason, by string) string {
	switch {
	case reason == "":
		return ""
	case by == "":
		return reason
	}
	return reason + " by " + by
}

func parenthesized(text string) string {
	if text == "" {
		return ""
	}
	return "(" + text + ")"
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// token returns the state of the token set that is meant.
func (c *CLI) token(ctx context.Context, to target, choice Choice) (api.Token, error) {
	if choice.Subject != "" {
		var token api.Token
		_, err := c.Client.call(ctx, ask{http.MethodGet, to.path(choice.Subject, query("environment", choice.Environment)), nil}, &token)
		return token, err
	}
	var detail api.SecretDetail
	_, err := c.Client.call(ctx, ask{http.MethodGet, to.path("", query("environment", choice.Environment)), nil}, &detail)
	switch {
	case err != nil:
		return api.Token{}, err
	case detail.Token == nil:
		return api.Token{}, Usage("each subject of %q has a token set of its own; say whose with --subject", to.name)
	}
	return *detail.Token, nil
}

// connectPoll is how often Connect looks whether the person has come back.
const connectPoll = time.Second

// Connect gives out, or opens, the link on which a person connects the account, and waits until that has happened. wait 0 does not
// wait.
func (c *CLI) Connect(ctx context.Context, choice Choice, wait time.Duration) error {
	if wait < 0 {
		return Usage("the time to wait is below zero")
	}
	to, err := c.find(ctx, choice)
	if err != nil {
		return err
	}
	before, err := c.token(ctx, to, choice)
	if err != nil && ExitCode(err) != ExitNotFound { // nobody of that name has connected yet
		return err
	}
	var link api.Link
	path := to.path(choice.Subject, "/authorize"+query("environment", choice.Environment))
	if _, err := c.Client.call(ctx, ask{http.MethodPost, path, nil}, &link); err != nil {
		return err
	}
	switch local := strings.HasPrefix(link.AuthorizeURL, "/"); {
	case local:
		c.note("Open this, on the site that serves oauth2_connect, in the browser of the person whose account it is:")
	case c.Open == nil || c.Open(link.AuthorizeURL) != nil:
		c.note("Open this in the browser of the person whose account it is:")
	default:
		c.note("Opened in the browser:")
	}
	if wait == 0 || !c.JSON {
		if _, err := fmt.Fprintln(c.Out, link.AuthorizeURL); err != nil || wait == 0 {
			return err
		}
	} else {
		c.note("%s", link.AuthorizeURL)
	}
	c.note("Waiting until %s is connected; Ctrl-C leaves the link as it is.", to.name)
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	return c.awaitConnected(ctx, to, choice, before.Generation)
}

// awaitConnected looks again and again until there is a later generation than that one.
func (c *CLI) awaitConnected(ctx context.Context, to target, choice Choice, before uint64) error {
	ticker := time.NewTicker(connectPoll)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			when := "in time"
			if errors.Is(ctx.Err(), context.Canceled) {
				when = "yet"
			}
			return fmt.Errorf("%w: nobody has connected %q %s; the link can still be used", errNeedsPerson, to.name, when)
		case <-ticker.C:
		}
		token, err := c.token(ctx, to, choice)
		switch code := ExitCode(err); {
		case err == nil && token.Generation > before && (token.Status == "active" || token.Status == "expiring"):
			return c.show(token, func(t *table) { t.field("Connected", to.name); t.token(token) })
		case err == nil, code == ExitNotFound, code == ExitUnavailable: // not yet, or Caddy is being restarted
		case ctx.Err() == nil:
			return err
		}
	}
}

// Refresh replaces the token now.
func (c *CLI) Refresh(ctx context.Context, choice Choice) error {
	var token api.Token
	to, err := c.act(ctx, choice, "/refresh", &token)
	if err != nil {
		return c.personWanted(ctx, choice, to, err)
	}
	return c.show(token, func(t *table) { t.field("Refreshed", to.name); t.token(token) })
}

// act sends a POST about the token set that is meant.
func (c *CLI) act(ctx context.Context, choice Choice, action string, result any) (target, error) {
	to, err := c.find(ctx, choice)
	if err != nil {
		return to, err
	}
	_, err = c.Client.call(ctx, ask{http.MethodPost, to.path(choice.Subject, action+query("environment", choice.Environment)), nil}, result)
	return to, err
}

// personWanted makes the refusal of what needs a token an error with a code of its own, if it is a person that is missing.
func (c *CLI) personWanted(ctx context.Context, choice Choice, to target, err error) error {
	var refusal *Refusal
	if !errors.As(err, &refusal) || refusal.Status != http.StatusConflict {
		return err
	}
	token, lookErr := c.token(ctx, to, choice)
	if lookErr == nil && slices.Contains(needPerson, token.Status) {
		return fmt.Errorf("%w: %w", errNeedsPerson, err)
	}
	return err
}

// needPerson are the states that only a person leads out of.
var needPerson = []string{"authorization_required", "revoked", "lost_rotation", "disconnected"}

// Test asks the provider's API whose token it is. A token, scope or API at fault is an error, after it was shown.
func (c *CLI) Test(ctx context.Context, choice Choice) error {
	var result api.TestResult
	to, err := c.act(ctx, choice, "/test", &result)
	if err != nil {
		return c.personWanted(ctx, choice, to, err)
	}
	err = c.show(result, func(t *table) {
		t.field("Connection", to.name)
		t.field("Account", strings.TrimSpace(result.Label+" "+parenthesized(result.AccountID)))
		t.field("At fault", result.Fault)
		t.field("Missing scopes", strings.Join(result.Missing, " "))
		t.field("Result", result.Detail)
	})
	switch {
	case err != nil || result.OK:
		return err
	case result.Fault == "api":
		return fmt.Errorf("%w: the provider's API does not answer as it should", errUnreachable)
	}
	return fmt.Errorf("%w: the %s is at fault", errNeedsPerson, result.Fault)
}

// Revoke ends a connection. The provider is told, and the tokens are removed.
func (c *CLI) Revoke(ctx context.Context, choice Choice) error {
	var ended api.Ended
	to, err := c.act(ctx, choice, "/revoke", &ended)
	if err != nil {
		return err
	}
	return c.show(ended, func(t *table) {
		t.field("Ended", to.name)
		t.field("Provider told", strconv.Itoa(ended.Revoked))
		if ended.NotTold > 0 {
			t.field("Not told", fmt.Sprintf("%d; withdraw the consent in the provider's own settings", ended.NotTold))
		}
		if ended.StillRunning > 0 {
			t.field("Still stored", fmt.Sprintf("%d; run this again", ended.StillRunning))
		}
	})
}

// History shows the token sets that are kept.
func (c *CLI) History(ctx context.Context, choice Choice) error {
	to, err := c.find(ctx, choice)
	if err != nil {
		return err
	}
	versions := []api.Version{}
	path := to.path(choice.Subject, "/versions"+query("environment", choice.Environment))
	if _, err := c.Client.call(ctx, ask{http.MethodGet, path, nil}, &versions); err != nil {
		return err
	}
	return c.show(versions, func(t *table) {
		t.row("VERSION", "OBTAINED", "WHY", "STATUS", "EXPIRES", "ACCOUNT", "SCOPES")
		for _, one := range versions {
			number := strconv.FormatUint(one.Version, 10)
			if one.Current {
				number += " *"
			}
			t.row(number, t.moment(one.IssuedAt), because(one.Reason, one.By), one.Status, t.when(one.ExpiresAt), one.Label, strings.Join(one.Granted, " "))
		}
	})
}

// RollBack brings an earlier version back.
func (c *CLI) RollBack(ctx context.Context, choice Choice, version string) error {
	if number, err := strconv.ParseUint(version, 10, 64); err != nil || number == 0 {
		return Usage("%q is not the number of a version; `history` shows them", version)
	}
	var token api.Token
	to, err := c.act(ctx, choice, "/versions/"+version+"/rollback", &token)
	if err != nil {
		return err
	}
	return c.show(token, func(t *table) {
		t.field("Rolled back", to.name+" to version "+version)
		t.token(token)
	})
}
