// Package bridge is the network plugin for a cluster of one node: its pods hang
// on a Linux bridge, get their addresses from the host's store, and what they
// send out of the cluster takes the node's address. It knows no way to other
// nodes.
//
// Invariants: all state is in the kernel (see package podnet); the process only
// answers attachments and puts back what others remove.
//
// Concurrency: as the contract of package cni says.
package bridge
