package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/kelson-io/kelson/core/pluginhost/catalog"
)

// pluginsVersion is the version of the bundled plugins: the release's.
func (v versions) pluginsVersion() string { return strings.TrimPrefix(v.kelson, "v") }

// pinCatalog writes the catalog of the bundled plugins with their version and
// the digest of the program that they are.
func (v versions) pinCatalog(program, to string) error {
	data, err := os.ReadFile(catalog.FileName)
	if err != nil {
		return err
	}
	digest, err := digestOf(program)
	if err != nil {
		return err
	}
	pinned, err := catalog.Pin(data, v.pluginsVersion(), digest)
	if err != nil {
		return fmt.Errorf("pin %s: %w", catalog.FileName, err)
	}
	return os.WriteFile(to, pinned, 0o644)
}

func digestOf(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("hash %s: %w", path, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
