package pluginhost

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kelson-io/kelson/core/boot"
	"github.com/kelson-io/kelson/core/boot/boottest"
	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/pluginhost/internal/hostile"
	"github.com/kelson-io/kelson/core/pluginhost/program"
	pluginv1 "github.com/kelson-io/kelson/sdk/proto/plugin/v1"
)

func TestLifeCycle(t *testing.T) {
	for _, lifetime := range []program.Lifetime{program.Host, program.OnDemand} {
		t.Run(string(lifetime), func(t *testing.T) {
			b := newBench(t, trap(lifetime))
			boottest.TestStep(t, func() boot.Step { return b.host().Supervise(b.spec) })
		})
	}
}

func TestWellBehaved(t *testing.T) {
	b := newBench(t, trap(program.Host))
	b.spec.Config = json.RawMessage(`{"mtu":1400}`)
	b.spec.Protocols = []uint32{1, 2}
	b.timing.term = 10 * time.Second
	ups := 0
	b.spec.Up = func(ctx context.Context, conn grpc.ClientConnInterface) error {
		ups++
		_, err := pluginv1.NewPluginClient(conn).Describe(ctx, &pluginv1.DescribeRequest{})
		return err
	}
	before := count(t)
	s := b.start()
	b.ready(s)
	st := s.State()
	if st.Phase != Ready || st.Version != hostile.Version || st.Incarnation != 1 || st.Protocol != 1 || st.Generation != 7 || st.PID == 0 || st.Attached || st.LastExit != "" {
		t.Errorf("state %+v", st)
	}
	if pgid, err := unix.Getpgid(st.PID); err != nil || pgid != st.PID {
		t.Errorf("process group %d of %d: %v", pgid, st.PID, err)
	}
	if got := b.state("configured"); got != "1 {\"mtu\":1400}\n" {
		t.Errorf("configured %q", got)
	}
	conn, err := s.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pluginv1.NewPluginClient(conn).Describe(t.Context(), &pluginv1.DescribeRequest{}); err != nil {
		t.Error(err)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(StateDir(b.layout, hostile.Kind, hostile.Name), "drained")); err != nil {
		t.Errorf("not drained: %v", err)
	}
	if st := s.State(); st.Phase != Stopped || st.PID != 0 || st.LastExit != "exit status 0" {
		t.Errorf("after Stop: %+v", st)
	}
	if _, err := s.Conn(t.Context()); err == nil || err.Error() != "cni(trap): it is stopped" {
		t.Errorf("connection after Stop: %v", err)
	}
	_, err = pluginv1.NewPluginClient(conn).Describe(t.Context(), &pluginv1.DescribeRequest{})
	if status.Code(err) != codes.Unavailable || !strings.HasPrefix(fmt.Sprint(err), "cni(trap): describe: ") {
		t.Errorf("call after Stop: %v", err)
	}
	if ups != 1 {
		t.Errorf("brought up %d times", ups)
	}
	b.nothingLeft(before)
}

func TestRestartAfterDeath(t *testing.T) {
	b := newBench(t, trap(program.Host))
	before := count(t)
	s := b.start()
	for n := range uint64(3) {
		b.ready(s)
		st := s.State()
		if st.Incarnation != n+1 || st.Restarts != n {
			t.Fatalf("state %+v", st)
		}
		if err := unix.Kill(st.PID, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the end is noticed", func() string {
			now := s.State()
			if now.PID == st.PID {
				return "same pid"
			}
			return ""
		})
	}
	b.ready(s)
	if st := s.State(); st.LastExit != "signal: killed" {
		t.Errorf("last exit %q", st.LastExit)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	b.nothingLeft(before)
}

