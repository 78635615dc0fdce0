package agent

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink"

	"github.com/kelson-io/kelson/core/agent/kernel"
	"github.com/kelson-io/kelson/core/datadir"
)

// NodeNetwork is what a network needs to know of this node.
type NodeNetwork struct {
	NodeName     string
	PodCIDRs     []netip.Prefix // this node's, one or two
	ClusterCIDRs []netip.Prefix // of all nodes' pods
	MTU          int            // of the uplink, 0 if unknown
}

// Network connects the pods of one node. Configure is idempotent: it makes the
// datapath ready and then announces it in the CNI conf dir, in this order, so
// that kubelet reports the node Ready only when a pod can be connected.
type Network interface {
	Configure(ctx context.Context, node NodeNetwork) error
	Status(ctx context.Context) error // nil if pods can be connected
	Teardown(ctx context.Context) error
}

const (
	bridgeAlias  = "kelson:"            // of the link, then the data dir: whose bridge it is
	conflistName = "10-kelson.conflist" // in the CNI conf dir
)

// Bridge is the built-in network of one node: a Linux bridge, addresses from
// host-local, host ports from portmap.
//
// The bridge and its gateway addresses are made here rather than by the first
// pod. Masquerading is one rule set for the node, not one per pod: what leaves
// the cluster's pod range is rewritten, pod-to-pod and service traffic never
// is, also when there are more nodes.
type Bridge struct {
	layout datadir.Layout
	tools  kernel.Tools
	facts  func() kernel.Facts

	mu   sync.Mutex
	name string // of the link; "" until chosen
}

var _ Network = (*Bridge)(nil)

// NewBridge returns the built-in network. It does no I/O.
func NewBridge(l datadir.Layout, tools kernel.Tools, facts func() kernel.Facts) *Bridge {
	return &Bridge{layout: l, tools: tools, facts: facts}
}

// Configure implements Network.
func (b *Bridge) Configure(ctx context.Context, node NodeNetwork) error {
	if len(node.PodCIDRs) == 0 {
		return errors.New("configure bridge: no pod CIDR")
	}
	name, err := b.ensureLink(node)
	if err != nil {
		return fmt.Errorf("configure bridge: %w", err)
	}
	b.mu.Lock()
	b.name = name
	b.mu.Unlock()
	facts := b.facts()
	if err := masquerade(ctx, b.tools, facts, name, node); err != nil {
		return fmt.Errorf("configure masquerading: %w", err)
	}
	backend := "iptables"
	if facts.NFTables {
		backend = "nftables"
	}
	raw, err := Conflist(name, b.layout.Agent("cni", "networks"), backend, node)
	if err != nil {
		return err
	}
	dir := CNIConfDir(b.layout)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	path := filepath.Join(dir, conflistName)
	if have, err := os.ReadFile(path); err == nil && string(have) == string(raw) {
		return nil // containerd reloads on every write
	}
	return datadir.WriteFile(path, raw, 0o600)
}

// Status implements Network.
func (b *Bridge) Status(context.Context) error {
	if _, err := os.Stat(filepath.Join(CNIConfDir(b.layout), conflistName)); err != nil {
		return fmt.Errorf("network not configured: %w", err)
	}
	name := b.linkName()
	if _, err := netlink.LinkByName(name); err != nil {
		return fmt.Errorf("bridge %s: %w", name, err)
	}
	return nil
}

func (b *Bridge) linkName() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.name
}

// Teardown removes the announcement, the rules and the bridge. Pods that still
// run lose their network.
func (b *Bridge) Teardown(ctx context.Context) error {
	err := os.Remove(filepath.Join(CNIConfDir(b.layout), conflistName))
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	name := b.linkName()
	if name == "" {
		name, _, _ = b.ownLinkName()
	}
	if name == "" {
		return err
	}
	err = errors.Join(err, unmasquerade(ctx, b.tools, b.facts(), name))
	link, linkErr := netlink.LinkByName(name)
	if linkErr != nil {
		return err // gone already
	}
	return errors.Join(err, netlink.LinkDel(link))
}

