package remote

import (
	"fmt"
	"net"
	"net/url"
)

// Endpoint checks the address of a service: https, or http to a loopback address. Keysets and credentials travel there.
func Endpoint(text string) (*url.URL, error) {
	address, err := url.Parse(text)
	if err != nil || address.Host == "" || address.User != nil || address.RawQuery != "" || address.Fragment != "" {
		return nil, fmt.Errorf("%q is no address of a service; want https://HOST[:PORT]", text)
	}
	ip := net.ParseIP(address.Hostname())
	loopback := address.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
	if address.Scheme != "https" && !(address.Scheme == "http" && loopback) {
		return nil, fmt.Errorf("%q is neither https nor a loopback address", text)
	}
	return address, nil
}
