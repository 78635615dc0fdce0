// Package cni is the host's side of the network plugins: it hands a plugin of
// kind "cni" what it must know of the node and the cluster, announces it to
// containerd, and cleans up behind it.
//
// Invariants: the conflist is in the conf dir only when the plugin has said that
// a pod can be attached; it is written by a temporary file in the same folder
// and a rename, since containerd sees nothing else. Addresses, the records of
// what is attached and the journal of what could not be detached lie in
// <data-dir>/agent/cni, and outlive every plugin. An attachment is collected
// only after it was missing from the container runtime twice, a minute apart.
//
// All types are safe for concurrent use.
package cni
