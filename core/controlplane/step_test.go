package controlplane

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/kelson-io/kelson/core/boot"
	"github.com/kelson-io/kelson/core/boot/boottest"
)

// scripted is a runner whose components do what the test says.
type scripted struct {
	run func(ctx context.Context) error
}

func (s scripted) APIServer(ctx context.Context, _ []string, _ net.Listener) error { return s.run(ctx) }

func (s scripted) Scheduler(ctx context.Context, _ []string) error { return s.run(ctx) }

func (s scripted) ControllerManager(ctx context.Context, _ []string) error { return s.run(ctx) }

func untilStopped(ctx context.Context) error { <-ctx.Done(); return nil }

func ready(context.Context) error { return nil }

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestSteps(t *testing.T) {
	boottest.TestStep(t, func() boot.Step {
		return NewAPIServer(scripted{untilStopped}, nil, listen(t), ready, hclog.NewNullLogger())
	})
	boottest.TestStep(t, func() boot.Step {
		return NewScheduler(scripted{untilStopped}, nil, ready, hclog.NewNullLogger())
	})
}

func TestReadyKeepsTheLastReason(t *testing.T) {
	step := NewAPIServer(scripted{untilStopped}, nil, listen(t), func(context.Context) error {
		return errors.New("GET /readyz: 500 etcd")
	}, hclog.NewNullLogger())
	if err := step.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := step.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := step.Ready(ctx); err == nil || !strings.Contains(err.Error(), "500 etcd") {
		t.Errorf("reason lost: %v", err)
	}
}

func TestAPIServerExitIsReported(t *testing.T) {
	boom := errors.New("boom")
	step := NewAPIServer(scripted{func(context.Context) error { return boom }}, nil, listen(t), ready, hclog.NewNullLogger())
	if err := step.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-step.Exited(); !errors.Is(err, boom) {
		t.Errorf("exited with %v", err)
	}
	if err := step.Ready(t.Context()); !errors.Is(err, boom) {
		t.Errorf("ready says %v", err)
	}
	if err := step.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestSchedulerIsRestartedAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var runs atomic.Int32
		step := NewScheduler(scripted{func(ctx context.Context) error {
			if runs.Add(1) < 4 {
				panic("nil map")
			}
			return untilStopped(ctx)
		}}, nil, ready, hclog.NewNullLogger())
		began := time.Now()
		if err := step.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		restarts, last := step.State()
		if restarts != 3 || last == nil || !strings.Contains(last.Error(), "nil map") {
			t.Errorf("restarts %d, last %v", restarts, last)
		}
		if runs.Load() != 4 {
			t.Errorf("ran %d times after %s", runs.Load(), time.Since(began))
		}
		if err := step.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestFailedChecks(t *testing.T) {
	body := "[+]ping ok\n[-]etcd failed: reason withheld\n[-]poststarthook/rbac failed: reason withheld\nreadyz check failed\n"
	if got, want := failedChecks(body), "etcd failed, poststarthook/rbac failed"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestAFailedRunIsEndedBeforeTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var serving atomic.Int32
		step := NewScheduler(scripted{func(ctx context.Context) error {
			serving.Add(1)
			context.AfterFunc(ctx, func() { serving.Add(-1) })
			if serving.Load() > 1 {
				t.Error("the last run still serves")
			}
			return errors.New("boom")
		}}, nil, ready, hclog.NewNullLogger())
		if err := step.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if err := step.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
