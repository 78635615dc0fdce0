package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kelson-io/kelson/core/internal/testkit"
)

func TestStopInOrderAndKeepContainers(t *testing.T) {
	t.Parallel()
	s := newServer(t, testkit.NetworkConfig{})
	s.Start(t)
	s.WaitNode(t, booted)
	runPod(t, s, "survivor")
	s.WaitPods(t, booted, "kube-system", "", systemPods)
	before := containerIDs(t, s)

	if took := s.Stop(t, 20*time.Second); took > 10*time.Second {
		t.Errorf("stop took %v, at most 10s", took)
	}
	for _, child := range [][]string{{"containerd"}, {"kelson-host"}, {"kelson"}} {
		if p, ok := s.Child(t, child...); ok {
			t.Errorf("still running after the stop: %v", p)
		}
	}
	if _, ok := s.Child(t, "sleep"); !ok {
		t.Fatal("the pod's process did not survive the stop")
	}

	s.Start(t)
	s.WaitNode(t, booted)
	sameIDs(t, before, containerIDs(t, s))
	// kubelet learns of its pods a moment after it has reported the node.
	testkit.Eventually(t, soon, "exec after restart", func(context.Context) error {
		r := s.TryExec(t, "default", "survivor", "echo", "hello")
		if strings.TrimSpace(r.Stdout) != "hello" {
			return fmt.Errorf("exit code %d: %s%s", r.Code, r.Stdout, r.Stderr)
		}
		return nil
	})
}

func TestCrashKeepsContainers(t *testing.T) {
	t.Parallel()
	s := newServer(t, testkit.NetworkConfig{}, bare...)
	s.Start(t)
	s.WaitNode(t, booted)
	runPod(t, s, "survivor")
	before := containerIDs(t, s)
	s.Kill(t)
	s.Start(t)
	s.WaitNode(t, booted)
	sameIDs(t, before, containerIDs(t, s))
	runPod(t, s, "newcomer")
}
