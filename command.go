package caddyoauth

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	ossignal "os/signal"
	"runtime"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/caddyoauth/caddyoauth/internal/cli"
	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// commandName is the subcommand of caddy.
const commandName = "oauth2-inject"

// apiKeyVariable is the environment variable with the API key for --api. A flag would stand in the process list.
const apiKeyVariable = "OAUTH2_INJECT_API_KEY"

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  commandName,
		Usage: "list | show | connect | refresh | test | revoke | history | rollback | rekey | apikey | doctor",
		Short: "Manages the OAuth2 connections that proxied requests travel with",
		Long: `
Shows and manages the connections of the plugin oauth2_inject in a running Caddy. It asks
the admin endpoint, whose address is that of --address, or of the configuration given with
--config, or the default. With --api it asks the API that oauth2_api serves on a site,
with the API key in the environment variable ` + apiKeyVariable + `.

No command shows a token. With --json the output is the API's data. Exit codes: 0 done, 1
failed, 2 wrong usage, 3 not found, 4 refused, 5 a person is needed, 6 cannot be reached.`,
		CobraFunc: addCommands,
	})
}

// addCommands adds the subcommands.
func addCommands(root *cobra.Command) {
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return exit(cmd, cli.Usage("%s", err)) })
	flags := root.PersistentFlags()
	flags.String("address", "", "Address of the admin endpoint")
	flags.StringP("config", "c", "", "Configuration file, to find the admin endpoint's address; for doctor, what to check")
	flags.StringP("adapter", "a", "", "Name of the config adapter to apply to it")
	flags.String("api", "", "URL of an API on a site instead, such as https://ops.example.com/oauth2")
	flags.Bool("json", false, "Write data as JSON")
	completeFlags(root, nil)
	groupOf(root)

	one := func(use, short string, run func(context.Context, *cli.CLI, cli.Choice, *cobra.Command) error) *cobra.Command {
		cmd := subcommand(use, short, cobra.ExactArgs(1), func(ctx context.Context, c *cli.CLI, cmd *cobra.Command) error {
			return run(ctx, c, choiceOf(cmd), cmd)
		})
		cmd.Flags().StringP("subject", "s", "", "Whose token set, for a connection with one for each subject")
		cmd.Flags().StringP("environment", "e", "", "Which environment of the connection")
		cmd.Flags().String("tenant", "", "Tenant of the connection, where several have one of that name")
		cmd.ValidArgsFunction = inTurn(offerNames)
		completeFlags(cmd, map[string]cobra.CompletionFunc{"subject": offerSubjects})
		return cmd
	}
	list := subcommand("list", "Lists all connections", cobra.NoArgs, func(ctx context.Context, c *cli.CLI, cmd *cobra.Command) error {
		return c.List(ctx, choiceOf(cmd))
	})
	list.Flags().String("tenant", "", "Only those of this tenant")
	completeFlags(list, nil)
	connect := one("connect NAME", "Gives the link on which a person connects the account, and waits",
		func(ctx context.Context, c *cli.CLI, choice cli.Choice, cmd *cobra.Command) error {
			wait, _ := cmd.Flags().GetDuration("wait")
			if open, _ := cmd.Flags().GetBool("open"); open {
				c.Open = func(link string) error { return openBrowser(ctx, link) }
			}
			return c.Connect(ctx, choice, wait)
		})
	connect.Flags().Bool("open", false, "Open the link in this machine's browser")
	connect.Flags().Duration("wait", pendingLifetime, "How long to wait until it is connected; 0 does not wait")
	completeFlags(connect, nil)
	revoke := one("revoke NAME", "Ends a connection: tells the provider, and removes the tokens",
		func(ctx context.Context, c *cli.CLI, choice cli.Choice, cmd *cobra.Command) error {
			if err := confirm(cmd, "End the connection "+choice.Name+" and remove its tokens?"); err != nil {
				return err
			}
			return c.Revoke(ctx, choice)
		})
	revoke.Flags().BoolP("yes", "y", false, "Do not ask")
	root.AddCommand(list, connect, revoke,
		one("show NAME", "Shows a connection and the state of its tokens", plain((*cli.CLI).Show)),
		one("refresh NAME", "Replaces the token now", plain((*cli.CLI).Refresh)),
		one("test NAME", "Asks the provider whose token it is", plain((*cli.CLI).Test)),
		one("history NAME", "Shows the token sets that are kept, without tokens", plain((*cli.CLI).History)),
		rollbackCommand(one), rekeyCommand(), keyCommands(), doctorCommand())
}

