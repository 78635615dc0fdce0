package main

import (
	"errors"
	"io"
	"syscall"
	"time"

	"github.com/kelson-io/kelson/sdk/cni/frame"
)

// What can become of a conversation with the plugin.
var (
	errAway   = errors.New("nobody listens on its socket")
	errBroken = errors.New("connection ended before the answer")
	errSilent = errors.New("no answer in time")
)

// conn is a connection to a plugin: a Unix socket without package net.
type conn struct {
	fd  int
	end time.Time
}

func (c *conn) close() { _ = syscall.Close(c.fd) }

// dial connects, trying again while nobody listens until wait is over.
func (s *shim) dial(path string, wait time.Duration) (*conn, error) {
	for end := time.Now().Add(wait); ; <-time.After(s.limits.poll) {
		c, err := connect(path, max(time.Until(end), s.limits.status))
		if err == nil {
			return c, nil
		}
		switch errno, _ := errors.AsType[syscall.Errno](err); errno {
		case syscall.ENOENT, syscall.ECONNREFUSED, syscall.EAGAIN, syscall.ENOTSOCK, syscall.EPROTOTYPE:
			if !time.Now().Before(end) {
				return nil, errAway
			}
		default:
			return nil, &failure{codeIO, "connect to network plugin: " + err.Error()}
		}
	}
}

// connect waits up to limit for room in a full backlog.
func connect(path string, limit time.Duration) (*conn, error) {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	c := &conn{fd: fd, end: time.Now().Add(limit)}
	for {
		if err = c.timeout(syscall.SO_SNDTIMEO); err == nil {
			err = syscall.Connect(fd, &syscall.SockaddrUnix{Name: path})
		}
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// timeout bounds the next system call by what is left.
func (c *conn) timeout(option int) error {
	left := time.Until(c.end)
	if left <= 0 {
		return errSilent
	}
	tv := syscall.NsecToTimeval(max(left, time.Microsecond).Nanoseconds())
	return syscall.SetsockoptTimeval(c.fd, syscall.SOL_SOCKET, option, &tv)
}

// exchange sends a request and reads the reply, both within limit.
func (c *conn) exchange(r *frame.Request, limit time.Duration) (*frame.Reply, error) {
	return c.exchangeWhile(r, limit, func() {})
}

// exchangeWhile is exchange, with something to do before the reply comes.
func (c *conn) exchangeWhile(r *frame.Request, limit time.Duration, meanwhile func()) (*frame.Reply, error) {
	raw, err := r.Append(nil)
	if err != nil {
		return nil, &failure{codeConfig, "network configuration and environment are too large"}
	}
	c.end = time.Now().Add(limit)
	if err := c.send(raw); err != nil {
		return nil, err
	}
	meanwhile()
	reply, err := frame.ReadReply(c)
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return nil, errBroken
	case err != nil:
		return nil, err
	}
	return reply, nil
}

func (c *conn) send(raw []byte) error {
	for len(raw) > 0 {
		if err := c.timeout(syscall.SO_SNDTIMEO); err != nil {
			return err
		}
		n, err := syscall.SendmsgN(c.fd, raw, nil, nil, syscall.MSG_NOSIGNAL)
		if err != nil && !errors.Is(err, syscall.EINTR) {
			return outcome(err)
		}
		raw = raw[max(n, 0):]
	}
	return nil
}

// Read reads from the connection; for package frame.
func (c *conn) Read(p []byte) (int, error) {
	for {
		if err := c.timeout(syscall.SO_RCVTIMEO); err != nil {
			return 0, err
		}
		n, err := syscall.Read(c.fd, p)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return 0, outcome(err)
		case n == 0 && len(p) > 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

func outcome(err error) error {
	switch errno, _ := errors.AsType[syscall.Errno](err); errno {
	case syscall.EAGAIN:
		return errSilent
	case syscall.EPIPE, syscall.ECONNRESET:
		return errBroken
	}
	return &failure{codeIO, "talk to network plugin: " + err.Error()}
}
