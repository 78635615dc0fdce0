package process

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// cgroupJoin puts a new process into a cgroup; the zero value does nothing.
type cgroupJoin struct {
	procs string   // version 1: to be written to once the process runs
	dir   *os.File // version 2: the kernel creates the process inside
}

func cgroupFor(path string, attr *syscall.SysProcAttr) (cgroupJoin, error) {
	if path == "" {
		return cgroupJoin{}, nil
	}
	if err := os.MkdirAll(path, 0o755); err != nil {
		return cgroupJoin{}, fmt.Errorf("make cgroup: %w", err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return cgroupJoin{}, fmt.Errorf("look at cgroup %s: %w", path, err)
	}
	switch fs.Type {
	case unix.CGROUP2_SUPER_MAGIC:
		dir, err := os.Open(path)
		if err != nil {
			return cgroupJoin{}, fmt.Errorf("open cgroup: %w", err)
		}
		attr.UseCgroupFD, attr.CgroupFD = true, int(dir.Fd())
		return cgroupJoin{dir: dir}, nil
	case unix.CGROUP_SUPER_MAGIC:
		return cgroupJoin{procs: filepath.Join(path, "cgroup.procs")}, nil
	default:
		return cgroupJoin{}, fmt.Errorf("join cgroup %s: not on a cgroup file system", path)
	}
}

func (j cgroupJoin) add(pid int) error {
	if j.procs == "" {
		return nil
	}
	if err := os.WriteFile(j.procs, []byte(strconv.Itoa(pid)), 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("join cgroup: %w", err)
	}
	return nil
}

func (j cgroupJoin) close() {
	if j.dir != nil {
		_ = j.dir.Close()
	}
}
