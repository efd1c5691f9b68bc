package caddyoauth

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/caddyserver/certmagic"
	"github.com/spf13/cobra"

	"github.com/caddyoauth/caddyoauth/internal/cli"
	"github.com/caddyoauth/caddyoauth/internal/envelope"
	"github.com/caddyoauth/caddyoauth/internal/oauth"
)

// doctor checks a configuration from outside in, as Caddy would use it, without a running Caddy. It changes nothing that is stored: a
// lock is taken and given back, and machines' connections ask for a token that is thrown away.
type doctor struct {
	app    *App
	site   string // scheme and host of the site that serves oauth2_connect; "" = not said
	report *cli.Report
}

const (
	doctorTimeout   = 30 * time.Second // each step
	doctorPatience  = 15 * time.Second // for a lock; longer than the storage takes to see that its holder is gone
	certEndsSoon    = 14 * 24 * time.Hour
	clockOff        = 30 * time.Second // from here on short-lived tokens suffer
	clockFarOff     = 5 * time.Minute  // from here on assertions and ID tokens are refused
	unknownSite     = "https://SITE"
	doctorClockHint = "synchronize this machine's clock (NTP)"
)

// doctorCommand is `caddy oauth2-inject doctor`.
func doctorCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "doctor [NAME]", Short: "Checks a configuration from outside in, and says what to fix", Args: words(cobra.MaximumNArgs(1)), SilenceUsage: true,
		ValidArgsFunction: inTurn(offerNames),
		Long: `
Checks the configuration of --config, or of the Caddyfile in this directory, and all of its
connections or the named one: whether storage, lock and keys work; whether the endpoints can
be reached and trusted; how far their clocks are off; whether they accept this client, and
the redirect URI as far as that can be told without a person. Run it as the user that Caddy
runs as. Where a machine's connection is checked, one token is asked for and thrown away.`,
	}
	cmd.Flags().String("site", "", "Address of the site that serves oauth2_connect, such as https://app.example.com")
	completeFlags(cmd, nil)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		flags := cmd.Flags()
		config, _ := flags.GetString("config")
		adapter, _ := flags.GetString("adapter")
		asJSON, _ := flags.GetBool("json")
		d := &doctor{report: cli.NewReport(cmd.OutOrStdout(), asJSON)}
		if err := d.setSite(flags.Lookup("site").Value.String()); err != nil {
			return exit(cmd, err)
		}
		if d.configuration(config, adapter) {
			d.examine(cmd.Context(), append(args, "")[0])
		}
		return exit(cmd, d.report.Finish())
	}
	return cmd
}

// setSite takes the address of the site with oauth2_connect, without what may stand behind it.
func (d *doctor) setSite(address string) error {
	if address == "" {
		return nil
	}
	site, err := url.Parse(address)
	if err != nil || site.Host == "" || site.Scheme != "https" && site.Scheme != "http" {
		return cli.Usage("--site is not an address such as https://app.example.com")
	}
	d.site = site.Scheme + "://" + site.Host
	return nil
}

// configuration loads and provisions the configuration, as `caddy validate` does.
func (d *doctor) configuration(file, adapter string) bool {
	const check = "configuration"
	text, used, _, err := caddycmd.LoadConfig(file, adapter)
	if err == nil && len(text) == 0 {
		return d.report.Fail("", check, "there is none here", "name the file with --config")
	}
	config := new(caddy.Config)
	if err == nil {
		err = json.Unmarshal(text, config)
	}
	if err == nil {
		config.Admin = &caddy.AdminConfig{Disabled: true} // the running Caddy's is in use
		config.Logging = quietLogging()
		var ctx caddy.Context
		if ctx, err = caddy.ProvisionContext(config); err == nil {
			var module any
			module, err = ctx.AppIfConfigured(appName)
			d.app, _ = module.(*App)
		}
	}
	switch {
	case errors.Is(err, caddy.ErrNotConfigured):
		return d.report.Fail("", check, cmp.Or(used, file)+" has no oauth2_inject", "add the global option oauth2_inject, or name another file with --config")
	case err != nil:
		return d.report.Fail("", check, err.Error(), "correct it; `caddy validate` says the same")
	}
	return d.report.OK("", check, fmt.Sprintf("%s is valid; %d connections", cmp.Or(used, file), len(d.app.active.all())))
}

// quietLogging keeps the log files of the configuration untouched, and standard error to the report's own words.
func quietLogging() *caddy.Logging {
	return &caddy.Logging{Logs: map[string]*caddy.CustomLog{"default": {BaseLog: caddy.BaseLog{WriterRaw: json.RawMessage(`{"output":"discard"}`)}}}}
}

