package caddyoauth

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/caddyoauth/caddyoauth/internal/connection"
	"github.com/caddyoauth/caddyoauth/internal/oauth"
	"github.com/caddyoauth/caddyoauth/internal/provider"
)

// counterpart is the authorization server as one person meets it. It is the same for all, unless what people are asked for decides
// where it is or what it is asked.
type counterpart struct {
	client     *oauth.Client
	endpoint   string // the token endpoint, to share its breaker
	issuer     string // "" = not compared
	authParams map[string]string
	confirms   map[string]string // parameters of the way back that must say what was asked for
}

// blueprint is what a counterpart is made of: a configuration with marks in it.
type blueprint struct {
	conf       oauth.Config
	insecure   bool // plain http is allowed to any host that is written down
	authParams map[string]string
	confirms   map[string]string
	fields     []field
	keeping    *keeping
	listed     *hostList       // hosts that are written down in allow_hosts; nil = none
	open       map[string]bool // endpoints whose host nothing but that list pins, by option
}

// marked is a text of the configuration that may hold marks.
type marked struct {
	option string
	text   *string
	url    bool
	late   bool // not needed before the way back is known
}

// marked lists the texts of a configuration that may hold marks.
func (b *blueprint) marked() []marked {
	return []marked{
		{option: "authorization_endpoint", text: &b.conf.AuthorizationEndpoint, url: true},
		{option: "token_endpoint", text: &b.conf.TokenEndpoint, url: true, late: true},
		{option: "refresh_endpoint", text: &b.conf.RefreshEndpoint, url: true, late: true},
		{option: "revocation_endpoint", text: &b.conf.RevocationEndpoint, url: true, late: true},
		{option: "issuer", text: &b.conf.Issuer, url: true},
		{option: "audience", text: &b.conf.Audience},
	}
}

// params are the parameters that may hold marks, by option.
func (b *blueprint) params() map[string]map[string]string {
	return map[string]map[string]string{
		"auth_param": b.authParams, "token_param": b.conf.Params, "code params": b.conf.CodeParams, "refresh_param": b.conf.RefreshParams,
		confirmed: b.confirms,
	}
}

// confirmed is what stands for an option where the way back is compared with what was asked for.
const confirmed = "callback"

// plain reports whether there are no marks: then one counterpart serves everybody.
func (b *blueprint) plain() bool {
	for _, one := range b.marked() {
		if markText.MatchString(*one.text) {
			return false
		}
	}
	for _, values := range b.params() {
		for _, value := range values {
			if markText.MatchString(value) {
				return false
			}
		}
	}
	return true
}

// check refuses marks that nobody can fill in, and an address with which a person could have secrets sent to a host of their own.
// own are the options that the user has written; what the preset has is pinned by its parameters' patterns.
func (b *blueprint) check(r *resolver, own map[string]bool) {
	for _, one := range b.marked() {
		w := parseWording(*one.text)
		if err := b.keeping.check(w); err != nil {
			r.fault(one.option, err)
		}
		for _, m := range w.marks {
			if m.kind == "token" && !one.late {
				r.fault(one.option, fmt.Errorf("%s is not known yet when this is needed", m))
			}
		}
		if !one.url || len(w.marks) == 0 {
			continue
		}
		a := address{w, b.insecure}
		if err := a.check(); err != nil {
			r.fault(one.option, err)
		}
		if b.open[one.option] = !a.pinned(own[one.option], b.fields); b.open[one.option] && b.listed == nil {
			r.fault(one.option, errOpenHost)
		}
	}
	for option, values := range b.params() {
		for name, value := range values {
			if err := b.keeping.check(parseWording(value)); err != nil {
				r.fault(option+" "+name, err)
			}
		}
	}
}

// of returns the counterpart of a person, by what they gave and what the way back told.
func (b *blueprint) of(consent *connection.Consent) (*counterpart, error) {
	known, err := b.facts(consent)
	if err != nil {
		return nil, err
	}
	return b.build(known, false)
}

// facts are those of a consent that may steer where secrets go. An answer counts only if it fits its pattern as it is today.
func (b *blueprint) facts(consent *connection.Consent) (facts, error) {
	known := b.keeping.facts(connection.TokenSet{Consent: consent})
	for _, f := range b.fields {
		if f.problem(known.fields[f.name]) != "" {
			return facts{}, fmt.Errorf("what was answered for %s does not fit; the account has to be connected again", f.name)
		}
	}
	return known, nil
}

// trial is a counterpart with made-up answers, which is never asked: what is wrong whatever the answers shows when it is built.
func (b *blueprint) trial() (*counterpart, error) {
	made := facts{token: make(map[string]string), fields: make(map[string]string)}
	for _, f := range b.fields {
		made.fields[f.name] = "x"
	}
	for _, name := range b.keeping.callback {
		made.token[name] = "x"
	}
	return b.build(made, true)
}

