package flannel

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/kelson-io/kelson/plugins/internal/podnet"
	"github.com/kelson-io/kelson/sdk/cni"
)

// preflight finds what stands in the way of the backend.
func preflight(c Config, node cni.Node) []cni.Problem {
	var out []cni.Problem
	switch c.Backend {
	case backendVXLAN:
		if err := try(&netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "probe"}, VxlanId: 1, Port: portVXLAN}); err != nil {
			out = append(out, cni.Problem{
				Summary: fmt.Sprintf("the kernel makes no VXLAN device: %v", err),
				Hint:    "load the module vxlan (modprobe vxlan), or use backend host-gw if all nodes are on one layer 2 network",
			})
		}
		out = append(out, conflicts(c)...)
	case backendWireGuard:
		if err := try(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Name: "probe"}, LinkType: "wireguard"}); err != nil {
			out = append(out, cni.Problem{
				Summary: fmt.Sprintf("the kernel has no WireGuard: %v", err),
				Hint:    "install a kernel with WireGuard (Linux 5.6 or newer, modprobe wireguard), or use backend vxlan or host-gw",
			})
		}
	}
	if len(node.PodCIDRs) == 0 || len(node.Addresses) == 0 {
		return out
	}
	up, err := findUplink(c.Interface, node.Addresses, familiesOf(node.PodCIDRs))
	switch {
	case errors.Is(err, errNoUplink) && c.Interface != "":
		out = append(out, cni.Problem{Summary: err.Error(), Hint: "name another interface with the key interface (flannel-iface)"})
	case err == nil && len(up.reaches(node.PodCIDRs)) < len(node.PodCIDRs):
		out = append(out, cni.Problem{
			Warning: true, Summary: fmt.Sprintf("%s has an address of one family only: pods will reach other nodes in that one", up.name),
			Hint: "give the interface an address of the other family, or name another interface",
		})
	}
	return out
}

// conflicts finds tunnels of somebody else in the way of ours.
func conflicts(c Config) []cni.Problem {
	links, err := netlink.LinkList()
	if err != nil {
		return nil
	}
	var out []cni.Problem
	for _, link := range links {
		tunnel, ok := link.(*netlink.Vxlan)
		if !ok || !podnet.Foreign(link) {
			continue
		}
		sameName := tunnel.Name == fmt.Sprintf("flannel.%d", c.VNI) || tunnel.Name == fmt.Sprintf("flannel-v6.%d", c.VNI)
		if sameName || tunnel.VxlanId == c.VNI && tunnel.Port == c.port() {
			out = append(out, cni.Problem{
				Summary: fmt.Sprintf("the link %s is a VXLAN tunnel of somebody else with VNI %d on port %d", tunnel.Name, tunnel.VxlanId, tunnel.Port),
				Hint:    fmt.Sprintf("remove it if another network left it (ip link delete %s), or choose another vni and port", tunnel.Name),
			})
		}
	}
	return out
}

// try makes a link in a network namespace of its own, which vanishes with it:
// the node sees nothing of it, but for modules that the kernel loads.
func try(link netlink.Link) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			result <- nil // not allowed to try: Start will tell
			return
		}
		result <- netlink.LinkAdd(link)
	}()
	return <-result
}
