package storetest

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/connection"
)

// memoryHistory is how many superseded token sets a [Memory] keeps of each ID.
const memoryHistory = 10

// Fault makes an operation fail.
type Fault struct {
	Err   error
	Times int // how often; 0 = until it is taken away
}

// Faults are the ways in which a [Memory] can be made to misbehave.
type Faults struct {
	Load, Save, Archive, Lock, Unlock *Fault

	StaleLoads  int                     // this many loads return the record before the last
	NoExclusion bool                    // Lock returns at once, whoever holds it
	LockLife    time.Duration           // a lock is lost after so long; 0 = it is not
	Latency     time.Duration           // each operation takes this long, or ends with its context
	OnSave      func(connection.Record) // called after a record was saved
}

// Memory is a [connection.Store] in memory with switches for faults. The zero value is ready. It keeps what a real storage
// would: copies, with times that have lost their monotonic reading.
type Memory struct {
	mu       sync.Mutex // guards all fields
	records  map[connection.ID]connection.Record
	previous map[connection.ID]connection.Record
	history  map[connection.ID][]connection.Record
	held     map[lockName]chan struct{} // closed when the lock is free again
	faults   Faults
	used     Use
}

// Use counts the operations of a [Memory], failed ones too.
type Use struct{ Loads, Saves, Archives, Locks, Unlocks int }

type lockName struct {
	id         connection.ID
	generation uint64
}

// Change sets or takes away faults.
func (m *Memory) Change(change func(*Faults)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change(&m.faults)
}

// Use returns how often each operation was called.
func (m *Memory) Use() Use {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.used
}

// begin counts an operation, lets its latency pass and returns its fault.
func (m *Memory) begin(ctx context.Context, count *int, fault func(*Faults) **Fault) error {
	m.mu.Lock()
	*count++
	latency := m.faults.Latency
	m.mu.Unlock()
	if latency > 0 {
		timer := time.NewTimer(latency)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	slot := fault(&m.faults)
	f := *slot
	if f == nil {
		return nil
	}
	if f.Times == 1 {
		*slot = nil
	} else if f.Times > 1 {
		*slot = &Fault{Err: f.Err, Times: f.Times - 1}
	}
	return f.Err
}

// Load implements connection.Store.
func (m *Memory) Load(ctx context.Context, id connection.ID) (connection.Record, error) {
	if err := m.begin(ctx, &m.used.Loads, func(f *Faults) **Fault { return &f.Load }); err != nil {
		return connection.Record{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	from := m.records
	if m.faults.StaleLoads > 0 {
		m.faults.StaleLoads--
		from = m.previous
	}
	rec, ok := from[id]
	if !ok {
		return connection.Record{}, connection.ErrNotFound
	}
	return plainRecord(rec), nil
}

// Save implements connection.Store.
func (m *Memory) Save(ctx context.Context, rec connection.Record) error {
	if err := m.begin(ctx, &m.used.Saves, func(f *Faults) **Fault { return &f.Save }); err != nil {
		return err
	}
	m.Put(rec)
	m.mu.Lock()
	told := m.faults.OnSave
	m.mu.Unlock()
	if told != nil {
		told(rec)
	}
	return nil
}

// Put stores a record past all faults, as another instance would.
func (m *Memory) Put(rec connection.Record) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.records == nil {
		m.records = make(map[connection.ID]connection.Record)
		m.previous = make(map[connection.ID]connection.Record)
	}
	if old, ok := m.records[rec.ID]; ok {
		m.previous[rec.ID] = old
	}
	m.records[rec.ID] = plainRecord(rec)
}

// Get returns the stored record past all faults; the zero record when there is none.
func (m *Memory) Get(id connection.ID) connection.Record {
	m.mu.Lock()
	defer m.mu.Unlock()
	return plainRecord(m.records[id])
}

// Delete removes a record, as an operator would.
func (m *Memory) Delete(id connection.ID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.records, id)
	delete(m.previous, id)
}

// Archive implements connection.Store.
func (m *Memory) Archive(ctx context.Context, rec connection.Record) error {
	if err := m.begin(ctx, &m.used.Archives, func(f *Faults) **Fault { return &f.Archive }); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.history == nil {
		m.history = make(map[connection.ID][]connection.Record)
	}
	kept := slices.DeleteFunc(m.history[rec.ID], func(old connection.Record) bool { return old.Current.Generation == rec.Current.Generation })
	kept = append(kept, plainRecord(rec))
	slices.SortFunc(kept, func(a, b connection.Record) int { return int(a.Current.Generation) - int(b.Current.Generation) })
	m.history[rec.ID] = kept[max(0, len(kept)-memoryHistory):]
	return nil
}

// Records returns the history with the current record at its end.
func (m *Memory) Records(id connection.ID) []connection.Record {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append(slices.Clone(m.history[id]), plainRecord(m.records[id]))
}

// Forget removes the history of an ID, as disconnecting does.
func (m *Memory) Forget(id connection.ID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.history, id)
}

