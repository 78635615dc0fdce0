package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kelson-io/kelson/core/datadir/payload"
)

func TestRewriteMain(t *testing.T) {
	tests := []struct{ name, src, want, err string }{
		{
			"program", "// Doc of main.\npackage main\n\n// main is main.\nfunc main() { main2() }\nfunc main2() {}\n",
			"// Doc of main.\npackage plugin\n\n// main is main.\nfunc Main() { main2() }\nfunc main2() {}\n", "",
		},
		{"method", "package main\n\nfunc (x T) main() {}\n", "package plugin\n\nfunc (x T) main() {}\n", ""},
		{"library", "package other\n", "", "not main"},
		{"broken", "package main\nfunc {", "", "expected"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, n, err := rewriteMain("x.go", []byte(tt.src))
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("error %v, want one with %q", err, tt.err)
				}
				return
			}
			if err != nil || string(got) != tt.want || n != strings.Count(tt.want, "func Main()") {
				t.Errorf("%d renamed, err %v:\n%s", n, err, got)
			}
		})
	}
}

func TestParseDebianLock(t *testing.T) {
	got, err := parseDebianLock([]byte("# comment\nnft 1:2-3 amd64 abc # end\n\nnew\n"))
	if err != nil || len(got) != 2 || got[0] != (debPackage{"nft", "1:2-3", "amd64", "abc"}) || got[1].SHA256 != "" {
		t.Errorf("%+v, %v", got, err)
	}
	if got[0].file() != "nft_1%3a2-3_amd64.deb" {
		t.Errorf("file %s", got[0].file())
	}
	if _, err := parseDebianLock([]byte("one two\n")); err == nil || !strings.Contains(err.Error(), ":1:") {
		t.Errorf("error %v, want the line", err)
	}
}

func TestParsePolicy(t *testing.T) {
	got := parsePolicy("kmod:\n  Installed: (none)\n  Candidate: 30-1\n  Version table:\n     30-1 500\nno-such:\n  Candidate: (none)\nlibc6:\n  Candidate: 2.36\n")
	if len(got) != 2 || got["kmod"] != "30-1" || got["libc6"] != "2.36" {
		t.Errorf("%v", got)
	}
}

func TestUnlockedPackageNamesTheRemedy(t *testing.T) {
	b := &builder{ctx: context.Background(), cache: t.TempDir()}
	if _, err := b.fetch(debPackage{Name: "x"}); err == nil || !strings.Contains(err.Error(), "make debian-lock") {
		t.Errorf("error %v, want the remedy", err)
	}
}

// A damaged file in the cache is not used.
func TestCachedPackageIsVerified(t *testing.T) {
	b := &builder{ctx: context.Background(), cache: t.TempDir()}
	p := debPackage{"kelson-no-such-package", "1", "amd64", strings.Repeat("0", 64)}
	if err := os.WriteFile(filepath.Join(b.cache, p.file()), []byte("not it"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := b.fetch(p); err == nil {
		t.Error("a file with another SHA-256 was accepted")
	}
}

func makeTree(t *testing.T, dist string) string {
	t.Helper()
	tree := filepath.Join(dist, "payload")
	for name, content := range map[string]string{
		"bin/kelson-host": strings.Repeat("host", 2<<20), // large: frames of its own
		"bin/cni":         "cni",
		"etc/a":           "a",
	} {
		path := filepath.Join(tree, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("kelson-host", filepath.Join(tree, "bin/kubectl")); err != nil {
		t.Fatal(err)
	}
	return tree
}

// packTree packs a tree as the stage does and returns its index.
func packTree(t *testing.T, dist string, level int) payload.Index {
	t.Helper()
	b := &builder{ctx: context.Background(), dist: dist, level: level}
	index, err := b.packTree(filepath.Join(dist, "payload"))
	if err != nil {
		t.Fatal(err)
	}
	return index
}

func TestEqualTreesHaveEqualHashes(t *testing.T) {
	d1, d2 := t.TempDir(), t.TempDir()
	makeTree(t, d1)
	makeTree(t, d2)
	a, b, again := packTree(t, d1, 1), packTree(t, d2, 5), packTree(t, d1, 1)
	if a.SHA256 != b.SHA256 || a.Sums != b.Sums || a.SHA256 != again.SHA256 {
		t.Errorf("%s, %s, %s", a.SHA256, b.SHA256, again.SHA256)
	}
	if err := os.WriteFile(filepath.Join(d2, "payload/etc/a"), []byte("b"), 0o644); err != nil {
		t.Fatal(err)
	}
	if c := packTree(t, d2, 1); c.SHA256 == a.SHA256 || c.Sums == a.Sums {
		t.Error("another content has the same hash")
	}
}

func TestPackedTreeUnpacks(t *testing.T) {
	dist := t.TempDir()
	makeTree(t, dist)
	index := packTree(t, dist, 1)
	frames, err := os.ReadFile(filepath.Join(dist, "payload.tar.zst"))
	if err != nil {
		t.Fatal(err)
	}
	out := bytes.NewBuffer(frames)
	if err := payload.AppendIndex(out, index); err != nil {
		t.Fatal(err)
	}
	p, err := payload.Read(bytes.NewReader(out.Bytes()), int64(out.Len()))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := p.Unpack(context.Background(), dir); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "bin/kubectl")); err != nil || !strings.HasPrefix(string(got), "hosthost") {
		t.Errorf("kubectl: %d bytes, err %v", len(got), err)
	}
	if len(index.Frames) < 3 {
		t.Errorf("%d frames: the large file has none of its own", len(index.Frames))
	}
}

// A frame that did not change is not compressed again.
func TestFramesAreReused(t *testing.T) {
	dist := t.TempDir()
	tree := makeTree(t, dist)
	packTree(t, dist, 1)
	before := frameTimes(t, dist)
	if err := os.WriteFile(filepath.Join(tree, "etc/a"), []byte("changed"), 0o644); err != nil {
		t.Fatal(err)
	}
	packTree(t, dist, 1)
	kept := 0
	after := frameTimes(t, dist)
	for name, at := range after {
		if before[name] == at {
			kept++
		}
	}
	if kept == 0 || kept == len(after) {
		t.Errorf("%d of %d frames kept", kept, len(after))
	}
	if len(after) != len(before) {
		t.Errorf("%d frames lie there, %d are used", len(after), len(before))
	}
}

func frameTimes(t *testing.T, dist string) map[string]int64 {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dist, "build/frames/*.zst"))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]int64{}
	for _, n := range names {
		st, err := os.Stat(n)
		if err != nil {
			t.Fatal(err)
		}
		out[n] = st.ModTime().UnixNano()
	}
	return out
}
