package caddyoauth

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// hostList is a set of hosts that may receive a token. The zero value allows none.
type hostList struct {
	exact    map[string]struct{} // "host" (any port) or "host:port", lower case
	suffixes []string            // ".example.com" for *.example.com
	ranges   []netip.Prefix
	tlsOnly  bool // a destination without TLS is refused, unless it is this machine
}

// newHostList parses `host`, `host:port`, `*.domain` and CIDR ranges. Unix sockets are given as `unix//path`.
func newHostList(entries []string) (*hostList, error) {
	list := &hostList{exact: make(map[string]struct{})}
	for _, entry := range entries {
		if err := list.add(strings.ToLower(entry)); err != nil {
			return nil, fmt.Errorf("%q: %w", entry, err)
		}
	}
	return list, nil
}

func (l *hostList) add(entry string) error {
	switch {
	case entry == "" || entry == "*":
		return errors.New("name a host; a token for any host is a token for everybody")
	case strings.Contains(entry, "://"):
		return errors.New("give a host without a scheme")
	case strings.HasPrefix(entry, "unix/"):
		l.exact[entry] = struct{}{}
		return nil
	case strings.HasPrefix(entry, "*."):
		if strings.Count(entry, ".") < 2 || strings.ContainsAny(entry[2:], "*:/") {
			return errors.New("a wildcard stands for names below a domain of at least two labels, as in *.example.com")
		}
		l.suffixes = append(l.suffixes, entry[1:])
		return nil
	case strings.Contains(entry, "/"):
		prefix, err := netip.ParsePrefix(entry)
		if err != nil {
			return errors.New("is neither a host nor a CIDR range")
		}
		l.ranges = append(l.ranges, prefix.Masked())
		return nil
	case strings.ContainsAny(entry, "*{} "):
		return errors.New("is not a host")
	}
	if addr, err := netip.ParseAddr(strings.Trim(entry, "[]")); err == nil {
		entry = addr.Unmap().String() // so that "::1" and "[::1]" are one
	}
	l.exact[entry] = struct{}{}
	return nil
}

// allows reports whether the host, dialled at that port, is on the list. It compares in lower case and without the root dot.
func (l *hostList) allows(host, port string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if _, ok := l.exact[host]; ok {
		return true
	}
	if port != "" {
		if _, ok := l.exact[net.JoinHostPort(host, port)]; ok {
			return true
		}
	}
	for _, suffix := range l.suffixes {
		if strings.HasSuffix(host, suffix) && len(host) > len(suffix) {
			return true
		}
	}
	if len(l.ranges) == 0 {
		return false
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return false
	}
	for _, prefix := range l.ranges {
		if prefix.Contains(addr.Unmap()) {
			return true
		}
	}
	return false
}

// upstreamHosts is the list of exactly the addresses that a reverse_proxy is configured with, ports included.
func upstreamHosts(dials []string) (*hostList, error) {
	list := &hostList{exact: make(map[string]struct{})}
	for _, dial := range dials {
		addr, err := caddy.ParseNetworkAddress(dial)
		if err != nil {
			return nil, fmt.Errorf("upstream %q: %w", dial, err)
		}
		if addr.IsUnixNetwork() {
			list.exact["unix/"+strings.ToLower(addr.Host)] = struct{}{}
			continue
		}
		list.exact[strings.ToLower(addr.JoinHostPort(0))] = struct{}{}
	}
	return list, nil
}

// plaintextHosts returns those upstreams to which a token would travel readable for others: without TLS and beyond this machine.
func plaintextHosts(dials []string, tls bool) []string {
	var hosts []string
	for _, dial := range dials {
		addr, err := caddy.ParseNetworkAddress(dial)
		if tls || err != nil || addr.IsUnixNetwork() || addr.Host == "" || isLoopback(addr.Host) {
			continue
		}
		hosts = append(hosts, dial)
	}
	return hosts
}

// destination is where a request is about to go.
type destination struct {
	dial       reverseproxy.DialInfo
	serverName string // the TLS server name, when one is configured; "" = it follows from the dialled host
	verified   bool   // the server must prove serverName with a certificate
	plaintext  bool
}

// permits reports why a token must not go to that destination. The dialled host must be on the list, and so must a server
// name that is configured apart from it. An address that was dialled for a server name on the list need not be: the
// certificate proves who is there, and dynamic upstreams have addresses that nobody can list.
func (l *hostList) permits(d destination) error {
	if l.tlsOnly && d.plaintext && !isLoopback(d.dial.Host) && !strings.HasPrefix(d.dial.Network, "unix") {
		return fmt.Errorf("the host %q would receive the token without TLS", d.dial.Host)
	}
	if _, ok := l.exact[d.dial.Address]; ok && d.serverName == "" {
		return nil
	}
	if d.serverName != "" && !l.allows(d.serverName, d.dial.Port) {
		return fmt.Errorf("the TLS server name %q is not among the allowed hosts", d.serverName)
	}
	host := d.dial.Host
	if strings.HasPrefix(d.dial.Network, "unix") {
		host = "unix/" + d.dial.Address
	}
	if _, ok := l.exact[strings.ToLower(d.dial.Address)]; ok || l.allows(host, d.dial.Port) {
		return nil
	}
	if _, err := netip.ParseAddr(d.dial.Host); err == nil && d.serverName != "" && d.verified {
		return nil
	}
	return fmt.Errorf("the host %q is not among the allowed hosts", d.dial.Host)
}

// hostWordings is an allow-list with marks in it.
type hostWordings struct {
	entries []wording
	tlsOnly bool
}

// buildHosts reads an allow-list with marks. What the user writes must end in a domain: an answer alone would allow any host.
func (c *Connection) buildHosts(r *resolver, hosts []string, keep *keeping) *hostWordings {
	out := &hostWordings{tlsOnly: len(c.AllowHosts) == 0}
	for _, host := range hosts {
		entry := parseWording(host)
		if err := keep.check(entry); err != nil {
			r.fault("allow_hosts", err)
		}
		domain, _, _ := strings.Cut(entry.literals[len(entry.literals)-1], ":")
		if len(entry.marks) > 0 && !out.tlsOnly && !isDomain(domain) {
			r.fault("allow_hosts", fmt.Errorf("%s could be any host; write its domain behind the field, as in {field.region}.example.com", host))
		}
		out.entries = append(out.entries, entry)
	}
	return out
}

// fill returns the list for what is known. What cannot be filled in allows nothing.
func (h *hostWordings) fill(known facts) *hostList {
	list := &hostList{exact: make(map[string]struct{}), tlsOnly: h.tlsOnly}
	for _, entry := range h.entries {
		for _, m := range entry.marks {
			if value, ok := known.value(m); !ok || !hostName.MatchString(strings.ToLower(value)) {
				entry.literals = nil
			}
		}
		if entry.literals == nil {
			continue
		}
		if host, err := entry.fill(known); err == nil {
			_ = list.add(strings.ToLower(host)) // what is no host is on no list
		}
	}
	return list
}
