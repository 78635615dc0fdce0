package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Default prefixes by address family.
func defaultClusterCIDR(v6 bool) netip.Prefix {
	if v6 {
		return netip.MustParsePrefix("fd00:42::/56")
	}
	return netip.MustParsePrefix("10.42.0.0/16")
}

func defaultServiceCIDR(v6 bool) netip.Prefix {
	if v6 {
		return netip.MustParsePrefix("fd00:43::/112")
	}
	return netip.MustParsePrefix("10.43.0.0/16")
}

// network derives what was not given from what was: the address families come
// from cluster-cidr, else service-cidr, else node-ip, else IPv4.
func (b *builder) network(s Server) Network {
	n := Network{
		ClusterCIDR: b.prefixes("cluster-cidr"),
		ServiceCIDR: b.prefixes("service-cidr"),
		ClusterDNS:  b.addresses("cluster-dns"),
	}
	families := familiesOf(n, s.Node.IP)
	n.ClusterDomain = b.domain("cluster-domain")
	n.NodePortMin, n.NodePortMax = b.portRange("service-node-port-range")
	n.CNI, n.FlannelBackend, n.FlannelIface = b.pluginName("cni"), b.one("flannel-backend"), b.one("flannel-iface")
	for _, v6 := range families {
		if len(b.get("cluster-cidr").items) == 0 {
			n.ClusterCIDR = append(n.ClusterCIDR, defaultClusterCIDR(v6))
		}
		if len(b.get("service-cidr").items) == 0 {
			n.ServiceCIDR = append(n.ServiceCIDR, defaultServiceCIDR(v6))
		}
	}
	b.checkPrefixes(n)
	if len(b.get("cluster-dns").items) == 0 {
		for _, p := range n.ServiceCIDR {
			n.ClusterDNS = append(n.ClusterDNS, nth(p, 10))
		}
	} else {
		b.checkDNS(n)
	}
	b.checkNodeAddresses(n, s.Node.IP)
	return n
}

// familiesOf returns the cluster's address families in order; true is IPv6.
func familiesOf(n Network, nodeIP []netip.Addr) []bool {
	var out []bool
	add := func(a netip.Addr) {
		if !slices.Contains(out, a.Is6()) {
			out = append(out, a.Is6())
		}
	}
	for _, list := range [][]netip.Prefix{n.ClusterCIDR, n.ServiceCIDR} {
		for _, p := range list {
			add(p.Addr())
		}
		if len(out) > 0 {
			return out
		}
	}
	for _, a := range nodeIP {
		add(a)
	}
	if len(out) == 0 {
		out = []bool{false}
	}
	return out
}

// nth returns the n-th address of a prefix; the network address is number 0.
func nth(p netip.Prefix, n int) netip.Addr {
	a := p.Masked().Addr()
	for range n {
		a = a.Next()
	}
	return a
}

// prefixes parses a list of CIDRs.
func (b *builder) prefixes(name string) []netip.Prefix {
	var out []netip.Prefix
	for _, it := range b.get(name).items {
		p, err := netip.ParsePrefix(it.text)
		if err != nil {
			b.add(it.src, name, fmt.Sprintf("%q is not a CIDR", it.text), "write ADDRESS/BITS, such as "+defaultClusterCIDR(strings.Contains(it.text, ":")).String())
			continue
		}
		if p != p.Masked() {
			b.add(it.src, name, fmt.Sprintf("%s has bits set behind its prefix", p), fmt.Sprintf("write %s", p.Masked()))
			continue
		}
		out = append(out, p)
	}
	return out
}

// checkPrefixes checks the prefixes of pods and services, each and together.
func (b *builder) checkPrefixes(n Network) {
	b.checkList("cluster-cidr", n.ClusterCIDR)
	b.checkList("service-cidr", n.ServiceCIDR)
	if len(n.ClusterCIDR) == 0 || len(n.ServiceCIDR) == 0 {
		return // malformed, reported
	}
	src, key := b.weaker("service-cidr", "cluster-cidr")
	for _, c := range n.ClusterCIDR {
		for _, s := range n.ServiceCIDR {
			if c.Overlaps(s) {
				b.add(src, key, fmt.Sprintf("cluster-cidr %s and service-cidr %s overlap", c, s), "choose prefixes that have no address in common")
			}
		}
	}
	if !sameFamilies(n.ClusterCIDR, n.ServiceCIDR) {
		b.add(src, key, fmt.Sprintf("cluster-cidr %s and service-cidr %s are of different address families", joinAll(n.ClusterCIDR), joinAll(n.ServiceCIDR)),
			"give one prefix of each family to both, in the same order")
	}
	b.checkSizes(n)
}

// weaker returns the source to blame when two options disagree: the one that
// was written, and of two the first named.
func (b *builder) weaker(first, second string) (Source, string) {
	if _, written := b.values[first]; written {
		return b.get(first).Source, first
	}
	return b.get(second).Source, second
}

func (b *builder) checkList(name string, list []netip.Prefix) {
	for i, p := range list {
		for _, q := range list[:i] {
			if p.Addr().Is6() == q.Addr().Is6() {
				b.add(b.get(name).Source, name, fmt.Sprintf("%s and %s are of the same address family", q, p), "give at most one IPv4 and one IPv6 prefix")
			}
		}
	}
}

