package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/kelson-io/kelson/core/datadir/payload"
	"github.com/kelson-io/kelson/core/pluginhost/catalog"
)

// hostLinks are the names by which kelson-host also starts.
func hostLinks() []string { return []string{"kubectl", "ctr", "containerd"} }

// pack lays out dist/payload and packs it.
func (b *builder) pack() error {
	tree := filepath.Join(b.dist, "payload")
	if err := b.layout(tree); err != nil {
		return err
	}
	index, err := b.packTree(tree)
	if err != nil {
		return err
	}
	data, err := json.Marshal(index)
	if err != nil {
		return err
	}
	fmt.Fprintf(b.log, "build: payload %s: %.1f MB, compressed %.1f MB\n", index.SHA256[:12], mega(index.Size), mega(index.Length()))
	return os.WriteFile(b.out("index.json"), data, 0o644)
}

// packTree adds the list of checksums to a tree and packs all of it.
func (b *builder) packTree(tree string) (payload.Index, error) {
	list := filepath.Join(tree, payload.SumsFile)
	if err := os.Remove(list); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return payload.Index{}, err
	}
	entries, err := describe(tree)
	if err != nil {
		return payload.Index{}, err
	}
	sums := payload.EncodeSums(entries)
	if err := os.WriteFile(list, sums, 0o644); err != nil {
		return payload.Index{}, err
	}
	first := payload.Entry{Path: payload.SumsFile, Mode: 0o644, Sum: hexSum(sums)}
	index, err := b.compress(tree, append([]payload.Entry{first}, entries...))
	index.Sums = first.Sum
	return index, err
}

func hexSum(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// layout makes the tree, but for the list of checksums.
func (b *builder) layout(tree string) error {
	if err := os.RemoveAll(tree); err != nil {
		return err
	}
	for _, name := range []string{"kelson-host", "containerd-shim-runc-v2", "runc", "crictl", "cni", "kelson-plugins", "kelson-cni"} {
		if err := place(b.out("bin", name), filepath.Join(tree, "bin", name), 0o755); err != nil {
			return err
		}
	}
	for _, name := range hostLinks() {
		if err := os.Symlink("kelson-host", filepath.Join(tree, "bin", name)); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Join(tree, "cni"), 0o755); err != nil {
		return err
	}
	for _, p := range cniPlugins() {
		if err := os.Symlink("../bin/cni", filepath.Join(tree, "cni", path.Base(p))); err != nil {
			return err
		}
	}
	if err := os.Symlink("../bin/kelson-cni", filepath.Join(tree, "cni", "kelson-cni")); err != nil {
		return err
	}
	images, err := filepath.Glob(filepath.Join(b.dist, "images", "*.tar"))
	if err != nil {
		return err
	}
	for _, img := range images {
		if err := place(img, filepath.Join(tree, "images", filepath.Base(img)), 0o644); err != nil {
			return err
		}
	}
	if err := copyTree(b.out("aux"), filepath.Join(tree, "bin", "aux")); err != nil {
		return err
	}
	if err := copyTree(b.out("etc"), filepath.Join(tree, "etc")); err != nil {
		return err
	}
	if err := b.version.pinCatalog(filepath.Join(tree, "bin", catalog.Executable), filepath.Join(tree, "etc", catalog.FileName)); err != nil {
		return err
	}
	if err := place("LICENSE", filepath.Join(tree, "etc", "licenses", "kelson"), 0o644); err != nil {
		return err
	}
	return nil
}

// copyTree recreates src at dst with hard links.
func copyTree(src, dst string) error {
	return filepath.WalkDir(src, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(src, p)
		if err != nil {
			return err
		}
		to := filepath.Join(dst, rel)
		switch {
		case d.IsDir():
			return os.MkdirAll(to, 0o755)
		case d.Type() == fs.ModeSymlink:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			return os.Symlink(target, to)
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		return place(p, to, st.Mode().Perm())
	})
}

// describe lists a tree in the order of its paths.
func describe(tree string) ([]payload.Entry, error) {
	var out []payload.Entry
	err := filepath.WalkDir(tree, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == tree {
			return err
		}
		rel, err := filepath.Rel(tree, p)
		if err != nil {
			return err
		}
		if strings.ContainsAny(rel, " \n") {
			return fmt.Errorf("the payload cannot hold the path %q", rel)
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		e := payload.Entry{Path: filepath.ToSlash(rel), Mode: st.Mode()}
		switch {
		case d.IsDir():
			if err := os.Chmod(p, 0o755); err != nil {
				return err
			}
			e.Mode = fs.ModeDir | 0o755
		case d.Type() == fs.ModeSymlink:
			if e.Link, err = os.Readlink(p); err != nil {
				return err
			}
		case d.Type().IsRegular():
			e.Size = st.Size()
			if e.Sum, err = sumFile(p); err != nil {
				return err
			}
		default:
			return fmt.Errorf("the payload cannot hold %s: %s", rel, st.Mode())
		}
		out = append(out, e)
		return nil
	})
	return out, err
}

// writeTar writes the tree in the order of entries, without times or owners.
// cut is called before each file with the file's size, and again after it.
func writeTar(w io.Writer, tree string, entries []payload.Entry, cut func(int64) error) error {
	tw := tar.NewWriter(w)
	for _, e := range entries {
		h := &tar.Header{Name: e.Path, Mode: int64(e.Mode.Perm()), ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}
		switch {
		case e.Mode.IsDir():
			h.Typeflag, h.Name = tar.TypeDir, e.Path+"/"
		case e.Mode.Type() == fs.ModeSymlink:
			h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, e.Link, 0o777
		default:
			h.Typeflag = tar.TypeReg
		}
		if err := writeEntry(tw, tree, h, cut); err != nil {
			return fmt.Errorf("pack %s: %w", e.Path, err)
		}
	}
	return tw.Close()
}

func writeEntry(tw *tar.Writer, tree string, h *tar.Header, cut func(int64) error) error {
	if h.Typeflag != tar.TypeReg {
		return tw.WriteHeader(h)
	}
	f, err := os.Open(filepath.Join(tree, h.Name))
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	h.Size = st.Size()
	if err := tw.Flush(); err != nil {
		return err
	}
	if err := cut(h.Size); err != nil {
		return err
	}
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	if _, err := io.Copy(tw, f); err != nil {
		return err
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	return cut(h.Size)
}

// join writes launcher + packed payload + index to out, atomically: the old
// file may be running.
func (b *builder) join(launcher, out string) error {
	data, err := os.ReadFile(b.out("index.json"))
	if err != nil {
		return err
	}
	var index payload.Index
	if err := json.Unmarshal(data, &index); err != nil {
		return fmt.Errorf("read index: %w", err)
	}
	f, err := os.OpenFile(out+".tmp", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, part := range []string{launcher, filepath.Join(b.dist, "payload.tar.zst")} {
		if err := appendFile(f, part); err != nil {
			return err
		}
	}
	var tail bytes.Buffer
	if err := payload.AppendIndex(&tail, index); err != nil {
		return err
	}
	if _, err := f.Write(tail.Bytes()); err != nil {
		return err
	}
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	fmt.Fprintf(b.log, "build: %s: %.1f MiB\n", out, float64(st.Size())/(1<<20))
	return os.Rename(out+".tmp", out)
}

func appendFile(w io.Writer, name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}

func mega(n int64) float64 { return float64(n) / 1e6 }
