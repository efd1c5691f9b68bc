package caddyoauth

import (
	"cmp"
	"context"
	"maps"
	"slices"

	"github.com/caddyoauth/caddyoauth/internal/api"
)

// Update implements api.Secrets.
func (s apiService) Update(ctx context.Context, at api.Target, draft api.Draft) (api.SecretDetail, error) {
	known, err := s.changeable(at.ID)
	if err != nil {
		return api.SecretDetail{}, err
	}
	before := s.activeOf(known)
	made, err := s.put(ctx, entryKey(known.Tenant, known.Kind.space(), known.Name), func(current *entry) (*entry, error) {
		if err := unchanged(current, at); err != nil {
			return nil, err
		}
		next, err := s.altered(current, at.By, draft)
		return next, cmp.Or(err, s.stands(next))
	})
	if err != nil {
		return api.SecretDetail{}, asAPI(err)
	}
	s.endLeft(ctx, before, made, at.By)
	s.fetchFirst(ctx, made)
	return s.detail(ctx, held{entry: made}), nil
}

// unchanged reports why an entry is not the one that the caller has seen.
func unchanged(current *entry, at api.Target) error {
	switch {
	case current == nil || current.ID != at.ID:
		return api.NotFound()
	case at.Revision != 0 && current.Revision != at.Revision:
		return errRevision
	}
	return nil
}

// changeable returns the entry that a change is about. What is configured is changed in the configuration.
func (s apiService) changeable(id string) (*entry, error) {
	if e := s.entryByID(id); e != nil {
		return e, nil
	}
	for _, c := range s.active.all() {
		if c.entry == nil && configuredID(c) == id {
			return nil, api.Conflict("%q comes from the configuration of the server, and is changed there", c.name)
		}
	}
	return nil, api.NotFound()
}

// altered returns an entry as a draft changes it.
func (s apiService) altered(current *entry, by string, draft api.Draft) (*entry, error) {
	next := *current
	next.UpdatedBy = by
	wrong := faults(slices.Clone(draft.Faults))
	if draft.SecretType != "" && draft.SecretType != string(current.Kind) {
		wrong.add("secret_type", "cannot be changed")
	}
	fields := maps.Clone(draft.Fields)
	if _, said := fields["name"]; said && wrong.name(fields) != current.Name {
		wrong.add("name", "cannot be changed: the tokens are kept under it")
	}
	if draft.Collection != nil {
		next.Collection = *draft.Collection
	}
	if next.Kind == kindCertificate {
		draftCertificate(&next, fields, &wrong)
		s.checkUsers(&next, &wrong)
		return &next, wrong.err()
	}
	if _, said := fields["description"]; said {
		next.Note = wrong.text(fields, "description")
	}
	if _, said := fields["base_environment"]; said && wrong.text(fields, "base_environment") != current.BaseEnvironment {
		wrong.add("base_environment", "cannot be changed: the tokens are kept under it")
	}
	environments := wrong.environments(fields, current.Environments)
	next.Options = wrong.options(current.Options.reveal(), fields)
	s.overrides(&next, environments, &wrong)
	s.checkConnection(&next, &wrong)
	wrong.checkMoves(current, &next, draft.Fields)
	next.settleMoves(current)
	return &next, wrong.err()
}
