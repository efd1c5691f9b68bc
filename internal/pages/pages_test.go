package pages

import (
	"testing"
	"time"
)

func TestAgo(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		-time.Second: "just now", 0: "just now", 59 * time.Second: "just now", time.Minute: "1 minute ago", 119 * time.Second: "1 minute ago",
		2 * time.Minute: "2 minutes ago", time.Hour: "1 hour ago", 25 * time.Hour: "1 day ago", 72 * time.Hour: "3 days ago",
	} {
		if got := Ago(d); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
}

// TestMoments: what is over is not counted down to.
func TestMoments(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		function string
		away     time.Duration
		want     string
	}{
		{"due", 5*time.Minute + time.Second, "in 5 minutes"}, {"due", -3 * time.Second, "when it is used next"},
		{"ends", 2*time.Hour + time.Second, "token ends in 2 hours"}, {"ends", -2 * time.Hour, "token ended 2 hours ago"}, {"ends", -3 * time.Second, "token ended just now"},
		{"stops", -25 * time.Hour, "ended 1 day ago"}, {"retry", 30 * time.Second, "in less than a minute"}, {"retry", -time.Second, "now"},
	} {
		made := pageFuncs[tt.function].(func(time.Time) moment)(time.Now().Add(tt.away))
		if got := made.Text(); got != tt.want {
			t.Errorf("%s %v: %s, want %s", tt.function, tt.away, got, tt.want)
		}
	}
}
