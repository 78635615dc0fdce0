package e2e

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kelson-io/kelson/core/internal/testkit"
)

// pluginOf finds the process of the network plugin.
func pluginOf(t *testing.T, s *testkit.Server) testkit.Process {
	t.Helper()
	p, ok := s.Child(t, "kelson-plugins", "cni")
	if !ok {
		t.Fatalf("no network plugin runs: %v", s.Processes(t))
	}
	return p
}

// TestNetworkPluginDies: pods keep their connections, new ones wait for the
// plugin and are attached by its successor.
func TestNetworkPluginDies(t *testing.T) {
	t.Parallel()
	s := newServer(t, testkit.NetworkConfig{}, bare...)
	s.Start(t)
	s.WaitNode(t, booted)
	runPod(t, s, "before")
	for round := range 3 {
		old := pluginOf(t, s)
		if err := syscall.Kill(old.PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		runPod(t, s, fmt.Sprintf("after-%d", round))
		if now := pluginOf(t, s); now.PID == old.PID {
			t.Errorf("the plugin is still process %d", old.PID)
		}
		pinged(t, s, "before", address(t, s, fmt.Sprintf("after-%d", round)))
	}
	s.Kubectl(t, "delete", "pod", "before", "after-0", "after-1", "after-2", "--wait=true")
}

// TestHostDiesNetworkPluginLives: the plugin outlives the host, killed or
// stopped, and is taken over by the next.
func TestHostDiesNetworkPluginLives(t *testing.T) {
	t.Parallel()
	s := newServer(t, testkit.NetworkConfig{}, bare...)
	s.Start(t)
	s.WaitNode(t, booted)
	runPod(t, s, "before")
	plugin := pluginOf(t, s)

	s.Kill(t)
	s.Start(t)
	s.WaitNode(t, booted)
	if now := pluginOf(t, s); now.PID != plugin.PID {
		t.Errorf("after a kill of the host the plugin is process %d, was %d", now.PID, plugin.PID)
	}
	runPod(t, s, "between")

	s.Stop(t, 20*time.Second)
	if now := pluginOf(t, s); now.PID != plugin.PID {
		t.Errorf("after a stop of the host the plugin is process %d, was %d", now.PID, plugin.PID)
	}
	s.Start(t)
	s.WaitNode(t, booted)
	if now := pluginOf(t, s); now.PID != plugin.PID {
		t.Errorf("after a restart the plugin is process %d, was %d", now.PID, plugin.PID)
	}
	runPod(t, s, "after")
	pinged(t, s, "before", address(t, s, "after"))
}

// TestNetworkChosenAnew: a restart with another network ends the former one, and
// pods of both reach each other.
func TestNetworkChosenAnew(t *testing.T) {
	t.Parallel()
	s := newServer(t, testkit.NetworkConfig{}, bare...)
	s.Start(t)
	s.WaitNode(t, booted)
	runPod(t, s, "before")
	for _, to := range []string{"bridge", "flannel"} {
		s.Stop(t, 20*time.Second)
		s.Start(t, "--cni="+to)
		s.WaitNode(t, booted)
		runPod(t, s, "on-"+to)
		pinged(t, s, "before", address(t, s, "on-"+to))
		pinged(t, s, "on-"+to, address(t, s, "before"))
		testkit.Eventually(t, soon, "only "+to+" runs", func(context.Context) error {
			for _, p := range s.Processes(t) {
				if strings.HasSuffix(p.Args[0], "/kelson-plugins") && p.Args[2] != to {
					return fmt.Errorf("still running: %v", p)
				}
			}
			return nil
		})
		if p := pluginOf(t, s); p.Args[2] != to {
			t.Errorf("plugin of %s: %v", to, p)
		}
	}
	s.Kubectl(t, "delete", "pod", "before", "on-bridge", "on-flannel", "--wait=true")
}

// address is the first address of a pod.
func address(t *testing.T, s *testkit.Server, pod string) string {
	t.Helper()
	ip := strings.TrimSpace(s.Kubectl(t, "get", "pod", pod, "-o", "jsonpath={.status.podIP}"))
	if ip == "" {
		t.Fatalf("pod %s has no address", pod)
	}
	return ip
}

// pinged asserts that a pod reaches an address.
func pinged(t *testing.T, s *testkit.Server, from, to string) {
	t.Helper()
	testkit.Eventually(t, soon, from+" reaches "+to, func(context.Context) error {
		if r := s.TryExec(t, "default", from, "ping", "-c", "1", "-W", "2", to); r.Code != 0 {
			return fmt.Errorf("exit code %d: %s%s", r.Code, r.Stdout, r.Stderr)
		}
		return nil
	})
}
