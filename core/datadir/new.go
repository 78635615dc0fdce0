package datadir

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
)

// Default is the data dir when none is chosen.
const Default = "/var/lib/kelson"

const runRoot = "/run/kelson"

// New returns the layout of the data dir at root with its configuration at
// etc; an empty etc means /etc/kelson for the default data dir, <root>/etc for
// any other. Bin is the folder of the running executable. New touches no file.
func New(root, etc string) (Layout, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return Layout{}, fmt.Errorf("data dir: %w", err)
	}
	if etc == "" {
		etc = filepath.Join(root, "etc")
		if root == Default {
			etc = "/etc/kelson"
		}
	}
	if etc, err = filepath.Abs(etc); err != nil {
		return Layout{}, fmt.Errorf("configuration folder: %w", err)
	}
	exe, err := os.Executable()
	if err != nil {
		return Layout{}, fmt.Errorf("find own executable: %w", err)
	}
	if exe, err = filepath.EvalSymlinks(exe); err != nil {
		return Layout{}, fmt.Errorf("find own executable: %w", err)
	}
	return Layout{Root: root, Etc: etc, Run: filepath.Join(runRoot, runID(root)), Bin: filepath.Dir(exe)}, nil
}

// runID names the run dir of a data dir: unix socket paths must stay short, so
// it is a hash for all but the default.
func runID(root string) string {
	if root == Default {
		return "default"
	}
	sum := sha256.Sum256([]byte(root))
	return hex.EncodeToString(sum[:5])
}
