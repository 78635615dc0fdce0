package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/kelson-io/kelson/core/agent/kernel"
	"github.com/kelson-io/kelson/core/boot"
	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/datadir"
)

// HostDeps is what NewHost needs.
type HostDeps struct {
	Layout datadir.Layout
	Node   config.Node
	IPv6   bool // the cluster has IPv6 ranges
	Search string
	Log    hclog.Logger
}

// Host prepares the kernel of the host, or of this container and network
// namespace, and finds out what it offers.
type Host struct {
	deps  HostDeps
	mu    sync.Mutex
	facts kernel.Facts
}

var _ boot.Step = (*Host)(nil)

// NewHost returns the step. It does no I/O.
func NewHost(deps HostDeps) *Host { return &Host{deps: deps} }

// Name implements boot.Step.
func (h *Host) Name() string { return "host" }

// Facts is what the host offers to this node, the zero value before Start.
func (h *Host) Facts() kernel.Facts {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.facts
}

// Start loads modules, sets sysctls and probes. Only what makes a node
// impossible is an error; the rest is a warning.
func (h *Host) Start(ctx context.Context) error {
	tools := kernel.Tools{Path: h.deps.Search}
	if err := refuseCloudSetup(ctx, tools); err != nil {
		return err
	}
	cgroups := kernel.DetectCgroups()
	if err := CheckCgroups(cgroups); err != nil {
		return err
	}
	if err := kernel.EvacuateRoot(cgroups); err != nil {
		return fmt.Errorf("make the root cgroup ours: %w", err)
	}
	h.loadModules(ctx, tools)
	if err := h.setSysctls(); err != nil {
		return err
	}
	dir := h.deps.Layout.Agent("containerd")
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return fmt.Errorf("prepare host: %w", err)
	}
	facts := nodeFacts(kernel.Probe(ctx, tools, dir), h.deps.Layout)
	if !facts.NFTables && !facts.IPTables {
		return config.Hinted(errors.New("neither nftables nor iptables can be used: services and pods could not be reached"),
			"load the kernel modules nf_tables and nft_chain_nat (or ip_tables and iptable_nat); `kelson check` says more")
	}
	h.mu.Lock()
	h.facts = facts
	h.mu.Unlock()
	return nil
}

// nodeFacts is what of the host counts for this node. A node with a cgroup root
// of its own takes the cgroupfs driver: kubelet turns the root's name into a
// slice's under the systemd driver, and refuses a slice that systemd did not
// make. containerd and kubelet both follow from here.
func nodeFacts(facts kernel.Facts, l datadir.Layout) kernel.Facts {
	if CgroupRoot(l) != "" {
		facts.Cgroups.Systemd = false
	}
	return facts
}

// Ready implements boot.Step; Start leaves nothing to wait for.
func (h *Host) Ready(context.Context) error { return nil }

// Stop implements boot.Step. Settings of the kernel stay: pods need them.
func (h *Host) Stop(context.Context) error { return nil }

