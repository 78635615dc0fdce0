package main

import (
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/kelson-io/kelson/core/datadir/payload"
)

// payloadDir returns the built tree, which `make test` names.
func payloadDir(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("KELSON_PAYLOAD")
	switch {
	case dir != "":
		return dir
	case os.Getenv("CI") == "true":
		t.Fatal("KELSON_PAYLOAD does not name the built payload; run make test")
	}
	t.Skip("SKIPPED: KELSON_PAYLOAD does not name the built payload; run make test")
	return ""
}

// auxRuns says, for each tool of bin/aux, how to run it harmlessly and what it
// then prints.
var auxRuns = map[string]struct {
	args []string
	want string
	code int
}{
	"nft": {[]string{"--version"}, "nftables", 0}, "ip": {[]string{"-V"}, "ip utility", 0},
	"conntrack": {[]string{"--version"}, "conntrack v", 0}, "mount": {[]string{"--version"}, "mount from", 0},
	"umount": {[]string{"--version"}, "umount from", 0}, "losetup": {[]string{"--version"}, "losetup from", 0},
	"blkid": {[]string{"--version"}, "blkid from", 0}, "nsenter": {[]string{"--version"}, "nsenter from", 0},
	"sysctl": {[]string{"--version"}, "sysctl from", 0}, "modprobe": {[]string{"--version"}, "kmod version", 0},
	"lsmod": {[]string{"--help"}, "Usage: lsmod", 1}, "insmod": {[]string{"--version"}, "kmod version", 0},
	"rmmod": {[]string{"--version"}, "kmod version", 0}, "modinfo": {[]string{"--version"}, "kmod version", 0},
	"depmod": {[]string{"--version"}, "kmod version", 0}, "xtables-nft-multi": {[]string{"iptables", "--version"}, "nf_tables", 0},
	"iptables": {[]string{"-m", "comment", "-h"}, "--comment", 0}, "ip6tables": {[]string{"-m", "mark", "-h"}, "--mark", 0},
	"iptables-nft": {[]string{"--version"}, "nf_tables", 0}, "ip6tables-nft": {[]string{"--version"}, "nf_tables", 0},
	"iptables-save": {[]string{"--version"}, "nf_tables", 0}, "ip6tables-save": {[]string{"--version"}, "nf_tables", 0},
	"iptables-restore": {[]string{"--version"}, "nf_tables", 0}, "ip6tables-restore": {[]string{"--version"}, "nf_tables", 0},
	"iptables-nft-save": {[]string{"--version"}, "nf_tables", 0}, "ip6tables-nft-save": {[]string{"--version"}, "nf_tables", 0},
	"iptables-nft-restore": {[]string{"--version"}, "nf_tables", 0}, "ip6tables-nft-restore": {[]string{"--version"}, "nf_tables", 0},
}

// Every tool runs in a root that holds nothing but bin/aux: no loader, no
// libraries, no /proc, no /etc.
func TestAuxToolsNeedNothingOfTheHost(t *testing.T) {
	root := t.TempDir()
	if err := os.CopyFS(filepath.Join(root, "moved"), os.DirFS(filepath.Join(payloadDir(t), "bin", "aux"))); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(filepath.Join(root, "moved"))
	if err != nil {
		t.Fatal(err)
	}
	left := maps.Clone(auxRuns)
	for _, e := range entries {
		if e.IsDir() {
			continue
		}
		delete(left, e.Name())
		t.Run(e.Name(), func(t *testing.T) {
			run, ok := auxRuns[e.Name()]
			if !ok {
				t.Fatal("no test for this tool")
			}
			cmd := exec.Command("/moved/"+e.Name(), run.args...)
			cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
			cmd.Dir, cmd.Env = "/", []string{}
			out, err := cmd.CombinedOutput()
			if cmd.ProcessState.ExitCode() != run.code || !strings.Contains(string(out), run.want) {
				t.Errorf("%v, want exit code %d and %q in:\n%s", err, run.code, run.want, out)
			}
		})
	}
	for name := range left {
		t.Errorf("bin/aux has no %s", name)
	}
}

