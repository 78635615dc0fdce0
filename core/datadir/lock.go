package datadir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Held is a held lock on a file. The kernel drops it with the process.
type Held struct{ f *os.File }

// HeldError says that another process holds a lock.
type HeldError struct {
	Path string
	PID  int // 0: the holder had not written it yet
}

// Error names the holder.
func (e *HeldError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("%s is locked by another process", e.Path)
	}
	return fmt.Sprintf("%s is locked by process %d", e.Path, e.PID)
}

// Hint says what to do about it.
func (e *HeldError) Hint() string {
	if e.PID == 0 {
		return "another server uses this data dir; stop it, or choose another with --data-dir"
	}
	return fmt.Sprintf("another server uses this data dir; stop process %d, or choose another with --data-dir", e.PID)
}

// Lock takes the lock file at path and writes the pid of this process into it.
// If another process holds it, Lock fails at once with a *[HeldError]. The file
// stays when the lock is released; its folder must exist.
func Lock(path string) (*Held, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	err = flock(f, unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		held := &HeldError{Path: path, PID: readPID(f)}
		return nil, errors.Join(held, f.Close())
	}
	if err == nil {
		err = writePID(f)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
	}
	return &Held{f}, nil
}

// waitLock takes the lock like Lock, but waits for its holder until ctx ends.
// waiting is called once, if it has to wait.
func waitLock(ctx context.Context, path string, waiting func(error)) (*Held, error) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for first := true; ; first = false {
		l, err := Lock(path)
		var held *HeldError
		if !errors.As(err, &held) {
			return l, err
		}
		if first && waiting != nil {
			waiting(held)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", context.Cause(ctx), held)
		case <-tick.C:
		}
	}
}

// Unlock releases the lock.
func (l *Held) Unlock() error {
	if err := l.f.Close(); err != nil {
		return fmt.Errorf("unlock: %w", err)
	}
	return nil
}

func flock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func writePID(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}

func readPID(f *os.File) int {
	data, err := io.ReadAll(io.NewSectionReader(f, 0, 32))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return 0
	}
	return pid
}
