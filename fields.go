package caddyoauth

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/caddyoauth/caddyoauth/internal/connection"
	"github.com/caddyoauth/caddyoauth/internal/oauth"
	"github.com/caddyoauth/caddyoauth/internal/pages"
	"github.com/caddyoauth/caddyoauth/internal/provider"
)

// Field is something that a person is asked for before they are sent to the provider: a region, a shop, a tenant. `{field.NAME}` stands
// for the answer in endpoints, `auth_param`, `token_param`, `header`, `param`, `allow_hosts` and, as `{http.oauth2_inject.field.NAME}`,
// in the address of an upstream.
type Field struct {
	// Name of the field, in lower case. That of a parameter of the preset asks for that parameter.
	Name string `json:"name"`
	// Label is what people read. Default: the preset's, or the name.
	Label string `json:"label,omitempty"`
	// Example of an answer, for people. Default: the preset's.
	Example string `json:"example,omitempty"`
	// Required refuses an empty answer. Default: false, but true for a parameter of the preset.
	Required bool `json:"required,omitempty"`
	// Default is the answer that the form begins with.
	Default string `json:"default,omitempty"`
	// Pattern is a regular expression that the whole answer must match. Default: letters, digits and `. _ ~ -`. The preset's own
	// pattern always applies as well.
	Pattern string `json:"pattern,omitempty"`
}

// field is a Field, checked.
type field struct {
	name, label, example, fallback string

	required bool
	patterns []*regexp.Regexp // each must match the whole answer
	preset   bool             // the preset has a parameter of that name, whose pattern is among them
}

const (
	maxAnswer  = 200 // bytes
	maxFields  = 20
	maxForm    = 64 << 10
	plainField = `[A-Za-z0-9._~-]+`
)

