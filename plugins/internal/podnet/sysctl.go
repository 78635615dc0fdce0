package podnet

import (
	"os"
	"path/filepath"
	"strings"
)

func family(six bool) string {
	if six {
		return "IPv6"
	}
	return "IPv4"
}

func forwardingKey(six bool) string {
	if six {
		return "net.ipv6.conf.all.forwarding"
	}
	return "net.ipv4.ip_forward"
}

// forwarding tells whether the kernel routes packets of the family. Where that
// cannot be read it is not doubted.
func forwarding(six bool) bool {
	raw, err := os.ReadFile(filepath.Join("/proc/sys", strings.ReplaceAll(forwardingKey(six), ".", "/")))
	return err != nil || strings.TrimSpace(string(raw)) != "0"
}
