package caddyoauth

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// address is a URL with marks in it. A fact in it names a host, or a part of one, or stands for one segment of the path or one value
// in the query, and can be nothing more.
type address struct {
	wording
	insecure bool // plain http is allowed to any host that is written down
}

var (
	errNoScheme = errors.New("write the scheme; of what is an address itself take the host, as in https://{host.token.instance_url}/")
	errOpenHost = errors.New("whoever answers could name any host; write its domain behind the field, as in https://{field.region}.example.com/, or list the hosts with allow_hosts")
)

// address reads a URL with marks.
func (r *resolver) address(field, raw string) address {
	a := address{wording: r.wording(field, raw)}
	if err := a.check(); err != nil {
		r.fault(field, err)
	}
	return a
}

// check tries the address with made-up facts. Like every one that tokens or secrets go to it must be https, or http to this machine.
func (a address) check() error {
	if len(a.marks) > 0 && !strings.Contains(a.literals[0], "://") {
		return errNoScheme
	}
	trial := a.literals[0]
	for i := range a.marks {
		trial += "x" + a.literals[i+1]
	}
	return checkTokenEndpoint(trial, a.insecure)
}

// lacks reports whether a fact in the address is not known.
func (a address) lacks(known facts) bool {
	return slices.ContainsFunc(a.marks, func(m mark) bool { _, ok := known.value(m); return !ok })
}

// pinned reports whether the host is in a domain that is written down, whatever the facts are: behind its last mark, or, in an
// address of the preset's, by the patterns of its parameters.
func (a address) pinned(own bool, fields []field) bool {
	text, domain := a.literals[0], ""
	trusted := !own
	for i, m := range a.marks {
		if !inAuthority(text) {
			break
		}
		trusted = trusted && m.kind == "field" && !m.host && slices.ContainsFunc(fields, func(f field) bool { return f.preset && f.name == m.name })
		domain, _, _ = strings.Cut(a.literals[i+1], "/")
		text += "x" + a.literals[i+1]
	}
	domain, _, _ = strings.Cut(domain, ":")
	return !a.steered() || trusted || isDomain(domain)
}

// isDomain reports whether a text is the end of a host name that belongs to somebody: at least two labels.
func isDomain(text string) bool {
	return strings.HasPrefix(text, ".") && strings.Count(text, ".") >= 2 && hostName.MatchString(strings.ToLower(text[1:]))
}

// steered reports whether a fact names the host.
func (a address) steered() bool { return len(a.marks) > 0 && inAuthority(a.literals[0]) }

// inAuthority reports whether what follows a text would still belong to the host.
func inAuthority(text string) bool {
	_, rest, found := strings.Cut(text, "://")
	return found && !strings.ContainsAny(rest, "/?#")
}

// fill puts the facts into the address.
func (a address) fill(known facts) (string, error) {
	text := a.literals[0]
	for i, m := range a.marks {
		value, ok := known.value(m)
		switch {
		case !ok:
			return "", &unknownFact{m}
		case inAuthority(text):
			if value = strings.ToLower(value); !hostName.MatchString(value) {
				return "", fmt.Errorf("%s is not a part of a host name", m)
			}
		case strings.Contains(text, "?"):
			value = url.QueryEscape(value)
		case value == "." || value == "..":
			return "", fmt.Errorf("%s would climb in the path", m)
		default:
			value = url.PathEscape(value)
		}
		text += value + a.literals[i+1]
	}
	return text, checkTokenEndpoint(text, a.insecure)
}
