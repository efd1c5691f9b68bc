package caddyoauth

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/connection"
	"github.com/caddyoauth/caddyoauth/internal/oauth"
	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// TestTenThousandSubjects: however many subjects there are, memory holds a bounded number; those of machines are never dropped, and
// what was used last stays longest.
func TestTenThousandSubjects(t *testing.T) {
	t.Parallel()
	for room, most := range map[int]int{0: defaultRoom, 500: 500} {
		t.Run(fmt.Sprint(room), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { fillRoom(t, room, most) })
		})
	}
}

func fillRoom(t *testing.T, room, most int) {
	e := emptyEngine()
	e.room = room
	set := connection.Settings{Store: nowhere{}, Grant: oauth.GrantRefreshToken}.Complete()
	machine := sourceKey{id: connection.ID{Connection: "machine"}}
	subject := func(i int) sourceKey {
		return sourceKey{id: connection.ID{Connection: "drive", Subject: fmt.Sprint("person-", i)}}
	}
	kept, used := e.source(machine), e.source(subject(7))
	for i := range 3 * most {
		if i%(most/20) == 0 {
			time.Sleep(time.Second)
			_, _ = used.Token(t.Context(), set) // which notes when it was used
			synctest.Wait()
		}
		e.source(subject(i))
		if len(e.sources) > most {
			t.Fatalf("%d sources are in memory", len(e.sources))
		}
	}
	switch {
	case e.source(machine) != kept:
		t.Error("the source of a machine was dropped")
	case e.source(subject(7)) != used:
		t.Error("the one that is in use was dropped before those that never were")
	case e.source(subject(3*most-1)) != e.sources[subject(3*most-1)]:
		t.Error("the newest is not there")
	}
	if got := len(e.subjectsOf(sourceKey{id: connection.ID{Connection: "drive"}})); got < most*8/10 || got > most {
		t.Errorf("%d subjects are known", got)
	}
	if got := e.subjectsOf(sourceKey{id: connection.ID{Connection: "drive", Tenant: "other"}}); len(got) != 0 {
		t.Errorf("another tenant sees %d of them", len(got))
	}
}

// counted returns a storage that counts its operations by name.
func counted() (storage *memoryStorage, counts func() map[string]int) {
	var mu sync.Mutex
	seen := make(map[string]int)
	storage = newMemStorage()
	storage.before = func(op, _ string) error {
		mu.Lock()
		defer mu.Unlock()
		seen[op]++
		return nil
	}
	return storage, func() map[string]int {
		mu.Lock()
		defer mu.Unlock()
		now := seen
		seen = make(map[string]int)
		return now
	}
}

// TestIdleSubjectsLeaveMemory on their own, and the first use after that costs one read.
func TestIdleSubjectsLeaveMemory(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		storage, counts := counted()
		server := newIdleServer()
		server.access = 30 * day
		lab := newLifeLab(t, storage, server, connection.Policy{IdleAfter: 24 * time.Hour})
		loop := newRefreshLoop(lab.scheduled)
		loop.start(nothingFirst)
		defer loop.stop()
		const subjects = 50
		name := func(n int) string { return fmt.Sprint("person-", n) }
		for n := range subjects {
			lab.connect(server, name(n))
		}
		busy := lab.of(name(0))
		for range 30 {
			if _, err := busy.Token(t.Context(), lab.drive.settings); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Hour)
		}
		if got := len(lab.engine.subjectsOf(lab.drive.key)); got != 1 || lab.of(name(0)) != busy {
			t.Errorf("%d subjects are in memory", got)
		}
		counts()
		for n := range subjects {
			if _, err := lab.of(name(n)).Token(t.Context(), lab.drive.settings); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if got := counts(); got["load"] != subjects-1 || len(got) != 1 {
			t.Errorf("the first use of %d subjects cost %v", subjects-1, got)
		}
		for n := range subjects {
			if _, err := lab.of(name(n)).Token(t.Context(), lab.drive.settings); err != nil {
				t.Fatal(err)
			}
		}
		if got := counts(); len(got) != 0 {
			t.Errorf("the second use cost %v", got)
		}
		if asked, _ := server.counts(); asked != 0 {
			t.Errorf("the provider was asked %d times", asked)
		}
	})
}

// TestMadeUpSubjectsEvictNobody: asking for subjects that do not exist must not cost those who do their place.
func TestMadeUpSubjectsEvictNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		storage, server := newMemStorage(), newIdleServer()
		lab := newLifeLab(t, storage, server, connection.Policy{})
		lab.engine.room = 200
		for n := range 150 {
			lab.connect(server, fmt.Sprint("person-", n))
		}
		time.Sleep(time.Hour)
		for n := range 2000 {
			if _, err := lab.of(fmt.Sprint("made-up-", n)).Token(t.Context(), lab.drive.settings); err == nil {
				t.Fatal("there is a token")
			}
		}
		there := 0
		for _, source := range lab.engine.subjectsOf(lab.drive.key) {
			if strings.HasPrefix(source.ID().Subject, "person-") {
				there++
			}
		}
		if total := len(lab.engine.sources); there != 150 || total > 200 {
			t.Errorf("of %d sources in memory %d are of people", total, there)
		}
	})
}

