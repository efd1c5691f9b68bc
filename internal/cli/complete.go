package cli

import (
	"context"
	"net/http"
	"strconv"
	"strings"

	"github.com/caddyoauth/caddyoauth/internal/api"
)

// What the shell offers while a person types. Completion has no place for errors: where nothing can be known, nothing is offered.

// Names returns the names of connections that begin with a text.
func (c *CLI) Names(ctx context.Context, prefix string) []string {
	all, _ := c.connections(ctx, "")
	return begin(all, prefix, func(one api.Secret) string { return one.Name })
}

// Subjects returns the subjects of a connection that begin with a text.
func (c *CLI) Subjects(ctx context.Context, choice Choice, prefix string) []string {
	to, err := c.find(ctx, choice)
	if err != nil {
		return nil
	}
	all, _ := pages[api.Token](ctx, c.Client, to.path("", "/subjects"), "environment", choice.Environment)
	return begin(all, prefix, func(one api.Token) string { return one.Subject })
}

// Versions returns the numbers of the token sets that can be rolled back to.
func (c *CLI) Versions(ctx context.Context, choice Choice, prefix string) []string {
	to, err := c.find(ctx, choice)
	if err != nil {
		return nil
	}
	var all []api.Version
	path := to.path(choice.Subject, "/versions"+query("environment", choice.Environment))
	_, _ = c.Client.call(ctx, ask{http.MethodGet, path, nil}, &all)
	return begin(all, prefix, func(one api.Version) string {
		if one.Current {
			return ""
		}
		return strconv.FormatUint(one.Version, 10)
	})
}

// KeyNames returns the names of API keys that begin with a text.
func (c *CLI) KeyNames(ctx context.Context, prefix string) []string {
	all, _ := pages[api.Key](ctx, c.Client, "/v1/api-keys")
	return begin(all, prefix, func(one api.Key) string { return one.Name })
}

// begin returns the words for those of a list that have one, and one that begins so. None of them steers a terminal.
func begin[T any](all []T, prefix string, word func(T) string) (words []string) {
	for _, one := range all {
		if text := word(one); text != "" && strings.HasPrefix(text, prefix) && printable(text) == text {
			words = append(words, text)
		}
	}
	return words
}