// plain adapts what needs no flags of its own.
func plain(do func(*cli.CLI, context.Context, cli.Choice) error) func(context.Context, *cli.CLI, cli.Choice, *cobra.Command) error {
	return func(ctx context.Context, c *cli.CLI, choice cli.Choice, _ *cobra.Command) error {
		return do(c, ctx, choice)
	}
}

type oneCommand func(use, short string, run func(context.Context, *cli.CLI, cli.Choice, *cobra.Command) error) *cobra.Command

func rollbackCommand(one oneCommand) *cobra.Command {
	cmd := one("rollback NAME VERSION", "Brings an earlier token set back, as a new version",
		func(ctx context.Context, c *cli.CLI, choice cli.Choice, cmd *cobra.Command) error {
			return c.RollBack(ctx, choice, cmd.Flags().Arg(1))
		})
	cmd.Args = words(cobra.ExactArgs(2))
	cmd.ValidArgsFunction = inTurn(offerNames, offerVersions)
	return cmd
}

func rekeyCommand() *cobra.Command {
	cmd := subcommand("rekey", "Replaces the key that seals tokens, while everything runs", cobra.NoArgs,
		func(ctx context.Context, c *cli.CLI, cmd *cobra.Command) error {
			if status, _ := cmd.Flags().GetBool("status"); status {
				return c.KeyStatus(ctx)
			}
			wait, _ := cmd.Flags().GetDuration("wait")
			return c.Rekey(ctx, wait)
		})
	cmd.Flags().Bool("status", false, "Only show the keys and how far a replacement is")
	cmd.Flags().Duration("wait", 0, "How long to wait until it is done; 0 does not wait")
	completeFlags(cmd, nil)
	return cmd
}

// keyCommands are `apikey list|create|revoke`.
func keyCommands() *cobra.Command {
	group := &cobra.Command{Use: "apikey", Short: "Lists, makes and revokes API keys"}
	groupOf(group)
	create := subcommand("create NAME", "Makes an API key, and shows it this once", cobra.ExactArgs(1),
		func(ctx context.Context, c *cli.CLI, cmd *cobra.Command) error {
			want := cli.NewKey{Name: cmd.Flags().Arg(0)}
			flags := cmd.Flags()
			want.Role, _ = flags.GetString("role")
			want.Tenant, _ = flags.GetString("tenant")
			want.AllTenants, _ = flags.GetBool("all-tenants")
			want.Collections, _ = flags.GetStringSlice("collection")
			if life, _ := flags.GetDuration("expires-in"); flags.Changed("expires-in") {
				if life <= 0 { // else a slip would make a key that is good for ever
					return cli.Usage("--expires-in is not above zero")
				}
				end := time.Now().Add(life).UTC()
				want.ExpiresAt = &end
			}
			return c.CreateKey(ctx, want)
		})
	create.Flags().String("role", "viewer", "viewer, operator or admin")
	create.Flags().String("tenant", "", "Tenant that it is for")
	create.Flags().Bool("all-tenants", false, "For all tenants")
	create.Flags().StringSlice("collection", nil, "ID of a collection that it is for; may be repeated; default: all")
	create.Flags().Duration("expires-in", 0, "How long it is good for; default: for ever")
	completeFlags(create, map[string]cobra.CompletionFunc{
		"role": cobra.FixedCompletions([]string{"viewer", "operator", "admin"}, cobra.ShellCompDirectiveNoFileComp),
	})
	revoke := subcommand("revoke KEY", "Revokes an API key, named by its ID, name or prefix", cobra.ExactArgs(1),
		func(ctx context.Context, c *cli.CLI, cmd *cobra.Command) error {
			return c.RevokeKey(ctx, cmd.Flags().Arg(0))
		})
	revoke.ValidArgsFunction = inTurn(offerKeys)
	list := subcommand("list", "Lists the API keys, without the keys", cobra.NoArgs,
		func(ctx context.Context, c *cli.CLI, _ *cobra.Command) error { return c.ListKeys(ctx) })
	group.AddCommand(list, create, revoke)
	return group
}

// subcommand makes a command that asks the API.
func subcommand(use, short string, args cobra.PositionalArgs, run func(context.Context, *cli.CLI, *cobra.Command) error) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: words(args), SilenceUsage: true, ValidArgsFunction: inTurn()}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx, stop := ossignal.NotifyContext(cmd.Context(), os.Interrupt)
		defer stop()
		c, err := newCLI(cmd)
		if err == nil {
			err = run(ctx, c, cmd)
		}
		return exit(cmd, err)
	}
	return cmd
}