// ownLinkName finds the bridge of this data dir, or a free name: cni0 unless
// someone else in this network namespace has it.
func (b *Bridge) ownLinkName() (name string, exists bool, err error) {
	links, err := netlink.LinkList()
	if err != nil {
		return "", false, err
	}
	name = "cni0"
	for _, link := range links {
		switch attrs := link.Attrs(); {
		case attrs.Alias == bridgeAlias+b.layout.Root:
			return attrs.Name, true, nil
		case attrs.Name == "cni0":
			name = fmt.Sprintf("kelson-%x", sha256.Sum256([]byte(b.layout.Root)))[:13]
		}
	}
	return name, false, nil
}

// ensureLink makes the bridge and its gateway addresses.
func (b *Bridge) ensureLink(node NodeNetwork) (string, error) {
	name, exists, err := b.ownLinkName()
	if err != nil {
		return "", err
	}
	if !exists {
		if err := addBridge(name, bridgeAlias+b.layout.Root, node.MTU); err != nil {
			return "", err
		}
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		return "", err
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		if err := ensureGateways(link, family, node.PodCIDRs); err != nil {
			return "", fmt.Errorf("address of %s: %w", name, err)
		}
	}
	return name, netlink.LinkSetUp(link)
}

func addBridge(name, alias string, mtu int) error {
	sum := sha256.Sum256([]byte(alias))
	link := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs()}
	link.Name, link.MTU, link.TxQLen = name, mtu, -1
	// An address of its own, else the bridge takes the lowest of its ports and
	// changes it as pods come and go.
	link.HardwareAddr = net.HardwareAddr{0x0a, 0x58, sum[0], sum[1], sum[2], sum[3]}
	if err := netlink.LinkAdd(link); err != nil && !errors.Is(err, syscall.EEXIST) {
		return fmt.Errorf("add %s: %w", name, err)
	}
	if err := netlink.LinkSetAlias(link, alias); err != nil {
		return fmt.Errorf("name owner of %s: %w", name, err)
	}
	return nil
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
		var earlier []netlink.Addr
		found := false
		for _, a := range have {
			if a.IP.IsLinkLocalUnicast() {
				continue
			}
			if a.IPNet.String() == want.String() {
				found = true
				break
			}
			earlier = append(earlier, a)
		}
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

// gateway is the first address of a range, with the range's length.
func gateway(cidr netip.Prefix) *net.IPNet {
	first := cidr.Masked().Addr().Next()
	return &net.IPNet{IP: first.AsSlice(), Mask: net.CIDRMask(cidr.Bits(), first.BitLen())}
}

// Conflist is the CNI configuration of the bridge. It is pure.
func Conflist(bridge, ipamDir, portmapBackend string, node NodeNetwork) ([]byte, error) {
	type object = map[string]any
	var ranges [][]object
	var routes []object
	for _, cidr := range node.PodCIDRs {
		ranges = append(ranges, []object{{"subnet": cidr.Masked().String()}})
		dst := "0.0.0.0/0"
		if cidr.Addr().Is6() {
			dst = "::/0"
		}
		routes = append(routes, object{"dst": dst})
	}
	bridgePlugin := object{
		"type": "bridge", "bridge": bridge, "isGateway": true, "hairpinMode": true, "ipMasq": false,
		"ipam": object{"type": "host-local", "dataDir": ipamDir, "ranges": ranges, "routes": routes},
	}
	if node.MTU > 0 {
		bridgePlugin["mtu"] = node.MTU
	}
	raw, err := json.MarshalIndent(object{
		"cniVersion": "1.0.0",
		"name":       "kelson",
		"plugins": []object{
			bridgePlugin,
			{"type": "portmap", "capabilities": object{"portMappings": true}, "snat": true, "backend": portmapBackend},
			{"type": "bandwidth", "capabilities": object{"bandwidth": true}},
		},
	}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode CNI configuration: %w", err)
	}
	return append(raw, '\n'), nil
}
