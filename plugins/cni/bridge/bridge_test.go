package bridge

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kelson-io/kelson/plugins/internal/nettest"
	"github.com/kelson-io/kelson/sdk/cni/frame"
	"github.com/kelson-io/kelson/sdk/plugin"
	cniv1 "github.com/kelson-io/kelson/sdk/proto/cni/v1"
	pluginv1 "github.com/kelson-io/kelson/sdk/proto/plugin/v1"
)

// newNode is a node with a neighbour outside of the cluster.
func newNode(t *testing.T) (*nettest.Node, nettest.Namespace) {
	t.Helper()
	nettest.BinDir(t)
	binary := nettest.Build(t)
	n, outside := nettest.New(t, "n"), nettest.New(t, "o")
	nettest.Connect(n, outside, []string{"192.0.2.1/24", "fd12::1/64"}, []string{"192.0.2.2/24", "fd12::2/64"})
	n.Run("ip", "route", "add", "default", "via", "192.0.2.2")
	n.Run("ip", "route", "add", "default", "via", "fd12::2")
	outside.Echo()
	node := nettest.NewNode(t, n, binary, "bridge",
		&cniv1.Node{Name: "a", Addresses: []string{"192.0.2.1", "fd12::1"}, PodCidrs: []string{"10.42.0.0/24", "fd00:42::/64"}},
		[]string{"10.42.0.0/16", "fd00:42::/56"})
	return node, outside
}

// TestNode does what a node does in its life, with nftables and with iptables,
// and leaves nothing.
func TestNode(t *testing.T) {
	for _, nftables := range []bool{true, false} {
		t.Run(map[bool]string{true: "nftables", false: "iptables"}[nftables], func(t *testing.T) {
			node, outside := newNode(t)
			node.Setup.Nftables = nftables
			node.Run("iptables", "-P", "FORWARD", "DROP")
			node.Run("ip6tables", "-P", "FORWARD", "DROP")
			before := withoutBase(node.Listing())
			if started := node.Start(`{"mtu": 1400}`); started.GetMtu() != 1400 {
				t.Errorf("mtu %d", started.GetMtu())
			}
			if h := node.Health(); h.GetState() != pluginv1.HealthResponse_STATE_READY {
				t.Errorf("health %v", h)
			}
			one := node.AddPod("one", nil)
			two := node.AddPod("two", map[string]any{"portMappings": []map[string]any{{"hostPort": 7070, "containerPort": 7007, "protocol": "udp"}}})
			for i, address := range two.IPs {
				if from := one.Reaches(t, address, 1400); from != one.IPs[i] {
					t.Errorf("a pod sees another as %s", from)
				}
			}
			for _, c := range []struct{ outside, node string }{{"192.0.2.2", "192.0.2.1"}, {"fd12::2", "fd12::1"}} {
				if from := one.Reaches(t, c.outside, 1400); from != c.node {
					t.Errorf("outside sees a pod as %s", from)
				}
			}
			if out := outside.Run("sh", "-c", "ip route; ip -6 route"); strings.Contains(out, "10.42") {
				t.Fatalf("the neighbour has a way to pods: %s", out)
			}
			node.DelPod(one)
			node.DelPod(one) // again
			node.DelPod(two)
			node.Teardown(true)
			node.Teardown(true)
			if diff := cmp.Diff(before, withoutBase(node.Listing())); diff != "" {
				t.Errorf("left behind:\n%s", diff)
			}
			if files, err := filepath.Glob(filepath.Join(node.Dir, "networks", "*", "[0-9f]*")); err != nil || len(files) > 0 {
				t.Errorf("addresses left: %v %v", files, err)
			}
		})
	}
}

// withoutBase leaves out the empty base chains that iptables makes when it is
// first used, and never removes.
func withoutBase(listing string) string {
	head, rules, _ := strings.Cut(listing, "# nft list ruleset\n")
	for line := range strings.Lines(rules) {
		switch line = strings.TrimSpace(line); {
		case line == "", line == "}", strings.HasPrefix(line, "# Warning"), strings.HasPrefix(line, "table ip"), strings.HasPrefix(line, "type "):
		case line == "chain INPUT {", line == "chain OUTPUT {", line == "chain FORWARD {", line == "chain PREROUTING {", line == "chain POSTROUTING {":
		default:
			head += line + "\n"
		}
	}
	return head
}