var fieldName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,39}$`)

// asksPeople reports whether the grant is one with a person in it, as far as it is said.
func (c *Connection) asksPeople() bool {
	return c.Grant != oauth.GrantClientCredentials && c.Grant != oauth.GrantPassword
}

// asked returns the names of the preset's parameters that people are asked for: those that a field is named after, and those that are
// required and not given. Which names a host that the pattern cannot pin is the operator's to say.
func (c *Connection) asked(row *provider.Provider) []string {
	var names []string
	for _, param := range row.Params {
		_, given := c.Provider.Params[param.Name]
		declared := slices.ContainsFunc(c.Fields, func(f Field) bool { return f.Name == param.Name })
		missing := param.Required && param.Default == "" && c.asksPeople()
		if !given && !param.OperatorOnly && (declared || missing) {
			names = append(names, param.Name)
		}
	}
	return names
}

// buildFields settles what people are asked for: the parameters of the preset first.
func (c *Connection) buildFields(r *resolver, preset *provider.Provider) []field {
	var all []field
	declared := make(map[string]Field, len(c.Fields))
	for _, f := range c.Fields {
		if _, twice := declared[f.Name]; twice {
			r.fault("field", fmt.Errorf("%s is asked for twice", f.Name))
		}
		declared[f.Name] = f
	}
	var asked []string
	if c.Provider != nil {
		asked = c.asked(preset)
	}
	for _, param := range preset.Params {
		f, isDeclared := declared[param.Name]
		switch {
		case slices.Contains(asked, param.Name):
			f.Name = param.Name
			all = append(all, r.field(f, &param))
		case isDeclared && param.OperatorOnly:
			r.fault("field "+param.Name, errors.New("names a host, so it is not asked for: whoever answers could have the client secret sent to a host of their own"))
		case isDeclared:
			r.fault("field "+param.Name, errors.New("is given with the preset already; leave it out there, or do not ask for it"))
		}
		delete(declared, param.Name)
	}
	for _, f := range c.Fields {
		if _, left := declared[f.Name]; left {
			all = append(all, r.field(f, nil))
		}
	}
	switch {
	case len(all) > 0 && !c.asksPeople():
		r.fault("field", errors.New("with this grant there is nobody to ask"))
	case len(all) > maxFields:
		r.fault("field", fmt.Errorf("%d are too many to ask for", len(all)))
	}
	return all
}

// field checks one; param is the preset's parameter of that name, if there is one.
func (r *resolver) field(f Field, param *provider.Param) field {
	what := "field " + f.Name
	out := field{name: f.Name, label: r.text(what, f.Label), example: r.text(what, f.Example), fallback: r.text(what, f.Default), required: f.Required}
	pattern := f.Pattern
	if param != nil {
		out.preset, out.required = true, true
		out.label, out.example, out.fallback = cmp.Or(out.label, param.Label), cmp.Or(out.example, param.Example), cmp.Or(out.fallback, param.Default)
		out.patterns = append(out.patterns, regexp.MustCompile(param.Pattern)) // those of the table are known to compile
	} else if pattern == "" {
		pattern = plainField
	}
	out.label = cmp.Or(out.label, f.Name)
	if pattern != "" {
		compiled, err := regexp.Compile(`^(?:` + pattern + `)$`)
		if err != nil {
			r.fault(what, fmt.Errorf("the pattern is not one: %w", err))
			return out
		}
		out.patterns = append(out.patterns, compiled)
	}
	if err := checkField(f, out); err != nil {
		r.fault(what, err)
	}
	return out
}

func checkField(f Field, built field) error {
	switch {
	case !fieldName.MatchString(f.Name):
		return errors.New("a name has lower-case letters, digits and _, and begins with a letter")
	case isSecretName(f.Name):
		return errors.New("sounds like a secret; people are never asked for one")
	case built.fallback != "" && built.problem(built.fallback) != "":
		return errors.New("the default does not fit the pattern")
	}
	return nil
}

// problem says, for people, what is wrong with an answer; "" = nothing. It does not repeat the answer.
func (f field) problem(answer string) string {
	misfit := func(pattern *regexp.Regexp) bool { return !pattern.MatchString(answer) }
	switch {
	case answer == "" && f.required:
		return "Please fill this in."
	case answer == "":
		return ""
	case len(answer) > maxAnswer || strings.ContainsFunc(answer, unicode.IsControl) || slices.ContainsFunc(f.patterns, misfit):
		if f.example != "" {
			return "This does not fit. It looks like " + f.example + "."
		}
		return "This does not fit."
	}
	return ""
}

// answers reads what a person has filled in. wrong says, by name, what is wrong with it.
func answers(fields []field, w http.ResponseWriter, r *http.Request) (given, wrong map[string]string) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	given, wrong = make(map[string]string), make(map[string]string)
	for _, f := range fields {
		answer := strings.TrimSpace(r.PostFormValue(f.name))
		if problem := f.problem(answer); problem != "" {
			wrong[f.name] = problem
		}
		if answer != "" {
			given[f.name] = answer
		}
	}
	return given, wrong
}

// askedField is a field on the page.
type askedField struct {
	Name, Label, Example, Value string

	Wrong    string // what is wrong with the value; "" = nothing
	Required bool
}

// questions is the page that asks.
type questions struct {
	frame
	Title, Action, Cancel string
	Fields                []askedField
}

// ask shows the form, filled with what was answered now, or before, or is the default.
func (v *visit) ask(c *activeConnection, source *connection.Source, given, wrong map[string]string) error {
	status := http.StatusOK
	if len(wrong) > 0 {
		status = http.StatusUnprocessableEntity
	}
	if given == nil {
		if state, err := source.Peek(v.r.Context(), c.settings); err == nil && state.Consent != nil {
			given = state.Consent.Fields
		}
	}
	page := questions{
		frame: v.frame(), Title: "Connect " + c.consent.title, Cancel: v.path,
		Action: v.link(c, localPath(v.r.URL.Query().Get("return_to"))),
	}
	for _, f := range c.consent.fields {
		value, answered := given[f.name]
		if !answered && wrong == nil {
			value = f.fallback
		}
		page.Fields = append(page.Fields, askedField{
			Name: f.name, Label: f.label, Example: f.example, Value: value, Wrong: wrong[f.name], Required: f.required,
		})
	}
	pages.PostsForms(v.w.Header())
	allowForm(v.w.Header(), formTargets(c.consent.endpoint))
	return render(v.w, status, "fields.html", page)
}
