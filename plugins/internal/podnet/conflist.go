package podnet

import (
	"encoding/json"
	"fmt"
	"net/netip"

	"github.com/kelson-io/kelson/sdk/cni/ipam"
)

// Attachment is how pods are attached to the bridge.
type Attachment struct {
	Bridge   string // the link
	MTU      int
	Hairpin  bool
	PodCIDRs []netip.Prefix
	IPAMDir  string
	NFTables bool
}

// Conflist is the configuration for the standard plugins: bridge with
// host-local, portmap and bandwidth. ports and limits say whether the last two
// have anything to do. It is pure.
func (a Attachment) Conflist(ports, limits bool) ([]byte, error) {
	type object = map[string]any
	var ranges [][]object
	var routes []object
	for _, cidr := range a.PodCIDRs {
		ranges = append(ranges, []object{{"subnet": cidr.Masked().String()}})
		dst := "0.0.0.0/0"
		if cidr.Addr().Is6() {
			dst = "::/0"
		}
		routes = append(routes, object{"dst": dst})
	}
	bridge := object{
		"type": "bridge", "bridge": a.Bridge, "isGateway": true, "hairpinMode": a.Hairpin, "ipMasq": false,
		"capabilities": object{"ips": true, "mac": true},
		"ipam":         object{"type": "host-local", "dataDir": a.IPAMDir, "ranges": ranges, "routes": routes},
	}
	if a.MTU > 0 {
		bridge["mtu"] = a.MTU
	}
	plugins := []object{bridge}
	if ports {
		backend := "iptables"
		if a.NFTables {
			backend = "nftables"
		}
		plugins = append(plugins, object{"type": "portmap", "capabilities": object{"portMappings": true}, "snat": true, "backend": backend})
	}
	if limits {
		plugins = append(plugins, object{"type": "bandwidth", "capabilities": object{"bandwidth": true}})
	}
	raw, err := json.MarshalIndent(object{"cniVersion": "1.0.0", "name": ipam.Network, "plugins": plugins}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode CNI configuration: %w", err)
	}
	return append(raw, '\n'), nil
}
