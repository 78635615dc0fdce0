package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/kelson-io/kelson/core/internal/testkit"
)

// imageArchives brings images to a running node: dropped into its folder, and
// by the command. Each is the test image under a name of its own.
func imageArchives(t *testing.T, s *testkit.Server) {
	dir := t.TempDir()
	write := func(name, ext string, compress func(io.Writer) io.WriteCloser) (file, image string) {
		image = "docker.io/library/" + name + ":1"
		file = filepath.Join(dir, name+ext)
		writeArchive(t, filepath.Join(s.Data, "data", "current", "images", "busybox.tar"), file, image, compress)
		return file, image
	}
	for ext, compress := range map[string]func(io.Writer) io.WriteCloser{
		".tar.gz": func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) },
		".tar.zst": func(w io.Writer) io.WriteCloser {
			enc, err := zstd.NewWriter(w)
			if err != nil {
				t.Fatal(err)
			}
			return enc
		},
	} {
		file, image := write("dropped-"+ext[5:], ext, compress)
		copyFile(t, file, filepath.Join(s.Data, "agent", "images", filepath.Base(file)))
		testkit.Eventually(t, soon, "import of a dropped "+ext, func(context.Context) error {
			if names := imageNames(t, s); !slices.Contains(names, image) {
				return fmt.Errorf("images %v", names)
			}
			return nil
		})
		name := "from-" + ext[5:]
		s.Kubectl(t, "run", name, "--image="+image, "--image-pull-policy=Never", "--labels=app="+name, "--", "sleep", "86400")
		s.WaitPods(t, soon, "default", "app="+name, 1)
		s.Kubectl(t, "delete", "pod", name, "--wait=false", "--grace-period=0", "--force")
	}
	file, image := write("commanded", ".tar", func(w io.Writer) io.WriteCloser { return nopCloser{w} })
	if r := s.Kelson(t, "images", "import", file); r.Code != 0 || !strings.Contains(r.Stdout, "imported "+image) {
		t.Errorf("import: %+v", r)
	}
	if names := imageNames(t, s); !slices.Contains(names, image) {
		t.Errorf("images %v, want %s", names, image)
	}
	if r := s.Kelson(t, "images", "import", filepath.Join(dir, "none.tar")); r.Code != 1 || !strings.Contains(r.Stderr, "none.tar") {
		t.Errorf("import of nothing: %+v", r)
	}
}

func imageNames(t *testing.T, s *testkit.Server) []string {
	t.Helper()
	r := s.Kelson(t, "images", "list", "-o", "json")
	var list []struct {
		Name string `json:"name"`
	}
	if err := json.Unmarshal([]byte(r.Stdout), &list); err != nil {
		t.Fatalf("images list: %v\n%+v", err, r)
	}
	names := make([]string, len(list))
	for i, image := range list {
		names[i] = image.Name
	}
	return names
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// writeArchive copies the archive of the test image under another name.
func writeArchive(t *testing.T, from, to, image string, compress func(io.Writer) io.WriteCloser) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	var out bytes.Buffer
	packed := compress(&out)
	r, w := tar.NewReader(in), tar.NewWriter(packed)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if filepath.Ext(h.Name) == ".json" {
			data = bytes.ReplaceAll(data, []byte(busybox), []byte(image))
			h.Size = int64(len(data))
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), packed.Close(), os.WriteFile(to, out.Bytes(), 0o644)); err != nil {
		t.Fatal(err)
	}
}
