package caddyoauth

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	"github.com/caddyoauth/caddyoauth/internal/api"
)

// apiCollections are the collections, as the REST API wants them.
type apiCollections struct{ *App }

// List implements api.Collections.
func (s apiCollections) List(ctx context.Context) ([]api.Collection, error) {
	if err := s.awaitStored(ctx); err != nil {
		return nil, err
	}
	entries := s.entries()
	var all []api.Collection
	for _, e := range entries {
		if e.Kind == kindCollection {
			all = append(all, s.collectionOf(e))
		}
	}
	slices.SortFunc(all, func(a, b api.Collection) int { return strings.Compare(a.Tenant+"/"+a.Name, b.Tenant+"/"+b.Name) })
	return all, nil
}

func (s apiCollections) collectionOf(e *entry) api.Collection {
	out := api.Collection{ID: e.ID, Name: e.Name, Description: e.Note, Tenant: e.Tenant, CreatedAt: e.CreatedAt, UpdatedAt: e.UpdatedAt, Revision: e.Revision}
	for _, other := range s.entries() {
		if other.Collection == e.ID {
			out.Secrets++
		}
	}
	return out
}

// Create implements api.Collections.
func (s apiCollections) Create(ctx context.Context, by string, draft api.CollectionDraft) (api.Collection, error) {
	if s.catalog == nil {
		return api.Collection{}, asAPI(errNoStored)
	}
	e := &entry{Kind: kindCollection, Tenant: draft.Tenant, CreatedBy: by, UpdatedBy: by}
	wrong := faults(draft.Faults)
	e.Name = wrong.nameOf(draft.Name)
	if draft.Description != nil {
		e.Note = *draft.Description
	}
	if err := wrong.err(); err != nil {
		return api.Collection{}, err
	}
	made, err := s.make(ctx, e)
	if err != nil {
		return api.Collection{}, err
	}
	return s.collectionOf(made), nil
}

// nameOf is name for one that was read already.
func (f *faults) nameOf(name *string) string {
	text := ""
	if name != nil {
		text = *name
	}
	raw, _ := json.Marshal(text) // a text always encodes
	return f.name(map[string]json.RawMessage{"name": raw})
}

// make stores a new entry, unless its name is taken.
func (a *App) make(ctx context.Context, e *entry) (*entry, error) {
	made, err := a.put(ctx, entryKey(e.Tenant, e.Kind.space(), e.Name), func(current *entry) (*entry, error) {
		if current != nil {
			return nil, errNameTaken
		}
		e.ID = newID()
		return e, a.room(e)
	})
	return made, asAPI(err)
}

// replace changes or removes an entry that is still as the caller has seen it.
func (a *App) replace(ctx context.Context, at api.Target, alter func(*entry) (*entry, error)) (*entry, error) {
	known := a.entryByID(at.ID)
	if known == nil {
		return nil, api.NotFound()
	}
	made, err := a.put(ctx, entryKey(known.Tenant, known.Kind.space(), known.Name), func(current *entry) (*entry, error) {
		if err := unchanged(current, at); err != nil {
			return nil, err
		}
		return alter(current)
	})
	return made, asAPI(err)
}

// Update implements api.Collections.
func (s apiCollections) Update(ctx context.Context, at api.Target, draft api.CollectionDraft) (api.Collection, error) {
	known := s.entryByID(at.ID)
	wrong := faults(draft.Faults)
	if known != nil && draft.Name != nil && wrong.nameOf(draft.Name) != known.Name {
		wrong.add("name", "cannot be changed; the ID stays the same anyway")
	}
	if err := wrong.err(); err != nil {
		return api.Collection{}, err
	}
	made, err := s.replace(ctx, at, func(current *entry) (*entry, error) {
		next := *current
		if next.UpdatedBy = at.By; draft.Description != nil {
			next.Note = *draft.Description
		}
		return &next, nil
	})
	if err != nil {
		return api.Collection{}, err
	}
	return s.collectionOf(made), nil
}

// Delete implements api.Collections.
func (s apiCollections) Delete(ctx context.Context, at api.Target) error {
	_, err := s.replace(ctx, at, func(e *entry) (*entry, error) {
		if s.collectionOf(e).Secrets > 0 {
			return nil, api.Conflict("%q is not empty", e.Name)
		}
		return nil, nil
	})
	return err
}

// Interface guard.
var _ api.Collections = apiCollections{}