// CheckCgroups returns why pods could not be limited, with a remedy.
func CheckCgroups(c kernel.Cgroups) error {
	if c.Version == 0 {
		return config.Hinted(errors.New("no control groups are mounted on /sys/fs/cgroup"),
			"mount -t cgroup2 none /sys/fs/cgroup, or let the init system do so")
	}
	var missing []string
	for _, controller := range []string{"cpu", "cpuset", "memory"} {
		if !c.Has(controller) {
			missing = append(missing, controller)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return config.Hinted(fmt.Errorf("cgroup version %d lacks controllers: %s", c.Version, strings.Join(missing, ", ")),
		"add cgroup_enable=memory cgroup_memory=1 to the kernel's command line and boot again (Raspberry Pi: /boot/firmware/cmdline.txt); in a container, give it its own cgroup namespace")
}

// refuseCloudSetup refuses hosts whose NetworkManager writes routing rules that
// send pod traffic elsewhere.
func refuseCloudSetup(ctx context.Context, tools kernel.Tools) error {
	if tools.Find("systemctl") == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	for _, unit := range []string{"nm-cloud-setup.service", "nm-cloud-setup.timer"} {
		if _, err := tools.Run(ctx, "", "systemctl", "is-enabled", "--quiet", unit); err == nil {
			return config.Hinted(fmt.Errorf("%s is enabled: it breaks the network of pods", unit),
				"systemctl disable nm-cloud-setup.service nm-cloud-setup.timer, then reboot")
		}
	}
	return nil
}

// module is a kernel module and a path that exists when its function is there,
// built in or loaded.
type module struct{ name, evidence, need string }

func modules() []module {
	return []module{
		{"overlay", "", "the overlayfs snapshotter"},
		{"br_netfilter", "/proc/sys/net/bridge/bridge-nf-call-iptables", "services between pods of one node"},
		{"nf_conntrack", "/proc/sys/net/netfilter/nf_conntrack_max", "services"},
		{"nf_tables", "", "kube-proxy's nftables mode"},
	}
}

func (h *Host) loadModules(ctx context.Context, tools kernel.Tools) {
	filesystems, _ := os.ReadFile("/proc/filesystems")
	for _, m := range modules() {
		if moduleThere(m, string(filesystems)) {
			continue
		}
		_, err := tools.Run(ctx, "", "modprobe", "--", m.name)
		if err != nil && m.evidence != "" && !exists(m.evidence) {
			h.deps.Log.Warn("kernel module cannot be loaded", "module", m.name, "needed-for", m.need, "err", err)
		}
	}
}

func moduleThere(m module, filesystems string) bool {
	if exists(filepath.Join("/sys/module", m.name)) || m.evidence != "" && exists(m.evidence) {
		return true
	}
	return strings.Contains(filesystems, "\t"+m.name+"\n")
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// sysctl is one setting. With atLeast the value is raised, never lowered.
type sysctl struct {
	key, value string
	atLeast    bool
	required   bool
	defaults   bool // one of those that --protect-kernel-defaults leaves alone
}

func sysctls(ipv6 bool) []sysctl {
	list := []sysctl{
		{key: "net/ipv4/ip_forward", value: "1", required: true},
		{key: "net/bridge/bridge-nf-call-iptables", value: "1"},
		{key: "fs/inotify/max_user_instances", value: "8192", atLeast: true},
		{key: "fs/inotify/max_user_watches", value: "524288", atLeast: true},
		{key: "vm/overcommit_memory", value: "1", defaults: true},
		{key: "vm/panic_on_oom", value: "0", defaults: true},
		{key: "kernel/panic", value: "10", defaults: true},
		{key: "kernel/panic_on_oops", value: "1", defaults: true},
		{key: "kernel/keys/root_maxkeys", value: "1000000", atLeast: true, defaults: true},
		{key: "kernel/keys/root_maxbytes", value: "25000000", atLeast: true, defaults: true},
	}
	if ipv6 {
		list = append(list,
			sysctl{key: "net/ipv6/conf/all/forwarding", value: "1", required: true},
			sysctl{key: "net/ipv6/conf/default/forwarding", value: "1"},
			sysctl{key: "net/bridge/bridge-nf-call-ip6tables", value: "1"})
	}
	return list
}

func (h *Host) setSysctls() error {
	if h.deps.IPv6 {
		h.keepRouterAdvertisements()
	}
	for _, s := range sysctls(h.deps.IPv6) {
		if s.defaults && h.deps.Node.ProtectKernel {
			continue // kubelet checks them and refuses to start if they differ
		}
		if s.atLeast && atLeast(s.key, s.value) {
			continue
		}
		err := kernel.WriteSysctl(s.key, s.value)
		switch {
		case err == nil:
		case s.required:
			return config.Hinted(fmt.Errorf("set %s=%s: %w", strings.ReplaceAll(s.key, "/", "."), s.value, err),
				"pods cannot be reached without forwarding; in a container, run it privileged")
		default:
			h.deps.Log.Warn("sysctl not set", "key", strings.ReplaceAll(s.key, "/", "."), "value", s.value, "err", err)
		}
	}
	return nil
}

func atLeast(key, value string) bool {
	have, err := kernel.ReadSysctl(key)
	if err != nil {
		return false
	}
	x, err := strconv.Atoi(have)
	y, _ := strconv.Atoi(value)
	return err == nil && x >= y
}

// keepRouterAdvertisements lets interfaces that learn their default route from
// advertisements go on doing so: the kernel stops that when it forwards.
func (h *Host) keepRouterAdvertisements() {
	paths, _ := filepath.Glob("/proc/sys/net/ipv6/conf/*/accept_ra")
	for _, path := range paths {
		key := strings.TrimPrefix(path, "/proc/sys/")
		if name := filepath.Base(filepath.Dir(path)); name == "all" || name == "lo" || strings.HasPrefix(name, "veth") {
			continue
		}
		if have, err := kernel.ReadSysctl(key); err == nil && have == "1" {
			if err := kernel.WriteSysctl(key, "2"); err != nil {
				h.deps.Log.Warn("router advertisements will be ignored", "key", key, "err", err)
			}
		}
	}
}
