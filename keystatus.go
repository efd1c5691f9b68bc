package caddyoauth

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/envelope"
)

// KeyStatus is what may be shown of the keys: which there are, what they are in use for, and which are not needed any more.
type KeyStatus struct {
	// Open says whether the data keys are open. If not, Error says why: `wrong_key`, `damaged` or `unreachable`. With keys that are
	// open, `unconfirmed` means that this configuration's keys have not opened them, and `keyset_changed` that what is stored is
	// another keyset, which does not open here: a restart would have no keys.
	Open  bool   `json:"open"`
	Error string `json:"error,omitempty"`
	Hint  string `json:"hint,omitempty"`

	EncryptionKeys []EncryptionKeyStatus `json:"encryption_keys"`
	DataKeys       []DataKeyStatus       `json:"data_keys"`
	Rekey          *RekeyStatus          `json:"rekey,omitempty"` // nil when none is under way
	Records        int                   `json:"records"`
	CountedAt      *time.Time            `json:"counted_at,omitempty"`
}

// EncryptionKeyStatus is a configured key-encryption key.
type EncryptionKeyStatus struct {
	ID    string `json:"id"`
	Wraps bool   `json:"wraps"` // the stored keyset is wrapped with it
	// Removable says that nothing needs the key: the stored keyset is wrapped with the first one.
	Removable bool `json:"removable"`
}

// DataKeyStatus is a data key, or one that records are sealed with and that is not there.
type DataKeyStatus struct {
	ID      uint32     `json:"id"`
	Created *time.Time `json:"created,omitempty"`
	State   string     `json:"state"` // `seals`, `next`, `old` or `missing`
	Records int        `json:"records"`
}

// RekeyStatus is how far the replacement of a data key is.
type RekeyStatus struct {
	Phase string   `json:"phase"` // `publishing`, `sealing` or `retiring`
	Done  int      `json:"done"`  // records that are sealed with the key that seals now
	Total int      `json:"total"`
	Stuck []string `json:"stuck,omitempty"` // storage keys of some records that could not be sealed anew
}

// countedRecently is how old the count of records may be that KeyStatus shows.
const countedRecently = 2 * time.Second

// countEvery is how often the records are counted when nobody asks, for the metrics.
const countEvery = time.Hour

// KeyStatus returns the state of the keys. It holds no key. Counting the records reads them all, so it is done for who asks, and
// not more often than every few seconds.
func (a *App) KeyStatus(ctx context.Context) (KeyStatus, error) {
	keys := a.store.keys
	status := KeyStatus{EncryptionKeys: []EncryptionKeyStatus{}, DataKeys: []DataKeyStatus{}}
	state, err := keys.state(ctx, a.store.storage, keys.rekeyPause()/3)
	if err != nil {
		if ctx.Err() != nil {
			return status, ctx.Err()
		}
		status.Error, status.Hint = keyErrorCode(err), unreadableHint(err)
		for _, id := range keyIDs(keys.configured) {
			status.EncryptionKeys = append(status.EncryptionKeys, EncryptionKeyStatus{ID: id})
		}
		return status, nil
	}
	status.Open = true
	switch {
	case state.by < 0:
		status.Error = "unconfirmed"
	case state.strange:
		status.Error = "keyset_changed"
	}
	for i, id := range state.keks {
		status.EncryptionKeys = append(status.EncryptionKeys, EncryptionKeyStatus{
			ID: id, Wraps: i == state.by && !state.strange, Removable: i > 0 && state.by == 0 && !state.strange,
		})
	}
	found, err := a.store.counted(ctx, state.several())
	if err != nil {
		return status, err
	}
	status.Records, status.CountedAt = found.total, known(found.at)
	status.DataKeys = dataKeysOf(state.ring, found)
	status.Rekey = rekeyOf(state.ring, found)
	return status, nil
}

// counted returns a count of the records that is not old, or a new one.
func (s *recordStore) counted(ctx context.Context, anew bool) (*census, error) {
	last := s.keys.counted.Load()
	if last != nil && !anew && time.Since(last.at) < countedRecently {
		return last, nil
	}
	found, err := s.survey(ctx, func(_ string, id uint32) (uint32, error) { return id, nil })
	if err != nil {
		return nil, err
	}
	if last != nil {
		found.stuck = last.stuck
	}
	s.keys.counted.Store(found)
	return found, nil
}

// dataKeysOf describes the keys of the keyset, and those that only records know of.
func dataKeysOf(ring *envelope.KeyRing, found *census) []DataKeyStatus {
	var all []DataKeyStatus
	for _, key := range ring.Keys() {
		status := DataKeyStatus{ID: key.ID, Created: known(key.Created), State: "old", Records: found.byKey[key.ID]}
		switch {
		case key.Primary:
			status.State = "seals"
		case key.Next:
			status.State = "next"
		}
		all = append(all, status)
	}
	var missing []DataKeyStatus
	for id, records := range found.byKey {
		if !ring.Holds(id) {
			missing = append(missing, DataKeyStatus{ID: id, State: "missing", Records: records})
		}
	}
	slices.SortFunc(missing, func(a, b DataKeyStatus) int { return b.Records - a.Records })
	return append(all, missing...)
}

// rekeyOf returns how far a replacement is; nil when none is under way.
func rekeyOf(ring *envelope.KeyRing, found *census) *RekeyStatus {
	if len(ring.Keys()) == 1 {
		return nil
	}
	status := &RekeyStatus{Phase: "sealing", Done: found.byKey[ring.Primary()], Total: found.total, Stuck: found.stuck}
	switch {
	case ring.Next() != 0:
		status.Phase, status.Done = "publishing", 0
	case status.Done == status.Total:
		status.Phase = "retiring"
	}
	return status
}

func keyErrorCode(err error) string {
	switch {
	case errors.Is(err, envelope.ErrTampered), errors.Is(err, envelope.ErrMalformed):
		return "damaged"
	case errors.Is(err, envelope.ErrWrongKey):
		return "wrong_key"
	default:
		return "unreachable"
	}
}

// sealedRecords returns how many records each data key has sealed, as last counted, without reading any. nil: not counted yet.
func (a *App) sealedRecords() map[uint32]int {
	if found := a.store.keys.counted.Load(); found != nil {
		return found.byKey
	}
	return nil
}
