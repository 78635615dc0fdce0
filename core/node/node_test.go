package node

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kelson-io/kelson/core/boot"
	"github.com/kelson-io/kelson/core/boot/timeline"
	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/datadir"
	"github.com/kelson-io/kelson/core/status"
)

// recorded is a step that notes its calls.
type recorded struct {
	name   string
	calls  *[]string
	ready  error
	exited chan error
}

func (r recorded) Name() string { return r.name }
func (r recorded) Start(context.Context) error {
	*r.calls = append(*r.calls, r.name+" start")
	return nil
}
func (r recorded) Ready(context.Context) error {
	*r.calls = append(*r.calls, r.name+" ready")
	return r.ready
}
func (r recorded) Stop(context.Context) error {
	*r.calls = append(*r.calls, r.name+" stop")
	return nil
}
func (r recorded) Exited() <-chan error { return r.exited }

func run(t *testing.T, s boot.Step) error {
	t.Helper()
	if err := s.Start(t.Context()); err != nil {
		return err
	}
	if err := s.Ready(t.Context()); err != nil {
		return err
	}
	return s.Stop(t.Context())
}

func TestAdaptors(t *testing.T) {
	boom := errors.New("boom")
	for _, tc := range []struct {
		name string
		make func(calls *[]string) boot.Step
		want string
		err  error
	}{
		{"launch does not wait", func(c *[]string) boot.Step {
			return launch(recorded{name: "a", calls: c, ready: boom})
		}, "a start, a stop", nil},
		{"await only waits", func(c *[]string) boot.Step {
			return awaitReady(recorded{name: "a", calls: c})
		}, "a ready", nil},
		{"await reports", func(c *[]string) boot.Step {
			return awaitReady(recorded{name: "a", calls: c, ready: boom})
		}, "a ready", boom},
		{"after waits first", func(c *[]string) boot.Step {
			return after(recorded{name: "b", calls: c}, recorded{name: "a", calls: c})
		}, "a ready, b start, b ready, b stop", nil},
		{"after does not start behind a failure", func(c *[]string) boot.Step {
			return after(recorded{name: "b", calls: c}, recorded{name: "a", calls: c, ready: boom})
		}, "a ready", boom},
		{"tolerate goes on", func(c *[]string) boot.Step {
			return tolerate(hclog.NewNullLogger(), recorded{name: "a", calls: c, ready: boom})
		}, "a start, a ready, a stop", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var calls []string
			if err := run(t, tc.make(&calls)); !errors.Is(err, tc.err) {
				t.Errorf("error %v, want %v", err, tc.err)
			}
			if got := strings.Join(calls, ", "); got != tc.want {
				t.Errorf("calls %s, want %s", got, tc.want)
			}
		})
	}
}

func TestAdaptorsPassTheExitOn(t *testing.T) {
	exits := make(chan error, 1)
	exits <- errors.New("gone")
	s := launch(after(recorded{name: "a", calls: new([]string), exited: exits}))
	watched, ok := s.(boot.Watched)
	if !ok {
		t.Fatal("not watched")
	}
	if err := <-watched.Exited(); err == nil {
		t.Error("exit lost")
	}
	if launch(step{name: "plain"}).(boot.Watched).Exited() != nil {
		t.Error("a step that is not watched yields")
	}
}

func TestATakenPortNamesItsHolder(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	_, err = listen(netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.1"), port)
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
	seq := boot.Sequence{{Name: "one", Steps: []boot.Step{step{name: "a"}, step{name: "b"}}}}
	w := newWatch(layout, hclog.NewNullLogger(), status.Status{State: status.Starting, Phases: phasesOf(seq)}, &timeline.Recorder{})
	now := time.Now()
	w.event(boot.Event{Phase: "one", Step: "a", Action: boot.ActionStart, Began: now, Ended: now.Add(time.Second)})
	w.event(boot.Event{Phase: "one", Step: "a", Action: boot.ActionReady, Began: now, Ended: now.Add(time.Second)})
	w.event(boot.Event{Phase: "one", Step: "b", Action: boot.ActionStart, Began: now, Ended: now, Err: errors.New("no space")})
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
