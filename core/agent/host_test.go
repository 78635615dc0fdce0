package agent

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/kelson-io/kelson/core/agent/kernel"
	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/datadir"
)

func TestCheckCgroups(t *testing.T) {
	for _, c := range []struct {
		name    string
		cgroups kernel.Cgroups
		want    string
		hint    string
	}{
		{"none", kernel.Cgroups{}, "no control groups are mounted", "mount -t cgroup2"},
		{"version 2 without memory", kernel.Cgroups{Version: 2, Controllers: []string{"cpu", "cpuset", "pids"}}, "version 2 lacks controllers: memory", "cgroup_enable=memory"},
		{"version 1 with memory alone", kernel.Cgroups{Version: 1, Controllers: []string{"memory"}}, "version 1 lacks controllers: cpu, cpuset", "cgroup_enable=memory"},
		{"complete", kernel.Cgroups{Version: 2, Controllers: []string{"cpu", "cpuset", "memory"}}, "", ""},
	} {
		err := CheckCgroups(c.cgroups)
		if c.want == "" && err == nil {
			continue
		}
		if err == nil || c.want == "" || !strings.Contains(err.Error(), c.want) || !strings.Contains(config.Hint(err), c.hint) {
			t.Errorf("%s: %v (%s)", c.name, err, config.Hint(err))
		}
	}
}

func TestChooseSnapshotter(t *testing.T) {
	broken := errors.New("mount overlay: no such device")
	for _, c := range []struct {
		wanted  string
		overlay error
		name    string
		warning string
	}{
		{"", nil, "overlayfs", ""},
		{"", broken, "native", "overlayfs cannot be used (mount overlay: no such device): falling back to the native snapshotter"},
		{"overlayfs", broken, "native", "falling back to the native snapshotter"},
		{"native", broken, "native", ""},
		{"stargz", nil, "stargz", ""},
	} {
		name, warning := chooseSnapshotter(c.wanted, c.overlay)
		if name != c.name || (warning == "") != (c.warning == "") || !strings.Contains(warning, c.warning) {
			t.Errorf("%q: %s, %q", c.wanted, name, warning)
		}
	}
}

func testHost(t *testing.T) *Host {
	t.Helper()
	root := t.TempDir()
	return NewHost(HostDeps{
		Layout: datadir.Layout{Root: root, Run: filepath.Join(root, "run")}, Search: t.TempDir(), Log: hclog.NewNullLogger(),
	})
}

// TestHostWithoutPacketFilter has neither nft nor iptables.
func TestHostWithoutPacketFilter(t *testing.T) {
	if !inNamespaces(t) {
		return
	}
	err := testHost(t).Start(t.Context())
	if err == nil || !strings.Contains(err.Error(), "neither nftables nor iptables") || !strings.Contains(config.Hint(err), "nf_tables") {
		t.Errorf("%v (%s)", err, config.Hint(err))
	}
}

// TestHostWithoutMemoryCgroup takes control groups away from this mount
// namespace: memory alone where that is possible, else all.
func TestHostWithoutMemoryCgroup(t *testing.T) {
	if !inNamespaces(t) {
		return
	}
	want := "lacks controllers: memory"
	if err := unix.Unmount("/sys/fs/cgroup/memory", unix.MNT_DETACH); err != nil {
		want = "no control groups are mounted"
		if err := unix.Unmount("/sys/fs/cgroup", unix.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
	}
	err := testHost(t).Start(t.Context())
	if err == nil || !strings.Contains(err.Error(), want) || config.Hint(err) == "" {
		t.Errorf("%v (%s), want %q", err, config.Hint(err), want)
	}
}

// TestDetectFollowsTheMetric has two default routes, the worse one on the link
// that the kernel lists first.
func TestDetectFollowsTheMetric(t *testing.T) {
	if !inNamespaces(t) {
		return
	}
	addUplink(t, "wlan0", "198.51.100.10/24")
	addUplink(t, "eth0", "192.0.2.10/24")
	for name, route := range map[string]struct {
		via    string
		metric int
	}{"wlan0": {"198.51.100.1", 600}, "eth0": {"192.0.2.1", 100}} {
		link, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.ParseIP(route.via), Priority: route.metric}); err != nil {
			t.Fatal(err)
		}
	}
	info, err := Detect(config.Node{Name: "one"}, prefixes("10.42.0.0/16"))
	if err != nil || join(info.IPs) != "192.0.2.10" || info.Uplink != "eth0" {
		t.Errorf("%+v, %v", info, err)
	}
}

// TestContainerdLaunchIsRetried: a program that cannot be run is no error of
// Start, and Ready names it.
func TestContainerdLaunchIsRetried(t *testing.T) {
	root := t.TempDir()
	l := datadir.Layout{Root: root, Run: filepath.Join(root, "run"), Bin: root}
	if err := os.MkdirAll(l.Run, 0o700); err != nil {
		t.Fatal(err)
	}
	engine := NewContainerd(ContainerdDeps{
		Layout: l, Path: filepath.Join(root, "missing"), Facts: func() kernel.Facts { return hosts()["container-v1"] }, Log: hclog.NewNullLogger(),
	})
	if err := engine.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	soon, cancel := context.WithCancel(t.Context())
	cancel()
	awaitNode(t, func() error {
		if err := engine.Ready(soon); err == nil || !strings.Contains(err.Error(), "missing: no such file") {
			return errors.Join(errors.New("no reason"), err)
		}
		return nil
	})
	if engine.Snapshotter() != "native" {
		t.Errorf("snapshotter %s", engine.Snapshotter())
	}
	if err := engine.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}
