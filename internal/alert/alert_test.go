package alert_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/alert"
	"github.com/caddyoauth/caddyoauth/internal/secret"
)

// story drives one tracker through time.
type story struct {
	*alert.Tracker
	t   *testing.T
	now time.Time
	ids int
}

func newStory(t *testing.T, rule alert.Rule) *story {
	s := &story{t: t, now: time.Date(2026, 11, 25, 10, 0, 0, 0, time.UTC)}
	s.Tracker = alert.NewTracker(rule, func() string { s.ids++; return fmt.Sprint("id-", s.ids) })
	return s
}

// known has everybody know that the connections are well, as after a look at what others were told.
func (s *story) known(connections ...string) *story {
	for _, name := range connections {
		s.Observe(alert.Sighting{Connection: name, Member: "", Status: "active", Code: ""}, s.now)
	}
	for _, n := range s.Due(s.now) {
		if !n.Unsure {
			s.t.Fatalf("%+v", n)
		}
		s.Told(n, false, s.now)
	}
	return s
}

// is notes a status.
func (s *story) is(connection, status string) *story {
	s.Observe(alert.Sighting{Connection: connection, Member: "", Status: status, Code: "code-of-" + status}, s.now)
	return s
}

func (s *story) later(d time.Duration) *story { s.now = s.now.Add(d); return s }

// tells expects what is due, "connection status" each, and has it delivered.
func (s *story) tells(want ...string) *story {
	s.t.Helper()
	s.wants(want, func(n alert.News) { s.Told(n, true, s.now) })
	return s
}

// fails expects what is due, and has it not delivered.
func (s *story) fails(want ...string) *story {
	s.t.Helper()
	s.wants(want, func(n alert.News) { s.Failed(n, 0, s.now) })
	return s
}

func (s *story) wants(want []string, then func(alert.News)) {
	s.t.Helper()
	s.Doubtful(s.now) // nobody says that all is well
	if wait := s.Next(s.now); (wait <= 0) != (len(want) > 0) {
		s.t.Errorf("the next is due in %v, but %d are due", wait, len(want))
	}
	var got []string
	for _, n := range s.Due(s.now) {
		status := n.Status
		if status == "" {
			status = "well"
		}
		if n.Reminder {
			status = "still " + status
		}
		got = append(got, n.Connection+" "+status)
		then(n)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		s.t.Fatalf("after %v: told is %v, want %v", s.now.Sub(time.Date(2026, 11, 25, 10, 0, 0, 0, time.UTC)), got, want)
	}
}

func TestTroubleAndRecovery(t *testing.T) {
	t.Parallel()
	s := newStory(t, alert.Rule{}).known("drive", "mail")
	s.is("drive", "failing").tells("drive failing").tells()
	s.is("drive", "failing").later(time.Hour).tells() // told once
	s.is("drive", "active").tells("drive well").tells()
	s.is("mail", "active").tells()
}

// TestAfter: what is over soon is not told, and what others do meanwhile does not matter.
func TestAfter(t *testing.T) {
	t.Parallel()
	s := newStory(t, alert.Rule{After: 5 * time.Minute}).known("drive")
	s.is("drive", "failing").tells().later(4 * time.Minute).tells()
	s.is("drive", "active").tells().later(time.Hour).tells()
	s.is("drive", "failing").later(4*time.Minute).is("drive", "failing").tells().later(time.Minute).tells("drive failing")
}

// TestWorse: worse trouble is told at once, lesser trouble is not; the recovery is of the worst.
func TestWorse(t *testing.T) {
	t.Parallel()
	s := newStory(t, alert.Rule{After: time.Minute}).known("drive")
	s.is("drive", "failing").later(time.Minute).tells("drive failing")
	s.is("drive", "revoked").tells("drive revoked")
	s.is("drive", "failing").later(time.Hour).tells()
	s.is("drive", "active").tells("drive well")
}

func TestOn(t *testing.T) {
	t.Parallel()
	s := newStory(t, alert.Rule{On: []string{"revoked"}}).known("drive")
	s.is("drive", "failing").tells().is("drive", "revoked").tells("drive revoked")
	s.is("drive", "failing").tells("drive well") // for this rule
	d := newStory(t, alert.Rule{}).known("drive")
	d.is("drive", "authorization_required").tells().is("drive", "disconnected").tells().is("drive", "lost_rotation").tells("drive lost_rotation")
}

