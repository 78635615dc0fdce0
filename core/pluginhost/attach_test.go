package pluginhost

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kelson-io/kelson/core/pluginhost/internal/hostile"
	"github.com/kelson-io/kelson/core/pluginhost/program"
	"github.com/kelson-io/kelson/core/pluginhost/runner"
)

func TestNodeLifetimeSurvivesKilledHost(t *testing.T) {
	b := newBench(t, trap(program.Node))
	pid := b.killedHost(program.Node)
	if !running(pid) {
		t.Fatal("the plugin ended with its host")
	}
	before := count(t)
	s := b.start()
	b.ready(s)
	if st := s.State(); st.PID != pid || !st.Attached || st.Restarts != 0 {
		t.Errorf("not taken over: %+v, was pid %d", st, pid)
	}
	// What it does not report as a child is noticed as well.
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a new process", func() string {
		if st := s.State(); st.PID == pid || st.Phase != Ready {
			return fmt.Sprintf("%+v", st)
		}
		return ""
	})
	if st := s.State(); st.Attached || st.LastExit != "ended" {
		t.Errorf("state %+v", st)
	}
	if err := s.End(t.Context()); err != nil {
		t.Error(err)
	}
	b.nothingLeft(before)
}

func TestHostLifetimeEndsWithKilledHost(t *testing.T) {
	b := newBench(t, trap(program.Host, "ignore-sigterm"))
	pid := b.killedHost(program.Host, "ignore-sigterm")
	eventually(t, "end", func() string {
		if running(pid) {
			return "runs"
		}
		return ""
	})
	before := count(t)
	s := b.start()
	b.ready(s)
	if err := s.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	b.nothingLeft(before)
}

// TestPrintingOutlivesTheHost has plugins that write without end while nobody
// reads: pipes would block or end them.
func TestPrintingOutlivesTheHost(t *testing.T) {
	for _, way := range []string{"flood-stderr", "flood-stdout"} {
		t.Run(way, func(t *testing.T) {
			b := newBench(t, trap(program.Node, way))
			pid := b.killedHost(program.Node, way)
			log := LogFile(b.layout, hostile.Kind, hostile.Name)
			size := func() int64 {
				info, err := os.Stat(log)
				if err != nil {
					t.Fatal(err)
				}
				return info.Size()
			}
			first := size()
			eventually(t, "more output", func() string {
				if size() <= first {
					return fmt.Sprint(first)
				}
				return ""
			})
			if !running(pid) {
				t.Error("ended without its host")
			}
			ended, err := runner.EndAll(t.Context(), RunDir(b.layout))
			if want := fmt.Sprintf("[cni(trap) 1.2.3, pid %d]", pid); fmt.Sprint(ended) != want || err != nil || running(pid) {
				t.Errorf("ended %v, %v; want %s", ended, err, want)
			}
		})
	}
}