func TestUpFails(t *testing.T) {
	for _, c := range []struct {
		name, reason, want string
		up                 func(context.Context, grpc.ClientConnInterface) error
	}{
		{"with an error", "BringUpFailed", "cni(trap): bring up: no address", func(context.Context, grpc.ClientConnInterface) error { return errors.New("no address") }},
		{"with a panic", "BringUpFailed", "cni(trap): bring up: panic: mine", func(context.Context, grpc.ClientConnInterface) error { panic("mine") }},
		{"in a call", "BringUpFailed", "cni(trap): drain: no [2J luck", func(ctx context.Context, conn grpc.ClientConnInterface) error {
			_, err := pluginv1.NewPluginClient(conn).Drain(ctx, &pluginv1.DrainRequest{})
			return fmt.Errorf("set up: %w", err)
		}},
		{"late", "BringUpFailed", "bring up: context deadline exceeded", func(ctx context.Context, _ grpc.ClientConnInterface) error { <-ctx.Done(); return ctx.Err() }},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, trap(program.Host, "fail-in-drain"))
			if c.name == "late" {
				b.timing.up = 200 * time.Millisecond
			}
			b.spec.Up = c.up
			before := count(t)
			s := b.start()
			eventually(t, "failure", func() string {
				if st := s.State(); st.Restarts == 0 || st.Phase != Backoff || st.Reason != c.reason || !strings.Contains(st.Message, c.want) {
					return fmt.Sprintf("%+v", st)
				}
				return ""
			})
			if err := s.Stop(t.Context()); err != nil {
				t.Error(err)
			}
			b.nothingLeft(before)
		})
	}
}

