package caddyoauth

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/api"
	"github.com/caddyoauth/caddyoauth/internal/envelope"
)

// The tests of this file run in virtual time on a storage in memory; audit_test.go has those with a real Caddy.

// startRecorder starts an instance that stores the last events.
func startRecorder(t *testing.T, files *memoryFiles) *instance {
	t.Helper()
	i := startInstance(t, files)
	i.engine, i.Stored, i.storageID, i.active = &engine{trails: make(map[string]*auditTrail)}, new(StoredConnections), "memory", new(activeSet)
	i.recorder = newLoop(i.record)
	i.engine.apps = []*App{i.App}
	i.engine.keepTrail(i.App)
	i.recorder.worker.start(i.recordAll)
	t.Cleanup(i.recorder.stop)
	return i
}

// did has an instance see an event.
func (i *instance) did(tenant, outcome, what string) {
	i.audit(api.AuditEvent{Action: what, Outcome: outcome, Tenant: tenant, Caller: "alice", Address: "192.0.2.1"})
}

// actions returns what an instance lists, the newest first.
func (i *instance) actions(t *testing.T) string {
	t.Helper()
	trail := i.AuditTrail(t.Context())
	if trail.Incomplete {
		t.Error("the list is incomplete")
	}
	var all []string
	for _, e := range trail.Events {
		all = append(all, e.Action)
	}
	return strings.Join(all, " ")
}

// trailObjects returns the keys of the objects in storage.
func (m *memoryFiles) trailObjects() (keys []string) {
	for key := range m.snapshot() {
		if strings.HasPrefix(key, trailDir) {
			keys = append(keys, key)
		}
	}
	return keys
}

// TestTrailIsOfAllInstances: the list is the same on each, is there after a restart, and after a crash but for the last seconds.
func TestTrailIsOfAllInstances(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		files := newMemoryFiles()
		one, two := startRecorder(t, files), startRecorder(t, files)
		for n := range 3 {
			one.did("", "done", fmt.Sprint("a", n))
			time.Sleep(time.Second)
			two.did("", "denied", fmt.Sprint("b", n))
			time.Sleep(time.Second)
		}
		time.Sleep(auditPause + auditFresh)
		const want = "b2 a2 b1 a1 b0 a0"
		if one.actions(t) != want || two.actions(t) != want {
			t.Errorf("one lists %q, the other %q", one.actions(t), two.actions(t))
		}
		one.did("", "done", "last")
		one.recorder.stop() // a restart
		time.Sleep(auditFresh)
		again := startRecorder(t, files)
		if got := again.actions(t); got != "last "+want {
			t.Errorf("after a restart: %q", got)
		}
		two.did("", "done", "stored")
		time.Sleep(auditPause)
		synctest.Wait()
		two.storage.before = func(string, string) error { return errors.New("killed") }
		two.did("", "done", "unstored")
		time.Sleep(auditPause)
		if got := startRecorder(t, files).actions(t); got != "stored last "+want {
			t.Errorf("after a crash: %q", got)
		}
		for key, sealed := range files.snapshot() {
			if bytes.Contains(sealed, []byte("alice")) || strings.Contains(key, "alice") {
				t.Errorf("%s is not sealed", key)
			}
		}
	})
}