// try makes an authorization request that goes nowhere: wrong parameters are the operator's to see, not a visitor's.
func (b *blueprint) try(implicit bool) error {
	own := *b
	if own.conf.Discovery = nil; own.conf.AuthorizationEndpoint == "" {
		own.conf.AuthorizationEndpoint = "https://idp.invalid/" // not known yet
	}
	made, err := own.trial()
	if err == nil {
		request := oauth.AuthorizationRequest{RedirectURI: "https://localhost/", State: oauth.RandomState(), Params: made.authParams}
		if implicit {
			request.ResponseType = oauth.ResponseTypeToken
		}
		_, err = made.client.AuthorizationURL(request)
	}
	return err
}

func (b *blueprint) build(known facts, trial bool) (*counterpart, error) {
	own := *b // the configuration is filled in place, in a copy
	own.conf.Params, own.conf.CodeParams, own.conf.RefreshParams = maps.Clone(b.conf.Params), maps.Clone(b.conf.CodeParams), maps.Clone(b.conf.RefreshParams)
	own.authParams, own.confirms = maps.Clone(b.authParams), maps.Clone(b.confirms)
	for _, one := range own.marked() {
		if !markText.MatchString(*one.text) {
			continue
		}
		a := address{parseWording(*one.text), b.insecure}
		if one.late && a.lacks(known) {
			*one.text = "" // on the way there nobody asks it
			continue
		}
		filled, err := b.fill(one, a, known)
		if err == nil && b.open[one.option] && !trial {
			err = b.permits(filled)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", one.option, err)
		}
		*one.text = filled
	}
	for option, values := range own.params() {
		for name, value := range values {
			filled, err := parseWording(value).fill(known)
			switch {
			case err != nil && option == confirmed:
				return nil, err
			case err != nil: // an answer that was optional
				delete(values, name)
			default:
				values[name] = filled
			}
		}
	}
	client, err := oauth.NewClient(own.conf)
	if err != nil {
		return nil, err
	}
	return &counterpart{client: client, endpoint: cmp.Or(own.conf.TokenEndpoint, own.conf.Issuer, own.conf.AuthorizationEndpoint), issuer: own.conf.Issuer, authParams: own.authParams, confirms: own.confirms}, nil
}

func (b *blueprint) fill(one marked, a address, known facts) (string, error) {
	if one.url {
		return a.fill(known)
	}
	return a.wording.fill(known)
}

// permits compares the host of an endpoint with those that are written down.
func (b *blueprint) permits(endpoint string) error {
	u, err := url.Parse(endpoint)
	if err != nil || b.listed == nil || !b.listed.allows(u.Hostname(), u.Port()) {
		return errors.New("its host is not among the allowed hosts")
	}
	return nil
}

// buildBlueprint settles what of the way to the authorization server may depend on the person.
func (c *Connection) buildBlueprint(r *resolver, conf oauth.Config, preset *provider.Provider, keep *keeping) *blueprint {
	b := &blueprint{
		conf: conf, insecure: c.InsecureHTTP, authParams: overridden(preset.AuthParams, r.markedParams("auth_param", c.AuthParams)),
		confirms: c.confirms(r, preset), fields: keep.asked, keeping: keep, open: make(map[string]bool),
	}
	if listed, err := newHostList(slices.DeleteFunc(slices.Clone(c.AllowHosts), markText.MatchString)); err == nil && len(c.AllowHosts) > 0 {
		b.listed = listed
	}
	b.check(r, map[string]bool{
		"authorization_endpoint": c.AuthorizationEndpoint != "", "token_endpoint": c.TokenEndpoint != "",
		"refresh_endpoint":    c.Quirks != nil && c.Quirks.RefreshEndpoint != "",
		"revocation_endpoint": c.RevocationEndpoint != "", "issuer": true,
	})
	return b
}

// counterpart returns the authorization server as whoever gave that consent meets it; consent may be nil.
func (c *activeConnection) counterpart(consent *connection.Consent) (*counterpart, error) {
	if c.blueprint == nil {
		return c.plain, nil
	}
	return c.blueprint.of(consent)
}

// doorOf is connection.Settings.DoorOf; nil when one door is for everybody.
func (c *activeConnection) doorOf() func(*connection.Consent) (connection.Client, *connection.Breaker, error) {
	if c.blueprint == nil {
		return nil
	}
	return func(consent *connection.Consent) (connection.Client, *connection.Breaker, error) {
		other, err := c.counterpart(consent)
		if err != nil {
			return nil, nil, err
		}
		return other.client, c.engine.breaker(other.endpoint), nil
	}
}

// formTargets are the origins that a form may lead to, which a browser checks along redirects; endpoint may hold marks, or be "" if
// it is not known yet.
func formTargets(endpoint string) string {
	w := parseWording(endpoint)
	u, err := url.Parse(w.literals[0])
	if (address{wording: w}).steered() || err != nil || u.Host == "" {
		return "'self' https:"
	}
	return "'self' " + u.Scheme + "://" + u.Host
}

// allowForm lets the form of a page lead to those origins. In Chromium form-action covers what the answer redirects to.
func allowForm(header http.Header, targets string) {
	policy := header.Get("Content-Security-Policy")
	header.Set("Content-Security-Policy", strings.Replace(policy, "form-action 'self'", "form-action "+targets, 1))
}
