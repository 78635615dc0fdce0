package flannel

import (
	"encoding/json"
	"io"
	"log/slog"
	"maps"
	"net/netip"
	"strings"
	"testing"

	"github.com/flannel-io/flannel/pkg/ip"
	"github.com/flannel-io/flannel/pkg/lease"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"k8s.io/klog/v2"

	"github.com/kelson-io/kelson/plugins/internal/nettest"
	"github.com/kelson-io/kelson/plugins/internal/podnet"
	"github.com/kelson-io/kelson/sdk/cni"
	"github.com/kelson-io/kelson/sdk/config"
	"github.com/kelson-io/kelson/sdk/plugin"
)

func prefixes(texts ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, text := range texts {
		out = append(out, netip.MustParsePrefix(text))
	}
	return out
}

func TestLeaseOf(t *testing.T) {
	const data = `{"VNI":1,"VtepMAC":"02:00:00:00:00:02"}`
	good := map[string]string{keyType: typeVXLAN, keyIP: "192.0.2.2", keyData: data, keyIPv6: "fd12::2", keyDataV6: data}
	with := func(changes ...string) map[string]string {
		out := maps.Clone(good)
		for i := 0; i < len(changes); i += 2 {
			out[changes[i]] = changes[i+1]
		}
		return out
	}
	both := prefixes("10.42.1.0/24", "fd00:42:0:1::/64")
	for _, c := range []struct {
		name      string
		local     families
		cidrs     []netip.Prefix
		published map[string]string
		err       string
		v4, v6    bool
	}{
		{"dual stack", families{true, true}, both, good, "", true, true},
		{"only what this node has", families{v4: true}, both, good, "", true, false},
		{"only what that node has", families{true, true}, both[:1], good, "", true, false},
		{"no family in common", families{v6: true}, both[:1], good, "address families", false, false},
		{"silent", families{v4: true}, both, nil, "published nothing", false, false},
		{"another backend", families{v4: true}, both, with(keyType, "host-gw"), `backend "host-gw"`, false, false},
		{"no address", families{v4: true}, both, with(keyIP, ""), "IPv4 address", false, false},
		{"address of the wrong family", families{v4: true}, both, with(keyIP, "fd12::2"), "IPv4 address", false, false},
		{"mapped address", families{v6: true}, both, with(keyIPv6, "::ffff:192.0.2.2"), "IPv6 address", false, false},
		{"no hardware address", families{v4: true}, both, with(keyData, `{"VtepMAC":"02"}`), "hardware address", false, false},
		{"no data", families{v6: true}, both, with(keyDataV6, ``), "hardware address", false, false},
		{"this node's range", families{v4: true}, prefixes("10.42.0.0/25"), good, "overlaps", false, false},
		{"everything", families{v4: true}, prefixes("0.0.0.0/0"), good, "overlaps", false, false},
		{"foreign range", families{v4: true}, prefixes("192.168.0.0/16"), good, "outside", false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			node := cni.Node{Name: "b", PodCIDRs: c.cidrs, Published: c.published}
			got, err := leaseOf(node, typeVXLAN, c.local, prefixes("10.42.0.0/24", "fd00:42::/64"), prefixes("10.42.0.0/16", "fd00:42::/56"))
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("error %v, want %q", err, c.err)
				}
				return
			}
			if err != nil || got.EnableIPv4 != c.v4 || got.EnableIPv6 != c.v6 {
				t.Errorf("%+v %v", got, err)
			}
			if !same(got, got) {
				t.Error("a lease differs from itself")
			}
		})
	}
}