// TestFloodOfDeniedAttempts: it costs a write each few seconds, pushes out no change and nothing of another tenant, and is counted.
func TestFloodOfDeniedAttempts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		files := newMemoryFiles()
		one := startRecorder(t, files)
		writes := 0
		one.storage.before = func(op, key string) error {
			if op == "store" && strings.HasPrefix(key, trailDir) {
				writes++
			}
			return nil
		}
		for n := range 50 {
			one.did("acme", "done", fmt.Sprint("change-", n))
			one.did("other", "denied", fmt.Sprint("other-", n))
		}
		began := time.Now()
		for n := range 10_000 {
			one.audit(api.AuditEvent{Action: "request", Outcome: "denied", Tenant: "acme", Detail: fmt.Sprint(n, strings.Repeat("é", 5000)), RequestID: fmt.Sprint(n)})
			if n%100 == 0 {
				time.Sleep(time.Second)
			}
		}
		took := time.Since(began)
		time.Sleep(auditPause)
		synctest.Wait()
		if most := int(took/auditPause) + 2; writes > most || writes < most/2 {
			t.Errorf("%d writes in %v", writes, took)
		}
		if size := len(files.snapshot()[files.trailObjects()[0]]); size > 2*auditLength*auditText {
			t.Errorf("%d bytes are stored", size)
		}
		counts := make(map[string]int)
		trail := startRecorder(t, files).AuditTrail(t.Context())
		for _, e := range trail.Events {
			name, _, _ := strings.Cut(e.Action, "-")
			counts[name]++
		}
		if counts["change"] != 50 || counts["other"] != 50 || counts["request"] != auditLength-100 {
			t.Errorf("%v are left", counts)
		}
		if last := trail.Events[0]; last.RequestID != "9999" || last.Number != 10_050 || len(last.Detail) > auditText {
			t.Errorf("the newest is %s, number %d", last.RequestID, last.Number)
		}
	})
}

// TestAttemptsAlikeAreOne: also when they come by turns.
func TestAttemptsAlikeAreOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		files := newMemoryFiles()
		one := startRecorder(t, files)
		for n := range 300 {
			one.did("", "denied", []string{"a", "b"}[n%2])
			one.did("", "done", "c")
			time.Sleep(time.Second)
		}
		time.Sleep(auditPause)
		synctest.Wait()
		for _, i := range []*instance{one, startRecorder(t, files)} {
			times := make(map[string]int)
			for _, e := range i.AuditTrail(t.Context()).Events {
				times[e.Action] += max(e.Times, 1)
				if e.Action == "b" && e.Time.Before(time.Now().Add(-10*time.Second)) {
					t.Error("the time is not that of the last attempt")
				}
			}
			if times["a"] != 150 || times["b"] != 150 || times["c"] != 300 {
				t.Errorf("%v", times)
			}
		}
	})
}

// TestTrailObjectsAreFew: instances that come and go leave no object behind for ever, and what they have seen stays on the list.
func TestTrailObjectsAreFew(t *testing.T) {
	t.Parallel()
	for name, pause := range map[string]time.Duration{"a deployment a day": 24 * time.Hour, "a crash loop": 90 * time.Second, "a fast one": time.Second} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				files := newMemoryFiles()
				var want []string
				most := 0
				for n := range 100 {
					i := startRecorder(t, files)
					want = append([]string{fmt.Sprint(n)}, want...)
					i.did("", "done", want[0])
					i.recorder.stop()
					time.Sleep(pause)
					most = max(most, len(files.trailObjects()))
				}
				if fast := int(auditSettled / pause); most > auditObjects+fast+1 || pause > auditStale && most > 2 {
					t.Errorf("there were %d objects", most)
				}
				last := startRecorder(t, files)
				if got := last.actions(t); got != strings.Join(want, " ") {
					t.Errorf("listed are %s", got)
				}
				time.Sleep(2 * auditStale)
				last.did("", "done", "last")
				time.Sleep(auditPause)
				synctest.Wait()
				if left := len(files.trailObjects()); left != 1 {
					t.Errorf("%d objects are left", left)
				}
				if got := last.actions(t); got != "last "+strings.Join(want, " ") {
					t.Errorf("listed are %s", got)
				}
			})
		})
	}
}

