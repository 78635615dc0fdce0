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
		if starts := strings.Count(string(raw), "node --config "+path+"\n"); err != nil || starts != 2 {
			return fmt.Errorf("started %d times, %v", starts, err)
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
