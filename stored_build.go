package caddyoauth

import (
	"bytes"
	"cmp"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/caddyoauth/caddyoauth/internal/oauth"
)

// Whoever makes a connection at run time is not who runs this Caddy. What they say is taken to the letter: no placeholder of theirs
// may read the server's environment or files, none of their endpoints may lead into the operator's network, and a subject is taken
// from the request only where the operator says that it may be.

// storedParts is what a connection that was made at run time has instead of files, and the bounds that it is held to.
type storedParts struct {
	certificate *oauth.Certificate
	key         *oauth.ClientKey
	authorities *x509.CertPool
	endpoints   *hostList // where its endpoints may be; nil = at public addresses, over TLS
	subjects    []string  // what its subject may be
}

// equip gives a connection what it has instead of files, and a look at every address that it dials.
func (p *storedParts) equip(conf *oauth.Config) {
	if p.certificate != nil {
		conf.Certificate = p.certificate
	}
	if p.key != nil {
		conf.Key = p.key
	}
	if p.authorities != nil {
		conf.RootCAs = p.authorities
	}
	if p.endpoints == nil {
		conf.Reach = publicOnly
	}
}

// restrict holds a connection to the bounds of one that was made at run time.
func (p *storedParts) restrict(r *resolver, c *Connection, conf *oauth.Config) {
	for _, one := range []struct{ option, url string }{
		{"token_endpoint", conf.TokenEndpoint}, {"authorization_endpoint", conf.AuthorizationEndpoint},
		{"revocation_endpoint", conf.RevocationEndpoint}, {"quirks", conf.RefreshEndpoint}, {"issuer", conf.Issuer},
	} {
		if one.url == "" {
			continue
		}
		if err := p.admits(one.url); err != nil {
			r.fault(one.option, err)
		}
	}
	if call := c.TestCall; call != nil && call.URL != "" {
		if err := p.admits(call.URL); err != nil {
			r.fault("test_call", err)
		}
	}
	if c.Subject != "" && !slices.Contains(p.subjects, c.Subject) {
		r.fault("subject", fmt.Errorf("must be one of %s", strings.Join(p.subjects, ", ")))
	}
}

// admits reports why an endpoint must not be where it is said to be.
func (p *storedParts) admits(raw string) error {
	if markText.MatchString(raw) {
		// Where it leads depends on the person; the address is looked at when it is dialled.
		if p.endpoints != nil || !strings.HasPrefix(raw, "https://") {
			return errors.New("an address that depends on the person must be an https:// URL, and the operator must not have listed endpoints")
		}
		return nil
	}
	u, err := url.Parse(raw)
	if err != nil || u.Hostname() == "" {
		return errors.New("is not a URL with a host")
	}
	host, port := u.Hostname(), u.Port()
	if p.endpoints != nil {
		if !p.endpoints.allows(host, cmp.Or(port, map[string]string{"https": "443", "http": "80"}[u.Scheme])) {
			return fmt.Errorf("the operator allows no endpoint at %s", host)
		}
		return nil
	}
	if u.Scheme != "https" {
		return errors.New("must be an https:// URL")
	}
	addr, err := netip.ParseAddr(host)
	if isLoopback(host) || err == nil && !isPublic(addr) {
		return fmt.Errorf("%s is not a public address", host)
	}
	return nil
}

// publicOnly is asked for every address that is dialled: a public name may lead anywhere.
func publicOnly(to netip.AddrPort) error {
	if !isPublic(to.Addr()) {
		return fmt.Errorf("%s is not a public one", to.Addr())
	}
	return nil
}

// special are the ranges that package netip has no word for (RFC 6890): shared, for protocols, for benchmarks, reserved, and those
// of IPv6 that stand for an address of IPv4, which could be any of these.
var special = func() (ranges []netip.Prefix) {
	for _, one := range []string{
		"0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4",
		"64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/32", "2001:db8::/32", "2002::/16", "fec0::/10", "::/96",
	} {
		ranges = append(ranges, netip.MustParsePrefix(one))
	}
	return ranges
}()

