package boot_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kelson-io/kelson/core/boot"
	"github.com/kelson-io/kelson/core/boot/boottest"
)

// journal keeps what happened in order.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) add(format string, args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, fmt.Sprintf(format, args...))
}

func (j *journal) take() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.lines)
}

// fake is a step made of functions; a nil function succeeds at once.
type fake struct {
	name               string
	log                *journal
	start, ready, stop func(context.Context) error
	exited             chan error
	deadline           time.Duration
}

var (
	_ boot.Step      = (*fake)(nil)
	_ boot.Watched   = (*fake)(nil)
	_ boot.Deadlined = (*fake)(nil)
)

func (f *fake) Name() string                    { return f.name }
func (f *fake) Exited() <-chan error            { return f.exited }
func (f *fake) Deadline() time.Duration         { return f.deadline }
func (f *fake) Start(ctx context.Context) error { return f.do(ctx, "start", f.start) }
func (f *fake) Ready(ctx context.Context) error { return f.do(ctx, "ready", f.ready) }
func (f *fake) Stop(ctx context.Context) error  { return f.do(ctx, "stop", f.stop) }

func (f *fake) do(ctx context.Context, op string, call func(context.Context) error) error {
	if f.log != nil {
		f.log.add("%s %s", op, f.name)
	}
	if call == nil {
		return nil
	}
	return call(ctx)
}

func untilDone(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }

func TestRunOrderAndReverseStop(t *testing.T) {
	j := &journal{}
	ctx, cancel := context.WithCancel(t.Context())
	var events []string
	err := boot.Run(ctx, boot.Sequence{
		{Name: "one", Steps: []boot.Step{&fake{name: "a", log: j}}},
		{Name: "two", Steps: []boot.Step{&fake{name: "b", log: j}}},
		{Name: "three", Steps: []boot.Step{&fake{name: "c", log: j}}},
	}, boot.Options{
		OnReady: func() { j.add("all ready"); cancel() },
		OnEvent: func(e boot.Event) {
			if e.Began.IsZero() || e.Took() < 0 {
				t.Errorf("event without times: %+v", e)
			}
			events = append(events, fmt.Sprintf("%s/%s %s %v", e.Phase, e.Step, e.Action, e.Err))
		},
	})
	if err != nil {
		t.Fatalf("clean cancel: %v", err)
	}
	want := []string{"start a", "ready a", "start b", "ready b", "start c", "ready c", "all ready", "stop c", "stop b", "stop a"}
	if got := j.take(); !slices.Equal(got, want) {
		t.Errorf("order:\n got %v\nwant %v", got, want)
	}
	wantEvents := []string{
		"one/a start <nil>", "one/a ready <nil>", "two/b start <nil>", "two/b ready <nil>", "three/c start <nil>", "three/c ready <nil>",
		"three/c stop <nil>", "two/b stop <nil>", "one/a stop <nil>",
	}
	if !slices.Equal(events, wantEvents) {
		t.Errorf("events:\n got %v\nwant %v", events, wantEvents)
	}
}

func TestStepsOfAPhaseRunConcurrently(t *testing.T) {
	// Each of the pair waits for the other, in every action.
	meet := func() func(context.Context) error {
		var both sync.WaitGroup
		both.Add(2)
		return func(context.Context) error { both.Done(); both.Wait(); return nil }
	}
	start, ready, stop := meet(), meet(), meet()
	ctx, cancel := context.WithCancel(t.Context())
	err := boot.Run(ctx, boot.Sequence{{Name: "p", Steps: []boot.Step{
		&fake{name: "a", start: start, ready: ready, stop: stop},
		&fake{name: "b", start: start, ready: ready, stop: stop},
	}}}, boot.Options{OnReady: cancel})
	if err != nil {
		t.Fatal(err)
	}
}

func TestRunFailures(t *testing.T) {
	lastReason := func(ctx context.Context) error {
		<-ctx.Done()
		return errors.New("GET /readyz: 500 etcd failed")
	}
	for _, c := range []struct {
		name string
		step *fake
		want string
	}{
		{"start", &fake{start: func(context.Context) error { return errors.New("port taken") }}, "phase api: step apiserver: start: port taken"},
		{"ready", &fake{ready: func(context.Context) error { return errors.New("bad key") }}, "phase api: step apiserver: not ready: bad key"},
		{"kept reason", &fake{ready: lastReason, deadline: 20 * time.Millisecond}, "phase api: step apiserver: not ready after 0.02s: GET /readyz: 500 etcd failed"},
		{"panic", &fake{start: func(context.Context) error { panic("boom") }}, "phase api: step apiserver: start: panic: boom"},
		{"exit while not ready", &fake{ready: untilDone, exited: yield(errors.New("disk full"))}, "phase api: step apiserver: exited: disk full"},
		{"silent exit", &fake{ready: untilDone, exited: yield(nil)}, "phase api: step apiserver: exited: ended without an error"},
		{"ignores its context", &fake{ready: func(context.Context) error { select {} }, deadline: time.Millisecond}, "phase api: step apiserver: not ready after 0.001s: call ignored the end of its context: context deadline exceeded"},
	} {
		t.Run(c.name, func(t *testing.T) {
			j := &journal{}
			c.step.name = "apiserver"
			siblingCancelled := false
			err := boot.Run(t.Context(), boot.Sequence{
				{Name: "storage", Steps: []boot.Step{&fake{name: "kine", log: j}}},
				{Name: "api", Steps: []boot.Step{c.step, &fake{name: "images", log: j, ready: func(ctx context.Context) error {
					<-ctx.Done()
					siblingCancelled = true
					return ctx.Err()
				}}}},
				{Name: "cluster", Steps: []boot.Step{&fake{name: "addons", log: j}}},
			}, boot.Options{OnReady: func() { t.Error("reported ready") }})
			if err == nil || err.Error() != c.want {
				t.Fatalf("got %v\nwant %s", err, c.want)
			}
			var stepErr *boot.StepError
			if !errors.As(err, &stepErr) || stepErr.Step != "apiserver" {
				t.Errorf("no StepError of apiserver in %#v", err)
			}
			if !siblingCancelled {
				t.Error("sibling was not cancelled")
			}
			want := []string{"start kine", "ready kine", "start images", "ready images", "stop images", "stop kine"}
			if got := j.take(); !slices.Equal(got, want) {
				t.Errorf("order:\n got %v\nwant %v", got, want)
			}
		})
	}
}

