package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"regexp"

	"go.yaml.in/yaml/v3"
)

// catalogFile is the catalog of the bundled plugins, in the repository's root
// without digests, in the payload's etc with them.
const catalogFile = "plugin-catalog.yaml"

// bundledVersion is the version of all bundled plugins: they are one program.
func bundledVersion(path string) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	var catalog struct {
		Plugins []struct {
			Name    string `yaml:"name"`
			Version string `yaml:"version"`
		} `yaml:"plugins"`
	}
	if err := yaml.Unmarshal(data, &catalog); err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	version := ""
	for _, p := range catalog.Plugins {
		if version != "" && p.Version != version {
			return "", fmt.Errorf("%s: plugin %s has version %s, others %s: they are one program", path, p.Name, p.Version, version)
		}
		version = p.Version
	}
	if version == "" {
		return "", fmt.Errorf("%s: no plugin has a version", path)
	}
	return version, nil
}

// pinCatalog copies a catalog and adds the digest of the program to each
// bundled entry. Comments and order stay.
func pinCatalog(from, program, to string) error {
	digest, err := digestOf(program)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	bundled := regexp.MustCompile(`(?m)^( +)bundled: true$`)
	if !bundled.Match(data) {
		return fmt.Errorf("%s: no bundled plugin", from)
	}
	return os.WriteFile(to, bundled.ReplaceAll(data, []byte("${0}\n${1}sha256: "+digest)), 0o644)
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
