package podnet

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/kelson-io/kelson/plugins/internal/nettest"
)

var update = flag.Bool("update", false, "write the golden files")

func prefixes(texts ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, text := range texts {
		out = append(out, netip.MustParsePrefix(text))
	}
	return out
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil || string(want) != got {
		t.Errorf("%s differs (%v), got:\n%s", path, err, got)
	}
}

func testRules() Rules {
	return Rules{
		Claim: Claim{Node: "abc123", Plugin: "flannel"}, Inbound: true,
		PodCIDRs: prefixes("10.42.0.0/24", "fd00:42::/64"), ClusterCIDRs: prefixes("10.42.0.0/16", "fd00:42::/56"),
	}
}

func TestRules(t *testing.T) {
	r := testRules()
	golden(t, "tunnel.nft", r.nft())
	golden(t, "tunnel.iptables", r.iptables(false)+r.iptables(true))
	r.Inbound = false
	r.PodCIDRs = prefixes("10.42.0.0/24", "2001:db8:42::/64") // a global range is routed
	golden(t, "plain.nft", r.nft())
	golden(t, "plain.iptables", r.iptables(false)+r.iptables(true))
	if chain := r.chain(); len(chain) > 28 {
		t.Errorf("iptables takes no chain called %s", chain)
	}
}

func TestConflist(t *testing.T) {
	a := Attachment{Bridge: "cni0", MTU: 1430, Hairpin: true, PodCIDRs: prefixes("10.42.0.0/24", "fd00:42::/64"), IPAMDir: "/var/lib/kelson/agent/cni/networks", NFTables: true}
	raw, err := a.Conflist(true, true)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "full.conflist", string(raw))
	if raw, err = a.Conflist(false, false); err != nil || strings.Contains(string(raw), "portmap") || strings.Contains(string(raw), "bandwidth") {
		t.Errorf("%s %v", raw, err)
	}
}

func TestWanted(t *testing.T) {
	for _, c := range []struct {
		runtime       string
		ports, limits bool
	}{
		{``, false, false},
		{`{}`, false, false},
		{`{"portMappings":[]}`, false, false},
		{`{"portMappings":[{"hostPort":80}],"bandwidth":null}`, true, false},
		{`{"bandwidth":{"ingressRate":1}}`, false, true},
		{`{"portMappings":7}`, true, true},
	} {
		if ports, limits := wanted([]byte(c.runtime)); ports != c.ports || limits != c.limits {
			t.Errorf("%s: %v %v", c.runtime, ports, limits)
		}
	}
}

func TestMinimal(t *testing.T) {
	got := minimal([]string{"10.42.0.0/16", "10.42.3.0/24", "224.0.0.0/4", "10.42.0.0/16"})
	if !slices.Equal(got, []string{"10.42.0.0/16", "224.0.0.0/4"}) {
		t.Errorf("%v", got)
	}
}

func TestSplitRule(t *testing.T) {
	got := splitRule(`-A POSTROUTING -m comment --comment "two words" -j X` + "\n")
	if !slices.Equal(got, []string{"-A", "POSTROUTING", "-m", "comment", "--comment", "two words", "-j", "X"}) {
		t.Errorf("%q", got)
	}
}

func TestAlias(t *testing.T) {
	node, plugins, ok := parseAlias(formatAlias("abc123", []string{"bridge", "flannel"}))
	if !ok || node != "abc123" || !slices.Equal(plugins, []string{"bridge", "flannel"}) {
		t.Errorf("%s %v %v", node, plugins, ok)
	}
	if _, _, ok := parseAlias("my bridge"); ok {
		t.Error("took somebody else's link")
	}
}

func addresses(t *testing.T, name string) []string {
	t.Helper()
	link, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	list, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, a := range list {
		if !a.IP.IsLinkLocalUnicast() {
			out = append(out, a.IPNet.String())
		}
	}
	return out
}