// groupOf has a command that only has commands below it refuse other words, which it would else answer with its help and exit code 0.
func groupOf(cmd *cobra.Command) {
	cmd.SilenceUsage, cmd.DisableFlagsInUseLine, cmd.SuggestionsMinimumDistance = true, true, 2
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		meant := ""
		if alike := cmd.SuggestionsFor(args[0]); len(alike) > 0 {
			meant = "; did you mean " + strings.Join(alike, " or ") + "?"
		}
		return exit(cmd, cli.Usage("there is no command %q below %s%s", args[0], cmd.CommandPath(), meant))
	}
}

// words has a wrong number of arguments end as every wrong usage does.
func words(args cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, given []string) error {
		if err := args(cmd, given); err != nil {
			return exit(cmd, cli.Usage("%s; it is: %s", err, cmd.UseLine()))
		}
		return nil
	}
}

// exit has Caddy tell the error, and the program end with its code.
func exit(cmd *cobra.Command, err error) error {
	return caddycmd.WrapCommandFuncForCobra(func(caddycmd.Flags) (int, error) { return cli.ExitCode(err), err })(cmd, nil)
}

func choiceOf(cmd *cobra.Command) cli.Choice {
	flags := cmd.Flags()
	choice := cli.Choice{Name: flags.Arg(0)}
	for name, field := range map[string]*string{"subject": &choice.Subject, "environment": &choice.Environment, "tenant": &choice.Tenant} {
		if flag := flags.Lookup(name); flag != nil {
			*field = flag.Value.String()
		}
	}
	return choice
}

// newCLI finds the API that the flags name.
func newCLI(cmd *cobra.Command) (*cli.CLI, error) {
	flags := cmd.Flags()
	json, _ := flags.GetBool("json")
	c := &cli.CLI{Out: cmd.OutOrStdout(), Notes: cmd.ErrOrStderr(), JSON: json}
	if site, _ := flags.GetString("api"); site != "" {
		key := strings.TrimSpace(os.Getenv(apiKeyVariable))
		if key == "" {
			return nil, cli.Usage("--api needs an API key in the environment variable %s", apiKeyVariable)
		}
		if err := checkTokenEndpoint(site, false); err != nil {
			return nil, cli.Usage("--api: the URL %s", err)
		}
		c.Client = &cli.Client{Base: strings.TrimSuffix(strings.TrimSuffix(site, "/"), "/v1"), HTTP: cli.Direct(&http.Client{}), Key: secret.New(key)}
		return c, nil
	}
	address, _ := flags.GetString("address")
	config, _ := flags.GetString("config")
	adapter, _ := flags.GetString("adapter")
	address, err := caddycmd.DetermineAdminAPIAddress(address, nil, config, adapter)
	if err != nil {
		return nil, cli.Usage("find the address of the admin endpoint: %s", err)
	}
	c.Client, err = adminClient(address)
	return c, err
}

// adminClient returns a client of the admin endpoint at that address, which may be a Unix socket.
func adminClient(address string) (*cli.Client, error) {
	parsed, err := caddy.ParseNetworkAddress(address)
	if err != nil || parsed.PortRangeSize() > 1 || strings.Contains(address, "://") { // a URL would be taken for a kind of network
		return nil, cli.Usage("%q is not the address of an admin endpoint", address)
	}
	host, dial := parsed.JoinHostPort(0), parsed.JoinHostPort(0)
	if parsed.IsUnixNetwork() {
		host = "127.0.0.1"                         // Caddy checks the Host header against its own addresses
		dial, _, _ = strings.Cut(parsed.Host, "|") // what follows are the socket's permissions
	}
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, parsed.Network, dial)
	}}
	return &cli.Client{Base: "http://" + host + "/" + appName, HTTP: cli.Direct(&http.Client{Transport: transport})}, nil
}

// confirm asks a person, who has to be there.
func confirm(cmd *cobra.Command, question string) error {
	if yes, _ := cmd.Flags().GetBool("yes"); yes {
		return nil
	}
	_, _ = fmt.Fprint(cmd.ErrOrStderr(), question+" [y/N] ")
	answer, err := bufio.NewReader(cmd.InOrStdin()).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if answer = strings.ToLower(strings.TrimSpace(answer)); answer != "y" && answer != "yes" {
		return cli.Usage("nothing was done; answer y, or give --yes")
	}
	return nil
}

// openBrowser opens a link with what the system has for it.
func openBrowser(ctx context.Context, link string) error {
	if !strings.HasPrefix(link, "https://") && !strings.HasPrefix(link, "http://") {
		return errors.New("open the link: it is not one for a browser")
	}
	switch runtime.GOOS {
	case "darwin":
		return exec.CommandContext(ctx, "open", link).Run()
	case "windows":
		return exec.CommandContext(ctx, "rundll32", "url.dll,FileProtocolHandler", link).Run()
	}
	return exec.CommandContext(ctx, "xdg-open", link).Run()
}
