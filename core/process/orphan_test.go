package process

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// startHost runs a process that supervises a deaf child, and returns it with
// the child's pid and the path of its record.
func startHost(t *testing.T, deathSignal string) (host *exec.Cmd, child int, record string) {
	t.Helper()
	dir := t.TempDir()
	pidFile, record := filepath.Join(dir, "child.pid"), filepath.Join(dir, "child.json")
	log := filepath.Join(dir, "child.log")
	host = exec.Command(self(), "play", "host", pidFile, record, log, deathSignal)
	if err := host.Start(); err != nil {
		t.Fatal(err)
	}
	child = pidIn(t, pidFile)
	eventually(t, "child deaf", contains(log, "ignoring"))
	t.Cleanup(func() {
		_ = host.Process.Kill()
		_ = host.Wait()
		if r, err := ReadRecord(record); err == nil && r.Alive() {
			_ = syscall.Kill(child, syscall.SIGKILL)
		}
	})
	return host, child, record
}

func TestKilledHostLeavesNoOrphan(t *testing.T) {
	host, child, record := startHost(t, "")
	if !running(child) {
		t.Fatal("child does not run")
	}
	if err := host.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "orphan", gone(child))
	if err := Reap(record); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(record); !os.IsNotExist(err) {
		t.Errorf("stale record left: %v", err)
	}
}

// TestNextStartEndsLeftover lets a child survive its host (it ignores the death
// signal chosen here) and starts a successor on the same record.
func TestNextStartEndsLeftover(t *testing.T) {
	host, child, record := startHost(t, strconv.Itoa(int(syscall.SIGTERM)))
	if err := host.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = host.Wait()
	if !running(child) {
		t.Fatal("the child was to survive here")
	}
	spec := player(t, "sleep")
	spec.PIDFile = record
	c, _ := start(t, spec)
	if running(child) {
		t.Error("leftover still runs after the next start")
	}
	if r, err := ReadRecord(record); err != nil || r.PID != c.PID() {
		t.Errorf("record %+v, %v: want the successor's", r, err)
	}
}

func TestReapSparesOthers(t *testing.T) {
	c, _ := start(t, player(t, "sleep"))
	mine, err := Identify("test-child", c.PID())
	if err != nil {
		t.Fatal(err)
	}
	if !mine.Alive() {
		t.Error("running child is not alive")
	}
	for _, tc := range []struct {
		name   string
		change func(*Record)
	}{
		{"start time", func(r *Record) { r.StartTime++ }},
		{"boot", func(r *Record) { r.BootID = "other" }},
		{"executable", func(r *Record) { r.Exe = "/bin/other" }},
		{"pid 1", func(r *Record) { r.PID = 1 }},
		{"ourselves", func(r *Record) { *r, _ = Identify("self", os.Getpid()) }},
		{"no such process", func(r *Record) { r.PID = 1 << 22 }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := mine
			tc.change(&r)
			path := filepath.Join(t.TempDir(), "r.json")
			writeFile(path, fmt.Sprintf(`{"name":%q,"pid":%d,"startTime":%d,"bootID":%q,"exe":%q}`, r.Name, r.PID, r.StartTime, r.BootID, r.Exe))
			if err := Reap(path); err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(path); !os.IsNotExist(err) {
				t.Errorf("record left: %v", err)
			}
		})
	}
	if c.Restarts() != 0 || !running(mine.PID) {
		t.Error("a process was ended that the record does not name")
	}
}

func TestReapBadRecords(t *testing.T) {
	dir := t.TempDir()
	if err := Reap(filepath.Join(dir, "none")); err != nil {
		t.Errorf("no record: %v", err)
	}
	for _, content := range []string{"", "{", "null", `{"pid":-1}`} {
		path := filepath.Join(dir, "r")
		writeFile(path, content)
		if err := Reap(path); err != nil {
			t.Errorf("%q: %v", content, err)
		}
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("%q: record left", content)
		}
	}
}

// TestForkingThreadStays looks for the lock in the runtime's own report: the
// death signal follows the thread that forked, so that the thread must stay.
// (Ending all threads does not show it: the one that forked tends to sit in the
// wait for the child, by accident.)
func TestForkingThreadStays(t *testing.T) {
	start(t, player(t, "sleep"))
	eventually(t, "lock", func() string {
		buf := make([]byte, 1<<20)
		buf = buf[:runtime.Stack(buf, true)]
		for g := range strings.SplitSeq(string(buf), "\n\n") {
			if strings.Contains(g, "(*Child).supervise(") && strings.Contains(g, "[select, locked to thread]") {
				return ""
			}
		}
		return "the supervisor holds no thread:\n" + string(buf)
	})
}

func TestStartTime(t *testing.T) {
	fields := " S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20 21"
	for _, c := range []struct {
		stat string
		want uint64
		ok   bool
	}{
		{"7 (sh)" + fields, 4242, true},
		{"7 (a) b (c) 1 2)" + fields, 4242, true},
		{"7 (sh) S 1 2", 0, false},
		{"", 0, false},
	} {
		got, err := startTime([]byte(c.stat))
		if got != c.want || (err == nil) != c.ok {
			t.Errorf("%q: %d, %v", c.stat, got, err)
		}
	}
}

func FuzzStartTime(f *testing.F) {
	f.Add([]byte("7 (a) b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242"))
	f.Fuzz(func(_ *testing.T, stat []byte) { _, _ = startTime(stat) }) // must not panic
}
