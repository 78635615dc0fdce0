package kernel

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const cgroupMount = "/sys/fs/cgroup"

// Cgroups is the control group set-up of the host.
type Cgroups struct {
	Version     int      // 1, 2, or 0 when none is mounted
	Controllers []string // sorted; of the root group on version 2
	CFSQuota    bool     // CPU limits can be enforced
	Systemd     bool     // systemd is the manager of the tree, use its driver
}

// Has reports whether a controller is there.
func (c Cgroups) Has(controller string) bool { return slices.Contains(c.Controllers, controller) }

// Driver is the cgroup driver that kubelet and the runtime share. It follows
// from the host alone, not from how this process was started, so that a node
// keeps its driver when it is first run by hand and then as a service.
func (c Cgroups) Driver() string {
	if c.Systemd {
		return "systemd"
	}
	return "cgroupfs"
}

// DetectCgroups reads the set-up of the running host.
func DetectCgroups() Cgroups {
	var c Cgroups
	var fs unix.Statfs_t
	if err := unix.Statfs(cgroupMount, &fs); err != nil {
		return c
	}
	switch fs.Type {
	case unix.CGROUP2_SUPER_MAGIC:
		c.Version = 2
		raw, _ := os.ReadFile(filepath.Join(cgroupMount, "cgroup.controllers"))
		c.Controllers = strings.Fields(string(raw))
		c.CFSQuota = c.Has("cpu")
	default:
		raw, _ := os.ReadFile("/proc/self/mountinfo")
		c.Controllers = mountedControllers(string(raw))
		if len(c.Controllers) > 0 {
			c.Version = 1
		}
		_, err := os.Stat(filepath.Join(cgroupMount, "cpu", "cpu.cfs_quota_us"))
		c.CFSQuota = err == nil
	}
	slices.Sort(c.Controllers)
	c.Systemd = systemdManages() && c.Has("cpuset") && !InUserNamespace()
	return c
}

// mountedControllers reads the version 1 hierarchies out of mountinfo.
func mountedControllers(mountinfo string) []string {
	known := []string{"blkio", "cpu", "cpuacct", "cpuset", "devices", "freezer", "hugetlb", "memory", "net_cls", "net_prio", "perf_event", "pids", "rdma"}
	var out []string
	for line := range strings.Lines(mountinfo) {
		_, tail, ok := strings.Cut(line, " - ")
		fields := strings.Fields(tail)
		if !ok || len(fields) < 3 || fields[0] != "cgroup" {
			continue
		}
		for opt := range strings.SplitSeq(fields[2], ",") {
			if slices.Contains(known, opt) && !slices.Contains(out, opt) {
				out = append(out, opt)
			}
		}
	}
	return out
}

// systemdManages reports whether systemd runs the host and answers on its bus.
func systemdManages() bool {
	if info, err := os.Lstat("/run/systemd/system"); err != nil || !info.IsDir() {
		return false
	}
	for _, socket := range []string{"/run/systemd/private", "/run/dbus/system_bus_socket"} {
		if info, err := os.Stat(socket); err == nil && info.Mode()&os.ModeSocket != 0 {
			return true
		}
	}
	return false
}

// InUserNamespace reports whether root here is not root of the machine.
func InUserNamespace() bool {
	raw, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return false
	}
	return strings.Join(strings.Fields(string(raw)), " ") != "0 0 4294967295"
}

// PrepareCgroup makes the group name (such as "/kelson-ab12") under every
// controller, because kubelet refuses a cgroup root that does not exist. On
// version 1 cpuset starts empty and is filled from the parent. "" and "/" need
// nothing.
func PrepareCgroup(c Cgroups, name string) error {
	if name == "" || name == "/" {
		return nil
	}
	if c.Version == 2 {
		return prepareUnified(c, name)
	}
	dirs, err := hierarchies()
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(path, 0o755); err != nil {
			return err
		}
		if err := fillCpuset(dir, name); err != nil {
			return err
		}
	}
	return nil
}

