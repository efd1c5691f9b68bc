package api

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Role is what somebody may do. Each includes the ones before it.
type Role int

// The roles.
const (
	Nobody   Role = iota
	Viewer        // sees names, states and settings; never a secret, which nobody sees
	Operator      // may refresh, test and authorize as well
	Admin         // may make, change, revoke and remove as well
)

var roleNames = []string{"nobody", "viewer", "operator", "admin"}

// String returns the role's name.
func (r Role) String() string { return roleNames[r] }

// ParseRole is the reverse of String; nobody is none.
func ParseRole(name string) (Role, error) {
	if role := slices.Index(roleNames, name); role > int(Nobody) {
		return Role(role), nil
	}
	return Nobody, fmt.Errorf("%q is not a role; there are viewer, operator and admin", name)
}

// Grant is a role in some collections.
type Grant struct {
	Role        Role
	Collections []string // IDs; nil = everything in the tenant
}

// Caller is who sends a request.
type Caller struct {
	Name       string // for the audit log, and kept with what is changed; never empty
	Tenant     string // "" is the default tenant
	AllTenants bool
	Grants     []Grant
}

// in returns the caller's role in a tenant and a collection. The zero value of both is the default tenant, and no collection.
func (c *Caller) in(tenant, collection string) Role {
	if tenant != c.Tenant && !c.AllTenants {
		return Nobody
	}
	best := Nobody
	for _, grant := range c.Grants {
		if grant.Collections == nil || collection != "" && slices.Contains(grant.Collections, collection) {
			best = max(best, grant.Role)
		}
	}
	return best
}

// Role returns the caller's role in a tenant and a collection, so that nobody is offered what would be refused.
func (c *Caller) Role(tenant, collection string) Role { return c.in(tenant, collection) }

// Anywhere returns the best role that the caller has in any collection.
func (c *Caller) Anywhere() Role { return c.anywhere() }

// anywhere returns the best role that the caller has in any collection.
func (c *Caller) anywhere() Role {
	best := Nobody
	for _, grant := range c.Grants {
		best = max(best, grant.Role)
	}
	return best
}

// maxTenant bounds the name of a tenant, in bytes.
const maxTenant = 128

// ValidTenant reports whether a tenant may be called so; "" is the default tenant. It stands in front of a slash in the full name of a
// connection, in logs and in pages, and comes from requests.
func ValidTenant(name string) bool {
	return len(name) <= maxTenant && utf8.ValidString(name) && !strings.ContainsFunc(name, func(r rune) bool {
		return unicode.IsSpace(r) || !unicode.IsGraphic(r) || strings.ContainsRune(`/\{}`, r)
	})
}
