// Package nettest is for the tests of network plugins: network namespaces that
// stand for nodes and pods, and plugin processes in them. Everything it makes is
// gone when the test ends. It is used by tests only.
package nettest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const commandDeadline = 30 * time.Second

// Path is the search path for userspace tools: the one of the environment, and
// the build's own programs behind it.
func Path() string {
	path := os.Getenv("PATH")
	if bin := os.Getenv("KELSON_TEST_BIN"); bin != "" {
		path += ":" + filepath.Join(bin, "aux")
	}
	return path
}

// Inside runs the test again as a process with a network namespace of its own,
// which vanishes with it. It returns false in the outer process, when the inner
// one has passed.
func Inside(t *testing.T) bool {
	t.Helper()
	if os.Getenv("KELSON_TEST_INNER") == t.Name() {
		return true
	}
	Root(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=3m")
	cmd.Env = append(os.Environ(), "KELSON_TEST_INNER="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
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

// Root skips the test for other users.
func Root(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

// Namespace is a network namespace with a name.
type Namespace struct {
	Name string
	t    *testing.T
}

// New makes a namespace, with its loopback up and forwarding on.
func New(t *testing.T, hint string) Namespace {
	t.Helper()
	Root(t)
	n := Namespace{Name: fmt.Sprintf("kt%d-%s-%x", os.Getpid(), hint, time.Now().UnixNano()&0xffffff), t: t}
	run(t, "ip", "netns", "add", n.Name)
	t.Cleanup(func() { run(t, "ip", "netns", "del", n.Name) })
	n.Run("ip", "link", "set", "lo", "up")
	n.Run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding")
	return n
}

// File is the namespace's file, as CNI_NETNS.
func (n Namespace) File() string { return "/run/netns/" + n.Name }

// Command prepares a program that runs in the namespace. It keeps the file
// system, unlike ip netns exec, which hides /sys.
func (n Namespace) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + n.File(), "--", name}, args...)...)
	cmd.Env = append(os.Environ(), "PATH="+Path())
	return cmd
}

// Try runs a program in the namespace.
func (n Namespace) Try(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commandDeadline)
	defer cancel()
	out, err := n.Command(ctx, name, args...).CombinedOutput()
	return string(out), err
}

// Run is Try for what must succeed.
func (n Namespace) Run(name string, args ...string) string {
	n.t.Helper()
	out, err := n.Try(name, args...)
	if err != nil {
		n.t.Fatalf("%s: %s %s: %v\n%s", n.Name, name, strings.Join(args, " "), err, out)
	}
	return out
}

// Connect joins two namespaces by a pair of interfaces called eth0, with the
// given addresses.
func Connect(a, b Namespace, addressesA, addressesB []string) {
	a.t.Helper()
	run(a.t, "ip", "-n", a.Name, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", b.Name)
	for _, end := range []struct {
		n         Namespace
		addresses []string
	}{{a, addressesA}, {b, addressesB}} {
		for _, address := range end.addresses {
			args := []string{"ip", "address", "add", address, "dev", "eth0"}
			if strings.Contains(address, ":") {
				args = append(args, "nodad")
			}
			end.n.Run(args[0], args[1:]...)
		}
		end.n.Run("ip", "link", "set", "eth0", "up")
	}
	for _, n := range []Namespace{a, b} {
		Eventually(n.t, 10*time.Second, func() error {
			out := n.Run("sh", "-c", "ip -o link show eth0; ip -6 -o address show dev eth0 scope link")
			if !strings.Contains(out, "state UP") || !strings.Contains(out, "fe80:") || strings.Contains(out, "tentative") {
				return fmt.Errorf("not ready: %s", out)
			}
			return nil
		})
	}
}

// Listing is all that a plugin could leave behind in the namespace, once its own
// addresses have settled.
func (n Namespace) Listing() string {
	n.t.Helper()
	Eventually(n.t, 10*time.Second, func() error {
		if out := n.Run("ip", "-6", "address", "show", "tentative"); out != "" {
			return fmt.Errorf("still tentative: %s", out)
		}
		return nil
	})
	var b strings.Builder
	for _, args := range [][]string{
		{"ip", "-o", "link", "show"},
		{"ip", "-o", "address", "show"},
		{"ip", "route", "show", "table", "all"},
		{"ip", "-6", "route", "show", "table", "all"},
		{"ip", "rule", "show"},
		{"nft", "list", "ruleset"},
	} {
		fmt.Fprintf(&b, "# %s\n%s", strings.Join(args, " "), n.Run(args[0], args[1:]...))
	}
	return b.String()
}

// Eventually waits for a condition.
func Eventually(t *testing.T, within time.Duration, condition func() error) {
	t.Helper()
	deadline := time.After(within)
	for {
		err := condition()
		if err == nil {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("after %s: %v", within, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "PATH="+Path())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}
