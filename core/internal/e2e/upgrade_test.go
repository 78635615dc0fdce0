package e2e

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kelson-io/kelson/core/internal/testkit"
)

func TestUpgradeAndBack(t *testing.T) {
	t.Parallel()
	if os.Getenv("KELSON_NEXT") == "" {
		t.Skip("SKIPPED: KELSON_NEXT does not name a build of a later version")
	}
	old, next := testkit.Binary(t, "KELSON"), testkit.Binary(t, "KELSON_NEXT")
	s := newServer(t, testkit.NetworkConfig{}, bare...)
	s.Start(t)
	s.WaitNode(t, booted)
	runPod(t, s, "survivor")
	s.Kubectl(t, "create", "configmap", "kept", "--from-literal=a=b")
	before, first, version := containerIDs(t, s), link(t, s, "current"), kubelet(t, s)

	s.Stop(t, 20*time.Second)
	s.Bin = next
	s.Start(t)
	s.WaitNode(t, booted)
	testkit.Eventually(t, soon, "kubelet of the next version", func(context.Context) error { return differs(kubelet(t, s), version) })
	sameIDs(t, before, containerIDs(t, s))
	second := link(t, s, "current")
	if second == first || link(t, s, "previous") != first {
		t.Errorf("after the upgrade: current %s, previous %s; before: current %s", second, link(t, s, "previous"), first)
	}
	if got := s.Kubectl(t, "get", "configmap", "kept", "-o", "jsonpath={.data.a}"); got != "b" {
		t.Errorf("data after the upgrade: %q", got)
	}

	s.Stop(t, 20*time.Second)
	s.Bin = old
	s.Start(t)
	s.WaitNode(t, booted)
	sameIDs(t, before, containerIDs(t, s))
	if link(t, s, "current") != first || link(t, s, "previous") != second {
		t.Errorf("after going back: current %s, previous %s", link(t, s, "current"), link(t, s, "previous"))
	}
	if r := s.Kelson(t, "version"); r.Code != 0 || !strings.Contains(r.Stdout, version) {
		t.Errorf("version: %+v, want %s", r, version)
	}
}

func link(t *testing.T, s *testkit.Server, name string) string {
	t.Helper()
	target, err := os.Readlink(filepath.Join(s.Data, "data", name))
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Base(target)
}

func kubelet(t *testing.T, s *testkit.Server) string {
	t.Helper()
	return nodeOf(t, s).Status.Info.Kubelet
}
