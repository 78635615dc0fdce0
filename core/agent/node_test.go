package agent

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/kelson-io/kelson/core/agent/kernel"
	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/datadir"
)

// testNode is a node child whose program is a script that notes its arguments.
func testNode(t *testing.T, script string, port int, info func() (NodeInfo, error)) (*NodeChild, string) {
	t.Helper()
	root := t.TempDir()
	path := filepath.Join(root, "kelson-host")
	if err := os.WriteFile(path, []byte("#!/bin/sh\necho \"$@\" >> "+root+"/starts\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	l := datadir.Layout{Root: root, Run: filepath.Join(root, "default"), Bin: root}
	if err := os.MkdirAll(l.Run, 0o700); err != nil {
		t.Fatal(err)
	}
	node := NewNodeChild(NodeDeps{
		Layout: l, Node: config.Node{KubeletPort: port, DisableKubeProxy: true}, Network: config.Network{ClusterDomain: "cluster.local"},
		Path: path, Search: os.Getenv("PATH"), Facts: func() kernel.Facts { return hosts()["container-v1"] }, Info: info, Log: hclog.NewNullLogger(),
	})
	node.period = 20 * time.Millisecond
	t.Cleanup(func() {
		if err := node.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return node, root
}

func fixed(ip string) func() (NodeInfo, error) {
	return func() (NodeInfo, error) { return NodeInfo{Name: "one", IPs: addrs(ip)}, nil }
}

func TestNodeChildNamesTakenPort(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	port := listener.Addr().(*net.TCPAddr).Port
	node, _ := testNode(t, "exit 1", port, fixed("192.0.2.10"))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := node.Start(ctx); err != nil {
		t.Fatal(err)
	}
	err = poll(ctx, 10*time.Millisecond, func(context.Context) error {
		if node.Restarts() < 1 {
			return fmt.Errorf("restarted %d times, reason %q", node.Restarts(), node.LastReason())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("port %d is taken by another process (exit status 1)", port); node.LastReason() != want {
		t.Errorf("reason %q, want %q", node.LastReason(), want)
	}
}

func TestNodeChildFollowsAddress(t *testing.T) {
	var moved atomic.Bool
	info := func() (NodeInfo, error) {
		if moved.Load() {
			return fixed("192.0.2.99")()
		}
		return fixed("192.0.2.10")()
	}
	node, root := testNode(t, "exec sleep 600", 10250, info)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := node.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := node.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(root, "agent", "etc", "node.json")
	file, err := ReadNodeFile(path)
	if err != nil || !strings.Contains(strings.Join(file.KubeletArgs, " "), "--node-ip=192.0.2.10") || file.ProxyConfig != "" {
		t.Errorf("%+v, %v", file, err)
	}
	moved.Store(true)
	err = poll(ctx, 10*time.Millisecond, func(context.Context) error {
		raw, err := os.ReadFile(filepath.Join(root, "starts"))
		if err != nil {
			return err
		}
		if starts := strings.Count(string(raw), "node --config "+path+"\n"); starts != 2 {
			return fmt.Errorf("started %d times", starts)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	file, err = ReadNodeFile(path)
	if err != nil || !strings.Contains(strings.Join(file.KubeletArgs, " "), "--node-ip=192.0.2.99") {
		t.Errorf("%+v, %v", file, err)
	}
	if !strings.Contains(node.LastReason(), "from 192.0.2.10 to 192.0.2.99") {
		t.Errorf("reason %q", node.LastReason())
	}
}

func TestNodeChildNamesWhatTheLogSays(t *testing.T) {
	for logged, want := range map[string]string{
		"I1 node.go:210] \"Node is being deleted\" node=\"one\"": "the Node object was deleted; it is registered again (exit status 1)",
		"nothing of note": "exit status 1",
	} {
		node, _ := testNode(t, "printf '%s\\n' '"+logged+"'; exit 1", 1, fixed("192.0.2.10"))
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if err := node.Start(ctx); err != nil {
			t.Fatal(err)
		}
		err := poll(ctx, 10*time.Millisecond, func(context.Context) error {
			if got := node.LastReason(); got != want {
				return fmt.Errorf("reason %q, want %q", got, want)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// TestNodeChildForgetsEarlierRuns: what the log says of a run before this one
// is no reason for this one's end.
func TestNodeChildForgetsEarlierRuns(t *testing.T) {
	node, root := testNode(t, "exit 1", 1, fixed("192.0.2.10"))
	if err := os.MkdirAll(filepath.Join(root, "agent"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "agent", "node.log"), []byte("\"Node is being deleted\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := node.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	awaitNode(t, func() error {
		if got := node.LastReason(); got != "exit status 1" {
			return fmt.Errorf("reason %q", got)
		}
		return nil
	})
}

func awaitNode(t *testing.T, check func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := poll(ctx, 10*time.Millisecond, func(context.Context) error { return check() }); err != nil {
		t.Fatal(err)
	}
}

func startsOf(root string) int {
	raw, _ := os.ReadFile(filepath.Join(root, "starts"))
	return strings.Count(string(raw), "\n")
}

// TestNodeChildRetriesLaunch: neither the first launch nor one after a change of
// address is given up when it fails.
func TestNodeChildRetriesLaunch(t *testing.T) {
	var moved atomic.Bool
	info := func() (NodeInfo, error) {
		if moved.Load() {
			return fixed("192.0.2.99")()
		}
		return fixed("192.0.2.10")()
	}
	node, root := testNode(t, "exec sleep 600", 10250, info)
	told := make(chan int, 10)
	node.deps.OnAddresses = func(NodeInfo) { told <- startsOf(root) }
	path, away := filepath.Join(root, "kelson-host"), filepath.Join(root, "away")
	hide := func(from, to string) {
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	hide(path, away)
	if err := node.Start(t.Context()); err != nil {
		t.Fatalf("the boot would end: %v", err)
	}
	soon, cancel := context.WithCancel(t.Context())
	cancel()
	if err := node.Ready(soon); err == nil || !strings.Contains(err.Error(), "not launched") || !strings.Contains(node.LastReason(), "no such file") {
		t.Errorf("ready: %v, reason %q", err, node.LastReason())
	}
	hide(away, path)
	running := func(starts int) func() error {
		return func() error {
			if n := startsOf(root); n != starts || !node.launched() {
				return fmt.Errorf("%d starts, want %d; reason %q", n, starts, node.LastReason())
			}
			return nil
		}
	}
	awaitNode(t, running(1))
	if len(told) != 0 {
		t.Error("told of the addresses that it began with")
	}
	hide(path, away)
	moved.Store(true)
	awaitNode(t, func() error {
		if node.launched() || !strings.Contains(node.LastReason(), "not launched") {
			return fmt.Errorf("reason %q", node.LastReason())
		}
		return nil
	})
	hide(away, path)
	awaitNode(t, running(2))
	if len(told) != 1 {
		t.Fatalf("told %d times of one change", len(told))
	}
	if starts := <-told; starts != 1 {
		t.Errorf("told after %d starts, want it before the second", starts)
	}
}

func TestNodeChildRetriesIdentity(t *testing.T) {
	var known atomic.Bool
	node, root := testNode(t, "exec sleep 600", 10250, func() (NodeInfo, error) {
		if !known.Load() {
			return NodeInfo{}, fmt.Errorf("no global IPv4 address")
		}
		return fixed("192.0.2.10")()
	})
	told := make(chan string, 10)
	node.known = addrs("192.0.2.1") // what certificates were made for
	node.deps.OnAddresses = func(info NodeInfo) { told <- join(info.IPs) }
	if err := node.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := node.LastReason(); got != "not launched: identify node: no global IPv4 address" {
		t.Errorf("reason %q", got)
	}
	known.Store(true)
	awaitNode(t, func() error {
		if n := startsOf(root); n != 1 {
			return fmt.Errorf("%d starts: %s", n, node.LastReason())
		}
		return nil
	})
	if got := <-told; got != "192.0.2.10" {
		t.Errorf("told %s", got)
	}
}

// TestNodeChildStopKeepsItsTime: a look that hangs does not hold up the stop.
func TestNodeChildStopKeepsItsTime(t *testing.T) {
	var looks atomic.Int32
	hang, hangs := make(chan struct{}), make(chan struct{}, 100)
	node, _ := testNode(t, "exec sleep 600", 10250, func() (NodeInfo, error) {
		if looks.Add(1) > 1 {
			hangs <- struct{}{}
			<-hang
		}
		return fixed("192.0.2.10")()
	})
	if err := node.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-hangs
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	stopped := make(chan error, 1)
	go func() { stopped <- node.Stop(ctx) }()
	select {
	case err := <-stopped:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Error("Stop waits for ever")
	}
	if pid := node.child.PID(); pid != 0 {
		t.Errorf("pid %d is left", pid)
	}
	close(hang)
}

func TestNodeChildStopBeforeStart(t *testing.T) {
	node, _ := testNode(t, "exit 0", 10250, fixed("192.0.2.10"))
	for range 2 {
		if err := node.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func TestContainerdEnv(t *testing.T) {
	got := strings.Join(containerdEnv([]string{"PATH=/old", "A=1", "HTTPS_PROXY=host", "CONTAINERD_HTTPS_PROXY=own"}, "/new"), " ")
	if got != "A=1 HTTPS_PROXY=host HTTPS_PROXY=own PATH=/new" {
		t.Error(got)
	}
}
