package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
)

// rotateEvery is how often the size of the log file is looked at.
const rotateEvery = 5 * time.Second

// Child is one supervised process.
//
//	created ─Start→ running ⇄ backing off ─Stop→ stopped   (Stop is legal from every state)
type Child struct {
	spec   Spec
	log    hclog.Logger
	tail   *logFile
	exited chan error

	stopOnce sync.Once
	stop     chan struct{} // closed by Stop
	kill     chan struct{} // closed when Stop's context ends
	killOnce sync.Once
	done     chan struct{} // closed when the supervisor has ended

	mu       sync.Mutex
	started  bool
	stopped  bool
	pid      int
	restarts int
	lastErr  error
}

// New returns a child that is not running. It does no I/O.
func New(spec Spec, log hclog.Logger) *Child {
	spec = spec.withDefaults()
	return &Child{
		spec:   spec,
		log:    log.With("child", spec.Name),
		tail:   &logFile{path: spec.LogFile, max: spec.LogMaxBytes, backups: spec.LogBackups},
		exited: make(chan error, 1),
		stop:   make(chan struct{}),
		kill:   make(chan struct{}),
		done:   make(chan struct{}),
	}
}

// Start ends a leftover of an earlier host, launches the process and returns
// when it has been executed; it does not wait until it is of use. A child is
// started once: a stopped one stays stopped. After an error of the launch itself
// the child is of no more use, unless Policy.RetryFirst is set; then only a
// leftover that cannot be ended is an error, and Start may be called again.
func (c *Child) Start(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("start %s: %w", c.spec.Name, err)
	}
	if c.spec.PIDFile != "" {
		if err := Reap(c.spec.PIDFile); err != nil {
			return fmt.Errorf("start %s: %w", c.spec.Name, err)
		}
	}
	c.mu.Lock()
	if c.started || c.stopped {
		c.mu.Unlock()
		return fmt.Errorf("start %s: already started or stopped", c.spec.Name)
	}
	c.started = true
	c.mu.Unlock()
	first := make(chan error, 1)
	go c.supervise(first)
	return <-first
}

// Stop ends the process: StopSignal, then SIGKILL after StopTimeout or when ctx
// ends. Only the process itself is signalled, not what it started. Idempotent.
func (c *Child) Stop(ctx context.Context) error {
	c.stopOnce.Do(func() { close(c.stop) })
	c.mu.Lock()
	started := c.started
	c.stopped = true
	c.mu.Unlock()
	if !started {
		return nil
	}
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
	}
	c.killOnce.Do(func() { close(c.kill) })
	select {
	case <-c.done:
		return nil
	case <-time.After(time.Second): // killed, yet not gone: stuck in the kernel
		return fmt.Errorf("stop %s: pid %d survives SIGKILL", c.spec.Name, c.PID())
	}
}

// PID is the running process, 0 while there is none.
func (c *Child) PID() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pid
}

// Restarts counts the starts after the first one.
func (c *Child) Restarts() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.restarts
}

// Exited yields once, with the reason, when the child ended and its policy
// allows no further restart. It never yields after Stop.
func (c *Child) Exited() <-chan error { return c.exited }

// LastError is why the process last ended or could not be started again; nil if
// it never did.
func (c *Child) LastError() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lastErr
}

// Output is the end of what the present run, or the last one, wrote to LogFile:
// at most limit bytes, nothing of earlier runs.
func (c *Child) Output(limit int64) string { return c.tail.tail(limit) }

// supervise owns an OS thread for its whole life: the parent-death signal comes
// when the thread that forked ends, not when the process does.
func (c *Child) supervise(first chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(c.done)
	pauses := backoff{policy: c.spec.Restart}
	for run := 0; ; run++ {
		began := time.Now()
		cmd, err := c.launch()
		if run == 0 {
			if err != nil && !c.spec.Restart.RetryFirst {
				first <- err
				return
			}
			first <- nil
		}
		if err == nil {
			var stopped bool
			if stopped, err = c.attend(cmd); stopped {
				return
			}
		}
		if !c.again(&pauses, time.Since(began), err) {
			return
		}
	}
}

