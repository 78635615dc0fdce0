package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kelson-io/kelson/core/internal/testkit"
)

// TestFaultsOfTheNode kills and removes parts under a running pod, one after
// the other on one server: each time the API server stays up, the pod keeps its
// container, and a new pod can start.
func TestFaultsOfTheNode(t *testing.T) {
	t.Parallel()
	s := newServer(t, testkit.NetworkConfig{}, bare...)
	s.Start(t)
	s.WaitNode(t, booted)
	runPod(t, s, "witness")
	before := containerIDs(t, s)
	for _, fault := range []struct {
		name string
		do   func(t *testing.T)
	}{
		{"containerd killed", func(t *testing.T) { killChild(t, s, "containerd") }},
		{"node child killed", func(t *testing.T) { killChild(t, s, nodeChild...) }},
		{"node deleted", func(t *testing.T) { deleteNode(t, s) }},
		{"address changed", func(t *testing.T) { changeAddress(t, s) }},
	} {
		ok := t.Run(fault.name, func(t *testing.T) {
			pid := s.PID()
			fault.do(t)
			s.WaitNode(t, booted)
			if s.PID() != pid || !s.Alive() {
				t.Fatal("the host ended")
			}
			sameIDs(t, before, only(containerIDs(t, s), before))
			name := fmt.Sprintf("after-%d", rand.IntN(1e6))
			runPod(t, s, name)
			s.Kubectl(t, "delete", "pod", name, "--wait=true")
		})
		if !ok && !s.Alive() {
			t.FailNow()
		}
	}
}

// nodeChild finds the process of kubelet and kube-proxy.
var nodeChild = []string{"kelson-host", " node "}

// only leaves out what is not in the model.
func only(ids, model map[string]string) map[string]string {
	kept := map[string]string{}
	for name := range model {
		kept[name] = ids[name]
	}
	return kept
}