// TestRoomOfLiveConfigurations: the most that one of them wants.
func TestRoomOfLiveConfigurations(t *testing.T) {
	t.Parallel()
	e := emptyEngine()
	small, large, unsaid := roomApp(500), roomApp(20_000), roomApp(0)
	for _, step := range []struct {
		change func()
		want   int
	}{
		{func() { e.join(small) }, 500},
		{func() { e.join(large) }, 20_000},
		{func() { e.leave(large) }, 500},
		{func() { e.join(unsaid) }, defaultRoom},
		{func() { e.leave(small) }, defaultRoom},
		{func() { e.leave(unsaid) }, 0},
	} {
		step.change()
		if e.room != step.want {
			t.Errorf("there is room for %d, want %d", e.room, step.want)
		}
	}
}

func roomApp(subjects int) *App {
	return &App{SubjectsInMemory: subjects, active: &activeSet{byName: make(map[string]*activeConnection)}, tasks: new(connection.Tasks)}
}

// memoryOf returns how much memory the given number of subjects takes, each with a token set as large providers give them.
func memoryOf(tb testing.TB, subjects int) (each float64) {
	tb.Helper()
	e := emptyEngine()
	set := connection.Settings{Store: nowhere{}, Grant: oauth.GrantRefreshToken, Tasks: new(connection.Tasks)}.Complete()
	inUse := func() uint64 {
		var stats runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&stats)
		return stats.HeapAlloc
	}
	before := inUse()
	for n := range subjects {
		key := sourceKey{id: connection.ID{Connection: "drive", Subject: fmt.Sprintf("person-%d@example.com", n)}, fingerprint: "f"}
		now := time.Now()
		resp := &oauth.TokenResponse{
			AccessToken: secret.New(fmt.Sprintf("%02048d", n)), RefreshToken: secret.New(fmt.Sprintf("%0512d", n)), TokenType: "Bearer",
			SentAt: now, ExpiresAt: now.Add(time.Hour), Response: secret.New(fmt.Sprintf(`{"id_token":"%01024d","scope":"a b c"}`, n)),
		}
		given := &connection.Consent{Requested: []string{"a", "b", "c"}, AccountID: fmt.Sprint(n), Label: fmt.Sprint("Person ", n)}
		if _, err := e.source(key).Apply(tb.Context(), set, connection.Authorized(resp, given, set, "somebody")); err != nil {
			tb.Fatal(err)
		}
	}
	after := inUse()
	each = float64(after-before) / float64(min(subjects, defaultRoom))
	runtime.KeepAlive(e)
	return each
}

// TestMemoryIsBounded: what three times as many subjects take as there is room for is what fits. Other tests' garbage that goes in the
// middle of a measurement spoils it, so it may be made three times; a bound that does not hold fails them all.
func TestMemoryIsBounded(t *testing.T) {
	var full, over float64
	for range 3 {
		if full, over = memoryOf(t, defaultRoom), memoryOf(t, 3*defaultRoom); full <= 8<<10 && over <= full*1.1 {
			break
		}
	}
	t.Logf("%d subjects take %.1f MiB, %.0f bytes each; of %d as much as %.0f bytes for each that there is room for",
		defaultRoom, full*defaultRoom/(1<<20), full, 3*defaultRoom, over)
	if full > 8<<10 {
		t.Errorf("a subject takes %.0f bytes, of which 3.5 KiB are its tokens", full)
	}
	if over > full*1.1 {
		t.Errorf("%d subjects take %.0f bytes for each that there is room for, %d take %.0f", 3*defaultRoom, over, defaultRoom, full)
	}
}

// BenchmarkSubjectInMemory reports what one subject costs.
func BenchmarkSubjectInMemory(b *testing.B) {
	for b.Loop() {
		b.ReportMetric(memoryOf(b, defaultRoom), "bytes/subject")
	}
}

// nowhere is a store that keeps nothing, so that what is measured is the program's own.
type nowhere struct{}

func (nowhere) Load(context.Context, connection.ID) (connection.Record, error) {
	return connection.Record{}, connection.ErrNotFound
}
func (nowhere) Save(context.Context, connection.Record) error    { return nil }
func (nowhere) Archive(context.Context, connection.Record) error { return nil }
func (nowhere) Lock(context.Context, connection.ID, uint64) (func() error, error) {
	return func() error { return nil }, nil
}

// TestNumbersInJSON: JSON has the bounds that the Caddyfile has.
func TestNumbersInJSON(t *testing.T) {
	t.Parallel()
	for config, want := range map[string]string{
		`"subjects_in_memory":99`: "subjects_in_memory: 99", `"subjects_in_memory":-1`: "subjects_in_memory: -1", `"subjects_in_memory":100`: "",
		`"history":-1`: "history: -1", `"history":1001`: "history: 1001", `"history":1000`: "",
	} {
		err := validate(fmt.Appendf(nil, `{"apps":{"oauth2_inject":{%s}}}`, config))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", config, err, want)
		}
	}
}
