package cnitest

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/kelson-io/kelson/sdk/plugintest"
)

// TestBundled judges the networks that ship with Kelson.
func TestBundled(t *testing.T) {
	c := config(t, "")
	plugins := built(t, "kelson-plugins", "./cmd/kelson-plugins")
	for name, p := range map[string]plugintest.Program{
		"bridge":          {Args: []string{"cni", "bridge"}},
		"flannel-vxlan":   {Args: []string{"cni", "flannel"}},
		"flannel-host-gw": {Args: []string{"cni", "flannel"}, Config: json.RawMessage(`{"backend":"host-gw"}`)},
	} {
		t.Run(name, func(t *testing.T) {
			c := c
			c.Program = p
			c.Program.Path = plugins
			Conform(t, c)
		})
	}
}

// TestPythonSample judges a plugin without a line of Go.
func TestPythonSample(t *testing.T) {
	c := config(t, "")
	if out, err := exec.Command("/usr/bin/python3", "-I", "-c", "import grpc, google.protobuf").CombinedOutput(); err != nil {
		t.Skipf("needs python3-grpcio: %v: %s", err, out)
	}
	path, err := filepath.Abs("../samples/python/pybridge/pybridge.py")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Skip(err)
	}
	c.Program = plugintest.Program{Path: path}
	Conform(t, c)
}