// killChild kills one child, checks that the API answers meanwhile, and waits
// for its successor.
func killChild(t *testing.T, s *testkit.Server, words ...string) {
	t.Helper()
	victim, ok := s.Child(t, words...)
	if !ok {
		t.Fatalf("no process %v among %v", words, s.Processes(t))
	}
	if err := syscall.Kill(victim.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	apiAnswers(t, s)
	testkit.Eventually(t, soon, "restart of the child", func(context.Context) error {
		p, ok := s.Child(t, words...)
		if !ok || p.PID == victim.PID {
			return errors.New("not there yet")
		}
		return nil
	})
}

// apiAnswers fails t unless the API server answers at once.
func apiAnswers(t *testing.T, s *testkit.Server) {
	t.Helper()
	api, err := s.API()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := api.Do(t.Context(), "GET", "/readyz", "", nil); err != nil {
		t.Errorf("the API server does not answer: %v", err)
	}
}

func deleteNode(t *testing.T, s *testkit.Server) {
	t.Helper()
	uid := nodeOf(t, s).Meta.UID
	s.Kubectl(t, "delete", "node", "--all", "--wait=false")
	apiAnswers(t, s)
	testkit.Eventually(t, booted, "the node registers again", func(context.Context) error {
		return differs(nodeOf(t, s).Meta.UID, uid)
	})
}

func changeAddress(t *testing.T, s *testkit.Server) {
	t.Helper()
	to := netip.MustParseAddr("10.99.0.99")
	s.Net.MoveAddr4(t, to)
	apiAnswers(t, s)
	s.Await(t, booted, "the node's new address", func(ctx context.Context, a *testkit.API) error {
		node, err := a.Node(ctx)
		if err != nil {
			return err
		}
		for _, addr := range node.Status.Addresses {
			if addr.Type == "InternalIP" && addr.Address == to.String() {
				return nil
			}
		}
		return fmt.Errorf("addresses %v", node.Status.Addresses)
	})
	// The API server finds the kubelet, and pods find the API server.
	testkit.Eventually(t, booted, "exec at the new address", func(context.Context) error {
		r := s.TryExec(t, "default", "witness", "echo", "hello")
		if strings.TrimSpace(r.Stdout) != "hello" {
			return fmt.Errorf("exit code %d: %s%s", r.Code, r.Stdout, r.Stderr)
		}
		return nil
	})
	testkit.Eventually(t, booted, "the API server from a pod", func(context.Context) error {
		// A TLS listener of Go answers a plain request in words of its own.
		r := s.TryExec(t, "default", "witness", "timeout", "5", "wget", "-q", "-O", "-", "http://10.43.0.1:443/")
		if !strings.Contains(r.Stdout+r.Stderr, "400 Bad Request") {
			return fmt.Errorf("exit code %d: %s%s", r.Code, r.Stdout, r.Stderr)
		}
		return nil
	})
}

// TestKilledDuringBoot kills the host at random moments of its first 15
// seconds, again and again on one data dir.
func TestKilledDuringBoot(t *testing.T) {
	t.Parallel()
	s := newServer(t, testkit.NetworkConfig{})
	// One moment from each part of the boot, in random order.
	const rounds = 5
	moments := make([]time.Duration, rounds)
	for i := range moments {
		moments[i] = time.Duration(i)*3*time.Second + rand.N(3*time.Second)
	}
	rand.Shuffle(rounds, func(i, j int) { moments[i], moments[j] = moments[j], moments[i] })
	t.Logf("kills after %v", moments)
	for _, m := range moments {
		s.Start(t)
		<-time.After(m)
		if !s.Alive() {
			t.Fatalf("the server ended by itself after an earlier kill\n%s", s.Tail(40))
		}
		s.Kill(t)
	}
	s.Start(t)
	s.WaitNode(t, booted)
	s.WaitPods(t, booted, "kube-system", "", systemPods)
	runPod(t, s, "after")
	for _, words := range [][]string{{"containerd"}, nodeChild, {"kelson-host", " server "}, {"kelson", " server "}} {
		n := 0
		for _, p := range s.Processes(t) {
			if q, ok := s.Child(t, words...); ok && slices.Equal(p.Args, q.Args) {
				n++
			}
		}
		if n > 1 {
			t.Errorf("%d processes %v: an orphan of a killed host remains", n, words)
		}
	}
}

// TestFatalPaths takes the fatal path of a library in the running host: it is
// reported, the host re-executes under its pid, and nothing is lost.
func TestFatalPaths(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"kine", "klog"} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, testkit.NetworkConfig{}, bare...)
			s.Start(t)
			s.WaitNode(t, booted)
			runPod(t, s, "witness")
			before := containerIDs(t, s)
			s.Stop(t, 20*time.Second)

			s.SetEnv("KELSON_TEST_FATAL=" + path)
			s.Start(t)
			pid := s.PID()
			s.WaitAPI(t, booted)
			s.Kubectl(t, "create", "configmap", "written-before", "--from-literal=a=b")
			s.WaitLog(t, booted, "ended fatally")
			// The hook acts in the new process, too: from here on everything polls.
			testkit.Eventually(t, booted, "a second boot in the same log", func(context.Context) error {
				if n := strings.Count(s.Output(), "Starting kelson"); n < 2 {
					return fmt.Errorf("%d boots", n)
				}
				return nil
			})
			s.Await(t, booted, "what was written before", func(ctx context.Context, a *testkit.API) error {
				_, err := a.Do(ctx, "GET", "/api/v1/namespaces/default/configmaps/written-before", "", nil)
				return err
			})
			if s.PID() != pid || !s.Alive() {
				t.Fatal("the host ended instead of executing itself anew")
			}
			sameIDs(t, before, containerIDs(t, s))
		})
	}
}

// TestCheck: the preflight names what the kernel has.
func TestCheck(t *testing.T) {
	t.Parallel()
	s := newRefused(t, testkit.NetworkConfig{})
	r := s.Kelson(t, "check")
	if r.Code != 0 {
		t.Errorf("exit code %d on a host where the other tests boot", r.Code)
	}
	says(t, r.Stdout+r.Stderr, "overlay", "cgroup|memory", "nft|iptables")
}
