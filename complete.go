package caddyoauth

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddyoauth/caddyoauth/internal/cli"
)

// completionTime is how long a shell waits for what it could offer.
const completionTime = 2 * time.Second

// offerWords makes the completion of a word out of what the running Caddy knows.
func offerWords(words func(ctx context.Context, c *cli.CLI, choice cli.Choice, prefix string) []string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
		c, err := newCLI(cmd)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(context.Background(), completionTime)
		defer cancel()
		return words(ctx, c, choiceOf(cmd), prefix), cobra.ShellCompDirectiveNoFileComp
	}
}

var (
	offerNames = offerWords(func(ctx context.Context, c *cli.CLI, _ cli.Choice, prefix string) []string {
		return c.Names(ctx, prefix)
	})
	offerKeys = offerWords(func(ctx context.Context, c *cli.CLI, _ cli.Choice, prefix string) []string {
		return c.KeyNames(ctx, prefix)
	})

	offerVersions = offerWords(func(ctx context.Context, c *cli.CLI, choice cli.Choice, prefix string) []string {
		return c.Versions(ctx, choice, prefix)
	})
	offerSubjects = offerWords(func(ctx context.Context, c *cli.CLI, choice cli.Choice, prefix string) []string {
		return c.Subjects(ctx, choice, prefix)
	})
)

// inTurn completes each argument in its own way, and those after the last not at all. No argument of ours is a file.
func inTurn(each ...cobra.CompletionFunc) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
		if len(args) >= len(each) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return each[len(args)](cmd, args, prefix)
	}
}

// completeFlags says what the values of a command's flags can be; those that are not named are words of one's own, and no files.
func completeFlags(cmd *cobra.Command, known map[string]cobra.CompletionFunc) {
	for _, name := range []string{"address", "adapter", "api", "subject", "environment", "tenant", "wait", "role", "collection", "expires-in", "site"} {
		if cmd.Flags().Lookup(name) == nil && cmd.PersistentFlags().Lookup(name) == nil {
			continue
		}
		words := known[name]
		if words == nil {
			words = cobra.NoFileCompletions
		}
		_ = cmd.RegisterFlagCompletionFunc(name, words) // fails for a flag that there is not, or that has one
	}
}
