package runner

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// identity tells a process from a later one with the same number.
type identity struct {
	PID       int    `json:"pid"`
	StartTime uint64 `json:"startTime"` // clock ticks since boot, /proc/<pid>/stat
	BootID    string `json:"bootID"`
}

func identify(pid int) (identity, error) {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return identity{}, fmt.Errorf("identify pid %d: %w", pid, err)
	}
	start, err := startTime(stat)
	if err != nil {
		return identity{}, fmt.Errorf("identify pid %d: %w", pid, err)
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return identity{}, fmt.Errorf("read boot id: %w", err)
	}
	return identity{PID: pid, StartTime: start, BootID: string(bytes.TrimSpace(boot))}, nil
}

// startTime is field 22 of /proc/<pid>/stat. The command (field 2) is in
// brackets and may hold spaces and brackets itself.
func startTime(stat []byte) (uint64, error) {
	end := bytes.LastIndexByte(stat, ')')
	if end < 0 {
		return 0, errors.New("stat without a command")
	}
	fields := bytes.Fields(stat[end+1:])
	if len(fields) < 20 {
		return 0, fmt.Errorf("stat with %d fields after the command", len(fields))
	}
	return strconv.ParseUint(string(fields[19]), 10, 64)
}

// open pins the process; nil when it is gone.
func (id identity) open() (*handle, error) {
	if id.PID <= 1 || id.PID == os.Getpid() {
		return nil, nil
	}
	fd, err := unix.PidfdOpen(id.PID, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) { // EINVAL: a thread's number
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open pid %d: %w", id.PID, err)
	}
	h := newHandle(fd)
	// Looked at after the descriptor pinned it, so that the number cannot change
	// hands in between.
	if now, err := identify(id.PID); err != nil || now != id || h.gone() {
		h.status(id.PID) // reaps it, if this host executed itself anew
		h.close()
		return nil, nil //nolint:nilerr // a process that cannot be read has ended
	}
	return h, nil
}

// exeDigest hashes the running executable of a process.
func exeDigest(pid int) (string, error) {
	f, err := os.Open("/proc/" + strconv.Itoa(pid) + "/exe")
	if err != nil {
		return "", fmt.Errorf("read executable of pid %d: %w", pid, err)
	}
	defer f.Close()
	return digest(f)
}

// handle is an open process descriptor: what is signalled and waited for by it
// is never another process.
type handle struct{ file *os.File }

// newHandle takes a descriptor that nobody else has, also no copy of it: it is
// made non-blocking, so that waiting for it holds no thread, and that would make
// os/exec's wait on a copy return too early.
func newHandle(fd int) *handle {
	_ = unix.SetNonblock(fd, true) // or waiting holds a thread
	return &handle{os.NewFile(uintptr(fd), "pidfd")}
}

func (h *handle) close() { _ = h.file.Close() }

func (h *handle) signal(sig unix.Signal) error {
	return h.with(func(fd int) error { return unix.PidfdSendSignal(fd, sig, nil, 0) })
}

// gone says whether the process has ended; one that waits to be reaped has.
func (h *handle) gone() bool {
	ended := true
	_ = h.with(func(fd int) error { ended = readable(fd); return nil }) // closed: nothing to wait for
	return ended
}

// wait returns nil when the process ends, os.ErrDeadlineExceeded after limit,
// and os.ErrClosed when the handle is closed meanwhile.
func (h *handle) wait(limit time.Duration) error {
	if err := h.file.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	raw, err := h.file.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Read(func(fd uintptr) bool { return readable(int(fd)) })
}

// status reaps the process if it is a child of this one, and describes its end.
func (h *handle) status(pid int) (unix.WaitStatus, bool) {
	child := h.with(func(fd int) error {
		return unix.Waitid(unix.P_PIDFD, fd, nil, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	}) == nil
	if !child {
		return 0, false
	}
	var ws unix.WaitStatus
	reaped, err := unix.Wait4(pid, &ws, unix.WNOHANG, nil)
	return ws, err == nil && reaped == pid
}

func (h *handle) with(do func(fd int) error) error {
	raw, err := h.file.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = do(int(fd)) }); err != nil {
		return err
	}
	return inner
}

func readable(fd int) bool {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	return err == nil && n > 0
}

// strays are the processes that were started as a plugin with the run dir: left
// by a host that was killed before it could note them.
func strays(dir string) []identity {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	mark := envSocketDir + "=" + dir + "/"
	var found []identity
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid <= 1 || pid == os.Getpid() {
			continue
		}
		id, err := identify(pid)
		if err != nil {
			continue
		}
		raw, err := os.ReadFile("/proc/" + e.Name() + "/environ")
		if err != nil {
			continue
		}
		for entry := range strings.SplitSeq(string(raw), "\x00") {
			if strings.HasPrefix(entry, mark) {
				found = append(found, id)
				break
			}
		}
	}
	return found
}
