package pluginhost

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/kelson-io/kelson/core/datadir"
	"github.com/kelson-io/kelson/core/pluginhost/internal/hostile"
	"github.com/kelson-io/kelson/core/pluginhost/program"
	"github.com/kelson-io/kelson/core/pluginhost/runner"
)

// runs holds the run dirs of all tests: paths of sockets must be short.
var runs string

// TestMain plays the plugin and the host when asked to (and ends at once then: the
// race detector makes os.Exit slow), and makes sure that no
// process is left, whatever the tests did.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case hostile.Verb:
			syscall.Exit(hostile.Main(os.Args[2:]))
		case playHost:
			os.Exit(hostMain(os.Args[2:]))
		case playGood:
			syscall.Exit(goodMain(os.Args[2:]))
		}
	}
	dir, err := os.MkdirTemp("", "kph")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	runs = dir
	code := m.Run()
	left, err := runner.EndAll(context.Background(), runs)
	if len(left) > 0 || err != nil {
		fmt.Fprintf(os.Stderr, "left running after the tests: %v %v\n", left, err)
		code = 1
	}
	_ = os.RemoveAll(runs)
	os.Exit(code)
}

// source is a catalog of one program, with an older one to go back to.
type source struct {
	mu        sync.Mutex
	now       program.Program
	old       *program.Program
	err       error
	panics    bool
	good      []string
	rollbacks []string
}

func (s *source) Resolve(string, string) (program.Program, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.panics {
		panic("resolve")
	}
	return s.now, s.err
}

func (s *source) Good(p program.Program) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.good = append(s.good, p.Version)
	return nil
}

func (s *source) Rollback(_, _, reason string) (program.Program, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.old == nil {
		return program.Program{}, errors.New("nothing to go back to")
	}
	s.rollbacks = append(s.rollbacks, reason)
	s.now, s.old = *s.old, nil
	return s.now, nil
}

func (s *source) set(change func(*source)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

var self = sync.OnceValues(func() (string, error) { return os.Executable() })

var selfDigest = sync.OnceValues(func() (string, error) {
	path, err := self()
	if err != nil {
		return "", err
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
})

func hexSum(raw []byte) string {
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}

// trap is the program of a hostile plugin.
func trap(lifetime program.Lifetime, ways ...string) program.Program {
	path, err := self()
	if err != nil {
		panic(err)
	}
	sum, err := selfDigest()
	if err != nil {
		panic(err)
	}
	return program.Program{
		Kind: hostile.Kind, Name: hostile.Name, Version: hostile.Version, Dir: filepath.Dir(path), Path: path,
		Args: hostile.Args(ways...), SHA256: sum, Lifetime: lifetime, Protocols: []uint32{hostile.Protocol}, Generation: 7,
	}
}

// bench is a host with one plugin.
type bench struct {
	t      *testing.T
	source *source
	layout datadir.Layout
	log    *logBuffer
	timing timing
	limits runner.Limits
	spec   Spec
}

func newBench(t *testing.T, prog program.Program) *bench {
	t.Helper()
	// A name that stays short whatever the test is called.
	run, err := os.MkdirTemp(runs, "r") //nolint:usetesting // the test's own folder has too long a path for sockets
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{
		t: t, source: &source{now: prog}, log: &logBuffer{},
		layout: datadir.Layout{Root: t.TempDir(), Run: run},
		timing: defaultTiming(),
		spec:   Spec{Kind: hostile.Kind, Name: hostile.Name},
	}
	b.timing.drain, b.timing.term = 500*time.Millisecond, 500*time.Millisecond
	b.timing.backoffMin, b.timing.backoffMax = 5*time.Millisecond, 50*time.Millisecond
	b.timing.crashes = 1000
	t.Cleanup(func() {
		left, err := runner.EndAll(context.Background(), RunDir(b.layout))
		if len(left) > 0 || err != nil {
			t.Errorf("left running: %v %v", left, err)
		}
		if t.Failed() {
			t.Logf("log:\n%s", b.log)
		}
	})
	return b
}

func (b *bench) host() *Host {
	log := hclog.New(&hclog.LoggerOptions{Output: b.log, Level: hclog.Debug})
	h := New(Deps{Layout: b.layout, Source: b.source, Log: log, Path: "/usr/bin:/bin", NodeName: "n1", Limits: b.limits})
	h.timing = b.timing
	return h
}

// start supervises the plugin until the end of the test.
func (b *bench) start() *Supervised {
	b.t.Helper()
	s := b.host().Supervise(b.spec)
	if err := s.Start(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		if err := s.End(context.Background()); err != nil {
			b.t.Error(err)
		}
	})
	return s
}

func (b *bench) ready(s *Supervised) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 30*time.Second)
	defer cancel()
	if err := s.Ready(ctx); err != nil {
		b.t.Fatal(err)
	}
}

