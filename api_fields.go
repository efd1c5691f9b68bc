package caddyoauth

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"maps"
	"net/url"
	"reflect"
	"slices"
	"strings"

	"github.com/caddyoauth/caddyoauth/internal/api"
)

// The API and the configuration have the same options. Some have another name in the API, and some that name files of the server,
// or weaken it, are not to be had there.

// use says what an option of a stored connection is for.
type use int

const (
	useFree     use = iota + 1 // may be changed at will
	usePlace                   // says where secrets or tokens go: a change needs the secrets again
	useOverride                // as usePlace, and an environment may override it
	useValue                   // may be changed at will, and an environment may override it
)

// storedUses are the options that a connection may have that was made at run time, by their names in the configuration. What is not
// here is refused.
var storedUses = map[string]use{
	"provider": useOverride, "token_endpoint": useOverride, "authorization_endpoint": useOverride, "revocation_endpoint": useOverride,
	"issuer": useOverride, "quirks": usePlace, "allow_hosts": useOverride, "test_call": usePlace, "ca_certificate_id": useOverride,
	"client_id": useValue, "client_secret": useValue, "mtls_certificate_id": useValue, "client_auth": useValue, "client_key": useValue, "assertion_audience": useValue,
	"username": useValue, "password": useValue, "scopes": useValue, "audience": useValue, "resource": useValue, "token_params": useValue,
	"auth_params": useValue, "grant": useFree, "subject": useFree, "header": useFree, "query": useFree, "headers": useFree, "params": useFree,
	"keep": useFree, "keep_callback": useFree, "forward_authorization": useFree, "allow": useFree, "refresh": useFree,
	"fields": usePlace, "keep_alive": useFree, "refresh_token": useFree,
	"refresh_before": useFree, "default_lifetime": useFree, "timeout": useFree, "idle_after": useFree,
}

// refusedOptions are those that an API caller cannot have, with the reason.
var refusedOptions = map[string]string{
	"client_certificate": "names files of the server; make a certificate, and give its ID as mtls_certificate_id",
	"tls":                "names files of the server; make a certificate, and give its ID as ca_certificate_id",
	"insecure_http":      "can only be configured on the server",
	"required":           "can only be configured on the server, whose health depends on it",
}

// apiNames are the names that options have in the API, by their names in the configuration.
var apiNames = map[string]string{"token_endpoint": "token_url", "authorization_endpoint": "auth_url", "grant": "grant_type"}

// spelled are the options that the API describes itself; the others are further ones.
var spelled = map[string]bool{
	"provider": true, "client_id": true, "client_secret": true, "scopes": true, "username": true, "password": true,
	"mtls_certificate_id": true, "ca_certificate_id": true,
}

// configName returns the name that a field of the API has in the configuration; "" if it is no option.
func configName(field string) string {
	for name, other := range apiNames {
		switch field {
		case other:
			return name
		case name:
			return ""
		}
	}
	if storedUses[field] == 0 {
		return ""
	}
	return field
}

// apiFieldName is the reverse of configName, for what an option's parser complains of: "token_param x" is "token_params.x".
func apiFieldName(option string) string {
	name, detail, _ := strings.Cut(option, " ")
	switch name {
	case "token_param", "auth_param", "header", "param":
		if detail != "" {
			name += "s"
		}
	case "client_certificate":
		name = "mtls_certificate_id"
	case "provider":
		if detail != "" {
			name = "provider_params"
		}
	}
	if other, ok := apiNames[name]; ok {
		name = other
	}
	if detail != "" {
		name += "." + strings.ReplaceAll(detail, " ", ".")
	}
	return name
}

func jsonName(field reflect.StructField) string {
	name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
	return name
}

// faults collects what is wrong with the fields of a draft.
type faults []api.Fault

func (f *faults) add(field, message string) {
	*f = append(*f, api.Fault{Field: field, Message: message})
}

func (f faults) has(field string) bool {
	return slices.ContainsFunc(f, func(one api.Fault) bool { return one.Field == field })
}

func (f faults) err() error {
	if len(f) == 0 {
		return nil
	}
	return api.Invalid(f...)
}