// TestKilledAndCollected ends the plugin, deletes a pod while it is away, and
// has the next process find that out.
func TestKilledAndCollected(t *testing.T) {
	node, _ := newNode(t)
	node.Start(`{}`)
	one, two, stale := node.AddPod("one", nil), node.AddPod("two", nil), node.AddPod("stale", nil)
	one.Reaches(t, two.IPs[0], 1500)
	node.Kill()
	if _, err := one.Ask(two.IPs[0], 1500); err != nil {
		t.Errorf("without the plugin: %v", err)
	}
	if err := os.WriteFile(filepath.Join(node.Dir, "networks", "kelson", "10.42.0.77"), []byte("crashed\r\neth0"), 0o600); err != nil {
		t.Fatal(err)
	}
	node.Start(`{}`)
	valid := []*cniv1.Attachment{{ContainerId: one.ID, Ifname: "eth0"}, {ContainerId: two.ID, Ifname: "eth0"}}
	got, err := node.Network.Collect(node.Context(), &cniv1.CollectRequest{Valid: valid})
	if err != nil {
		t.Fatal(err)
	}
	var removed []string
	for _, a := range got.GetRemoved() {
		removed = append(removed, a.GetContainerId())
	}
	if diff := cmp.Diff([]string{stale.ID, "crashed"}, removed); diff != "" {
		t.Error(diff)
	}
	if _, err := one.Ask(two.IPs[0], 1500); err != nil {
		t.Errorf("after collecting: %v", err)
	}
	if out, err := stale.Try("ip", "link", "show", "eth0"); err == nil {
		t.Errorf("still attached: %s", out)
	}
	for _, verb := range []frame.Verb{frame.Status} {
		if _, err := node.CNI(verb, "one", one.File(), nil); err != nil {
			t.Error(err)
		}
	}
}

// TestRangeChanges gives the node another range while pods run: they keep their
// addresses and reach those of the new range.
func TestRangeChanges(t *testing.T) {
	node, _ := newNode(t)
	node.Start(`{}`)
	old := node.AddPod("old", nil)
	node.Setup.Node.PodCidrs = []string{"10.42.7.0/24", "fd00:42:0:7::/64"}
	node.Restart()
	fresh := node.AddPod("fresh", nil)
	if !strings.HasPrefix(fresh.IPs[0], "10.42.7.") {
		t.Errorf("addresses %v", fresh.IPs)
	}
	for i := range fresh.IPs {
		fresh.Reaches(t, old.IPs[i], 1500)
	}
	// Where the namespace was there is a plain file, as an unmount leaves it.
	if _, err := node.CNI(frame.Del, old.ID, "/etc/hostname", nil); err != nil {
		t.Errorf("del without the namespace: %v", err)
	}
	node.DelPod(fresh)
}

// TestTeardownKeepsPods: without all, what running pods need stays.
func TestTeardownKeepsPods(t *testing.T) {
	node, _ := newNode(t)
	node.Start(`{}`)
	one, two := node.AddPod("one", nil), node.AddPod("two", nil)
	node.Teardown(false)
	one.Reaches(t, two.IPs[0], 1500)
	one.Reaches(t, "192.0.2.2", 1500)
	node.DelPod(one)
	node.DelPod(two)
	node.Teardown(false)
	if out, err := node.Try("ip", "link", "show", "cni0"); err == nil {
		t.Errorf("unused, and still there: %s", out)
	}
}

// TestOtherNodes: a cluster of several nodes is more than this plugin can do,
// and it says so.
func TestOtherNodes(t *testing.T) {
	node, _ := newNode(t)
	node.Start(`{}`)
	node.Tell(&cniv1.TopologyRequest{Complete: true, Nodes: []*cniv1.Node{{Name: "b", PodCidrs: []string{"10.42.1.0/24"}}}})
	if h := node.Health(); h.GetState() != pluginv1.HealthResponse_STATE_DEGRADED || !strings.Contains(h.GetMessage(), "b") {
		t.Errorf("health %v", h)
	}
	node.Tell(&cniv1.TopologyRequest{Removed: []string{"b"}})
	if h := node.Health(); h.GetState() != pluginv1.HealthResponse_STATE_READY {
		t.Errorf("health %v", h)
	}
}

// TestForeign: leftovers of another network in the pods' range are named.
func TestForeign(t *testing.T) {
	node, _ := newNode(t)
	node.Run("ip", "link", "add", "cni0", "type", "bridge")
	node.Run("ip", "address", "add", "10.42.0.1/24", "dev", "cni0")
	node.Launch(`{}`)
	got, err := node.Network.Preflight(node.Context(), &cniv1.PreflightRequest{Node: node.Setup.GetNode()})
	if err != nil || len(got.GetProblems()) != 1 || !strings.Contains(got.GetProblems()[0].GetSummary(), "cni0 has 10.42.0.1/24") {
		t.Errorf("%v %v", got, err)
	}
}

func TestValidate(t *testing.T) {
	p := plugin.New(New("0.0.0", slog.New(slog.DiscardHandler)))
	for raw, want := range map[string]string{
		`{}`:                          "",
		`{"name":"br 0"}`:             "name",
		`{"name":"0123456789abcdef"}`: "name",
		`{"mtu":9}`:                   "mtu",
		`{"hairpin":"yes"}`:           "hairpin",
	} {
		got := ""
		for _, d := range p.Validate(t.Context(), json.RawMessage(raw)) {
			got += fmt.Sprint(d.Path)
		}
		if got != want {
			t.Errorf("%s: %q, want %q", raw, got, want)
		}
	}
}
