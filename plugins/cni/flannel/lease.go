package flannel

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/flannel-io/flannel/pkg/ip"
	"github.com/flannel-io/flannel/pkg/lease"

	"github.com/kelson-io/kelson/plugins/internal/podnet"
	"github.com/kelson-io/kelson/sdk/cni"
)

// Keys of what a node publishes: the last parts of flannel's own annotations.
const (
	keyType   = "backend-type"
	keyData   = "backend-data"
	keyDataV6 = "backend-v6-data"
	keyIP     = "public-ip"
	keyIPv6   = "public-ipv6"
)

// errSilent says that a node's plugin has published nothing yet.
var errSilent = errors.New("it has published nothing yet")

// families says which address families the node's pods have.
type families struct{ v4, v6 bool }

func familiesOf(cidrs []netip.Prefix) families {
	var f families
	for _, cidr := range cidrs {
		f.v4 = f.v4 || cidr.Addr().Is4()
		f.v6 = f.v6 || cidr.Addr().Is6()
	}
	return f
}

// publish turns the attributes of this node's lease into what the other nodes'
// plugins get.
func publish(attrs lease.LeaseAttrs, f families) map[string]string {
	out := map[string]string{keyType: attrs.BackendType}
	if f.v4 {
		out[keyIP] = attrs.PublicIP.String()
		if len(attrs.BackendData) > 0 {
			out[keyData] = string(attrs.BackendData)
		}
	}
	if f.v6 && attrs.PublicIPv6 != nil {
		out[keyIPv6] = attrs.PublicIPv6.String()
		if len(attrs.BackendV6Data) > 0 {
			out[keyDataV6] = string(attrs.BackendV6Data)
		}
	}
	return out
}

// leaseOf makes flannel's lease of another node. It is strict: flannel takes
// what it is given, ends the process when an address is missing, and would route
// any range there.
func leaseOf(node cni.Node, backendType string, local families, self, cluster []netip.Prefix) (lease.Lease, error) {
	if len(node.Published) == 0 {
		return lease.Lease{}, errSilent
	}
	if got := node.Published[keyType]; got != backendType {
		return lease.Lease{}, fmt.Errorf("it runs the backend %q, this node %q", got, backendType)
	}
	out := lease.Lease{Attrs: lease.LeaseAttrs{BackendType: backendType}}
	for _, cidr := range node.PodCIDRs {
		if err := admissible(cidr, self, cluster); err != nil {
			return lease.Lease{}, err
		}
		network := podnet.IPNet(cidr)
		if cidr.Addr().Is4() {
			if !local.v4 {
				continue
			}
			address, err := netip.ParseAddr(node.Published[keyIP])
			if err != nil || !address.Is4() {
				return lease.Lease{}, fmt.Errorf("published %s is %q: an IPv4 address is needed", keyIP, node.Published[keyIP])
			}
			out.EnableIPv4, out.Subnet = true, ip.FromIPNet(network)
			out.Attrs.PublicIP = ip.FromIP(address.AsSlice())
			if out.Attrs.BackendData, err = backendData(backendType, node.Published[keyData]); err != nil {
				return lease.Lease{}, fmt.Errorf("published %s: %w", keyData, err)
			}
			continue
		}
		if !local.v6 {
			continue
		}
		address, err := netip.ParseAddr(node.Published[keyIPv6])
		if err != nil || !address.Is6() || address.Is4In6() {
			return lease.Lease{}, fmt.Errorf("published %s is %q: an IPv6 address is needed", keyIPv6, node.Published[keyIPv6])
		}
		out.EnableIPv6, out.IPv6Subnet = true, ip.FromIP6Net(network)
		out.Attrs.PublicIPv6 = ip.FromIP6(address.AsSlice())
		if out.Attrs.BackendV6Data, err = backendData(backendType, node.Published[keyDataV6]); err != nil {
			return lease.Lease{}, fmt.Errorf("published %s: %w", keyDataV6, err)
		}
	}
	if !out.EnableIPv4 && !out.EnableIPv6 {
		return lease.Lease{}, errors.New("it has no pod range of this node's address families")
	}
	return out, nil
}

// admissible keeps a node from drawing traffic that is not for its pods.
func admissible(cidr netip.Prefix, self, cluster []netip.Prefix) error {
	if slices.ContainsFunc(self, cidr.Overlaps) {
		return fmt.Errorf("its pod range %s overlaps this node's", cidr)
	}
	within := func(c netip.Prefix) bool { return c.Bits() <= cidr.Bits() && c.Contains(cidr.Addr()) }
	if len(cluster) > 0 && !slices.ContainsFunc(cluster, within) {
		return fmt.Errorf("its pod range %s is outside the cluster's", cidr)
	}
	return nil
}

// backendData checks what the backend is going to decode.
func backendData(backendType, raw string) (json.RawMessage, error) {
	switch backendType {
	case typeVXLAN:
		if _, err := vtepMAC([]byte(raw)); err != nil {
			return nil, err
		}
	case typeWireGuard:
		var data struct{ PublicKey string }
		if err := json.Unmarshal([]byte(raw), &data); err != nil || data.PublicKey == "" {
			return nil, fmt.Errorf("no public key in %q", raw)
		}
	default:
		return nil, nil
	}
	return json.RawMessage(raw), nil
}

// vtepMAC is the hardware address of a node's VXLAN device.
func vtepMAC(raw []byte) (net.HardwareAddr, error) {
	var data struct{ VtepMAC string }
	if err := json.Unmarshal(raw, &data); err != nil {
		return nil, fmt.Errorf("no hardware address in %q", raw)
	}
	mac, err := net.ParseMAC(data.VtepMAC)
	if err != nil || len(mac) != 6 {
		return nil, fmt.Errorf("no hardware address in %q", raw)
	}
	return mac, nil
}

// same tells whether two leases mean the same routes.
func same(a, b lease.Lease) bool {
	return a.EnableIPv4 == b.EnableIPv4 && a.EnableIPv6 == b.EnableIPv6 &&
		(!a.EnableIPv4 || a.Subnet.Equal(b.Subnet) && a.Attrs.PublicIP == b.Attrs.PublicIP && string(a.Attrs.BackendData) == string(b.Attrs.BackendData)) &&
		(!a.EnableIPv6 || a.IPv6Subnet.Equal(b.IPv6Subnet) && a.Attrs.PublicIPv6.Cmp(b.Attrs.PublicIPv6) == 0 && string(a.Attrs.BackendV6Data) == string(b.Attrs.BackendV6Data))
}
