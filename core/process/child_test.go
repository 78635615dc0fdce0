package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/kelson-io/kelson/core/boot"
	"github.com/kelson-io/kelson/core/boot/boottest"
)

// step is a Child as a boot step, as its users write it.
type step struct{ *Child }

var (
	_ boot.Step    = step{}
	_ boot.Watched = step{}
)

func (s step) Name() string                { return s.spec.Name }
func (s step) Ready(context.Context) error { return nil }

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func start(t *testing.T, spec Spec) (*Child, *syncBuffer) {
	t.Helper()
	out := &syncBuffer{}
	c := New(spec, hclog.New(&hclog.LoggerOptions{Output: out, Level: hclog.Debug}))
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return c, out
}

func TestLifeCycle(t *testing.T) {
	boottest.TestStep(t, func() boot.Step { return step{New(player(t, "sleep"), hclog.NewNullLogger())} })
}

func TestGracefulStop(t *testing.T) {
	spec := player(t, "sleep")
	spec.StopSignal = syscall.SIGINT
	spec.Argv0 = "containerd"
	spec.PIDFile = filepath.Join(t.TempDir(), "run", "child.json")
	exits := 0
	spec.OnExit = func(error) { exits++ }
	c, _ := start(t, spec)
	eventually(t, "start", contains(spec.LogFile, "sleeping as containerd"))
	pid := c.PID()
	if r, err := ReadRecord(spec.PIDFile); err != nil || r.PID != pid || !r.Alive() || r.Exe != self() {
		t.Errorf("record %+v, %v: want pid %d alive", r, err, pid)
	}
	if err := c.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if running(pid) || c.PID() != 0 {
		t.Error("runs after Stop")
	}
	if why := contains(spec.LogFile, "got interrupt")(); why != "" {
		t.Error(why)
	}
	if _, err := os.Stat(spec.PIDFile); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("record left: %v", err)
	}
	select {
	case err := <-c.Exited():
		t.Errorf("Exited yielded %v after Stop", err)
	default:
	}
	if exits != 0 || c.Restarts() != 0 || c.LastError() != nil {
		t.Errorf("exits %d, restarts %d, last error %v after a clean stop", exits, c.Restarts(), c.LastError())
	}
}

func TestStubbornChildIsKilled(t *testing.T) {
	t.Run("by StopTimeout", func(t *testing.T) {
		spec := player(t, "stubborn")
		spec.StopTimeout = 20 * time.Millisecond
		c, _ := start(t, spec)
		eventually(t, "start", contains(spec.LogFile, "ignoring"))
		pid := c.PID()
		if err := c.Stop(t.Context()); err != nil || running(pid) {
			t.Errorf("%v, running %v", err, running(pid))
		}
	})
	t.Run("by the context", func(t *testing.T) {
		spec := player(t, "stubborn")
		spec.StopTimeout = time.Hour
		c, _ := start(t, spec)
		eventually(t, "start", contains(spec.LogFile, "ignoring"))
		pid := c.PID()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		if err := c.Stop(ctx); err != nil || running(pid) {
			t.Errorf("%v, running %v", err, running(pid))
		}
	})
}

func TestRestartsWithReason(t *testing.T) {
	spec := player(t, "fail", "3")
	var mu sync.Mutex
	var pids []int
	spec.OnStart = func(pid int) { mu.Lock(); defer mu.Unlock(); pids = append(pids, pid) }
	c, out := start(t, spec)
	eventually(t, "restarts", func() string {
		if n := c.Restarts(); n < 3 {
			return fmt.Sprintf("%d restarts, log:\n%s", n, out)
		}
		return ""
	})
	if err := c.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"ended, restarting", `reason="exit status 3"`, `output="first line | cannot open database"`, "child=test-child"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("log lacks %q:\n%s", want, out)
		}
	}
	if err := c.LastError(); err == nil || err.Error() != "exit status 3" {
		t.Errorf("last error %v", err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(pids) < 3 || pids[0] == pids[1] {
		t.Errorf("OnStart saw %v", pids)
	}
}

func TestKilledChildComesBack(t *testing.T) {
	c, out := start(t, player(t, "sleep"))
	first := c.PID()
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "restart", func() string {
		if pid := c.PID(); pid == first || pid == 0 {
			return fmt.Sprintf("pid %d; log:\n%s", pid, out)
		}
		return ""
	})
	if err := c.LastError(); err == nil || err.Error() != "signal: killed" {
		t.Errorf("last error %v", err)
	}
}

