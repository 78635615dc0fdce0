package podnet

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// IPNet is a range as netlink takes it.
func IPNet(p netip.Prefix) *net.IPNet {
	p = p.Masked()
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// Overlapping lists links of somebody else that have an address in one of the
// ranges: the node would not find its pods.
func Overlapping(cidrs []netip.Prefix) ([]string, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	var out []string
	for _, link := range links {
		if !Foreign(link) {
			continue
		}
		list, err := netlink.AddrList(link, netlink.FAMILY_ALL)
		if err != nil {
			return nil, fmt.Errorf("addresses of %s: %w", link.Attrs().Name, err)
		}
		for _, a := range list {
			address, ok := netip.AddrFromSlice(a.IP)
			for _, cidr := range cidrs {
				if ok && cidr.Contains(address.Unmap()) {
					out = append(out, fmt.Sprintf("%s has %s", link.Attrs().Name, a.IPNet))
				}
			}
		}
	}
	return out, nil
}
