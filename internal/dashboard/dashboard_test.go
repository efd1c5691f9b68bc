package dashboard

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/api"
)

// TestRowsSay: each state in words, and whether it is an alarm. The API decides the latter; a row must not say otherwise.
func TestRowsSay(t *testing.T) {
	t.Parallel()
	b := New(Settings{Access: api.Access{Prefix: "/ops"}})
	past, soon := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	for name, tt := range map[string]struct {
		secret      api.Secret
		tone, state string
		alarm       bool
		advice      string
	}{
		"active":   {api.Secret{Token: &api.Token{Status: "active", Renewable: true, ExpiresAt: &soon}, Standing: &api.Standing{}}, "on", "Active", false, ""},
		"resting":  {api.Secret{Token: &api.Token{Status: "active", Renewable: true, ExpiresAt: &past}, Standing: &api.Standing{}}, "on", "Resting", false, "used next"},
		"expiring": {api.Secret{Token: &api.Token{Status: "expiring", ExpiresAt: &soon}, Standing: &api.Standing{NeedsAttention: true}}, "weak", "Ends soon", true, "before"},
		"ready":    {api.Secret{Token: &api.Token{Status: "pending"}, Standing: &api.Standing{}}, "off", "Ready", false, "when it is needed"},
		"revoked":  {api.Secret{Token: &api.Token{Status: "revoked"}, Standing: &api.Standing{NeedsAttention: true}}, "ended", "Revoked", true, "connect the account again"},
		"revoked, and nowhere to go": {api.Secret{Token: &api.Token{Status: "revoked"}, Standing: &api.Standing{NeedsAttention: true, Unserved: true}},
			"ended", "Revoked", true, "Add oauth2_connect"},
		"a subject in trouble": {api.Secret{ConnectionStatus: new("per_subject"), Standing: &api.Standing{NeedsAttention: true, SubjectCounts: map[string]int{"active": 3, "failing": 1, "revoked": 1}}},
			"ended", "One for each person", true, "somebody"},
		"subjects who are well": {api.Secret{ConnectionStatus: new("per_subject"), Standing: &api.Standing{SubjectCounts: map[string]int{"active": 3, "authorization_required": 1}}},
			"on", "One for each person", false, ""},
		"storage fails": {api.Secret{ConnectionStatus: new("not_connected"), ConnectionError: "storage", Standing: &api.Standing{NeedsAttention: true}}, "weak", "Not known", true, "storage"},
		"bad options":   {api.Secret{ConnectionStatus: new("misconfigured"), ConnectionError: "invalid_options", Standing: &api.Standing{NeedsAttention: true}}, "failed", "Not usable", true, "log"},
		"of tomorrow":   {api.Secret{Token: &api.Token{Status: "levitating"}, Standing: &api.Standing{}}, "weak", "levitating", false, ""},
	} {
		row := b.rowOf(tt.secret)
		if row.Tone != tt.tone || row.State != tt.state || row.Alarm != tt.alarm || !strings.Contains(row.Advice, tt.advice) || (tt.advice == "") != (row.Advice == "") {
			t.Errorf("%s: %s %q, alarm %v: %q", name, row.Tone, row.State, row.Alarm, row.Advice)
		}
	}
}

// TestViewDay: two pictures, and both in words for those who do not see them.
func TestViewDay(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 12, 30, 0, 0, time.UTC)
	at := func(ago int) time.Time { return now.Truncate(time.Hour).Add(-time.Duration(ago) * time.Hour) }
	day := viewDay([]api.Hour{
		{From: at(30), Succeeded: 1}, {From: at(23), Succeeded: 10, AverageMS: 100}, {From: at(5), Succeeded: 5, Failed: 1, AverageMS: 1500},
		{From: at(4), Succeeded: 5, AverageMS: 100}, {From: at(0), Failed: 1},
	}, now)
	want := []bar{{X: 0, Y: 0, Height: 20}, {X: 90, Y: 10, Height: 10}, {X: 90, Y: 21, Height: 2, Bad: true}, {X: 95, Y: 10, Height: 10}, {X: 115, Y: 21, Height: 2, Bad: true}}
	if !slices.Equal(day.Bars, want) {
		t.Errorf("bars: %v, want %v", day.Bars, want)
	}
	if want := []bar{{X: 0, Y: 18, Height: 2}, {X: 90, Y: 0, Height: 20}, {X: 95, Y: 18, Height: 2}}; !slices.Equal(day.Slow, want) {
		t.Errorf("how long they took: %v, want %v", day.Slow, want)
	}
	if day.Went != "90 % of 22 in 24 h" || day.Took != "450 ms each" || !strings.Contains(day.TookSay, "1.5 s in the slowest hour") || !strings.Contains(day.WentSay, "2 failed") {
		t.Errorf("in words: %+v", day)
	}
	if day := viewDay([]api.Hour{{From: at(0), Failed: 1}}, now); day.Went != "0 % of 1 in 24 h" || day.Slow != nil || !strings.Contains(day.WentSay, "of 1 refresh ") {
		t.Errorf("nothing but failure: %+v", day)
	}
	if viewDay(nil, now) != nil {
		t.Error("nothing is drawn")
	}
}

// TestStreamsLookTogether: however many look at the same page, it is made once, and only if something may have changed.
func TestStreamsLookTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var room newsroom
		var changes atomic.Uint64
		made := 0
		all := func(key string) {
			var wg sync.WaitGroup
			for range 30 {
				wg.Go(func() {
					d := room.enter(key)
					defer room.leave(key)
					_, err := d.look(t.Context(), changes.Load, func() (string, error) {
						time.Sleep(10 * time.Millisecond) // as storage does
						made++                            // only who has the turn is here
						return "x", nil
					})
					if err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
		}
		held := []string{"a", "b"}
		for _, key := range held {
			room.enter(key)
		}
		for _, step := range []struct {
			what string
			do   func()
			want int
		}{
			{"the first look", func() { all("a") }, 1},
			{"again", func() { time.Sleep(lookPause); all("a") }, 0},
			{"after a change", func() { changes.Add(1); time.Sleep(lookPause); all("a") }, 1},
			{"after a change, too soon", func() { changes.Add(1); all("a") }, 0},
			{"which is not forgotten", func() { time.Sleep(lookPause); all("a") }, 1},
			{"others may have changed something", func() { time.Sleep(lookAgain); all("a") }, 1},
			{"of another standing", func() { all("b") }, 1},
		} {
			made = 0
			if step.do(); made != step.want {
				t.Errorf("%s: looked %d times, want %d", step.what, made, step.want)
			}
		}
		for _, key := range held {
			room.leave(key)
		}
		if room.streams != 0 || len(room.desks) != 0 {
			t.Errorf("left behind are %d streams and %d desks", room.streams, len(room.desks))
		}
	})
}

// TestStreamThatFailsKeepsNoTurn: the next one looks.
func TestStreamThatFailsKeepsNoTurn(t *testing.T) {
	t.Parallel()
	var room newsroom
	d := room.enter("a")
	no := errors.New("no")
	if _, err := d.look(t.Context(), func() uint64 { return 0 }, func() (string, error) { return "", no }); !errors.Is(err, no) {
		t.Error(err)
	}
	if seen, err := d.look(t.Context(), func() uint64 { return 0 }, func() (string, error) { return "y", nil }); seen != "y" || err != nil {
		t.Errorf("%q, %v", seen, err)
	}
	<-d.turn
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.look(gone, func() uint64 { return 0 }, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("who has left waits: %v", err)
	}
}
