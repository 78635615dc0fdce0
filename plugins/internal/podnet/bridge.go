package podnet

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"github.com/vishvananda/netlink"
)

// DefaultBridge is the name of the bridge unless it is taken.
const DefaultBridge = "cni0"

// Bridge is the link that a node's pods hang on.
type Bridge struct {
	Claim    Claim
	Name     string // wanted; empty: DefaultBridge, or a free name if that is taken
	MTU      int    // when it is made; later it follows the pods' interfaces
	PodCIDRs []netip.Prefix
}

// Find returns the node's bridge, nil if there is none.
func (b Bridge) Find() (netlink.Link, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	for _, link := range links {
		if own, _ := b.Claim.OwnedBy(link); own && link.Type() == "bridge" {
			return link, nil
		}
	}
	return nil, nil
}

// Ensure makes the bridge, or takes the node's present one whatever its name,
// gives it the gateway addresses and returns its name.
func (b Bridge) Ensure() (string, error) {
	link, err := b.Find()
	if err != nil {
		return "", err
	}
	if link == nil {
		if link, err = b.add(); err != nil {
			return "", err
		}
	}
	name := link.Attrs().Name
	if err := b.Claim.Mark(link); err != nil {
		return "", err
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		if err := ensureGateways(link, family, b.PodCIDRs); err != nil {
			return "", fmt.Errorf("address of %s: %w", name, err)
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return "", fmt.Errorf("set up %s: %w", name, err)
	}
	return name, nil
}

// Check tells what is wrong with the bridge, nil if a pod can be attached.
func (b Bridge) Check() error {
	link, err := b.Find()
	if err != nil {
		return err
	}
	if link == nil {
		return errors.New("the pods' bridge is gone")
	}
	name := link.Attrs().Name
	if link.Attrs().Flags&net.FlagUp == 0 {
		return fmt.Errorf("bridge %s is down", name)
	}
	have, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("addresses of %s: %w", name, err)
	}
	for _, cidr := range b.PodCIDRs {
		want, found := gateway(cidr).String(), false
		for _, a := range have {
			found = found || a.IPNet.String() == want
		}
		if !found {
			return fmt.Errorf("bridge %s lacks the gateway address %s", name, want)
		}
	}
	return nil
}

// Release takes the claim from the bridge, and removes it if nobody else claims
// it. Unless all, a bridge that pods hang on and nobody else claims stays, with
// the claim; inUse says so.
func (b Bridge) Release(all bool) (inUse bool, err error) {
	link, err := b.Find()
	if err != nil || link == nil {
		return false, err
	}
	name := link.Attrs().Name
	if others := b.Claim.others(link); len(others) > 0 {
		if err := netlink.LinkSetAlias(link, formatAlias(b.Claim.Node, others)); err != nil {
			return false, fmt.Errorf("release %s: %w", name, err)
		}
		return false, nil
	}
	if !all {
		ports, err := ports(link)
		if err != nil || ports > 0 {
			return ports > 0, err
		}
	}
	if err := netlink.LinkDel(link); err != nil && !missing(err) {
		return false, fmt.Errorf("remove %s: %w", name, err)
	}
	return false, nil
}

func ports(bridge netlink.Link) (int, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return 0, fmt.Errorf("list links: %w", err)
	}
	n := 0
	for _, link := range links {
		if link.Attrs().MasterIndex == bridge.Attrs().Index {
			n++
		}
	}
	return n, nil
}

// add makes the link under the wanted name; without one, under the default
// name or, where that is taken, under one of the node's own.
func (b Bridge) add() (netlink.Link, error) {
	name := b.Name
	if name == "" {
		name = DefaultBridge
		if _, err := netlink.LinkByName(name); err == nil {
			name = "kelson-" + b.Claim.Node
		}
	}
	sum := sha256.Sum256([]byte(b.Claim.Node))
	link := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs()}
	link.Name, link.MTU, link.TxQLen = name, b.MTU, -1
	// An address of its own, else the bridge takes the lowest of its ports and
	// changes it as pods come and go.
	link.HardwareAddr = net.HardwareAddr{0x0a, 0x58, sum[0], sum[1], sum[2], sum[3]}
	if err := netlink.LinkAdd(link); err != nil {
		if errors.Is(err, syscall.EEXIST) {
			return nil, fmt.Errorf("add bridge %s: another link has this name: choose one with the key name", name)
		}
		return nil, fmt.Errorf("add bridge %s: %w", name, err)
	}
	made, err := netlink.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("add bridge %s: %w", name, err)
	}
	return made, nil
}

// ensureGateways gives the bridge the first address of each range. The wanted
// address must come first: the bridge plugin takes the first that it finds,
// and those of earlier ranges stay, behind it, for the pods that have them.
func ensureGateways(link netlink.Link, family int, cidrs []netip.Prefix) error {
	have, err := netlink.AddrList(link, family)
	if err != nil {
		return err
	}
	for _, cidr := range cidrs {
		if cidr.Addr().Is6() != (family == netlink.FAMILY_V6) {
			continue
		}
		want := gateway(cidr)
		earlier, found := before(have, want)
		if found && len(earlier) == 0 {
			return nil
		}
		for _, a := range earlier {
			if err := netlink.AddrDel(link, &a); err != nil {
				return err
			}
		}
		add := []netlink.Addr{{IPNet: want}}
		for _, a := range earlier {
			add = append(add, netlink.Addr{IPNet: a.IPNet})
		}
		for _, a := range add {
			if family == netlink.FAMILY_V6 {
				a.Flags = syscall.IFA_F_NODAD // nobody else can have it, and pods would wait for the check
			}
			if err := netlink.AddrReplace(link, &a); err != nil {
				return err
			}
		}
	}
	return nil
}

// before are the addresses in front of the wanted one.
func before(have []netlink.Addr, want *net.IPNet) (earlier []netlink.Addr, found bool) {
	for _, a := range have {
		if a.IP.IsLinkLocalUnicast() {
			continue
		}
		if a.IPNet.String() == want.String() {
			return earlier, true
		}
		earlier = append(earlier, a)
	}
	return earlier, false
}

// gateway is the first address of a range, with the range's length.
func gateway(cidr netip.Prefix) *net.IPNet {
	first := cidr.Masked().Addr().Next()
	return &net.IPNet{IP: first.AsSlice(), Mask: net.CIDRMask(cidr.Bits(), first.BitLen())}
}

func missing(err error) bool {
	var notFound netlink.LinkNotFoundError
	return errors.Is(err, syscall.ENODEV) || errors.As(err, &notFound)
}