// RemoveCgroup removes the group and the empty groups below it, the inverse of
// PrepareCgroup. Groups with processes in them stay.
func RemoveCgroup(c Cgroups, name string) error {
	if name == "" || name == "/" {
		return nil
	}
	dirs := []string{cgroupMount}
	if c.Version != 2 {
		var err error
		if dirs, err = hierarchies(); err != nil {
			return err
		}
	}
	for _, dir := range dirs {
		var groups []string
		_ = filepath.WalkDir(filepath.Join(dir, name), func(path string, entry os.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				groups = append(groups, path)
			}
			return nil
		})
		for _, group := range slices.Backward(groups) {
			_ = os.Remove(group) // busy groups stay by contract
		}
	}
	return nil
}

func hierarchies() ([]string, error) {
	entries, err := os.ReadDir(cgroupMount)
	if err != nil {
		return nil, err
	}
	var dirs []string
	for _, entry := range entries {
		path := filepath.Join(cgroupMount, entry.Name())
		var fs unix.Statfs_t
		if !entry.IsDir() || unix.Statfs(path, &fs) != nil {
			continue // symbolic links such as cpu,cpuacct lead to the same hierarchy
		}
		if fs.Type != unix.CGROUP_SUPER_MAGIC && fs.Type != unix.CGROUP2_SUPER_MAGIC {
			continue // version 2 may be mounted beside, as "unified": runc makes groups there too
		}
		dirs = append(dirs, path)
	}
	return dirs, nil
}

func fillCpuset(hierarchy, name string) error {
	parent := hierarchy
	for part := range strings.SplitSeq(strings.Trim(name, "/"), "/") {
		group := filepath.Join(parent, part)
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			have, err := os.ReadFile(filepath.Join(group, file))
			if err != nil || strings.TrimSpace(string(have)) != "" {
				continue // not the cpuset hierarchy, or filled already
			}
			want, err := os.ReadFile(filepath.Join(parent, file))
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(group, file), want, 0o644); err != nil {
				return err
			}
		}
		parent = group
	}
	return nil
}

func prepareUnified(c Cgroups, name string) error {
	parent := cgroupMount
	enable := "+" + strings.Join(delegated(c), " +")
	for part := range strings.SplitSeq(strings.Trim(name, "/"), "/") {
		if err := os.WriteFile(filepath.Join(parent, "cgroup.subtree_control"), []byte(enable), 0o644); err != nil {
			return err
		}
		parent = filepath.Join(parent, part)
		if err := os.MkdirAll(parent, 0o755); err != nil {
			return err
		}
	}
	return nil
}

func delegated(c Cgroups) []string {
	var out []string
	for _, controller := range []string{"cpuset", "cpu", "io", "memory", "hugetlb", "pids"} {
		if c.Has(controller) {
			out = append(out, controller)
		}
	}
	return out
}

// EvacuateRoot moves the processes of a container's root group into a child
// group when this process is pid 1 on version 2: a group that holds processes
// cannot hand controllers to children, so no pod could be limited. Elsewhere
// it does nothing.
func EvacuateRoot(c Cgroups) error {
	if c.Version != 2 || os.Getpid() != 1 {
		return nil
	}
	child := filepath.Join(cgroupMount, "init")
	if err := os.MkdirAll(child, 0o755); err != nil {
		return err
	}
	raw, err := os.ReadFile(filepath.Join(cgroupMount, "cgroup.procs"))
	if err != nil {
		return err
	}
	for pid := range strings.FieldsSeq(string(raw)) {
		// A process may end while we look; kernel threads refuse to move.
		_ = os.WriteFile(filepath.Join(child, "cgroup.procs"), []byte(pid), 0o644)
	}
	enable := "+" + strings.Join(delegated(c), " +")
	return os.WriteFile(filepath.Join(cgroupMount, "cgroup.subtree_control"), []byte(enable), 0o644)
}
