package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"

	"github.com/kelson-io/kelson/core/pluginhost/program"
	"github.com/kelson-io/kelson/core/pluginhost/runner"
	pluginv1 "github.com/kelson-io/kelson/sdk/proto/plugin/v1"
)

const idleReason = "Idle"

// errIdle ends an on-demand plugin that nobody wants any more.
var errIdle = errors.New("idle")

// run owns the plugin's life.
func (s *Supervised) run() {
	defer close(s.done)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-s.stop:
			cancel()
		case <-ctx.Done():
		}
	}()
	s.host.seal.Do(func() {
		if err := runner.SealDescriptors(); err != nil {
			s.log.Warn("plugins may get descriptors that the host was started with", "err", err)
		}
	})
	f := &failures{timing: s.host.timing}
	var next *program.Program // after a rollback
	for {
		err := s.incarnation(ctx, next)
		next = nil
		if ctx.Err() != nil {
			s.stopped()
			return
		}
		if errors.Is(err, errIdle) || errors.Is(err, errRestart) {
			continue
		}
		next = s.failed(f, err)
		if !s.pause(ctx, f, next != nil) {
			s.stopped()
			return
		}
		s.change(func(st *State) { st.Restarts++ })
	}
}

// stopped says so, and still names a process that could not be ended.
func (s *Supervised) stopped() {
	s.change(func(st *State) {
		st.Phase = Stopped
		if s.process == nil {
			st.Reason, st.Message, st.Hint = "", "", ""
		}
	})
}

// incarnation is one process from its launch or take-over to its end; it returns
// why it ended.
func (s *Supervised) incarnation(ctx context.Context, pinned *program.Program) error {
	prog, err := s.resolve(pinned)
	if err != nil {
		return err
	}
	spec := s.runnerSpec(prog)
	process, attached, err := s.obtain(ctx, spec)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.process, s.readyFrom, s.readyFor = process, time.Time{}, 0
	s.mu.Unlock()
	s.change(func(st *State) {
		st.Phase, st.Reason, st.Message, st.Hint = Starting, "", "", ""
		st.PID, st.Attached = process.PID(), attached
		st.Incarnation++
	})
	conn, err := s.connect(process)
	if err == nil {
		err = s.serve(ctx, prog, process, conn)
	}
	s.release(ctx, process, conn, err)
	return err
}

// resolve asks the source for the program, and guards against what it does.
func (s *Supervised) resolve(pinned *program.Program) (program.Program, error) {
	if pinned != nil {
		return *pinned, nil
	}
	var prog program.Program
	err := guard(func() (err error) {
		prog, err = s.host.deps.Source.Resolve(s.spec.Kind, s.spec.Name)
		return err
	})
	if err != nil {
		s.phase(Absent, "Unresolved", oneLine(err.Error()))
		return prog, &fault{reason: "Unresolved", err: fmt.Errorf("%s: resolve: %w", s, err), blameless: true}
	}
	s.change(func(st *State) { st.Version, st.Lifetime, st.Generation = prog.Version, prog.Lifetime, prog.Generation })
	return prog, nil
}

func (s *Supervised) runnerSpec(prog program.Program) runner.Spec {
	l := s.host.deps.Layout
	dir := PluginRunDir(l, s.spec.Kind, s.spec.Name)
	return runner.Spec{
		Program: prog, Dir: dir, Record: dir + ".json",
		StateDir: StateDir(l, s.spec.Kind, s.spec.Name), LogFile: LogFile(l, s.spec.Kind, s.spec.Name),
		Path: s.host.deps.Path, Cgroup: cgroup(l, s.spec.Kind, s.spec.Name), Limits: s.host.deps.Limits,
		Secrets: s.secrets(), Log: s.log.With("version", prog.Version), Timeout: s.host.timing.handshake,
	}
}

