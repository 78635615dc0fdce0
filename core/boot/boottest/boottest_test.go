package boottest

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/kelson-io/kelson/core/boot"
)

// worker is a step with one goroutine; its flags break one promise each.
type worker struct {
	leak       bool // Stop leaves the goroutine
	stopTwice  bool // a second Stop fails
	needsStart bool // Stop before Start fails

	mu      sync.Mutex
	end     chan struct{}
	ended   chan struct{}
	stopped int
}

var _ boot.Step = (*worker)(nil)

func (w *worker) Name() string { return "worker" }

func (w *worker) Start(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.end, w.ended = make(chan struct{}), make(chan struct{})
	go func() {
		defer close(w.ended)
		<-w.end
	}()
	return nil
}

func (w *worker) Ready(context.Context) error { return nil }

func (w *worker) Stop(context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.needsStart && w.end == nil {
		return errors.New("not started")
	}
	w.stopped++
	if w.stopTwice && w.stopped > 1 {
		return errors.New("already stopped")
	}
	if w.end != nil && w.stopped == 1 && !w.leak {
		close(w.end)
		<-w.ended
	}
	return nil
}

func TestGoodStepPasses(t *testing.T) {
	TestStep(t, func() boot.Step { return &worker{} })
}

func TestKitFindsBrokenSteps(t *testing.T) {
	for _, c := range []struct {
		name string
		step func() boot.Step
		run  func(func() boot.Step) error
		want string
	}{
		{"second stop", func() boot.Step { return &worker{stopTwice: true} }, doubleStop, "second stop: already stopped"},
		{"stop before start", func() boot.Step { return &worker{needsStart: true} }, stopBeforeStart, "not started"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := c.run(c.step); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestKitFindsLeftGoroutine(t *testing.T) {
	before := goroutines()
	w := &worker{leak: true}
	if err := startStopTwice(func() boot.Step { return &worker{} }); err != nil {
		t.Fatal(err)
	}
	if err := w.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := w.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	left := 0
	for id := range goroutines() {
		if _, known := before[id]; !known {
			left++
		}
	}
	close(w.end)
	if left != 1 {
		t.Errorf("found %d goroutines left, want the leaked one", left)
	}
}
