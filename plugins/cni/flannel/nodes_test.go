package flannel

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kelson-io/kelson/plugins/internal/nettest"
	"github.com/kelson-io/kelson/sdk/cni/frame"
	cniv1 "github.com/kelson-io/kelson/sdk/proto/cni/v1"
	pluginv1 "github.com/kelson-io/kelson/sdk/proto/plugin/v1"
)

// pair is two nodes on one layer 2 network.
type pair struct{ a, b *nettest.Node }

func newPair(t *testing.T) pair {
	t.Helper()
	nettest.BinDir(t)
	binary := nettest.Build(t)
	na, nb := nettest.New(t, "a"), nettest.New(t, "b")
	nettest.Connect(na, nb, []string{"192.0.2.1/24", "fd12::1/64"}, []string{"192.0.2.2/24", "fd12::2/64"})
	cluster := []string{"10.42.0.0/16", "fd00:42::/56"}
	return pair{
		nettest.NewNode(t, na, binary, "flannel", &cniv1.Node{Name: "a", Addresses: []string{"192.0.2.1", "fd12::1"}, PodCidrs: []string{"10.42.0.0/24", "fd00:42::/64"}}, cluster),
		nettest.NewNode(t, nb, binary, "flannel", &cniv1.Node{Name: "b", Addresses: []string{"192.0.2.2", "fd12::2"}, PodCidrs: []string{"10.42.1.0/24", "fd00:42:0:1::/64"}}, cluster),
	}
}

// start starts both plugins and introduces them to each other.
func (p pair) start(t *testing.T, config string) (mtu uint32) {
	t.Helper()
	sa, sb := p.a.Start(config), p.b.Start(config)
	p.a.Tell(&cniv1.TopologyRequest{Complete: true, Nodes: []*cniv1.Node{peerOf(p.b, sb)}})
	p.b.Tell(&cniv1.TopologyRequest{Complete: true, Nodes: []*cniv1.Node{peerOf(p.a, sa)}})
	for _, n := range []*nettest.Node{p.a, p.b} {
		if h := n.Health(); h.GetState() != pluginv1.HealthResponse_STATE_READY {
			t.Fatalf("health: %v\n%s", h, n.Log)
		}
	}
	return sa.GetMtu()
}

func peerOf(n *nettest.Node, started *cniv1.StartResponse) *cniv1.Node {
	node := n.Setup.GetNode()
	return &cniv1.Node{Name: node.GetName(), Addresses: node.GetAddresses(), PodCidrs: node.GetPodCidrs(), Published: started.GetPublished()}
}

// TestNodes connects the pods of two nodes by each backend that the kernel has.
func TestNodes(t *testing.T) {
	for _, c := range []struct {
		name, config string
		mtu          uint32
	}{
		{"vxlan", `{}`, 1430},
		{"vxlan-direct", `{"directRouting": true, "vni": 7, "port": 4789}`, 1430},
		{"host-gw", `{"backend": "host-gw"}`, 1500},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPair(t)
			before := []string{p.a.Listing(), p.b.Listing()}
			if mtu := p.start(t, c.config); mtu != c.mtu {
				t.Errorf("mtu %d, want %d", mtu, c.mtu)
			}
			podA, podB := p.a.AddPod("pod-a", nil), p.b.AddPod("pod-b", nil)
			reach(t, podA, podB, int(c.mtu))
			reach(t, podB, podA, int(c.mtu))
			if _, err := podA.Ask(podB.IPs[0], int(c.mtu)+1); err == nil || !strings.Contains(err.Error(), "message too long") {
				t.Errorf("a packet beyond the MTU: %v", err)
			}
			// A node reaches pods elsewhere, too, with an address that finds back.
			if from := p.a.Reaches(t, podB.IPs[0], 100); c.name == "vxlan" && from != "10.42.0.0" {
				t.Errorf("node a seen as %s", from)
			}
			t.Logf("plugin RSS with one pod: %s", p.a.RSS())

			p.a.Tell(&cniv1.TopologyRequest{Removed: []string{"b"}})
			if out := p.a.Run("ip", "route", "show", "10.42.1.0/24") + p.a.Run("ip", "-6", "route", "show", "fd00:42:0:1::/64"); out != "" {
				t.Errorf("routes to a removed node: %s", out)
			}
			p.a.DelPod(podA)
			p.b.DelPod(podB)
			p.a.Teardown(true)
			p.b.Teardown(true)
			p.a.Teardown(true) // nothing is left, and that is fine
			for i, n := range []*nettest.Node{p.a, p.b} {
				if diff := cmp.Diff(before[i], n.Listing()); diff != "" {
					t.Errorf("left behind:\n%s", diff)
				}
			}
		})
	}
}

