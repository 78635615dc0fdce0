package main

import (
	"encoding/json"
	"fmt"

	"github.com/kelson-io/kelson/core/version"
)

type versionCmd struct {
	Output string `short:"o" enum:"table,json,yaml" default:"table" help:"Output format: ${enum}."`
}

// Run prints the identity of this build.
func (c versionCmd) Run(io streams) error {
	info := version.Get()
	if c.Output == "table" {
		_, err := fmt.Fprintf(io.Out, "kelson %s (%s, %s)\n", info.Version, info.Platform, info.GoVersion)
		return err
	}
	return json.NewEncoder(io.Out).Encode(info)
}
