package agent

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/kelson-io/kelson/core/config"
)

// NodeInfo is who this node is.
type NodeInfo struct {
	Name     string       // of the Node object
	Hostname string       // of the host, lower case
	IPs      []netip.Addr // one per address family of the cluster, primary first
	Uplink   string       // interface that holds the first address, "" if none does
	MTU      int          // of the uplink, 0 if unknown
}

// Detect finds the node's name and addresses. families are those of the
// cluster in its order (false: IPv4, true: IPv6), from the cluster CIDRs; none
// means IPv4 first, then IPv6.
//
// Addresses are, in this order: --node-ip; the address of the interface that
// has the default route (of several, the one that the kernel prefers); the only
// global address of the host.
func Detect(cfg config.Node, cluster []netip.Prefix) (NodeInfo, error) {
	hostname, err := os.Hostname()
	if err != nil {
		return NodeInfo{}, fmt.Errorf("read host name: %w", err)
	}
	info := NodeInfo{Hostname: strings.ToLower(hostname)}
	info.Name = cfg.Name
	if info.Name == "" {
		info.Name = info.Hostname
	}
	if err := checkNodeName(info.Name); err != nil {
		return NodeInfo{}, err
	}
	if len(cfg.IP) > 0 {
		info.IPs = slices.Clone(cfg.IP)
	} else if info.IPs, err = detectAddresses(cluster); err != nil {
		return NodeInfo{}, err
	}
	info.Uplink, info.MTU = uplinkOf(info.IPs[0])
	return info, nil
}

func checkNodeName(name string) error {
	valid := regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)
	if len(name) <= 253 && valid.MatchString(name) {
		return nil
	}
	return config.Hinted(fmt.Errorf("node name %q is not a valid DNS name", name),
		"give one with --node-name: lower-case letters, digits, '-' and '.'")
}

// address is one candidate of the host.
type address struct {
	link   string
	ip     netip.Addr
	stable bool // not temporary (IPv6 privacy), not deprecated
	routed bool
	metric int // of the default route, the lowest wins
}

func detectAddresses(cluster []netip.Prefix) ([]netip.Addr, error) {
	candidates, err := hostAddresses()
	if err != nil {
		return nil, err
	}
	return chooseAddresses(candidates, cluster)
}

// chooseAddresses picks one address per family of the cluster.
func chooseAddresses(candidates []address, cluster []netip.Prefix) ([]netip.Addr, error) {
	if len(cluster) == 0 {
		for _, six := range []bool{false, true} {
			if ip, err := chooseFamily(candidates, six); err == nil {
				return []netip.Addr{ip}, nil
			}
		}
		_, err := chooseFamily(candidates, false)
		return nil, err
	}
	var out []netip.Addr
	for _, cidr := range cluster {
		ip, err := chooseFamily(candidates, cidr.Addr().Is6())
		if err != nil {
			return nil, err
		}
		out = append(out, ip)
	}
	return out, nil
}

func chooseFamily(candidates []address, six bool) (netip.Addr, error) {
	var routed []address
	var global []netip.Addr
	for _, c := range candidates {
		if c.ip.Is6() != six || !c.stable || !c.ip.IsGlobalUnicast() {
			continue
		}
		if c.routed {
			routed = append(routed, c)
		}
		if !slices.Contains(global, c.ip) {
			global = append(global, c.ip)
		}
	}
	family := "IPv4"
	if six {
		family = "IPv6"
	}
	switch {
	case len(routed) > 0:
		best := slices.MinFunc(routed, func(a, b address) int { return cmp.Compare(a.metric, b.metric) })
		return best.ip, nil
	case len(global) == 1:
		return global[0], nil
	case len(global) == 0:
		return netip.Addr{}, config.Hinted(fmt.Errorf("no global %s address on this host", family),
			"give the host an address, or name one with --node-ip")
	}
	return netip.Addr{}, config.Hinted(
		fmt.Errorf("no default %s route, and the host has several global addresses: %s", family, join(global)),
		"choose one with --node-ip="+global[0].String())
}

func join[T fmt.Stringer](items []T) string {
	var out []string
	for _, item := range items {
		out = append(out, item.String())
	}
	return strings.Join(out, ", ")
}

// hostAddresses lists the global addresses of the links that are up, except
// those of container networks, in the order of the kernel.
func hostAddresses() ([]address, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list network interfaces: %w", err)
	}
	var out []address
	for _, link := range links {
		attrs := link.Attrs()
		if attrs.Flags&unix.IFF_UP == 0 || ownLink(link) {
			continue
		}
		for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			addrs, err := netlink.AddrList(link, family)
			if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
				return nil, fmt.Errorf("list addresses of %s: %w", attrs.Name, err)
			}
			metric, routed := defaultRoute(link, family)
			for _, a := range addrs {
				ip, ok := netip.AddrFromSlice(a.IP)
				if !ok || a.Scope != unix.RT_SCOPE_UNIVERSE {
					continue
				}
				out = append(out, address{
					link: attrs.Name, ip: ip.Unmap(), routed: routed, metric: metric,
					stable: a.Flags&(unix.IFA_F_TEMPORARY|unix.IFA_F_DEPRECATED|unix.IFA_F_TENTATIVE) == 0 || a.Flags&unix.IFA_F_PERMANENT != 0 && a.Flags&unix.IFA_F_DEPRECATED == 0,
				})
			}
		}
	}
	return out, nil
}

// ownLink tells the bridges of container networks, whose addresses are never
// the node's.
func ownLink(link netlink.Link) bool {
	name := link.Attrs().Name
	return strings.HasPrefix(link.Attrs().Alias, bridgeAlias) || name == "cni0" || name == "docker0"
}

// defaultRoute returns the lowest metric of the default routes through a link.
func defaultRoute(link netlink.Link, family int) (metric int, found bool) {
	routes, err := netlink.RouteList(link, family)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return 0, false
	}
	for _, r := range routes {
		if r.Dst != nil {
			if ones, _ := r.Dst.Mask.Size(); ones != 0 || !r.Dst.IP.IsUnspecified() {
				continue
			}
		}
		if !found || r.Priority < metric {
			metric, found = r.Priority, true
		}
	}
	return metric, found
}

func uplinkOf(ip netip.Addr) (string, int) {
	links, err := netlink.LinkList()
	if err != nil {
		return "", 0
	}
	family := netlink.FAMILY_V4
	if ip.Is6() {
		family = netlink.FAMILY_V6
	}
	for _, link := range links {
		addrs, err := netlink.AddrList(link, family)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			continue
		}
		for _, a := range addrs {
			if have, ok := netip.AddrFromSlice(a.IP); ok && have.Unmap() == ip {
				return link.Attrs().Name, link.Attrs().MTU
			}
		}
	}
	return "", 0
}
