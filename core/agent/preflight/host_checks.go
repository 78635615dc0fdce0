package preflight

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kelson-io/kelson/core/agent/kernel"
)

const gib = 1 << 30

func root(context.Context, Options) (Status, string, string) {
	if uid := os.Geteuid(); uid != 0 {
		return Failed, fmt.Sprintf("running as user %d", uid), "run it as root, for example with sudo"
	}
	if kernel.InUserNamespace() {
		return Warning, "root of a user namespace, not of the machine", "rootless nodes are not supported; some features will be missing"
	}
	return OK, "running as root", ""
}

func kernelVersion(context.Context, Options) (Status, string, string) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return Warning, err.Error(), ""
	}
	release := unix.ByteSliceToString(name.Release[:])
	major, minor := parseRelease(release)
	if major < 4 || major == 4 && minor < 19 {
		return Failed, "Linux " + release, "Kubernetes needs Linux 4.19 or newer; upgrade the kernel"
	}
	if major < 5 || major == 5 && minor < 13 {
		return Warning, "Linux " + release, "kube-proxy's nftables mode needs Linux 5.13; iptables is used"
	}
	return OK, "Linux " + release, ""
}

// parseRelease reads "6.18.44-suffix"; what cannot be read is zero.
func parseRelease(release string) (major, minor int) {
	parts := strings.SplitN(release, ".", 3)
	if len(parts) < 2 {
		return 0, 0
	}
	major, _ = strconv.Atoi(parts[0])
	minor, _ = strconv.Atoi(strings.TrimRight(strings.SplitN(parts[1], "-", 2)[0], "+"))
	return major, minor
}

func cgroups(context.Context, Options) (Status, string, string) {
	c := kernel.DetectCgroups()
	if c.Version == 0 {
		return Failed, "no control groups on /sys/fs/cgroup", "mount -t cgroup2 none /sys/fs/cgroup"
	}
	for _, controller := range []string{"memory", "cpu", "cpuset"} {
		if !c.Has(controller) {
			return Failed, fmt.Sprintf("version %d without the %s controller", c.Version, controller),
				"add cgroup_enable=memory cgroup_memory=1 to the kernel's command line and boot again"
		}
	}
	detail := fmt.Sprintf("version %d, %s driver, controllers %s", c.Version, c.Driver(), strings.Join(c.Controllers, " "))
	switch {
	case !c.Has("pids"):
		return Warning, detail, "the pids controller is missing: pods can exhaust process numbers"
	case c.Version == 1:
		return Warning, detail, "version 1 works but Kubernetes will stop supporting it: boot with systemd.unified_cgroup_hierarchy=1"
	case !c.CFSQuota:
		return Warning, detail, "CPU limits cannot be enforced: the kernel lacks CONFIG_CFS_BANDWIDTH"
	}
	return OK, detail, ""
}

func capabilities(context.Context, Options) (Status, string, string) {
	var missing []string
	for _, c := range []struct {
		name  string
		value int
	}{{"CAP_SYS_ADMIN", unix.CAP_SYS_ADMIN}, {"CAP_NET_ADMIN", unix.CAP_NET_ADMIN}, {"CAP_MKNOD", unix.CAP_MKNOD}} {
		if !kernel.HasCapability(c.value) {
			missing = append(missing, c.name)
		}
	}
	if len(missing) > 0 {
		return Failed, "missing " + strings.Join(missing, ", "), "run it as root of the host, or in a privileged container"
	}
	if !kernel.HasCapability(unix.CAP_SYS_RESOURCE) {
		return Warning, "missing CAP_SYS_RESOURCE", "out-of-memory scores of pods cannot be lowered; works otherwise"
	}
	return OK, "all that a node needs", ""
}

// existing returns the closest folder that exists: checks make nothing.
func existing(dir string) string {
	for {
		if info, err := os.Stat(dir); err == nil && info.IsDir() {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return dir
		}
		dir = parent
	}
}

