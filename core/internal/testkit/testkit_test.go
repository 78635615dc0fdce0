package testkit

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: needs root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("SKIPPED: needs ip (iproute2)")
	}
}

func TestPollKeepsTheLastReason(t *testing.T) {
	calls := 0
	err := Poll(context.Background(), 350*time.Millisecond, "the impossible", func(context.Context) error {
		calls++
		return errors.New("still red")
	})
	if err == nil || !strings.Contains(err.Error(), "the impossible") || !strings.Contains(err.Error(), "still red") {
		t.Fatalf("got %v, want what was waited for and the last reason", err)
	}
	if calls < 2 {
		t.Fatalf("tried %d times", calls)
	}
}

func TestPollEndsWithTheContextError(t *testing.T) {
	err := Poll(context.Background(), 250*time.Millisecond, "x", func(ctx context.Context) error {
		if ctx.Err() == nil {
			return errors.New("reason before the deadline")
		}
		return ctx.Err()
	})
	if err == nil || !strings.Contains(err.Error(), "reason before the deadline") {
		t.Fatalf("got %v", err)
	}
}

func TestNetworkFamilies(t *testing.T) {
	needRoot(t)
	for _, tc := range []struct {
		name   string
		cfg    NetworkConfig
		v4, v6 bool
		routes int
	}{
		{"ipv4", NetworkConfig{}, true, false, 1},
		{"dual", NetworkConfig{Families: DualStack}, true, true, 2},
		{"ipv6", NetworkConfig{Families: IPv6}, false, true, 1},
		{"no route", NetworkConfig{NoRoute: true}, true, false, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := NewNetwork(t, tc.cfg)
			if n.Addr4.IsValid() != tc.v4 || n.Addr6.IsValid() != tc.v6 {
				t.Fatalf("addresses %v %v", n.Addr4, n.Addr6)
			}
			routes := 0
			for _, family := range []string{"-4", "-6"} {
				out, err := n.Command(t.Context(), "ip", family, "route", "show", "default").Output()
				if err != nil {
					t.Fatal(err)
				}
				routes += bytes.Count(out, []byte("\n"))
			}
			if routes != tc.routes {
				t.Fatalf("%d default routes, want %d", routes, tc.routes)
			}
			l := n.Listen(t, "tcp", net.JoinHostPort(n.Addr().String(), "7777"))
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					c.Close()
				}
			}()
			conn, err := n.DialOutside(t.Context(), "tcp", l.Addr().String())
			if err != nil {
				t.Fatalf("reach the node from outside: %v", err)
			}
			conn.Close()
		})
	}
}

func TestNetworkIsRemoved(t *testing.T) {
	needRoot(t)
	var n *Network
	t.Run("use", func(t *testing.T) { n = NewNetwork(t, NetworkConfig{}) })
	for _, name := range []string{n.node, n.outside} {
		if _, err := os.Stat(n.path(name)); !os.IsNotExist(err) {
			t.Errorf("%s remains: %v", name, err)
		}
	}
}

func TestMoveAddr(t *testing.T) {
	needRoot(t)
	n := NewNetwork(t, NetworkConfig{})
	to := netip.MustParseAddr("10.99.0.9")
	n.MoveAddr4(t, to)
	out, err := n.Command(t.Context(), "ip", "-4", "route", "get", "203.0.113.1").Output()
	if err != nil || !strings.Contains(string(out), "src 10.99.0.9") {
		t.Fatalf("route after the move: %s %v", out, err)
	}
}

func TestServeDNS(t *testing.T) {
	needRoot(t)
	n := NewNetwork(t, NetworkConfig{Families: DualStack})
	want := netip.MustParseAddr("192.0.2.7")
	n.ServeDNS(t, map[string]netip.Addr{"outside.example.": want})
	resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return n.Dial(ctx, network, netip.AddrPortFrom(n.OutsideAddr(), 53).String())
	}}
	got, err := resolver.LookupNetIP(t.Context(), "ip4", "outside.example.")
	if err != nil || len(got) != 1 || got[0].Unmap() != want {
		t.Fatalf("got %v %v, want %v", got, err, want)
	}
	var dnsErr *net.DNSError
	if _, err := resolver.LookupNetIP(t.Context(), "ip4", "other.example."); !errors.As(err, &dnsErr) || !dnsErr.IsNotFound {
		t.Fatalf("unknown name: %v, want not found", err)
	}
}

// stand is a server without the product: enough for what cleans up after it.
func stand(t *testing.T) *Server {
	t.Helper()
	return NewServer(t, ServerConfig{Bin: "/bin/sh", Net: NewNetwork(t, NetworkConfig{})})
}

func TestRemainsAreFoundAndRemoved(t *testing.T) {
	needRoot(t)
	var s *Server
	var cgroup string
	t.Run("dirty", func(t *testing.T) {
		s = stand(t)
		point := filepath.Join(s.Data, "vol")
		if err := os.MkdirAll(point, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("tmpfs", point, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		// A daemon with a child that names nothing of ours, as a shim has.
		cmd := exec.Command("/bin/sh", "-c", "sleep 300 & wait", s.Data+"/shim")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		go func() { _ = cmd.Wait() }()
		cgroup = enterCgroup(t, cmd.Process.Pid)
		Eventually(t, 5*time.Second, "shim and child", func(context.Context) error {
			if got := s.Processes(t); len(got) != 2 {
				return errors.New("processes: " + strings.TrimSpace(join(got)))
			}
			return nil
		})
		s.residue.observe()
		left, err := s.residue.remains()
		if err != nil || len(left) != 4 {
			t.Fatalf("found %q %v, want 2 processes, a mount, a cgroup", left, err)
		}
	})
	left, err := s.residue.remains()
	if err != nil || len(left) != 0 {
		t.Fatalf("left behind: %q %v", left, err)
	}
	for _, gone := range []string{s.Base, cgroup} {
		if _, err := os.Stat(gone); !os.IsNotExist(err) {
			t.Errorf("%s remains: %v", gone, err)
		}
	}
}

func join(all []Process) string {
	var b strings.Builder
	for _, p := range all {
		b.WriteString(p.String() + "; ")
	}
	return b.String()
}

func enterCgroup(t *testing.T, pid int) string {
	t.Helper()
	mounts, err := cgroupMounts()
	if err != nil || len(mounts) == 0 {
		t.Skipf("SKIPPED: no cgroups: %v", err)
	}
	dir := filepath.Join(mounts[len(mounts)-1].path, "kt-test-"+randomID(t), "pod")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o644); err != nil {
		t.Fatal(err)
	}
	return filepath.Dir(dir)
}

func TestProcessTableReadsOddNames(t *testing.T) {
	all, err := processes()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		if p.PID == os.Getpid() {
			if p.Parent != os.Getppid() {
				t.Fatalf("parent %d, want %d", p.Parent, os.Getppid())
			}
			return
		}
	}
	t.Fatal("this process is not in the table")
}
