package serve

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// protectMemory keeps secrets out of core files and from tracers.
func protectMemory() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbid core files: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("forbid core files: %w", err)
	}
	return nil
}

// endings yields reasons to end. A second one means: at once.
func endings(proc Process) <-chan string {
	end := make(chan string, 2)
	tell := func(why string) {
		select {
		case end <- why:
		default:
		}
	}
	// Notify rather than Ignore: a program that the plugin executes starts with
	// the default again.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE, syscall.SIGINT, syscall.SIGHUP)
	terminate := make(chan os.Signal, 2)
	signal.Notify(terminate, syscall.SIGTERM)
	go func() {
		for range terminate {
			tell("SIGTERM")
		}
	}()
	if proc.Getenv(LifetimeKey) == LifetimeNode {
		return end
	}
	go func() {
		if awaitClosed(proc.Stdin) {
			tell("the host closed the standard input")
		}
	}()
	go func() {
		if awaitParent() {
			tell("the host has ended")
		}
	}()
	return end
}

// awaitClosed returns true when the standard input, being a pipe or a socket,
// comes to its end. What it carries is discarded. Anything else (a terminal,
// the null device) says nothing about the host.
func awaitClosed(stdin io.Reader) bool {
	if f, ok := stdin.(*os.File); ok {
		info, err := f.Stat()
		if err != nil || info.Mode()&(fs.ModeNamedPipe|fs.ModeSocket) == 0 {
			return false
		}
	}
	if stdin == nil {
		return false
	}
	_, err := io.Copy(io.Discard, stdin)
	return err == nil || !errors.Is(err, os.ErrClosed)
}

// awaitParent returns true when the parent process has ended. PR_SET_PDEATHSIG
// would not do: it speaks of the thread that started this process. Where the
// kernel has no pidfd it returns false.
func awaitParent() bool {
	parent := os.Getppid()
	fd, err := unix.PidfdOpen(parent, unix.PIDFD_NONBLOCK)
	if err != nil {
		return errors.Is(err, unix.ESRCH)
	}
	if os.Getppid() != parent {
		unix.Close(fd)
		return true
	}
	f := os.NewFile(uintptr(fd), "parent")
	defer f.Close()
	raw, err := f.SyscallConn()
	if err != nil {
		return false
	}
	ended := false
	err = raw.Read(func(fd uintptr) bool {
		polled := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(polled, 0)
		ended = err == nil && n == 1
		return ended
	})
	return err == nil && ended
}
