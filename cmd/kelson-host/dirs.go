package main

import (
	"os"
	"path/filepath"

	"github.com/kelson-io/kelson/core/config"
)

// dirs are the places a client verb looks at.
type dirs struct {
	data, etc, run string
}

// findDirs resolves the data dir as the server does, from leading flags, the
// environment and config.yaml, without demanding that the rest be valid.
func findDirs(args []string) (dirs, error) {
	early, err := config.FindEarly(args, os.Environ())
	if err != nil {
		return dirs{}, err
	}
	return dirs{data: early.DataDir, etc: early.EtcDir, run: runDir(early.DataDir)}, nil
}

func (d dirs) kubeconfig() string       { return filepath.Join(d.etc, "kelson.yaml") }
func (d dirs) containerdSocket() string { return filepath.Join(d.run, "containerd", "containerd.sock") }
func (d dirs) statusFile() string       { return filepath.Join(d.run, "status.json") }

func runDir(data string) string { return "/run/kelson/default" }