// isPublic reports whether an address is one of the internet's.
func isPublic(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	return addr.IsGlobalUnicast() && !addr.IsPrivate() &&
		!slices.ContainsFunc(special, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// storedOptions are the options of a connection that was made at run time: those of a configured one, but for certificates, which
// are entries of their own.
type storedOptions struct {
	Connection
	SigningKey    *SigningKey `json:"client_key,omitempty"` // instead of the one that names a file
	CertificateID string      `json:"mtls_certificate_id,omitempty"`
	AuthoritiesID string      `json:"ca_certificate_id,omitempty"`
}

// SigningKey names a key that is kept as a certificate, or without one, and signs client assertions (RFC 7523).
type SigningKey struct {
	ID string `json:"id"`
	// KeyID tells the server which of the client's keys it is.
	KeyID string `json:"kid,omitempty"`
	// Algorithm of the signature.
	Algorithm string `json:"alg,omitempty"`
}

// certificates returns the IDs of those that a connection uses.
func (c *storedOptions) certificates() []string {
	ids := []string{c.CertificateID, c.AuthoritiesID}
	if c.SigningKey != nil {
		ids = append(ids, c.SigningKey.ID)
	}
	return ids
}

// in returns the options that count in an environment: the overriding ones over the others. "" and the base environment stand for
// the options themselves. With an error, they are those that can be read; nil if there is no such environment.
func (e *entry) in(environment string) (*storedOptions, error) {
	all := e.Options.reveal()
	if all == nil {
		all = make(map[string]json.RawMessage)
	}
	if environment != "" && environment != e.BaseEnvironment {
		overrides, ok := e.Environments[environment]
		if !ok {
			return nil, fmt.Errorf("%q has no environment %q", e.Name, environment)
		}
		for name, value := range overrides.reveal() {
			all[name] = value
		}
	}
	out, err := readOptions(all)
	out.Tenant = e.Tenant
	return out, err
}

// readOptions reads options, and names every one that has another form than the configuration's. The others are read all the same.
func readOptions(all map[string]json.RawMessage) (*storedOptions, error) {
	r := new(resolver)
	out := new(storedOptions)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		text, err := json.Marshal(map[string]json.RawMessage{name: all[name]})
		if err == nil {
			decoder := json.NewDecoder(bytes.NewReader(text))
			decoder.DisallowUnknownFields()
			err = decoder.Decode(out)
		}
		if err != nil {
			r.fault(name, errors.New("has not the form that it has in the configuration")) // the decoder's own words may repeat a value
		}
	}
	return out, errors.Join(r.faults...)
}

// buildStored resolves and checks the connection of an entry in one environment.
func (a *App) buildStored(e *entry, environment string, find func(id string) *entry) (*built, *storedOptions, error) {
	said, err := e.in(environment)
	if err != nil {
		return nil, nil, err
	}
	b, err := a.buildSaid(e, said, environment, find)
	return b, said, err
}

// buildSaid is buildStored for options that were read.
func (a *App) buildSaid(e *entry, said *storedOptions, environment string, find func(id string) *entry) (*built, error) {
	r := &resolver{stored: &storedParts{endpoints: a.limits.endpoints, subjects: a.limits.subjects}}
	if k := said.SigningKey; k != nil {
		if held := find(k.ID); held == nil || held.Kind != kindCertificate || held.Tenant != e.Tenant || held.Key.IsZero() {
			r.fault("client_key", errors.New("no certificate with a key has this ID"))
		} else {
			r.stored.key = &oauth.ClientKey{Held: held.Key, Name: held.Name, KeyID: k.KeyID, Algorithm: k.Algorithm}
			said.ClientKey = &ClientKey{File: held.Name, KeyID: k.KeyID, Algorithm: k.Algorithm}
			if err := r.stored.key.Check(); err != nil {
				r.fault("client_key", err)
			}
		}
	}
	if said.CertificateID != "" {
		if held := find(said.CertificateID); held == nil || held.Kind != kindCertificate || held.Tenant != e.Tenant || held.Key.IsZero() || held.Chain == "" {
			r.fault("mtls_certificate_id", errors.New("no certificate with a key has this ID"))
		} else {
			r.stored.certificate = &oauth.Certificate{Chain: held.Chain, Key: held.Key, Name: held.Name}
			said.ClientCertificate = &ClientCertificate{Certificate: held.Name, Key: held.Name}
		}
	}
	if said.AuthoritiesID != "" {
		pool := x509.NewCertPool()
		if held := find(said.AuthoritiesID); held == nil || held.Kind != kindCertificate || held.Tenant != e.Tenant {
			r.fault("ca_certificate_id", errors.New("no certificate has this ID"))
		} else if !pool.AppendCertsFromPEM([]byte(held.Chain)) {
			r.fault("ca_certificate_id", errors.New("it holds no certificate"))
		}
		r.stored.authorities = pool
		r.trusted = append(r.trusted, []byte(e.ID), []byte(said.AuthoritiesID)) // metadata that were read with it are nobody else's
	}
	b, err := said.buildWith(r, fullName(e.Tenant, e.Name, environment, e.BaseEnvironment))
	if err == nil {
		b.after(e.Moved[environment].Times)
	}
	return b, err
}

// fullName is what a connection that was made at run time is called in the configuration, in logs and in storage. Neither / nor @
// can stand in a name.
func fullName(tenant, name, environment, base string) string {
	if tenant != "" {
		name = tenant + "/" + name
	}
	if environment != "" && environment != base {
		name += "@" + environment
	}
	return name
}

// limits are the bounds of what may be made at run time, resolved.
type limits struct {
	endpoints      *hostList
	subjects       []string
	maxConnections int
}
