package cnitest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sort"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// namespace is a network namespace that lives as long as it is open.
type namespace struct {
	file *os.File
	link string // leads to it, if named
}

const ownNet = "/proc/thread-self/ns/net"

func newNamespace() (*namespace, error) {
	return inThread(func() (*namespace, error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return nil, fmt.Errorf("make network namespace: %w", err)
		}
		return ownNamespace()
	})
}

func ownNamespace() (*namespace, error) {
	f, err := os.Open(ownNet)
	return &namespace{file: f}, err
}

// name gives the namespace a path of its own. That of the descriptor could lead
// to another one after close.
func (n *namespace) name(link string) error {
	n.link = link
	return os.Symlink(n.descriptor(), link)
}

func (n *namespace) descriptor() string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.file.Fd())
}

func (n *namespace) close() {
	if n.link != "" {
		os.Remove(n.link)
	}
	n.file.Close()
}

// do runs f in the namespace.
func (n *namespace) do(f func() error) error {
	_, err := inThread(func() (struct{}, error) {
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return struct{}{}, fmt.Errorf("enter network namespace: %w", err)
		}
		return struct{}{}, f()
	})
	return err
}

// inThread runs f in a thread that ends with it.
func inThread[T any](f func() (T, error)) (T, error) {
	type outcome struct {
		value T
		err   error
	}
	done := make(chan outcome, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is not used again
		value, err := f()
		done <- outcome{value, err}
	}()
	got := <-done
	return got.value, got.err
}

// interfaces are the names of the namespace's interfaces but lo.
func (n *namespace) interfaces() (out []string, err error) {
	err = n.do(func() error {
		list, err := net.Interfaces()
		for _, i := range list {
			if i.Name != "lo" {
				out = append(out, i.Name)
			}
		}
		return err
	})
	return out, err
}

// run runs a tool of the search path in a namespace.
func (k *kit) run(n *namespace, tool string, args ...string) (out string, err error) {
	program := ""
	for _, dir := range filepath.SplitList(k.Path) {
		path := filepath.Join(dir, tool)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			program = path
			break
		}
	}
	if program == "" {
		return "", fmt.Errorf("%s: %w", tool, exec.ErrNotFound)
	}
	err = n.do(func() error {
		raw, err := exec.Command(program, args...).CombinedOutput()
		out = string(raw)
		return err
	})
	return out, err
}

// snapshot is what the node has: links, addresses, routes, rules.
func (k *kit) snapshot(t testing.TB) string {
	t.Helper()
	var lines []string
	err := k.node.do(func() error {
		list, err := net.Interfaces()
		for _, i := range list {
			addresses, err := i.Addrs()
			if err != nil {
				return err
			}
			lines = append(lines, fmt.Sprintf("link %s %v", i.Name, addresses))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, tool := range [][]string{
		{"ip", "-4", "route", "show", "table", "all"},
		{"ip", "-6", "route", "show", "table", "all"},
		{"ip", "rule"},
		{"nft", "-s", "list", "ruleset"},
	} {
		out, err := k.run(k.node, tool[0], tool[1:]...)
		if errors.Is(err, exec.ErrNotFound) && tool[0] == "nft" {
			continue
		}
		if err != nil {
			t.Fatalf("%v: %v: %s", tool, err, out)
		}
		var part []string
		for line := range strings.Lines(out) {
			line = strings.ReplaceAll(line, " linkdown", "") // a bridge without pods
			part = append(part, tool[0]+" "+strings.TrimRight(line, " \n"))
		}
		if tool[0] == "ip" {
			sort.Strings(part)
		}
		lines = append(lines, part...)
	}
	return strings.Join(lines, "\n")
}

// difference is what two snapshots do not share.
func difference(before, after string) error {
	var out []string
	count := map[string]int{}
	for line := range strings.Lines(before + "\n") {
		count[line]--
	}
	for line := range strings.Lines(after + "\n") {
		count[line]++
	}
	for line, n := range count {
		switch {
		case n > 0:
			out = append(out, "+ "+line)
		case n < 0:
			out = append(out, "- "+line)
		}
	}
	if len(out) == 0 {
		return nil
	}
	sort.Strings(out)
	return errors.New("the node has changed:\n" + strings.Join(out, ""))
}

// ping sends one echo request from the namespace and waits for the answer.
func (n *namespace) ping(to netip.Addr, sequence uint16, limit time.Duration) error {
	return n.do(func() error {
		if to.Is4() {
			return echo(to, unix.IPPROTO_ICMP, &unix.SockaddrInet4{Addr: to.As4()}, [2]byte{8, 0}, sequence, limit)
		}
		return echo(to, unix.IPPROTO_ICMPV6, &unix.SockaddrInet6{Addr: to.As16()}, [2]byte{128, 129}, sequence, limit)
	})
}

// echo is ping in the thread's own namespace; kinds are those of the request and
// of the answer.
func echo(to netip.Addr, protocol int, peer unix.Sockaddr, kinds [2]byte, sequence uint16, limit time.Duration) error {
	family := unix.AF_INET
	if to.Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	packet := []byte{kinds[0], 0, 0, 0, 0x4b, 0x65, 0, 0}
	binary.BigEndian.PutUint16(packet[6:], sequence)
	if family == unix.AF_INET { // of IPv6 the kernel makes the checksum
		binary.BigEndian.PutUint16(packet[2:], checksum(packet))
	}
	if err := unix.Sendto(fd, packet, 0, peer); err != nil {
		return fmt.Errorf("ping %s: %w", to, err)
	}
	for end := time.Now().Add(limit); ; {
		left := time.Until(end)
		if left <= 0 {
			return fmt.Errorf("ping %s: no answer within %v", to, limit)
		}
		tv := unix.NsecToTimeval(left.Nanoseconds() + 1000)
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
			return err
		}
		buffer := make([]byte, 1500)
		size, _, err := unix.Recvfrom(fd, buffer, 0)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) {
			continue
		}
		if err != nil {
			return fmt.Errorf("ping %s: %w", to, err)
		}
		got := buffer[:size]
		if family == unix.AF_INET && size > 0 { // behind the header
			got = got[min(int(got[0]&15)*4, size):]
		}
		if len(got) >= 8 && got[0] == kinds[1] && string(got[4:8]) == string(packet[4:8]) {
			return nil
		}
	}
}

func checksum(packet []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(packet); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(packet[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
