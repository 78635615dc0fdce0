package main

import (
	"os"

	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/datadir"
	"github.com/kelson-io/kelson/core/status"
)

// dirs are the places a client verb looks at.
type dirs struct {
	datadir.Layout
	kubeconfig string
}

// findDirs resolves the data dir as the server does, from leading flags, the
// environment and config.yaml, without demanding that the rest be valid.
func findDirs(args []string) (dirs, error) {
	early, err := config.FindEarly(args, os.Environ())
	if err != nil {
		return dirs{}, err
	}
	layout, err := datadir.New(early.DataDir, early.EtcDir)
	return dirs{Layout: layout, kubeconfig: early.Kubeconfig}, err
}

func (d dirs) containerdSocket() string { return d.RunPath("containerd", "containerd.sock") }
func (d dirs) statusFile() string       { return d.RunPath(status.FileName) }