// examine checks what all connections share, and then each.
func (d *doctor) examine(ctx context.Context, only string) {
	d.step(ctx, d.storage)
	d.step(ctx, d.keys)
	found := false
	for _, c := range d.app.active.all() {
		if only != "" && c.name != only {
			continue
		}
		found = true
		d.step(ctx, func(ctx context.Context) { d.connection(ctx, c) })
	}
	if !found && only != "" {
		d.report.Fail(only, "connection", "there is none of that name", "check the name")
	}
}

func (d *doctor) step(ctx context.Context, check func(context.Context)) {
	ctx, cancel := context.WithTimeout(ctx, doctorTimeout)
	defer cancel()
	check(ctx)
}

// storage checks that storage answers and that a lock can be had and given back.
func (d *doctor) storage(ctx context.Context) {
	storage := d.app.ctx.Storage() // as configured: what stands in front of it in the store shows neither kind nor place
	if files, ok := storage.(*certmagic.FileStorage); ok {
		if _, err := os.Stat(files.Path); errors.Is(err, fs.ErrNotExist) {
			d.report.Skip("", "storage", "there is nothing at "+files.Path+" yet", "Caddy makes it when it is first needed, as the user it runs as")
			return
		}
		if owner, ok := ownerOf(files.Path); ok && owner != os.Geteuid() {
			d.report.Skip("", "storage", files.Path+" belongs to another user", "run this as the user that Caddy runs as; a file made by you might be one that Caddy cannot write")
			return
		}
		ours := files.Filename(storageRoot)
		if owner, ok := ownerOf(ours); ok && owner != os.Geteuid() {
			d.report.Fail("", "storage", ours+" belongs to another user than the folder that it is in", "give it, and all that is in it, to the user that Caddy runs as")
			return
		}
	}
	if _, err := storage.Load(ctx, keysetKey); err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.report.Fail("", "storage", "it cannot be read: "+err.Error(), "check the storage's own configuration, and that it runs")
		return
	}
	began := time.Now()
	lockCtx, cancel := context.WithTimeout(ctx, doctorPatience)
	defer cancel()
	switch err := storage.Lock(lockCtx, doctorLock); {
	case errors.Is(err, context.DeadlineExceeded):
		d.report.Fail("", "lock", fmt.Sprintf("somebody has held it for %s", doctorPatience),
			"see whether another doctor runs; else remove the lock "+doctorLock+" from the storage, and check that its clock and this machine's agree")
		return
	case err != nil:
		d.report.Fail("", "lock", "it cannot be had: "+err.Error(), "check that the storage can be written")
		return
	}
	if err := storage.Unlock(context.WithoutCancel(ctx), doctorLock); err != nil {
		d.report.Fail("", "lock", "it cannot be given back: "+err.Error(), "check that the storage can be written")
		return
	}
	d.report.OK("", "storage", fmt.Sprintf("%T answers; a lock took %s", storage, time.Since(began).Round(time.Millisecond)))
}

// keys checks that the configured keys open what is stored.
func (d *doctor) keys(ctx context.Context) {
	keys := d.app.store.keys
	wrapped, err := d.app.store.storage.Load(ctx, keysetKey)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		d.report.OK("", "keys", "no token was stored yet; the data key is made with the first one")
		return
	case err != nil:
		return // said of the storage already
	}
	keks := keys.configured
	if len(keks) == 0 {
		kek, err := keys.generatedKey(false)
		if err != nil {
			d.report.Fail("", "keys", err.Error(), "bring the file back from a backup of Caddy's data directory, or run this as the user that Caddy runs as")
			return
		}
		keks = []KeyEncryptionKey{kek}
	}
	_, by, err := envelope.Open(ctx, wrapped, keks)
	switch {
	case err != nil:
		d.report.Fail("", "keys", err.Error(), cmp.Or(unreadableHint(err), "check that the key service can be reached"))
	case by > 0:
		d.report.Warn("", "keys", "what is stored is still wrapped with a later key of the configuration", "start Caddy with this configuration once before you remove that key")
	case len(keys.configured) == 0:
		d.report.Warn("", "keys", "a generated key beside the storage seals the tokens", "configure `encryption`, and keep the key elsewhere")
	default:
		d.report.OK("", "keys", "the first key opens what is stored")
	}
}

// connection checks one connection.
func (d *doctor) connection(ctx context.Context, c *activeConnection) {
	if c.certificate != nil {
		pair, err := c.certificate.Load()
		if err != nil {
			d.report.Fail(c.name, "client certificate", err.Error(), "renew or correct the files; they are read anew for every exchange")
			return // nothing is asked without it
		}
		d.ends(c, "client certificate", pair.Leaf.NotAfter)
	}
	server := c.plain
	if server == nil {
		d.report.Skip(c.name, "endpoints", "they depend on what a person is asked for first", "connect an account to find out")
		return
	}
	sights, err := server.client.Look(ctx)
	if err != nil {
		d.report.Fail(c.name, "discovery", err.Error(), "check the issuer, or give the endpoints")
		return
	}
	unseen := make(map[string]bool)
	for _, sight := range sights {
		unseen[sight.Endpoint] = !d.sight(c, sight)
	}
	if !unseen["token endpoint"] {
		d.introduce(ctx, c, server.client)
	}
	if c.needsPerson() && !unseen["authorization endpoint"] {
		d.redirect(ctx, c, server)
	}
}

