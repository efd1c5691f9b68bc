package provider

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// ParamError says what is wrong with one parameter, so that a form can mark the field. Its text never repeats the
// value, which may come from a visitor.
type ParamError struct {
	Provider string
	Param    string
	Problem  string
}

// Error names the provider, the parameter and what is wanted.
func (e *ParamError) Error() string {
	return fmt.Sprintf("set parameter %q of provider %q: %s", e.Param, e.Provider, e.Problem)
}

var (
	placeholder = regexp.MustCompile(`\{([a-z][a-z0-9_]*)\}`)
	optional    = regexp.MustCompile(`\[([^\[\]]*)\]`)
)

// Expand returns a copy with params filled into every template; a parameter that is missing or empty takes its default.
// Each value must match its parameter's pattern, and what comes out must be an https URL all the same: the client
// secret goes there.
func (p *Provider) Expand(params map[string]string) (*Provider, error) {
	values, err := p.values(params)
	if err != nil {
		return nil, err
	}
	out := p.filled(values)
	for _, template := range out.urls() {
		if err := checkURL(*template.text); err != nil {
			return nil, fmt.Errorf("expand %s of provider %q: %w", template.field, p.Name, err)
		}
	}
	return out, nil
}

// ExpandAsking is [Provider.Expand] where people will be asked for some of the parameters: those stay in the templates, as
// `{field.NAME}`, for whoever knows the value. It must fit [Param.Pattern], and what comes out must again be an https URL.
func (p *Provider) ExpandAsking(params map[string]string, asked []string) (*Provider, error) {
	given := maps.Clone(params)
	if given == nil {
		given = make(map[string]string)
	}
	for _, param := range p.Params {
		if slices.Contains(asked, param.Name) {
			given[param.Name] = param.Example
		}
	}
	if _, err := p.Expand(given); err != nil { // all that does not depend on the answers is checked now
		return nil, err
	}
	values, err := p.values(given)
	if err != nil {
		return nil, err
	}
	for _, name := range asked {
		values[name] = "{field." + name + "}"
	}
	return p.filled(values), nil
}

// filled fills values into every template.
func (p *Provider) filled(values map[string]string) *Provider {
	out := p.clone()
	for _, template := range out.urls() {
		*template.text = fill(*template.text, values)
	}
	for _, list := range out.lists() {
		for i, text := range *list {
			(*list)[i] = fill(text, values)
		}
		*list = slices.DeleteFunc(*list, func(text string) bool { return text == "" })
	}
	for _, m := range out.maps() {
		for key, text := range *m {
			(*m)[key] = fill(text, values)
			if (*m)[key] == "" {
				delete(*m, key)
			}
		}
	}
	return out
}

// values checks what was given against what is declared. All faults are reported at once.
func (p *Provider) values(given map[string]string) (map[string]string, error) {
	var faults []error
	fault := func(param, problem string) {
		faults = append(faults, &ParamError{Provider: p.Name, Param: param, Problem: problem})
	}
	values := map[string]string{}
	names := make([]string, 0, len(p.Params))
	for _, param := range p.Params {
		names = append(names, param.Name)
		value := given[param.Name]
		if value == "" {
			value = param.Default
		}
		values[param.Name] = value
		switch {
		case value == "" && param.Required:
			fault(param.Name, "is required, as in "+param.Example)
		case value != "" && !param.Accepts(value):
			fault(param.Name, "has a value that is not allowed, it looks like "+param.Example)
		}
	}
	unknown := make([]string, 0, len(given))
	for name := range given {
		if _, known := values[name]; !known {
			unknown = append(unknown, name)
		}
	}
	slices.Sort(unknown)
	for _, name := range unknown {
		if len(names) == 0 {
			fault(name, "is unknown; this provider has no parameters")
			continue
		}
		fault(name, "is unknown; there are "+strings.Join(names, ", "))
	}
	return values, errors.Join(faults...)
}

// Accepts reports whether the whole value fits. The pattern is anchored, which TestParamPatterns sees to; Go's $ does
// not match before a final newline.
func (param Param) Accepts(value string) bool {
	pattern, err := regexp.Compile(param.Pattern)
	return err == nil && len(value) <= 500 && pattern.MatchString(value)
}

// fill replaces the placeholders that values has, in one pass: a value is never looked at again. A bracket goes away,
// whole, if a parameter in it is empty.
func fill(template string, values map[string]string) string {
	template = optional.ReplaceAllStringFunc(template, func(bracket string) string {
		names := placeholder.FindAllStringSubmatch(bracket, -1)
		for _, name := range names {
			if value, declared := values[name[1]]; declared && value == "" {
				return ""
			}
		}
		return bracket[1 : len(bracket)-1]
	})
	return placeholder.ReplaceAllStringFunc(template, func(name string) string {
		if value, declared := values[name[1:len(name)-1]]; declared {
			return value
		}
		return name // for the moment of use
	})
}

// checkURL is the second net under the patterns.
func checkURL(text string) error {
	if text == "" {
		return nil
	}
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return errors.New("the parameters do not give a URL")
	case u.Scheme != "https":
		return errors.New("the parameters do not give an https URL")
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || strings.Contains(text, "#"):
		return errors.New("a parameter brings a user, a query or a fragment")
	case !validHost.MatchString(u.Host):
		return errors.New("the parameters do not give a host name")
	}
	for part := range strings.SplitSeq(u.Path, "/") {
		if part == "." || part == ".." {
			return errors.New("a parameter climbs in the path")
		}
	}
	return nil
}

var validHost = regexp.MustCompile(hostPort)

// urlField is one URL of an entry.
type urlField struct {
	field string
	text  *string
}

func (p *Provider) urls() []urlField {
	return []urlField{
		{"issuer", &p.Issuer},
		{"authorization_endpoint", &p.AuthorizationEndpoint},
		{"token_endpoint", &p.TokenEndpoint},
		{"refresh_endpoint", &p.RefreshEndpoint},
		{"revocation_endpoint", &p.RevocationEndpoint},
		{"test_call", &p.TestCall.URL},
	}
}

// lists are the other places where a placeholder may stand, with maps.
func (p *Provider) lists() []*[]string {
	return []*[]string{&p.APIHosts, &p.DefaultScopes, &p.AppScopes, &p.TestCall.Scopes}
}

func (p *Provider) maps() []*map[string]string {
	return []*map[string]string{
		&p.AuthParams, &p.TokenParams, &p.RefreshParams, &p.APIHeaders, &p.Revocation.Fields, &p.TestCall.Headers,
	}
}
