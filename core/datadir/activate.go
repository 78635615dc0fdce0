package datadir

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/go-hclog"
)

// Activate makes the extracted version (the name of its folder under
// <root>/data) current, repairs data/cni and removes versions that nobody
// needs. The caller is the server that holds root, so that a refused start
// changes nothing of this. Each part is idempotent: whatever a crash left is
// put right by the next start.
func Activate(ctx context.Context, root, version string, log hclog.Logger) error {
	return activate(ctx, root, version, log, func(string) error { return nil })
}

// activate is Activate with the door for fault injection.
func activate(ctx context.Context, root, version string, log hclog.Logger, step func(string) error) error {
	x := activation{data: filepath.Join(root, "data"), version: version, log: log, step: step}
	if err := x.run(ctx); err != nil {
		return fmt.Errorf("activate version %s in %s: %w", version, x.data, noSpace(err))
	}
	return nil
}

// activation is one call of Activate.
type activation struct {
	data, version string
	log           hclog.Logger
	step          func(string) error
}

func (x *activation) folder(version string) string { return filepath.Join(x.data, version) }

func (x *activation) run(ctx context.Context) (err error) {
	if !isVersion(x.version) || !exists(x.folder(x.version)) {
		return hinted(errors.New("it is not extracted there"), "start the kelson file itself, not the programs inside the data dir")
	}
	held, err := lockData(ctx, x.data, x.log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, held.Unlock()) }()
	if err := x.moveLinks(); err != nil {
		return err
	}
	if err := x.step(StepCNI); err != nil {
		return err
	}
	if err := x.repairCNI(); err != nil {
		return fmt.Errorf("repair %s: %w", filepath.Join(x.data, "cni"), err)
	}
	if err := x.step(StepGC); err != nil {
		return err
	}
	if err := x.removeUnused(); err != nil {
		// The disk space is not worth a failed start.
		x.log.Warn("Old versions not removed", "err", err)
	}
	return nil
}

// moveLinks sets current, and previous to what was current. Previous goes
// first: a crash in between leaves current true, and the next start repeats it.
func (x *activation) moveLinks() error {
	current := filepath.Join(x.data, "current")
	old, err := os.Readlink(current)
	if err != nil && !isNotExist(err) {
		return err
	}
	if old == x.version {
		return nil
	}
	if err := x.step(StepPrevious); err != nil {
		return err
	}
	if isVersion(old) && exists(x.folder(old)) {
		if err := replaceLink(filepath.Join(x.data, "previous"), old); err != nil {
			return err
		}
	}
	if err := x.step(StepCurrent); err != nil {
		return err
	}
	return replaceLink(current, x.version)
}

// cniTarget is where a link in data/cni points: through current, so that it
// stays right when the version changes. name is that of the payload's own link
// in cni/, which says the program behind it.
func (x *activation) cniTarget(name string) (string, error) {
	program, err := os.Readlink(filepath.Join(x.folder(x.version), "cni", name))
	if err != nil {
		return "", err
	}
	return "../current/" + strings.TrimPrefix(program, "../"), nil
}

// repairCNI makes data/cni hold a link for each plugin of this version. Links
// of ours that are no longer meant go; files of others stay, even under the
// name of one of our plugins.
func (x *activation) repairCNI() error {
	dir := filepath.Join(x.data, "cni")
	if err := MkdirAll(dir, 0o755); err != nil {
		return err
	}
	plugins, err := os.ReadDir(filepath.Join(x.folder(x.version), "cni"))
	if err != nil && !isNotExist(err) {
		return err
	}
	var names []string
	for _, p := range plugins {
		names = append(names, p.Name())
		want, err := x.cniTarget(p.Name())
		if err != nil {
			return err
		}
		link := filepath.Join(dir, p.Name())
		target, err := os.Readlink(link)
		switch {
		case isNotExist(err), err == nil && oursCNI(target):
			if err := replaceLink(link, want); err != nil {
				return err
			}
		default:
			x.log.Warn("Foreign CNI plugin kept in place of Kelson's", "file", link)
		}
	}
	present, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range present {
		target, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil || !oursCNI(target) || slices.Contains(names, e.Name()) {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// oursCNI recognises the links of this and of other versions of Kelson.
func oursCNI(target string) bool {
	rest, ok := strings.CutPrefix(target, "../")
	version, bin, _ := strings.Cut(rest, "/")
	return ok && strings.HasPrefix(bin, "bin/") && (version == "current" || isVersion(version))
}

// removeUnused removes versions that are neither this one, nor current, nor
// previous, nor the home of a running program: shims outlive upgrades, and
// start runc from their own version.
func (x *activation) removeUnused() error {
	entries, err := os.ReadDir(x.data)
	if err != nil {
		return err
	}
	keep := map[string]bool{x.version: true}
	for _, link := range []string{"current", "previous"} {
		if to, err := os.Readlink(filepath.Join(x.data, link)); err == nil {
			keep[to] = true
		}
	}
	var old []string
	for _, e := range entries {
		if e.IsDir() && isVersion(e.Name()) && !keep[e.Name()] {
			old = append(old, e.Name())
		}
	}
	if len(old) == 0 {
		return nil
	}
	running, err := runningFrom(x.data)
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range old {
		if running[name] {
			x.log.Info("Old version kept, programs run from it", "version", name)
			continue
		}
		// Renamed first, so that no half-removed folder bears a version's name.
		if err := os.Rename(x.folder(name), x.folder(name)+"-tmp"); err != nil {
			errs = append(errs, err)
			continue
		}
		x.log.Info("Old version removed", "version", name)
		errs = append(errs, os.RemoveAll(x.folder(name)+"-tmp"))
	}
	return errors.Join(errs...)
}

// runningFrom returns the versions under data that any process executes.
func runningFrom(data string) (map[string]bool, error) {
	root, err := filepath.EvalSymlinks(data)
	if err != nil {
		return nil, err
	}
	exes, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		return nil, err
	}
	running := map[string]bool{}
	for _, exe := range exes {
		target, err := os.Readlink(exe)
		if errors.Is(err, os.ErrPermission) {
			// A process with more privileges than ours: its command line can
			// still be read. What is gone by then runs nothing.
			cmdline, _ := os.ReadFile(filepath.Join(filepath.Dir(exe), "cmdline"))
			target, _, _ = strings.Cut(string(cmdline), "\x00")
		}
		if rest, ok := strings.CutPrefix(target, root+"/"); ok {
			version, _, _ := strings.Cut(rest, "/")
			running[version] = true
		}
	}
	return running, nil
}
