package caddyoauth

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/caddyoauth/caddyoauth/internal/provider"
)

// named is a header or query parameter that requests get unless they bring their own.
type named struct {
	name  string
	value wording
}

// buildDefaults settles the headers and the query parameters that API requests get besides the token.
func (c *Connection) buildDefaults(r *resolver, in *injection, preset *provider.Provider) {
	headers := make(map[string]string)
	for name, value := range preset.APIHeaders {
		headers[http.CanonicalHeaderKey(name)] = value
	}
	for name, value := range c.Headers {
		if err := checkDefaultHeader(name, value, in.header); err != nil {
			r.fault("header", err)
		}
		headers[http.CanonicalHeaderKey(name)] = value
	}
	in.headers = in.defaults(r, "header", headers)
	for name := range c.Params {
		if name == "" || name == in.query {
			r.fault("param", fmt.Errorf("%q has no name, or that of the token", name))
		}
	}
	in.params = in.defaults(r, "param", c.Params)
}

// defaults resolves the values, in the order of their names.
func (in *injection) defaults(r *resolver, option string, values map[string]string) []named {
	var all []named
	for _, name := range slices.Sorted(maps.Keys(values)) {
		one := named{name: name, value: r.wording(option+" "+name, values[name])}
		if err := in.keeping.check(one.value); err != nil {
			r.fault(option+" "+name, err)
		}
		all = append(all, one)
	}
	return all
}

// checkDefaultHeader refuses a further header that cannot be one. carrier is the header that carries the token.
func checkDefaultHeader(name, value, carrier string) error {
	canonical := http.CanonicalHeaderKey(name)
	switch {
	case !httpguts.ValidHeaderFieldName(name):
		return fmt.Errorf("%q is not a header name", name)
	case isConnectionHeader(canonical):
		return fmt.Errorf("%s belongs to the connection between two servers and cannot be set here", canonical)
	case strings.Contains(value, tokenMark):
		return fmt.Errorf("only one header carries the token; %s has %s too", canonical, tokenMark)
	case canonical == carrier:
		return fmt.Errorf("%s carries the token and cannot have another value", canonical)
	case value == "" || !httpguts.ValidHeaderFieldValue(value):
		return errors.New("the value is empty, or holds characters that no header value may have")
	}
	return nil
}