// TestBridge moves a node to another range: the new gateway is first, where the
// bridge plugin looks, and the old one stays for its pods. Then two plugins and
// two nodes share a network namespace.
func TestBridge(t *testing.T) {
	if !nettest.Inside(t) {
		return
	}
	one := Bridge{Claim: Claim{"aaaaaa", "one"}, MTU: 1400, PodCIDRs: prefixes("10.42.0.0/24", "fd00:42::/64")}
	for range 2 {
		if name, err := one.Ensure(); err != nil || name != "cni0" {
			t.Fatal(name, err)
		}
	}
	one.PodCIDRs = prefixes("10.42.7.0/24", "fd00:42:0:7::/64")
	if one.Check() == nil {
		t.Error("the new gateway is not missed")
	}
	if _, err := one.Ensure(); err != nil {
		t.Fatal(err)
	}
	if err := one.Check(); err != nil {
		t.Error(err)
	}
	got := addresses(t, "cni0")
	if !slices.Equal(got[:2], []string{"10.42.7.1/24", "10.42.0.1/24"}) || len(got) != 4 {
		t.Errorf("addresses %v", got)
	}

	second := one
	second.Claim.Plugin, second.Name = "two", "br7"
	if name, err := second.Ensure(); err != nil || name != "cni0" {
		t.Errorf("a second plugin of the node uses %s: %v", name, err)
	}
	other := Bridge{Claim: Claim{"bbbbbb", "one"}, PodCIDRs: prefixes("10.43.0.0/24")}
	if name, err := other.Ensure(); err != nil || name != "kelson-bbbbbb" {
		t.Errorf("another node uses %s: %v", name, err)
	}
	taken := Bridge{Claim: Claim{"cccccc", "one"}, Name: "cni0"}
	if _, err := taken.Ensure(); err == nil || !strings.Contains(err.Error(), "key name") {
		t.Errorf("took somebody else's link: %v", err)
	}

	port := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "notaport"}}
	if err := netlink.LinkAdd(port); err != nil {
		t.Fatal(err)
	}
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "veth0"}, PeerName: "veth1"}
	if err := netlink.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	link, err := netlink.LinkByName("cni0")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetMaster(veth, link); err != nil {
		t.Fatal(err)
	}
	if inUse, err := one.Release(false); err != nil || inUse {
		t.Errorf("claimed by two: in use %v, %v", inUse, err)
	}
	if inUse, err := second.Release(false); err != nil || !inUse {
		t.Errorf("with a pod: in use %v, %v", inUse, err)
	}
	for range 2 {
		if inUse, err := second.Release(true); err != nil || inUse {
			t.Errorf("all: in use %v, %v", inUse, err)
		}
	}
	if _, err := netlink.LinkByName("cni0"); err == nil {
		t.Error("the bridge is still there")
	}
	if _, err := netlink.LinkByName("kelson-bbbbbb"); err != nil {
		t.Error("the other node's bridge is gone")
	}
}

// TestRulesInKernel installs and removes the rules in both ways, with a host
// that drops what it forwards.
func TestRulesInKernel(t *testing.T) {
	if !nettest.Inside(t) {
		return
	}
	r := testRules()
	r.Tools = Tools{Path: nettest.Path()}
	run := func(name string, args ...string) string {
		out, err := r.Tools.Run(t.Context(), "", name, args...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if r.Tools.Find("iptables") == "" {
		t.Skip("no iptables")
	}
	run("iptables", "-P", "FORWARD", "DROP")
	run("ip6tables", "-S", "FORWARD")
	for _, r.NFTables = range []bool{true, false} {
		if r.Present(t.Context()) {
			t.Error("present before")
		}
		for range 2 {
			if err := r.Ensure(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if !r.Present(t.Context()) {
			t.Error("not present afterwards")
		}
		if out := run("iptables", "-S", "FORWARD"); strings.Count(out, "10.42.0.0/16") != 2 {
			t.Errorf("forwarding rules: %s", out)
		}
		other := r
		other.Claim.Plugin = "bridge"
		if err := other.Ensure(t.Context()); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := r.Remove(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if r.Present(t.Context()) || !other.Present(t.Context()) {
			t.Error("removed too little or too much")
		}
		if err := other.Remove(t.Context()); err != nil {
			t.Fatal(err)
		}
		if out := run("nft", "list", "ruleset") + run("iptables", "-S", "FORWARD"); strings.Contains(strings.ToLower(out), "kelson") {
			t.Errorf("left: %s", out)
		}
	}
}

func TestOverlapping(t *testing.T) {
	if !nettest.Inside(t) {
		return
	}
	link := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "cni0"}}
	if err := netlink.LinkAdd(link); err != nil {
		t.Fatal(err)
	}
	address, err := netlink.ParseAddr("10.42.0.1/24")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.AddrAdd(link, address); err != nil {
		t.Fatal(err)
	}
	got, err := Overlapping(prefixes("10.42.0.0/24"))
	if err != nil || !slices.Equal(got, []string{"cni0 has 10.42.0.1/24"}) {
		t.Errorf("%v %v", got, err)
	}
	if got, err := Overlapping(prefixes("10.43.0.0/24")); err != nil || got != nil {
		t.Errorf("%v %v", got, err)
	}
}
