package agent

import (
	"fmt"
	"maps"
	"net"
	"strconv"
	"strings"
	"syscall"

	"github.com/kelson-io/kelson/core/process"
)

// exited is called after each end of a child, before it is started again.
func (n *NodeChild) exited(child *process.Child, err error) {
	reason := fmt.Sprint(err)
	if told := toldInLog(child.Output(64 << 10)); told != "" {
		reason = fmt.Sprintf("%s (%v)", told, err)
	}
	for port := range n.listens() {
		if portTaken(port) {
			reason = fmt.Sprintf("port %d is taken by another process (%v)", port, err)
			break
		}
	}
	n.note(reason)
	n.deps.Log.Warn("kubelet and kube-proxy ended, pods run on", "reason", reason, "log", n.deps.Layout.Agent("node.log"))
}

// note keeps why there is no child, for LastReason.
func (n *NodeChild) note(reason string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.reason = reason
}

// toldInLog finds what stock code logs before it ends its process.
func toldInLog(output string) string {
	for _, known := range []struct{ logged, reason string }{
		{"Node is being deleted", "the Node object was deleted; it is registered again"},
		{"NodeIPs changed", "the addresses in the Node object changed"},
		{"PodCIDRs changed", "the pod CIDR in the Node object changed"},
	} {
		if strings.Contains(output, known.logged) {
			return known.reason
		}
	}
	return ""
}

// listens are the ports of the child and what they are for.
func (n *NodeChild) listens() map[int]string {
	ports := map[int]string{n.deps.Node.KubeletPort: "kubelet", 10248: "kubelet's health check"}
	maps.Copy(ports, n.proxyListens())
	return ports
}

// proxyListens are those that kube-proxy goes on without.
func (n *NodeChild) proxyListens() map[int]string {
	ports := map[int]string{}
	if n.deps.Node.DisableKubeProxy {
		return ports
	}
	cfg, err := ProxyConfig(ProxySettings{Node: n.deps.Node})
	if err != nil {
		return ports // launch reports it
	}
	for address, use := range map[string]string{cfg.MetricsBindAddress: "kube-proxy's metrics", cfg.HealthzBindAddress: "kube-proxy's health check"} {
		_, text, _ := net.SplitHostPort(address)
		if port, err := strconv.Atoi(text); err == nil && port > 0 {
			ports[port] = use
		}
	}
	return ports
}

func (n *NodeChild) warnOfPorts() {
	for port, use := range n.proxyListens() {
		if portTaken(port) {
			n.deps.Log.Warn("port is taken by another process", "port", port, "not-served", use)
		}
	}
}

func portTaken(port int) bool {
	listener, err := net.Listen("tcp", net.JoinHostPort("", strconv.Itoa(port)))
	if err != nil {
		return strings.Contains(err.Error(), syscall.EADDRINUSE.Error())
	}
	_ = listener.Close()
	return false
}
