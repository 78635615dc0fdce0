package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/kelson-io/kelson/core/agent/kernel"
	"github.com/kelson-io/kelson/core/boot"
	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/datadir"
	"github.com/kelson-io/kelson/core/process"
)

// ContainerdDeps is what NewContainerd needs.
type ContainerdDeps struct {
	Layout datadir.Layout
	Node   config.Node
	Debug  bool
	Path   string              // executable that is containerd when its argv[0] is, <bin>/kelson-host
	Search string              // $PATH of the child, see kernel.SearchPath
	Facts  func() kernel.Facts // of the host, known when Start is called
	Log    hclog.Logger
}

// Containerd is the container runtime: a supervised child whose end, wanted or
// not, leaves the containers and their shims running. Sockets and state lie
// under the run dir and root under the data dir, both independent of the
// payload's version, so that the next containerd finds the shims again.
type Containerd struct {
	deps ContainerdDeps

	mu          sync.Mutex
	child       *process.Child
	snapshotter string
}

var (
	_ boot.Step    = (*Containerd)(nil)
	_ boot.Watched = (*Containerd)(nil)
)

// NewContainerd returns the step. It does no I/O.
func NewContainerd(deps ContainerdDeps) *Containerd { return &Containerd{deps: deps} }

// Name implements boot.Step.
func (c *Containerd) Name() string { return "containerd" }

// Socket is where containerd serves, also before it does.
func (c *Containerd) Socket() string { return ContainerdSocket(c.deps.Layout) }

// Snapshotter is the one in use; "" before Start.
func (c *Containerd) Snapshotter() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.snapshotter
}

// Start writes the configuration and launches the child. A launch that fails is
// tried again in the background, and Ready tells why; an error is one of the
// configuration, and Start may be called again.
func (c *Containerd) Start(ctx context.Context) error {
	facts := c.deps.Facts()
	snapshotter, warning := chooseSnapshotter(c.deps.Node.Snapshotter, facts.Overlay)
	if warning != "" {
		c.deps.Log.Warn(warning)
	}
	l := c.deps.Layout
	settings := NewContainerdSettings(l, facts, snapshotter, c.deps.Node.PauseImage)
	settings.Debug = c.deps.Debug
	path, err := writeContainerdConfig(l, settings)
	if err != nil {
		return fmt.Errorf("configure containerd: %w", err)
	}
	for _, dir := range []string{settings.Root, settings.State} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return fmt.Errorf("prepare containerd: %w", err)
		}
	}
	child := process.New(process.Spec{
		Name: "containerd", Path: c.deps.Path, Argv0: "containerd",
		Args:    []string{"--config", path},
		Env:     containerdEnv(os.Environ(), c.deps.Search),
		LogFile: filepath.Join(settings.Root, "containerd.log"), LogMaxBytes: int64(c.deps.Node.ContainerdLogSize) << 20,
		PIDFile: l.RunPath("containerd.pid"),
		Restart: process.Policy{RetryFirst: true},
	}, c.deps.Log)
	c.mu.Lock()
	c.child, c.snapshotter = child, snapshotter
	c.mu.Unlock()
	return child.Start(ctx)
}

// Ready waits until CRI answers on the socket.
func (c *Containerd) Ready(ctx context.Context) error {
	conn, err := grpc.NewClient("unix://"+c.Socket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("containerd: %w", err)
	}
	defer conn.Close()
	client := runtimeapi.NewRuntimeServiceClient(conn)
	err = poll(ctx, 20*time.Millisecond, func(ctx context.Context) error {
		if _, err := os.Stat(c.Socket()); err != nil { // spares gRPC's connection back-off
			return c.withChildError(err)
		}
		_, err := client.Version(ctx, &runtimeapi.VersionRequest{}, grpc.WaitForReady(true))
		return c.withChildError(err)
	})
	if err != nil {
		return fmt.Errorf("containerd not ready, see %s: %w", c.deps.Layout.Agent("containerd", "containerd.log"), err)
	}
	return nil
}

func (c *Containerd) withChildError(err error) error {
	c.mu.Lock()
	child := c.child
	c.mu.Unlock()
	if err == nil || child == nil || child.LastError() == nil {
		return err
	}
	return fmt.Errorf("%w (last end: %w)", err, child.LastError())
}

// Stop ends containerd; containers go on.
func (c *Containerd) Stop(ctx context.Context) error {
	c.mu.Lock()
	child := c.child
	c.mu.Unlock()
	if child == nil {
		return nil
	}
	return child.Stop(ctx)
}

// Exited never yields: containerd is restarted for ever.
func (c *Containerd) Exited() <-chan error { return nil }

// Restarts counts how often containerd was started again.
func (c *Containerd) Restarts() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.child == nil {
		return 0
	}
	return c.child.Restarts()
}

// chooseSnapshotter falls back to native, which copies every layer, when
// overlayfs cannot be used.
func chooseSnapshotter(wanted string, overlay error) (name, warning string) {
	if wanted == "" {
		wanted = "overlayfs"
	}
	if wanted == "overlayfs" && overlay != nil {
		return "native", fmt.Sprintf("overlayfs cannot be used (%v): falling back to the native snapshotter, which copies every layer of every container", overlay)
	}
	return wanted, ""
}

// containerdEnv passes the environment on: PATH replaced, CONTAINERD_NAME=v
// turned into NAME=v for containerd alone (proxies of its own, for example).
func containerdEnv(environ []string, search string) []string {
	var env, own []string
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		switch {
		case name == "PATH":
		case strings.HasPrefix(name, "CONTAINERD_"):
			own = append(own, strings.TrimPrefix(name, "CONTAINERD_")+"="+value)
		default:
			env = append(env, kv)
		}
	}
	return append(append(env, own...), "PATH="+search)
}

// poll calls check until it returns nil. When ctx ends first, the last reason
// is the error: "context deadline exceeded" tells nobody anything.
func poll(ctx context.Context, every time.Duration, check func(context.Context) error) error {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	var last error
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		if last == nil || !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) {
			last = err
		}
		select {
		case <-ctx.Done():
			return last
		case <-ticker.C:
		}
	}
}
