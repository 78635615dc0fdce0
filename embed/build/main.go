// Command build assembles the payload and the launcher:
//
//	dist/build/    what has been compiled, fetched and compressed so far
//	dist/payload/  the tree that a data dir's data/<sha256>/ becomes
//	dist/payload.tar.zst  the tree, packed
//	dist/kelson    the launcher with the packed tree behind its ELF image
//
// Equal inputs give an equal tree, tar and hash: modules are pinned by go.sum,
// Debian packages by embed/debian.lock, dates come from the commit, owners and
// times in the tar are fixed. Each stage keeps its results, so that a second
// run redoes only what changed; a compressed frame is kept by the hash of its
// content. The command runs in the root of the repository; a second one waits
// until the first has ended.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "build:", err)
		os.Exit(1)
	}
}

// builder holds what all stages share.
type builder struct {
	ctx     context.Context
	dist    string // dist, relative to the repository's root
	cache   string // Debian packages
	version versions
	level   int
	log     io.Writer
	only    map[string]bool // stages to run, nil: all
}

func run(ctx context.Context, args []string) error {
	fl := flag.NewFlagSet("build", flag.ContinueOnError)
	dist := fl.String("dist", "dist", "output folder")
	revision := fl.Int("revision", 1, "N of the release v1.x.y+kelson<N>")
	level := fl.Int("level", 3, "zstd level")
	cache := fl.String("debian-cache", defaultCache(), "folder of downloaded Debian packages")
	only := fl.String("only", "", "run only these stages: go,cni,debian,pack,launcher (comma-separated)")
	lock := fl.Bool("update-debian-lock", false, "write embed/debian.lock from what the mirror offers now, and stop")
	unpack := fl.String("debian-unpack", "", "unpack the locked Debian package of this name to <dist>/build/debian/<name>, and stop")
	if err := fl.Parse(args); err != nil {
		return err
	}
	b := &builder{ctx: ctx, dist: *dist, cache: *cache, level: *level, log: os.Stdout}
	if err := os.MkdirAll(b.out(), 0o755); err != nil {
		return err
	}
	unlock, err := b.exclusive()
	if err != nil {
		return err
	}
	defer unlock()
	switch {
	case *lock:
		return b.updateDebianLock()
	case *unpack != "":
		return b.unpackOne(*unpack)
	}
	if *only != "" {
		b.only = map[string]bool{}
		for s := range strings.SplitSeq(*only, ",") {
			b.only[s] = true
		}
	}
	if b.version, err = b.readVersions(*revision); err != nil {
		return err
	}
	for _, s := range []struct {
		name string
		do   func() error
	}{
		{"go", b.goBinaries},
		{"cni", b.cniBinary},
		{"debian", b.userspace},
		{"pack", b.pack},
		{"launcher", b.launcher},
	} {
		if err := b.stage(s.name, s.do); err != nil {
			return err
		}
	}
	return nil
}

// exclusive waits until no other build works in dist.
func (b *builder) exclusive() (unlock func(), err error) {
	f, err := os.OpenFile(b.out(".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		fmt.Fprintln(b.log, "build: waiting for another build in", b.dist)
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", f.Name(), err), f.Close())
		}
	}
	return func() { f.Close() }, nil
}

// stage runs one stage, if it was asked for, and says how long it took.
func (b *builder) stage(name string, do func() error) error {
	if b.only != nil && !b.only[name] {
		return nil
	}
	start := time.Now()
	if err := do(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	fmt.Fprintf(b.log, "build: %-9s %6.1fs\n", name, time.Since(start).Seconds())
	return nil
}

// out returns a path under dist/build.
func (b *builder) out(elem ...string) string {
	return filepath.Join(append([]string{b.dist, "build"}, elem...)...)
}

func defaultCache() string {
	dir, err := os.UserCacheDir()
	if err != nil {
		dir = os.TempDir()
	}
	return filepath.Join(dir, "kelson", "debian")
}

// place makes dst the same file as src, with the given mode: a hard link, or
// a copy where links are not possible.
func place(src, dst string, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(dst), 0o755); err != nil {
		return err
	}
	if err := os.Chmod(src, mode); err != nil {
		return err
	}
	if err := os.Remove(dst); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if os.Link(src, dst) == nil {
		return nil
	}
	data, err := os.ReadFile(src)
	if err != nil {
		return err
	}
	return os.WriteFile(dst, data, mode)
}
