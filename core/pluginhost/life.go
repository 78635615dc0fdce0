package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kelson-io/kelson/core/config"
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

// failed counts a failure and returns the program to go back to, if it is time.
func (s *Supervised) failed(f *failures, err error) *program.Program {
	now, _ := s.peek()
	well := s.wellFor()
	s.log.Error("failed", "reason", reasonOf(err), "err", err, "ready_for", well.Round(time.Millisecond), "output", s.lastWords())
	s.blame(err)
	blameless := false
	if fl, ok := errors.AsType[*fault](err); ok {
		blameless = fl.blameless
	}
	if !f.count(time.Now(), well, blameless) {
		return nil
	}
	var back program.Program
	rollback := guard(func() (no error) {
		back, no = s.host.deps.Source.Rollback(s.spec.Kind, s.spec.Name, reasonOf(err))
		return no
	})
	if rollback != nil {
		f.looping = true
		s.log.Error("crash loop, tried on slowly", "err", rollback)
		return nil
	}
	s.log.Warn("rolled back", "from", now.Version, "to", back.Version)
	f.reset()
	s.change(func(st *State) {
		st.Phase, st.RolledBackFrom = RolledBack, now.Version
		st.Version, st.Lifetime, st.Generation = back.Version, back.Lifetime, back.Generation
	})
	return &back
}

// blame shows why the plugin failed.
func (s *Supervised) blame(err error) {
	s.change(func(st *State) {
		if st.Phase != Absent {
			st.Phase = Failed
		}
		st.Reason, st.Message, st.Hint = reasonOf(err), oneLine(err.Error()), config.Hint(err)
	})
}

// pause waits for the next start; false means that Stop came.
func (s *Supervised) pause(ctx context.Context, f *failures, rolledBack bool) bool {
	if rolledBack {
		return ctx.Err() == nil
	}
	wait := f.pause()
	s.change(func(st *State) {
		switch {
		case f.looping:
			st.Phase = CrashLoop
		case st.Phase != Absent:
			st.Phase = Backoff
		}
	})
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

func reasonOf(err error) string {
	if f, ok := errors.AsType[*fault](err); ok {
		return f.reason
	}
	return "Failed"
}

// failures counts ends that nobody asked for.
type failures struct {
	timing  timing
	streak  int         // since it last ran well
	recent  []time.Time // within the window
	looping bool
}

// count notes a failure after the plugin was ready for a while, and says whether
// it makes a crash loop.
func (f *failures) count(now time.Time, ready time.Duration, blameless bool) bool {
	if ready >= f.timing.stable {
		f.reset()
	}
	f.streak++
	if blameless {
		return false
	}
	f.recent = append(f.recent, now)
	for len(f.recent) > 0 && now.Sub(f.recent[0]) > f.timing.crashWindow {
		f.recent = f.recent[1:]
	}
	return len(f.recent) >= f.timing.crashes
}

func (f *failures) reset() { f.streak, f.recent, f.looping = 0, nil, false }

// pause doubles from failure to failure, give or take a fifth.
func (f *failures) pause() time.Duration {
	wait := f.timing.backoffMax
	if shift := max(f.streak-1, 0); shift < 30 {
		wait = min(f.timing.backoffMin<<shift, f.timing.backoffMax)
	}
	return time.Duration(float64(wait) * (0.8 + 0.4*rand.Float64()))
}
