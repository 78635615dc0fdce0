package e2e

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kelson-io/kelson/core/internal/testkit"
)

const (
	busybox = "docker.io/kelson/busybox:1.35.0"
	// soon bounds what a healthy server does within seconds.
	soon = 45 * time.Second
	// booted bounds a whole boot on a busy two-core host.
	booted = 90 * time.Second
)

// outside is a name that only the tests' own resolver knows.
const outside = "outside.kelson.example"

var outsideAddr = netip.MustParseAddr("192.0.2.77")

// slots bounds the servers that run at once. A test that needs two is not
// parallel, so nobody waits while holding one.
var slots = make(chan struct{}, 2)

func TestMain(m *testing.M) {
	flag.Parse()
	// Tests mostly wait; the servers are bounded by slots.
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		_ = flag.Set("test.parallel", "8")
	}
	os.Exit(m.Run())
}

// newServer prepares a server of the file under test on a network of its own.
func newServer(t *testing.T, network testkit.NetworkConfig, args ...string) *testkit.Server {
	t.Helper()
	slots <- struct{}{}
	t.Cleanup(func() { <-slots })
	return newRefused(t, network, args...)
}

// newRefused prepares a server that is not meant to boot: it takes no slot.
func newRefused(t *testing.T, network testkit.NetworkConfig, args ...string) *testkit.Server {
	t.Helper()
	bin := testkit.Binary(t, "KELSON")
	net := testkit.NewNetwork(t, network)
	net.ServeDNS(t, map[string]netip.Addr{outside + ".": outsideAddr})
	return testkit.NewServer(t, testkit.ServerConfig{Bin: bin, Net: net, Args: args})
}

// bare leaves out the packaged components: the fastest boot for what does not
// need them.
var bare = []string{"--disable", "coredns", "--disable", "local-path", "--disable", "metrics-server"}

// runPod starts one sleeping pod and waits until it is ready.
func runPod(t *testing.T, s *testkit.Server, name string) testkit.Pod {
	t.Helper()
	s.Await(t, booted, "default service account", func(ctx context.Context, a *testkit.API) error {
		_, err := a.Do(ctx, "GET", "/api/v1/namespaces/default/serviceaccounts/default", "", nil)
		return err
	})
	s.Apply(t, podManifest(name))
	return s.WaitPods(t, soon, "default", "app="+name, 1)[0]
}

// podManifest is a pod that sleeps and ends at once when told to. It tolerates
// a node that is not Ready yet or is being replaced.
func podManifest(name string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %[1]s, labels: {app: %[1]s}}
spec:
  terminationGracePeriodSeconds: 0
  tolerations: [{operator: Exists}]
  containers:
  - {name: main, image: %[2]s, command: [sleep, "86400"]}
`, name, busybox)
}

// containerIDs maps every running container of every pod to its id.
func containerIDs(t *testing.T, s *testkit.Server) map[string]string {
	t.Helper()
	ids := map[string]string{}
	s.Await(t, soon, "container ids", func(ctx context.Context, a *testkit.API) error {
		clear(ids)
		pods, err := a.Pods(ctx, "", "")
		for _, p := range pods {
			if err := p.Ready(); err != nil && p.Status.Phase != "Succeeded" {
				return err
			}
			for _, c := range p.Status.Containers {
				ids[p.Meta.Namespace+"/"+p.Meta.Name+"/"+c.Name] = c.ID
			}
		}
		return err
	})
	return ids
}

// sameIDs fails t for every container of before that is another one now.
func sameIDs(t *testing.T, before, after map[string]string) {
	t.Helper()
	if len(before) == 0 {
		t.Fatal("no container to compare")
	}
	for name, id := range before {
		if after[name] != id {
			t.Errorf("container %s: was %s, is %q", name, id, after[name])
		}
	}
}

// refused is fails for what is refused before anything changes: the version in
// use stays what it was, too.
func refused(t *testing.T, s *testkit.Server, code int, args []string, words ...string) {
	t.Helper()
	before := links(t, s)
	fails(t, s, code, args, words...)
	if after := links(t, s); !maps.Equal(before, after) {
		t.Errorf("a refused start moved links: before %v, after %v", before, after)
	}
}

// fails starts a server that must end by itself: exit code and every word of
// the message are checked, the words without regard to case.
func fails(t *testing.T, s *testkit.Server, code int, args []string, words ...string) {
	t.Helper()
	s.Start(t, args...)
	if got := s.WaitExit(t, soon); got != code {
		t.Errorf("exit code %d, want %d", got, code)
	}
	says(t, s.Output(), words...)
}

// links maps the links of the data dir that tell which version is in use to
// where they point.
func links(t *testing.T, s *testkit.Server) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, pattern := range []string{"current", "previous", "cni", "cni/*"} {
		paths, err := filepath.Glob(filepath.Join(s.Data, "data", pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			all[path], _ = os.Readlink(path) // a folder or a foreign file: ""
		}
	}
	return all
}

// nodeOf waits for the only node and returns it.
func nodeOf(t *testing.T, s *testkit.Server) testkit.Node {
	t.Helper()
	var node testkit.Node
	s.Await(t, booted, "node", func(ctx context.Context, a *testkit.API) (err error) {
		node, err = a.Node(ctx)
		return err
	})
	return node
}

// says fails t for every word that text lacks. Alternatives are separated by
// a vertical bar.
func says(t *testing.T, text string, words ...string) {
	t.Helper()
	lower := strings.ToLower(text)
	for _, w := range words {
		if !slices.ContainsFunc(strings.Split(strings.ToLower(w), "|"), func(alt string) bool { return strings.Contains(lower, alt) }) {
			t.Errorf("message lacks %q:\n%s", w, text)
		}
	}
}

// differs is nil once got is not old any more.
func differs(got, old string) error {
	if got == old {
		return fmt.Errorf("still %s", old)
	}
	return nil
}