func TestPolicyGivesUp(t *testing.T) {
	for _, c := range []struct{ limit, restarts int }{{-1, 0}, {2, 2}} {
		spec := player(t, "fail", "4")
		spec.Restart.Limit = c.limit
		child, _ := start(t, spec)
		select {
		case err := <-child.Exited():
			if err == nil || err.Error() != "run test-child: exit status 4" {
				t.Errorf("limit %d: exited with %v", c.limit, err)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("limit %d: no exit after %d restarts", c.limit, child.Restarts())
		}
		if child.Restarts() != c.restarts {
			t.Errorf("limit %d: %d restarts", c.limit, child.Restarts())
		}
	}
}

func TestStopWhileBackingOff(t *testing.T) {
	spec := player(t, "fail", "1")
	spec.Restart = Policy{Min: time.Hour, Max: time.Hour}
	c, _ := start(t, spec)
	eventually(t, "back-off", func() string {
		if c.LastError() == nil {
			return "still running"
		}
		return ""
	})
	if err := c.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestStartErrors(t *testing.T) {
	log := hclog.NewNullLogger()
	missing := New(Spec{Name: "none", Path: filepath.Join(t.TempDir(), "none")}, log)
	if err := missing.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "start none: fork/exec") {
		t.Errorf("missing file: %v", err)
	}
	if err := missing.Stop(t.Context()); err != nil {
		t.Errorf("stop after a failed start: %v", err)
	}
	stopped := New(player(t, "sleep"), log)
	if err := stopped.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if err := stopped.Start(t.Context()); err == nil {
		t.Error("a stopped child was started")
	}
}

func TestFirstLaunchIsRetriedWhenWanted(t *testing.T) {
	spec := player(t, "sleep")
	program := filepath.Join(t.TempDir(), "program")
	spec.Path, spec.Restart.RetryFirst = program, true
	c, _ := start(t, spec)
	eventually(t, "reason", func() string {
		if err := c.LastError(); err == nil || !strings.Contains(err.Error(), "no such file") {
			return fmt.Sprint(err)
		}
		return ""
	})
	if err := os.Symlink(self(), program); err != nil {
		t.Fatal(err)
	}
	eventually(t, "start", func() string {
		if c.PID() == 0 {
			return fmt.Sprint(c.LastError())
		}
		return ""
	})
}

func TestOutputIsOfOneRun(t *testing.T) {
	spec := player(t, "fail", "1")
	if err := os.MkdirAll(filepath.Dir(spec.LogFile), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(spec.LogFile, []byte("earlier run\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var c *Child
	seen := make(chan string, 1)
	spec.Restart.Limit = -1
	spec.OnExit = func(error) { seen <- c.Output(1 << 10) }
	c = New(spec, hclog.NewNullLogger())
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := <-seen; got != "first line\ncannot open database\n" {
		t.Errorf("output %q", got)
	}
	if got := c.Output(9); got != "database\n" {
		t.Errorf("the end is %q", got)
	}
}

func TestBackoff(t *testing.T) {
	b := backoff{policy: Spec{}.withDefaults().Restart}
	var got []time.Duration
	for range 9 {
		pause, _ := b.next(time.Second)
		got = append(got, pause)
	}
	ms := time.Millisecond
	want := []time.Duration{250 * ms, 500 * ms, 1000 * ms, 2000 * ms, 4000 * ms, 8000 * ms, 16000 * ms, 30000 * ms, 30000 * ms}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if pause, ok := b.next(time.Minute); !ok || pause != 250*ms {
		t.Errorf("after a stable run: %v %v", pause, ok)
	}
}

func TestEnvironment(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "/run/systemd/notify")
	t.Setenv("KELSON_TOKEN", "secret")
	t.Setenv("TEST_INHERITED", "yes")
	for _, c := range []struct {
		name string
		env  []string
		want string
	}{
		{"inherited", nil, "TEST_INHERITED=yes"},
		{"own", []string{"A=1", "NOTIFY_SOCKET=@x", "KELSON_TOKEN=secret", "KELSON_DATA_DIR=/x"}, "A=1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			spec := player(t, "env")
			spec.Env, spec.Restart.Limit = c.env, -1
			child, _ := start(t, spec)
			<-child.Exited()
			out, err := os.ReadFile(spec.LogFile)
			if err != nil {
				t.Fatal(err)
			}
			has := strings.Contains(string(out), "TEST_INHERITED")
			leaked := strings.Contains(string(out), "NOTIFY_SOCKET") || strings.Contains(string(out), "KELSON_")
			if !strings.Contains(string(out), c.want) || leaked || has != (c.env == nil) {
				t.Errorf("environment:\n%s", out)
			}
		})
	}
}

func TestWhatTheChildStartedIsLeftAlone(t *testing.T) {
	pidFile := filepath.Join(t.TempDir(), "shim.pid")
	c, _ := start(t, player(t, "shim", pidFile))
	shim := pidIn(t, pidFile)
	t.Cleanup(func() { _ = syscall.Kill(shim, syscall.SIGKILL) })
	if err := c.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !running(shim) {
		t.Error("the child's own process died with it")
	}
}

func TestCgroup(t *testing.T) {
	root := "/sys/fs/cgroup"
	if _, err := os.Stat(root + "/cgroup.procs"); err != nil {
		root += "/memory" // version 1
	}
	path := filepath.Join(root, fmt.Sprintf("kelson-process-test-%d", os.Getpid()))
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Skipf("SKIPPED: no cgroup can be made here: %v", err)
	}
	spec := player(t, "sleep")
	spec.Cgroup = path
	c, _ := start(t, spec)
	if why := contains(fmt.Sprintf("/proc/%d/cgroup", c.PID()), "/"+filepath.Base(path)+"\n")(); why != "" {
		t.Error(why)
	}
	if err := c.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "remove cgroup", func() string {
		if err := unix.Rmdir(path); err != nil {
			return err.Error()
		}
		return ""
	})
}

func TestNoCgroupFileSystem(t *testing.T) {
	spec := player(t, "sleep")
	spec.Cgroup = t.TempDir()
	err := New(spec, hclog.NewNullLogger()).Start(t.Context())
	if err == nil || !strings.Contains(err.Error(), "not on a cgroup file system") {
		t.Errorf("got %v", err)
	}
}
