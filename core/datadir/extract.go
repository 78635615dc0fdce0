package datadir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/kelson-io/kelson/core/datadir/payload"
)

// spare is kept free on the file system beyond what the payload takes.
const spare = 32 << 20

// ExtractOptions refine [Extract].
type ExtractOptions struct {
	Log hclog.Logger // nil: silent
	// Step is called before each step that changes files; an error aborts
	// there. It is the door for fault injection, nil otherwise.
	Step func(name string) error
}

// The steps of an extraction and of an activation, in order.
const (
	StepLocked   = "locked"
	StepUnpack   = "unpack"
	StepSync     = "sync"
	StepRename   = "rename"
	StepPrevious = "previous"
	StepCurrent  = "current"
	StepCNI      = "cni"
	StepGC       = "gc"
)

// Steps lists them.
func Steps() []string {
	return []string{StepLocked, StepUnpack, StepSync, StepRename, StepPrevious, StepCurrent, StepCNI, StepGC}
}

// Extract makes sure that the payload lies verified and durable under root and
// returns its folder, <root>/data/<sha256>. It neither makes the version current
// nor removes others: that is [Activate]. If another process extracts, Extract
// waits for it until ctx ends. A crash at any moment, a full disk, or a damaged
// payload leaves the versions that were there as they were.
//
// A version that is there already is compared by its files' modes and sizes,
// which takes milliseconds; what is damaged is extracted anew beside it and put
// right file by file.
func Extract(ctx context.Context, root string, p *payload.File, opt ExtractOptions) (string, error) {
	if opt.Log == nil {
		opt.Log = hclog.NewNullLogger()
	}
	if opt.Step == nil {
		opt.Step = func(string) error { return nil }
	}
	x := extraction{ExtractOptions: opt, data: filepath.Join(root, "data"), p: p}
	dir := filepath.Join(x.data, p.SHA256)
	if p.Check(dir) == nil {
		return dir, nil
	}
	if err := x.run(ctx, dir); err != nil {
		return "", fmt.Errorf("extract payload to %s: %w", dir, noSpace(err))
	}
	return dir, nil
}

// extraction is one call of Extract.
type extraction struct {
	ExtractOptions
	data string
	p    *payload.File
}

func (x *extraction) run(ctx context.Context, dir string) (err error) {
	x.Log.Info("Acquiring lock file " + filepath.Join(x.data, ".lock"))
	held, err := lockData(ctx, x.data, x.Log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, held.Unlock()) }()
	if err := x.Step(StepLocked); err != nil {
		return err
	}
	if !exists(dir) {
		return x.unpack(ctx, dir)
	}
	if damage := x.p.Check(dir); damage != nil {
		x.Log.Warn("Repairing the data dir", "damage", damage)
		return x.unpack(ctx, dir)
	}
	return nil // by the one who held the lock
}

// lockData takes the lock under which everything below data changes.
func lockData(ctx context.Context, data string, log hclog.Logger) (*Held, error) {
	if err := MkdirAll(data, 0o755); err != nil {
		return nil, err
	}
	return waitLock(ctx, filepath.Join(data, ".lock"), func(why error) {
		log.Info("Waiting for another extraction", "reason", why)
	})
}

// unpack brings the version's folder into being, in one rename, or repairs it.
func (x *extraction) unpack(ctx context.Context, dir string) error {
	start := time.Now()
	if err := x.removeStale(); err != nil {
		return err
	}
	if err := checkSpace(filepath.Dir(x.data), x.data, x.p.Size+spare); err != nil {
		return err
	}
	x.Log.Info("Preparing data dir " + dir)
	tmp := dir + "-tmp"
	if err := os.Mkdir(tmp, 0o755); err != nil {
		return err
	}
	err := x.fill(ctx, tmp)
	if err == nil {
		if err = x.Step(StepRename); err == nil {
			err = x.place(tmp, dir)
		}
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(tmp))
	}
	if err := syncDir(x.data); err != nil {
		return err
	}
	x.Log.Info("Data dir prepared", "took", time.Since(start).Round(time.Millisecond))
	return nil
}

// place puts the verified tree at tmp in the place of the version's folder.
func (x *extraction) place(tmp, dir string) error {
	if exists(dir) {
		return repair(x.p.Index, tmp, dir)
	}
	return os.Rename(tmp, dir)
}

// fill writes the verified tree to tmp and waits for the disk.
func (x *extraction) fill(ctx context.Context, tmp string) error {
	if err := x.Step(StepUnpack); err != nil {
		return err
	}
	if err := os.Chmod(tmp, 0o755); err != nil { // umask
		return err
	}
	if err := x.p.Unpack(ctx, tmp); err != nil {
		return err
	}
	if err := x.Step(StepSync); err != nil {
		return err
	}
	return syncTree(tmp)
}

// removeStale removes what an interrupted extraction or removal left. The
// caller holds the lock, so nobody works on it.
func (x *extraction) removeStale() error {
	stale, err := filepath.Glob(filepath.Join(x.data, "*-tmp"))
	if err != nil {
		return err
	}
	for _, s := range stale {
		if err := os.RemoveAll(s); err != nil {
			return fmt.Errorf("remove leftover: %w", err)
		}
	}
	return nil
}

// syncTree makes all files and folders below dir durable. One sync of the file
// system costs one journal commit; a sync per file would cost hundreds.
func syncTree(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	if err := errors.Join(unix.Syncfs(int(d.Fd())), d.Close()); err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}

// noSpace adds the remedy to an error of a full disk.
func noSpace(err error) error {
	var h interface{ Hint() string }
	if errors.As(err, &h) || !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		return err
	}
	return hinted(err, "free space there, or choose a folder on another file system with --data-dir")
}

// exists follows links: a dangling link does not exist.
func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// isVersion says if a name under data/ is that of a complete version.
func isVersion(name string) bool {
	return len(name) == 64 && strings.Trim(name, "0123456789abcdef") == ""
}

// isNotExist shortens the most frequent test.
func isNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }
