package runner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/pluginhost/program"
)

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(file("target", 0o755), link); err != nil {
		t.Fatal(err)
	}
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o755); err != nil {
		t.Fatal(err)
	}
	foreign := file("foreign", 0o755)
	if err := os.Chown(foreign, 65534, 65534); err != nil {
		t.Skip("needs root")
	}
	const sum = "a8076d3d28d21e02012b20eaf7dbf75409a6277134439025f282e368e3305abf"
	for _, c := range []struct{ path, sum, want string }{
		{filepath.Join(dir, "none"), sum, "no such file"},
		{link, sum, "it is a symbolic link"},
		{fifo, sum, "it is no regular file"},
		{dir, sum, "it is no regular file"},
		{foreign, sum, "it belongs to user id 65534, expected is 0 or 0"},
		{file("group", 0o775), sum, "its mode is 0775: others than its owner may change it"},
		{file("other", 0o757), sum, "its mode is 0757"},
		{file("data", 0o644), sum, "its mode is 0644: it may not be executed"},
		{file("wrong", 0o755), strings.Repeat("0", 64), "its SHA-256 is " + sum + ", expected is 0000"},
		{file("no-digest", 0o755), "", "expected is "},
	} {
		t.Run(filepath.Base(c.path), func(t *testing.T) {
			b, err := Open(program.Program{Path: c.path, SHA256: c.sum})
			if err == nil {
				_ = b.Close()
				t.Fatal("accepted")
			}
			if !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.path) || config.Hint(err) == "" {
				t.Errorf("%v\nhint %q\nwant %s", err, config.Hint(err), c.want)
			}
		})
	}
	b, err := Open(program.Program{Path: file("right", 0o755), SHA256: strings.ToUpper(sum)})
	if err != nil {
		t.Fatal(err)
	}
	if !b.script {
		t.Error("a script is not seen as one")
	}
	_ = b.Close()
}

