package caddyoauth

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
)

// memoryStorage is a Caddy storage in memory, which tests in virtual time can use: nothing in it polls. What several instances
// share is files; each instance has a view of its own, whose hooks see and fail its operations alone.
type memoryStorage struct {
	*memoryFiles
	before func(op, key string) error // an error keeps the operation from happening
	after  func(op, key string) error // an error hides that it has happened
}

type memoryFiles struct {
	mu    sync.Mutex // guards the fields below
	files map[string][]byte
	locks map[string]chan struct{} // closed when released
}

func newMemoryFiles() *memoryFiles {
	return &memoryFiles{files: make(map[string][]byte), locks: make(map[string]chan struct{})}
}

func (m *memoryFiles) snapshot() map[string][]byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	files := make(map[string][]byte)
	for key, value := range m.files {
		files[key] = bytes.Clone(value)
	}
	return files
}

func (m *memoryFiles) set(key string, value []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if value == nil {
		delete(m.files, key)
		return
	}
	m.files[key] = value
}

// abandonLocks is what time does to the locks of a process that was killed.
func (m *memoryFiles) abandonLocks() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, lock := range m.locks {
		close(lock)
		delete(m.locks, name)
	}
}

// do runs one operation between the hooks.
func (m *memoryStorage) do(op, key string, operation func() error) error {
	if m.before != nil {
		if err := m.before(op, key); err != nil {
			return err
		}
	}
	m.mu.Lock()
	err := operation()
	m.mu.Unlock()
	if err == nil && m.after != nil {
		err = m.after(op, key)
	}
	return err
}

func (m *memoryStorage) Store(_ context.Context, key string, value []byte) error {
	return m.do("store", key, func() error {
		m.files[key] = bytes.Clone(value)
		return nil
	})
}

func (m *memoryStorage) Load(_ context.Context, key string) (value []byte, err error) {
	err = m.do("load", key, func() error {
		stored, ok := m.files[key]
		if !ok {
			return fs.ErrNotExist
		}
		value = bytes.Clone(stored)
		return nil
	})
	return value, err
}

func (m *memoryStorage) Delete(_ context.Context, key string) error {
	return m.do("delete", key, func() error {
		if _, ok := m.files[key]; !ok {
			return fs.ErrNotExist
		}
		delete(m.files, key)
		return nil
	})
}

func (m *memoryStorage) Exists(ctx context.Context, key string) bool {
	_, err := m.Load(ctx, key)
	return err == nil
}

func (m *memoryStorage) List(_ context.Context, prefix string, _ bool) (keys []string, err error) {
	err = m.do("list", prefix, func() error {
		for key := range m.files {
			if strings.HasPrefix(key, prefix+"/") {
				keys = append(keys, key)
			}
		}
		slices.Sort(keys)
		return nil
	})
	return keys, err
}

func (m *memoryStorage) Stat(ctx context.Context, key string) (certmagic.KeyInfo, error) {
	value, err := m.Load(ctx, key)
	return certmagic.KeyInfo{Key: key, Size: int64(len(value)), IsTerminal: true, Modified: time.Now()}, err
}

func (m *memoryStorage) Lock(ctx context.Context, name string) error {
	for {
		var held chan struct{}
		err := m.do("lock", name, func() error {
			if held = m.locks[name]; held == nil {
				m.locks[name] = make(chan struct{})
			}
			return nil
		})
		if err != nil || held == nil {
			return err
		}
		select {
		case <-held:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (m *memoryStorage) Unlock(_ context.Context, name string) error {
	return m.do("unlock", name, func() error {
		held, ok := m.locks[name]
		if !ok {
			return errors.New("the lock is not held")
		}
		close(held)
		delete(m.locks, name)
		return nil
	})
}

// Interface guard.
var _ certmagic.Storage = (*memoryStorage)(nil)
