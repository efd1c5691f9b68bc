package caddyoauth

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddyoauth/caddyoauth/internal/api"
)

func init() {
	caddy.RegisterModule(RestAPI{})
}

// Defaults of a [RestAPI].
const (
	defaultAPIPath   = "/oauth2"
	defaultRateLimit = 600
)

// RestAPI serves the REST API on a site. Who calls is known from an API key, or from the site's own authentication; what they may do
// from the key, or from the roles that their groups have. Whoever is neither gets a 401.
type RestAPI struct {
	// Path is where the API is, without a slash at the end: its resources are at `<path>/v1/...`. Default: `/oauth2`.
	Path string `json:"path,omitempty"`
	// Identity says who the caller is, by request placeholders. Default: `{http.auth.user.id}`, which Caddy's authentication sets.
	Identity string `json:"identity,omitempty"`
	// Groups says which groups the caller is in. Default: none.
	Groups string `json:"groups,omitempty"`
	// GroupSeparator is the one character that stands between them: what a name may hold must not be taken for it. Default: a comma.
	GroupSeparator string `json:"group_separator,omitempty"`
	// Roles say what groups may do. Default: nothing, so that only API keys count.
	Roles []RoleGrant `json:"roles,omitempty"`
	// Tenant says for which tenant the caller acts, by text or request placeholders; empty for a request means that it is refused.
	// Default: the default tenant.
	Tenant string `json:"tenant,omitempty"`
	// AllTenants has those who are known from the site's authentication act for all tenants. Default: false.
	AllTenants bool `json:"all_tenants,omitempty"`
	// RateLimit is how many requests a minute one caller may send; -1 is no limit. Default: 600.
	RateLimit int `json:"rate_limit,omitempty"`

	app        *App
	path       string
	sameOrigin *http.CrossOriginProtection
}

