package preflight

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kelson-io/kelson/core/config"
)

// inNamespaces runs the test again as a process with a network and a mount
// namespace of its own, which vanish with it. It returns false in the outer
// process, when the inner one has passed.
func inNamespaces(t *testing.T) bool {
	t.Helper()
	if os.Getenv("KELSON_TEST_INNER") == t.Name() {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Fatal(err)
		}
		return true
	}
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: needs root")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=3m")
	cmd.Env = append(os.Environ(), "KELSON_TEST_INNER="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(out, []byte("--- SKIP")) {
		t.Skip("skipped inside, see above")
	}
	return false
}

// TestRunNamesWhatABadHostLacks takes from a host what a node needs, for this
// mount and network namespace alone, and expects each lack by name.
func TestRunNamesWhatABadHostLacks(t *testing.T) {
	if !inNamespaces(t) {
		return
	}
	lacksMemory := "without the memory controller"
	if err := unix.Unmount("/sys/fs/cgroup/memory", unix.MNT_DETACH); err != nil {
		lacksMemory = "no control groups" // version 2: all or nothing
		if err := unix.Unmount("/sys/fs/cgroup", unix.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
	}
	empty := t.TempDir() // no nft, iptables, modprobe
	// Overlay refuses the proc file system as its upper layer, as some others do.
	results := Run(t.Context(), Options{DataDir: "/proc/kelson", Search: empty, Agent: true})
	for _, want := range []struct {
		name, detail, hint string
		status             Status
	}{
		{"cgroups", lacksMemory, "cgroup", Failed},
		{"overlayfs", "/proc", "the native snapshotter is used", Warning},
		{"packet-filter", "neither nftables (nft: executable file not found in $PATH) nor iptables (iptables-restore: executable file not found in $PATH)", "load the kernel modules nf_tables", Failed},
		{"data-dir", "cannot write to /proc", "--data-dir", Failed},
		{"default-route", "no default route", "--node-ip", Warning},
	} {
		r := find(results, want.name)
		if r.Status != want.status || !strings.Contains(r.Detail, want.detail) || !strings.Contains(r.Hint, want.hint) {
			t.Errorf("%s: got %+v, want %+v", want.name, r, want)
		}
	}
	err := Err(results)
	for _, name := range []string{"cgroups: ", "packet-filter: ", "data-dir: "} {
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("the boot would not name %sin %v", name, err)
		}
	}
	if hint := config.Hint(err); !strings.Contains(hint, "cgroup") || !strings.Contains(hint, "nf_tables") {
		t.Errorf("remedies: %s", hint)
	}
}

func TestRunNamesMissingIPv6(t *testing.T) {
	if !inNamespaces(t) {
		return
	}
	const key = "/proc/sys/net/ipv6/conf/all/disable_ipv6"
	if err := os.WriteFile(key, []byte("1"), 0o644); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	results := Run(t.Context(), Options{DataDir: t.TempDir(), Agent: true, IPv6: true})
	if r := find(results, "ipv6"); r.Status != Failed || r.Hint == "" {
		t.Errorf("%+v", r)
	}
}
