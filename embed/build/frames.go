package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"

	"golang.org/x/sync/errgroup"

	"github.com/kelson-io/kelson/core/datadir/payload"
)

const (
	// frameSize bounds a frame: small enough that all cores are busy from the
	// first megabytes on, large enough that compression hardly suffers.
	frameSize = 32 << 20
	// largeFile has frames of its own, which stay what they are when other
	// files change.
	largeFile = 4 << 20
)

// framer cuts the tar stream into frames and compresses them, or takes them
// from dist/build/frames, where they lie by the hash of their content.
type framer struct {
	b      *builder
	dir    string
	buf    []byte
	sum    hash.Hash
	size   int64
	frames []payload.Frame
	names  []string // files of the compressed frames
	group  *errgroup.Group
}

// compress packs the tree to dist/payload.tar.zst.
func (b *builder) compress(tree string, entries []payload.Entry) (payload.Index, error) {
	f := &framer{b: b, dir: b.out("frames"), sum: sha256.New(), group: new(errgroup.Group)}
	f.group.SetLimit(runtime.NumCPU())
	if err := os.MkdirAll(f.dir, 0o755); err != nil {
		return payload.Index{}, err
	}
	err := writeTar(f, tree, entries, f.boundary)
	if err == nil {
		err = f.flush()
	}
	// Wait in any case: the goroutines write files.
	if err := errors.Join(err, f.group.Wait()); err != nil {
		return payload.Index{}, err
	}
	if err := f.concat(filepath.Join(b.dist, "payload.tar.zst")); err != nil {
		return payload.Index{}, err
	}
	return payload.Index{SHA256: hex.EncodeToString(f.sum.Sum(nil)), Size: f.size, Frames: f.frames}, f.prune()
}

// Write takes the next bytes of the tar stream.
func (f *framer) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		part := p[:min(len(p), frameSize-len(f.buf))]
		f.buf = append(f.buf, part...)
		p = p[len(part):]
		if len(f.buf) == frameSize {
			if err := f.flush(); err != nil {
				return 0, err
			}
		}
	}
	return n, nil
}

// boundary ends the frame before and after a large file.
func (f *framer) boundary(size int64) error {
	if size < largeFile {
		return nil
	}
	return f.flush()
}

// flush hands the collected bytes to a compressor.
func (f *framer) flush() error {
	if len(f.buf) == 0 {
		return nil
	}
	raw := f.buf
	f.buf = nil
	f.sum.Write(raw)
	f.size += int64(len(raw))
	i := len(f.frames)
	f.frames = append(f.frames, payload.Frame{Size: int64(len(raw))})
	sum := sha256.Sum256(raw)
	name := filepath.Join(f.dir, fmt.Sprintf("%s-%d.zst", hex.EncodeToString(sum[:]), f.b.level))
	f.names = append(f.names, name)
	if st, err := os.Stat(name); err == nil {
		f.frames[i].Length = st.Size()
		return nil
	}
	f.group.Go(func() error { return f.b.zstd(raw, name) })
	return nil
}

// zstd compresses one frame to the named file.
func (b *builder) zstd(raw []byte, name string) error {
	args := []string{"-q", "-c", "--no-progress", "--check", "-" + strconv.Itoa(b.level)}
	if b.level > 9 {
		args = append(args, "--long=27")
	}
	cmd := exec.CommandContext(b.ctx, "zstd", append(args, "--stream-size="+strconv.Itoa(len(raw)))...)
	cmd.Stdin = bytes.NewReader(raw)
	cmd.Stderr = os.Stderr
	out, err := os.CreateTemp(filepath.Dir(name), "tmp-*")
	if err != nil {
		return err
	}
	defer os.Remove(out.Name()) // fails harmlessly once renamed
	cmd.Stdout = out
	err = cmd.Run()
	if err := errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("zstd: %w", err)
	}
	return os.Rename(out.Name(), name)
}

// concat joins the frames to one file and records their lengths.
func (f *framer) concat(out string) error {
	tmp, err := os.Create(out + ".tmp")
	if err != nil {
		return err
	}
	defer tmp.Close()
	for i, name := range f.names {
		st, err := os.Stat(name)
		if err != nil {
			return err
		}
		f.frames[i].Length = st.Size()
		if err := appendFile(tmp, name); err != nil {
			return err
		}
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	return os.Rename(out+".tmp", out)
}

// prune drops frames of this level that the payload no longer uses.
func (f *framer) prune() error {
	used := map[string]bool{}
	for _, n := range f.names {
		used[n] = true
	}
	all, err := filepath.Glob(filepath.Join(f.dir, fmt.Sprintf("*-%d.zst", f.b.level)))
	if err != nil {
		return err
	}
	for _, n := range all {
		if used[n] {
			continue
		}
		if err := os.Remove(n); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
