package api

import (
	"net/http"
	"slices"
	"time"
)

// Removed says that something is gone.
type Removed struct {
	ID      string `json:"id" format:"uuid"`
	Deleted bool   `json:"deleted"`
}

// seenCollections returns the collections that the caller may see.
func (c *call) seenCollections() ([]Collection, error) {
	all, err := c.Collections.List(c.r.Context())
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(all), func(one Collection) bool { return c.caller.in(one.Tenant, one.ID) < Viewer }), nil
}

// visibleCollection returns a collection of that tenant; nil if the caller sees none of that ID there.
func (c *call) visibleCollection(id, tenant string) (*Collection, error) {
	all, err := c.seenCollections()
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(all, func(one Collection) bool { return one.ID == id && one.Tenant == tenant })
	if i < 0 {
		return nil, nil
	}
	return &all[i], nil
}

// findCollection returns the collection that the path names.
func (c *call) findCollection() (*Collection, error) {
	all, err := c.Collections.List(c.r.Context())
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(all, func(one Collection) bool { return one.ID == c.vars["id"] })
	if i < 0 {
		return nil, NotFound()
	}
	if c.caller.in(all[i].Tenant, all[i].ID) < Viewer {
		return nil, NotFound()
	}
	c.about(all[i].ID, all[i].Name, all[i].Tenant)
	return &all[i], nil
}

func (c *call) listCollections() (*answer, error) {
	all, err := c.seenCollections()
	if err != nil {
		return nil, err
	}
	return page(c, all), nil
}

func (c *call) getCollection() (*answer, error) {
	found, err := c.findCollection()
	if err != nil {
		return nil, err
	}
	return &answer{status: http.StatusOK, data: found, revision: found.Revision}, nil
}

// collectionDraft reads the body of a new or changed collection.
func (c *call) collectionDraft(isNew bool) (*CollectionDraft, error) {
	r, err := c.reader()
	if err != nil {
		return nil, err
	}
	draft := &CollectionDraft{Name: r.nullable("name"), Description: r.nullable("description")}
	if isNew {
		draft.Tenant = c.readTenant(r)
	}
	r.rest()
	draft.Faults = r.faults
	return draft, nil
}

func (c *call) createCollection() (*answer, error) {
	draft, err := c.collectionDraft(true)
	if err != nil {
		return nil, err
	}
	made, err := c.Collections.Create(c.r.Context(), c.caller.Name, *draft)
	if err != nil {
		return nil, err
	}
	c.about(made.ID, made.Name, made.Tenant)
	return &answer{status: http.StatusCreated, data: made, revision: made.Revision, location: "/v1/collections/" + made.ID}, nil
}

func (c *call) updateCollection() (*answer, error) {
	if _, err := c.findCollection(); err != nil {
		return nil, err
	}
	revision, err := c.precondition()
	if err != nil {
		return nil, err
	}
	draft, err := c.collectionDraft(false)
	if err != nil {
		return nil, err
	}
	changed, err := c.Collections.Update(c.r.Context(), c.at(revision), *draft)
	if err != nil {
		return nil, err
	}
	return &answer{status: http.StatusOK, data: changed, revision: changed.Revision}, nil
}

func (c *call) deleteCollection() (*answer, error) {
	if _, err := c.findCollection(); err != nil {
		return nil, err
	}
	revision, err := c.precondition()
	if err != nil {
		return nil, err
	}
	return ok(Removed{ID: c.target, Deleted: true}, c.Collections.Delete(c.r.Context(), c.at(revision)))
}

func (c *call) listKeys() (*answer, error) {
	all, err := c.Keys.List(c.r.Context())
	if err != nil {
		return nil, err
	}
	return page(c, slices.DeleteFunc(slices.Clone(all), func(key Key) bool { return !c.seesKey(key) })), nil
}

// seesKey reports whether a key is of the caller's tenant. One for all tenants belongs to who may act for all.
func (c *call) seesKey(key Key) bool {
	return c.caller.AllTenants || key.Tenant == c.caller.Tenant && !key.AllTenants
}

