package testkit

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Families selects the address families of a Network.
type Families int

// The families that a node can have.
const (
	IPv4 Families = iota
	DualStack
	IPv6
)

// NetworkConfig describes the network that a node sees. The zero value is one
// IPv4 address with a default route.
type NetworkConfig struct {
	Families Families
	NoRoute  bool // no default route
}

// Network is a node's network namespace and, behind a veth pair, a namespace
// that plays the world outside. Neither is connected to the host: whatever is
// sent to another address ends there.
type Network struct {
	node, outside      string // names under /run/netns
	Addr4, Addr6       netip.Addr
	Outside4, Outside6 netip.Addr
}

const netnsDir = "/run/netns"

// NewNetwork makes a network; it is removed at the end of t.
func NewNetwork(t testing.TB, cfg NetworkConfig) *Network {
	t.Helper()
	id := randomID(t)
	n := &Network{node: "kt-" + id + "-n", outside: "kt-" + id + "-o"}
	t.Cleanup(func() {
		for _, name := range []string{n.node, n.outside} {
			if _, err := os.Stat(filepath.Join(netnsDir, name)); err == nil {
				ip(t, "netns", "delete", name)
			}
		}
	})
	ip(t, "netns", "add", n.node)
	ip(t, "netns", "add", n.outside)
	ip(t, "-n", n.node, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", n.outside)
	for _, ns := range []string{n.node, n.outside} {
		ip(t, "-n", ns, "link", "set", "lo", "up")
		ip(t, "-n", ns, "link", "set", "eth0", "up")
	}
	if cfg.Families != IPv6 {
		n.Addr4, n.Outside4 = netip.MustParseAddr("10.99.0.2"), netip.MustParseAddr("10.99.0.1")
		n.assign(t, n.Addr4, n.Outside4, 24, cfg.NoRoute)
	}
	if cfg.Families != IPv4 {
		n.Addr6, n.Outside6 = netip.MustParseAddr("fd99::2"), netip.MustParseAddr("fd99::1")
		n.assign(t, n.Addr6, n.Outside6, 64, cfg.NoRoute)
	}
	return n
}

func (n *Network) assign(t testing.TB, node, outside netip.Addr, bits int, noRoute bool) {
	t.Helper()
	n.addAddr(t, n.node, node, bits)
	n.addAddr(t, n.outside, outside, bits)
	if !noRoute {
		ip(t, "-n", n.node, "route", "add", "default", "via", outside.String(), "dev", "eth0")
	}
}

func (n *Network) addAddr(t testing.TB, ns string, addr netip.Addr, bits int) {
	t.Helper()
	args := []string{"-n", ns, "addr", "add", netip.PrefixFrom(addr, bits).String(), "dev", "eth0"}
	if addr.Is6() {
		args = append(args, "nodad") // usable at once
	}
	ip(t, args...)
}

// MoveAddr4 gives the node another IPv4 address, as a new DHCP lease would.
func (n *Network) MoveAddr4(t testing.TB, to netip.Addr) {
	t.Helper()
	ip(t, "-n", n.node, "addr", "del", netip.PrefixFrom(n.Addr4, 24).String(), "dev", "eth0")
	n.addAddr(t, n.node, to, 24)
	ip(t, "-n", n.node, "route", "replace", "default", "via", n.Outside4.String(), "dev", "eth0")
	n.Addr4 = to
}

// AddAddr gives the node a further address.
func (n *Network) AddAddr(t testing.TB, p netip.Prefix) {
	t.Helper()
	n.addAddr(t, n.node, p.Addr(), p.Bits())
}

// Addr is the node's first address.
func (n *Network) Addr() netip.Addr {
	if n.Addr4.IsValid() {
		return n.Addr4
	}
	return n.Addr6
}

// OutsideAddr is the outside world's first address.
func (n *Network) OutsideAddr() netip.Addr {
	if n.Outside4.IsValid() {
		return n.Outside4
	}
	return n.Outside6
}

// Command is exec.CommandContext inside the node's network namespace. The
// process keeps the pid that Start reports: nsenter execs it.
func (n *Network) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + n.path(n.node), "--", name}, args...)...)
}

// Dial connects from the node's namespace; addr is numeric.
func (n *Network) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	return n.dial(ctx, n.node, network, addr)
}

// DialOutside connects from the outside world; addr is numeric.
func (n *Network) DialOutside(ctx context.Context, network, addr string) (net.Conn, error) {
	return n.dial(ctx, n.outside, network, addr)
}

// Listen opens a listener in the node's namespace, closed at the end of t.
func (n *Network) Listen(t testing.TB, network, addr string) net.Listener {
	t.Helper()
	var l net.Listener
	err := inNamespace(n.path(n.node), func() (err error) {
		l, err = net.Listen(network, addr)
		return err
	})
	if err != nil {
		t.Fatalf("listen in the node's namespace: %v", err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func (n *Network) dial(ctx context.Context, ns, network, addr string) (net.Conn, error) {
	var conn net.Conn
	err := inNamespace(n.path(ns), func() (err error) {
		d := net.Dialer{FallbackDelay: -1, Timeout: 10 * time.Second}
		conn, err = d.DialContext(ctx, network, addr)
		return err
	})
	return conn, err
}

func (n *Network) path(name string) string { return filepath.Join(netnsDir, name) }

// inNamespace runs fn on a thread of its own inside a network namespace. The
// thread is never unlocked, so it ends with the goroutine.
func inNamespace(path string, fn func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			result <- fmt.Errorf("open namespace %s: %w", path, err)
			return
		}
		defer unix.Close(fd)
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			result <- fmt.Errorf("enter namespace %s: %w", path, err)
			return
		}
		result <- fn()
	}()
	return <-result
}

// ip runs the host's ip and fails t with its output.
func ip(t testing.TB, args ...string) {
	t.Helper()
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func randomID(t testing.TB) string {
	t.Helper()
	b := make([]byte, 3)
	if _, err := rand.Read(b); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(b)
}