func TestRepeat(t *testing.T) {
	t.Parallel()
	s := newStory(t, alert.Rule{Repeat: time.Hour}).known("drive")
	s.is("drive", "failing").tells("drive failing").later(59 * time.Minute).tells()
	s.later(time.Minute).tells("drive still failing").tells().later(time.Hour).tells("drive still failing")
	s.is("drive", "active").tells("drive well").later(24 * time.Hour).tells()
}

// TestSubjects: one connection, many people. Told is when their number has doubled, and when all are well.
func TestSubjects(t *testing.T) {
	t.Parallel()
	s := newStory(t, alert.Rule{}).known("drive")
	var told []int
	for i := range 100 {
		s.Observe(alert.Sighting{Connection: "drive", Member: fmt.Sprint("subject-", i), Status: "revoked", Code: "invalid_grant"}, s.now)
		for _, n := range s.Due(s.now) {
			told = append(told, n.Affected)
			s.Told(n, true, s.now)
		}
		s.later(time.Minute)
	}
	if fmt.Sprint(told) != "[1 2 4 8 16 32 64]" {
		t.Errorf("told at %v", told)
	}
	for i := range 99 {
		s.Observe(alert.Sighting{Connection: "drive", Member: fmt.Sprint("subject-", i), Status: "active", Code: ""}, s.now)
	}
	s.tells()
	s.Observe(alert.Sighting{Connection: "drive", Member: "subject-99", Status: "active", Code: ""}, s.now)
	s.tells("drive well")
}

// TestFlapping: a connection that comes and goes tells at most twice in five minutes.
func TestFlapping(t *testing.T) {
	t.Parallel()
	s := newStory(t, alert.Rule{}).known("drive")
	told := 0
	for range 120 {
		s.is("drive", "failing").later(15 * time.Second)
		told += s.drain()
		s.is("drive", "active").later(15 * time.Second)
		told += s.drain()
	}
	if told > 26 || told < 20 {
		t.Errorf("told %d times in an hour", told)
	}
}

func (s *story) drain() (told int) {
	for _, n := range s.Due(s.now) {
		s.Told(n, true, s.now)
		told++
	}
	return told
}

// TestFlood: a provider of a thousand connections is down. The worst are told first, the rest as the minutes go, and what is over
// before it was told is never told.
func TestFlood(t *testing.T) {
	t.Parallel()
	s := newStory(t, alert.Rule{})
	var names []string
	for i := range 1000 {
		names = append(names, fmt.Sprint("c", i))
	}
	s.known(names...)
	for _, name := range names {
		s.is(name, "failing")
	}
	s.is("c500", "lost_rotation")
	due := s.Due(s.now)
	if len(due) != 20 || due[0].Connection != "c500" || due[0].Others != 999 {
		t.Fatalf("%d are due, first %+v", len(due), due[0])
	}
	for _, n := range due {
		s.Told(n, true, s.now)
	}
	if wait := s.Next(s.now); wait <= 0 || wait > time.Minute {
		t.Errorf("the next is due in %v", wait)
	}
	if s.later(10 * time.Minute); s.drain() != 10 {
		t.Error("one a minute is what there is")
	}
	for _, name := range names {
		s.is(name, "active")
	}
	recoveries := 0
	for range 600 {
		recoveries += s.later(time.Minute).drain()
	}
	if recoveries != 30 {
		t.Errorf("%d were told of, %d recoveries were", 30, recoveries)
	}
}

// TestRetries: the same message with the same ID, later and later, and news that are none any more are dropped.
func TestRetries(t *testing.T) {
	t.Parallel()
	s := newStory(t, alert.Rule{}).known("drive")
	s.is("drive", "failing")
	id := ""
	var waits []time.Duration
	for range 10 {
		due := s.Due(s.now)
		if len(due) != 1 || id != "" && due[0].ID != id {
			t.Fatalf("due %+v, want the ID %s", due, id)
		}
		id = due[0].ID
		s.Failed(due[0], 0, s.now)
		wait := s.Next(s.now)
		waits = append(waits, wait)
		s.later(wait)
	}
	if fmt.Sprint(waits) != "[1s 2s 4s 8s 16s 32s 1m4s 2m8s 4m16s 5m0s]" {
		t.Errorf("waits %v", waits)
	}
	due := s.Due(s.now)
	s.Failed(due[0], time.Hour, s.now) // as the receiver asked
	if wait := s.Next(s.now); wait != time.Hour {
		t.Errorf("waits %v", wait)
	}
	s.later(time.Hour).is("drive", "active").tells() // nobody was told of trouble
	s.later(time.Hour).is("drive", "failing").tells("drive failing")
	s.is("drive", "active").fails("drive well").later(time.Second).tells("drive well")
}