func (c *call) createKey() (*answer, error) {
	r, err := c.reader()
	if err != nil {
		return nil, err
	}
	draft := KeyDraft{Name: r.text("name")}
	if draft.Role, err = ParseRole(r.text("role")); err != nil {
		r.fault("role", "must be viewer, operator or admin")
	}
	if r.take("collections", &draft.Collections, "a list of IDs") && len(draft.Collections) == 0 {
		r.fault("collections", "is empty; name collections, or leave it out for a key to all of them") // none must not become all
	}
	draft.Tenant = c.readTenant(r)
	r.take("all_tenants", &draft.AllTenants, "true or false")
	if draft.AllTenants && !c.caller.AllTenants {
		r.fault("all_tenants", "you act for one tenant only")
	}
	var end *time.Time // null is never
	faults := len(r.faults)
	if r.take("expires_at", &end, "a time such as 2030-01-31T00:00:00Z"); end != nil && len(r.faults) == faults {
		if draft.ExpiresAt = *end; !end.After(time.Now()) {
			r.fault("expires_at", "must be in the future")
		}
	}
	for _, id := range draft.Collections {
		if found, err := c.visibleCollection(id, draft.Tenant); err != nil {
			return nil, err
		} else if found == nil {
			r.fault("collections", "no collection has the ID "+id)
		}
	}
	r.rest()
	draft.Faults = r.faults
	made, err := c.Keys.Create(c.r.Context(), c.caller.Name, draft)
	if err != nil {
		return nil, err
	}
	c.about(made.ID, made.Name, made.Tenant)
	return &answer{status: http.StatusCreated, data: made, location: "/v1/api-keys/" + made.ID}, nil
}

// findKey returns the API key that the path names.
func (c *call) findKey() (*Key, error) {
	all, err := c.Keys.List(c.r.Context())
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(all, func(key Key) bool { return key.ID == c.vars["id"] && c.seesKey(key) })
	if i < 0 {
		return nil, NotFound()
	}
	c.about(all[i].ID, all[i].Name, all[i].Tenant)
	return &all[i], nil
}

func (c *call) getKey() (*answer, error) { return ok(c.findKey()) }

func (c *call) deleteKey() (*answer, error) {
	if _, err := c.findKey(); err != nil {
		return nil, err
	}
	return ok(Removed{ID: c.target, Deleted: true}, c.Keys.Delete(c.r.Context(), c.at(0)))
}

func (c *call) listAudit() (*answer, error) {
	trail := c.Trail(c.r.Context())
	seen := slices.DeleteFunc(trail.Events, func(e AuditEvent) bool { return c.caller.in(e.Tenant, "") < Admin })
	missing := leftOut(seen)
	if target := c.query.Get("target"); target != "" {
		seen = slices.DeleteFunc(seen, func(e AuditEvent) bool { return e.Target != target })
	}
	if c.query.Has("subject") {
		seen = slices.DeleteFunc(seen, func(e AuditEvent) bool { return e.Subject != c.query.Get("subject") })
	}
	out := page(c, seen)
	out.meta.LeftOut, out.meta.Incomplete = missing, trail.Incomplete
	return out, nil
}

// health answers everybody whether this instance is ready, and who has a role why not.
func (c *call) health() (*answer, error) {
	health := c.Health(c.r.Context())
	switch {
	case c.caller.anywhere() < Viewer:
		health.Checks = nil
	case !c.caller.AllTenants: // details name connections, of any tenant
		health.Checks = slices.Clone(health.Checks)
		for i := range health.Checks {
			health.Checks[i].Detail = ""
		}
	}
	status := http.StatusOK
	if health.Status == "unready" {
		status = http.StatusServiceUnavailable
	}
	return &answer{status: status, data: health}, nil
}

func (c *call) sealingKeys() (*answer, error) {
	keys, err := c.Sealing.Status(c.r.Context())
	return ok(keys, err)
}

func (c *call) rekey() (*answer, error) {
	keys, err := c.Sealing.Rekey(c.r.Context())
	return ok(keys, err)
}
