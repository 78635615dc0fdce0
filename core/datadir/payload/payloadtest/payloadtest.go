// Package payloadtest makes small real payloads for tests: the same format,
// compression and checks as those of the build, from a map of files. It keeps
// no state; each call writes a file of its own.
package payloadtest

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/kelson-io/kelson/core/datadir/payload"
)

// Files is a tree: path → content. A content that starts with "→" makes a
// symbolic link to the rest. Paths under bin/ are executable.
type Files map[string]string

// Entries lists the tree with its folders, sorted.
func (f Files) Entries() []payload.Entry {
	seen := map[string]bool{}
	var out []payload.Entry
	for name, content := range f {
		for dir := path.Dir(name); dir != "." && !seen[dir]; dir = path.Dir(dir) {
			seen[dir] = true
			out = append(out, payload.Entry{Path: dir, Mode: fs.ModeDir | 0o755})
		}
		e := payload.Entry{Path: name, Mode: 0o644}
		if strings.HasPrefix(name, "bin/") {
			e.Mode = 0o755
		}
		if to, ok := strings.CutPrefix(content, "→"); ok {
			e.Mode, e.Link = fs.ModeSymlink|0o777, to
		} else {
			e.Sum, e.Size = Sum([]byte(content)), int64(len(content))
		}
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b payload.Entry) int { return strings.Compare(a.Path, b.Path) })
	return out
}

// Write makes a file with the prefix (in place of the launcher's ELF image) and
// the payload of the tree behind it, in frames of frameSize bytes.
func Write(t testing.TB, prefix []byte, files Files, frameSize int) string {
	t.Helper()
	entries := files.Entries()
	sums := payload.EncodeSums(entries)
	raw := Tar(t, sums, entries, files)
	out, index := Frames(t, raw, frameSize)
	index.Sums = Sum(sums)
	return Join(t, prefix, out, index)
}

// Tar packs the tree behind the given list of checksums.
func Tar(t testing.TB, sums []byte, entries []payload.Entry, files Files) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	put := func(h tar.Header, data []byte) {
		h.Size = int64(len(data))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	put(tar.Header{Name: payload.SumsFile, Mode: 0o644, Typeflag: tar.TypeReg}, sums)
	for _, e := range entries {
		mode := int64(e.Mode.Perm())
		switch {
		case e.Mode.IsDir():
			put(tar.Header{Name: e.Path + "/", Mode: mode, Typeflag: tar.TypeDir}, nil)
		case e.Link != "":
			put(tar.Header{Name: e.Path, Mode: mode, Typeflag: tar.TypeSymlink, Linkname: e.Link}, nil)
		default:
			put(tar.Header{Name: e.Path, Mode: mode, Typeflag: tar.TypeReg}, []byte(files[e.Path]))
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Frames compresses a tar; Sums of the index is left to the caller.
func Frames(t testing.TB, raw []byte, frameSize int) ([]byte, payload.Index) {
	t.Helper()
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderCRC(true))
	if err != nil {
		t.Fatal(err)
	}
	index := payload.Index{SHA256: Sum(raw), Size: int64(len(raw))}
	var out []byte
	for part := range slices.Chunk(raw, frameSize) {
		before := len(out)
		out = enc.EncodeAll(part, out)
		index.Frames = append(index.Frames, payload.Frame{Length: int64(len(out) - before), Size: int64(len(part))})
	}
	if err := enc.Close(); err != nil {
		t.Fatal(err)
	}
	return out, index
}

// Join writes prefix, frames and index to a new executable file.
func Join(t testing.TB, prefix, frames []byte, index payload.Index) string {
	t.Helper()
	b := bytes.NewBuffer(slices.Concat(prefix, frames))
	if err := payload.AppendIndex(b, index); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "kelson")
	if err := os.WriteFile(name, b.Bytes(), 0o755); err != nil {
		t.Fatal(err)
	}
	return name
}

// Open opens the payload of a file made by Write.
func Open(t testing.TB, name string) *payload.File {
	t.Helper()
	p, err := payload.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

// Sum returns the SHA-256 of b in hex.
func Sum(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
