package caddyoauth

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// address is a URL with marks in it. A fact in it names a host, or a part of one, or stands for one segment of the path or one value
// in the query, and can be nothing more.
type address struct{ wording }

var errNoScheme = errors.New("write the scheme; of what is an address itself take the host, as in https://{host.token.instance_url}/")

// address reads a URL with marks. Like every address that tokens or secrets go to it must be https, or http to this machine.
func (r *resolver) address(field, raw string) address {
	a := address{r.wording(field, raw)}
	if len(a.marks) > 0 && !strings.Contains(a.literals[0], "://") {
		r.fault(field, errNoScheme)
		return a
	}
	trial := a.literals[0]
	for i := range a.marks {
		trial += "x" + a.literals[i+1]
	}
	if err := checkTokenEndpoint(trial, false); err != nil {
		r.fault(field, err)
	}
	return a
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
	return text, checkTokenEndpoint(text, false)
}
