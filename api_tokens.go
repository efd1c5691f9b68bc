package caddyoauth

import (
	"context"

	"github.com/caddyoauth/caddyoauth/internal/api"
)

// apiTokens does to token sets what the REST API is asked for. All of it are the operations that every other surface calls too.
type apiTokens struct{ *App }

// ref finds what the API names. Acting on a connection that another one hides would act on the other one.
func (t apiTokens) ref(ref api.Ref) (Ref, error) {
	if e := t.entryByID(ref.ID); e != nil {
		if e.Kind != kindOAuth2 {
			return Ref{}, api.Conflict("%q is not a connection", e.Name)
		}
		name := fullName(e.Tenant, e.Name, ref.Environment, e.BaseEnvironment)
		if _, clash := t.active.configured(name); clash {
			return Ref{}, api.Conflict("%q is configured on the server as well, and that one is used", name)
		}
		if err := t.active.fault(name); err != nil {
			return Ref{}, api.Conflict("%q cannot be used as it is: %s", name, err)
		}
		if _, ok := t.active.getStored(name); !ok {
			return Ref{}, api.Invalid(api.Fault{Field: "environment", Message: "there are no values for it"})
		}
		return Ref{Connection: name, Subject: ref.Subject, By: ref.By}, nil
	}
	for _, c := range t.active.all() {
		if c.entry == nil && configuredID(c) == ref.ID {
			return Ref{Connection: c.name, Subject: ref.Subject, By: ref.By}, nil
		}
	}
	return Ref{}, api.NotFound()
}

// with finds what the API names and lets an operation do its work.
func with[T any](t apiTokens, ref api.Ref, do func(Ref) (T, error)) (T, error) {
	var none T
	own, err := t.ref(ref)
	if err != nil {
		return none, err
	}
	if ref.Subject == "" {
		if c, ok := t.active.get(own.Connection); ok && c.subject != "" {
			return none, api.Conflict("each subject has a token set of its own; name one, as in /subjects/{subject}")
		}
	}
	out, err := do(own)
	if err != nil {
		return none, asAPI(err)
	}
	return out, nil
}

// View implements api.Tokens.
func (t apiTokens) View(ctx context.Context, ref api.Ref) (api.Token, error) {
	return with(t, ref, func(own Ref) (api.Token, error) {
		view, err := t.App.View(ctx, own)
		return t.view(own, view, err)
	})
}

// Refresh implements api.Tokens.
func (t apiTokens) Refresh(ctx context.Context, ref api.Ref) (api.Token, error) {
	return with(t, ref, func(own Ref) (api.Token, error) {
		view, err := t.App.Refresh(ctx, own)
		return t.view(own, view, err)
	})
}

// Test implements api.Tokens.
func (t apiTokens) Test(ctx context.Context, ref api.Ref) (api.TestResult, error) {
	return with(t, ref, func(own Ref) (api.TestResult, error) {
		result, err := t.TestCall(ctx, own)
		return api.TestResult{
			OK: result.OK, Fault: result.Fault, Detail: result.Detail, Status: result.Status, Code: result.Code, Missing: result.Missing,
			Unfound: result.Unfound, AccountID: result.AccountID, Label: result.Label, Also: t.neighbours(own, result.Also), SameToken: result.SameToken,
		}, err
	})
}

// Revoke implements api.Tokens.
func (t apiTokens) Revoke(ctx context.Context, ref api.Ref) (api.Ended, error) {
	return with(t, ref, func(own Ref) (api.Ended, error) {
		told, err := t.Disconnect(ctx, own)
		ended := api.Ended{ID: ref.ID}
		if c, ok := t.active.get(own.Connection); told || ok && !c.consent.revocable {
			ended.Revoked = 1
		} else {
			ended.NotTold = 1
		}
		return ended, err
	})
}

