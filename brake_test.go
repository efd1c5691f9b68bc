package caddyoauth

import (
	"fmt"
	"testing"
	"time"
)

// TestBrake: one person's limit is nobody else's, passes with time, and what is remembered is bounded.
func TestBrake(t *testing.T) {
	t.Parallel()
	var b brake
	now, jane := time.Now(), beginner{"acme", "jane"}
	for i := range maxBegun {
		if !b.admits(jane, now.Add(time.Duration(i)*time.Second)) {
			t.Fatalf("number %d was refused", i+1)
		}
	}
	later := now.Add(maxBegun * time.Second)
	if b.admits(jane, later) {
		t.Error("one too many was admitted")
	}
	for _, other := range []beginner{{"acme", "joe"}, {"", "jane"}, {"acmej", "ane"}} {
		if !b.admits(other, later) {
			t.Errorf("%v is held back by somebody else's", other)
		}
	}
	if now = now.Add(pendingLifetime); !b.admits(jane, now) || b.admits(jane, now) {
		t.Error("time gives back one for one")
	}
	for i := range 3 * maxPending {
		now = now.Add(time.Minute)
		b.admits(beginner{"", fmt.Sprint("person ", i)}, now)
		if len(b.begun) > maxPending+1 {
			t.Fatalf("%d people are remembered", len(b.begun))
		}
	}
}