// TestExecutesWhatWasVerified exchanges the file between the check and the
// start.
func TestExecutesWhatWasVerified(t *testing.T) {
	spec := trap(t, program.Host)
	path := filepath.Join(t.TempDir(), "plugin")
	if err := os.Link(spec.Program.Path, path); err != nil {
		raw, err := os.ReadFile(spec.Program.Path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, raw, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	spec.Program.Path = path
	bin, err := Open(spec.Program)
	if err != nil {
		t.Fatal(err)
	}
	defer bin.Close()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("#!/bin/sh\ntouch stolen\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	p, err := Launch(t.Context(), spec, bin)
	if err != nil {
		t.Fatal(err)
	}
	if exe, err := exeDigest(p.PID()); err != nil || exe != spec.Program.SHA256 {
		t.Errorf("runs %s, %v", exe, err)
	}
	if err := p.Kill(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(spec.StateDir, "stolen")); !errors.Is(err, os.ErrNotExist) {
		t.Error("the other file was executed")
	}
}

func TestExecErrors(t *testing.T) {
	for _, c := range []struct{ name, content, want, hint string }{
		{"not a program", "\x00\x01\x02\x03 nothing", "exec format error", "not built for this machine"},
		{"no interpreter", "#!/no/such/interpreter\n", "no such file", "interpreter"},
	} {
		t.Run(c.name, func(t *testing.T) {
			spec := trap(t, program.Host)
			spec.Program.Path = filepath.Join(t.TempDir(), "plugin")
			if err := os.WriteFile(spec.Program.Path, []byte(c.content), 0o755); err != nil {
				t.Fatal(err)
			}
			spec.Program.SHA256 = sumOf(t, spec.Program.Path)
			bin, err := Open(spec.Program)
			if err != nil {
				t.Fatal(err)
			}
			defer bin.Close()
			_, err = Launch(t.Context(), spec, bin)
			if err == nil || !strings.Contains(err.Error(), "execute "+spec.Program.Path) || !strings.Contains(err.Error(), c.want) || !strings.Contains(config.Hint(err), c.hint) {
				t.Errorf("%v\nhint %q", err, config.Hint(err))
			}
			if left, _ := filepath.Glob(filepath.Join(spec.Dir, "*")); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

func sumOf(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sum, err := digest(f)
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

func TestLaunchCancelled(t *testing.T) {
	for _, delay := range []time.Duration{0, time.Millisecond, 10 * time.Millisecond, 50 * time.Millisecond} {
		spec := trap(t, program.Node, "hang-at-start")
		bin, err := Open(spec.Program)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), delay)
		p, err := Launch(ctx, spec, bin)
		cancel()
		if err == nil {
			t.Errorf("after %v: launched, pid %d", delay, p.PID())
		}
		_ = bin.Close()
		if ids := strays(filepath.Dir(spec.Dir)); len(ids) > 0 {
			t.Errorf("after %v: left %v", delay, ids)
		}
		if _, err := os.Stat(spec.Record); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("after %v: record left", delay)
		}
	}
}

func TestLimits(t *testing.T) {
	spec := trap(t, program.Host)
	spec.Limits.NoFile = 333
	p := launched(t, spec)
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", p.PID()))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Max core file size 0 0", "Max open files 333 333"} {
		if !strings.Contains(strings.Join(strings.Fields(string(raw)), " "), want) {
			t.Errorf("no %q in\n%s", want, raw)
		}
	}
	if err := p.Kill(); err != nil {
		t.Error(err)
	}
	if e := p.Exit(); e.String() != "signal: killed" || e.Time.IsZero() {
		t.Errorf("exit %v", e)
	}
}

func TestCgroup(t *testing.T) {
	spec := trap(t, program.Host)
	spec.Cgroup, spec.Limits = "kelson-plugins/test-"+filepath.Base(filepath.Dir(filepath.Dir(spec.Dir))), Limits{PIDs: 100, Memory: 1 << 30}
	p := launched(t, spec)
	dirs := p.group.dirs
	if len(dirs) == 0 {
		t.Skip("no cgroup can be made here")
	}
	if members := p.group.members(); len(members) == 0 || members[0] != p.PID() {
		t.Errorf("members %v of %v, want %d", members, dirs, p.PID())
	}
	if err := p.End(t.Context(), 10*time.Second); err != nil {
		t.Error(err)
	}
	for _, dir := range dirs {
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s left", dir)
		}
	}
}

// TestReclaimWithoutRecord has a host that was killed before it noted the
// process.
func TestReclaimWithoutRecord(t *testing.T) {
	spec := trap(t, program.Node)
	p := launched(t, spec)
	if err := os.Remove(spec.Record); err != nil {
		t.Fatal(err)
	}
	again, why, err := Reclaim(t.Context(), spec)
	if again != nil || err != nil || !strings.Contains(why, fmt.Sprint(p.PID())) {
		t.Errorf("%v, %q, %v", again, why, err)
	}
	select {
	case <-p.Ended():
	case <-time.After(20 * time.Second):
		t.Error("runs on")
	}
	if left, _ := filepath.Glob(filepath.Join(spec.Dir, "plugin-dir*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestReclaimNothing(t *testing.T) {
	spec := trap(t, program.Node)
	for _, content := range []string{"", "{", "null", `{"pid":-1}`, `{"pid":1}`, fmt.Sprintf(`{"pid":%d}`, os.Getpid())} {
		if err := os.MkdirAll(filepath.Join(spec.Dir, "plugin-dir1"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(spec.Record, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if p, why, err := Reclaim(t.Context(), spec); p != nil || why != "" || err != nil {
			t.Errorf("%q: %v, %q, %v", content, p, why, err)
		}
		for _, path := range []string{spec.Record, filepath.Join(spec.Dir, "plugin-dir1")} {
			if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%q: %s left", content, path)
			}
		}
	}
}

func TestDetachedOutput(t *testing.T) {
	spec := trap(t, program.Node, "bad-json")
	spec.Secrets = []string{"ordinary"}
	p := launched(t, spec)
	if out := strings.Join(p.Output(100), "\n"); !strings.Contains(out, `{"@message":"***","@level":"warn","n":3}`) || strings.ContainsAny(out, "\x00\x1b") {
		t.Errorf("output %q", out)
	}
	if err := p.Detach(); err != nil {
		t.Fatal(err)
	}
	if err := p.Detach(); err != nil {
		t.Error(err)
	}
	again, _, err := Reclaim(t.Context(), spec)
	if err != nil || again == nil {
		t.Fatalf("not taken over: %v", err)
	}
	if err := again.End(t.Context(), 10*time.Second); err != nil {
		t.Error(err)
	}
	if again.Exit().Code != 0 {
		t.Errorf("exit %v", again.Exit())
	}
}

func TestRunDirTooLong(t *testing.T) {
	spec := trap(t, program.Host)
	spec.Dir += strings.Repeat("x", 80)
	if err := spec.prepare(); err == nil || !strings.Contains(err.Error(), "at most 107 are possible") {
		t.Error(err)
	}
}

func TestShrinkLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	f, err := openLog(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	line := []byte(strings.Repeat("x", 1<<20-1) + "\n")
	for range 17 {
		if _, err := f.Write(line); err != nil {
			t.Fatal(err)
		}
	}
	if err := shrinkLog(path); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte("next\n")); err != nil {
		t.Fatal(err)
	}
	if got := lastLines(path, 3, redactor{}); fmt.Sprint(got) != "[next]" {
		t.Errorf("last lines %v", got)
	}
	if info, err := os.Stat(path + ".1"); err != nil || info.Size() != maxLog {
		t.Errorf("%v, %v", info, err)
	}
}
