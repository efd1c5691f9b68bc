package caddyoauth

import (
	"cmp"
	"errors"
	"maps"
	"net/url"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/caddyoauth/caddyoauth/internal/oauth"
	"github.com/caddyoauth/caddyoauth/internal/provider"
)

// discovery is where a connection's endpoints come from if they are not configured.
type discovery struct {
	key    string // what the metadata depend on; connections with the same share them
	client *oauth.Discovery
}

// discovers reports whether endpoints are to be found by discovery: there is an issuer, and no token endpoint, or none to send people
// to although they are to come.
func (c *Connection) discovers(conf oauth.Config) bool {
	if c.Grant == oauth.GrantImplicit {
		return conf.Issuer != "" && conf.AuthorizationEndpoint == ""
	}
	people := c.Grant == oauth.GrantAuthorizationCode
	return conf.Issuer != "" && (conf.TokenEndpoint == "" || people && conf.AuthorizationEndpoint == "")
}

// buildDiscovery settles how endpoints are found. Nobody is asked before somebody needs them: a server that is down must not keep
// Caddy from starting.
func (c *Connection) buildDiscovery(r *resolver, conf *oauth.Config, preset *provider.Provider) *discovery {
	if conf.TokenEndpoint == "" { // else a preset's issuer is not used: most were recalled, and nothing is refused on those
		conf.Issuer = cmp.Or(conf.Issuer, preset.Issuer)
	}
	if !c.discovers(*conf) {
		if conf.TokenEndpoint == "" && c.Provider == nil && c.Grant != oauth.GrantImplicit { // a preset says itself why it has none
			r.fault("token_endpoint", errors.New("is required, or issuer, which says where to find it"))
		}
		return nil
	}
	if markText.MatchString(conf.Issuer) { // else whoever answers a question could choose whose metadata are read
		r.fault("issuer", errors.New("with marks in it, it is only compared: endpoints cannot be found by it; give them"))
		return nil
	}
	if err := checkTokenEndpoint(conf.Issuer, c.InsecureHTTP); err != nil {
		r.fault("issuer", err)
		return nil
	}
	where := oauth.DiscoverConfig{Issuer: conf.Issuer, RootCAs: conf.RootCAs, InsecureHTTP: c.InsecureHTTP, UserAgent: userAgent, Reach: conf.Reach}
	if strings.HasPrefix(conf.Issuer, "https:") {
		where.Certificate = conf.Certificate
	}
	metadata, err := oauth.NewMetadata(where)
	if err != nil {
		r.fault("issuer", err)
		return nil
	}
	d := &discovery{client: &oauth.Discovery{Metadata: metadata, MethodByServer: c.ClientAuth == ""}}
	if said := c.Quirks != nil && c.Quirks.OfflineScope != "" || slices.Contains(c.Scopes, preset.OfflineScope); !said && preset.OfflineScope != "" {
		d.client.OptionalScopes = []string{preset.OfflineScope}
	}
	d.key, err = digestOf([]any{conf.Issuer, c.InsecureHTTP, identityOf(where.Certificate), r.trusted, conf.Reach != nil})
	if err != nil {
		r.fault("issuer", err)
	}
	conf.Discovery = d.client
	return d
}

// identityOf tells certificates apart without giving a key away.
func identityOf(c *oauth.Certificate) []string {
	if c == nil {
		return nil
	}
	return []string{c.CertFile, c.KeyFile, c.Chain, c.Key.Digest()}
}

// share has a connection use what others, and configurations before this one, have found.
func (a *App) share(d *discovery, name string) {
	if d == nil {
		return
	}
	d.client.Metadata = a.engine.sharedMetadata(d.key, d.client.Metadata)
	d.client.Listen = func(news oauth.News) { a.heard(name, news) }
}

// discovers reports whether a connection of this configuration uses the metadata under that key.
func (a *App) discovers(key string) bool {
	return slices.ContainsFunc(a.active.all(), func(c *activeConnection) bool { return c.discovery != nil && c.discovery.key == key })
}

// heard logs what was found out about an authorization server. Its endpoints may be on other hosts than the issuer, as the standards
// allow; where they go is worth a line, and where they go all of a sudden is worth a warning.
func (a *App) heard(name string, news oauth.News) {
	logger := a.logger.With(zap.String("connection", name))
	switch {
	case news.New == nil:
		logger.Warn("the authorization server's metadata cannot be read; the last ones stay in use", zap.Error(news.Err))
	case news.Old == nil:
		logger.Info("the authorization server's endpoints were found", zap.String("issuer", news.New.Issuer), zap.Strings("hosts", hostsOf(news.New)))
	case !slices.Equal(hostsOf(news.Old), hostsOf(news.New)):
		logger.Warn("the authorization server's endpoints are on other hosts than before", zap.String("issuer", news.New.Issuer),
			zap.Strings("before", hostsOf(news.Old)), zap.Strings("now", hostsOf(news.New)))
	}
}

// hostsOf returns the hosts of a server's endpoints, sorted.
func hostsOf(server *oauth.Server) []string {
	hosts := make(map[string]bool)
	for _, endpoint := range []string{
		server.TokenEndpoint, server.AuthorizationEndpoint, server.RevocationEndpoint,
		server.MTLSEndpointAliases.TokenEndpoint, server.MTLSEndpointAliases.RevocationEndpoint,
	} {
		if u, err := url.Parse(endpoint); err == nil && u.Host != "" {
			hosts[u.Host] = true
		}
	}
	return slices.Sorted(maps.Keys(hosts))
}
