package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kelson-io/kelson/core/datadir"
	"github.com/kelson-io/kelson/core/pluginhost/program"
)

// leftoverGrace is how long a process of an earlier host may take to end.
const leftoverGrace = 5 * time.Second

// Record describes a plugin process to a later host. It lies in the run dir, so
// that it is gone after a reboot.
type Record struct {
	identity
	Kind       string           `json:"kind"`
	Name       string           `json:"name"`
	Version    string           `json:"version"`
	Lifetime   program.Lifetime `json:"lifetime"`
	Path       string           `json:"path"`
	SHA256     string           `json:"sha256"` // of the program
	Exe        string           `json:"exe"`    // SHA-256 of what runs: the interpreter, for a script
	Socket     string           `json:"socket"` // empty until the handshake
	Protocol   int              `json:"protocol"`
	Generation uint64           `json:"generation"` // of the catalog's lock
	Cgroup     string           `json:"cgroup,omitempty"`

	Config           string `json:"config,omitempty"` // SHA-256 of the configuration that it has
	ConfigGeneration uint64 `json:"configGeneration,omitempty"`
}

func newRecord(spec Spec, bin *Binary, pid int) (Record, error) {
	id, err := identify(pid)
	if err != nil {
		return Record{}, err
	}
	exe := strings.ToLower(spec.Program.SHA256)
	if bin.script {
		if exe, err = exeDigest(pid); err != nil {
			return Record{}, err
		}
	}
	return Record{
		identity: id, Kind: spec.Program.Kind, Name: spec.Program.Name, Version: spec.Program.Version,
		Lifetime: spec.Program.Lifetime, Path: spec.Program.Path, SHA256: strings.ToLower(spec.Program.SHA256),
		Exe: exe, Protocol: appProtocol, Generation: spec.Program.Generation, Cgroup: spec.Cgroup,
	}, nil
}

func (r Record) write(path string) error {
	raw, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("write record: %w", err)
	}
	return datadir.WriteFile(path, append(raw, '\n'), 0o600)
}

// readRecord returns false when there is none, or none that can be read (a power
// cut); then there is nothing to take over.
func readRecord(path string) (Record, bool) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return Record{}, false
	}
	var r Record
	if err := json.Unmarshal(raw, &r); err != nil {
		return Record{}, false
	}
	return r, true
}

// Configured notes which configuration the process has.
func (p *Process) Configured(digest string, generation uint64) error {
	p.mu.Lock()
	p.record.Config, p.record.ConfigGeneration = digest, generation
	record := p.record
	p.mu.Unlock()
	if err := record.write(p.spec.Record); err != nil {
		return err
	}
	select {
	case <-p.ended:
		_ = os.Remove(p.spec.Record) // its end came between
	default:
	}
	return nil
}

// Reclaim looks for what an earlier host left of the plugin. A process of node
// lifetime that is, by number, start time, boot, digest of the running file and
// owner of the socket, the one that the program asks for is returned and works
// like a launched one. Everything else is ended. Without a process, why tells
// what was ended; nothing was there when it is empty. An error means that a
// leftover cannot be ended: the plugin must not be started beside it.
func Reclaim(ctx context.Context, spec Spec) (p *Process, why string, err error) {
	if err := spec.prepare(); err != nil {
		return nil, "", err
	}
	record, ok := readRecord(spec.Record)
	if ok {
		p, why, err = attach(ctx, spec, record)
	}
	if p != nil {
		sweep(spec.Dir, filepath.Dir(p.record.Socket))
		return p, "", nil
	}
	if err != nil {
		return nil, why, err
	}
	if stray, err := endStrays(ctx, spec.Dir); len(stray) > 0 || err != nil {
		why = fmt.Sprintf("pids %v were left without a record", stray)
		if err != nil {
			return nil, why, err
		}
	}
	g := newGroup(spec.Cgroup, spec.Limits)
	g.kill()
	g.remove()
	_ = os.Remove(spec.Record)
	sweep(spec.Dir, "")
	return nil, why, nil
}

// attach returns a process, or why there is none.
func attach(ctx context.Context, spec Spec, r Record) (*Process, string, error) {
	h, err := r.open()
	if err != nil {
		return nil, "", err
	}
	if h == nil {
		return nil, "", nil
	}
	g := group{}
	if r.Cgroup != "" {
		g = newGroup(r.Cgroup, spec.Limits)
	}
	p := newProcess(spec, r, h, g)
	if err := p.check(ctx); err != nil {
		why := fmt.Sprintf("pid %d is not taken over: %v", r.PID, err)
		err := endLeftover(ctx, h, r.PID)
		g.kill()
		g.remove()
		return nil, why, err
	}
	go p.watch()
	return p, "", nil
}