// reach sends in both families packets as large as the MTU allows, and wants
// them to arrive with the pod's own address.
func reach(t *testing.T, from, to nettest.Pod, mtu int) {
	t.Helper()
	for i, address := range to.IPs {
		for _, size := range []int{100, mtu} {
			if seen := from.Reaches(t, address, size); seen != from.IPs[i] {
				t.Errorf("%s is seen as %s by %s", from.IPs[i], seen, address)
			}
		}
	}
}

// TestKilled ends the plugin under a connection, lets the other node change
// meanwhile, and starts it again: what is right stays, what is old goes.
func TestKilled(t *testing.T) {
	p := newPair(t)
	p.start(t, `{}`)
	podA, podB := p.a.AddPod("pod-a", nil), p.b.AddPod("pod-b", nil)
	reach(t, podA, podB, 1430)
	p.a.Tell(&cniv1.TopologyRequest{Nodes: []*cniv1.Node{{
		Name: "c", PodCidrs: []string{"10.42.2.0/24"},
		Published: map[string]string{"backend-type": "vxlan", "public-ip": "192.0.2.3", "backend-data": `{"VNI":1,"VtepMAC":"02:00:00:00:00:03"}`},
	}}})
	mac := p.a.Run("ip", "-o", "link", "show", "flannel.1")

	p.a.Kill()
	for range 20 {
		if _, err := podA.Ask(podB.IPs[0], 1430); err != nil {
			t.Errorf("without the plugin: %v", err)
		}
	}
	p.a.Start(`{}`)
	if _, err := podA.Ask(podB.IPs[0], 1430); err != nil {
		t.Errorf("after the start, before the topology: %v", err)
	}
	if got := p.a.Run("ip", "-o", "link", "show", "flannel.1"); got != mac {
		t.Errorf("the tunnel was changed:\n%s%s", mac, got)
	}
	if out := p.a.Run("ip", "route", "show", "10.42.2.0/24"); out == "" {
		t.Error("a route was removed before the nodes were known")
	}
	sb := p.b.Restart()
	p.a.Tell(&cniv1.TopologyRequest{Complete: true, Nodes: []*cniv1.Node{peerOf(p.b, sb)}})
	for _, args := range [][]string{
		{"route", "show", "10.42.2.0/24"},
		{"neigh", "show", "10.42.2.0", "dev", "flannel.1"},
	} {
		if out := p.a.Run("ip", args...); out != "" {
			t.Errorf("of a node that went meanwhile: %s", out)
		}
	}
	if out := p.a.Run("bridge", "fdb", "show", "dev", "flannel.1"); strings.Contains(out, "192.0.2.3") {
		t.Errorf("of a node that went meanwhile: %s", out)
	}
	reach(t, podA, podB, 1430)
	// The pod that the former process attached is detached by this one.
	p.a.DelPod(podA)
	if out := p.a.Run("ip", "-o", "link", "show", "type", "veth"); strings.Contains(out, "master cni0") {
		t.Errorf("veth left: %s", out)
	}
}

