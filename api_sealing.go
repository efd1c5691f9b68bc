package caddyoauth

import (
	"context"

	"github.com/caddyoauth/caddyoauth/internal/api"
)

// apiSealing shows and replaces the keys that seal what is stored, on behalf of the REST API.
type apiSealing struct{ *App }

// Status implements api.Sealing.
func (s apiSealing) Status(ctx context.Context) (api.SealingKeys, error) {
	return sealingKeys(s.KeyStatus(ctx))
}

// Rekey implements api.Sealing.
func (s apiSealing) Rekey(ctx context.Context) (api.SealingKeys, error) {
	return sealingKeys(s.App.Rekey(ctx))
}

func sealingKeys(status KeyStatus, err error) (api.SealingKeys, error) {
	if err != nil {
		return api.SealingKeys{}, asAPI(err)
	}
	keys := api.SealingKeys{
		Open: status.Open, Error: status.Error, Hint: status.Hint, Records: status.Records, CountedAt: status.CountedAt,
		EncryptionKeys: []api.EncryptionKey{}, DataKeys: []api.DataKey{}, Rekey: (*api.RekeyProgress)(status.Rekey),
	}
	for _, one := range status.EncryptionKeys {
		keys.EncryptionKeys = append(keys.EncryptionKeys, api.EncryptionKey(one))
	}
	for _, one := range status.DataKeys {
		keys.DataKeys = append(keys.DataKeys, api.DataKey(one))
	}
	return keys, nil
}

// Interface guard.
var _ api.Sealing = apiSealing{}