// History implements [Historian].
func (m *Memory) History(_ context.Context, id connection.ID) ([]uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var generations []uint64
	for _, rec := range m.history[id] {
		generations = append(generations, rec.Current.Generation)
	}
	return generations, nil
}

// Lock implements connection.Store.
func (m *Memory) Lock(ctx context.Context, id connection.ID, generation uint64) (func() error, error) {
	if err := m.begin(ctx, &m.used.Locks, func(f *Faults) **Fault { return &f.Lock }); err != nil {
		return nil, err
	}
	name := lockName{id, generation}
	for {
		mine, theirs := m.seize(name)
		if theirs == nil {
			return func() error { return m.unlock(name, mine) }, nil
		}
		select {
		case <-theirs:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// seize takes the lock, or returns the channel that is closed when its holder lets go.
func (m *Memory) seize(name lockName) (mine, theirs chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.held == nil {
		m.held = make(map[lockName]chan struct{})
	}
	if holder, taken := m.held[name]; taken && !m.faults.NoExclusion {
		return nil, holder
	}
	mine = make(chan struct{})
	m.held[name] = mine
	if m.faults.LockLife > 0 {
		time.AfterFunc(m.faults.LockLife, func() { m.free(name, mine) })
	}
	return mine, nil
}

// free lets go of a lock that is still held.
func (m *Memory) free(name lockName, mine chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.held[name] == mine {
		delete(m.held, name)
	}
	select {
	case <-mine:
	default:
		close(mine)
	}
}

func (m *Memory) unlock(name lockName, mine chan struct{}) error {
	m.free(name, mine)
	return m.begin(context.Background(), &m.used.Unlocks, func(f *Faults) **Fault { return &f.Unlock })
}

// Seize takes a lock as a process would that dies with it: nobody ever lets go.
func (m *Memory) Seize(id connection.ID, generation uint64) {
	m.seize(lockName{id, generation})
}

// Held returns how many locks are held.
func (m *Memory) Held() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.held)
}

func plainRecord(rec connection.Record) connection.Record {
	rec.Current = plainSet(rec.Current)
	rec.UpdatedAt = rec.UpdatedAt.Round(0)
	if rec.Intent != nil {
		intent := *rec.Intent
		intent.At = intent.At.Round(0)
		rec.Intent = &intent
	}
	if rec.Failure != nil {
		failure := *rec.Failure
		failure.At = failure.At.Round(0)
		rec.Failure = &failure
	}
	return rec
}

func plainSet(set connection.TokenSet) connection.TokenSet {
	set.IssuedAt, set.ExpiresAt, set.RefreshExpiresAt = set.IssuedAt.Round(0), set.ExpiresAt.Round(0), set.RefreshExpiresAt.Round(0)
	return set
}

// Interface guards.
var (
	_ connection.Store = (*Memory)(nil)
	_ Historian        = (*Memory)(nil)
)