// TestPublish: what one node publishes, another takes.
func TestPublish(t *testing.T) {
	attrs := lease.LeaseAttrs{
		BackendType: typeVXLAN, PublicIP: ip.MustParseIP4("192.0.2.2"), PublicIPv6: ip.MustParseIP6("fd12::2"),
		BackendData: json.RawMessage(`{"VNI":1,"VtepMAC":"02:00:00:00:00:02"}`), BackendV6Data: json.RawMessage(`{"VNI":1,"VtepMAC":"02:00:00:00:00:06"}`),
	}
	node := cni.Node{Name: "b", PodCIDRs: prefixes("10.42.1.0/24", "fd00:42:0:1::/64"), Published: publish(attrs, families{true, true})}
	got, err := leaseOf(node, typeVXLAN, families{true, true}, nil, nil)
	if err != nil || got.Attrs.String() != attrs.String() {
		t.Errorf("%s, want %s (%v)", got.Attrs.String(), attrs.String(), err)
	}
	if got := publish(attrs, families{v4: true}); len(got) != 3 {
		t.Errorf("published of one family: %v", got)
	}
}

func TestMTU(t *testing.T) {
	for _, c := range []struct {
		backend string
		cidrs   []netip.Prefix
		want    int
	}{
		{typeVXLAN, prefixes("10.42.0.0/24"), 1450},
		{typeVXLAN, prefixes("fd00:42::/64"), 1430},
		{typeVXLAN, prefixes("10.42.0.0/24", "fd00:42::/64"), 1430},
		{typeHostGW, prefixes("10.42.0.0/24", "fd00:42::/64"), 1500},
		{typeWireGuard, prefixes("10.42.0.0/24"), 1420},
	} {
		if got := (spec{backendType: c.backend, podCIDRs: c.cidrs, mtu: 1500}).podMTU(); got != c.want {
			t.Errorf("%s %v: %d, want %d", c.backend, c.cidrs, got, c.want)
		}
	}
}

func TestValidate(t *testing.T) {
	for _, c := range []struct{ raw, want string }{
		{`{}`, ""},
		{`{"backend":"udp"}`, "backend"},
		{`{"vni":0}`, "vni"},
		{`{"mtu":100}`, "mtu"},
		{`{"backend":"host-gw","directRouting":true}`, "warning directRouting"},
		{`{"backend":"host-gw","port":7}`, "warning port"},
		{`{"Backend":"vxlan"}`, "Backend"},
	} {
		found := plugin.New(New("0.0.0", slog.New(slog.DiscardHandler))).Validate(t.Context(), json.RawMessage(c.raw))
		got := ""
		for _, d := range found {
			if d.Severity == config.SeverityWarning {
				got += "warning "
			}
			got += d.Path
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q (%v)", c.raw, got, c.want, found)
		}
	}
}

// TestPreflight: what the kernel lacks and what others left is refused with a
// hint, and nothing is changed by looking.
func TestPreflight(t *testing.T) {
	if !nettest.Inside(t) {
		return
	}
	node := cni.Node{Name: "a"}
	haveWireGuard := try(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Name: "probe"}, LinkType: "wireguard"}) == nil
	problems := preflight(Config{Backend: backendWireGuard, VNI: 1}, node)
	if haveWireGuard != (len(problems) == 0) {
		t.Errorf("WireGuard in the kernel %v, problems %v", haveWireGuard, problems)
	}
	for _, p := range problems {
		if p.Warning || !strings.Contains(p.Summary, "WireGuard") || !strings.Contains(p.Hint, "vxlan") {
			t.Errorf("%+v", p)
		}
	}
	if problems := preflight(Config{Backend: backendVXLAN, VNI: 1}, node); problems != nil {
		t.Errorf("%v", problems)
	}
	links, err := netlink.LinkList()
	if err != nil || len(links) > 3 { // lo and what the kernel makes in each namespace
		t.Errorf("links %v %v", links, err)
	}
	foreign := &netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "flannel.1"}, VxlanId: 1, Port: portVXLAN}
	if err := netlink.LinkAdd(foreign); err != nil {
		t.Fatal(err)
	}
	problems = preflight(Config{Backend: backendVXLAN, VNI: 1}, node)
	if len(problems) != 1 || !strings.Contains(problems[0].Hint, "ip link delete flannel.1") {
		t.Errorf("%v", problems)
	}
	claim := podnet.Claim{Node: "aaaaaa", Plugin: name}
	s := spec{backendType: typeVXLAN, vni: 1, podCIDRs: prefixes("10.42.0.0/24"), claim: claim}
	if err := s.own(false); err == nil || !strings.Contains(err.Error(), "somebody else") {
		t.Errorf("takes it: %v", err)
	}
	if err := claim.Mark(foreign); err != nil {
		t.Fatal(err)
	}
	if err := s.own(false); err != nil {
		t.Errorf("does not know its own: %v", err)
	}
	if problems := preflight(Config{Backend: backendVXLAN, VNI: 1}, node); problems != nil {
		t.Errorf("with its own: %v", problems)
	}
}

