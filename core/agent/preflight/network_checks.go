package preflight

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"

	"github.com/kelson-io/kelson/core/agent/kernel"
)

func packetFilter(ctx context.Context, opt Options) (Status, string, string) {
	nft := kernel.TryNFTables(ctx, tools(opt))
	if nft == nil {
		return OK, "nftables usable", ""
	}
	ipt := kernel.TryIPTables(ctx, tools(opt))
	if ipt == nil {
		return Warning, fmt.Sprintf("iptables usable, nftables not: %v", nft), "kube-proxy uses its iptables mode; load nf_tables for the faster one"
	}
	return Failed, fmt.Sprintf("neither nftables (%v) nor iptables (%v)", nft, ipt),
		"load the kernel modules nf_tables, nft_chain_nat, nft_masq, nft_fib (or ip_tables, iptable_nat)"
}

func bridgeNetfilter(ctx context.Context, opt Options) (Status, string, string) {
	value, err := kernel.ReadSysctl("net/bridge/bridge-nf-call-iptables")
	if err == nil {
		return OK, "bridge-nf-call-iptables is " + value, ""
	}
	if _, err := tools(opt).Run(ctx, "", "modprobe", "-n", "--", "br_netfilter"); err == nil {
		return OK, "module br_netfilter can be loaded", ""
	}
	return Warning, "module br_netfilter is missing", "a pod cannot reach itself or a neighbour through a service; install the kernel's extra modules"
}

func conntrack(ctx context.Context, opt Options) (Status, string, string) {
	value, err := kernel.ReadSysctl("net/netfilter/nf_conntrack_max")
	if err == nil {
		if !kernel.SysctlWritable("net/netfilter/nf_conntrack_max") {
			return Info, "nf_conntrack_max is " + value + ", set by the host", "it cannot be changed from this network namespace"
		}
		return OK, "nf_conntrack_max is " + value, ""
	}
	if _, err := tools(opt).Run(ctx, "", "modprobe", "-n", "--", "nf_conntrack"); err == nil {
		return OK, "module nf_conntrack can be loaded", ""
	}
	return Warning, "module nf_conntrack is missing", "services do not work without it; install the kernel's extra modules"
}

func ports(_ context.Context, opt Options) (Status, string, string) {
	if len(opt.Ports) == 0 {
		return "", "", ""
	}
	var taken, free []string
	for _, port := range opt.Ports {
		listener, err := net.Listen("tcp", net.JoinHostPort("", strconv.Itoa(port.Number)))
		switch {
		case err == nil:
			_ = listener.Close()
			free = append(free, strconv.Itoa(port.Number))
		case errors.Is(err, syscall.EADDRINUSE):
			taken = append(taken, fmt.Sprintf("%d (%s)%s", port.Number, port.Use, holder(port.Number)))
		default:
			taken = append(taken, fmt.Sprintf("%d (%s): %v", port.Number, port.Use, err))
		}
	}
	if len(taken) > 0 {
		return Failed, "in use: " + strings.Join(taken, ", "), "stop what listens there (ss -ltnp), or choose other ports; another Kelson, K3s or Kubernetes may be running"
	}
	return OK, "free: " + strings.Join(free, " "), ""
}

// holder names the process that listens on a port, as far as /proc tells.
func holder(port int) string {
	inodes := map[string]bool{}
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		raw, _ := os.ReadFile(table)
		for line := range strings.Lines(string(raw)) {
			f := strings.Fields(line)
			if len(f) > 9 && f[3] == "0A" && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) {
				inodes["socket:["+f[9]+"]"] = true
			}
		}
	}
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, link := range links {
		target, err := os.Readlink(link)
		if err != nil || !inodes[target] {
			continue
		}
		pid := strings.Split(link, "/")[2]
		comm, _ := os.ReadFile("/proc/" + pid + "/comm")
		return fmt.Sprintf(" by %s, pid %s", strings.TrimSpace(string(comm)), pid)
	}
	return ""
}

func defaultRoute(_ context.Context, opt Options) (Status, string, string) {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := netlink.RouteList(nil, family)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			continue
		}
		for _, route := range routes {
			if route.Dst != nil {
				if ones, _ := route.Dst.Mask.Size(); ones != 0 || !route.Dst.IP.IsUnspecified() {
					continue
				}
			}
			if link, err := netlink.LinkByIndex(route.LinkIndex); err == nil {
				return OK, "through " + link.Attrs().Name, ""
			}
		}
	}
	if opt.NodeIP {
		return OK, "none, the address is given", ""
	}
	return Warning, "no default route", "name the node's address with --node-ip unless the host has only one; some CNIs need the route"
}

func ipv6(_ context.Context, opt Options) (Status, string, string) {
	if !opt.IPv6 {
		return "", "", ""
	}
	if value, err := kernel.ReadSysctl("net/ipv6/conf/all/disable_ipv6"); err != nil || value != "0" {
		return Failed, "IPv6 is off", "the cluster has IPv6 ranges: sysctl net.ipv6.conf.all.disable_ipv6=0"
	}
	return OK, "IPv6 is on", ""
}

func firewall(ctx context.Context, opt Options) (Status, string, string) {
	t := tools(opt)
	if t.Find("systemctl") != "" {
		for _, unit := range []string{"firewalld", "ufw"} {
			if _, err := t.Run(ctx, "", "systemctl", "is-active", "--quiet", unit); err == nil {
				return Warning, unit + " is active", "let the cluster's pod and service ranges and ports 6443, 9345 and 10250 through, or switch it off"
			}
		}
	}
	return OK, "neither firewalld nor ufw is active", ""
}

func cloudNetwork(ctx context.Context, opt Options) (Status, string, string) {
	t := tools(opt)
	if t.Find("systemctl") == "" {
		return OK, "no nm-cloud-setup", ""
	}
	for _, unit := range []string{"nm-cloud-setup.service", "nm-cloud-setup.timer"} {
		if _, err := t.Run(ctx, "", "systemctl", "is-enabled", "--quiet", unit); err == nil {
			return Failed, unit + " is enabled: it breaks the network of pods", "systemctl disable nm-cloud-setup.service nm-cloud-setup.timer, then reboot"
		}
	}
	return OK, "no nm-cloud-setup", ""
}
