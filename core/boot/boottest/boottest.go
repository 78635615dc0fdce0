// Package boottest is the life-cycle test that every boot.Step must pass.
//
// Invariant: the kit knows nothing of the step but its contract. A step whose
// fresh instances share a resource (a port, a folder) must release it in Stop,
// as a restart of the node would need.
//
// Concurrency: the checks for goroutines left behind look at the whole test
// process, so a test that calls TestStep must not run in parallel with others.
package boottest

import (
	"bytes"
	"context"
	"fmt"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/kelson-io/kelson/core/boot"
)

// timeout bounds each call; a step that needs longer is not fit for a test.
const timeout = 30 * time.Second

// TestStep checks what the contract of boot.Step promises on instances made by
// newStep: a stable kebab-case name, Stop before Start, Start and Ready and Stop
// twice over with fresh instances, a second Stop, Stop after a cancelled Start,
// and that no goroutine is left.
func TestStep(t *testing.T, newStep func() boot.Step) {
	t.Helper()
	t.Run("name", func(t *testing.T) {
		kebab := regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)
		a, b := newStep().Name(), newStep().Name()
		if !kebab.MatchString(a) || a != b {
			t.Errorf("names %q and %q: want one stable kebab-case name", a, b)
		}
	})
	for _, c := range []struct {
		name string
		run  func(func() boot.Step) error
	}{
		{"stop-before-start", stopBeforeStart},
		{"start-stop-twice", startStopTwice},
		{"double-stop", doubleStop},
		{"cancelled-start", cancelledStart},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := goroutines()
			if err := c.run(newStep); err != nil {
				t.Error(err)
			}
			if left := leftSince(before); len(left) > 0 {
				t.Errorf("goroutines left after Stop:\n\n%s", strings.Join(left, "\n\n"))
			}
		})
	}
}

func stopBeforeStart(newStep func() boot.Step) error {
	return call("stop before start", newStep().Stop)
}

func startStopTwice(newStep func() boot.Step) error {
	for i := range 2 {
		s := newStep()
		if err := startAndReady(s); err != nil {
			return fmt.Errorf("instance %d: %w", i+1, err)
		}
		if err := call("stop", s.Stop); err != nil {
			return fmt.Errorf("instance %d: %w", i+1, err)
		}
	}
	return nil
}

func doubleStop(newStep func() boot.Step) error {
	s := newStep()
	if err := startAndReady(s); err != nil {
		return err
	}
	if err := call("first stop", s.Stop); err != nil {
		return err
	}
	return call("second stop", s.Stop)
}

// cancelledStart gives Start a context that has ended. Start may succeed or
// fail; what counts is that Stop leaves nothing behind.
func cancelledStart(newStep func() boot.Step) error {
	s := newStep()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	returned := make(chan struct{})
	go func() {
		defer close(returned)
		if s.Start(ctx) == nil {
			_ = s.Ready(ctx)
		}
	}()
	select {
	case <-returned:
	case <-time.After(timeout):
		return fmt.Errorf("start with an ended context: no return within %s", timeout)
	}
	return call("stop after cancelled start", s.Stop)
}

// startAndReady stops s again when it fails, so that the report shows the
// failure and not the goroutines that came of it.
func startAndReady(s boot.Step) error {
	err := call("start", s.Start)
	if err == nil {
		err = call("ready", s.Ready)
	}
	if err != nil {
		_ = call("stop", s.Stop)
	}
	return err
}

func call(op string, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if err := f(ctx); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	return nil
}

// leftSince returns the stacks of goroutines that are not in before, once they
// had time to end.
func leftSince(before map[string]string) []string {
	deadline := time.Now().Add(5 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		var left []string
		for id, stack := range goroutines() {
			if _, known := before[id]; !known {
				left = append(left, stack)
			}
		}
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
		<-tick.C
	}
}

// goroutines returns every goroutine's stack by id, without those of the
// runtime and of package testing.
func goroutines() map[string]string {
	buf := make([]byte, 1<<20)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	all := map[string]string{}
	for stack := range bytes.SplitSeq(buf, []byte("\n\n")) {
		s := string(stack)
		id, _, ok := strings.Cut(strings.TrimPrefix(s, "goroutine "), " ")
		if !ok || strings.Contains(s, "os/signal.signal_recv") || strings.Contains(s, "testing.(*M)") {
			continue
		}
		all[id] = s
	}
	return all
}
