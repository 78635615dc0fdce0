package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/kelson-io/kelson/core/boot"
	"github.com/kelson-io/kelson/core/boot/timeline"
	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/controlplane"
	"github.com/kelson-io/kelson/core/process"
	"github.com/kelson-io/kelson/core/version"
)

// ErrRestart asks the caller to execute the host anew: a component took a path
// that would have ended the process, everything was stopped in order, and the
// pods run on.
var ErrRestart = errors.New("a component ended fatally, the host has to be restarted")

// stopTimeout bounds the ordered stop of everything.
const stopTimeout = 10 * time.Second

// Deps are the doors to the outside.
type Deps struct {
	Log       hclog.Logger
	Manifests fs.FS // packaged components, one folder each
	// Runner makes the runner of the control plane from the arguments of all
	// components, and reports bad ones.
	Runner func(apiserver, scheduler, controllerManager []string) (controlplane.Runner, error)
	// KubeletArgs reports bad arguments of kubelet ("name=value" each).
	KubeletArgs func(args []string) error
	// Fatal yields what a component reported when it would have ended the process.
	Fatal <-chan Fatal
	// OnReady is called once when the cluster is up; nil for none.
	OnReady func()
}

// Fatal is the report of a component that would have ended the process.
type Fatal struct {
	Component string // by package path: kine, apiserver, scheduler, …
	Code      int    // the exit code it wanted
	Stack     []byte
}

// RunServer boots a server and returns when it has stopped in order: nil after
// ctx ended, ErrRestart after a fatal report, otherwise the reason.
func RunServer(ctx context.Context, cfg config.Server, deps Deps) (err error) {
	for _, warning := range cfg.Warnings {
		deps.Log.Warn(warning)
	}
	times := &timeline.Recorder{}
	if err := times.Launch(os.Getenv, time.Now()); err != nil {
		deps.Log.Warn("launch times are left out", "err", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go watchFatal(ctx, cancel, deps)

	prepared, err := prepareWithin(ctx, cfg, deps)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, prepared.close()) }()
	deps.Log.Info("Starting kelson "+version.Get().Version, "commit", version.Get().GitCommit)
	defer context.AfterFunc(ctx, func() { notify(deps.Log, process.NotifyStopping) })()

	watch := newWatch(prepared.layout, deps.Log, times)
	s := newServer(prepared, watch)
	err = boot.Run(ctx, s.sequence(), boot.Options{
		StopTimeout: stopTimeout,
		OnEvent:     watch.event,
		OnReady:     s.ready,
	})
	watch.ended(err)
	if cause := context.Cause(ctx); errors.Is(cause, ErrRestart) {
		return errors.Join(cause, err)
	}
	return err
}

// watchFatal turns the first fatal report into the ordered stop of everything.
func watchFatal(ctx context.Context, cancel context.CancelCauseFunc, deps Deps) {
	select {
	case fatal := <-deps.Fatal:
		deps.Log.Error("a component ended fatally", "component", fatal.Component, "code", fatal.Code, "stack", string(fatal.Stack))
		cancel(fmt.Errorf("%w: %s", ErrRestart, fatal.Component))
	case <-ctx.Done():
	}
}

// prepareWithin is prepare, abandoned when ctx ends: a library that takes its
// fatal path there never returns.
func prepareWithin(ctx context.Context, cfg config.Server, deps Deps) (*prepared, error) {
	type result struct {
		prepared *prepared
		err      error
	}
	done := make(chan result, 1)
	go func() {
		p, err := prepare(ctx, cfg, deps)
		done <- result{p, err}
	}()
	select {
	case r := <-done:
		return r.prepared, r.err
	case <-ctx.Done():
		return nil, fmt.Errorf("prepare: %w", context.Cause(ctx))
	}
}

// ready is boot.Options.OnReady: it tells how to use the cluster.
func (s *server) ready() {
	s.watch.ready(s.snapshotter())
	s.log.Info("kelson is up and running")
	s.log.Info("To use the cluster: kelson kubectl get nodes", "kubeconfig", s.config.Kubeconfig.Path)
	notify(s.log, process.NotifyReady)
	if s.deps.OnReady != nil {
		s.deps.OnReady()
	}
	s.forceFatal()
}

// notify tells the service manager, if there is one.
func notify(log hclog.Logger, state string) {
	if err := process.Notify(state); err != nil {
		log.Warn("tell the service manager", "state", state, "err", err)
	}
}

// nodePath is the search path of this process; the launcher composed it.
func nodePath() string { return os.Getenv("PATH") }
