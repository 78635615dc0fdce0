package runner

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	plugin "github.com/hashicorp/go-plugin"
	gorunner "github.com/hashicorp/go-plugin/runner"
	"golang.org/x/sys/unix"

	"github.com/kelson-io/kelson/core/config"
)

// Launch executes a verified program and returns when it has shaken hands and
// listens. On an error nothing of it is left running. The program's file may be
// closed afterwards.
func Launch(ctx context.Context, spec Spec, bin *Binary) (*Process, error) {
	if err := spec.prepare(); err != nil {
		return nil, err
	}
	l := &launch{spec: spec, bin: bin, line: newLineReader()}
	client := plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig:  plugin.HandshakeConfig{ProtocolVersion: appProtocol, MagicCookieKey: CookieKey, MagicCookieValue: CookieValue},
		Plugins:          plugin.PluginSet{},
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		SkipHostEnv:      true,
		StartTimeout:     spec.timeout(),
		Logger:           hclog.NewNullLogger(), // what it would say is said here
		UnixSocketConfig: &plugin.UnixSocketConfig{TempDir: spec.Dir},
		RunnerFunc: func(_ hclog.Logger, _ *exec.Cmd, dir string) (gorunner.Runner, error) {
			l.dir = dir
			return (*goPlugin)(l), nil
		},
	})
	stop := context.AfterFunc(ctx, l.abort)
	addr, err := client.Start()
	// The client is never used again: its Kill has no deadline, its connection no
	// receive limit.
	stop()
	return l.settle(ctx, addr, err)
}

// launch is one start of a program.
type launch struct {
	spec Spec
	bin  *Binary
	dir  string // of the socket, made by go-plugin
	line *lineReader

	mu      sync.Mutex
	process *Process
	aborted bool
	why     error // what was wrong with the handshake

	ending sync.Once
	early  bool // it ended before it was killed
	silent bool // its output ended without a line before that
}

// settle turns what go-plugin says into a process or a readable error.
func (l *launch) settle(ctx context.Context, addr net.Addr, err error) (*Process, error) {
	l.mu.Lock()
	p, why := l.process, l.why
	l.mu.Unlock()
	if p == nil { // not executed
		if l.dir != "" {
			removeSocketDir(l.spec.Dir, l.dir)
		}
		return nil, err
	}
	if err == nil {
		if err = p.settled(addr.String()); err == nil {
			return p, nil
		}
		why = err
	}
	killed := l.end(p)
	removeSocketDir(l.spec.Dir, l.dir)
	switch {
	case killed != nil:
		return nil, fmt.Errorf("%w; %w", err, killed)
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	}
	return nil, &StartError{Exit: p.Exit(), Output: p.Output(keptLines), err: l.explain(p, why)}
}

// keptLines is how much of the output a StartError has.
const keptLines = 50

// StartError is why a process that was executed did not come up.
type StartError struct {
	Exit   Exit
	Output []string // its last lines
	err    error
}

func (e *StartError) Error() string { return e.err.Error() }

// Unwrap returns the reason.
func (e *StartError) Unwrap() error { return e.err }

func (l *launch) explain(p *Process, why error) error {
	switch {
	case why != nil:
		return why
	case l.early:
		return config.Hinted(fmt.Errorf("it ended before the handshake: %v%s", p.Exit(), quoteLast(p)),
			"run the file by hand: it prints what it misses")
	case l.silent:
		return errors.New("it closed its standard output before the handshake" + quoteLast(p))
	}
	return config.Hinted(fmt.Errorf("no handshake line on its standard output within %v%s", l.spec.timeout(), quoteLast(p)),
		"a plugin calls serve.Main of the SDK at once and prints nothing before")
}

// end kills the process, and notes whether it had ended by itself: when its
// output has, its end may be a moment away.
func (l *launch) end(p *Process) error {
	l.ending.Do(func() {
		limit := time.Duration(0)
		if errors.Is(l.line.Err(), errNoLine) {
			limit, l.silent = time.Second, true
		}
		timer := time.NewTimer(limit)
		defer timer.Stop()
		select {
		case <-p.gone:
			l.early = true
		case <-timer.C:
		}
	})
	return p.Kill()
}

func quoteLast(p *Process) string {
	if last := p.Output(1); len(last) > 0 && last[0] != "" {
		return ": " + printable(last[0], 300)
	}
	return ""
}

func (l *launch) abort() {
	l.mu.Lock()
	l.aborted = true
	p := l.process
	l.mu.Unlock()
	if p != nil {
		_ = p.handle.signal(unix.SIGKILL) // settle waits for the end
	}
}

