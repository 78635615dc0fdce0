// Package cnitest judges network plugins by the contract of kind cni
// (sdk/proto/cni/v1 and its attachment socket), in whatever language they are
// written: it talks to sockets only. [Conform] beside plugintest.Conform, which
// judges what all kinds have in common, is a plugin's whole conformance.
//
// The kit needs root. It makes a network namespace that stands for the node, with
// an uplink, starts the plugin in it, and makes one more for each pod. Nothing
// outside of them is changed. The namespaces are held by file descriptors only,
// so that nothing of them is left, however the test ends.
package cnitest