// obtain takes over the process of an earlier host or launches one. Nothing is
// launched beside a process that could not be ended.
func (s *Supervised) obtain(ctx context.Context, spec runner.Spec) (p *runner.Process, attached bool, err error) {
	p, why, err := runner.Reclaim(ctx, spec)
	if err != nil {
		return nil, false, &fault{reason: "LeftoverAlive", err: fmt.Errorf("%s: take over: %w", s, err), blameless: true}
	}
	if why != "" {
		s.log.Warn("an earlier process was ended", "reason", why)
	}
	if p != nil {
		s.log.Info("taken over", "pid", p.PID(), "version", spec.Program.Version)
		return p, true, nil
	}
	bin, err := runner.Open(spec.Program)
	if err != nil {
		s.phase(Absent, "VerifyFailed", oneLine(err.Error()))
		return nil, false, &fault{reason: "VerifyFailed", err: fmt.Errorf("%s: %w", s, err), blameless: true}
	}
	defer func() { _ = bin.Close() }()
	s.phase(Verified, "", "")
	if spec.Program.Lifetime == program.OnDemand {
		// A wish of the last time; who still waits is woken by the phase and wishes anew.
		select {
		case <-s.demand:
		default:
		}
		s.phase(Verified, idleReason, "started when it is wanted")
		select {
		case <-s.demand:
		case <-ctx.Done():
			return nil, false, ctx.Err()
		}
	}
	s.phase(Starting, "", "")
	began := time.Now()
	p, err = runner.Launch(ctx, spec, bin)
	if err != nil {
		s.postMortem(err)
		return nil, false, &fault{reason: "StartFailed", err: fmt.Errorf("%s: start: %w", s, err)}
	}
	s.log.Info("started", "pid", p.PID(), "version", spec.Program.Version, "took", time.Since(began).Round(time.Millisecond))
	return p, false, nil
}

// postMortem keeps what a process that never shook hands left behind.
func (s *Supervised) postMortem(err error) {
	e, ok := errors.AsType[*runner.StartError](err)
	if !ok {
		return
	}
	s.mu.Lock()
	s.output = e.Output[max(0, len(e.Output)-outputLines):]
	s.mu.Unlock()
	s.change(func(st *State) { st.LastExit, st.LastExitTime = e.Exit.String(), e.Exit.Time })
}

// release lets go of a process at the end of its incarnation.
func (s *Supervised) release(ctx context.Context, p *runner.Process, conn *grpc.ClientConn, why error) {
	s.mu.Lock()
	s.conn = nil
	ending := s.ending
	s.mu.Unlock()
	var err error
	switch node := p.Record().Lifetime == program.Node; {
	case ctx.Err() != nil && node && !ending:
		s.phase(Draining, "Detaching", "")
		err = p.Detach()
		s.log.Info("let go, it runs on", "pid", p.PID())
	case ctx.Err() != nil, errors.Is(why, errIdle), errors.Is(why, errRestart):
		s.phase(Draining, "", "")
		err = s.drain(p, conn) //nolint:contextcheck // ctx has ended; the patience of who stops counts
	default:
		// It failed: there is nothing to drain, and it may hang.
		s.blame(why)
		err = p.End(s.patience(), time.Second) //nolint:contextcheck // ctx may have ended; the patience of who stops counts
	}
	if conn != nil {
		_ = conn.Close()
	}
	s.settle(p, err)
}

// drain ends a process in order: Drain, SIGTERM, SIGKILL, each with a deadline.
func (s *Supervised) drain(p *runner.Process, conn *grpc.ClientConn) error {
	grace := s.patience()
	if conn != nil {
		ctx, cancel := context.WithTimeout(grace, s.host.timing.drain)
		defer cancel()
		go func() {
			select {
			case <-p.Ended():
				cancel()
			case <-ctx.Done():
			}
		}()
		if _, err := pluginv1.NewPluginClient(conn).Drain(ctx, &pluginv1.DrainRequest{}); err != nil {
			s.log.Warn("not drained", "err", err)
		}
	}
	return p.End(grace, s.host.timing.term)
}

// settle notes the end of a process. One that the kernel keeps stays noted.
func (s *Supervised) settle(p *runner.Process, err error) {
	if err != nil {
		s.log.Error("cannot be ended", "pid", p.PID(), "err", err)
		s.change(func(st *State) { st.Reason, st.Message = "Unkillable", err.Error() })
		return
	}
	output := p.Output(outputLines)
	s.mu.Lock()
	s.process, s.output = nil, output
	s.mu.Unlock()
	s.change(func(st *State) {
		st.PID, st.Attached = 0, false
		select {
		case <-p.Ended():
			st.LastExit, st.LastExitTime = p.Exit().String(), p.Exit().Time
		default:
		}
	})
}