// sight reports what was seen of an endpoint.
func (d *doctor) sight(c *activeConnection, sight oauth.Sight) bool {
	if sight.Err != nil {
		return d.report.Fail(c.name, sight.Endpoint, sight.Err.Error(), "check its address, the network, and `tls { ca }` for an authority of your own")
	}
	d.report.OK(c.name, sight.Endpoint, sight.Host+" answers")
	if !sight.CertEnds.IsZero() && time.Until(sight.CertEnds) < certEndsSoon {
		d.report.Warn(c.name, sight.Endpoint, "its certificate ends "+sight.CertEnds.UTC().Format(time.DateOnly), "tell whoever runs it")
	}
	off := sight.Offset.Abs().Round(time.Second)
	switch {
	case off >= clockFarOff:
		d.report.Fail(c.name, "clock", fmt.Sprintf("this machine's and %s's are %s apart", sight.Host, off), doctorClockHint)
	case off >= clockOff:
		d.report.Warn(c.name, "clock", fmt.Sprintf("this machine's and %s's are %s apart", sight.Host, off), doctorClockHint)
	}
	return true
}

// ends reports when a certificate of ours ends.
func (d *doctor) ends(c *activeConnection, what string, at time.Time) {
	text := "ends " + at.UTC().Format(time.DateOnly)
	if time.Until(at) < certEndsSoon {
		d.report.Warn(c.name, what, text, "renew it; the files are read anew for every exchange")
		return
	}
	d.report.OK(c.name, what, text)
}

// introduce checks whether the authorization server accepts this client.
func (d *doctor) introduce(ctx context.Context, c *activeConnection, client *oauth.Client) {
	const what = "client authentication"
	accepted := true
	var err error
	switch c.settings.Grant {
	case oauth.GrantClientCredentials:
		_, err = client.ClientCredentials(ctx)
	case oauth.GrantRefreshToken:
		accepted, err = client.Introduce(ctx, d.redirectURI(c))
	default:
		d.report.Skip(c.name, what, "not tried: an attempt could count against the account", "`test` and `refresh` show whether it works")
		return
	}
	var failure *oauth.Error
	switch {
	case err == nil && accepted:
		d.report.OK(c.name, what, "the server accepts this client")
	case err == nil:
		d.report.Skip(c.name, what, "the server's answer does not tell", "connect an account to find out")
	case errors.As(err, &failure) && failure.Class == oauth.Misconfigured:
		d.report.Fail(c.name, what, err.Error(), "correct that in the connection, or at the provider")
	default:
		d.report.Warn(c.name, what, err.Error(), "try again; if it stays, check client_id, client_secret or the certificate, and client_auth")
	}
}

// redirectURI is what has to be registered at the provider; "" where no oauth2_connect offers the connection.
func (d *doctor) redirectURI(c *activeConnection) string {
	offer, ok := d.app.active.offerOf(c)
	if !ok {
		return ""
	}
	return cmp.Or(d.site, offer.base, unknownSite) + offer.path + "/callback"
}

// redirect checks whether the authorization server takes the redirect URI, as far as that can be told without a person.
func (d *doctor) redirect(ctx context.Context, c *activeConnection, server *counterpart) {
	const what = "redirect URI"
	uri := d.redirectURI(c)
	switch {
	case uri == "":
		d.report.Warn(c.name, what, "no oauth2_connect offers this connection, so nobody can connect it", "add the directive oauth2_connect to a site")
		return
	case strings.HasPrefix(uri, unknownSite):
		d.report.Skip(c.name, what, "register "+uri+" at the provider, with the address of the site", "give it with --site to have it checked")
		return
	}
	client, _, err := server.client.At(ctx)
	var link string
	if err == nil {
		link, err = client.AuthorizationURL(oauth.AuthorizationRequest{
			RedirectURI: uri, State: oauth.RandomState(), Challenge: oauth.NewPKCE().Challenge, Params: server.authParams,
		})
	}
	if err != nil {
		d.report.Fail(c.name, what, err.Error(), "correct the connection's options")
		return
	}
	switch sight := client.LookAt(ctx, link); {
	case sight.Err != nil:
		d.report.Warn(c.name, what, sight.Err.Error(), "try again")
		return
	case sight.Status >= 400:
		d.report.Fail(c.name, what, fmt.Sprintf("the authorization endpoint answers with status %d to %s", sight.Status, uri), "register exactly this redirect URI at the provider, and check client_id and scopes")
		return
	}
	d.report.OK(c.name, what, uri+" was not refused")
}