// state reads a file that the plugin left in its state folder.
func (b *bench) state(name string) string {
	raw, err := os.ReadFile(filepath.Join(StateDir(b.layout, hostile.Kind, hostile.Name), name))
	if err != nil {
		return ""
	}
	return string(raw)
}

// eventually polls until ok returns "", and reports its last answer otherwise.
func eventually(t *testing.T, what string, ok func() string) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		reason := ok()
		if reason == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %s", what, reason)
		}
		<-tick.C
	}
}

func running(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(rest, "Z") && !strings.HasPrefix(rest, "X")
}

// census counts what a host must not leak.
type census struct{ goroutines, fds int }

func count(t *testing.T) census {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return census{runtime.NumGoroutine(), len(entries)}
}

// nothingLeft waits until there are no more goroutines and descriptors than
// before, and no file in the run dir that belongs to a process.
func (b *bench) nothingLeft(before census) {
	b.t.Helper()
	eventually(b.t, "leak", func() string {
		now := count(b.t)
		left, _ := filepath.Glob(filepath.Join(RunDir(b.layout), "*.json"))
		sockets, _ := filepath.Glob(filepath.Join(RunDir(b.layout), "*", "plugin-dir*"))
		groups, _ := filepath.Glob(filepath.Join("/sys/fs/cgroup", "*", filepath.Dir(cgroup(b.layout, hostile.Kind, hostile.Name))))
		if now.goroutines > before.goroutines || now.fds > before.fds || len(left)+len(sockets)+len(groups) > 0 {
			buf := make([]byte, 1<<18)
			return fmt.Sprintf("%+v before, %+v now, records %v, sockets %v, cgroups %v\n%s", before, now, left, sockets, groups, buf[:runtime.Stack(buf, true)])
		}
		return ""
	})
}

const playHost, playGood = "play-host", "play-good"

// hostMain is a host in a process of its own, to be killed: it supervises a trap
// and tells the plugin's pid.
func hostMain(args []string) int {
	layout := datadir.Layout{Root: args[0], Run: args[1]}
	time.AfterFunc(2*time.Minute, func() { os.Exit(9) })
	h := New(Deps{
		Layout: layout, Source: &source{now: trap(program.Lifetime(args[2]), args[3:]...)},
		Log: hclog.New(&hclog.LoggerOptions{Output: os.Stderr}), Path: "/bin",
	})
	s := h.Supervise(Spec{Kind: hostile.Kind, Name: hostile.Name})
	if err := errors.Join(s.Start(context.Background()), s.Ready(context.Background())); err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println(s.State().PID)
	select {}
}

// killedHost runs a host with the plugin, kills it, and returns the plugin's pid.
func (b *bench) killedHost(lifetime program.Lifetime, ways ...string) int {
	b.t.Helper()
	path, err := self()
	if err != nil {
		b.t.Fatal(err)
	}
	cmd := exec.Command(path, append([]string{playHost, b.layout.Root, b.layout.Run, string(lifetime)}, ways...)...)
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Fscan(out, &pid); err != nil {
		b.t.Errorf("host: %v", err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	return pid
}
