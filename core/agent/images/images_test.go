package images

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

func write(t *testing.T, path string, data []byte) string {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestOpenArchiveTellsCompression(t *testing.T) {
	want := bytes.Repeat([]byte("archive "), 1000)
	var zipped, zst bytes.Buffer
	g := gzip.NewWriter(&zipped)
	z, err := zstd.NewWriter(&zst)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range []io.WriteCloser{g, z} {
		if _, err := w.Write(want); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for name, data := range map[string][]byte{"plain.tar": want, "a.tar.gz": zipped.Bytes(), "a.tar.zst": zst.Bytes(), "wrongly-named.tar": zst.Bytes()} {
		t.Run(name, func(t *testing.T) {
			stream, err := openArchive(write(t, filepath.Join(t.TempDir(), name), data))
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(stream)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if err := stream.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	if _, err := openArchive(write(t, filepath.Join(t.TempDir(), "empty.tar"), nil)); err == nil {
		t.Error("an empty file was opened")
	}
}

func TestArchivesIn(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"b.tar", "a.tar.gz", "pause.tar", "c.tgz", "d.tar.zst", ".hidden.tar", "e.tar.part", "README"} {
		write(t, filepath.Join(dir, name), nil)
	}
	got, err := archivesIn(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, path := range got {
		names = append(names, filepath.Base(path))
	}
	if strings.Join(names, " ") != "pause.tar a.tar.gz b.tar c.tgz d.tar.zst" {
		t.Errorf("%v", names)
	}
	if got, err := archivesIn(filepath.Join(dir, "missing")); err != nil || got != nil {
		t.Errorf("missing folder: %v, %v", got, err)
	}
}

func TestCanonical(t *testing.T) {
	for ref, want := range map[string]string{
		"busybox":                  "docker.io/library/busybox:latest",
		"kelson/pause:3.10.2":      "docker.io/kelson/pause:3.10.2",
		"docker.io/kelson/pause:1": "docker.io/kelson/pause:1",
		"registry.test:5000/a/b":   "registry.test:5000/a/b:latest",
		"localhost/a:1":            "localhost/a:1",
		"a/b@sha256:" + hex64('0'): "docker.io/a/b@sha256:" + hex64('0'),
		"":                         "",
		"sha256:" + hex64('1'):     "",
	} {
		if got := canonical(ref); got != want {
			t.Errorf("%q: got %q, want %q", ref, got, want)
		}
	}
}

func hex64(c byte) string { return strings.Repeat(string(c), 64) }

func TestIndex(t *testing.T) {
	dir := t.TempDir()
	path := write(t, filepath.Join(dir, "a.tar"), []byte("one"))
	ix := loadIndex(filepath.Join(dir, "index", "images.json"))
	digest, err := ix.digest(path)
	if err != nil {
		t.Fatal(err)
	}
	ix.record(digest, map[string]string{"image": "sha256:x"})
	if err := ix.save(); err != nil {
		t.Fatal(err)
	}
	again := loadIndex(ix.path)
	if again.contents(digest)["image"] != "sha256:x" {
		t.Error("not remembered")
	}
	// Same size, other content, other time: read again.
	write(t, path, []byte("two"))
	if err := os.Chtimes(path, time.Now(), time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if changed, err := again.digest(path); err != nil || changed == digest {
		t.Errorf("changed file has digest %s (%v)", changed, err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := again.save(); err != nil {
		t.Fatal(err)
	}
	if last := loadIndex(ix.path); len(last.Files) != 0 || len(last.Contents) != 0 {
		t.Errorf("files that are gone are remembered: %+v", last)
	}
	write(t, ix.path, []byte("{damaged"))
	if damaged := loadIndex(ix.path); damaged.Files == nil || damaged.contents(digest) != nil {
		t.Error("a damaged index is not an empty one")
	}
}

func TestWatcherWaitsUntilSettled(t *testing.T) {
	dir := t.TempDir()
	w, err := newWatcher(dir)
	if err != nil {
		t.Fatal(err)
	}
	w.settle = 100 * time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	changed := make(chan string, 10)
	ended := make(chan struct{})
	go func() {
		w.run(ctx, func(path string) { changed <- filepath.Base(path) }, func(err error) { t.Error(err) })
		close(ended)
	}()
	write(t, filepath.Join(dir, "gone.tar"), nil)
	if err := os.Remove(filepath.Join(dir, "gone.tar")); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "note.txt"), nil)
	for range 3 {
		write(t, filepath.Join(dir, "a.tar"), []byte("piece"))
	}
	if got := <-changed; got != "a.tar" {
		t.Errorf("got %s", got)
	}
	write(t, filepath.Join(dir, "b.tar.zst"), nil)
	if got := <-changed; got != "b.tar.zst" {
		t.Errorf("got %s", got)
	}
	cancel()
	<-ended
	if len(changed) != 0 {
		t.Errorf("reported twice: %s", <-changed)
	}
}
