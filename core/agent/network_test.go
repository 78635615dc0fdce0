package agent

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/kelson-io/kelson/core/agent/kernel"
	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/datadir"
)

// recorded is a Network that notes what it was told.
type recorded struct {
	mu    sync.Mutex
	cidrs []string
	fail  int // so many calls, from the first on
}

func (r *recorded) Configure(_ context.Context, node NodeNetwork) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cidrs = append(r.cidrs, join(node.PodCIDRs))
	if len(r.cidrs) <= r.fail {
		return errors.New("nft is busy")
	}
	return nil
}
func (r *recorded) Status(context.Context) error   { return nil }
func (r *recorded) Teardown(context.Context) error { return nil }

func (r *recorded) last() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.cidrs) == 0 {
		return ""
	}
	return r.cidrs[len(r.cidrs)-1]
}

func testNetwork(t *testing.T, root string, first bool, kubeconfig string) (*PodNetwork, *recorded) {
	t.Helper()
	network := &recorded{}
	return NewPodNetwork(PodNetworkDeps{
		Layout: datadir.Layout{Root: root, Run: filepath.Join(root, "run")}, Network: network,
		Cluster:    config.Network{ClusterCIDR: prefixes("10.42.0.0/16")},
		Info:       func() (NodeInfo, error) { return NodeInfo{Name: "one", IPs: addrs("192.0.2.10")}, nil },
		Kubeconfig: kubeconfig, First: func() bool { return first }, Log: hclog.NewNullLogger(),
	}), network
}

func nodeWith(name string, cidrs ...string) *corev1.Node {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDRs: cidrs}}
	if len(cidrs) > 0 {
		node.Spec.PodCIDR = cidrs[0]
	}
	return node
}

