package flannel

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"syscall"

	"github.com/flannel-io/flannel/pkg/lease"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/kelson-io/kelson/plugins/internal/podnet"
)

// target is one route to another node's pods: through the tunnel, via the node's
// first pod address, or directly, via the node's own address.
type target struct {
	node   string
	subnet netip.Prefix
	public netip.Addr
	mac    net.HardwareAddr // of the node's VXLAN device
}

// targets are the routes that the leases mean.
func targets(leases map[string]lease.Lease) []target {
	var out []target
	for _, name := range slices.Sorted(maps.Keys(leases)) {
		l := leases[name]
		if l.EnableIPv4 {
			mac, _ := vtepMAC(l.Attrs.BackendData) // checked by leaseOf; none with other backends
			out = append(out, target{name, prefixOf(l.Subnet.ToIPNet()), addressOf(l.Attrs.PublicIP.ToIP()), mac})
		}
		if l.EnableIPv6 {
			mac, _ := vtepMAC(l.Attrs.BackendV6Data)
			out = append(out, target{name, prefixOf(l.IPv6Subnet.ToIPNet()), addressOf(l.Attrs.PublicIPv6.ToIP()), mac})
		}
	}
	return out
}

func prefixOf(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	address, _ := netip.AddrFromSlice(n.IP)
	bits, size := n.Mask.Size()
	if size == 32 {
		address = address.Unmap()
	}
	return netip.PrefixFrom(address, bits)
}

func addressOf(ip net.IP) netip.Addr {
	address, _ := netip.AddrFromSlice(ip)
	return address.Unmap()
}

// tables is what the kernel holds of the cluster's routes.
type tables struct {
	tunnels    map[int]bool // indexes of the backend's devices
	routes     []netlink.Route
	neighbours []netlink.Neigh // of the tunnels, entries for addresses
	forwarding []netlink.Neigh // of the tunnels, entries for hardware addresses
}

// read reads routes with a gateway into the cluster's ranges, and the tunnels'
// neighbours.
func (s spec) read() (tables, error) {
	out := tables{tunnels: map[int]bool{}}
	for _, name := range s.links() {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return tables{}, fmt.Errorf("%s: %w", name, err)
		}
		out.tunnels[link.Attrs().Index] = true
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return tables{}, fmt.Errorf("list routes: %w", err)
		}
		for _, r := range routes {
			if s.ours(r) {
				out.routes = append(out.routes, r)
			}
		}
	}
	if s.backendType != typeVXLAN {
		return out, nil
	}
	for index := range out.tunnels {
		for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6, unix.AF_BRIDGE} {
			list, err := netlink.NeighList(index, family)
			if err != nil {
				return tables{}, fmt.Errorf("list neighbours: %w", err)
			}
			for _, n := range list {
				switch {
				case n.State&netlink.NUD_PERMANENT == 0 || n.IP == nil || n.IP.IsMulticast():
				case family == unix.AF_BRIDGE:
					out.forwarding = append(out.forwarding, n)
				default:
					out.neighbours = append(out.neighbours, n)
				}
			}
		}
	}
	return out, nil
}

// ours tells routes that a backend makes: into the cluster's pod range, via a
// gateway, by nobody's routing daemon. The range is the plugin's alone.
func (s spec) ours(r netlink.Route) bool {
	if r.Dst == nil || r.Gw == nil || r.Type != unix.RTN_UNICAST || r.Protocol != unix.RTPROT_BOOT {
		return false
	}
	dst := prefixOf(r.Dst)
	return slices.ContainsFunc(s.clusterCIDRs, func(c netip.Prefix) bool { return c.Bits() <= dst.Bits() && c.Contains(dst.Addr()) })
}

// satisfies tells whether a route leads to the target.
func (s spec) satisfies(t tables, r netlink.Route, want target) bool {
	if prefixOf(r.Dst) != want.subnet {
		return false
	}
	via := addressOf(r.Gw)
	if s.backendType == typeVXLAN && t.tunnels[r.LinkIndex] {
		return via == want.subnet.Addr()
	}
	return via == want.public && (s.directRouting || s.backendType == typeHostGW)
}

// missing names the nodes to which the kernel does not lead. flannel only logs
// what it could not do; this is how we know.
func (s spec) missing(leases map[string]lease.Lease) ([]string, error) {
	if s.backendType == typeWireGuard || len(leases) == 0 {
		return nil, nil // one route leads to all peers
	}
	t, err := s.read()
	if err != nil {
		return nil, err
	}
	var out []string
	for _, want := range targets(leases) {
		found := slices.ContainsFunc(t.routes, func(r netlink.Route) bool {
			return s.satisfies(t, r, want) && (!t.tunnels[r.LinkIndex] || t.resolves(want))
		})
		if !found && !slices.Contains(out, want.node) {
			out = append(out, want.node)
		}
	}
	return out, nil
}

// resolves tells whether the tunnel knows whereto it sends for the target.
func (t tables) resolves(want target) bool {
	mac := want.mac.String()
	return slices.ContainsFunc(t.neighbours, func(n netlink.Neigh) bool {
		return addressOf(n.IP) == want.subnet.Addr() && n.HardwareAddr.String() == mac
	}) && slices.ContainsFunc(t.forwarding, func(n netlink.Neigh) bool {
		return addressOf(n.IP) == want.public && n.HardwareAddr.String() == mac
	})
}

// sweep removes routes and neighbours that belong to no lease: of nodes that
// went or changed, also while no plugin ran.
func (s spec) sweep(leases map[string]lease.Lease) error {
	t, err := s.read()
	if err != nil {
		return err
	}
	wanted := targets(leases)
	var errs []error
	for _, r := range t.routes {
		if !slices.ContainsFunc(wanted, func(want target) bool { return s.satisfies(t, r, want) }) {
			errs = append(errs, gone(netlink.RouteDel(&r)))
		}
	}
	for _, n := range t.neighbours {
		if !slices.ContainsFunc(wanted, func(want target) bool {
			return addressOf(n.IP) == want.subnet.Addr() && n.HardwareAddr.String() == want.mac.String()
		}) {
			errs = append(errs, gone(netlink.NeighDel(&n)))
		}
	}
	for _, n := range t.forwarding {
		if !slices.ContainsFunc(wanted, func(want target) bool {
			return addressOf(n.IP) == want.public && n.HardwareAddr.String() == want.mac.String()
		}) {
			errs = append(errs, gone(netlink.NeighDel(&netlink.Neigh{
				LinkIndex: n.LinkIndex, Family: unix.AF_BRIDGE, Flags: netlink.NTF_SELF, IP: n.IP, HardwareAddr: n.HardwareAddr,
			})))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove old routes: %w", err)
	}
	return nil
}

// eraseLinks removes the devices that a backend made for the claim, also in an
// earlier process and with another configuration, but for those to keep. Their
// routes go with them.
func eraseLinks(claim podnet.Claim, keep []string) error {
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	var errs []error
	for _, link := range links {
		own, _ := claim.OwnedBy(link)
		if own && link.Type() != "bridge" && !slices.Contains(keep, link.Attrs().Name) {
			errs = append(errs, gone(netlink.LinkDel(link)))
		}
	}
	return errors.Join(errs...)
}

// eraseRoutes removes the direct routes to other nodes' pods.
func eraseRoutes(cluster []netip.Prefix) error {
	return spec{backendType: typeHostGW, clusterCIDRs: cluster}.sweep(nil)
}

// gone forgives that something was not there any more.
func gone(err error) error {
	if errors.Is(err, syscall.ESRCH) || errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ENODEV) {
		return nil
	}
	return err
}