// TestFiftyReattachments takes the same process over again and again.
func TestFiftyReattachments(t *testing.T) {
	b := newBench(t, trap(program.Node))
	s := b.start()
	b.ready(s)
	pid := s.State().PID
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	fds := func() int {
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	eventually(t, "connections closed", func() string {
		if n := fds(); n > 12 {
			return fmt.Sprint(n)
		}
		return ""
	})
	before, theirs := count(t), fds()
	for i := range 50 {
		s := b.host().Supervise(b.spec)
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		b.ready(s)
		if st := s.State(); st.PID != pid || !st.Attached || st.Restarts != 0 {
			t.Fatalf("take-over %d: %+v", i, st)
		}
		if err := s.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "leak", func() string {
		now := count(t)
		if now.goroutines > before.goroutines || now.fds > before.fds || fds() > theirs {
			return fmt.Sprintf("host %+v, then %+v; plugin %d descriptors, then %d", before, now, theirs, fds())
		}
		return ""
	})
	// The configuration stayed the same, and so did its generation.
	if got := b.state("configured"); got != strings.Repeat("1 \n", 51) {
		t.Errorf("configured:\n%s", got)
	}
	last := b.start()
	b.ready(last)
	if err := last.End(t.Context()); err != nil {
		t.Error(err)
	}
	if running(pid) {
		t.Error("runs after End")
	}
}

func TestChangedConfigurationAtTakeOver(t *testing.T) {
	for _, c := range []struct {
		way  string
		same bool
	}{{"plain", true}, {"restart-later", false}} {
		t.Run(c.way, func(t *testing.T) {
			b := newBench(t, trap(program.Node, c.way))
			b.spec.Config = json.RawMessage(`{"a":1}`)
			s := b.start()
			b.ready(s)
			pid := s.State().PID
			if err := s.Stop(t.Context()); err != nil {
				t.Fatal(err)
			}
			b.spec.Config = json.RawMessage(`{"a":2}`)
			s = b.start()
			b.ready(s)
			if st := s.State(); (st.PID == pid) != c.same || st.Restarts != 0 {
				t.Errorf("was pid %d: %+v", pid, st)
			}
			if got := b.state("configured"); !strings.HasPrefix(got, "1 {\"a\":1}\n2 {\"a\":2}\n") {
				t.Errorf("configured:\n%s", got)
			}
		})
	}
}

// TestNotTakenOver changes one thing each that must agree.
func TestNotTakenOver(t *testing.T) {
	type fields = map[string]any
	for _, c := range []struct {
		name   string
		record func(fields)
		source func(*program.Program)
		spared bool // the process in the record is not the one: it must live
		why    string
	}{
		{"start time", func(f fields) { f["startTime"] = 1 }, nil, true, ""},
		{"boot", func(f fields) { f["bootID"] = "another" }, nil, true, ""},
		{"pid of a stranger", func(f fields) { f["pid"] = os.Getppid() }, nil, true, ""},
		{"running file", func(f fields) { f["exe"] = strings.Repeat("0", 64) }, nil, false, "what it runs has the digest"},
		{"socket elsewhere", func(f fields) { f["socket"] = "/run/containerd/containerd.sock" }, nil, false, "is not in"},
		{"no socket", func(f fields) { f["socket"] = "" }, nil, false, "its socket"},
		{"protocol", func(f fields) { f["protocol"] = 9 }, nil, false, "it speaks protocol 9"},
		{"lifetime", func(f fields) { f["lifetime"] = "host" }, nil, false, "its lifetime is host"},
		{"pinned digest", nil, func(p *program.Program) { p.Version = "2.0.0"; p.Args = hostile.Args("version=2.0.0") }, false, "expected is version 2.0.0"},
		{"torn record", func(f fields) { clear(f) }, nil, false, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, trap(program.Node))
			s := b.start()
			b.ready(s)
			pid := s.State().PID
			if err := s.Stop(t.Context()); err != nil {
				t.Fatal(err)
			}
			path := PluginRunDir(b.layout, hostile.Kind, hostile.Name) + ".json"
			if c.record != nil {
				raw, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				f := fields{}
				if err := json.Unmarshal(raw, &f); err != nil {
					t.Fatal(err)
				}
				c.record(f)
				if raw, err = json.Marshal(f); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, raw, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if c.source != nil {
				// Another file, as an upgrade brings it.
				next := b.source.now
				c.source(&next)
				next.Path = filepath.Join(t.TempDir(), "next")
				next.SHA256 = copyFile(t, b.source.now.Path, next.Path, "\n")
				b.source.now = next
			}
			before := count(t)
			s = b.start()
			b.ready(s)
			st := s.State()
			if st.PID == pid || st.Attached || st.Restarts != 0 {
				t.Errorf("taken over: %+v", st)
			}
			// With a record that names another process the old one is found by its run dir.
			if running(pid) {
				t.Error("the old process runs beside the new one")
			}
			if c.why != "" && !strings.Contains(b.log.String(), c.why) {
				t.Errorf("no reason %q in the log", c.why)
			}
			if c.spared && !running(os.Getppid()) {
				t.Error("a stranger was ended")
			}
			if err := s.End(t.Context()); err != nil {
				t.Error(err)
			}
			b.nothingLeft(before)
		})
	}
}

// TestForeignListener has somebody else listen where the plugin did.
func TestForeignListener(t *testing.T) {
	b := newBench(t, trap(program.Node))
	s := b.start()
	b.ready(s)
	pid := s.State().PID
	socket := s.process.Record().Socket
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(socket); err != nil {
		t.Fatal(err)
	}
	thief := exec.Command("python3", "-c", "import socket,sys,time\ns=socket.socket(socket.AF_UNIX)\ns.bind(sys.argv[1])\ns.listen()\nprint(flush=True)\ntime.sleep(60)", socket)
	out, err := thief.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := thief.Start(); err != nil {
		t.Skip("no Python to listen with")
	}
	t.Cleanup(func() { _ = thief.Process.Kill(); _ = thief.Wait() })
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	s = b.start()
	b.ready(s)
	if st := s.State(); st.PID == pid || running(pid) {
		t.Errorf("taken over: %+v", st)
	}
	if want := fmt.Sprintf("the listener of %s is pid %d", socket, thief.Process.Pid); !strings.Contains(b.log.String(), want) {
		t.Errorf("not in the log: %s", want)
	}
}

func copyFile(t *testing.T, from, to, tail string) (sum string) {
	t.Helper()
	raw, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	raw = append(raw, tail...)
	if err := os.WriteFile(to, raw, 0o755); err != nil {
		t.Fatal(err)
	}
	return hexSum(raw)
}