// TestRecoveryGivesUp: a receiver that is gone for good is not told of a recovery for ever.
func TestRecoveryGivesUp(t *testing.T) {
	t.Parallel()
	s := newStory(t, alert.Rule{}).known("drive")
	s.is("drive", "failing").tells("drive failing").is("drive", "active")
	tries := 0
	for ; s.Next(s.now) < 48*time.Hour && tries < 1000; tries++ {
		s.later(s.Next(s.now))
		for _, n := range s.Due(s.now) {
			s.Failed(n, 0, s.now)
		}
	}
	if tries < 250 || tries > 320 {
		t.Errorf("tried %d times", tries)
	}
}

// TestUnsure: of what this process does not know, others may have told.
func TestUnsure(t *testing.T) {
	t.Parallel()
	s := newStory(t, alert.Rule{})
	s.is("drive", "active")
	due := s.Due(s.now)
	if len(due) != 1 || !due[0].Unsure || due[0].Status != "" {
		t.Fatalf("%+v", due)
	}
	s.Told(due[0], false, s.now)
	s.is("drive", "active").tells()
	s.is("mail", "failing").tells("mail failing") // trouble needs no knowledge
}

// TestDoubt: in a cluster, another instance has told of a recovery while this one is still in trouble.
func TestDoubt(t *testing.T) {
	t.Parallel()
	s := newStory(t, alert.Rule{}).known("drive", "mail")
	s.is("drive", "failing").is("mail", "failing").tells("drive failing", "mail failing")
	if got := s.Doubtful(s.now); len(got) != 0 {
		t.Errorf("doubts %v", got)
	}
	s.later(10 * time.Minute)
	if got := s.Doubtful(s.now); fmt.Sprint(got) != "[drive mail]" {
		t.Errorf("doubts %v", got)
	}
	if got := s.Doubtful(s.now); len(got) != 0 {
		t.Errorf("doubts %v at once again", got)
	}
	s.Doubt("drive")
	s.tells("drive failing").tells()
}

// TestKeep: a connection that is not configured any more is in no trouble.
func TestKeep(t *testing.T) {
	t.Parallel()
	s := newStory(t, alert.Rule{}).known("drive", "mail")
	s.is("drive", "failing").is("mail", "failing").tells("drive failing", "mail failing")
	s.Keep(func(name string) bool { return name == "mail" }, s.now)
	s.tells("drive well").tells()
}

// TestCertificate: it is trouble of its own, and no subject.
func TestCertificate(t *testing.T) {
	t.Parallel()
	s := newStory(t, alert.Rule{}).known("drive")
	s.Observe(alert.Sighting{Connection: "drive", Member: alert.Certificate, Status: "certificate_expiring", Code: ""}, s.now)
	s.tells("drive certificate_expiring").is("drive", "active").tells()
	s.is("drive", "failing").tells("drive failing").is("drive", "active").later(time.Hour).tells()
	s.Observe(alert.Sighting{Connection: "drive", Member: alert.Certificate, Status: "", Code: ""}, s.now)
	s.tells("drive well")
}

