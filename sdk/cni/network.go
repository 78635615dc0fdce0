package cni

import (
	"context"
	"net/netip"
)

// Network is what an author implements. State belongs into the kernel and on
// the disk, never only into the process: it may be killed at any moment, and the
// pods must not notice.
type Network interface {
	Control
	Attacher
}

// Control is the part of a Network that the host calls. Setup, Start, Topology
// and Teardown never overlap with each other, but may with Status and with the
// operations of Attacher; Collect and Teardown overlap with none of Attacher's.
type Control interface {
	// Preflight tells what is in the way of running on this node. It changes
	// nothing. Findings that are no warnings keep the host from starting it.
	Preflight(ctx context.Context, node Node) ([]Problem, error)
	// Setup takes note of what it is given. It changes nothing in the kernel. It
	// is called before Start, and again with another value when the node changes.
	Setup(ctx context.Context, s Setup) error
	// Start makes or mends the datapath. It may find any remains of an earlier
	// run and must not disturb pods. When it returns, Add works.
	Start(ctx context.Context) (Started, error)
	// Topology applies what is known of other nodes.
	Topology(ctx context.Context, change Topology) error
	// Status is nil if a pod can be attached. An error has code
	// CodeNotAvailable, or CodeLimited if running pods are affected; any other
	// counts as CodeNotAvailable.
	Status(ctx context.Context) error
	// Collect removes what belongs to attachments that are not in valid, which
	// names all of the node's, also those of other plugins, and returns what it
	// removed.
	Collect(ctx context.Context, valid []Attachment) ([]Attachment, error)
	// Teardown removes what the plugin made. Without all it leaves what running
	// pods need, and Del must still work.
	Teardown(ctx context.Context, all bool) error
}

// Attacher is the part of a Network that attaches pods. Operations on different
// containers run concurrently.
type Attacher interface {
	// Add attaches a container. If it fails it leaves nothing behind that a
	// later Del or Collect would not find.
	Add(ctx context.Context, r *Request) (*Result, error)
	// Del detaches a container. It succeeds if there is nothing to detach, also
	// without a network namespace.
	Del(ctx context.Context, r *Request) error
	// Check fails if the attachment is not as r.PrevResult says.
	Check(ctx context.Context, r *Request) error
}

// Node is a node of the cluster.
type Node struct {
	Name      string
	Addresses []netip.Addr      // the preferred family first
	PodCIDRs  []netip.Prefix    // one of each family
	Published map[string]string // what its plugin published by Started
}

// Problem is a finding of Preflight.
type Problem struct {
	Warning bool   // it works without, with less
	Summary string // one line
	Hint    string // what to do about it
}

// Setup is what the host tells of this node.
type Setup struct {
	Node         Node
	ClusterCIDRs []netip.Prefix // of all pods
	ServiceCIDRs []netip.Prefix
	MTU          int      // of the uplink, 0 if unknown
	Interface    string   // to use; empty: the one with the node's first address
	Socket       string   // served by this package
	IPAMDir      string   // of the address store; see package ipam
	BinDirs      []string // with the standard CNI plugins; see package delegate
	CacheDir     string   // for results; see package delegate
	Path         string   // search path for tools such as nft
	NFTables     bool     // the kernel has nftables; else iptables
}

// Started is what Start tells the host.
type Started struct {
	MTU       int               // of the pods' interfaces
	Published map[string]string // for the plugins of other nodes; at most 16 entries of 1 KiB
}

// Topology is a change of what is known of other nodes.
type Topology struct {
	Complete bool     // Nodes are all there are
	Nodes    []Node   // added or changed, never the node itself
	Removed  []string // names
}

// Attachment names one interface of one container.
type Attachment struct {
	ContainerID string
	IfName      string
}
