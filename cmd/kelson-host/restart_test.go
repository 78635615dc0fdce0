package main

import (
	"slices"
	"testing"
	"time"
)

func TestRestartsAreCounted(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	env := []string{"PATH=/bin", "KELSON_TEST_FATAL=kine", "KELSON_EXTRACT=1:2", "KELSON_LAUNCH_STARTED=1", "KELSON_RESTARTS=1"}
	got := restartEnv(env, []time.Time{now.Add(-time.Minute), now})
	want := []string{"PATH=/bin", "KELSON_RESTARTS=1799999940,1800000000"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if recent := recentRestarts("1799999940,1800000000,1799990000,1800009999,x,", now); len(recent) != 2 {
		t.Errorf("recent: %v", recent)
	}
}

func TestPausesGrow(t *testing.T) {
	for n, want := range []time.Duration{0, time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 30 * time.Second, 30 * time.Second} {
		if got := pauseBefore(n); got != want {
			t.Errorf("after %d restarts: %s, want %s", n, got, want)
		}
	}
}
