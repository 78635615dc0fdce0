package flannel

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/flannel-io/flannel/pkg/backend"
	"github.com/vishvananda/netlink"
)

// errNoUplink is wrapped by the reasons for which no interface can be used.
var errNoUplink = errors.New("no interface to the other nodes")

// uplink is the interface to the other nodes.
type uplink struct {
	name   string
	index  int
	mtu    int
	v4, v6 netip.Addr // invalid where the family is not needed or not there
}

// reaches are those of the ranges that have a way to other nodes: their family
// is the uplink's, too.
func (u uplink) reaches(cidrs []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, cidr := range cidrs {
		if cidr.Addr().Is4() && u.v4.IsValid() || cidr.Addr().Is6() && u.v6.IsValid() {
			out = append(out, cidr)
		}
	}
	return out
}

// external is the uplink as flannel takes it, with the given MTU.
func (u uplink) external(mtu int) *backend.ExternalInterface {
	out := &backend.ExternalInterface{
		Iface:     &net.Interface{Index: u.index, Name: u.name, MTU: mtu},
		IfaceName: u.name,
	}
	if u.v4.IsValid() {
		out.IfaceAddr = u.v4.AsSlice()
		out.ExtAddr = out.IfaceAddr
	}
	if u.v6.IsValid() {
		out.IfaceV6Addr = u.v6.AsSlice()
		out.ExtV6Addr = out.IfaceV6Addr
	}
	return out
}

// findUplink finds the interface with the wanted name; without a name, the one
// that has the first of the node's addresses. It must have an address of one of
// the needed families; those of the node are preferred.
func findUplink(name string, addresses []netip.Addr, need families) (uplink, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return uplink{}, fmt.Errorf("list links: %w", err)
	}
	for _, link := range links {
		have, err := global(link)
		if err != nil {
			return uplink{}, err
		}
		if name != link.Attrs().Name && (name != "" || len(addresses) == 0 || !slices.Contains(have, addresses[0])) {
			continue
		}
		u := uplink{name: link.Attrs().Name, index: link.Attrs().Index, mtu: link.Attrs().MTU}
		if need.v4 {
			u.v4 = choose(have, addresses, netip.Addr.Is4)
		}
		if need.v6 {
			u.v6 = choose(have, addresses, netip.Addr.Is6)
		}
		if !u.v4.IsValid() && !u.v6.IsValid() {
			return uplink{}, fmt.Errorf("%w: %s has no address of the pods' families", errNoUplink, u.name)
		}
		return u, nil
	}
	if name != "" {
		return uplink{}, fmt.Errorf("%w: there is no %s", errNoUplink, name)
	}
	return uplink{}, fmt.Errorf("%w: none has the node's address %v", errNoUplink, addresses)
}

// choose prefers the node's addresses, which the other nodes know.
func choose(have, preferred []netip.Addr, family func(netip.Addr) bool) netip.Addr {
	for _, a := range slices.Concat(preferred, have) {
		if family(a) && slices.Contains(have, a) {
			return a
		}
	}
	return netip.Addr{}
}

// global are the addresses of a link that other nodes can reach.
func global(link netlink.Link) ([]netip.Addr, error) {
	list, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("addresses of %s: %w", link.Attrs().Name, err)
	}
	var out []netip.Addr
	for _, a := range list {
		if address, ok := netip.AddrFromSlice(a.IP); ok && address.Unmap().IsGlobalUnicast() {
			out = append(out, address.Unmap())
		}
	}
	return out, nil
}
