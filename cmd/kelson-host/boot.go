package main

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/kelson-io/kelson/core/boot/timeline"
	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/node"
)

type bootCmd struct {
	Output string `short:"o" enum:"table,json,svg" default:"table" placeholder:"FORMAT" help:"Output format: table, json or svg."`
}

// Help gives examples.
func (bootCmd) Help() string {
	return "Steps on the critical path are marked: the boot would have been shorter without them.\n\nExamples:\n\n    kelson boot\n    kelson boot -o svg > boot.svg"
}

// Run prints the timings that the last boot left.
func (c *bootCmd) Run(g globals, std streams) error {
	d, err := g.dirs()
	if err != nil {
		return err
	}
	b, err := timeline.Read(d.Server(node.TimesFile))
	if errors.Is(err, fs.ErrNotExist) {
		return config.Hinted(fmt.Errorf("boot: no server has booted on %s", d.Root), startHint)
	}
	if err != nil {
		return err
	}
	switch c.Output {
	case "json":
		return b.WriteJSON(std.Out)
	case "svg":
		return b.WriteSVG(std.Out)
	default:
		return b.WriteTable(std.Out)
	}
}