// live executes the program, waits for its end and cleans up. A parent-death
// signal comes when the thread that forked ends, so it stays until then.
func (l *launch) live(first chan<- error) {
	if !l.spec.node() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
	}
	p, cmd, pipes, err := l.exec()
	first <- err
	if err != nil {
		return
	}
	if !p.await() { // detached
		_ = cmd.Process.Release()
		l.line.end()
		close(p.done)
		return
	}
	// The process waits to be reaped, so that the group's number is still its own.
	_ = unix.Kill(-p.PID(), unix.SIGKILL)
	_ = cmd.Wait() // the state tells
	pipes.finish()
	l.line.end()
	var ws syscall.WaitStatus
	known := false
	if cmd.ProcessState != nil { // nil if somebody else has reaped it
		ws, known = cmd.ProcessState.Sys().(syscall.WaitStatus)
	}
	p.finish(unix.WaitStatus(ws), known)
	p.handle.close()
	close(p.done)
}

func (l *launch) exec() (*Process, *exec.Cmd, *pipes, error) {
	pipes, err := l.pipes()
	if err != nil {
		return nil, nil, nil, err
	}
	defer pipes.closeTheirs()
	g := newGroup(l.spec.Cgroup, l.spec.Limits)
	cmd, err := l.fork(pipes, g)
	if err != nil {
		pipes.finish()
		g.remove()
		return nil, nil, nil, execError(l.spec.Program.Path, l.bin.script, err)
	}
	p, err := l.adopt(cmd, g, pipes)
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		pipes.finish()
		g.kill()
		g.remove()
		_ = os.Remove(l.spec.Record)
		return nil, nil, nil, err
	}
	pipes.pump(p, l.line)
	return p, cmd, pipes, nil
}

func (l *launch) fork(pipes *pipes, g group) (*exec.Cmd, error) {
	command := func() *exec.Cmd {
		return &exec.Cmd{
			// The first extra descriptor is the verified file; a script's interpreter
			// opens the same.
			Path: "/proc/self/fd/3", Args: append([]string{l.spec.Program.Path}, l.spec.Program.Args...),
			ExtraFiles: []*os.File{l.bin.file},
			Env:        l.spec.environ(l.dir), Dir: l.spec.StateDir,
			Stdin: pipes.stdin, Stdout: pipes.stdout, Stderr: pipes.stderr,
			SysProcAttr: l.spec.attr(),
		}
	}
	cmd := command()
	err := g.inside(cmd.SysProcAttr, cmd.Start)
	if err != nil && g.unified {
		// The kernel may refuse the group; the plugin runs without.
		cmd = command()
		err = cmd.Start()
	}
	return cmd, err
}

// adopt makes a Process of a fresh child, with its record on the disk before the
// plugin is of any use.
func (l *launch) adopt(cmd *exec.Cmd, g group, pipes *pipes) (*Process, error) {
	pid := cmd.Process.Pid
	pidfd, err := unix.PidfdOpen(pid, 0) // not reaped yet: the number is the child's
	if err != nil {
		return nil, fmt.Errorf("open pid %d: %w", pid, err)
	}
	h := newHandle(pidfd)
	g.add(pid) // where it could not be made inside
	record, err := newRecord(l.spec, l.bin, pid)
	if err == nil {
		err = errors.Join(l.spec.limit(pid), record.write(l.spec.Record))
	}
	p := newProcess(l.spec, record, h, g)
	p.pump = pipes.sink
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil && l.aborted {
		err = context.Canceled
	}
	if err != nil {
		h.close()
		return nil, err
	}
	l.process = p
	return p, nil
}

// settled notes the socket.
func (p *Process) settled(socket string) error {
	p.mu.Lock()
	p.record.Socket = socket
	record := p.record
	p.mu.Unlock()
	if err := record.write(p.spec.Record); err != nil {
		return err
	}
	select {
	case <-p.ended:
		_ = os.Remove(p.spec.Record) // ended between the lines
		return fmt.Errorf("it ended after the handshake: %v%s", p.Exit(), quoteLast(p))
	default:
		return nil
	}
}

func execError(path string, script bool, err error) error {
	hint := ""
	switch {
	case errors.Is(err, unix.ENOEXEC):
		hint = "the program is not built for this machine: install the plugin for " + runtime.GOOS + "/" + runtime.GOARCH
	case errors.Is(err, unix.ENOENT) && script:
		hint = "the interpreter in the script's first line does not exist here"
	case errors.Is(err, unix.ENOENT):
		hint = "the program needs a dynamic linker that does not exist here: build it static"
	case errors.Is(err, unix.EACCES):
		hint = "the file or its file system must not be executed: look at its mode and mount options"
	}
	err = fmt.Errorf("execute %s: %w", path, errors.Unwrap(err))
	if hint == "" {
		return err
	}
	return config.Hinted(err, hint)
}
