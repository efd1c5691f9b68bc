package caddyoauth

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/caddyoauth/caddyoauth/internal/api"
	"github.com/caddyoauth/caddyoauth/internal/connection"
)

// Each process keeps the last events that it has seen in one object of its own, sealed as everything is, so that writing takes no lock.
// Who reads puts the objects together. An object that was not written for long is of a process that is gone, or has nothing to say: whoever
// writes its own takes it over, and deletes it.

const (
	auditPause    = 5 * time.Second  // from the first event that is not stored to the write: as often as it is written, and as much as a crash takes
	auditIdle     = time.Hour        // how long at most nothing is looked at
	auditRetryMax = time.Minute      // between two attempts while the storage fails
	auditTimeout  = 5 * time.Second  // of one write
	auditTidy     = 30 * time.Second // of taking over what others have left
	auditGrace    = 6 * time.Second  // how long Stop waits for the last write
	auditLate     = 2 * time.Second  // of a write for a request that ends after that
	auditLook     = 5 * time.Second  // of reading the objects of others
	auditFresh    = 2 * time.Second  // how long what was read of others holds, however many ask
	auditStale    = time.Hour        // not written for so long: taken over
	auditObjects  = 32               // more than so many: the oldest are taken over sooner
	auditSettled  = time.Minute      // but none that was written since
)

// trailV1 is the stored form of an object.
type trailV1 struct {
	Version int            `json:"version"`
	Writer  string         `json:"writer"`
	At      time.Time      `json:"at"`
	Events  []auditEventV1 `json:"events"` // the oldest first
}

// auditEventV1 is the stored form of an event.
type auditEventV1 struct {
	Writer    string    `json:"writer,omitempty"` // if it is not that of the object
	Number    uint64    `json:"number"`
	Time      time.Time `json:"time"`
	Action    string    `json:"action"`
	Outcome   string    `json:"outcome"`
	Status    int       `json:"status,omitempty"`
	Caller    string    `json:"caller,omitempty"`
	Address   string    `json:"address,omitempty"`
	Tenant    string    `json:"tenant,omitempty"`
	Target    string    `json:"target,omitempty"`
	Name      string    `json:"name,omitempty"`
	Subject   string    `json:"subject,omitempty"`
	Detail    string    `json:"detail,omitempty"`
	RequestID string    `json:"request_id,omitempty"`
	Times     int       `json:"times,omitempty"`
}

// storedTrail is an object that was read.
type storedTrail struct {
	key    string
	writer string
	at     time.Time
	events []api.AuditEvent
}

func encodeTrail(t storedTrail) ([]byte, error) {
	out := trailV1{Version: 1, Writer: t.writer, At: t.at.UTC(), Events: make([]auditEventV1, 0, len(t.events))}
	for _, e := range t.events {
		if e.Writer == t.writer {
			e.Writer = ""
		}
		out.Events = append(out.Events, auditEventV1{
			Writer: e.Writer, Number: e.Number, Time: e.Time.UTC(), Action: e.Action, Outcome: e.Outcome, Status: e.Status, Caller: e.Caller,
			Address: e.Address, Tenant: e.Tenant, Target: e.Target, Name: e.Name, Subject: e.Subject, Detail: e.Detail, RequestID: e.RequestID, Times: e.Times,
		})
	}
	return json.Marshal(out)
}

// decodeTrail reads the plain stored form. Its errors never repeat what they read.
func decodeTrail(plain []byte) (storedTrail, error) {
	var in trailV1
	if err := json.Unmarshal(plain, &in); err != nil {
		return storedTrail{}, errors.New("decode the last events: they are not JSON, or a field has the wrong type")
	}
	if in.Version != 1 || in.Writer == "" {
		return storedTrail{}, fmt.Errorf("decode the last events: version %d is unknown to this program; were they written by a newer one?", in.Version)
	}
	out := storedTrail{writer: in.Writer, at: in.At}
	for _, e := range in.Events {
		out.events = append(out.events, api.AuditEvent{
			Writer: cmp.Or(e.Writer, in.Writer), Number: e.Number, Time: e.Time, Action: e.Action, Outcome: e.Outcome, Status: e.Status, Caller: e.Caller,
			Address: e.Address, Tenant: e.Tenant, Target: e.Target, Name: e.Name, Subject: e.Subject, Detail: e.Detail, RequestID: e.RequestID, Times: e.Times,
		})
	}
	return out, nil
}

// trail reads an object.
func (s *recordStore) trail(ctx context.Context, key string) (storedTrail, error) {
	plain, err := s.unseal(ctx, key)
	if err != nil {
		return storedTrail{}, err
	}
	t, err := decodeTrail(plain)
	if err == nil && trailKey(t.writer) != key {
		err = errors.New("it belongs to another process")
	}
	if err != nil {
		return storedTrail{}, fmt.Errorf("%w: %w", connection.ErrUnreadable, err)
	}
	t.key = key
	return t, nil
}

// trails reads all objects but one's own. Those that cannot be read are left out; the error says so.
func (s *recordStore) trails(ctx context.Context, own string) ([]storedTrail, error) {
	keys, err := s.list(ctx, trailDir, false)
	if err != nil {
		return nil, fmt.Errorf("list the last events of other instances: %w", err)
	}
	var all []storedTrail
	var failed []error
	for _, key := range keys {
		if key = trailDir + "/" + path.Base(key); key == trailKey(own) || !isRecord(key) {
			continue
		}
		one, err := s.trail(ctx, key)
		switch {
		case errors.Is(err, connection.ErrNotFound): // taken over meanwhile
		case err != nil:
			failed = append(failed, fmt.Errorf("read the last events of another instance: %w", err))
		default:
			all = append(all, one)
		}
	}
	return all, errors.Join(failed...)
}

