package runner

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// killGrace is how long a killed process may take to be gone.
const killGrace = 5 * time.Second

// logLook is how often the size of a log is looked at.
const logLook = 5 * time.Second

// Exit tells how a process ended.
type Exit struct {
	Time   time.Time
	Code   int    // exit status; -1 if it is not known or a signal ended it
	Signal string // that ended it, such as "killed"
	OOM    bool   // the kernel killed in its cgroup for want of memory
}

func (e Exit) String() string {
	s := fmt.Sprintf("exit status %d", e.Code)
	switch {
	case e.Signal != "":
		s = "signal: " + e.Signal
	case e.Code < 0:
		s = "ended"
	}
	if e.OOM {
		s += " (out of memory)"
	}
	return s
}

// Process is a running plugin.
type Process struct {
	spec   Spec
	record Record
	handle *handle
	group  group
	oom    int // kills in the group before this process
	pump   *pump
	redact redactor

	gone  chan struct{} // the process has ended
	ended chan struct{} // and is cleaned up after
	left  chan struct{} // Detach was called
	done  chan struct{} // nothing of this value works any more

	leave sync.Once
	mu    sync.Mutex
	exit  Exit
}

func newProcess(spec Spec, record Record, h *handle, g group) *Process {
	return &Process{
		spec: spec, record: record, handle: h, group: g, oom: g.oomKills(), redact: newRedactor(spec.Secrets),
		gone: make(chan struct{}), ended: make(chan struct{}), left: make(chan struct{}), done: make(chan struct{}),
	}
}

// PID is the process's number.
func (p *Process) PID() int { return p.record.PID }

// Record is what the record file holds.
func (p *Process) Record() Record {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.record
}

// Gone is closed as soon as the process has ended.
func (p *Process) Gone() <-chan struct{} { return p.gone }

// Ended is closed when the process is gone and its socket and record are too.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Exit tells how the process ended; valid once Ended is closed.
func (p *Process) Exit() Exit {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.exit
}

// Output returns the last n lines that the process printed.
func (p *Process) Output(n int) []string {
	var lines []string
	if p.spec.node() {
		lines = lastLines(p.spec.LogFile, n, p.redact)
	} else {
		lines = p.pump.kept.last(n)
	}
	for i := range lines {
		lines[i] = printable(lines[i], maxField)
	}
	return lines
}

// Dial connects to the plugin's socket and makes sure that it is the plugin that
// listens there.
func (p *Process) Dial(ctx context.Context) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", p.Record().Socket)
	if err != nil {
		return nil, err
	}
	if err := p.peer(conn); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

func (p *Process) peer(conn net.Conn) error {
	sock, ok := conn.(*net.UnixConn)
	if !ok {
		return errors.New("not a Unix socket")
	}
	raw, err := sock.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var inner error
	if err := raw.Control(func(fd uintptr) {
		cred, inner = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return err
	}
	if inner != nil {
		return inner
	}
	if int(cred.Pid) != p.PID() || int(cred.Uid) != os.Geteuid() {
		return fmt.Errorf("the listener of %s is pid %d of user id %d, expected is pid %d of user id %d",
			sock.RemoteAddr(), cred.Pid, cred.Uid, p.PID(), os.Geteuid())
	}
	return nil
}

// End asks the process to end with SIGTERM, and kills it with all that it
// started after grace or when ctx ends. It returns when the process is gone.
func (p *Process) End(ctx context.Context, grace time.Duration) error {
	timer := time.NewTimer(grace)
	defer timer.Stop()
	_ = p.handle.signal(unix.SIGTERM) // gone already: ended tells
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
	case <-timer.C:
	}
	return p.Kill()
}

// Kill ends the process with all that it started, and returns when it is gone,
// or with an error when the kernel keeps it.
func (p *Process) Kill() error {
	if !p.handle.gone() {
		_ = p.handle.signal(unix.SIGKILL)
		_ = unix.Kill(-p.PID(), unix.SIGKILL) // its group; it leads it, so the number is taken
	}
	p.group.kill()
	timer := time.NewTimer(killGrace)
	defer timer.Stop()
	select {
	case <-p.done:
		return nil
	case <-timer.C:
		return fmt.Errorf("pid %d survives SIGKILL: it hangs in the kernel", p.PID())
	}
}

// Detach lets go of a process of node lifetime without ending it; its record
// stays for the next host. All others are killed.
func (p *Process) Detach() error {
	if !p.spec.node() {
		return p.Kill()
	}
	p.leave.Do(func() {
		close(p.left)
		p.handle.close() // wakes who waits for it
	})
	<-p.done
	return nil
}

// await returns true when the process is gone, false when it was detached.
func (p *Process) await() bool {
	gone := p.wait()
	if gone {
		close(p.gone)
	}
	return gone
}

func (p *Process) wait() bool {
	for {
		err := p.handle.wait(logLook)
		select {
		case <-p.left:
			if err != nil {
				return false
			}
		default:
		}
		switch {
		case err == nil:
			return true
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return p.handle.gone()
		}
		if p.spec.node() {
			if err := shrinkLog(p.spec.LogFile); err != nil {
				p.spec.Log.Warn("log not shrunk", "err", err)
			}
		}
	}
}

// finish cleans up after the end: what the process started is killed, what it
// left in the run dir removed.
func (p *Process) finish(ws unix.WaitStatus, known bool) {
	exit := Exit{Time: time.Now(), Code: -1, OOM: p.group.oomKills() > p.oom}
	switch {
	case known && ws.Signaled():
		exit.Signal = ws.Signal().String()
	case known:
		exit.Code = ws.ExitStatus()
	}
	p.mu.Lock()
	p.exit = exit
	p.mu.Unlock()
	p.group.kill()
	p.group.remove()
	p.clean()
	close(p.ended)
}

func (p *Process) clean() {
	if socket := p.Record().Socket; socket != "" {
		removeSocketDir(p.spec.Dir, filepath.Dir(socket))
	}
	_ = os.Remove(p.spec.Record) // a stale record is harmless: identity is checked
}

// removeSocketDir removes a folder that go-plugin made for the socket. The
// plugin named the path: nothing above the run dir's own folders is touched.
func removeSocketDir(runDir, dir string) {
	if filepath.Dir(dir) == runDir {
		_ = os.RemoveAll(dir)
	}
}
