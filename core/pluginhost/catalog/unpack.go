package catalog

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/kelson-io/kelson/sdk/manifest"
)

const (
	maxUnpacked = 1 << 30
	maxFiles    = 1000
)

// unpack writes an archive's files into dir. Only regular files and folders
// with plain names are accepted, and no more than is sound.
func unpack(archive io.Reader, kind, dir string) error {
	r, err := decompress(archive, kind)
	if err != nil {
		return err
	}
	defer r.Close()
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	defer root.Close()
	left := int64(maxUnpacked)
	reader := tar.NewReader(io.LimitReader(r, maxUnpacked+maxFiles*2048))
	for files := 0; ; files++ {
		h, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return unwrap(dir)
		}
		if err != nil {
			return &Refused{Step: "unpack", Err: err, Remedy: "the archive is damaged or of another kind than its name says"}
		}
		name := path.Clean(strings.TrimPrefix(h.Name, "./"))
		if h.Typeflag == tar.TypeXGlobalHeader || name == "." && h.Typeflag == tar.TypeDir {
			continue
		}
		if err := acceptable(h, name, files, left); err != nil {
			return err
		}
		left -= h.Size
		if h.Typeflag == tar.TypeDir {
			err = root.MkdirAll(name, 0o755)
		} else {
			err = writeFile(root, name, reader)
		}
		if err != nil {
			return &Refused{Step: "unpack", File: h.Name, Err: err, Remedy: "pack every file once"}
		}
	}
}

func acceptable(h *tar.Header, name string, files int, left int64) error {
	e := &Refused{Step: "unpack", File: h.Name, Remedy: "pack the plugin's folder with plain files only"}
	switch {
	case h.Typeflag != tar.TypeReg && h.Typeflag != tar.TypeDir:
		e.Expected, e.Found = "files and folders", map[byte]string{tar.TypeSymlink: "a symbolic link", tar.TypeLink: "a hard link"}[h.Typeflag]
		if e.Found == "" {
			e.Found = fmt.Sprintf("an entry of type %q", h.Typeflag)
		}
	case !fs.ValidPath(name) || strings.ContainsAny(name, "\\\x00") || path.IsAbs(h.Name):
		e.Expected, e.Found = "a path inside the archive", fmt.Sprintf("%q", h.Name)
	case files >= maxFiles:
		e.Expected, e.Found = fmt.Sprintf("at most %d files", maxFiles), "more"
	case h.Size > left:
		e.Expected, e.Found = fmt.Sprintf("at most %d MiB", maxUnpacked>>20), "more"
	default:
		return nil
	}
	return e
}

func decompress(r io.Reader, kind string) (io.ReadCloser, error) {
	damaged := func(err error) error {
		return &Refused{Step: "unpack", Err: err, Remedy: "the archive is damaged or of another kind than its name says"}
	}
	switch kind {
	case ".tar.gz", ".tgz":
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, damaged(err)
		}
		return z, nil
	case ".tar.zst":
		z, err := zstd.NewReader(r, zstd.WithDecoderMaxMemory(256<<20), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, damaged(err)
		}
		return z.IOReadCloser(), nil
	default:
		return io.NopCloser(r), nil
	}
}

// writeFile makes a new file; its mode is set when the manifest is known.
func writeFile(root *os.Root, name string, r io.Reader) error {
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}

// unwrap accepts archives whose files lie in one folder at the top.
func unwrap(dir string) error {
	if _, err := os.Lstat(filepath.Join(dir, manifest.FileName)); err == nil {
		return nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 || !entries[0].IsDir() {
		return err
	}
	// The folder gets a name that no file in it can have.
	inner := filepath.Join(dir, ".unwrap*")
	if err := os.Rename(filepath.Join(dir, entries[0].Name()), inner); err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	if entries, err = os.ReadDir(inner); err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	for _, e := range entries {
		if err := os.Rename(filepath.Join(inner, e.Name()), filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("unpack: %w", err)
		}
	}
	return os.Remove(inner)
}

// copyFolder copies what the folder's manifest names, and nothing else.
func copyFolder(from, dir string) error {
	data, err := os.ReadFile(filepath.Join(from, manifest.FileName))
	if err != nil {
		return &Refused{Step: "install", File: filepath.Join(from, manifest.FileName), Err: err, Remedy: "the folder needs a plugin.yaml: 'PROGRAM manifest' writes one"}
	}
	m, err := manifest.Parse(data, filepath.Join(from, manifest.FileName))
	if err != nil {
		return err
	}
	source, err := os.OpenRoot(from)
	if err != nil {
		return fmt.Errorf("install: %w", err)
	}
	defer source.Close()
	target, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("install: %w", err)
	}
	defer target.Close()
	for _, name := range append(slices.Sorted(maps.Keys(m.Files)), manifest.FileName, manifest.SignatureName) {
		err := copyFile(source, target, name)
		if err != nil && !(name == manifest.SignatureName && errors.Is(err, fs.ErrNotExist)) {
			return err
		}
	}
	return nil
}

func copyFile(source, target *os.Root, name string) error {
	e := &Refused{Step: "install", File: filepath.Join(source.Name(), filepath.FromSlash(name)), Remedy: "put the file itself there, or correct plugin.yaml"}
	st, err := source.Lstat(name)
	switch {
	case err != nil:
		e.Err = err
		return e
	case !st.Mode().IsRegular() || st.Size() > maxUnpacked:
		e.Expected, e.Found = "a regular file", st.Mode().Type().String()
		return e
	}
	f, err := source.Open(name)
	if err != nil {
		return fmt.Errorf("install: %w", err)
	}
	defer f.Close()
	if err := writeFile(target, name, io.LimitReader(f, maxUnpacked)); err != nil {
		return fmt.Errorf("install: copy %s: %w", name, err)
	}
	return nil
}
