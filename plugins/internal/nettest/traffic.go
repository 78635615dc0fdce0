package nettest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	echoPort    = 7007
	echoTimeout = time.Second
)

// Do runs f on a thread in the namespace. Sockets that f makes stay there.
func (n Namespace) Do(f func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		fd, err := unix.Open(n.File(), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			result <- err
			return
		}
		defer unix.Close(fd)
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			result <- err
			return
		}
		result <- f()
	}()
	return <-result
}

// Echo answers datagrams in the namespace, on all its addresses, with the
// sender's address, until the test ends.
func (n Namespace) Echo() {
	n.t.Helper()
	var conn net.PacketConn
	err := n.Do(func() (err error) {
		conn, err = net.ListenPacket("udp", ":"+strconv.Itoa(echoPort))
		return err
	})
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { conn.Close() })
	go func() {
		buf := make([]byte, 1<<16)
		for {
			_, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = conn.WriteTo([]byte(from.String()), from)
		}
	}()
}

// Ask sends one IP packet of the given size, which must not be fragmented, to an
// address where Echo answers, and returns the address from which it arrived.
func (n Namespace) Ask(address string, size int) (from string, err error) {
	err = n.Do(func() error {
		conn, err := dialer(address).Dial("udp", net.JoinHostPort(address, strconv.Itoa(echoPort)))
		if err != nil {
			return err
		}
		defer conn.Close()
		headers := 28
		if strings.Contains(address, ":") {
			headers = 48
		}
		if err := conn.SetDeadline(time.Now().Add(echoTimeout)); err != nil {
			return err
		}
		if _, err := conn.Write(make([]byte, size-headers)); err != nil {
			return err
		}
		buf := make([]byte, 128)
		got, err := conn.Read(buf)
		if err != nil {
			return err
		}
		from, _, err = net.SplitHostPort(string(buf[:got]))
		return err
	})
	if err != nil {
		return "", fmt.Errorf("%s asks %s with %d bytes: %w", n.Name, address, size, err)
	}
	return from, nil
}

// dialer makes sockets that do not fragment.
func dialer(address string) *net.Dialer {
	return &net.Dialer{ControlContext: func(_ context.Context, _, _ string, c syscall.RawConn) error {
		var err error
		control := c.Control(func(fd uintptr) {
			if strings.Contains(address, ":") {
				err = errors.Join(unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO),
					unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_DONTFRAG, 1))
				return
			}
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
		})
		return errors.Join(control, err)
	}}
}

// Reaches fails the test unless an echo comes back within some seconds: the
// first packets may be lost while neighbours find each other.
func (n Namespace) Reaches(t *testing.T, address string, size int) (from string) {
	t.Helper()
	Eventually(t, 10*time.Second, func() (err error) {
		from, err = n.Ask(address, size)
		return err
	})
	return from
}