func overlay(_ context.Context, opt Options) (Status, string, string) {
	dir := existing(opt.DataDir)
	if err := kernel.TryOverlay(dir); err != nil {
		return Warning, err.Error(), "the native snapshotter is used, which copies every layer; load the module overlay, or keep the data dir on ext4 or xfs (ftype=1)"
	}
	return OK, "overlay mounted and written on " + dir, ""
}

func dataDir(_ context.Context, opt Options) (Status, string, string) {
	dir := existing(opt.DataDir)
	probe, err := os.MkdirTemp(dir, ".kelson-probe-")
	if err != nil {
		hint := "choose another with --data-dir"
		if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) {
			hint = "make it writable for root, or choose another with --data-dir"
		}
		return Failed, fmt.Sprintf("cannot write to %s: %v", dir, err), hint
	}
	if err := os.Remove(probe); err != nil {
		return Failed, err.Error(), ""
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return Warning, err.Error(), ""
	}
	free, total := st.Bavail*uint64(st.Bsize), st.Blocks*uint64(st.Bsize)
	detail := fmt.Sprintf("%s: %.1f of %.1f GiB free, %d inodes free", dir, float64(free)/gib, float64(total)/gib, st.Ffree)
	switch {
	case free < gib:
		return Failed, detail, "free at least 1 GiB, or choose another place with --data-dir"
	case free*20 < total:
		return Warning, detail, "less than 5 % free: kubelet evicts pods; free some space"
	case st.Files > 0 && st.Ffree < 50_000:
		return Warning, detail, "few inodes left: images have many small files"
	case free < 5*gib:
		return Warning, detail, "less than 5 GiB free: images and logs need more soon"
	}
	return OK, detail, ""
}

// built is a time before which no clock can be right.
func built() time.Time { return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC) }

func clock(context.Context, Options) (Status, string, string) {
	now := time.Now().UTC()
	detail := now.Format(time.RFC3339)
	if now.Before(built()) || now.After(built().AddDate(25, 0, 0)) {
		return Failed, detail + " cannot be right", "set the clock (chronyc makestep, timedatectl set-time): certificates would not be valid"
	}
	var timex unix.Timex
	state, err := unix.Adjtimex(&timex)
	if err == nil && (state == unix.TIME_ERROR || timex.Status&unix.STA_UNSYNC != 0) {
		return Info, detail + ", not synchronised", "run an NTP client if there are other nodes"
	}
	return OK, detail + ", synchronised", ""
}

func swap(context.Context, Options) (Status, string, string) {
	raw, err := os.ReadFile("/proc/swaps")
	if err != nil || strings.Count(strings.TrimSpace(string(raw)), "\n") == 0 {
		return OK, "no swap", ""
	}
	return Info, "swap is on", "pods do not use it; the host may swap them out"
}

func securityModules(context.Context, Options) (Status, string, string) {
	facts := []string{}
	if raw, err := os.ReadFile("/sys/kernel/security/lsm"); err == nil {
		facts = append(facts, "loaded: "+string(raw))
	}
	if raw, err := os.ReadFile("/sys/module/apparmor/parameters/enabled"); err == nil && strings.HasPrefix(string(raw), "Y") {
		facts = append(facts, "AppArmor on")
	}
	if raw, err := os.ReadFile("/sys/fs/selinux/enforce"); err == nil && strings.HasPrefix(string(raw), "1") {
		return Warning, "SELinux enforcing", "there is no SELinux policy for Kelson yet: containers may be denied access to volumes"
	}
	if len(facts) == 0 {
		return Info, "neither AppArmor nor SELinux", ""
	}
	return OK, strings.Join(facts, ", "), ""
}

func inotify(context.Context, Options) (Status, string, string) {
	instances, err := kernel.ReadSysctl("fs/inotify/max_user_instances")
	if err != nil {
		return Warning, err.Error(), ""
	}
	n, _ := strconv.Atoi(instances)
	if n < 8192 && !kernel.SysctlWritable("fs/inotify/max_user_instances") {
		return Warning, "max_user_instances is " + instances + " and cannot be raised here", "set fs.inotify.max_user_instances=8192 on the host"
	}
	return OK, "max_user_instances is " + instances, ""
}