func TestUplink(t *testing.T) {
	if !nettest.Inside(t) {
		return
	}
	for name, addresses := range map[string][]string{"up0": {"192.0.2.1/24", "192.0.2.9/24", "fd12::1/64"}, "up1": {"198.51.100.1/24"}} {
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}); err != nil {
			t.Fatal(err)
		}
		link, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range addresses {
			address, err := netlink.ParseAddr(text)
			if err != nil {
				t.Fatal(err)
			}
			if err := netlink.AddrAdd(link, address); err != nil {
				t.Fatal(err)
			}
		}
	}
	var none netip.Addr
	a := netip.MustParseAddr
	for _, c := range []struct {
		name, iface string
		addresses   []netip.Addr
		need        families
		want        string
		v4, v6      netip.Addr
		err         string
	}{
		{"by address", "", []netip.Addr{a("192.0.2.9")}, families{v4: true}, "up0", a("192.0.2.9"), none, ""},
		{"dual stack", "", []netip.Addr{a("192.0.2.1"), a("fd12::1")}, families{true, true}, "up0", a("192.0.2.1"), a("fd12::1"), ""},
		{"by name", "up1", []netip.Addr{a("192.0.2.1")}, families{v4: true}, "up1", a("198.51.100.1"), none, ""},
		{"a family is missing", "up1", nil, families{true, true}, "up1", a("198.51.100.1"), none, ""},
		{"the family is missing", "up1", nil, families{v6: true}, "", none, none, "no address"},
		{"no such interface", "up7", nil, families{v4: true}, "", none, none, "there is no up7"},
		{"no such address", "", []netip.Addr{a("203.0.113.1")}, families{v4: true}, "", none, none, "none has"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := findUplink(c.iface, c.addresses, c.need)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("error %v, want %q", err, c.err)
				}
				return
			}
			if err != nil || got.name != c.want || got.v4 != c.v4 || got.v6 != c.v6 {
				t.Errorf("%+v %v", got, err)
			}
		})
	}
}

// TestKlogFatal: the library's way to end the process ends nothing.
func TestKlogFatal(t *testing.T) {
	var lines strings.Builder
	log := plugin.NewLogger(&lines, slog.LevelDebug)
	told := make(chan struct{})
	adaptKlog(log, func() { close(told) })
	klog.Infof("detail %d", 1)
	klog.Errorf("wrong %d", 2)
	go klog.Fatalf("cannot watch")
	<-told
	for _, want := range []string{`"debug","@message":"detail 1`, `"error","@message":"wrong 2`, "cannot watch"} {
		if !strings.Contains(lines.String(), want) {
			t.Errorf("%q is not in\n%s", want, lines.String())
		}
	}
	adaptKlog(slog.New(slog.NewTextHandler(io.Discard, nil)), func() {})
}

func TestSpecEqual(t *testing.T) {
	s := spec{backendType: typeVXLAN, podCIDRs: prefixes("10.42.0.0/24")}
	other := s
	other.podCIDRs = prefixes("10.42.1.0/24")
	if !s.equal(s) || s.equal(other) {
		t.Error("equal is not equality")
	}
	if diff := cmp.Diff([]string{"flannel.0"}, s.links()); diff != "" {
		t.Error(diff)
	}
}
