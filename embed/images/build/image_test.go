package main

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func example() image {
	return image{
		Reference:    "docker.io/kelson/example:1.0",
		Architecture: "amd64",
		Config:       imageConfig{User: "1:1", Entrypoint: []string{"/bin/b"}, Labels: map[string]string{"x": "y", "a": "b"}},
		Files: []file{
			{Path: "bin/b", Mode: 0o755, Data: []byte("program")},
			{Path: "bin/a", Mode: 0o777, Link: "b"},
			{Path: "tmp", Mode: os.ModeDir | os.ModeSticky | 0o777},
		},
	}
}

func bytesOf(t *testing.T, img image) []byte {
	t.Helper()
	var buf bytes.Buffer
	if err := img.write(&buf); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// readTar returns the headers in order and the content by name.
func readTar(t *testing.T, data []byte) ([]*tar.Header, map[string][]byte) {
	t.Helper()
	var headers []*tar.Header
	content := map[string][]byte{}
	tr := tar.NewReader(bytes.NewReader(data))
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return headers, content
		}
		if err != nil {
			t.Fatal(err)
		}
		headers = append(headers, h)
		if content[h.Name], err = io.ReadAll(tr); err != nil {
			t.Fatal(err)
		}
	}
}

func TestEqualInputsGiveEqualBytes(t *testing.T) {
	one, two := example(), example()
	two.Files[0], two.Files[2] = two.Files[2], two.Files[0] // the order given does not matter
	if !bytes.Equal(bytesOf(t, one), bytesOf(t, two)) {
		t.Error("two writes of one image differ")
	}
	two.Files[1].Link = "c"
	if bytes.Equal(bytesOf(t, one), bytesOf(t, two)) {
		t.Error("a changed file leaves the image as it was")
	}
}

// TestImageIsConsistent follows every reference of both formats to its blob.
func TestImageIsConsistent(t *testing.T) {
	_, content := readTar(t, bytesOf(t, example()))
	blob := func(d descriptor) []byte {
		t.Helper()
		data, ok := content["blobs/sha256/"+strings.TrimPrefix(d.Digest, "sha256:")]
		if !ok || len(data) != d.Size || digest(data) != d.Digest {
			t.Fatalf("descriptor %+v does not match its blob", d)
		}
		return data
	}
	decode := func(data []byte, v any) {
		t.Helper()
		if err := json.Unmarshal(data, v); err != nil {
			t.Fatal(err)
		}
	}
	var (
		index    indexFile
		manifest manifestFile
		config   configFile
		docker   []dockerManifest
	)
	decode(content["index.json"], &index)
	decode(blob(index.Manifests[0]), &manifest)
	decode(blob(manifest.Config), &config)
	layer := decompress(t, blob(manifest.Layers[0]))
	if config.Rootfs.DiffIDs[0] != digest(layer) || config.OS != "linux" || config.Architecture != "amd64" {
		t.Errorf("config %+v does not describe the layer", config)
	}
	decode(content["manifest.json"], &docker)
	if docker[0].RepoTags[0] != "docker.io/kelson/example:1.0" || content[docker[0].Config] == nil || content[docker[0].Layers[0]] == nil {
		t.Errorf("docker manifest %+v does not lead to the blobs", docker)
	}
	headers, files := readTar(t, layer)
	var names []string
	for _, h := range headers {
		names = append(names, h.Name)
		if h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.ModTime.Unix() != 0 {
			t.Errorf("%s carries an owner or a time: %+v", h.Name, h)
		}
	}
	if got, want := strings.Join(names, " "), "bin/ bin/a bin/b tmp/"; got != want {
		t.Errorf("layer holds %q, want %q", got, want)
	}
	if string(files["bin/b"]) != "program" || headers[3].Mode != 0o1777 || headers[1].Linkname != "b" {
		t.Errorf("layer content is wrong: %+v", headers)
	}
}

func TestLayerRefusesTwoFilesOfOnePath(t *testing.T) {
	if _, err := writeLayer([]file{{Path: "a"}, {Path: "a"}}); err == nil {
		t.Error("a path listed twice was accepted")
	}
}

func TestTableIsComplete(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range table() {
		if seen[r.Name] {
			t.Errorf("%s is listed twice", r.Name)
		}
		seen[r.Name] = true
		programs := 0
		for _, given := range []bool{r.Go != nil, r.C != nil, r.Debian != nil} {
			if given {
				programs++
			}
		}
		if programs != 1 || r.Version == "" || r.Licence == "" || r.Source == "" || r.Target == "" {
			t.Errorf("recipe %+v is incomplete", r)
		}
		if r.Debian != nil {
			continue
		}
		if _, err := os.Stat(filepath.Join("..", r.Name)); err != nil {
			t.Errorf("%s has no folder: %v", r.Name, err)
		}
	}
}

// TestBuildPause builds the one image that needs nothing but a C compiler:
// twice the same bytes, left alone while unchanged, rebuilt when damaged.
func TestBuildPause(t *testing.T) {
	if _, err := exec.LookPath(compiler()); err != nil {
		t.Skip("SKIPPED: no C compiler")
	}
	build := func(out string) (image []byte, said string) {
		t.Helper()
		var log bytes.Buffer
		b := builder{recipes: "..", out: out, arch: "amd64", log: &log}
		if err := b.all(context.Background(), pick(table(), "pause")); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(filepath.Join(out, "pause.tar"))
		if err != nil {
			t.Fatal(err)
		}
		return data, log.String()
	}
	dir := t.TempDir()
	first, _ := build(dir)
	if _, said := build(dir); !strings.Contains(said, "unchanged") {
		t.Errorf("second build said %q, want unchanged", said)
	}
	if err := os.WriteFile(filepath.Join(dir, "pause.tar"), first[1:], 0o600); err != nil {
		t.Fatal(err)
	}
	repaired, _ := build(dir)
	elsewhere, _ := build(t.TempDir())
	if !bytes.Equal(first, repaired) || !bytes.Equal(first, elsewhere) {
		t.Error("equal inputs gave different bytes")
	}
}

func TestReadPin(t *testing.T) {
	lock := filepath.Join(t.TempDir(), "lock")
	if err := os.WriteFile(lock, []byte("# comment\na 1:2 amd64 ff\na 1:2 arm64 ee\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	pin, err := readPin(lock, "a", "arm64")
	if err != nil || pin.SHA256 != "ee" || pin.file() != "a_1%3a2_arm64.deb" {
		t.Errorf("got %+v, %v", pin, err)
	}
	if _, err := readPin(lock, "b", "arm64"); err == nil || !strings.Contains(err.Error(), "pins no b") {
		t.Errorf("missing pin: got %v", err)
	}
}

func decompress(t *testing.T, data []byte) []byte {
	t.Helper()
	cmd := exec.Command("zstd", "-d", "-q", "-c")
	cmd.Stdin = bytes.NewReader(data)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}
