package runner

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/kelson-io/kelson/core/pluginhost/program"
)

// What a plugin and its host agree on, as in go-plugin's handshake.
const (
	CookieKey    = "KELSON_PLUGIN"
	CookieValue  = "kelson.plugin.v1"
	coreProtocol = 1
	appProtocol  = 1
)

// Environment variables by which the host tells a plugin about itself.
const (
	envLifetime  = "KELSON_PLUGIN_LIFETIME"
	envLog       = "KELSON_PLUGIN_LOG"
	envSocketDir = "PLUGIN_UNIX_SOCKET_DIR"
	envProtocols = "PLUGIN_PROTOCOL_VERSIONS"
)

// Spec is how a program is run.
type Spec struct {
	Program  program.Program
	Dir      string   // the plugin's run dir; made if missing; sockets and the like
	Record   string   // file that remembers the process across hosts; not below Dir
	StateDir string   // working folder; made if missing
	LogFile  string   // what a plugin of node lifetime prints; rotated at its start
	Path     string   // PATH of the plugin
	Cgroup   string   // name below each hierarchy, such as "kelson-plugins/cni-flannel"; "" for none
	Limits   Limits   // zero fields: no limit
	Secrets  []string // blotted out of what is logged and kept of the output
	Log      hclog.Logger
	Timeout  time.Duration // until the handshake; 10 s if zero
}

// Limits bounds what a plugin may use.
type Limits struct {
	Memory int64  // bytes, by cgroup
	PIDs   int64  // processes and threads, by cgroup
	NoFile uint64 // open files
}

func (s Spec) node() bool { return s.Program.Lifetime == program.Node }

func (s Spec) timeout() time.Duration {
	if s.Timeout == 0 {
		return 10 * time.Second
	}
	return s.Timeout
}

// environ is everything that a plugin finds in its environment. The host's own
// is not passed on: it holds tokens and proxies.
func (s Spec) environ(socketDir string) []string {
	env := []string{
		"PATH=" + s.Path,
		"LANG=C.UTF-8",
		CookieKey + "=" + CookieValue,
		envProtocols + "=" + strconv.Itoa(appProtocol),
		envSocketDir + "=" + socketDir,
		envLifetime + "=" + string(s.Program.Lifetime),
	}
	if s.node() {
		env = append(env, envLog+"="+s.LogFile)
	}
	if tz, ok := os.LookupEnv("TZ"); ok {
		env = append(env, "TZ="+tz)
	}
	if s.Limits.Memory > 0 {
		// Go programs collect garbage before the kernel kills them.
		env = append(env, "GOMEMLIMIT="+strconv.FormatInt(s.Limits.Memory/10*9, 10))
	}
	return env
}

// attr separates the plugin from the host's terminal and signals.
func (s Spec) attr() *syscall.SysProcAttr {
	if s.node() {
		return &syscall.SysProcAttr{Setsid: true}
	}
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// limit sets what is set per process, on one that has just been made.
func (s Spec) limit(pid int) error {
	limits := map[int]uint64{unix.RLIMIT_CORE: 0} // a core holds secrets
	if s.Limits.NoFile > 0 {
		limits[unix.RLIMIT_NOFILE] = s.Limits.NoFile
	}
	for resource, n := range limits {
		if err := unix.Prlimit(pid, resource, &unix.Rlimit{Cur: n, Max: n}, nil); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("limit resource %d of pid %d: %w", resource, pid, err)
		}
	}
	return nil
}

// SealDescriptors makes sure that what this process was started with, and left
// open for its children, is not handed on to plugins.
func SealDescriptors() error {
	if err := unix.CloseRange(3, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("close inherited descriptors for children: %w", err)
	}
	return nil
}

// maxSocketPath is sun_path without the end mark.
const maxSocketPath = 107

// prepare makes the folders.
func (s Spec) prepare() error {
	// The socket's folder and name come below Dir.
	if n := len(s.Dir) + len("/plugin-dir1234567890/plugin1234567890"); n > maxSocketPath {
		return fmt.Errorf("prepare %s: the path of its socket would have %d bytes, at most %d are possible", s.Dir, n, maxSocketPath)
	}
	for _, dir := range []string{s.Dir, filepath.Dir(s.Record), s.StateDir} {
		if err := makeDir(dir); err != nil {
			return err
		}
	}
	return nil
}
