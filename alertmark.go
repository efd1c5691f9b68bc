package caddyoauth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/alert"
	"github.com/caddyoauth/caddyoauth/internal/connection"
)

// Instances that share a storage agree by marks on who tells: what was told last of one connection to one receiver. Marks are
// sealed as everything is.

const (
	alertMarkVersion = 1
	markTimeout      = 5 * time.Second // of one storage operation
)

// alertMarkV1 is the stored form of a mark.
type alertMarkV1 struct {
	Version int        `json:"version"`
	Mark    alert.Mark `json:"mark"`
}

// loadMark returns what was told; the zero value when nothing was.
func (s *recordStore) loadMark(ctx context.Context, key string) (alert.Mark, error) {
	ctx, cancel := context.WithTimeout(ctx, markTimeout)
	defer cancel()
	plain, err := s.unseal(ctx, key)
	if errors.Is(err, connection.ErrNotFound) {
		return alert.Mark{}, nil
	}
	if err != nil {
		return alert.Mark{}, err
	}
	return decodeMark(plain)
}

func decodeMark(plain []byte) (alert.Mark, error) {
	var stored alertMarkV1
	if err := json.Unmarshal(plain, &stored); err != nil {
		return alert.Mark{}, fmt.Errorf("read what was told: %w", err)
	}
	if stored.Version != alertMarkVersion {
		return alert.Mark{}, fmt.Errorf("what was told is stored in version %d, which this program does not know", stored.Version)
	}
	return stored.Mark, nil
}

// saveMark stores what was told. Of a recovery nothing is kept.
func (s *recordStore) saveMark(ctx context.Context, key string, mark alert.Mark) error {
	ctx, cancel := context.WithTimeout(ctx, markTimeout)
	defer cancel()
	if mark.Status == "" {
		return s.remove(ctx, key)
	}
	plain, err := encodeMark(mark)
	if err != nil {
		return err
	}
	return s.seal(ctx, key, plain)
}

func encodeMark(mark alert.Mark) ([]byte, error) {
	mark.At, mark.Since = mark.At.UTC(), mark.Since.UTC()
	return json.Marshal(alertMarkV1{alertMarkVersion, mark})
}

// lockMark takes the lock under which one instance tells. One that cannot be had in time is done without.
func (s *recordStore) lockMark(ctx context.Context, lock string) (unlock func()) {
	lockCtx, cancel := context.WithTimeout(ctx, markPatience)
	if err := s.storage.Lock(lockCtx, lock); err != nil {
		cancel()
		return func() {}
	}
	return func() {
		ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), unlockTimeout)
		defer stop()
		_ = s.storage.Unlock(ctx, lock)
		cancel()
	}
}
