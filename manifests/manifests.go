// Package manifests holds what a server deploys by default: one folder per
// packaged component, plain YAML with %{…}% tokens that core/deploy fills in.
// It is only files; cmd passes FS down.
package manifests

import "embed"

// FS holds the packaged components, one folder each.
//
//go:embed coredns local-path metrics-server
var FS embed.FS
