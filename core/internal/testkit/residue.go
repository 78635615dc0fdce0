package testkit

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// residue is what one server may leave on the host, and how to remove it.
type residue struct {
	marks   []string        // strings that only this server's processes mention
	folders []string        // data dir, run dir: nothing stays mounted below
	cgroups map[string]bool // cgroup folders seen in use
	netns   map[uint64]bool // inodes of network namespaces seen in use
	keep    uint64          // inode of the node's own namespace
}

func newResidue(marks, folders []string, nodeNS string) *residue {
	r := &residue{marks: marks, folders: folders, cgroups: map[string]bool{}, netns: map[uint64]bool{}}
	r.keep, _ = inode(nodeNS)
	return r
}

// CleanUp ends, at the end of t, every process that mentions one of the
// folders, unmounts and removes the folders, and removes cgroups that the
// processes used or that are named after a folder. It fails t if something
// stays.
func CleanUp(t testing.TB, n *Network, folders ...string) {
	t.Helper()
	r := newResidue(folders, folders, n.path(n.node))
	t.Cleanup(func() {
		if err := r.purge(); err != nil {
			t.Error(err)
		}
		left, err := r.remains()
		if err != nil || len(left) > 0 {
			t.Errorf("left behind: %q %v", left, err)
		}
		for _, f := range folders {
			if err := os.RemoveAll(f); err != nil {
				t.Errorf("remove %s: %v", f, err)
			}
		}
	})
}

// observe notes the cgroups and namespaces of the processes that run now, so
// that they are found again once the processes are gone.
func (r *residue) observe() {
	all, err := family(r.marks)
	if err != nil {
		return
	}
	own := cgroupsOf(os.Getpid())
	for _, p := range all {
		for _, dir := range cgroupsOf(p.PID) {
			if !slices.Contains(own, dir) {
				r.cgroups[dir] = true
			}
		}
		if ino, err := inode(fmt.Sprintf("/proc/%d/ns/net", p.PID)); err == nil && ino != r.keep {
			r.netns[ino] = true
		}
	}
	if self, err := inode("/proc/self/ns/net"); err == nil {
		delete(r.netns, self)
	}
}

// purge ends and removes everything, in the order that lets it go.
func (r *residue) purge() error {
	r.observe()
	err := Poll(context.Background(), 30*time.Second, "end the server's processes", func(context.Context) error {
		all, err := family(r.marks)
		if err != nil || len(all) == 0 {
			return err
		}
		for _, p := range all {
			_ = unix.Kill(p.PID, unix.SIGKILL)
		}
		return fmt.Errorf("still running: %v", all)
	})
	if err != nil {
		return err
	}
	mounts, err := r.mounts()
	if err != nil {
		return err
	}
	for _, m := range slices.Backward(mounts) {
		if err := unix.Unmount(m, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", m, err)
		}
		if filepath.Dir(m) == netnsDir {
			_ = os.Remove(m)
		}
	}
	r.removeCgroups()
	return nil
}

// remains lists what purge could not remove.
func (r *residue) remains() ([]string, error) {
	var left []string
	procs, err := family(r.marks)
	if err != nil {
		return nil, err
	}
	for _, p := range procs {
		left = append(left, "process "+p.String())
	}
	mounts, err := r.mounts()
	if err != nil {
		return nil, err
	}
	for _, m := range mounts {
		left = append(left, "mount "+m)
	}
	for dir := range r.allCgroups() {
		if _, err := os.Stat(dir); err == nil {
			left = append(left, "cgroup "+dir)
		}
	}
	return left, nil
}

// mounts lists mount points below the folders, and pods' network namespaces.
func (r *residue) mounts() ([]string, error) {
	points, err := mountPoints()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(points, func(p string) bool {
		if filepath.Dir(p) == netnsDir {
			ino, err := inode(p)
			return err != nil || !r.netns[ino]
		}
		return !slices.ContainsFunc(r.folders, func(f string) bool { return p == f || strings.HasPrefix(p, f+"/") })
	}), nil
}

// removeCgroups removes the observed cgroups and whatever is empty below the
// top folder of each. A cgroup is only ever removed when no process is in it.
func (r *residue) removeCgroups() {
	tops := map[string]bool{}
	for dir := range r.allCgroups() {
		tops[topCgroup(dir)] = true
	}
	for top := range tops {
		var dirs []string
		_ = filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, p)
			}
			return nil
		})
		for _, dir := range slices.Backward(dirs) {
			_ = unix.Rmdir(dir)
		}
	}
}

// allCgroups adds to the observed cgroups those that carry the run dir's name.
func (r *residue) allCgroups() map[string]bool {
	all := maps.Clone(r.cgroups)
	mounts, _ := cgroupMounts()
	for _, m := range mounts {
		for _, folder := range r.folders {
			if len(filepath.Base(folder)) < 6 {
				continue // no name of its own
			}
			named, _ := filepath.Glob(filepath.Join(m.path, "*"+filepath.Base(folder)+"*"))
			for _, dir := range named {
				all[dir] = true
			}
		}
	}
	return all
}

// topCgroup is the first folder of a cgroup path below its hierarchy's mount.
func topCgroup(dir string) string {
	points, _ := cgroupMounts()
	for _, point := range points {
		if rest, ok := strings.CutPrefix(dir, point.path+"/"); ok {
			first, _, _ := strings.Cut(rest, "/")
			return filepath.Join(point.path, first)
		}
	}
	return dir
}

// cgroupsOf lists the folders of the cgroups that a process is in; roots are
// left out.
func cgroupsOf(pid int) []string {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return nil
	}
	points, err := cgroupMounts()
	if err != nil {
		return nil
	}
	var dirs []string
	for line := range strings.Lines(string(raw)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 || parts[2] == "/" {
			continue
		}
		for _, p := range points {
			if p.holds(parts[1]) {
				dirs = append(dirs, filepath.Join(p.path, parts[2]))
			}
		}
	}
	return dirs
}

// cgroupMount is one mounted hierarchy.
type cgroupMount struct {
	path    string
	options []string // of the super block: its controllers
	unified bool
}

// holds tells whether the hierarchy is the one that a line of /proc/pid/cgroup
// calls by its controllers; the unified one has none.
func (m cgroupMount) holds(controllers string) bool {
	if controllers == "" {
		return m.unified
	}
	first, _, _ := strings.Cut(controllers, ",")
	return !m.unified && slices.Contains(m.options, first)
}

func cgroupMounts() ([]cgroupMount, error) {
	raw, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	var all []cgroupMount
	for line := range strings.Lines(string(raw)) {
		f := strings.Fields(line)
		if len(f) > 3 && (f[2] == "cgroup" || f[2] == "cgroup2") {
			all = append(all, cgroupMount{path: f[1], options: strings.Split(f[3], ","), unified: f[2] == "cgroup2"})
		}
	}
	return all, nil
}

// mountPoints lists this mount namespace's mount points in mount order.
func mountPoints() ([]string, error) {
	raw, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	var points []string
	for line := range strings.Lines(string(raw)) {
		if f := strings.Fields(line); len(f) > 4 {
			points = append(points, unescape.Replace(f[4]))
		}
	}
	return points, nil
}

func inode(path string) (uint64, error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, fmt.Errorf("stat %s: no inode", path)
	}
	return stat.Ino, nil
}
