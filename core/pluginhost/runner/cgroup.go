package runner

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const cgroupMount = "/sys/fs/cgroup"

// group is a plugin's cgroup: one folder with version 2, one per controller with
// version 1, none where there are no cgroups or they are not ours to change.
type group struct {
	name    string
	dirs    []string
	unified bool
}

// newGroup makes the group name as far as it can. A plugin runs also without.
func newGroup(name string, limits Limits) group {
	if name == "" {
		return group{}
	}
	g := group{name: name}
	if isFS(cgroupMount, unix.CGROUP2_SUPER_MAGIC) {
		g.unified = true
		g.dirs = makeUnified(name)
	} else {
		for _, controller := range []string{"pids", "memory"} {
			dir := filepath.Join(cgroupMount, controller)
			path := filepath.Join(dir, name)
			if isFS(dir, unix.CGROUP_SUPER_MAGIC) && makeGroup(path) == nil {
				g.dirs = append(g.dirs, path)
			}
		}
	}
	if limits.PIDs > 0 {
		g.set("pids.max", limits.PIDs)
	}
	if limits.Memory > 0 {
		g.set("memory.max", limits.Memory)            // version 2
		g.set("memory.limit_in_bytes", limits.Memory) // version 1
	}
	return g
}

// makeGroup tries again when a neighbour's remove took the parents away in
// between.
func makeGroup(path string) (err error) {
	for range 3 {
		if err = os.MkdirAll(path, 0o755); err == nil {
			break
		}
	}
	return err
}

func makeUnified(name string) []string {
	dir := cgroupMount
	for part := range strings.SplitSeq(name, "/") {
		for _, controller := range []string{"+pids", "+memory"} {
			// Refused where the group holds processes; then there are no limits.
			_ = writeGroup(filepath.Join(dir, "cgroup.subtree_control"), controller)
		}
		dir = filepath.Join(dir, part)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return nil
		}
	}
	return []string{dir}
}

// inside calls start so that the process that it makes is in the group from its
// first instruction: what that starts at once must not escape.
func (g group) inside(attr *syscall.SysProcAttr, start func() error) error {
	if len(g.dirs) == 0 {
		return start()
	}
	if g.unified {
		dir, err := os.Open(g.dirs[0])
		if err != nil {
			return err
		}
		defer dir.Close()
		attr.UseCgroupFD, attr.CgroupFD = true, int(dir.Fd())
		return start()
	}
	// A child inherits the groups of the thread that forks, so that visits them.
	runtime.LockOSThread()
	home, err := threadGroups()
	if err != nil {
		runtime.UnlockOSThread()
		return start()
	}
	tid := strconv.Itoa(unix.Gettid())
	for _, dir := range g.dirs {
		_ = writeGroup(filepath.Join(dir, "tasks"), tid) // best effort; add tries again
	}
	err = start()
	back := true
	for _, dir := range g.dirs {
		controller, _, _ := strings.Cut(strings.TrimPrefix(dir, cgroupMount+"/"), "/")
		back = writeGroup(filepath.Join(cgroupMount, controller, home[controller], "tasks"), tid) == nil && back
	}
	if back {
		runtime.UnlockOSThread()
	} // else the thread is of no more use: it ends with its goroutine
	return err
}

// threadGroups are the present thread's groups by controller of version 1.
func threadGroups() (map[string]string, error) {
	raw, err := os.ReadFile("/proc/thread-self/cgroup")
	if err != nil {
		return nil, err
	}
	groups := map[string]string{}
	for line := range strings.Lines(string(raw)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) == 3 {
			for controller := range strings.SplitSeq(parts[1], ",") {
				groups[controller] = parts[2]
			}
		}
	}
	return groups, nil
}

// add moves a process into the group.
func (g group) add(pid int) {
	for _, dir := range g.dirs {
		_ = writeGroup(filepath.Join(dir, "cgroup.procs"), strconv.Itoa(pid)) // best effort
	}
}

// members are the processes in the group.
func (g group) members() []int {
	var pids []int
	for _, dir := range g.dirs {
		raw, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil {
			continue
		}
		for field := range strings.FieldsSeq(string(raw)) {
			if pid, err := strconv.Atoi(field); err == nil && pid > 1 && pid != os.Getpid() && !slices.Contains(pids, pid) {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// kill ends everything in the group. It returns at once.
func (g group) kill() {
	if len(g.dirs) == 0 {
		return
	}
	if g.unified && writeGroup(filepath.Join(g.dirs[0], "cgroup.kill"), "1") == nil {
		return
	}
	g.set("pids.max", 0) // nothing forks away
	for range 10 {
		pids := g.members()
		if len(pids) == 0 {
			return
		}
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL) // read a moment ago, from a group that is ours
		}
	}
}

// remove takes an empty group away, and the groups above it that thereby become
// empty; killed processes may need a moment to leave.
func (g group) remove() {
	deadline := time.Now().Add(2 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for _, dir := range g.dirs {
		for {
			err := unix.Rmdir(dir)
			if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
				break
			}
			<-tick.C
		}
		for range strings.Count(g.name, "/") {
			dir = filepath.Dir(dir)
			_ = unix.Rmdir(dir) // busy with other plugins
		}
	}
}

// oomKills counts what the kernel killed in the group for want of memory.
func (g group) oomKills() int {
	for _, dir := range g.dirs {
		for _, file := range []string{"memory.events", "memory.oom_control"} {
			raw, err := os.ReadFile(filepath.Join(dir, file))
			if err != nil {
				continue
			}
			for line := range bytes.Lines(raw) {
				if rest, ok := bytes.CutPrefix(line, []byte("oom_kill ")); ok {
					n, _ := strconv.Atoi(string(bytes.TrimSpace(rest)))
					return n
				}
			}
		}
	}
	return 0
}

// set writes a value in those folders that have the file.
func (g group) set(file string, n int64) {
	for _, dir := range g.dirs {
		_ = writeGroup(filepath.Join(dir, file), strconv.FormatInt(n, 10)) // best effort
	}
}

// writeGroup never creates: what is missing is not supported here.
func writeGroup(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

func isFS(path string, magic int64) bool {
	var fs unix.Statfs_t
	return unix.Statfs(path, &fs) == nil && fs.Type == magic
}