// again notes why a run ended and waits out the pause; false ends supervision.
func (c *Child) again(pauses *backoff, ran time.Duration, err error) bool {
	c.mu.Lock()
	c.lastErr = err
	c.mu.Unlock()
	if c.spec.OnExit != nil {
		c.spec.OnExit(err)
	}
	pause, ok := pauses.next(ran)
	if !ok {
		c.log.Error("ended, not restarted", "reason", err, "ran", ran.Round(time.Millisecond), "output", c.tail.last())
		c.exited <- fmt.Errorf("run %s: %w", c.spec.Name, err)
		return false
	}
	c.log.Warn("ended, restarting", "reason", err, "ran", ran.Round(time.Millisecond), "pause", pause, "output", c.tail.last())
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-c.stop:
		return false
	case <-timer.C:
	}
	c.mu.Lock()
	c.restarts++
	c.mu.Unlock()
	return true
}

// launch executes the process on the calling thread and records it.
func (c *Child) launch() (*exec.Cmd, error) {
	out, err := c.tail.open()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", c.spec.Name, err)
	}
	defer out.Close()
	cmd := &exec.Cmd{
		Path: c.spec.Path, Args: append([]string{c.spec.Argv0}, c.spec.Args...),
		Env: c.spec.environ(), Dir: c.spec.Dir, Stdout: out.File, Stderr: out.File,
		// A group of its own: a terminal's ^C is for the host, which stops in order.
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true, Pdeathsig: c.spec.DeathSignal},
	}
	if c.spec.LogFile == "" {
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	}
	join, err := cgroupFor(c.spec.Cgroup, cmd.SysProcAttr)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", c.spec.Name, err)
	}
	defer join.close()
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", c.spec.Name, err)
	}
	if err := errors.Join(join.add(cmd.Process.Pid), c.record(cmd.Process.Pid)); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", c.spec.Name, err), cmd.Process.Kill(), ignoreExit(cmd.Wait()))
	}
	c.mu.Lock()
	c.pid = cmd.Process.Pid
	c.mu.Unlock()
	c.log.Debug("started", "pid", cmd.Process.Pid, "path", c.spec.Path)
	if c.spec.OnStart != nil {
		c.spec.OnStart(cmd.Process.Pid)
	}
	return cmd, nil
}

// attend waits for the end of the process and stops it when asked to; it
// returns whether it ended by request and else why it ended.
func (c *Child) attend(cmd *exec.Cmd) (stopped bool, reason error) {
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	defer c.forget()
	rotate := time.NewTicker(rotateEvery)
	defer rotate.Stop()
	for {
		select {
		case err := <-ended:
			return false, exitReason(err)
		case <-rotate.C:
			if err := c.tail.rotate(); err != nil {
				c.log.Warn("log not rotated", "err", err)
			}
		case <-c.stop:
			c.end(cmd, ended)
			return true, nil
		}
	}
}

func (c *Child) end(cmd *exec.Cmd, ended <-chan error) {
	// The only errors are "already gone" ones; ended tells.
	_ = cmd.Process.Signal(c.spec.StopSignal)
	grace := time.NewTimer(c.spec.StopTimeout)
	defer grace.Stop()
	select {
	case err := <-ended:
		c.log.Debug("ended on request", "reason", exitReason(err))
		return
	case <-c.kill:
	case <-grace.C:
	}
	c.log.Warn("no graceful end, killing", "pid", cmd.Process.Pid, "signal", c.spec.StopSignal)
	_ = cmd.Process.Kill()
	err := <-ended
	c.log.Debug("killed", "reason", exitReason(err))
}

func (c *Child) record(pid int) error {
	if c.spec.PIDFile == "" {
		return nil
	}
	return writeRecord(c.spec.PIDFile, c.spec.Name, pid)
}

func (c *Child) forget() {
	c.mu.Lock()
	c.pid = 0
	c.mu.Unlock()
	if c.spec.PIDFile != "" {
		_ = os.Remove(c.spec.PIDFile) // a stale record is harmless: Reap checks identity
	}
}

// exitReason makes a clean exit a reason too: a supervised process is not meant to end.
func exitReason(err error) error {
	if err == nil {
		return errors.New("exit status 0")
	}
	return err
}

func ignoreExit(err error) error {
	if _, ok := errors.AsType[*exec.ExitError](err); ok {
		return nil
	}
	return err
}
