package kernel

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestSearchPath(t *testing.T) {
	for _, c := range []struct {
		base    string
		bundled bool
		want    string
	}{
		{"/usr/bin:/bin", false, "/p/bin:/usr/bin:/bin:/p/bin/aux"},
		{"/usr/bin:/bin", true, "/p/bin:/p/bin/aux:/usr/bin:/bin"},
		{"/p/bin:/usr/bin:/usr/bin:", false, "/p/bin:/usr/bin:/p/bin/aux"},
	} {
		if got := SearchPath("/p/bin", c.base, c.bundled); got != c.want {
			t.Errorf("%+v: got %s", c, got)
		}
	}
	if got := SearchPath("/p/bin", "", false); !strings.Contains(got, ":/usr/sbin:") {
		t.Errorf("no default path: %s", got)
	}
}

func TestToolsPreferTheFirst(t *testing.T) {
	first, second := t.TempDir(), t.TempDir()
	for _, dir := range []string{first, second} {
		if err := os.WriteFile(filepath.Join(dir, "tool"), []byte("#!/bin/sh\ncat; echo "+dir+"; echo broken >&2; exit $1\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(first, "other"), nil, 0o644); err != nil { // not executable
		t.Fatal(err)
	}
	tools := Tools{Path: first + ":" + second + ":" + os.Getenv("PATH")}
	out, err := tools.Run(t.Context(), "stdin\n", "tool", "0")
	if err != nil || out != "stdin\n"+first+"\n" {
		t.Errorf("%q, %v", out, err)
	}
	if _, err := tools.Run(t.Context(), "", "tool", "3"); err == nil || !strings.Contains(err.Error(), "exit status 3: broken") {
		t.Errorf("reason is missing: %v", err)
	}
	if tools.Find("other") != "" {
		t.Error("found what is not executable")
	}
	if _, err := (Tools{}).Run(t.Context(), "", "sh"); err == nil {
		t.Error("the zero value finds programs")
	}
}

func TestMountedControllers(t *testing.T) {
	mountinfo := `25 23 0:22 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755
26 25 0:23 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
27 25 0:24 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct
28 25 0:25 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
29 25 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
`
	if got := strings.Join(mountedControllers(mountinfo), " "); got != "cpu cpuacct memory" {
		t.Error(got)
	}
	if got := mountedControllers("nonsense\n - \n"); got != nil {
		t.Error(got)
	}
}

func TestStatusField(t *testing.T) {
	if got := statusField("Name:\tx\nCapEff:\t000001fffeffffff\n", "CapEff"); got != "000001fffeffffff" {
		t.Error(got)
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

func TestProbesLeaveNothing(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	tools := Tools{Path: os.Getenv("PATH")}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	facts := Probe(t.Context(), tools, dir)
	if facts.Cgroups.Version == 0 || !HasCapability(unix.CAP_SYS_ADMIN) {
		t.Errorf("%+v", facts)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
	if after, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Count(string(after), "overlay-probe") != strings.Count(string(mounts), "overlay-probe") {
		t.Errorf("mounts left: %v", err)
	}
	if tools.Find("nft") != "" {
		if out, err := tools.Run(t.Context(), "", "nft", "list", "tables"); err != nil || strings.Contains(out, "kelson-probe") {
			t.Errorf("tables left: %s, %v", out, err)
		}
	}
}

func TestTryOverlaySaysWhy(t *testing.T) {
	needRoot(t)
	if err := TryOverlay(filepath.Join(t.TempDir(), "missing")); err == nil {
		t.Error("overlay on a folder that is not there")
	}
	if err := TryOverlay("/proc"); err == nil {
		t.Error("overlay on proc")
	}
}

func TestCgroupRoundTrip(t *testing.T) {
	needRoot(t)
	c := DetectCgroups()
	if c.Version != 1 {
		t.Skip("made for version 1")
	}
	const name = "/kelson-kernel-test/inner"
	for range 2 {
		if err := PrepareCgroup(c, name); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := RemoveCgroup(c, "/kelson-kernel-test"); err != nil {
			t.Error(err)
		}
		if left, _ := filepath.Glob("/sys/fs/cgroup/*/kelson-kernel-test"); len(left) != 0 {
			t.Errorf("left %v", left)
		}
	})
	if raw, err := os.ReadFile("/sys/fs/cgroup/cpuset" + name + "/cpuset.mems"); err != nil || strings.TrimSpace(string(raw)) == "" {
		t.Errorf("cpuset is empty: %v", err)
	}
	if _, err := os.Stat("/sys/fs/cgroup/memory" + name); err != nil {
		t.Error(err)
	}
}