// RoleGrant gives a role to a group.
type RoleGrant struct {
	// Role is `viewer`, `operator` or `admin`.
	Role string `json:"role"`
	// Group is the group's name, `user:NAME` for one caller, or `*` for everybody who is signed in.
	Group string `json:"group"`
	// Collections are names of the collections that the role is for. Default: everything.
	Collections []string `json:"collections,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (RestAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.oauth2_api", New: func() caddy.Module { return new(RestAPI) }}
}

// Provision checks the configuration.
func (h *RestAPI) Provision(ctx caddy.Context) error {
	h.sameOrigin = http.NewCrossOriginProtection()
	if h.path = h.Path; h.path == "" {
		h.path = defaultAPIPath
	}
	if !strings.HasPrefix(h.path, "/") || strings.HasSuffix(h.path, "/") || strings.ContainsAny(h.path, "*?#{%") {
		return fmt.Errorf("path: %q is not an absolute path without a slash at the end", h.path)
	}
	if utf8.RuneCountInString(h.GroupSeparator) > 1 {
		return fmt.Errorf("groups: the separator %q is not one character", h.GroupSeparator)
	}
	for _, grant := range h.Roles {
		if _, err := api.ParseRole(grant.Role); err != nil {
			return fmt.Errorf("role: %w", err)
		}
		if grant.Group == "" {
			return errors.New("role: name the group that it is for, `user:NAME`, or `*` for everybody who is signed in")
		}
	}
	module, err := ctx.App(appName)
	if err != nil {
		return err
	}
	h.app = module.(*App)
	return nil
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (h *RestAPI) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	rest, ours := strings.CutPrefix(r.URL.EscapedPath(), h.path)
	if !ours || !strings.HasPrefix(rest, "/") {
		return next.ServeHTTP(w, r)
	}
	h.app.rest.Serve(w, r, rest, h.access())
	return nil
}

// access says how requests come in here.
func (h *RestAPI) access() api.Access {
	return api.Access{Identify: h.identify, Address: clientAddress, Limit: cmp.Or(h.RateLimit, defaultRateLimit), Prefix: h.path}
}

// identify returns who calls. Its errors tell nothing of what there is.
func (h *RestAPI) identify(r *http.Request) (api.Caller, error) {
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	tenant, err := resolved(repl, h.Tenant, "")
	if key, bearer := bearerOf(r); bearer {
		caller, keyErr := apiKeys{h.app}.authenticate(r.Context(), key)
		if keyErr == nil && err == nil && h.Tenant != "" && tenant != "" && tenant != caller.Tenant && !caller.AllTenants {
			return api.Caller{}, api.Unauthorized() // another tenant's place
		}
		return caller, keyErr
	}
	if err != nil || h.Tenant != "" && tenant == "" || !api.ValidTenant(tenant) {
		return api.Caller{}, api.Unauthorized()
	}
	identity, err := resolved(repl, h.Identity, defaultIdentity)
	if err != nil || identity == "" {
		return api.Caller{}, api.Unauthorized()
	}
	if err := h.sameOrigin.Check(r); err != nil {
		return api.Caller{Name: identity, Tenant: tenant}, api.CrossOrigin() // on whose behalf, for the audit log; with no role
	}
	groups, err := resolved(repl, h.Groups, "")
	if err != nil {
		groups = "" // somebody who is in none
	}
	return api.Caller{Name: identity, Tenant: tenant, AllTenants: h.AllTenants, Grants: h.grants(identity, tenant, groups)}, nil
}

// resolved replaces the placeholders of a text, or of the one that stands for none.
func resolved(repl *caddy.Replacer, text, otherwise string) (string, error) {
	if text == "" {
		text = otherwise
	}
	return repl.ReplaceOrErr(text, true, true)
}

// bearerOf returns what a request brings as a Bearer token (RFC 6750 section 2.1).
func bearerOf(r *http.Request) (token string, ok bool) {
	scheme, token, found := strings.Cut(r.Header.Get("Authorization"), " ")
	return strings.TrimSpace(token), found && strings.EqualFold(scheme, "Bearer")
}

// grants returns the roles of a caller.
func (h *RestAPI) grants(identity, tenant, groups string) []api.Grant {
	var mine []string
	for name := range strings.SplitSeq(groups, cmp.Or(h.GroupSeparator, ",")) {
		mine = append(mine, strings.TrimSpace(name))
	}
	var all []api.Grant
	for _, grant := range h.Roles {
		user, single := strings.CutPrefix(grant.Group, "user:") // no group is ever called so: people may name groups
		if grant.Group != "*" && (single && user != identity || !single && !slices.Contains(mine, grant.Group)) {
			continue
		}
		role, err := api.ParseRole(grant.Role)
		if err != nil {
			continue // was refused at load
		}
		one := api.Grant{Role: role}
		if len(grant.Collections) > 0 {
			one.Collections = []string{} // of those that there are
			for _, e := range h.app.entries() {
				if e.Kind == kindCollection && (e.Tenant == tenant || h.AllTenants) && slices.Contains(grant.Collections, e.Name) {
					one.Collections = append(one.Collections, e.ID)
				}
			}
		}
		all = append(all, one)
	}
	return all
}

// clientAddress is from where a request comes, as Caddy's trusted_proxies have it.
func clientAddress(r *http.Request) string {
	if address, ok := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string); ok && address != "" {
		return address
	}
	return r.RemoteAddr
}

// adminAPI serves the REST API on Caddy's admin endpoint, with no more than that role. Remote administrators whose access_control has
// the path of a role alone can do no more.
func adminAPI(prefix string, role api.Role) caddy.AdminHandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		module, err := caddy.ActiveContext().AppIfConfigured(appName)
		if err != nil {
			return caddy.APIError{HTTPStatus: http.StatusNotFound, Err: errors.New("oauth2_inject is not configured")}
		}
		module.(*App).rest.Serve(w, r, strings.TrimPrefix(r.URL.EscapedPath(), prefix), api.Access{
			Prefix:  prefix,
			Address: func(r *http.Request) string { return r.RemoteAddr },
			Identify: func(r *http.Request) (api.Caller, error) {
				return api.Caller{Name: adminCaller(r), AllTenants: true, Grants: []api.Grant{{Role: role}}}, nil
			},
		})
		return nil
	}
}

// adminCaller names who asks on the admin endpoint. Only remote administrators have a name, in their certificate.
func adminCaller(r *http.Request) string {
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		return "admin endpoint: " + r.TLS.PeerCertificates[0].Subject.String()
	}
	return "admin endpoint"
}

// adminRoutes are those of the REST API on the admin endpoint.
func adminRoutes() []caddy.AdminRoute {
	var all []caddy.AdminRoute
	for path, role := range map[string]api.Role{"": api.Admin, "/operator": api.Operator, "/viewer": api.Viewer} {
		prefix := "/" + appName + path
		all = append(all, caddy.AdminRoute{Pattern: prefix + "/v1/", Handler: adminAPI(prefix, role)})
	}
	return all
}

// Interface guards.
var (
	_ caddy.Provisioner           = (*RestAPI)(nil)
	_ caddyhttp.MiddlewareHandler = (*RestAPI)(nil)
)