// addAll adds everything that an error of a connection's build complains of. prefix is that of an environment.
func (f *faults) addAll(prefix string, err error) {
	var one *optionError
	var many interface{ Unwrap() []error }
	switch {
	case errors.As(err, &many):
		for _, each := range many.Unwrap() {
			f.addAll(prefix, each)
		}
	case errors.As(err, &one):
		f.add(prefix+apiFieldName(one.option), one.err.Error())
	default:
		if inner := errors.Unwrap(err); inner != nil {
			err = inner // without the connection's name in front
		}
		f.add(cmp.Or(strings.TrimSuffix(prefix, "."), "options"), err.Error())
	}
}

var jsonNull = json.RawMessage("null")

// apply changes options to what fields say, null being "none", and complains of those that there are not. may says which uses count.
func (f *faults) apply(to map[string]json.RawMessage, fields map[string]json.RawMessage, prefix string, may func(use) bool) {
	rest := maps.Clone(fields)
	f.applyProvider(to, rest, prefix)
	for _, field := range slices.Sorted(maps.Keys(rest)) {
		name := configName(field)
		switch value := rest[field]; {
		case refusedOptions[field] != "":
			f.add(prefix+field, refusedOptions[field])
		case apiNames[field] != "":
			f.add(prefix+field, "is called "+apiNames[field]+" here")
		case name == "":
			f.add(prefix+field, "there is no such field")
		case !may(storedUses[name]):
			f.add(prefix+field, "cannot differ between environments")
		case bytes.Equal(value, jsonNull):
			delete(to, name)
		default:
			to[name] = value
		}
	}
}

// applyProvider has provider and provider_params, two fields, become the one option that the configuration has.
func (f *faults) applyProvider(to, rest map[string]json.RawMessage, prefix string) {
	name, named := rest["provider"]
	params, given := rest["provider_params"]
	delete(rest, "provider")
	delete(rest, "provider_params")
	if !named && !given {
		return
	}
	var preset ProviderPreset
	_ = json.Unmarshal(to["provider"], &preset) // none before
	if given {
		preset.Params = nil
		if err := json.Unmarshal(params, &preset.Params); err != nil {
			f.add(prefix+"provider_params", "must be an object with texts in it")
			return
		}
	}
	if named {
		before := preset.Name
		if err := json.Unmarshal(name, &preset.Name); err != nil || preset.Name == "" {
			f.add(prefix+"provider", "must be the name of a preset, or custom")
			return
		}
		if preset.Name != before && !given {
			preset.Params = nil
		}
	}
	if preset.Name == "custom" || preset.Name == "" {
		if delete(to, "provider"); len(preset.Params) > 0 {
			f.add(prefix+"provider_params", "there are none without a preset")
		}
		return
	}
	to["provider"], _ = json.Marshal(preset) // texts always encode
}

// shown returns options as the API shows them: by their names there, and without the query of a URL, which may hold a key.
func shown(o entryOptions) map[string]json.RawMessage {
	out := make(map[string]json.RawMessage, len(o.open))
	for name, value := range o.open {
		if name == "provider" {
			var preset ProviderPreset
			_ = json.Unmarshal(value, &preset) // written by us
			out["provider"], _ = json.Marshal(preset.Name)
			if len(preset.Params) > 0 {
				out["provider_params"], _ = json.Marshal(preset.Params)
			}
			continue
		}
		if other, ok := apiNames[name]; ok {
			name = other
		}
		out[name] = withoutQueries(value)
	}
	return out
}

// withoutQueries takes the queries off all URLs in a value, and the values of refresh_params, which may be secrets as well.
func withoutQueries(raw json.RawMessage) json.RawMessage {
	var value any
	if err := json.Unmarshal(raw, &value); err != nil {
		return jsonNull
	}
	out, err := json.Marshal(cleaned(value))
	if err != nil {
		return jsonNull
	}
	return out
}

func cleaned(value any) any {
	switch value := value.(type) {
	case string:
		if u, err := url.Parse(value); err == nil && u.Host != "" && u.RawQuery != "" {
			u.RawQuery = "[not shown]"
			return u.String()
		}
	case []any:
		for i := range value {
			value[i] = cleaned(value[i])
		}
	case map[string]any:
		for name := range value {
			if value[name] = cleaned(value[name]); name == "refresh_params" {
				value[name] = "[not shown]"
			}
		}
	}
	return value
}