// TestMended removes routes, rules and the tunnel behind the plugin's back.
func TestMended(t *testing.T) {
	p := newPair(t)
	p.start(t, `{}`)
	podA, podB := p.a.AddPod("pod-a", nil), p.b.AddPod("pod-b", nil)
	reach(t, podA, podB, 1430)
	for _, harm := range [][]string{
		{"sh", "-c", "ip route flush 10.42.1.0/24; nft flush ruleset"},
		{"ip", "link", "delete", "flannel.1"},
	} {
		p.a.Run(harm[0], harm[1:]...)
		nettest.Eventually(t, 60*time.Second, func() error {
			if _, err := podA.Ask(podB.IPs[0], 1430); err != nil {
				return fmt.Errorf("after %s: %w\n%s", strings.Join(harm, " "), err, p.a.Log)
			}
			if out, err := p.a.Try("nft", "list", "tables"); err != nil || !strings.Contains(out, "kelson-flannel") {
				return fmt.Errorf("after %s: tables %s", strings.Join(harm, " "), out)
			}
			return nil
		})
	}
}

// TestSwap changes from flannel to bridge and back with a pod of each: they
// reach each other all the time, and nothing of the former plugin is left.
func TestSwap(t *testing.T) {
	p := newPair(t)
	before := p.a.Listing()
	flannel := p.a
	flannel.Start(`{}`)
	one := flannel.AddPod("one", nil)
	bridge := flannel.As("bridge")
	bridge.Start(`{}`)
	two := bridge.AddPod("two", nil)
	reach(t, one, two, 1400)
	reach(t, two, one, 1400)
	flannel.Teardown(true)
	reach(t, one, two, 1400)
	if out := bridge.Run("sh", "-c", "ip -o link; nft list tables"); strings.Contains(out, "flannel") {
		t.Errorf("left by flannel: %s", out)
	}
	// The new plugin detaches what the old one attached.
	if _, err := bridge.CNI(frame.Del, one.ID, one.File(), nil); err != nil {
		t.Error(err)
	}
	bridge.DelPod(two)
	bridge.Teardown(true)
	if diff := cmp.Diff(before, bridge.Listing()); diff != "" {
		t.Errorf("left behind:\n%s", diff)
	}
}

// TestOneFamily: nodes without IPv6 run dual-stack pods, who reach each other in
// both families on their node and by IPv4 elsewhere; the plugin says so.
func TestOneFamily(t *testing.T) {
	p := newPair(t)
	for _, n := range []*nettest.Node{p.a, p.b} {
		n.Run("ip", "-6", "address", "flush", "dev", "eth0", "scope", "global")
		n.Setup.Node.Addresses = n.Setup.GetNode().GetAddresses()[:1]
	}
	p.a.Launch(`{}`)
	flight, err := p.a.Network.Preflight(p.a.Context(), &cniv1.PreflightRequest{Node: p.a.Setup.GetNode()})
	if err != nil || len(flight.GetProblems()) != 1 || !flight.GetProblems()[0].GetWarning() {
		t.Errorf("preflight: %v %v", flight, err)
	}
	p.b.Launch(`{}`)
	sa, sb := p.a.Restart(), p.b.Restart()
	if sa.GetMtu() != 1450 {
		t.Errorf("mtu %d", sa.GetMtu())
	}
	p.a.Tell(&cniv1.TopologyRequest{Complete: true})
	if h := p.a.Health(); h.GetState() != pluginv1.HealthResponse_STATE_READY {
		t.Errorf("alone: %v", h)
	}
	p.a.Tell(&cniv1.TopologyRequest{Complete: true, Nodes: []*cniv1.Node{peerOf(p.b, sb)}})
	p.b.Tell(&cniv1.TopologyRequest{Complete: true, Nodes: []*cniv1.Node{peerOf(p.a, sa)}})
	if h := p.a.Health(); h.GetState() != pluginv1.HealthResponse_STATE_DEGRADED || !strings.Contains(h.GetMessage(), "one family") {
		t.Errorf("with others: %v", h)
	}
	one, two, other := p.a.AddPod("one", nil), p.a.AddPod("two", nil), p.b.AddPod("other", nil)
	reach(t, one, two, 1450)
	one.Reaches(t, other.IPs[0], 1450)
	if len(one.IPs) != 2 {
		t.Errorf("addresses %v", one.IPs)
	}
}