// In a network namespace of its own, the tools change real rules and links.
func TestAuxToolsWork(t *testing.T) {
	aux := filepath.Join(payloadDir(t), "bin", "aux")
	script := `set -e
ip link set lo up
iptables -t nat -A OUTPUT -p tcp -m comment --comment kelson -j RETURN
iptables-save | grep -q kelson
iptables-save | iptables-restore
ip6tables -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT
nft add table inet kelson
nft list tables | grep -q kelson
conntrack -L
sysctl -n net.ipv4.ip_forward
mount -t tmpfs none /mnt
umount /mnt
echo all done`
	cmd := exec.Command("/bin/sh", "-c", script)
	cmd.Env = []string{"PATH=" + aux + ":/usr/bin:/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Unshareflags: syscall.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "all done") {
		t.Errorf("%v:\n%s", err, out)
	}
}

func TestBinariesStandAloneAndSayTheirVersion(t *testing.T) {
	bin := filepath.Join(payloadDir(t), "bin")
	root := t.TempDir()
	for _, tt := range []struct {
		name string
		args []string
		want []string
	}{
		{"runc", []string{"--version"}, []string{"1.5.2", "libseccomp"}},
		{"containerd-shim-runc-v2", []string{"-v"}, []string{"v2.4.2"}},
		{"crictl", []string{"--version"}, []string{"v1.36.0"}},
		{"kelson-host", []string{"version"}, []string{"+kelson"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			copyFile(t, filepath.Join(bin, tt.name), filepath.Join(root, tt.name))
			cmd := exec.Command("/"+tt.name, tt.args...)
			cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
			cmd.Dir = "/"
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v:\n%s", err, out)
			}
			for _, want := range tt.want {
				if !strings.Contains(string(out), want) {
					t.Errorf("no %q in:\n%s", want, out)
				}
			}
		})
	}
}

func TestCNIPluginsAnswerByName(t *testing.T) {
	dir := filepath.Join(payloadDir(t), "cni")
	plugins, err := os.ReadDir(dir)
	want := len(cniPlugins()) + 1 // the host's shim
	if err != nil || len(plugins) != want {
		t.Fatalf("%d plugins, err %v, want %d", len(plugins), err, want)
	}
	for _, p := range plugins {
		cmd := exec.Command(filepath.Join(dir, p.Name()))
		cmd.Env = []string{"CNI_COMMAND=VERSION"}
		cmd.Stdin = strings.NewReader(`{"cniVersion":"1.0.0"}`)
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), `"supportedVersions"`) {
			t.Errorf("%s: %v:\n%s", p.Name(), err, out)
		}
	}
	out, err := exec.Command(filepath.Join(dir, "..", "bin", "cni")).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || !strings.Contains(string(out), "host-local") {
		t.Errorf("under its own name: %v, want an error that lists the plugins:\n%s", err, out)
	}
}

// The list of checksums in the tree is true, and each Debian package has its
// licence beside it.
func TestPayloadIsWhole(t *testing.T) {
	dir := payloadDir(t)
	sums, err := os.ReadFile(filepath.Join(dir, payload.SumsFile))
	if err != nil {
		t.Fatal(err)
	}
	if err := (payload.Index{Sums: hexSum(sums)}).Verify(dir); err != nil {
		t.Error(err)
	}
	pkgs, err := os.ReadFile("../debian.lock")
	if err != nil {
		t.Fatal(err)
	}
	locked, err := parseDebianLock(pkgs)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range locked {
		if _, err := os.Stat(filepath.Join(dir, "etc/licenses/debian", p.Name)); err != nil && !notAux(p.Name) {
			t.Error(err)
		}
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	src, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(dst, src); err != nil {
		t.Fatal(errors.Join(err, dst.Close()))
	}
	if err := dst.Close(); err != nil {
		t.Fatal(err)
	}
}
