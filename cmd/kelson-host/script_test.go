package main

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/kelson-io/kelson/core/config"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"kelson": main, "kubectl": main})
}

// TestScript runs the program itself; nothing in the scripts starts a server.
func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:           "testdata/script",
		UpdateScripts: *update,
		Cmds:          map[string]func(*testscript.TestScript, bool, []string){"exits": exits},
		Setup: func(e *testscript.Env) error {
			e.Setenv("KELSON_DATA_DIR", filepath.Join(e.WorkDir, "data"))
			e.Setenv("COLUMNS", "80")
			return nil
		},
	})
}

// exits is the script command "exits CODE PROGRAM ARGS...".
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARGS...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	code := 0
	var exit *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &exit) {
		code = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%s: %v", args[1], err)
	}
	if code != want {
		ts.Fatalf("%s: exit code %d, want %d", strings.Join(args[1:], " "), code, want)
	}
}

// helpPaths lists every command, hidden ones too, since they have help as well.
func helpPaths(node *kong.Node, path []string) [][]string {
	out := [][]string{path}
	for _, child := range node.Children {
		if !child.Passthrough {
			out = append(out, helpPaths(child, append(append([]string{}, path...), child.Name))...)
		}
	}
	return out
}

func TestHelpGolden(t *testing.T) {
	t.Setenv("COLUMNS", "80")
	parser, err := newParser(streams{})
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range helpPaths(parser.Model.Node, nil) {
		name := strings.Join(append([]string{"kelson"}, path...), "-")
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			if err := runVerb(append(path, "--help"), streams{Out: &out, Err: &out}); err != nil {
				t.Fatal(err)
			}
			golden(t, filepath.Join("testdata/help", name+".txt"), out.String())
		})
	}
}

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs, run with -update and read the diff; got:\n%s", path, got)
	}
}

// TestFlagsEqualTable holds the command line to core/config's table.
func TestFlagsEqualTable(t *testing.T) {
	parser, err := newParser(streams{})
	if err != nil {
		t.Fatal(err)
	}
	flags := map[string]*kong.Flag{}
	for _, child := range parser.Model.Children {
		if child.Name != "server" {
			continue
		}
		for _, level := range child.AllFlags(false) {
			for _, f := range level {
				flags[f.Name] = f
			}
		}
	}
	delete(flags, "help")
	for _, o := range config.Options() {
		f, ok := flags[o.Name]
		if !ok {
			t.Errorf("no flag for %s", o.Name)
			continue
		}
		delete(flags, o.Name)
		if f.IsBool() != (o.Type == config.Bool) || f.Short != o.Short || f.Hidden != o.Hidden || strings.Join(f.Aliases, ",") != strings.Join(o.Aliases, ",") {
			t.Errorf("flag %s differs from the table", o.Name)
		}
	}
	for name := range flags {
		t.Errorf("flag %s is not in the table", name)
	}
}

func TestLeadingFlags(t *testing.T) {
	for _, c := range []struct{ args, global, rest string }{
		{"kubectl get -d x", "", "kubectl get -d x"},
		{"-d /x kubectl get", "-d /x", "kubectl get"},
		{"--data-dir=/x --config c ctr i ls", "--data-dir=/x --config c", "ctr i ls"},
		{"--data-dir", "--data-dir", ""},
		{"-h", "-h", ""},
	} {
		global, rest := leadingFlags(strings.Fields(c.args))
		if strings.Join(global, " ") != c.global || strings.Join(rest, " ") != c.rest {
			t.Errorf("%q: got %q and %q", c.args, global, rest)
		}
	}
}

func TestNeedsCluster(t *testing.T) {
	for args, want := range map[string]bool{
		"": false, "get pods": true, "version --client": false, "version": true, "config view": false,
		"get pods --kubeconfig=x": false, "get -s http://h pods": false, "__complete get": false,
	} {
		if got := needsCluster(strings.Fields(args)); got != want {
			t.Errorf("%q: got %v", args, got)
		}
	}
}
