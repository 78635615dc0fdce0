// Package kernel reports what the running host offers to a node: control
// groups, capabilities, file systems, packet filters, and the tools to set
// them.
//
// Invariants: probing leaves nothing behind (mounts, tables, files are removed
// before a function returns), and nothing is cached, so two calls may differ.
// Every function is safe for concurrent use.
package kernel
