package kernel

import (
	"context"
	"os"

	"golang.org/x/sys/unix"
)

// Facts is what of the host decides how a node is configured. It is a value,
// so that configurations made of it are pure and can be tested for any host.
type Facts struct {
	Cgroups           Cgroups
	Resource          bool // CAP_SYS_RESOURCE: oom_score_adj may be lowered
	NFTables          bool
	IPTables          bool
	Overlay           error // why overlayfs cannot be used under the data dir, nil if it can
	ConntrackWritable bool  // net.netfilter.nf_conntrack_max belongs to this namespace
	AppArmor          bool
	SELinux           bool // enforcing
	IPv6              bool // not disabled in this namespace
	Systemd           bool
}

// Probe gathers the facts; dir is where containers will live and must exist.
// nftables is tried first and iptables only if it is missing: the probe of the
// latter leaves empty compatibility tables.
func Probe(ctx context.Context, tools Tools, dir string) Facts {
	facts := Facts{
		Cgroups:           DetectCgroups(),
		Resource:          HasCapability(unix.CAP_SYS_RESOURCE),
		Overlay:           TryOverlay(dir),
		ConntrackWritable: SysctlWritable("net/netfilter/nf_conntrack_max"),
		Systemd:           systemdManages(),
	}
	facts.NFTables = TryNFTables(ctx, tools) == nil
	if !facts.NFTables {
		facts.IPTables = TryIPTables(ctx, tools) == nil
	}
	if value, err := os.ReadFile("/sys/module/apparmor/parameters/enabled"); err == nil && len(value) > 0 {
		facts.AppArmor = value[0] == 'Y'
	}
	if value, err := os.ReadFile("/sys/fs/selinux/enforce"); err == nil && len(value) > 0 {
		facts.SELinux = value[0] == '1'
	}
	if value, err := ReadSysctl("net/ipv6/conf/all/disable_ipv6"); err == nil {
		facts.IPv6 = value == "0"
	}
	return facts
}