// TestQuietInstanceIsNotGone: an instance whose object was taken over, since it had nothing to say for long, loses nothing; and an object
// that is written while it is being taken over stays.
func TestQuietInstanceIsNotGone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		files := newMemoryFiles()
		quiet, busy := startRecorder(t, files), startRecorder(t, files)
		quiet.did("", "done", "first")
		time.Sleep(3 * auditStale)
		busy.did("", "done", "second")
		time.Sleep(auditPause)
		synctest.Wait()
		if n := len(files.trailObjects()); n != 1 {
			t.Errorf("there are %d objects", n)
		}
		quiet.did("", "done", "third")
		time.Sleep(auditPause + auditFresh)
		for _, i := range []*instance{quiet, busy} {
			if got := i.actions(t); got != "third second first" {
				t.Errorf("listed are %q", got)
			}
		}
		time.Sleep(3 * auditStale)
		synctest.Wait()
		busy.storage.before = func(op, key string) error {
			if op == "store" && key == trailKey(busy.trail.writer) && len(quiet.trail.list()) == 2 {
				if n := len(busy.trail.list()); n == 4 { // it has taken over what was stored, and is about to write it
					quiet.did("", "done", "fifth")
					quiet.saveTrail(t.Context(), auditTimeout)
				}
			}
			return nil
		}
		busy.did("", "done", "fourth")
		time.Sleep(auditPause)
		synctest.Wait()
		quiet.recorder.stop()
		if got := startRecorder(t, files).actions(t); got != "fifth fourth third second first" {
			t.Errorf("listed are %q", got)
		}
	})
}

// TestTrailWhileStorageFails: nobody waits, nothing but the list suffers, it is said once, and nothing is lost when the storage is back.
func TestTrailWhileStorageFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		files := newMemoryFiles()
		other, one := startRecorder(t, files), startRecorder(t, files)
		other.did("", "done", "other")
		time.Sleep(auditPause)
		synctest.Wait()
		_ = one.AuditTrail(t.Context())
		var down atomic.Bool
		down.Store(true)
		attempts := 0
		one.storage.before = func(_, key string) error {
			if !down.Load() {
				return nil
			}
			if key == keysetKey || strings.HasPrefix(key, trailDir+"/") { // a write begins with a look at the keyset
				attempts++
			}
			return errors.New("the storage is down")
		}
		began := time.Now()
		for n := range 100 {
			one.did("", "done", fmt.Sprint(n))
		}
		if time.Since(began) > 0 {
			t.Errorf("events took %v", time.Since(began))
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if trail := one.AuditTrail(t.Context()); !trail.Incomplete || len(trail.Events) != 101 {
			t.Errorf("%d events, incomplete %v", len(trail.Events), trail.Incomplete)
		}
		if attempts < 30 || attempts > 70 {
			t.Errorf("%d attempts in an hour", attempts)
		}
		down.Store(false)
		time.Sleep(auditRetryMax + auditFresh)
		if trail := startRecorder(t, files).AuditTrail(t.Context()); trail.Incomplete || len(trail.Events) != 101 {
			t.Errorf("then %d events, incomplete %v", len(trail.Events), trail.Incomplete)
		}
		_ = one.AuditTrail(t.Context())
		for text, want := range map[string]int{"cannot be stored": 1, "is stored again": 1, "cannot all be read": 1, "can be read again": 1} {
			if n := one.logs.FilterMessageSnippet(text).Len(); n != want {
				t.Errorf("%q was logged %d times", text, n)
			}
		}
	})
}

// TestTrailAtTheEnd: an end waits for the last write, but not for a storage that hangs; and the event of a request that ends later is stored
// by that request.
func TestTrailAtTheEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		files := newMemoryFiles()
		one := startRecorder(t, files)
		one.did("", "done", "first")
		if began := time.Now(); !one.recorder.stopWithin(auditGrace) || time.Since(began) > 0 {
			t.Errorf("the end took %v", time.Since(began))
		}
		one.did("", "done", "late")
		one.lastWord()
		if got := startRecorder(t, files).actions(t); got != "late first" {
			t.Errorf("listed are %q", got)
		}
		two := startRecorder(t, files)
		two.storage.before = func(string, string) error { time.Sleep(time.Minute); return nil }
		two.did("", "done", "lost")
		if began := time.Now(); two.recorder.stopWithin(auditGrace) || time.Since(began) > auditGrace {
			t.Errorf("with a storage that hangs the end took %v", time.Since(began))
		}
	})
}