func TestBadConfiguration(t *testing.T) {
	b := newBench(t, trap(program.Host))
	b.spec.Config = json.RawMessage(`{"backend":"bad"}`)
	old := trap(program.Host)
	b.source.old, b.timing.crashes = &old, 2
	s := b.start()
	eventually(t, "several attempts", func() string {
		if n := s.State().Restarts; n < 4 {
			return fmt.Sprint(n)
		}
		return ""
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	var err error
	eventually(t, "reason", func() string {
		if err = s.Ready(ctx); err == nil || !strings.Contains(err.Error(), "validate") {
			return fmt.Sprint(err)
		}
		return ""
	})
	if want := `cni(trap): validate: backend: no backend "bad" (there are two)`; !strings.Contains(err.Error(), want) || config.Hint(err) != "vxlan or host-gw" {
		t.Errorf("%v\nhint %q", err, config.Hint(err))
	}
	if len(b.source.rollbacks) > 0 {
		t.Error("rolled back for a bad configuration")
	}
}

func TestIncompatibleContract(t *testing.T) {
	b := newBench(t, trap(program.Host))
	b.spec.Protocols = []uint32{2, 3}
	s := b.start()
	eventually(t, "refusal", func() string {
		st := s.State()
		if st.Reason != "ProtocolMismatch" || st.Hint == "" || !strings.Contains(st.Message, "it speaks version 1 of the contract for cni, this host 2, 3") {
			return fmt.Sprintf("%+v", st)
		}
		return ""
	})
}

func TestNotThePinnedFile(t *testing.T) {
	good := trap(program.Host)
	copied := filepath.Join(t.TempDir(), "plugin")
	raw, err := os.ReadFile(good.Path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(copied, append(raw, 'x'), 0o755); err != nil {
		t.Fatal(err)
	}
	tampered, missing := good, good
	tampered.Path, missing.Path = copied, copied+"-none"
	for _, c := range []struct {
		name, reason, want string
		source             *source
	}{
		{"tampered", "VerifyFailed", "cni(trap): verify " + copied + ": its SHA-256 is ", &source{now: tampered, old: &good}},
		{"missing", "VerifyFailed", "no such file", &source{now: missing, old: &good}},
		{"not in the catalog", "Unresolved", "cni(trap): resolve: not listed", &source{err: errors.New("not listed")}},
		{"a source that panics", "Unresolved", "cni(trap): resolve: panic: resolve", &source{panics: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, good)
			b.source, b.timing.crashes = c.source, 2
			before := count(t)
			s := b.start()
			eventually(t, "refusal", func() string {
				st := s.State()
				if st.Restarts < 3 || st.Phase != Absent || st.Reason != c.reason || !strings.Contains(st.Message, c.want) {
					return fmt.Sprintf("%+v", st)
				}
				return ""
			})
			if len(c.source.rollbacks) > 0 {
				t.Error("rolled back: what the operator must see to is hidden")
			}
			// It heals as soon as the right file is there.
			c.source.set(func(s *source) { s.now, s.err, s.panics = good, nil, false })
			b.ready(s)
			if err := s.Stop(t.Context()); err != nil {
				t.Error(err)
			}
			b.nothingLeft(before)
		})
	}
}

func TestCrashLoopRollsBack(t *testing.T) {
	bad, old := trap(program.Host, "die-in-ready"), trap(program.Host, "version=1.2.2")
	old.Version = "1.2.2"
	b := newBench(t, bad)
	b.source.old, b.timing.crashes = &old, 3
	s := b.start()
	eventually(t, "the older version", func() string {
		if st := s.State(); st.Version != "1.2.2" || st.Phase != Ready {
			return fmt.Sprintf("%+v", st)
		}
		return ""
	})
	st := s.State()
	if st.RolledBackFrom != hostile.Version || st.Restarts != 3 || len(b.source.rollbacks) != 1 || b.source.rollbacks[0] != "Killed" {
		t.Errorf("state %+v, rollbacks %v", st, b.source.rollbacks)
	}
}

func TestCrashLoopWithoutAWayBack(t *testing.T) {
	b := newBench(t, trap(program.Host, "exit-at-start"))
	b.timing.crashes = 3
	s := b.start()
	eventually(t, "crash loop", func() string {
		if st := s.State(); st.Phase != CrashLoop || st.Restarts < 4 {
			return fmt.Sprintf("%+v", st)
		}
		return ""
	})
	if out := s.State().Output; len(out) != 1 || out[0] != "cannot open the database" {
		t.Errorf("output %q", out)
	}
}

func TestGoodIsNoted(t *testing.T) {
	b := newBench(t, trap(program.Host))
	b.timing.stable = 50 * time.Millisecond
	b.ready(b.start())
	eventually(t, "note", func() string {
		b.source.mu.Lock()
		defer b.source.mu.Unlock()
		if fmt.Sprint(b.source.good) != "[1.2.3]" {
			return fmt.Sprint(b.source.good)
		}
		return ""
	})
}

func TestFailures(t *testing.T) {
	at := time.Unix(0, 0)
	f := failures{timing: defaultTiming()}
	for i, want := range []time.Duration{250, 500, 1000, 2000} {
		if f.count(at, 0, false) {
			t.Errorf("crash loop after %d failures", i+1)
		}
		for range 100 {
			if got, mid := f.pause(), want*time.Millisecond; got < mid*8/10 || got > mid*12/10 {
				t.Fatalf("failure %d: pause %v, want about %v", i+1, got, mid)
			}
		}
	}
	if !f.count(at, 0, false) {
		t.Error("no crash loop after five failures")
	}
	for range 100 {
		f.count(at, 0, true)
	}
	if got := f.pause(); got < 24*time.Second || got > 36*time.Second {
		t.Errorf("longest pause %v", got)
	}
	f.count(at, time.Minute, false)
	if got := f.pause(); got > 300*time.Millisecond || len(f.recent) != 1 {
		t.Errorf("pause %v after a good run", got)
	}
	f.reset()
	for i := range 20 {
		if f.count(at.Add(time.Duration(i)*3*time.Minute), 0, false) {
			t.Errorf("crash loop by failures far apart, the %dth", i+1)
		}
	}
	for range 20 {
		if f.count(at.Add(2*time.Hour), 0, true) {
			t.Error("crash loop by blameless failures")
		}
	}
}

func TestSecretsAreBlottedOut(t *testing.T) {
	for _, lifetime := range []program.Lifetime{program.Host, program.Node} {
		t.Run(string(lifetime), func(t *testing.T) {
			b := newBench(t, trap(lifetime, "print-secrets"))
			b.spec.Secrets = map[string]json.RawMessage{"token": json.RawMessage(`"t0psecret-canary"`), "tricky": json.RawMessage(`"quo\"te-canary"`)}
			s := b.start()
			b.ready(s)
			eventually(t, "output", func() string {
				if out := strings.Join(s.State().Output, "\n"); !strings.Contains(out, "plain ***") {
					return out
				}
				return ""
			})
			record, err := os.ReadFile(PluginRunDir(b.layout, hostile.Kind, hostile.Name) + ".json")
			if err != nil {
				t.Fatal(err)
			}
			for where, text := range map[string]string{"log": b.log.String(), "state": fmt.Sprintf("%+v", s.State()), "record": string(record)} {
				if strings.Contains(text, "canary") {
					t.Errorf("secret in the %s:\n%s", where, text)
				}
			}
		})
	}
}

func TestOnDemand(t *testing.T) {
	b := newBench(t, trap(program.OnDemand))
	b.timing.idle = 300 * time.Millisecond
	before := count(t)
	s := b.start()
	for n := range uint64(3) {
		b.ready(s)
		if st := s.State(); st.PID != 0 || st.Phase != Verified || st.Reason != "Idle" {
			t.Errorf("runs without need: %+v", st)
		}
		conn, err := s.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := pluginv1.NewPluginClient(conn).Describe(t.Context(), &pluginv1.DescribeRequest{}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "idle again", func() string {
			if _, err := s.Metrics(t.Context()); err != nil { // must not keep it
				t.Logf("metrics: %v", err)
			}
			if st := s.State(); st.PID != 0 || st.Phase != Verified || st.Reason != "Idle" {
				return fmt.Sprintf("%+v", st)
			}
			return ""
		})
		if st := s.State(); st.Incarnation != n+1 || st.Restarts != 0 {
			t.Errorf("state %+v", st)
		}
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	b.nothingLeft(before)
}

func TestUnreadyTellsWhy(t *testing.T) {
	b := newBench(t, trap(program.Host, "health=unready"))
	s := b.start()
	eventually(t, "report", func() string {
		if st := s.State(); st.Reason != "NoPeers" {
			return fmt.Sprintf("%+v", st)
		}
		return ""
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	err := s.Ready(ctx)
	if err == nil || !strings.Contains(err.Error(), "cni(trap): not ready: Starting (NoPeers): waits for peers") || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("ready: %v", err)
	}
}

func TestRestart(t *testing.T) {
	for _, lifetime := range []program.Lifetime{program.Host, program.Node} {
		t.Run(string(lifetime), func(t *testing.T) {
			b := newBench(t, trap(lifetime))
			before := count(t)
			s := b.start()
			b.ready(s)
			pid := s.State().PID
			next := trap(lifetime, "version=2.0.0")
			next.Version = "2.0.0"
			b.source.set(func(src *source) { src.now = next })
			s.Restart()
			eventually(t, "the next version", func() string {
				if st := s.State(); st.Version != "2.0.0" || st.Phase != Ready || st.Restarts != 0 {
					return fmt.Sprintf("%+v", st)
				}
				return ""
			})
			if running(pid) {
				t.Error("the old process runs")
			}
			if _, err := os.Stat(filepath.Join(StateDir(b.layout, hostile.Kind, hostile.Name), "drained")); err != nil {
				t.Errorf("not drained: %v", err)
			}
			if err := s.End(t.Context()); err != nil {
				t.Error(err)
			}
			b.nothingLeft(before)
		})
	}
}

func TestRestartEndsTheWait(t *testing.T) {
	b := newBench(t, trap(program.Host, "exit-at-start"))
	b.timing.backoffMin, b.timing.backoffMax = time.Hour, time.Hour
	s := b.start()
	eventually(t, "back-off", func() string {
		if st := s.State(); st.Phase != Backoff {
			return fmt.Sprintf("%+v", st)
		}
		return ""
	})
	b.source.set(func(src *source) { src.now = trap(program.Host) })
	s.Restart()
	b.ready(s)
}

func TestSupervisedOnce(t *testing.T) {
	b := newBench(t, trap(program.Host))
	h := b.host()
	first, second := h.Supervise(b.spec), h.Supervise(b.spec)
	if err := first.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.ready(first)
	if err := second.Start(t.Context()); err == nil || err.Error() != "start cni(trap): it is supervised already" {
		t.Errorf("second supervision: %v", err)
	}
	if err := errors.Join(second.Stop(t.Context()), first.Stop(t.Context())); err != nil {
		t.Error(err)
	}
	third := h.Supervise(b.spec)
	if err := third.Start(t.Context()); err != nil {
		t.Error(err)
	}
	if err := third.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}
