package api

import (
	"cmp"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// findSecret looks up the secret that the path names. One that the caller must not know of is not there.
func (c *call) findSecret() error {
	all, err := c.Secrets.List(c.r.Context(), false)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(all, func(s Secret) bool { return s.ID == c.vars["id"] })
	if i < 0 {
		return NotFound()
	}
	s := &all[i]
	role := c.caller.in(s.Tenant, deref(s.CollectionID))
	if role < Viewer {
		return NotFound()
	}
	c.secret = s
	c.about(s.ID, s.Name, s.Tenant)
	if role < c.route.role {
		return forbidden("this needs the role %s for %q", c.route.role, s.Name)
	}
	return nil
}

// about says what the answer is about, for the audit log.
func (c *call) about(id, name, tenant string) { c.target, c.name, c.tenant = id, name, tenant }

func (c *call) at(revision uint64) Target {
	return Target{ID: c.target, Revision: revision, By: c.caller.Name}
}

func (c *call) createSecret() (*answer, error)     { return c.create("") }
func (c *call) createConnection() (*answer, error) { return c.create("oauth2") }

// create makes a secret; kind is its type where the path says it.
func (c *call) create(kind string) (*answer, error) {
	draft, err := c.draft()
	if err != nil {
		return nil, err
	}
	switch {
	case kind != "" && draft.SecretType == "":
		draft.SecretType = kind
	case kind != "" && draft.SecretType != kind:
		draft.Faults, draft.SecretType = append(draft.Faults, Fault{"secret_type", "must be " + kind + " here"}), kind
	case draft.SecretType != "oauth2" && draft.SecretType != "certificate":
		draft.Faults, draft.SecretType = append(draft.Faults, Fault{"secret_type", "must be oauth2 or certificate"}), draft.likely()
	}
	if err := c.mayPut(draft.Tenant, deref(draft.Collection)); err != nil {
		return nil, err
	}
	made, err := c.Secrets.Create(c.r.Context(), c.caller.Name, *draft)
	if err != nil {
		return nil, err
	}
	c.about(made.ID, made.Name, made.Tenant)
	return &answer{status: http.StatusCreated, data: made, revision: made.Revision, location: "/v1/secrets/" + made.ID}, nil
}

// likely is what a secret is meant to be that does not say it, so that everything else that is wrong with it can be named too.
func (d *Draft) likely() string {
	for _, field := range []string{"certificate", "private_key"} {
		if d.Fields[field] != nil {
			return "certificate"
		}
	}
	return "oauth2"
}

// draft reads the body of a new or changed secret as far as roles depend on it.
func (c *call) draft() (*Draft, error) {
	r, err := c.reader()
	if err != nil {
		return nil, err
	}
	fields := r.fields
	draft := &Draft{SecretType: r.text("secret_type"), Collection: r.nullable("collection_id"), Fields: fields}
	draft.Tenant = c.readTenant(r)
	if draft.Collection != nil && *draft.Collection != "" {
		if found, err := c.visibleCollection(*draft.Collection, draft.Tenant); err != nil {
			return nil, err
		} else if found == nil {
			r.fault("collection_id", "no collection has this ID")
		}
	}
	if err := c.checkCertificates(r, fields, "", draft.Tenant); err != nil {
		return nil, err
	}
	var environments map[string]map[string]json.RawMessage
	_ = json.Unmarshal(fields["environments"], &environments) // another form is refused later
	for name, overrides := range environments {
		if err := c.checkCertificates(r, overrides, "environments."+name+".", draft.Tenant); err != nil {
			return nil, err
		}
	}
	draft.Faults = r.faults
	return draft, nil
}

// checkCertificates refuses certificates that the caller does not see: whoever may use one may sign in with it.
func (c *call) checkCertificates(r *reader, fields map[string]json.RawMessage, prefix, tenant string) error {
	for _, field := range []string{"mtls_certificate_id", "ca_certificate_id", "client_key"} {
		var id string
		var key struct{ ID string }
		if json.Unmarshal(fields[field], &id) != nil && json.Unmarshal(fields[field], &key) != nil || id+key.ID == "" {
			continue // not said, or of a form that is refused later
		}
		id += key.ID
		all, err := c.seen(false)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(all, func(s Secret) bool { return s.ID == id && s.SecretType == "certificate" && s.Tenant == tenant }) {
			r.fault(prefix+field, "no certificate has this ID")
		}
	}
	return nil
}

// readTenant takes the tenant that a new thing is for. Whoever has one alone need not know its name.
func (c *call) readTenant(r *reader) string {
	if c.secret != nil {
		return c.secret.Tenant // of a change; the field is refused with the unknown ones
	}
	_, said := r.fields["tenant"]
	tenant := r.text("tenant")
	switch {
	case !said:
		return c.caller.Tenant
	case tenant != c.caller.Tenant && !c.caller.AllTenants:
		r.fault("tenant", "you act for one tenant only; leave it out")
	case !ValidTenant(tenant):
		r.fault("tenant", "must have no slash, space or brace, and at most 128 bytes")
	default:
		return tenant
	}
	return c.caller.Tenant
}

// mayPut reports why the caller may not put something into a tenant and a collection.
func (c *call) mayPut(tenant, collection string) error {
	if c.caller.in(tenant, collection) < c.route.role {
		return forbidden("this needs the role %s there; name one of your collections in collection_id", c.route.role)
	}
	return nil
}

func (c *call) getSecret() (*answer, error) {
	detail, err := c.Secrets.Describe(c.r.Context(), c.secret.ID)
	if err != nil {
		return nil, err
	}
	c.complete(&detail.Secret)
	return &answer{status: http.StatusOK, data: detail, revision: detail.Revision}, nil
}

func (c *call) updateSecret() (*answer, error) {
	revision, err := c.precondition()
	if err != nil {
		return nil, err
	}
	draft, err := c.draft()
	if err != nil {
		return nil, err
	}
	if draft.Collection != nil {
		if err := c.mayPut(c.secret.Tenant, *draft.Collection); err != nil {
			return nil, err
		}
	}
	detail, err := c.Secrets.Update(c.r.Context(), c.at(revision), *draft)
	if err != nil {
		return nil, err
	}
	c.complete(&detail.Secret)
	return &answer{status: http.StatusOK, data: detail, revision: detail.Revision}, nil
}

func (c *call) deleteSecret() (*answer, error) {
	revision, err := c.precondition()
	if err != nil {
		return nil, err
	}
	ended, err := c.Secrets.Delete(c.r.Context(), c.at(revision))
	if err != nil {
		return nil, err
	}
	return &answer{status: http.StatusOK, data: ended}, nil
}

// ref is the token set that the path and the query name.
func (c *call) ref() Ref {
	return Ref{ID: c.secret.ID, Subject: c.vars["subject"], Environment: c.query.Get("environment"), By: c.caller.Name}
}

// ok answers 200 with what an operation returned.
func ok[T any](data T, err error) (*answer, error) {
	if err != nil {
		return nil, err
	}
	return &answer{status: http.StatusOK, data: data}, nil
}

// token answers 200 with a token set, and what the caller may do with it.
func (c *call) token(token Token, err error) (*answer, error) {
	return ok(c.allowed(token, c.secret), err)
}

func (c *call) viewToken() (*answer, error) { return c.token(c.Tokens.View(c.r.Context(), c.ref())) }
func (c *call) refresh() (*answer, error)   { return c.token(c.Tokens.Refresh(c.r.Context(), c.ref())) }
func (c *call) test() (*answer, error)      { return ok(c.Tokens.Test(c.r.Context(), c.ref())) }
func (c *call) revoke() (*answer, error)    { return ok(c.Tokens.Revoke(c.r.Context(), c.ref())) }
func (c *call) authorize() (*answer, error) { return ok(c.Tokens.Authorize(c.r.Context(), c.ref())) }

func (c *call) versions() (*answer, error) {
	versions, err := c.Versions.History(c.r.Context(), c.ref())
	if err != nil {
		return nil, err
	}
	if versions == nil {
		versions = []Version{}
	}
	if c.caller.in(c.secret.Tenant, deref(c.secret.CollectionID)) < roleFor("token.rollback") {
		for i := range versions {
			versions[i].CanRollBack = false
		}
	}
	return &answer{status: http.StatusOK, data: versions}, nil
}

func (c *call) rollBack() (*answer, error) {
	n, err := strconv.ParseUint(c.vars["n"], 10, 64)
	if err != nil || n == 0 {
		return nil, NotFound()
	}
	return c.token(c.Versions.RollBack(c.r.Context(), c.ref(), n))
}

func (c *call) listSubjects() (*answer, error) {
	subjects, err := c.Versions.Subjects(c.r.Context(), c.ref())
	if err != nil {
		return nil, err
	}
	var sum tally
	for _, token := range subjects {
		sum.add(token.Status, urgencyOf(token.Status))
	}
	if by, down := strings.CutPrefix(c.query.Get("sort"), "-"); by != "" {
		slices.SortStableFunc(subjects, func(a, b Token) int {
			order := cmp.Compare(a.Subject, b.Subject)
			if by == "attention" {
				order = cmp.Or(cmp.Compare(urgencyOf(a.Status), urgencyOf(b.Status)), order)
			}
			if down {
				return -order
			}
			return order
		})
	}
	out := page(c, subjects)
	sum.into(&out.meta)
	return out, nil
}
