package provider

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// table is every entry by its name.
var table = func() map[string]*Provider {
	all := map[string]*Provider{}
	for _, kind := range [][]Provider{office, work, chat, code, money, identity} {
		for i := range kind {
			all[kind[i].Name] = &kind[i]
		}
	}
	return all
}()

// Lookup returns a copy of an entry, its parameters not filled in. See [Resolve] for what a configuration wants.
func Lookup(name string) (*Provider, bool) {
	p, found := table[name]
	if !found {
		return nil, false
	}
	return p.clone(), true
}

// Names are the names of all entries, sorted.
func Names() []string { return slices.Sorted(maps.Keys(table)) }

// Resolve looks a provider up and fills its parameters in. Its errors are for the operator.
func Resolve(name string, params map[string]string) (*Provider, error) {
	p, found := table[name]
	if found {
		return p.Expand(params)
	}
	if near := Nearest(name); len(near) > 0 {
		return nil, fmt.Errorf("find provider %q: there is none of that name; is it %s?", name, strings.Join(near, " or "))
	}
	return nil, fmt.Errorf("find provider %q: there is none of that name; use `oidc` with its issuer, or name its endpoints (there are %s)",
		name, strings.Join(Names(), ", "))
}

// Nearest are up to three names that name may have been meant for, the likeliest first.
func Nearest(name string) []string { return nearest(name, Names()) }

func nearest(name string, names []string) []string {
	name = strings.ToLower(name)
	distances := map[string]int{}
	for _, candidate := range names {
		d := distance(name, candidate)
		if len(name) >= 3 && (strings.Contains(candidate, name) || strings.Contains(name, candidate)) {
			d = min(d, 1) // github-app, entra-microsoft
		}
		if d == 0 {
			return []string{candidate} // only the case is wrong
		}
		if d <= max(1, len(name)/3) {
			distances[candidate] = d
		}
	}
	near := slices.SortedFunc(maps.Keys(distances), func(a, b string) int {
		if d := distances[a] - distances[b]; d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	return near[:min(3, len(near))]
}

// distance is how many insertions, deletions, replacements and swaps of neighbours make b of a (optimal string
// alignment). Three rows are enough.
func distance(a, b string) int {
	before, previous, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, previous, row = previous, row, before
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(previous[j]+1, row[j-1]+1, previous[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
	}
	return row[len(b)]
}

// Scopes says what an authorization asks for: DefaultScopes when nothing is wanted, else what is wanted, where the name
// of a set stands for DefaultScopes and the scopes of that set. OfflineScope is always among them.
func (p *Provider) Scopes(wanted []string) []string {
	var scopes []string
	add := func(more ...string) {
		for _, scope := range more {
			if !slices.Contains(scopes, scope) {
				scopes = append(scopes, scope)
			}
		}
	}
	if len(wanted) == 0 {
		add(p.DefaultScopes...)
	}
	for _, scope := range wanted {
		set, isSet := p.ScopeSets[scope]
		if !isSet {
			add(scope)
			continue
		}
		add(p.DefaultScopes...)
		add(set...)
	}
	if p.OfflineScope != "" {
		add(p.OfflineScope)
	}
	return scopes
}

// clone copies everything that could be shared, so that nobody changes the table.
func (p *Provider) clone() *Provider {
	c := *p
	for _, list := range c.lists() {
		*list = slices.Clone(*list)
	}
	for _, list := range []*[]string{
		&c.Sources, &c.Recalled, &c.Notes, &c.ClientAuth, &c.KeepFields, &c.CallbackFields, &c.TestCall.IDPath,
		&c.TestCall.LabelPath, &c.Errors.Revoked, &c.Errors.Misconfigured, &c.Errors.RetryLater,
	} {
		*list = slices.Clone(*list)
	}
	c.Params, c.Revocation.Gone = slices.Clone(c.Params), slices.Clone(c.Revocation.Gone)
	for _, m := range c.maps() {
		*m = maps.Clone(*m)
	}
	c.TestCall.Keep = maps.Clone(c.TestCall.Keep)
	c.ScopeSets = maps.Clone(c.ScopeSets)
	for name, set := range c.ScopeSets {
		c.ScopeSets[name] = slices.Clone(set)
	}
	return &c
}
