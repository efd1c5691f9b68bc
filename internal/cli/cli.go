// Package cli is the command line of the plugin: it asks the REST API of a running Caddy and shows what it says, as tables for people
// or as JSON for programs.
//
// It decides nothing: who may do what, and what there is, is the API's word. Nor does it know Caddy's commands and flags, which the
// package above translates into a [CLI] and a [Choice].
//
// It may import the standard library, internal/api for the form of the answers, internal/secret, and how wide characters are.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/api"
)

// Exit codes of all commands.
const (
	ExitDone        = 0
	ExitFailed      = 1 // anything without a code of its own
	ExitUsage       = 2 // the call's own words are off
	ExitNotFound    = 3 // no such connection, subject, version or key; or it is not yours to see
	ExitRefused     = 4 // the API, or the provider, refuses: not allowed, in conflict, invalid
	ExitNeedsPerson = 5 // a person has to connect the account, or did not do so in time
	ExitUnavailable = 6 // Caddy or the provider cannot be reached at the moment; trying again helps
)

// ExitCode returns the exit code that stands for an error; 0 for none.
func ExitCode(err error) int {
	var refusal *Refusal
	switch {
	case err == nil:
		return ExitDone
	case errors.Is(err, errUsage):
		return ExitUsage
	case errors.Is(err, errNotFound):
		return ExitNotFound
	case errors.Is(err, errNeedsPerson):
		return ExitNeedsPerson
	case errors.Is(err, errUnreachable):
		return ExitUnavailable
	case !errors.As(err, &refusal):
		return ExitFailed
	}
	switch {
	case refusal.Status == http.StatusNotFound:
		return ExitNotFound
	case refusal.Type == typeProvider: // it refuses the client, and will do so again
		return ExitRefused
	case refusal.Status == http.StatusTooManyRequests || refusal.Status >= http.StatusInternalServerError:
		return ExitUnavailable
	}
	return ExitRefused
}

// What a command may end with, besides a *Refusal.
var (
	errUsage       = errors.New("usage")
	errNotFound    = errors.New("not found")
	errNeedsPerson = errors.New("a person is needed")
)

// Usage returns an error for a call whose words are off.
func Usage(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errUsage, fmt.Sprintf(format, args...))
}

// CLI carries out commands.
type CLI struct {
	Client *Client
	Out    io.Writer // what was asked for
	Notes  io.Writer // what goes on meanwhile
	JSON   bool      // data as JSON instead of tables
	Open   func(link string) error
}

// Choice says which connections, and whose token sets, a command is about.
type Choice struct {
	Name        string // name or ID of the connection
	Subject     string
	Environment string
	Tenant      string
}

// find looks up the connection that is meant, by its name or its ID.
func (c *CLI) find(ctx context.Context, choice Choice) (target, error) {
	all, err := c.connections(ctx, choice.Tenant)
	if err != nil {
		return target{}, err
	}
	var found []api.Secret
	for _, one := range all {
		if one.Name == choice.Name || one.ID == choice.Name {
			found = append(found, one)
		}
	}
	switch len(found) {
	case 0:
		return target{}, fmt.Errorf("%w: there is no connection %q; `list` shows those that there are", errNotFound, choice.Name)
	case 1:
		return target{id: found[0].ID, name: found[0].Name}, nil
	}
	return target{}, Usage("several tenants have a connection %q; say which with --tenant, or give its ID", choice.Name)
}

// connections returns all connections, over all pages.
func (c *CLI) connections(ctx context.Context, tenant string) ([]api.Secret, error) {
	return pages[api.Secret](ctx, c.Client, "/v1/secrets", "secret_type", "oauth2", "tenant", tenant)
}

// pages reads a list to its end.
func pages[T any](ctx context.Context, client *Client, path string, params ...string) ([]T, error) {
	var all []T
	for page := 1; ; page++ {
		var rows []T
		total, err := client.call(ctx, ask{http.MethodGet, path + query(append(params, "per_page", "200", "page", fmt.Sprint(page))...), nil}, &rows)
		if err != nil {
			return nil, err
		}
		all = append(all, rows...)
		if len(rows) == 0 || len(all) >= total {
			return all, nil
		}
	}
}

// show writes a value as JSON, or has the table written.
func (c *CLI) show(value any, table func(*table)) error {
	if c.JSON {
		encoder := json.NewEncoder(c.Out)
		encoder.SetIndent("", "  ")
		encoder.SetEscapeHTML(false)
		return encoder.Encode(value)
	}
	t := newTable(c.Out, time.Now())
	table(t)
	return t.flush()
}

// note tells what goes on. With --json nothing but data goes to standard output, so it never goes there.
func (c *CLI) note(format string, args ...any) {
	_, _ = fmt.Fprintf(c.Notes, format+"\n", args...)
}