func TestPodNetworkKnowsItsRange(t *testing.T) {
	root := t.TempDir()
	for _, c := range []struct {
		name  string
		first bool
		want  string
	}{
		{"joining node waits", false, ""},
		{"first node predicts", true, "10.42.0.0/24"},
		{"restart remembers", false, "10.42.0.0/24"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, network := testNetwork(t, root, c.first, filepath.Join(root, "missing"))
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			if err := p.Start(ctx); err != nil {
				t.Fatal(err)
			}
			err := p.Ready(ctx)
			if (err == nil) != (c.want != "") || network.last() != c.want || join(p.PodCIDRs()) != c.want {
				t.Errorf("configured %q, ready %v", network.last(), err)
			}
			if err != nil && strings.Contains(err.Error(), "deadline") {
				t.Errorf("no reason in %v", err)
			}
			for range 2 {
				if err := p.Stop(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// TestPodNetworkTriesAgain: a network that cannot be configured at first ends
// nothing, says why, and is configured later, without any API server.
func TestPodNetworkTriesAgain(t *testing.T) {
	root := t.TempDir()
	p, network := testNetwork(t, root, true, filepath.Join(root, "missing"))
	network.fail = 2
	if err := p.Start(t.Context()); err != nil {
		t.Fatalf("the boot would end: %v", err)
	}
	defer func() {
		if err := p.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	soon, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Ready(soon); err == nil || !strings.Contains(err.Error(), "nft is busy") {
		t.Errorf("ready: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := p.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	if join(p.PodCIDRs()) != "10.42.0.0/24" {
		t.Errorf("configured %v", p.PodCIDRs())
	}
}

func TestPodNetworkForgetsOtherClusterRange(t *testing.T) {
	root := t.TempDir()
	p, _ := testNetwork(t, root, true, "")
	if err := p.configure(t.Context(), prefixes("10.42.3.0/24")); err != nil {
		t.Fatal(err)
	}
	if got := join(p.remembered()); got != "10.42.3.0/24" {
		t.Errorf("remembered %s", got)
	}
	p.deps.Cluster.ClusterCIDR = prefixes("10.99.0.0/16")
	if got := p.remembered(); got != nil {
		t.Errorf("remembered %v for another cluster range", got)
	}
}

func TestPodNetworkObserve(t *testing.T) {
	for _, c := range []struct {
		name      string
		known     []netip.Prefix
		node      *corev1.Node
		others    []*corev1.Node
		claimed   string // in the node object afterwards
		configure string
	}{
		{"claims what it knows", prefixes("10.42.0.0/24"), nodeWith("one"), nil, "10.42.0.0/24", ""},
		{"leaves another node's range", prefixes("10.42.0.0/24"), nodeWith("one"), []*corev1.Node{nodeWith("two", "10.42.0.0/24")}, "", ""},
		{"neighbours do not hinder", prefixes("10.42.0.0/24"), nodeWith("one"), []*corev1.Node{nodeWith("two", "10.42.1.0/24")}, "10.42.0.0/24", ""},
		{"knows nothing, waits", nil, nodeWith("one"), nil, "", ""},
		{"takes what the object says", nil, nodeWith("one", "10.42.5.0/24"), nil, "10.42.5.0/24", "10.42.5.0/24"},
		{"the object wins", prefixes("10.42.0.0/24"), nodeWith("one", "10.42.5.0/24"), nil, "10.42.5.0/24", "10.42.5.0/24"},
	} {
		t.Run(c.name, func(t *testing.T) {
			client := fake.NewSimpleClientset(c.node)
			for _, other := range c.others {
				if _, err := client.CoreV1().Nodes().Create(t.Context(), other, metav1.CreateOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			p, network := testNetwork(t, t.TempDir(), false, "")
			p.known = c.known
			if err := p.observe(t.Context(), client, c.node); err != nil {
				t.Fatal(err)
			}
			got, err := client.CoreV1().Nodes().Get(t.Context(), "one", metav1.GetOptions{})
			if err != nil || strings.Join(got.Spec.PodCIDRs, " ") != c.claimed || got.Spec.PodCIDR != c.claimed {
				t.Errorf("node has %v, want %q (%v)", got.Spec.PodCIDRs, c.claimed, err)
			}
			if network.last() != c.configure {
				t.Errorf("configured %q, want %q", network.last(), c.configure)
			}
		})
	}
}

// TestPodNetworkFollows speaks to a server that gives the range in a watch and
// closes the first connection without a word.
func TestPodNetworkFollows(t *testing.T) {
	var mu sync.Mutex
	calls := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		calls++
		n := calls
		mu.Unlock()
		if n == 1 || r.URL.Query().Get("watch") == "" {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		node := nodeWith("one", "10.42.9.0/24")
		node.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}
		_ = json.NewEncoder(w).Encode(map[string]any{"type": "ADDED", "object": node})
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}))
	defer server.Close()
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	content := `{"clusters":[{"name":"c","cluster":{"server":"` + server.URL + `"}}],"contexts":[{"name":"c","context":{"cluster":"c"}}],"current-context":"c"}`
	if err := os.WriteFile(kubeconfig, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	p, network := testNetwork(t, t.TempDir(), false, kubeconfig)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := p.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := p.Ready(ctx); err != nil {
		t.Error(err)
	}
	if network.last() != "10.42.9.0/24" {
		t.Errorf("configured %q", network.last())
	}
	if err := p.Stop(ctx); err != nil {
		t.Error(err)
	}
}

func TestMinimal(t *testing.T) {
	got := minimal([]string{"10.42.0.0/16", "10.42.3.0/24", "224.0.0.0/4", "10.42.0.0/16"})
	if !slices.Equal(got, []string{"10.42.0.0/16", "224.0.0.0/4"}) {
		t.Errorf("%v", got)
	}
}

// TestBridgeKeepsOldGateways moves a node to another range: the new gateway is
// first, where the bridge plugin looks, and the old one stays for its pods.
func TestBridgeKeepsOldGateways(t *testing.T) {
	if !inNamespaces(t) {
		return
	}
	root := t.TempDir()
	l := datadir.Layout{Root: root, Run: filepath.Join(root, "run")}
	tools := kernel.Tools{Path: os.Getenv("PATH")}
	facts := kernel.Facts{NFTables: kernel.TryNFTables(t.Context(), tools) == nil}
	if !facts.NFTables {
		t.Skip("no nftables")
	}
	bridge := NewBridge(l, tools, func() kernel.Facts { return facts })
	cluster := prefixes("10.42.0.0/16", "fd00:42::/56")
	asked, enough := make(chan struct{}), make(chan struct{})
	go func() { // as a health check does meanwhile; the race detector watches
		defer close(asked)
		for {
			select {
			case <-enough:
				return
			default:
				_ = bridge.Status(t.Context())
			}
		}
	}()
	for _, cidrs := range [][]netip.Prefix{prefixes("10.42.0.0/24", "fd00:42::/64"), prefixes("10.42.0.0/24", "fd00:42::/64"), prefixes("10.42.7.0/24", "fd00:42:0:7::/64")} {
		if err := bridge.Configure(t.Context(), NodeNetwork{NodeName: "one", PodCIDRs: cidrs, ClusterCIDRs: cluster, MTU: 1400}); err != nil {
			t.Fatal(err)
		}
	}
	close(enough)
	<-asked
	if err := bridge.Status(t.Context()); err != nil {
		t.Error(err)
	}
	link, err := netlink.LinkByName("cni0")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		list, err := netlink.AddrList(link, family)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range list {
			if !a.IP.IsLinkLocalUnicast() {
				got = append(got, a.IPNet.String())
			}
		}
	}
	if want := "10.42.7.1/24 10.42.0.1/24"; !strings.HasPrefix(strings.Join(got, " "), want) || len(got) != 4 {
		t.Errorf("addresses %v, want %s first and two of IPv6", got, want)
	}
	other := NewBridge(datadir.Layout{Root: "/srv/other", Run: filepath.Join(root, "run2")}, tools, bridge.facts)
	name, exists, err := other.ownLinkName()
	if err != nil || exists || name == "cni0" || len(name) > 15 {
		t.Errorf("a second data dir would use %s (exists %v, %v)", name, exists, err)
	}
	for range 2 {
		if err := bridge.Teardown(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if _, err := netlink.LinkByName("cni0"); err == nil {
		t.Error("the bridge is still there")
	}
	if out, err := tools.Run(t.Context(), "", "nft", "list", "tables"); err != nil || strings.Contains(out, "kelson") {
		t.Errorf("tables left: %s %v", out, err)
	}
}

// TestMasqueradeWithIPTables is the fallback for kernels without nftables.
func TestMasqueradeWithIPTables(t *testing.T) {
	if !inNamespaces(t) {
		return
	}
	tools := kernel.Tools{Path: kernel.SearchPath(os.Getenv("KELSON_TEST_BIN"), os.Getenv("PATH"), false)}
	if tools.Find("iptables-restore") == "" {
		t.Skip("no iptables")
	}
	if err := kernel.TryIPTables(t.Context(), tools); err != nil {
		t.Fatal(err) // there but of no use: extensions are missing, or the kernel's side
	}
	node := NodeNetwork{PodCIDRs: prefixes("10.42.0.0/24", "fd00:42::/64"), ClusterCIDRs: prefixes("10.42.0.0/16", "fd00:42::/56")}
	if _, err := tools.Run(t.Context(), "", "iptables", "-P", "FORWARD", "DROP"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := masquerade(t.Context(), tools, kernel.Facts{IPTables: true}, "cni0", node); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{"iptables": "-A KELSON-CNI0 -s 10.42.0.0/24 -j MASQUERADE", "ip6tables": "-A KELSON-CNI0 -s fd00:42::/64 -j MASQUERADE"} {
		out, err := tools.Run(t.Context(), "", name, "-t", "nat", "-S")
		if err != nil || strings.Count(out, want) != 1 || strings.Count(out, "-j KELSON-CNI0") != 1 {
			t.Errorf("%s: %s %v", name, out, err)
		}
	}
	out, err := tools.Run(t.Context(), "", "iptables", "-S", "FORWARD")
	if err != nil || strings.Count(out, "10.42.0.0/16") != 2 {
		t.Errorf("forwarding rules: %s %v", out, err)
	}
	if err := unmasquerade(t.Context(), tools, kernel.Facts{}, "cni0"); err != nil {
		t.Fatal(err)
	}
	if out, err := tools.Run(t.Context(), "", "iptables", "-t", "nat", "-S"); err != nil || strings.Contains(out, "KELSON") {
		t.Errorf("left: %s %v", out, err)
	}
}
