package controlplane

import (
	"context"
	"fmt"
	"net"
	"strings"

	"github.com/hashicorp/go-hclog"
	"github.com/kelson-io/kelson/core/boot"
)

// Runner runs the stock components until ctx ends or they fail.
type Runner interface {
	APIServer(ctx context.Context, args []string, listener net.Listener) error
	Scheduler(ctx context.Context, args []string) error
	ControllerManager(ctx context.Context, args []string) error
}

// Probe asks a component whether it is usable; the error is the reason why not.
type Probe func(ctx context.Context) error

// APIServer is the boot step of kube-apiserver.
type APIServer struct {
	runner   Runner
	args     []string
	listener net.Listener
	probe    Probe
	log      hclog.Logger
	g        *goroutine
}

var (
	_ boot.Step    = (*APIServer)(nil)
	_ boot.Watched = (*APIServer)(nil)
)

// NewAPIServer returns the step. It serves on listener, which was opened early
// so that clients wait in the handshake rather than in their back-off; probe
// is asked until it succeeds.
func NewAPIServer(runner Runner, args []string, listener net.Listener, probe Probe, log hclog.Logger) *APIServer {
	return &APIServer{runner: runner, args: args, listener: listener, probe: probe, log: log, g: newGoroutine()}
}

// Name implements boot.Step.
func (*APIServer) Name() string { return "kube-apiserver" }

// Start implements boot.Step.
func (a *APIServer) Start(ctx context.Context) error {
	a.log.Info("Running kube-apiserver " + strings.Join(a.args, " "))
	a.g.start(ctx, func(ctx context.Context) error { return a.runner.APIServer(ctx, a.args, a.listener) })
	return nil
}

// Ready implements boot.Step: it waits for /readyz.
func (a *APIServer) Ready(ctx context.Context) error { return waitReady(ctx, a.g, a.probe) }

// Stop implements boot.Step: requests in flight are drained.
func (a *APIServer) Stop(ctx context.Context) error {
	if err := a.g.stop(ctx); err != nil {
		return err
	}
	if err := a.listener.Close(); err != nil && !strings.Contains(err.Error(), net.ErrClosed.Error()) {
		return fmt.Errorf("close listener: %w", err)
	}
	return nil
}

// Exited implements boot.Watched.
func (a *APIServer) Exited() <-chan error { return a.g.exited }