// trailsSeen is what was read of the objects of others.
type trailsSeen struct {
	at    time.Time
	lists [][]api.AuditEvent
	err   error
}

// others returns the lists of the other processes; what was known of them before when they cannot be read now.
func (t *auditTrail) others(ctx context.Context, a *App) ([][]api.AuditEvent, error) {
	if !a.keysNeeded() {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, auditLook)
	defer cancel()
	select {
	case <-t.looking:
		defer func() { t.looking <- struct{}{} }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if time.Since(t.seen.at) < auditFresh {
		return slices.Clone(t.seen.lists), t.seen.err
	}
	all, err := a.store.trails(ctx, t.writer)
	switch {
	case err != nil && t.seen.err == nil:
		a.logger.Warn("the last changes of other instances cannot all be read; the list is incomplete. The log has them", zap.Error(err), zap.String("hint", unreadableHint(err)))
	case err == nil && t.seen.err != nil:
		a.logger.Info("the last changes of other instances can be read again")
	}
	if err == nil || len(all) > 0 {
		t.seen.lists = nil
		for _, one := range all {
			t.seen.lists = append(t.seen.lists, one.events)
		}
	}
	t.seen.at, t.seen.err = time.Now(), err
	return slices.Clone(t.seen.lists), err
}

// keysNeeded reports whether there is anything to seal: without connections no key is asked for, and none generated.
func (a *App) keysNeeded() bool { return a.Stored != nil || len(a.active.all()) > 0 }

// record is the work of the recorder: it stores the last events when they are due.
func (a *App) record(ctx context.Context) time.Duration {
	if !a.keysNeeded() {
		return auditIdle
	}
	if a.trail.due(time.Now()) == 0 {
		a.saveTrail(ctx, auditTimeout)
	}
	return a.trail.due(time.Now())
}

// recordAll is record until the configuration ends, and once more then.
func (a *App) recordAll(ctx context.Context) {
	a.recorder.run(ctx)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), auditTimeout)
	defer cancel()
	a.saveTrail(ctx, auditTimeout)
}

// lastWord stores an event of a request that ends after its configuration has. When the process ends, the servers wait for such requests,
// and the storage is closed after that; so it is the request that has to wait.
func (a *App) lastWord() {
	if a.recorder.ended() {
		ctx, cancel := context.WithTimeout(context.Background(), auditLate)
		defer cancel()
		a.saveTrail(ctx, auditLate)
	}
}

// saveTrail stores the last events, if any are not yet. A write that has begun is not given up when ctx ends. What fails is tried again
// later: only this list depends on it.
func (a *App) saveTrail(ctx context.Context, limit time.Duration) {
	write, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	t := a.trail
	select {
	case <-t.turn:
		defer func() { t.turn <- struct{}{} }()
	case <-write.Done():
		return
	}
	changes, is := t.unsaved()
	if !is || !a.keysNeeded() {
		return
	}
	err := a.store.saveTrail(write, t)
	switch news := t.wrote(changes, err); {
	case err != nil && news:
		a.logger.Error("the list of the last changes cannot be stored; trying again, and the log has them all", zap.Error(err), zap.String("hint", unreadableHint(err)))
	case err == nil && news:
		a.logger.Info("the list of the last changes is stored again")
	}
	if err == nil && time.Since(t.tidied) > auditStale {
		t.tidied = time.Now()
		a.tidyTrails(ctx)
	}
}

func (a *App) tidyTrails(ctx context.Context) {
	limited, cancel := context.WithTimeout(ctx, auditTidy)
	defer cancel()
	if err := a.store.tidyTrails(limited, a.trail); err != nil && ctx.Err() == nil {
		a.logger.Warn("not all of the last changes of instances that are gone can be taken over; trying again in an hour", zap.Error(err))
	}
}

// saveTrail writes the object of this process.
func (s *recordStore) saveTrail(ctx context.Context, t *auditTrail) error {
	plain, err := encodeTrail(storedTrail{writer: t.writer, at: time.Now(), events: t.list()})
	if err != nil {
		return fmt.Errorf("encode the last events: %w", err)
	}
	return s.seal(ctx, trailKey(t.writer), plain)
}

// tidyTrails takes over the objects of processes that are gone. Nothing tells them from processes that have seen nothing for long. That is
// harmless: those still know their events, and write them with the next one. An object that was written since it was read stays.
func (s *recordStore) tidyTrails(ctx context.Context, t *auditTrail) error {
	all, failed := s.trails(ctx, t.writer)
	read := make(map[string][]byte)
	for _, one := range goneTrails(all, time.Now()) {
		sealed, err := s.peek(ctx, one.key)
		if err == nil {
			one, err = s.trail(ctx, one.key)
		}
		if errors.Is(err, connection.ErrNotFound) {
			continue // somebody else was faster
		}
		if err != nil {
			return err
		}
		read[one.key] = sealed
		t.absorb(one.events)
	}
	if len(read) == 0 {
		return failed
	}
	changes, _ := t.unsaved()
	if err := s.saveTrail(ctx, t); err != nil {
		return err
	}
	t.wrote(changes, nil)
	for key, sealed := range read {
		if now, err := s.peek(ctx, key); err != nil || !bytes.Equal(now, sealed) {
			continue
		}
		if err := s.remove(ctx, key); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return failed
}

// goneTrails chooses those that are taken over.
func goneTrails(all []storedTrail, now time.Time) []storedTrail {
	slices.SortFunc(all, func(a, b storedTrail) int { return a.at.Compare(b.at) })
	var gone []storedTrail
	for i, one := range all {
		age := now.Sub(one.at)
		if age > auditStale || len(all)-i >= auditObjects && age > auditSettled {
			gone = append(gone, one)
		}
	}
	return gone
}