// check compares a process of an earlier host with what is asked for now.
func (p *Process) check(ctx context.Context) error {
	r, want := p.record, p.spec.Program
	switch {
	case !p.spec.node() || r.Lifetime != program.Node:
		return fmt.Errorf("its lifetime is %s", r.Lifetime)
	case r.Kind != want.Kind || r.Name != want.Name:
		return fmt.Errorf("it is %s(%s), expected is %s", r.Kind, r.Name, want)
	case !strings.EqualFold(r.SHA256, want.SHA256):
		return fmt.Errorf("it is version %s with digest %s, expected is version %s with digest %s", r.Version, r.SHA256, want.Version, want.SHA256)
	case r.Protocol != appProtocol:
		return fmt.Errorf("it speaks protocol %d, expected is %d", r.Protocol, appProtocol)
	case r.Socket == "" || filepath.Dir(filepath.Dir(r.Socket)) != p.spec.Dir:
		return fmt.Errorf("its socket %q is not in %s", r.Socket, p.spec.Dir)
	}
	exe, err := exeDigest(r.PID)
	if err != nil {
		return err
	}
	if exe != r.Exe {
		return fmt.Errorf("what it runs has the digest %s, expected is %s", exe, r.Exe)
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	conn, err := p.Dial(ctx)
	if err != nil {
		return err
	}
	return conn.Close()
}

// watch waits for the end of a process that another host started.
func (p *Process) watch() {
	defer close(p.done)
	if !p.await() {
		return
	}
	ws, known := p.handle.status(p.PID())
	p.finish(ws, known)
	p.handle.close()
}

// endLeftover ends a process that no Process stands for, and closes its handle.
func endLeftover(ctx context.Context, h *handle, pid int) error {
	defer h.close()
	limit := leftoverGrace
	if deadline, ok := ctx.Deadline(); ok {
		limit = min(limit, max(time.Until(deadline)/2, time.Second))
	}
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		if err := h.signal(sig); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("end pid %d: %w", pid, err)
		}
		err := h.wait(limit)
		if err == nil {
			h.status(pid) // reaps it, if this host executed itself anew
			return nil
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("wait for pid %d: %w", pid, err)
		}
	}
	return fmt.Errorf("pid %d, left by an earlier host, survives SIGKILL: it hangs in the kernel", pid)
}

// endStrays ends the processes that run in a run dir without a record.
func endStrays(ctx context.Context, dir string) (pids []int, err error) {
	for _, id := range strays(dir) {
		h, err := id.open()
		if err != nil {
			return pids, err
		}
		if h == nil {
			continue
		}
		pids = append(pids, id.PID)
		if err := endLeftover(ctx, h, id.PID); err != nil {
			return pids, err
		}
	}
	return pids, nil
}

// sweep removes the socket folders of earlier processes.
func sweep(dir, keep string) {
	old, _ := filepath.Glob(filepath.Join(dir, "plugin-dir*")) // the pattern is valid
	for _, path := range old {
		if path != keep {
			_ = os.RemoveAll(path)
		}
	}
}

// EndAll ends every plugin process that the records in dir name or that has a
// run dir in it, whatever its lifetime, and returns a line on each: what an
// uninstall needs. The host must not run.
func EndAll(ctx context.Context, dir string) ([]string, error) {
	paths, _ := filepath.Glob(filepath.Join(dir, "*.json")) // the pattern is valid
	var ended []string
	var errs []error
	for _, path := range paths {
		r, ok := readRecord(path)
		if !ok {
			continue
		}
		h, err := r.open()
		if err == nil && h != nil {
			err = endLeftover(ctx, h, r.PID)
			ended = append(ended, fmt.Sprintf("%s(%s) %s, pid %d", r.Kind, r.Name, r.Version, r.PID))
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if r.Cgroup != "" {
			g := newGroup(r.Cgroup, Limits{})
			g.kill()
			g.remove()
		}
		_ = os.Remove(path)
	}
	pids, err := endStrays(ctx, dir)
	for _, pid := range pids {
		ended = append(ended, fmt.Sprintf("pid %d, without a record", pid))
	}
	return ended, errors.Join(append(errs, err)...)
}