// TestRekeyHasTheTrail: what was sealed with the old data key can be read after it was removed.
func TestRekeyHasTheTrail(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		files := newMemoryFiles()
		one := startRecorder(t, files)
		one.did("", "done", "before")
		time.Sleep(auditPause)
		synctest.Wait()
		key := files.trailObjects()[0]
		before, err := envelope.KeyOf(files.snapshot()[key])
		if err != nil {
			t.Fatal(err)
		}
		if _, err := one.Rekey(t.Context()); err != nil {
			t.Fatal(err)
		}
		one.run(t, 5*time.Minute)
		if after, err := envelope.KeyOf(files.snapshot()[key]); err != nil || after == before || one.ring(t).Holds(before) {
			t.Errorf("the data key is %d, was %d (%v)", after, before, err)
		}
		if got := startRecorder(t, files).actions(t); got != "before" {
			t.Errorf("listed are %q", got)
		}
	})
}

// TestForeignTrailIsLeftAlone: an object that was moved or damaged is neither shown nor taken over.
func TestForeignTrailIsLeftAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		files := newMemoryFiles()
		one := startRecorder(t, files)
		one.did("", "done", "first")
		time.Sleep(auditPause)
		synctest.Wait()
		sealed := files.snapshot()[files.trailObjects()[0]]
		files.set(trailKey("moved"), sealed)
		files.set(trailKey("damaged"), []byte("{}"))
		time.Sleep(2 * auditStale)
		two := startRecorder(t, files)
		two.did("", "done", "second")
		time.Sleep(auditPause)
		synctest.Wait()
		if trail := two.AuditTrail(t.Context()); !trail.Incomplete || len(trail.Events) != 2 {
			t.Errorf("%+v", trail)
		}
		if !bytes.Equal(files.snapshot()[trailKey("moved")], sealed) || files.snapshot()[trailKey("damaged")] == nil {
			t.Error("what could not be read was removed")
		}
	})
}

// TestTrimmedTrail: whoever has the most makes room.
func TestTrimmedTrail(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ have, want map[share]int }{
		"room enough":        {map[share]int{{"a", true}: 500}, map[share]int{{"a", true}: 500}},
		"one":                {map[share]int{{"a", true}: 501}, map[share]int{{"a", true}: 500}},
		"the larger":         {map[share]int{{"a", true}: 900, {"a", false}: 100}, map[share]int{{"a", true}: 400, {"a", false}: 100}},
		"both":               {map[share]int{{"a", true}: 300, {"b", true}: 400}, map[share]int{{"a", true}: 250, {"b", true}: 250}},
		"three":              {map[share]int{{"a", true}: 10, {"b", true}: 400, {"b", false}: 9000}, map[share]int{{"a", true}: 10, {"b", true}: 245, {"b", false}: 245}},
		"a tenant of others": {map[share]int{{"a", false}: 499, {"b", false}: 2}, map[share]int{{"a", false}: 498, {"b", false}: 2}},
	} {
		var events []api.AuditEvent
		for one, count := range tt.have {
			for range count {
				events = append(events, api.AuditEvent{Tenant: one.tenant, Outcome: map[bool]string{true: "denied", false: "done"}[one.denied], Number: uint64(len(events))})
			}
		}
		newest := events[len(events)-1].Number
		got := make(map[share]int)
		left := trimTrail(events)
		for _, e := range left {
			got[share{e.Tenant, e.Outcome == "denied"}]++
		}
		if !reflect.DeepEqual(got, tt.want) || left[len(left)-1].Number != newest {
			t.Errorf("%s: %v are left, want %v", name, got, tt.want)
		}
	}
	var many []api.AuditEvent
	for n := range 2 * auditLength {
		many = append(many, api.AuditEvent{Tenant: fmt.Sprint(n), Number: uint64(n)})
	}
	if left := trimTrail(many); len(left) != auditLength || left[0].Number != auditLength {
		t.Errorf("of many tenants %d are left, from %d on", len(left), left[0].Number)
	}
}