func TestPanicKeepsStack(t *testing.T) {
	err := boot.Run(t.Context(), boot.Sequence{{Name: "p", Steps: []boot.Step{
		&fake{name: "a", ready: func(context.Context) error { panic("boom") }},
	}}}, boot.Options{})
	var p *boot.PanicError
	if !errors.As(err, &p) || !strings.Contains(string(p.Stack), "TestPanicKeepsStack") {
		t.Errorf("no stack of the panic in %v", err)
	}
}

func yield(err error) chan error {
	c := make(chan error, 1)
	c <- err
	return c
}

func TestExitAfterReadyEndsTheBoot(t *testing.T) {
	j := &journal{}
	exited := make(chan error, 1)
	var exits int
	err := boot.Run(t.Context(), boot.Sequence{
		{Name: "storage", Steps: []boot.Step{&fake{name: "kine", log: j, exited: exited}}},
		{Name: "api", Steps: []boot.Step{&fake{name: "apiserver", log: j}}},
	}, boot.Options{
		OnReady: func() { exited <- errors.New("database is gone") },
		OnEvent: func(e boot.Event) {
			if e.Action == boot.ActionExit && e.Err != nil {
				exits++
			}
		},
	})
	if err == nil || err.Error() != "phase storage: step kine: exited: database is gone" {
		t.Errorf("got %v", err)
	}
	if got := j.take(); !slices.Equal(got[len(got)-2:], []string{"stop apiserver", "stop kine"}) {
		t.Errorf("no reverse stop: %v", got)
	}
	if exits != 1 {
		t.Errorf("%d exit events, want 1", exits)
	}
}

func TestCancelDuringStartIsClean(t *testing.T) {
	j := &journal{}
	ctx, cancel := context.WithCancel(t.Context())
	err := boot.Run(ctx, boot.Sequence{
		{Name: "one", Steps: []boot.Step{&fake{name: "a", log: j, ready: func(ctx context.Context) error { cancel(); return untilDone(ctx) }}}},
		{Name: "two", Steps: []boot.Step{&fake{name: "b", log: j}}},
	}, boot.Options{OnReady: func() { t.Error("reported ready") }})
	if err != nil {
		t.Errorf("got %v, want nil", err)
	}
	if got, want := j.take(), []string{"start a", "ready a", "stop a"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestStopErrorsAreJoinedAndBounded(t *testing.T) {
	exited := make(chan error, 1)
	err := boot.Run(t.Context(), boot.Sequence{
		{Name: "one", Steps: []boot.Step{
			&fake{name: "a", exited: exited, stop: func(context.Context) error { return errors.New("busy") }},
			&fake{name: "b", stop: func(ctx context.Context) error {
				if ctx.Err() != nil {
					return errors.New("no grace left by the later phase")
				}
				return nil
			}},
		}},
		{Name: "two", Steps: []boot.Step{&fake{name: "c", stop: untilDone}, &fake{name: "d", stop: func(context.Context) error { panic("ouch") }}}},
	}, boot.Options{StopTimeout: 2 * time.Second, OnReady: func() { exited <- errors.New("dead") }})
	want := []string{
		"phase one: step a: exited: dead",
		"phase two: step c: stop: context deadline exceeded",
		"phase two: step d: stop: panic: ouch",
		"phase one: step a: stop: busy",
	}
	if err == nil || err.Error() != strings.Join(want, "\n") {
		t.Errorf("got:\n%v\nwant:\n%s", err, strings.Join(want, "\n"))
	}
}

func TestStopGetsAContextThatOutlivesTheBoot(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	err := boot.Run(ctx, boot.Sequence{{Name: "p", Steps: []boot.Step{
		&fake{name: "a", stop: func(ctx context.Context) error { return ctx.Err() }},
	}}}, boot.Options{OnReady: cancel})
	if err != nil {
		t.Error(err)
	}
}

func TestFakeObeysTheContract(t *testing.T) {
	boottest.TestStep(t, func() boot.Step { return &fake{name: "fake-step"} })
}
