package connection

import (
	"context"
	"errors"
)

// ErrNotFound is returned by Store.Load when nothing is stored under the ID.
var ErrNotFound = errors.New("no record is stored")

// ErrUnreadable is wrapped by Store.Load when a record is there but does not open: sealed with another key, moved, or
// damaged. Such a record is never overwritten.
var ErrUnreadable = errors.New("the stored record cannot be opened")

// ErrStorage is wrapped by every error that comes from storage.
var ErrStorage = errors.New("storage")

// Store keeps records. Every implementation passes the contract in package storetest.
type Store interface {
	// Load returns what is stored, or an error that wraps ErrNotFound or ErrUnreadable.
	Load(ctx context.Context, id ID) (Record, error)
	// Save replaces the record durably. The caller holds the lock, or has taken over from a dead holder.
	Save(ctx context.Context, record Record) error
	// Archive keeps a record with a superseded token set in the history and removes what is beyond the history's length.
	Archive(ctx context.Context, record Record) error
	// Lock serialises the replacement of one generation among all instances. It returns when the lock is held, or with
	// ctx's error. ctx lives as long as the lock is held, because some storages renew a lease only while it does. Unlock
	// must work although ctx has ended, and must end itself within a bounded time; its error means that the lock was lost
	// meanwhile. A lock is not a fence: save and compare expect that it fails.
	Lock(ctx context.Context, id ID, generation uint64) (unlock func() error, err error)
}
