package caddyoauth

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddyoauth/caddyoauth/internal/oauth"
	"github.com/caddyoauth/caddyoauth/internal/provider"
	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// TestIsPublic: nothing that leads into this machine or a network of the operator's is public, in whatever form it is written.
func TestIsPublic(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"8.8.8.8": true, "1.1.1.1": true, "2606:4700::1111": true, "::ffff:8.8.8.8": true, "172.32.0.1": true, "100.128.0.1": true,
		"127.0.0.1": false, "127.8.8.8": false, "0.0.0.0": false, "0.1.2.3": false, "10.0.0.1": false, "172.16.0.1": false, "192.168.0.1": false,
		"169.254.169.254": false, "100.64.0.1": false, "192.0.0.1": false, "192.0.2.1": false, "198.18.0.1": false, "198.51.100.1": false, "203.0.113.1": false,
		"224.0.0.1": false, "240.0.0.1": false, "255.255.255.255": false, "::": false, "::1": false, "::ffff:127.0.0.1": false, "::ffff:10.0.0.1": false,
		"::127.0.0.1": false, "fe80::1": false, "fe80::1%eth0": false, "fc00::1": false, "fd12:3456::1": false, "fec0::1": false, "ff02::1": false,
		"64:ff9b::7f00:1": false, "64:ff9b:1::1": false, "2002:7f00:1::": false, "2001::1": false, "2001:db8::1": false, "100::1": false,
	} {
		if got := isPublic(netip.MustParseAddr(text)); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
}

// TestStoredConnectionsReachOutsideOnly: every door of a connection that was made at run time asks for the address that it is about to
// dial, also the one that looks for metadata; unless the operator has named the hosts.
func TestStoredConnectionsReachOutsideOnly(t *testing.T) {
	t.Parallel()
	asked := false
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	t.Cleanup(server.Close)
	c := &Connection{Issuer: server.URL, ClientID: "caddy", ClientAuth: "none"}
	r := &resolver{stored: new(storedParts)}
	conf := c.wire(r, new(provider.Provider))
	if conf.Reach == nil || conf.Reach(netip.MustParseAddrPort("127.0.0.1:443")) == nil || conf.Reach(netip.MustParseAddrPort("8.8.8.8:443")) != nil {
		t.Fatal("an address is not asked for, or judged in another way")
	}
	d := c.buildDiscovery(r, &conf, new(provider.Provider))
	client, err := oauth.NewClient(conf)
	if err != nil || d == nil {
		t.Fatal(err)
	}
	_, err = client.ClientCredentials(t.Context())
	var failure *oauth.Error
	if !errors.As(err, &failure) || failure.Code != "address_not_allowed" || asked {
		t.Errorf("got %v", err)
	}
	c = &Connection{TokenEndpoint: server.URL, ClientID: "caddy", ClientAuth: "none"}
	conf = c.wire(r, new(provider.Provider))
	if client, err = oauth.NewClient(conf); err != nil {
		t.Fatal(err)
	}
	if _, err = client.ClientCredentials(t.Context()); !errors.As(err, &failure) || failure.Code != "address_not_allowed" || asked {
		t.Errorf("got %v", err)
	}
	hosts, err := newHostList([]string{"127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	r.stored.endpoints = hosts
	if conf = c.wire(r, new(provider.Provider)); conf.Reach != nil {
		t.Error("a host that the operator has named is judged again")
	}
	for url, want := range map[string]string{
		server.URL: "", "https://other.example/": "allows no endpoint", "https://{field.shop}.example/": "depends on the person", "https:///x": "with a host",
	} {
		if err := r.stored.admits(url); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", url, err)
		}
	}
}

// TestMetadataAreSharedByWhoAsksAlike: certificates and authorities are part of what metadata depend on, and a key is no reason to fail.
func TestMetadataAreSharedByWhoAsksAlike(t *testing.T) {
	t.Parallel()
	keyOf := func(change func(r *resolver, c *Connection)) string {
		t.Helper()
		c := &Connection{Issuer: "https://idp.example", ClientID: "caddy"}
		r := &resolver{stored: new(storedParts)}
		change(r, c)
		conf := c.wire(r, new(provider.Provider))
		d := c.buildDiscovery(r, &conf, new(provider.Provider))
		if d == nil || len(r.faults) > 0 {
			t.Fatalf("%v", r.faults)
		}
		return d.key
	}
	seen := map[string]string{}
	for name, change := range map[string]func(r *resolver, c *Connection){
		"plain": func(*resolver, *Connection) {}, "configured": func(r *resolver, _ *Connection) { r.stored, r.repl = nil, caddy.NewReplacer() },
		"certificate": func(r *resolver, _ *Connection) {
			r.stored.certificate = &oauth.Certificate{Chain: "a", Key: secret.New("k")}
		},
		"another key": func(r *resolver, _ *Connection) {
			r.stored.certificate = &oauth.Certificate{Chain: "a", Key: secret.New("l")}
		},
		"files": func(r *resolver, c *Connection) {
			r.stored, r.repl, c.ClientCertificate = nil, caddy.NewReplacer(), &ClientCertificate{Certificate: "a.crt", Key: "a.key"}
		},
		"authorities": func(r *resolver, _ *Connection) { r.trusted = [][]byte{[]byte("x")} },
	} {
		key := keyOf(change)
		if other, same := seen[key]; same {
			t.Errorf("%s and %s share metadata", name, other)
		}
		seen[key] = name
	}
}
