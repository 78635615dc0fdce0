package main

import (
	"fmt"
	"io"

	"github.com/kelson-io/kelson/core/version"
)

type versionCmd struct{ output }

// Help gives examples.
func (versionCmd) Help() string {
	return "Examples:\n\n    kelson version\n    kelson version -o json"
}

// Run prints the identity of this build.
func (c *versionCmd) Run(std streams) error {
	info := version.Get()
	return c.emit(std.Out, info, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "kelson %s (commit %s, built %s, %s, %s)\n", info.Version, info.GitCommit, info.BuildDate, info.GoVersion, info.Platform)
		return err
	})
}
