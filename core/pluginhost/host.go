package pluginhost

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"

	"github.com/kelson-io/kelson/core/datadir"
	"github.com/kelson-io/kelson/core/pluginhost/program"
	"github.com/kelson-io/kelson/core/pluginhost/runner"
)

// Source tells which program is to run. The catalog is one.
type Source interface {
	// Resolve returns the program that is pinned now.
	Resolve(kind, name string) (program.Program, error)
	// Good notes that a program ran well for a while: one to go back to.
	Good(p program.Program) error
	// Rollback pins the last good program before the present one and returns it;
	// an error when there is none.
	Rollback(kind, name, reason string) (program.Program, error)
}

// Deps is what a Host works with.
type Deps struct {
	Layout   datadir.Layout
	Source   Source
	Log      hclog.Logger
	Path     string // PATH of the plugins
	NodeName string // told to the plugins
	Limits   runner.Limits
	// OnChange is told each change of a plugin's state, without its output; nil
	// for none. It must return soon and call no method of the plugin.
	OnChange func(State)
}

// Host runs the plugins of a node.
type Host struct {
	deps   Deps
	timing timing

	seal    sync.Once
	mu      sync.Mutex
	plugins []*Supervised
}

// Spec is one plugin that is to run.
type Spec struct {
	Kind, Name string
	Config     json.RawMessage            // a JSON object; empty means {}
	Secrets    map[string]json.RawMessage // JSON strings; never logged
	// Protocols are the majors of the kind's contract that the host speaks; the
	// highest that both know is used (State.Protocol). Empty: not checked.
	Protocols []uint32
	// Up brings the plugin to work over the kind's contract. It is called for every
	// process and every take-over, after Configure was accepted; its error counts
	// as a failed start. Its context ends with the process, and after a minute.
	Up func(ctx context.Context, conn grpc.ClientConnInterface) error
}

// timing holds every deadline and pause.
type timing struct {
	handshake, describe, validate, configure, up, call time.Duration
	drain, term                                        time.Duration // until SIGTERM, until SIGKILL
	silence                                            time.Duration // of Health
	stable                                             time.Duration // ready that long: all is well again
	idle                                               time.Duration // of an on-demand plugin
	backoffMin, backoffMax                             time.Duration
	crashes                                            int // within crashWindow: a crash loop
	crashWindow                                        time.Duration
}

func defaultTiming() timing {
	return timing{
		handshake: 10 * time.Second, describe: 5 * time.Second, validate: 10 * time.Second, configure: 30 * time.Second,
		up: time.Minute, call: 30 * time.Second, drain: 10 * time.Second, term: 8 * time.Second,
		silence: 30 * time.Second, stable: time.Minute, idle: time.Minute,
		backoffMin: 250 * time.Millisecond, backoffMax: 30 * time.Second,
		crashes: 5, crashWindow: 10 * time.Minute,
	}
}

// defaultLimits is what a plugin may use unless Deps says otherwise.
func defaultLimits() runner.Limits {
	return runner.Limits{Memory: 512 << 20, PIDs: 512, NoFile: 16384}
}

// New returns a host. It does no I/O.
func New(deps Deps) *Host {
	if deps.Limits == (runner.Limits{}) {
		deps.Limits = defaultLimits()
	}
	return &Host{deps: deps, timing: defaultTiming()}
}

// Supervise returns a plugin under supervision; Start sets it going. It stays in
// States and Metrics until it is stopped.
func (h *Host) Supervise(spec Spec) *Supervised {
	s := newSupervised(h, spec)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.plugins = append(h.plugins, s)
	return s
}

// States describes the plugins, sorted by kind and name.
func (h *Host) States() []State {
	var states []State
	for _, s := range h.all() {
		states = append(states, s.State())
	}
	return states
}

func (h *Host) all() []*Supervised {
	h.mu.Lock()
	plugins := slices.Clone(h.plugins)
	h.mu.Unlock()
	slices.SortStableFunc(plugins, func(a, b *Supervised) int {
		return cmp.Or(cmp.Compare(a.spec.Kind, b.spec.Kind), cmp.Compare(a.spec.Name, b.spec.Name))
	})
	return plugins
}

// claim makes s the one that runs its plugin: two would end each other's process.
func (h *Host) claim(s *Supervised) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, other := range h.plugins {
		if other != s && other.started && other.spec.Kind == s.spec.Kind && other.spec.Name == s.spec.Name {
			return errors.New("it is supervised already")
		}
	}
	s.mu.Lock()
	s.started = true
	s.mu.Unlock()
	return nil
}

// forget takes a stopped plugin out of the lists.
func (h *Host) forget(s *Supervised) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.plugins = slices.DeleteFunc(h.plugins, func(other *Supervised) bool { return other == s })
}

// RunDir is the folder of all plugins' sockets and records; runner.EndAll takes
// it.
func RunDir(l datadir.Layout) string { return l.RunPath("p") }

// PluginRunDir is the folder of one plugin's sockets.
func PluginRunDir(l datadir.Layout, kind, name string) string {
	return filepath.Join(RunDir(l), kind+"-"+name)
}

// StateDir is the folder that belongs to one plugin and outlives it.
func StateDir(l datadir.Layout, kind, name string) string {
	return filepath.Join(l.Root, "plugins", "state", kind, name)
}

// LogFile is where a plugin of node lifetime prints to.
func LogFile(l datadir.Layout, kind, name string) string {
	return filepath.Join(StateDir(l, kind, name), "plugin.log")
}

// cgroup is named after the run dir: nodes that share a host must not share it.
func cgroup(l datadir.Layout, kind, name string) string {
	sum := sha256.Sum256([]byte(l.Run))
	return "kelson-plugins/" + filepath.Base(l.Run) + "-" + hex.EncodeToString(sum[:4]) + "/" + kind + "-" + name
}
