package flannel

import (
	"context"

	"github.com/kelson-io/kelson/sdk/plugin"
)

// Config is the configuration.
type Config struct {
	Backend       string `kelson:"backend,default=vxlan,enum=vxlan|host-gw|wireguard-native" doc:"How packets reach the pods of other nodes: vxlan (a tunnel, works everywhere), host-gw (plain routes, fastest, all nodes on one layer 2 network), wireguard-native (an encrypted tunnel, needs WireGuard in the kernel)."`
	Interface     string `kelson:"interface,max=15" doc:"Interface to the other nodes. Default: what the host says (flannel-iface), else the one with the node's first address."`
	VNI           int    `kelson:"vni,default=1,min=1,max=16777215" doc:"VXLAN network identifier; the devices are called flannel.VNI and flannel-v6.VNI. Backend vxlan only."`
	Port          int    `kelson:"port,min=0,max=65534" doc:"UDP port of the tunnel, the same on all nodes. Default: 8472 with vxlan, 51820 with wireguard-native (and the next one for IPv6)."`
	DirectRouting bool   `kelson:"directRouting,default=false" doc:"Send to nodes on the same layer 2 network without the tunnel. Backend vxlan only."`
	MTU           int    `kelson:"mtu,min=0,max=65535" doc:"MTU of the way to the other nodes; what the tunnel needs is subtracted for the pods. Default: that of the interface."`
	Hairpin       bool   `kelson:"hairpin,default=true" doc:"Let a pod reach itself through its own service."`
}

// Backends as users write them.
const (
	backendVXLAN     = "vxlan"
	backendHostGW    = "host-gw"
	backendWireGuard = "wireguard-native"
)

const (
	portVXLAN     = 8472
	portWireGuard = 51820
	minMTU        = 576  // of IPv4
	minMTUv6      = 1280 // of IPv6
)

// backendType is the backend as flannel names it.
func (c Config) backendType() string {
	if c.Backend == backendWireGuard {
		return typeWireGuard
	}
	return c.Backend
}

// port is the configured port or the backend's own.
func (c Config) port() int {
	switch {
	case c.Port != 0:
		return c.Port
	case c.Backend == backendWireGuard:
		return portWireGuard
	default:
		return portVXLAN
	}
}

// Validate implements plugin.Typed.
func (*Plugin) Validate(_ context.Context, c Config) plugin.Diagnostics {
	var out plugin.Diagnostics
	if c.MTU != 0 && c.MTU < minMTU {
		out = append(out, plugin.Errorf("mtu", "%d is less than any network may have", c.MTU).WithHint("give at least %d, or leave the key out", minMTU))
	}
	if c.DirectRouting && c.Backend != backendVXLAN {
		out = append(out, plugin.Warnf("directRouting", "has no effect with backend %s", c.Backend))
	}
	if c.VNI != 1 && c.Backend != backendVXLAN {
		out = append(out, plugin.Warnf("vni", "has no effect with backend %s", c.Backend))
	}
	if c.Port != 0 && c.Backend == backendHostGW {
		out = append(out, plugin.Warnf("port", "has no effect with backend %s", c.Backend))
	}
	return out
}
