package controlplane

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/kelson-io/kelson/core/boot"
)

// Back-off of a component that fails: it doubles from min to max and starts
// over after the component ran for stable.
const (
	minBackoff = 250 * time.Millisecond
	maxBackoff = 30 * time.Second
	stable     = time.Minute
)

// Restarted is the boot step of a component that is restarted alone when it
// fails: kube-scheduler or kube-controller-manager.
type Restarted struct {
	name  string
	args  []string
	run   func(ctx context.Context, args []string) error
	probe Probe
	log   hclog.Logger
	g     *goroutine

	mu       sync.Mutex
	restarts int
	last     error
}

var (
	_ boot.Step    = (*Restarted)(nil)
	_ boot.Watched = (*Restarted)(nil)
)

// NewScheduler returns the step of kube-scheduler.
func NewScheduler(runner Runner, args []string, probe Probe, log hclog.Logger) *Restarted {
	return newRestarted("kube-scheduler", runner.Scheduler, args, probe, log)
}

// NewControllerManager returns the step of kube-controller-manager.
func NewControllerManager(runner Runner, args []string, probe Probe, log hclog.Logger) *Restarted {
	return newRestarted("kube-controller-manager", runner.ControllerManager, args, probe, log)
}

func newRestarted(name string, run func(context.Context, []string) error, args []string, probe Probe, log hclog.Logger) *Restarted {
	return &Restarted{name: name, args: args, run: run, probe: probe, log: log, g: newGoroutine()}
}

// Name implements boot.Step.
func (r *Restarted) Name() string { return r.name }

// Start implements boot.Step.
func (r *Restarted) Start(ctx context.Context) error {
	r.log.Info("Running " + r.name + " " + strings.Join(r.args, " "))
	r.g.start(ctx, r.supervise)
	return nil
}

// Ready implements boot.Step.
func (r *Restarted) Ready(ctx context.Context) error {
	if err := waitReady(ctx, r.g, r.probe); err != nil {
		if _, last := r.State(); last != nil {
			return fmt.Errorf("%w (last exit: %w)", err, last)
		}
		return err
	}
	return nil
}

// Stop implements boot.Step.
func (r *Restarted) Stop(ctx context.Context) error { return r.g.stop(ctx) }

// Exited implements boot.Watched. It yields only if supervision itself ends.
func (r *Restarted) Exited() <-chan error { return r.g.exited }

// State returns how often the component was restarted and why it last ended.
func (r *Restarted) State() (restarts int, last error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.restarts, r.last
}

// once gives each run a context of its own: what a failed one has left running
// (its listener, its informers) ends before the next begins.
func (r *Restarted) once(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	return guarded(ctx, func(ctx context.Context) error { return r.run(ctx, r.args) })
}

// supervise runs the component again and again until ctx ends.
func (r *Restarted) supervise(ctx context.Context) error {
	for backoff := minBackoff; ; backoff = min(2*backoff, maxBackoff) {
		began := time.Now()
		err := r.once(ctx)
		if ctx.Err() != nil {
			return err
		}
		if err == nil {
			err = fmt.Errorf("%s ended by itself", r.name)
		}
		if time.Since(began) > stable {
			backoff = minBackoff
		}
		r.mu.Lock()
		r.restarts++
		r.last = err
		r.mu.Unlock()
		r.log.Error("component failed, restarting it", "component", r.name, "err", err, "after", backoff)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(backoff):
		}
	}
}
