package pluginhost

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kelson-io/kelson/core/pluginhost/program"
	"github.com/kelson-io/kelson/core/pluginhost/runner"
	pluginv1 "github.com/kelson-io/kelson/sdk/proto/plugin/v1"
)

// serve brings a process to work and watches it until it ends, fails, or ctx ends.
func (s *Supervised) serve(ctx context.Context, prog program.Program, p *runner.Process, conn *grpc.ClientConn) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watchers := make(chan struct{}, 3)
	watch := func(of func() error) {
		go func() {
			defer func() { watchers <- struct{}{} }()
			if err := guard(of); err != nil {
				cancel(err)
			}
		}()
	}
	watch(func() error { return s.watchProcess(ctx, p) })
	running := 1
	c := &condition{}
	err := s.negotiate(ctx, prog, p, conn)
	if err == nil {
		watch(func() error { return s.watchHealth(ctx, pluginv1.NewPluginClient(conn), c) })
		watch(func() error { return s.watchTime(ctx, prog) })
		running += 2
		err = s.bringUp(ctx, conn)
	}
	if err == nil {
		s.mu.Lock()
		s.conn = conn
		s.mu.Unlock()
		s.raise(c)
		<-ctx.Done()
	}
	err = s.rootCause(ctx, p, err)
	cancel(err)
	for range running {
		<-watchers
	}
	return err
}

func (s *Supervised) watchProcess(ctx context.Context, p *runner.Process) error {
	select {
	case <-ctx.Done():
		return nil
	case <-p.Ended():
		return s.exited(p)
	case <-s.anew:
		return errRestart
	}
}

// rootCause prefers what ended the context, and the end of the process, to what
// they broke.
func (s *Supervised) rootCause(ctx context.Context, p *runner.Process, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if reasonOf(err) != healthLost && status.Code(err) != codes.Unavailable {
		return err
	}
	// A process that dies breaks its connection a moment before it is gone.
	timer := time.NewTimer(200 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-p.Gone():
		<-p.Ended() // bounded by the runner
		return s.exited(p)
	case <-timer.C:
		return err
	}
}

func (s *Supervised) exited(p *runner.Process) error {
	return &fault{reason: exitReason(p.Exit()), err: fmt.Errorf("%s: it ended by itself: %v", s, p.Exit())}
}

func exitReason(e runner.Exit) string {
	switch {
	case e.OOM:
		return "OutOfMemory"
	case e.Signal != "":
		return "Killed"
	default:
		return "Exited"
	}
}

// watchTime notes a program that runs well, and ends an idle one.
func (s *Supervised) watchTime(ctx context.Context, prog program.Program) error {
	s.usage.touch()
	t := s.host.timing
	tick := time.NewTicker(max(min(t.stable, t.idle)/10, time.Millisecond))
	defer tick.Stop()
	good := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		state, _ := s.peek()
		if !good && s.wellFor() >= t.stable {
			good = true
			if err := guard(func() error { return s.host.deps.Source.Good(prog) }); err != nil {
				s.log.Warn("not noted as good", "version", prog.Version, "err", err)
			}
		}
		if prog.Lifetime == program.OnDemand && state.usable() && s.usage.idle() >= t.idle {
			return errIdle
		}
	}
}
