package cni

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/kelson-io/kelson/core/agent"
	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/datadir"
)

// Foreign is the network that the user brings: the host only waits for its
// configuration.
type Foreign struct {
	confDir, binDir string
}

var _ agent.Network = Foreign{}

// NewForeign returns the network. It does no I/O.
func NewForeign(l datadir.Layout) Foreign {
	return Foreign{confDir: agent.CNIConfDir(l), binDir: l.CNIBin()}
}

// Configure implements agent.Network: the announcement of a plugin that was
// used before is taken back.
func (f Foreign) Configure(context.Context, agent.NodeNetwork) error {
	if err := os.MkdirAll(f.confDir, 0o700); err != nil {
		return fmt.Errorf("make CNI conf dir: %w", err)
	}
	if err := os.Remove(filepath.Join(f.confDir, conflistName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("take back the former network: %w", err)
	}
	return nil
}

// Status implements agent.Network.
func (f Foreign) Status(context.Context) error {
	entries, err := os.ReadDir(f.confDir)
	if err != nil {
		return fmt.Errorf("read CNI conf dir: %w", err)
	}
	if slices.ContainsFunc(entries, func(e os.DirEntry) bool {
		return slices.Contains([]string{".conflist", ".conf", ".json"}, filepath.Ext(e.Name()))
	}) {
		return nil
	}
	return config.Hinted(fmt.Errorf("waiting for a network: no CNI configuration in %s", f.confDir),
		fmt.Sprintf("install a network whose configuration goes there and whose programs go to %s, or choose one with --cni", f.binDir))
}

// Teardown implements agent.Network: nothing here is the host's.
func (Foreign) Teardown(context.Context) error { return nil }
