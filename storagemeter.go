package caddyoauth

import (
	"context"
	"errors"
	"io/fs"

	"github.com/caddyserver/certmagic"
	"github.com/prometheus/client_golang/prometheus"
)

// meteredStorage counts the operations of a storage that fail. It changes nothing else.
type meteredStorage struct {
	certmagic.Storage
	failures *prometheus.CounterVec // by operation
}

// storageOperations are those that are counted.
var storageOperations = []string{"store", "load", "delete", "list", "stat", "lock", "unlock"}

// count counts a failure. That nothing is stored is none, nor is a caller who has left.
func (s *meteredStorage) count(operation string, err error) error {
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, context.Canceled) {
		s.failures.WithLabelValues(operation).Inc()
	}
	return err
}

// Store implements certmagic.Storage.
func (s *meteredStorage) Store(ctx context.Context, key string, value []byte) error {
	return s.count("store", s.Storage.Store(ctx, key, value))
}

// Load implements certmagic.Storage.
func (s *meteredStorage) Load(ctx context.Context, key string) ([]byte, error) {
	value, err := s.Storage.Load(ctx, key)
	return value, s.count("load", err)
}

// Delete implements certmagic.Storage.
func (s *meteredStorage) Delete(ctx context.Context, key string) error {
	return s.count("delete", s.Storage.Delete(ctx, key))
}

// List implements certmagic.Storage.
func (s *meteredStorage) List(ctx context.Context, prefix string, recursive bool) ([]string, error) {
	keys, err := s.Storage.List(ctx, prefix, recursive)
	return keys, s.count("list", err)
}

// Stat implements certmagic.Storage.
func (s *meteredStorage) Stat(ctx context.Context, key string) (certmagic.KeyInfo, error) {
	info, err := s.Storage.Stat(ctx, key)
	return info, s.count("stat", err)
}

// Lock implements certmagic.Storage.
func (s *meteredStorage) Lock(ctx context.Context, name string) error {
	return s.count("lock", s.Storage.Lock(ctx, name))
}

// Unlock implements certmagic.Storage.
func (s *meteredStorage) Unlock(ctx context.Context, name string) error {
	return s.count("unlock", s.Storage.Unlock(ctx, name))
}

// Interface guard.
var _ certmagic.Storage = (*meteredStorage)(nil)
