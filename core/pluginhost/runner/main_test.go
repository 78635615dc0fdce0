package runner

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/kelson-io/kelson/core/pluginhost/internal/hostile"
	"github.com/kelson-io/kelson/core/pluginhost/program"
)

var runs string

// TestMain plays the plugin when asked to, and makes sure that none is left.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == hostile.Verb {
		syscall.Exit(hostile.Main(os.Args[2:]))
	}
	dir, err := os.MkdirTemp("", "kpr")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	runs = dir
	code := m.Run()
	if left, err := EndAll(context.Background(), runs); len(left) > 0 || err != nil {
		fmt.Fprintf(os.Stderr, "left running after the tests: %v %v\n", left, err)
		code = 1
	}
	_ = os.RemoveAll(runs)
	os.Exit(code)
}

// trap is the Spec of a hostile plugin.
func trap(t *testing.T, lifetime program.Lifetime, ways ...string) Spec {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sum, err := digest(f)
	if err != nil {
		t.Fatal(err)
	}
	run, err := os.MkdirTemp(runs, "r") //nolint:usetesting // the test's own folder has too long a path for sockets
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(run, "p")
	return Spec{
		Program: program.Program{
			Kind: hostile.Kind, Name: hostile.Name, Version: hostile.Version, Path: path, Args: hostile.Args(ways...),
			SHA256: sum, Lifetime: lifetime, Protocols: []uint32{1},
		},
		Dir: filepath.Join(dir, "cni-trap"), Record: filepath.Join(dir, "cni-trap.json"), StateDir: t.TempDir(),
		LogFile: filepath.Join(t.TempDir(), "plugin.log"), Path: "/bin", Log: hclog.NewNullLogger(),
	}
}

// launched runs a plugin until the end of the test.
func launched(t *testing.T, spec Spec) *Process {
	t.Helper()
	bin, err := Open(spec.Program)
	if err != nil {
		t.Fatal(err)
	}
	defer bin.Close()
	p, err := Launch(t.Context(), spec, bin)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := EndAll(context.Background(), filepath.Dir(spec.Record)); err != nil {
			t.Error(err)
		}
	})
	return p
}
