// Package sdk is the root of Kelson's plugin SDK, a Go module of its own.
//
// A plugin is a separate program that Kelson verifies, starts and supervises.
// The packages below this one hold the contracts of each kind (datastore, cni,
// addon), the server that a plugin's main function calls, and the conformance
// suites that its tests call. The module imports nothing of Kelson's core,
// of Kubernetes, or of kine, so that a plugin compiles in seconds.
package sdk
