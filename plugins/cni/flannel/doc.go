// Package flannel is the network plugin for clusters of several nodes: pods hang
// on a bridge, as with plugin bridge, and packets to the pods of other nodes
// take the way of a flannel backend (VXLAN, plain routes, WireGuard).
//
// flannel is used as a library. Its subnet manager is implemented over what the
// host delivers, so that the plugin needs no access to the Kubernetes API: the
// node's own range comes with Setup, the other nodes with Topology, and what
// they must know of this node is returned by Start.
//
// Invariants: all state is in the kernel. What flannel does there is checked
// afterwards, since it only logs what it could not do; what nobody wants any
// more is swept away, also when the plugin did not run while a node left; until
// the host has named all nodes, nothing of an earlier run is touched. Links
// carry the claim of package podnet; a link of somebody else is never changed.
//
// Concurrency: as the contract of package cni says; one batch of changes is
// with the backend at a time.
package flannel