// neighbours counts those of the same tenant. Others are nobody's business, and who they are is for who may see them.
func (a *App) neighbours(own Ref, owners []Owner) int {
	c, _ := a.active.get(own.Connection)
	count := 0
	for _, owner := range owners {
		if other, ok := a.active.get(owner.Connection); ok && c != nil && other.key.id.Tenant == c.key.id.Tenant {
			count++
		}
	}
	return count
}

// view has a token set shown as the API shows it.
func (t apiTokens) view(own Ref, view TokenView, err error) (api.Token, error) {
	token := tokenOf(view)
	token.Also, token.SameToken = t.neighbours(own, view.Also), view.SameToken
	if c, ok := t.active.get(own.Connection); ok {
		token.Actions = t.actionsOn(c, token)
	}
	return token, err
}

// Authorize implements api.Tokens. The way to the provider begins on the pages of oauth2_connect, in the browser of the person whose
// account it is: a link that led to the provider at once would connect whoever happens to open it.
func (t apiTokens) Authorize(_ context.Context, ref api.Ref) (api.Link, error) {
	own, err := t.ref(ref)
	if err != nil {
		return api.Link{}, err
	}
	c, ok := t.active.get(own.Connection)
	switch {
	case !ok:
		return api.Link{}, api.NotFound()
	case !c.needsPerson():
		return api.Link{}, asAPI(ErrNotPersonal)
	case own.Subject != "" && c.subject == "":
		return api.Link{}, api.NotFound()
	}
	offer, ok := t.active.offerOf(c)
	if !ok {
		return api.Link{}, api.Conflict("no site serves oauth2_connect for %q", c.name)
	}
	return api.Link{AuthorizeURL: offer.base + connectLink(offer.path, c.name, "")}, nil
}

// History implements api.Versions.
func (t apiTokens) History(ctx context.Context, ref api.Ref) ([]api.Version, error) {
	return with(t, ref, func(own Ref) ([]api.Version, error) {
		generations, err := t.App.History(ctx, own)
		var versions []api.Version
		for _, g := range generations {
			versions = append(versions, api.Version{
				Version: g.Generation, Current: g.Current, Status: g.Status, Reason: g.Reason, By: g.By, IssuedAt: g.IssuedAt, ExpiresAt: g.ExpiresAt,
				Granted: g.Granted, AccountID: g.AccountID, Label: g.Label, CanRollBack: g.CanRollBack,
			})
		}
		return versions, err
	})
}

// RollBack implements api.Versions.
func (t apiTokens) RollBack(ctx context.Context, ref api.Ref, version uint64) (api.Token, error) {
	return with(t, ref, func(own Ref) (api.Token, error) {
		view, err := t.App.RollBack(ctx, own, version)
		return t.view(own, view, err)
	})
}

// Subjects implements api.Versions.
func (t apiTokens) Subjects(ctx context.Context, ref api.Ref) ([]api.Token, error) {
	own, err := t.ref(ref)
	if err != nil {
		return nil, err
	}
	list, err := t.App.Subjects(ctx, own.Connection)
	var tokens []api.Token
	for _, view := range list.Subjects {
		tokens = append(tokens, tokenOf(view))
	}
	return tokens, asAPI(err)
}

func tokenOf(v TokenView) api.Token {
	return api.Token{
		Subject: v.Subject, Status: v.Status, Code: v.Code, Generation: v.Generation, Reason: v.Reason, By: v.By,
		IssuedAt: v.IssuedAt, ExpiresAt: v.ExpiresAt, RefreshAt: v.RefreshAt, RefreshExpiresAt: v.RefreshExpiresAt,
		LastUsed: v.LastUsed, NextAttempt: v.NextAttempt, Attempts: v.Attempts, Uses: v.Uses,
		Renewable: v.Renewable, Unsaved: v.Unsaved, Busy: v.Busy, Granted: v.Granted, AccountID: v.AccountID, Label: v.Label,
	}
}

// Interface guards.
var (
	_ api.Tokens   = apiTokens{}
	_ api.Versions = apiTokens{}
)
