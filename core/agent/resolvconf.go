package agent

import (
	"net/netip"
	"os"
	"strings"
)

// ResolvConf is the choice of the resolver file that pods with the node's DNS
// (cluster DNS itself among them) get.
type ResolvConf struct {
	Path    string // file to use
	Content string // to be written to Path first; "" when Path is the host's own
	Warning string
}

// ChooseResolvConf takes explicit if given, else the first of the host's files
// whose nameservers all can be reached from a pod, which 127.0.0.53 and other
// loopback resolvers cannot (cluster DNS would ask itself). If none is usable
// it returns content for generated with public resolvers.
func ChooseResolvConf(explicit, generated string, files ...string) ResolvConf {
	if explicit != "" {
		return ResolvConf{Path: explicit}
	}
	if len(files) == 0 {
		files = []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"}
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err == nil && usableResolvers(string(raw)) {
			return ResolvConf{Path: file}
		}
	}
	return ResolvConf{
		Path:    generated,
		Content: "# The host has no resolver that a pod can reach; name one with --resolv-conf.\nnameserver 8.8.8.8\nnameserver 2001:4860:4860::8888\n",
		Warning: "no resolver of the host can be reached from pods (only loopback addresses in " + strings.Join(files, ", ") + "); pods ask public resolvers; choose others with --resolv-conf",
	}
}

// usableResolvers reports whether there is a nameserver and every one is
// reachable from another network namespace.
func usableResolvers(content string) bool {
	count := 0
	for line := range strings.Lines(content) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		ip, err := netip.ParseAddr(fields[1])
		if err != nil || !ip.Unmap().IsGlobalUnicast() {
			return false
		}
		count++
	}
	return count > 0
}
