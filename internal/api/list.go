package api

import (
	"cmp"
	"maps"
	"slices"
	"strings"
)

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// page cuts a list and says how much there is.
func page[T any](c *call, all []T) *answer {
	number, size := c.number("page", 1), c.number("per_page", 50)
	total := len(all)
	from := min((number-1)*size, total)
	if number > total/size+1 { // before the product can overflow
		from = total
	}
	rows := all[from:min(from+size, total)]
	if rows == nil {
		rows = []T{}
	}
	return &answer{status: c.route.status, data: rows, meta: meta{Page: number, PerPage: size, Total: &total}}
}

// seen returns the secrets that the caller may see.
func (c *call) seen(states bool) ([]Secret, error) {
	all, err := c.Secrets.List(c.r.Context(), states)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(all), func(s Secret) bool {
		return c.caller.in(s.Tenant, deref(s.CollectionID)) < Viewer
	}), nil
}

func deref(text *string) string {
	if text == nil {
		return ""
	}
	return *text
}

func (c *call) listSecrets() (*answer, error) {
	all, err := c.seen(true)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(s Secret) bool { return !c.wanted(s) })
	by, down := strings.CutPrefix(cmp.Or(c.query.Get("sort"), "name"), "-")
	slices.SortStableFunc(all, func(a, b Secret) int {
		order := cmp.Or(compareBy(by, a, b), cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Name, b.Name))
		if down {
			return -order
		}
		return order
	})
	var sum tally
	for i := range all {
		sum.add(deref(all[i].ConnectionStatus), all[i].urgency())
	}
	out := page(c, all)
	sum.into(&out.meta)
	rows := out.data.([]Secret)
	for i := range rows {
		if !c.query.Has("expand") {
			rows[i].Token, rows[i].Standing = nil, nil
		}
		c.complete(&rows[i])
	}
	return out, nil
}

// wanted applies the filters of the query.
func (c *call) wanted(s Secret) bool {
	for name, value := range map[string]string{
		"secret_type": s.SecretType, "provider": deref(s.Provider), "connection_status": deref(s.ConnectionStatus),
		"collection_id": cmp.Or(deref(s.CollectionID), "none"), "tenant": s.Tenant,
	} {
		if c.query.Has(name) && c.query.Get(name) != value {
			return false
		}
	}
	return strings.Contains(strings.ToLower(s.Name), strings.ToLower(c.query.Get("name")))
}

func compareBy(field string, a, b Secret) int {
	switch field {
	case "created_at":
		return a.CreatedAt.Compare(b.CreatedAt)
	case "updated_at":
		return a.UpdatedAt.Compare(b.UpdatedAt)
	case "provider":
		return cmp.Compare(deref(a.Provider), deref(b.Provider))
	case "attention":
		return cmp.Compare(a.urgency(), b.urgency())
	case "connection_status":
		return cmp.Compare(deref(a.ConnectionStatus), deref(b.ConnectionStatus))
	}
	return cmp.Compare(a.Name, b.Name)
}
