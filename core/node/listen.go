package node

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/kelson-io/kelson/core/config"
)

// listen opens the API server's port before anything else is touched, so that
// a taken port is refused with nothing changed, and so that clients that come
// early wait in the handshake.
// Without an address it listens on all of the cluster's families.
func listen(addr netip.Addr, families []netip.Prefix, port int) (net.Listener, error) {
	host := ""
	if addr.IsValid() && !addr.IsUnspecified() {
		host = addr.String()
	}
	network := "tcp"
	if host == "" && !slices.ContainsFunc(families, func(p netip.Prefix) bool { return p.Addr().Is6() }) {
		network = "tcp4"
	}
	listener, err := net.Listen(network, net.JoinHostPort(host, strconv.Itoa(port)))
	if err == nil {
		return listener, nil
	}
	if errors.Is(err, syscall.EADDRINUSE) {
		holder := holderOf(port)
		return nil, config.Hinted(fmt.Errorf("listen on port %d: it is in use%s", port, holder),
			"end that program, or choose another port with --https-listen-port")
	}
	return nil, config.Hinted(fmt.Errorf("listen on port %d: %w", port, err), "check --bind-address")
}

// holderOf names the process that listens on a TCP port, "" if it cannot be
// found.
func holderOf(port int) string {
	inodes := map[string]bool{}
	for _, file := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		for _, inode := range listeningInodes(file, port) {
			inodes["socket:["+inode+"]"] = true
		}
	}
	if len(inodes) == 0 {
		return ""
	}
	links, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return ""
	}
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && inodes[target] {
			pid := strings.Split(link, "/")[2]
			name, err := os.ReadFile(filepath.Join("/proc", pid, "comm"))
			if err != nil {
				return " by process " + pid
			}
			return fmt.Sprintf(" by process %s (%s)", pid, strings.TrimSpace(string(name)))
		}
	}
	return ""
}

// listeningInodes reads the kernel's socket table (proc(5)).
func listeningInodes(file string, port int) []string {
	f, err := os.Open(file)
	if err != nil {
		return nil
	}
	defer f.Close()
	var inodes []string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		const state, inode = 3, 9
		if len(fields) > inode && fields[state] == "0A" && strings.HasSuffix(fields[1], fmt.Sprintf(":%04X", port)) {
			inodes = append(inodes, fields[inode])
		}
	}
	return inodes
}
