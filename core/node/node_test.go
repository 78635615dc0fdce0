package node

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kelson-io/kelson/core/boot"
	"github.com/kelson-io/kelson/core/boot/boottest"
	"github.com/kelson-io/kelson/core/boot/timeline"
	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/datadir"
	"github.com/kelson-io/kelson/core/status"
)

// scripted is a step whose Start and Ready answer what the test says.
type scripted struct {
	start, ready func() error
	stops        *atomic.Int32
}

func (scripted) Name() string                  { return "a" }
func (s scripted) Start(context.Context) error { return answer(s.start) }
func (s scripted) Ready(context.Context) error { return answer(s.ready) }
func (s scripted) Stop(context.Context) error {
	if s.stops != nil {
		s.stops.Add(1)
	}
	return nil
}

func answer(f func() error) error {
	if f == nil {
		return nil
	}
	return f()
}

// failing fails the first n times.
func failing(n int, calls *atomic.Int32) func() error {
	return func() error {
		if int(calls.Add(1)) <= n {
			return errors.New("boom")
		}
		return nil
	}
}

func noNote(string, time.Duration, error) {}

func TestLaunchedIsTriedUntilItIsReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var starts, readies atomic.Int32
		var notes []error
		l := launch(scripted{start: failing(2, &starts), ready: failing(1, &readies)}, func(_ string, _ time.Duration, err error) {
			notes = append(notes, err)
		})
		if err := l.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := l.Ready(t.Context()); err != nil {
			t.Errorf("a launched step holds its phase up: %v", err)
		}
		if err := l.await(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if starts.Load() != 3 || readies.Load() != 2 {
			t.Errorf("started %d times, asked %d times", starts.Load(), readies.Load())
		}
		if len(notes) != 4 || notes[0] == nil || notes[3] != nil {
			t.Errorf("notes: %v", notes)
		}
		if err := l.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestLaunchedFollowsAndKeepsTheReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var starts, never atomic.Int32
		first := launch(scripted{start: failing(1<<30, &never)}, noNote)
		second := launch(scripted{start: failing(0, &starts)}, noNote, first.await)
		for _, l := range []*launched{first, second} {
			if err := l.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := first.await(ctx); err == nil || !strings.Contains(err.Error(), "boom") {
			t.Errorf("reason lost: %v", err)
		}
		if starts.Load() != 0 {
			t.Error("started before the one that it follows")
		}
		for _, l := range []*launched{second, first} {
			if err := l.Stop(t.Context()); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestLaunchedStep(t *testing.T) {
	boottest.TestStep(t, func() boot.Step { return launch(scripted{}, noNote) })
}

func TestToleratedGoesOn(t *testing.T) {
	var noted error
	boom := errors.New("boom")
	s := tolerate(scripted{ready: func() error { return boom }}, func(_ string, _ time.Duration, err error) { noted = err })
	if err := s.Ready(t.Context()); err != nil || !errors.Is(noted, boom) {
		t.Errorf("got %v, noted %v", err, noted)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Ready(ctx); !errors.Is(err, boom) {
		t.Errorf("a cancelled boot is forgiven: %v", err)
	}
}

func TestATakenPortNamesItsHolder(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	_, err = listen(netip.MustParseAddr("127.0.0.1"), nil, port)
	if err == nil {
		t.Fatal("listened twice")
	}
	name, _ := os.ReadFile("/proc/self/comm")
	for _, want := range []string{"in use", strings.TrimSpace(string(name))} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
	if config.Hint(err) == "" {
		t.Error("no remedy")
	}
}

func TestStatusFollowsTheBoot(t *testing.T) {
	layout := datadir.Layout{Root: t.TempDir(), Run: t.TempDir()}
	if err := os.MkdirAll(layout.Server(), 0o700); err != nil {
		t.Fatal(err)
	}
	seq := boot.Sequence{{Name: "one", Steps: []boot.Step{step{name: "a"}, step{name: "b"}, step{name: "c"}}}}
	w := newWatch(layout, hclog.NewNullLogger(), &timeline.Recorder{})
	w.launched["c"] = true
	w.begin(status.Status{State: status.Starting, Phases: phasesOf(seq)})
	now := time.Now()
	w.event(boot.Event{Phase: "one", Step: "a", Action: boot.ActionStart, Began: now, Ended: now.Add(time.Second)})
	w.event(boot.Event{Phase: "one", Step: "a", Action: boot.ActionReady, Began: now, Ended: now.Add(time.Second)})
	w.event(boot.Event{Phase: "one", Step: "b", Action: boot.ActionStart, Began: now, Ended: now, Err: errors.New("no space")})
	w.event(boot.Event{Phase: "one", Step: "c", Action: boot.ActionStart, Began: now, Ended: now})
	w.event(boot.Event{Phase: "one", Step: "c", Action: boot.ActionReady, Began: now, Ended: now})
	launchedOnly := w.step("c").State
	w.note("c", time.Second, nil)
	w.ended(errors.New("no space"))
	got, err := status.Read(layout.RunPath(status.FileName))
	if err != nil {
		t.Fatal(err)
	}
	a, b := got.Phases[0].Steps[0], got.Phases[0].Steps[1]
	if a.State != status.Ready || a.Took != 2 {
		t.Errorf("a: %+v", a)
	}
	if b.State != status.Failed || b.Reason != "no space" {
		t.Errorf("b: %+v", b)
	}
	if c := got.Phases[0].Steps[2]; launchedOnly != status.Launched || c.State != status.Ready {
		t.Errorf("c: %s, then %+v", launchedOnly, c)
	}
	if got.State != status.Failed || got.Reason != "no space" {
		t.Errorf("server: %s %s", got.State, got.Reason)
	}
	times, err := timeline.Read(layout.Server(TimesFile))
	if err != nil || times.Error != "no space" {
		t.Errorf("timings: %+v %v", times, err)
	}
}

func TestNotReadyKeepsKubeletsReason(t *testing.T) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{
		{Type: corev1.NodeReady, Status: corev1.ConditionFalse, Reason: "KubeletNotReady", Message: "cni plugin not initialized"},
	}}}
	start := time.Now()
	condition := &node.Status.Conditions[0]
	condition.LastHeartbeatTime = metav1.NewTime(start.Add(-time.Minute))
	if err := notReady(node, start); err == nil || !strings.Contains(err.Error(), "has not reported") {
		t.Errorf("an old report counts: %v", err)
	}
	condition.LastHeartbeatTime = metav1.NewTime(start.Truncate(time.Second))
	if err := notReady(node, start); err == nil || !strings.Contains(err.Error(), "cni plugin not initialized") {
		t.Errorf("reason lost: %v", err)
	}
	condition.Status = corev1.ConditionTrue
	if err := notReady(node, start); err != nil {
		t.Error(err)
	}
}