// TestCombinedTrails: an event that is on several lists is one, as it was known last, whichever list comes first.
func TestCombinedTrails(t *testing.T) {
	t.Parallel()
	event := func(writer, tenant string, number uint64, times int) api.AuditEvent {
		return api.AuditEvent{Writer: writer, Tenant: tenant, Number: number, Times: times, Time: at2026(max(times, 1))}
	}
	early, late := []api.AuditEvent{event("a", "", 1, 0), event("a", "x", 1, 0)}, []api.AuditEvent{event("a", "", 1, 5), event("b", "", 1, 0)}
	want := []api.AuditEvent{event("a", "", 1, 5), event("b", "", 1, 0), event("a", "x", 1, 0)}
	for _, lists := range [][][]api.AuditEvent{{early, late}, {late, early}, {late, late, early}} {
		if got := mergeTrails(lists); !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v", got)
		}
	}
}

// TestTrailGoldens reads what earlier versions stored. A file in testdata/audit is never changed or removed.
func TestTrailGoldens(t *testing.T) {
	t.Parallel()
	full := api.AuditEvent{
		Writer: "0123456789abcdef", Number: 7, Time: at2026(1), Action: "token.refresh", Outcome: "denied", Status: 403, Caller: "alice", Address: "192.0.2.1",
		Tenant: "acme", Target: "11111111-2222-4333-8444-555555555555", Name: "drive", Subject: "user@example.com", Detail: "forbidden", RequestID: "req_1", Times: 3,
	}
	want := map[string]storedTrail{
		"v1.json": {writer: "0123456789abcdef", at: at2026(3), events: []api.AuditEvent{
			{Writer: "fedcba9876543210", Number: 1, Time: at2026(0), Action: "keys.rekey", Outcome: "done"}, full,
		}},
		"v1-empty.json": {writer: "0123456789abcdef", at: at2026(3)},
	}
	files := goldens(t, "audit")
	if len(files) != len(want) {
		t.Fatalf("found %d goldens, know %d", len(files), len(want))
	}
	for file, raw := range files {
		got, err := decodeTrail(raw)
		if err != nil || !reflect.DeepEqual(got, want[file]) {
			t.Errorf("%s: %+v, %v", file, got, err)
		}
		if again, err := encodeTrail(got); err != nil || string(again) != string(bytes.TrimSpace(raw)) {
			t.Errorf("%s: is written differently today:\n%s", file, again)
		}
	}
	for _, wrong := range []string{``, `{}`, `{"version":2,"writer":"a"}`, `{"version":1}`, `{"version":1,"writer":"a","events":"seeded-text"}`} {
		if _, err := decodeTrail([]byte(wrong)); err == nil || strings.Contains(err.Error(), "seeded") {
			t.Errorf("%s: %v", wrong, err)
		}
	}
}

// TestTrailFollowsTheStorage: a configuration has the list of its own storage, and a list lives as long as a configuration has it.
func TestTrailFollowsTheStorage(t *testing.T) {
	t.Parallel()
	e := &engine{trails: make(map[string]*auditTrail)}
	one, again, other := &App{storageID: "a", active: new(activeSet)}, &App{storageID: "a", active: new(activeSet)}, &App{storageID: "b", active: new(activeSet)}
	for _, app := range []*App{one, again, other} {
		e.apps = append(e.apps, app)
		e.keepTrail(app)
	}
	if one.trail != again.trail || one.trail == other.trail {
		t.Error("the lists are mixed up")
	}
	e.leave(one)
	if e.leave(other); e.trails["a"] != again.trail || len(e.trails) != 1 {
		t.Errorf("%d lists are left", len(e.trails))
	}
}

// FuzzDecodeTrail: what decodes is written back to what decodes to the same. Nothing panics.
func FuzzDecodeTrail(f *testing.F) {
	for _, raw := range goldens(f, "audit") {
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		trail, err := decodeTrail(raw)
		if err != nil {
			return
		}
		plain, err := encodeTrail(trail)
		if err != nil {
			return // a year beyond 9999
		}
		again, err := decodeTrail(plain)
		if err != nil || again.writer != trail.writer || len(again.events) != len(trail.events) {
			t.Fatalf("what was written does not read back: %v", err)
		}
		for i, e := range trail.events {
			same := again.events[i]
			if !same.Time.Equal(e.Time) {
				t.Error("a time has changed")
			}
			if same.Time = e.Time; same != e {
				t.Error("an event has changed")
			}
		}
	})
}
