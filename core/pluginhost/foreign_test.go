package pluginhost_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"

	"github.com/kelson-io/kelson/core/datadir"
	"github.com/kelson-io/kelson/core/pluginhost"
	"github.com/kelson-io/kelson/core/pluginhost/program"
	"github.com/kelson-io/kelson/core/pluginhost/runner"
	"github.com/kelson-io/kelson/sdk/manifest"
	cniv1 "github.com/kelson-io/kelson/sdk/proto/cni/v1"
)

// sample is the plugin in Python, copied to where modes are as they must be.
func sample(t *testing.T) program.Program {
	t.Helper()
	if out, err := exec.Command("/usr/bin/python3", "-I", "-c", "import grpc, google.protobuf").CombinedOutput(); err != nil {
		t.Skipf("needs the Debian packages python3-grpcio and python3-protobuf (make deps): %v %s", err, out)
	}
	from, dir := filepath.Join("..", "..", "sdk", "samples", "python", "pybridge"), t.TempDir()
	raw, err := os.ReadFile(filepath.Join(from, manifest.FileName))
	if err != nil {
		t.Fatal(err)
	}
	m, err := manifest.Parse(raw, manifest.FileName)
	if err != nil {
		t.Fatal(err)
	}
	for name := range m.Files {
		content, err := os.ReadFile(filepath.Join(from, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return program.Program{
		Kind: m.Kind, Name: m.Name, Version: m.Version, Dir: dir, Path: filepath.Join(dir, m.Exec), Args: m.Args,
		SHA256:   strings.TrimPrefix(m.Files[m.Exec], "sha256:"),
		Lifetime: program.Lifetime(m.Lifetime), Protocols: m.Protocols, Generation: 1,
	}
}

// pinned is a catalog of one program.
type pinned program.Program

func (p pinned) Resolve(string, string) (program.Program, error) { return program.Program(p), nil }

func (pinned) Good(program.Program) error { return nil }

func (p pinned) Rollback(string, string, string) (program.Program, error) {
	return program.Program(p), nil
}

// TestForeignLanguage runs a plugin that was written from docs/plugin-wire.md
// alone, and knows nothing of go-plugin: a script, of node lifetime, launched and
// taken over by the next host.
func TestForeignLanguage(t *testing.T) {
	prog := sample(t)
	run, err := os.MkdirTemp("", "kpf") //nolint:usetesting // paths of sockets must be short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(run)
	layout := datadir.Layout{Root: t.TempDir(), Run: run}
	defer func() {
		if left, err := runner.EndAll(context.Background(), pluginhost.RunDir(layout)); len(left) > 0 || err != nil {
			t.Errorf("left running: %v %v", left, err)
		}
	}()
	up := make(chan error, 1)
	supervise := func() *pluginhost.Supervised {
		host := pluginhost.New(pluginhost.Deps{
			Layout: layout, Source: pinned(prog), Path: "/usr/bin:/bin",
			Log: hclog.New(&hclog.LoggerOptions{Output: t.Output(), Level: hclog.Debug}),
		})
		s := host.Supervise(pluginhost.Spec{Kind: prog.Kind, Name: prog.Name, Protocols: []uint32{1}, Up: func(ctx context.Context, conn grpc.ClientConnInterface) error {
			_, err := cniv1.NewNetworkClient(conn).Preflight(ctx, &cniv1.PreflightRequest{Node: &cniv1.Node{PodCidrs: []string{"10.42.0.0/24"}}})
			up <- err
			return err
		}})
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		return s
	}

	first := supervise()
	pid := awaitUp(t, first, up)
	if err := first.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	second := supervise()
	if again := awaitUp(t, second, up); again != pid || !second.State().Attached {
		t.Errorf("pid %d after pid %d: it was not taken over: %+v", again, pid, second.State())
	}
	if err := second.End(t.Context()); err != nil {
		t.Fatal(err)
	}
	if exit := second.State().LastExit; !strings.HasPrefix(exit, "ended") && exit != "exit status 0" {
		t.Errorf("it ended by %q, not by SIGTERM", exit)
	}
}

// awaitUp returns the plugin's pid once its kind's contract was called and its
// own health report has arrived.
func awaitUp(t *testing.T, s *pluginhost.Supervised, up <-chan error) int {
	t.Helper()
	select {
	case err := <-up:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(40 * time.Second):
		t.Fatalf("not brought up: %+v", s.State())
	}
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for s.State().Reason != "NotStarted" {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("no health report: %+v", s.State())
		}
	}
	return s.State().PID
}
