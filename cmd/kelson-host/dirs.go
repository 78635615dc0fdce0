package main

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"

	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/status"
)

// dirs are the places a client verb looks at.
type dirs struct {
	data, run, kubeconfig string
}

// findDirs resolves the data dir as the server does, from leading flags, the
// environment and config.yaml, without demanding that the rest be valid.
func findDirs(args []string) (dirs, error) {
	early, err := config.FindEarly(args, os.Environ())
	if err != nil {
		return dirs{}, err
	}
	return dirs{data: early.DataDir, run: runDir(early.DataDir), kubeconfig: early.Kubeconfig}, nil
}

func (d dirs) containerdSocket() string { return filepath.Join(d.run, "containerd", "containerd.sock") }
func (d dirs) statusFile() string       { return filepath.Join(d.run, status.FileName) }

// runDir is the data dir's folder of sockets.
func runDir(data string) string {
	id := "default"
	if data != config.DefaultDataDir {
		sum := sha256.Sum256([]byte(data))
		id = hex.EncodeToString(sum[:6])
	}
	return filepath.Join("/run/kelson", id)
}