// checkSizes refuses prefixes that the controller manager or the API server
// would refuse after the start.
func (b *builder) checkSizes(n Network) {
	ownMask := slices.ContainsFunc(b.get("kube-controller-manager-arg").items, func(it item) bool {
		return strings.HasPrefix(strings.TrimPrefix(it.text, "--"), "node-cidr-mask-size")
	})
	for _, p := range n.ClusterCIDR {
		low, high := 8, 24 // a node takes a /24
		if p.Addr().Is6() {
			low, high = 48, 64 // a node takes a /64
		}
		if (p.Bits() < low || p.Bits() > high) && !ownMask {
			b.add(b.get("cluster-cidr").Source, "cluster-cidr", fmt.Sprintf("%s is too large or too small: nodes take a /%d of it", p, high),
				fmt.Sprintf("write a prefix from /%d to /%d, or set node-cidr-mask-size with kube-controller-manager-arg", low, high))
		}
	}
	for _, p := range n.ServiceCIDR {
		low, high := 12, 28
		if p.Addr().Is6() {
			low, high = 108, 124
		}
		if p.Bits() < low || p.Bits() > high {
			b.add(b.get("service-cidr").Source, "service-cidr", fmt.Sprintf("%s is too large or too small", p), fmt.Sprintf("write a prefix from /%d to /%d", low, high))
		}
	}
}

func sameFamilies(a, c []netip.Prefix) bool {
	return slices.EqualFunc(a, c, func(p, q netip.Prefix) bool { return p.Addr().Is6() == q.Addr().Is6() })
}

func (b *builder) checkDNS(n Network) {
	b.oncePerFamily("cluster-dns", n.ClusterDNS)
	for _, a := range n.ClusterDNS {
		inside := slices.ContainsFunc(n.ServiceCIDR, func(p netip.Prefix) bool { return p.Contains(a) && a != nth(p, 1) && a != p.Addr() })
		if !inside && len(n.ServiceCIDR) > 0 {
			b.add(b.get("cluster-dns").Source, "cluster-dns", fmt.Sprintf("%s is not a free address of service-cidr %s", a, joinAll(n.ServiceCIDR)),
				fmt.Sprintf("write %s, or remove it", nth(n.ServiceCIDR[0], 10)))
		}
	}
}

func (b *builder) checkNodeAddresses(n Network, nodeIP []netip.Addr) {
	for _, a := range nodeIP {
		for _, p := range slices.Concat(n.ClusterCIDR, n.ServiceCIDR) {
			if p.Contains(a) {
				b.add(b.get("node-ip").Source, "node-ip", fmt.Sprintf("%s lies in %s, which pods or services use", a, p), "choose other prefixes with cluster-cidr and service-cidr")
			}
		}
	}
}

// oncePerFamily refuses two addresses of one family.
func (b *builder) oncePerFamily(name string, list []netip.Addr) {
	for i, a := range list {
		for _, c := range list[:i] {
			if a.Is6() == c.Is6() {
				b.add(b.get(name).Source, name, fmt.Sprintf("%s and %s are of the same address family", c, a), "give at most one IPv4 and one IPv6 address")
			}
		}
	}
}

// portRange parses MIN-MAX.
func (b *builder) portRange(name string) (low, high int) {
	v := b.get(name)
	first, last, ok := strings.Cut(b.one(name), "-")
	low, errLow := strconv.Atoi(strings.TrimSpace(first))
	high, errHigh := strconv.Atoi(strings.TrimSpace(last))
	if !ok || errLow != nil || errHigh != nil {
		b.add(v.Source, name, fmt.Sprintf("%q is not a range of ports", b.one(name)), "write MIN-MAX, such as 30000-32767")
		return 0, 0
	}
	if low < 1 || high > 65535 || low > high {
		b.add(v.Source, name, fmt.Sprintf("%s is out of range", b.one(name)), "write MIN-MAX, both from 1 to 65535")
	}
	return low, high
}

// checkPorts refuses two listeners on one port, and a range of node ports that
// holds one of them.
func (b *builder) checkPorts(s Server) {
	taken := []struct {
		name string
		port int
	}{
		{"https-listen-port", s.API.Port},
		{"supervisor-port", s.Supervisor.Port},
		{"kubelet-port", s.Node.KubeletPort},
		{"kube-proxy's health port", 10256},
		{"the controller manager's port", 10257},
		{"the scheduler's port", 10259},
	}
	for i, t := range taken {
		for _, other := range taken[i+1:] {
			if t.port == other.port {
				b.add(b.get(t.name).Source, t.name, fmt.Sprintf("port %d is also that of %s", t.port, other.name), "choose another port")
			}
		}
		if t.port >= s.Network.NodePortMin && t.port <= s.Network.NodePortMax {
			b.add(b.get("service-node-port-range").Source, "service-node-port-range", fmt.Sprintf("port %d in it is that of %s", t.port, t.name), "choose another range or another port")
		}
	}
}