func TestMark(t *testing.T) {
	t.Parallel()
	now := time.Now()
	mark := alert.Mark{Status: "failing", Affected: 3, At: now}
	for _, tt := range []struct {
		mark   alert.Mark
		news   alert.News
		repeat time.Duration
		age    time.Duration
		covers bool
	}{
		{mark, alert.News{Status: "failing", Affected: 1}, 0, time.Minute, true},
		{mark, alert.News{Status: "failing", Affected: 5}, 0, time.Minute, true},
		{mark, alert.News{Status: "failing", Affected: 6}, 0, time.Minute, false},
		{mark, alert.News{Status: "expiring", Affected: 1}, 0, time.Minute, true},
		{mark, alert.News{Status: "revoked", Affected: 1}, 0, time.Minute, false},
		{mark, alert.News{Status: "failing", Affected: 1}, 0, 25 * time.Hour, false},
		{mark, alert.News{Status: "failing", Affected: 1, Reminder: true}, time.Hour, 30 * time.Minute, true},
		{mark, alert.News{Status: "failing", Affected: 1, Reminder: true}, time.Hour, time.Hour, false},
		{mark, alert.News{}, 0, time.Minute, false},
		{alert.Mark{}, alert.News{}, 0, time.Minute, true},
		{alert.Mark{}, alert.News{Status: "failing", Affected: 1}, 0, time.Minute, false},
	} {
		if got := tt.mark.Covers(tt.news, tt.repeat, now.Add(tt.age)); got != tt.covers {
			t.Errorf("%+v covers %+v after %v: %v", tt.mark, tt.news, tt.age, got)
		}
	}
	if m := alert.Of(alert.News{Status: "failing", Affected: 2}, now); !m.Covers(alert.News{Status: "failing", Affected: 2}, 0, now) {
		t.Errorf("%+v does not cover what it was made of", m)
	}
}

// TestSignVector is the example that is published with the specification.
func TestSignVector(t *testing.T) {
	t.Parallel()
	key, err := alert.ParseKey(secret.New("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"))
	if err != nil {
		t.Fatal(err)
	}
	got := alert.Sign([]alert.Key{key}, "msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`))
	if got != "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=" {
		t.Errorf("got %s", got)
	}
	if two := alert.Sign([]alert.Key{key, key}, "msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`)); two != got+" "+got {
		t.Errorf("two keys give %s", two)
	}
}

func TestParseKey(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{
		"", "whsec_", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_short===", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZI", "whsec_!!!!",
		"whsec_" + strings.Repeat("AAAA", 22),
	} {
		_, err := alert.ParseKey(secret.New(bad))
		if !errors.Is(err, alert.ErrSecret) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// TestBodies: what programs and people read.
func TestBodies(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 25, 10, 30, 0, 123, time.UTC)
	trouble := alert.News{
		ID: "id-1", Connection: `a<!channel>&"b`, Status: "revoked", Was: "failing", Code: "invalid_grant", Since: now.Add(-90 * time.Second), Affected: 3, Others: 2,
	}
	var message alert.Generic
	if err := json.Unmarshal(alert.JSON(trouble, "caddy-1", now), &message); err != nil {
		t.Fatal(err)
	}
	since := time.Date(2026, 11, 25, 10, 28, 30, 0, time.UTC)
	d := message.Data
	if message.Type != "oauth2_inject.alert" || !message.Timestamp.Equal(now.Truncate(time.Second)) || d.Connection != trouble.Connection || d.Status != "revoked" ||
		d.PreviousStatus != "failing" || d.Code != "invalid_grant" || d.Since == nil || !d.Since.Equal(since) || d.Affected != 3 || d.Others != 2 || d.Instance != "caddy-1" {
		t.Errorf("%+v", message)
	}
	const summary = `OAuth2 connection "a<!channel>&\"b" is revoked: the consent is gone; a person has to connect the account again [invalid_grant]. ` +
		`Since 2026-11-25 10:28 UTC, 3 subjects; 2 more connections are in trouble`
	if d.Summary != summary {
		t.Errorf("%s", d.Summary)
	}
	well := alert.News{ID: "id-2", Connection: "drive", Was: "failing", Since: now.Add(-time.Minute)}
	body := string(alert.JSON(well, "caddy-1", now))
	if !strings.Contains(body, `"type":"oauth2_inject.recovery"`) || !strings.Contains(body, `"status":"well"`) || !strings.Contains(body, `in no trouble any more (was failing for 1m0s)`) {
		t.Error(body)
	}
	var slack map[string]string
	if err := json.Unmarshal(alert.Slack(trouble, "caddy-1", now), &slack); err != nil || len(slack) != 1 {
		t.Fatalf("%v %v", slack, err)
	}
	if text := slack["text"]; strings.ContainsAny(text, "<>") || !strings.Contains(text, `a&lt;!channel&gt;&amp;`) || !strings.HasPrefix(text, ":rotating_light:") {
		t.Errorf("%s", text)
	}
	for _, status := range alert.Statuses {
		if text := (alert.News{Connection: "c", Status: status}).Summary(now); !strings.Contains(text, status+": ") || strings.Contains(text, ": .") {
			t.Errorf("%s has no meaning: %s", status, text)
		}
	}
}
