package process

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// reapGrace is how long a leftover may take to end by itself.
const reapGrace = 3 * time.Second

// Record identifies one process beyond the reuse of its number.
type Record struct {
	Name      string `json:"name"`
	PID       int    `json:"pid"`
	StartTime uint64 `json:"startTime"` // clock ticks since boot, /proc/<pid>/stat
	BootID    string `json:"bootID"`
	Exe       string `json:"exe"`
}

// Identify reads the identity of a process. Exe is empty for one that is ending.
func Identify(name string, pid int) (Record, error) {
	proc := "/proc/" + strconv.Itoa(pid)
	stat, err := os.ReadFile(proc + "/stat")
	if err != nil {
		return Record{}, fmt.Errorf("identify pid %d: %w", pid, err)
	}
	start, err := startTime(stat)
	if err != nil {
		return Record{}, fmt.Errorf("identify pid %d: %w", pid, err)
	}
	exe, err := os.Readlink(proc + "/exe")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return Record{}, fmt.Errorf("identify pid %d: %w", pid, err)
	}
	boot, err := bootID()
	if err != nil {
		return Record{}, fmt.Errorf("identify pid %d: %w", pid, err)
	}
	return Record{Name: name, PID: pid, StartTime: start, BootID: boot, Exe: strings.TrimSuffix(exe, " (deleted)")}, nil
}

// Alive says whether the very process of the record still runs.
func (r Record) Alive() bool {
	fd, err := r.open()
	if err != nil || fd < 0 {
		return false
	}
	_ = unix.Close(fd)
	return true
}

// open pins the process of the record; it returns -1 when that is gone. A
// process on its way out counts as running until its last thread has ended: it
// still holds its files and locks.
func (r Record) open() (int, error) {
	if r.PID <= 1 || r.PID == os.Getpid() {
		return -1, nil
	}
	fd, err := unix.PidfdOpen(r.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return -1, nil
	}
	if err != nil {
		return -1, fmt.Errorf("open pid %d: %w", r.PID, err)
	}
	// Looked at after the descriptor pinned it, so that the number cannot change
	// hands in between. The executable cannot be read once memory is given back.
	now, err := Identify(r.Name, r.PID)
	if now.Exe == "" {
		now.Exe = r.Exe
	}
	if err == nil && now == r {
		gone, err := waitPidfd(fd, 0)
		if err == nil && !gone {
			return fd, nil
		}
	}
	_ = unix.Close(fd)
	return -1, nil
}

// ReadRecord reads the record at path.
func ReadRecord(path string) (Record, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Record{}, fmt.Errorf("read process record: %w", err)
	}
	var r Record
	if err := json.Unmarshal(data, &r); err != nil {
		return Record{}, fmt.Errorf("read process record %s: %w", path, err)
	}
	return r, nil
}

// Reap ends the process that the record at path names, if it is still that very
// process (number, start time, boot and executable), and removes the record. It
// returns when the process is gone: asked with SIGTERM, after three seconds
// with SIGKILL. No record, a stale one and an unreadable one (a power cut) mean
// that there is nothing to end.
func Reap(path string) error {
	r, err := ReadRecord(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil {
		if err := r.end(); err != nil {
			return fmt.Errorf("end leftover %s: %w", r.Name, err)
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove process record: %w", err)
	}
	return nil
}

func (r Record) end() error {
	fd, err := r.open()
	if err != nil || fd < 0 {
		return err
	}
	defer unix.Close(fd)
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("signal pid %d: %w", r.PID, err)
		}
		gone, err := waitPidfd(fd, reapGrace)
		if err != nil || gone {
			return err
		}
	}
	return fmt.Errorf("pid %d (%s) survives SIGKILL", r.PID, r.Exe)
}

// waitPidfd says whether the process ended in time.
func waitPidfd(fd int, limit time.Duration) (bool, error) {
	end := time.Now().Add(limit)
	for {
		left := max(time.Until(end), 0)
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(left.Milliseconds()))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return false, fmt.Errorf("wait for process: %w", err)
		case n > 0:
			return true, nil
		case left < time.Millisecond:
			return false, nil
		}
	}
}

func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return string(bytes.TrimSpace(b)), nil
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

// writeRecord replaces the record atomically: a torn one would hide a leftover.
func writeRecord(path, name string, pid int) error {
	r, err := Identify(name, pid)
	if err != nil {
		return err
	}
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("write process record: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("write process record: %w", err)
	}
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("write process record: %w", err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("write process record: %w", err)
	}
	return nil
}
