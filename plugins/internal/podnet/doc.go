// Package podnet is what bundled network plugins share: the pods of a node hang
// on one Linux bridge with the node's gateway addresses, and what they send out
// of the cluster takes the node's address.
//
// The bridge belongs to the node, not to a plugin. Each plugin that uses it
// leaves its claim in the link's alias, and the last claim to be released takes
// the bridge away. A change of plugins is thereby no change of bridge: the pods
// of the former plugin and those of the new one reach each other all the time.
// All else is the plugin's own and carries its name (nftables table, iptables
// chain, comments), so that it can be removed without a record of what was made.
//
// Invariants: all state is in the kernel, every Ensure may be repeated and
// disturbs nothing that is right already. A link without our alias is never
// changed.
//
// Functions here may run concurrently for different plugins; the callers
// serialise those of one plugin.
package podnet
