// Package cniv1 is the contract of network plugins, generated from cni.proto,
// which is its specification.
package cniv1
