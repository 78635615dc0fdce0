package payload_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/kelson-io/kelson/core/datadir/payload"
	"github.com/kelson-io/kelson/core/datadir/payload/payloadtest"
)

func tree() payloadtest.Files {
	return payloadtest.Files{
		"bin/kelson-host": strings.Repeat("host ", 5000),
		"bin/kubectl":     "→kelson-host",
		"bin/cni":         strings.Repeat("cni", 1000),
		"cni/bridge":      "→../bin/cni",
		"etc/empty":       "",
	}
}

func TestUnpackGivesTheTree(t *testing.T) {
	for _, frame := range []int{512, 4096, 1 << 20} {
		p := payloadtest.Open(t, payloadtest.Write(t, []byte("ELF"), tree(), frame))
		dir := t.TempDir()
		if err := p.Unpack(context.Background(), dir); err != nil {
			t.Fatalf("frame size %d: %v", frame, err)
		}
		if err := p.Verify(dir); err != nil {
			t.Fatalf("frame size %d: %v", frame, err)
		}
		for name, want := range tree() {
			if strings.HasPrefix(want, "→") {
				continue
			}
			if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
				t.Errorf("%s: %d bytes, want %d, err %v", name, len(got), len(want), err)
			}
		}
	}
}

func TestFramesAreOneZstdStream(t *testing.T) {
	frames, index := payloadtest.Frames(t, []byte(strings.Repeat("payload", 1000)), 100)
	r, err := zstd.NewReader(bytes.NewReader(frames))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var out bytes.Buffer
	if _, err := out.ReadFrom(r); err != nil || int64(out.Len()) != index.Size {
		t.Errorf("decoded %d bytes of %d, err %v", out.Len(), index.Size, err)
	}
}

// Each byte of the frames is flipped in turn: Unpack must notice every one.
func TestEveryFlippedByteIsNoticed(t *testing.T) {
	files := payloadtest.Files{"bin/a": "some content", "bin/b": "→a"}
	name := payloadtest.Write(t, nil, files, 1024)
	whole, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	frames := payloadtest.Open(t, name).Length()
	for i := range frames {
		damaged := bytes.Clone(whole)
		damaged[i] ^= 1
		p, err := payload.Read(bytes.NewReader(damaged), int64(len(damaged)))
		if err != nil {
			t.Fatalf("byte %d: %v", i, err)
		}
		dir := t.TempDir()
		if err := p.Unpack(context.Background(), dir); err == nil {
			// A bit that carries nothing may flip, if the tree is still right.
			if err := p.Verify(dir); err != nil {
				t.Fatalf("byte %d of %d flipped, unpacked without an error: %v", i, frames, err)
			}
		}
	}
}

func TestTreeThatDiffersFromItsSumsIsRefused(t *testing.T) {
	files := payloadtest.Files{"bin/a": "a", "bin/b": "→a"}
	tests := map[string]struct {
		change func(e []payload.Entry, f payloadtest.Files) []payload.Entry
		want   string
	}{
		"content": {func(e []payload.Entry, f payloadtest.Files) []payload.Entry { f["bin/a"] = "x"; return e }, "SHA-256"},
		"mode":    {func(e []payload.Entry, _ payloadtest.Files) []payload.Entry { e[1].Mode = 0o644; return e }, "differ"},
		"link":    {func(e []payload.Entry, _ payloadtest.Files) []payload.Entry { e[2].Link = "/etc"; return e }, "differ"},
		"missing": {func(e []payload.Entry, _ payloadtest.Files) []payload.Entry { return e[:2] }, "missing"},
		"surplus": {func(e []payload.Entry, f payloadtest.Files) []payload.Entry {
			f["c"] = "c"
			return append(e, payload.Entry{Path: "c", Mode: 0o644})
		}, "not in the list"},
		"twice": {func(e []payload.Entry, _ payloadtest.Files) []payload.Entry { return append(e, e[1]) }, "not in the list"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			copied := payloadtest.Files{"bin/a": files["bin/a"], "bin/b": files["bin/b"]}
			sums := payload.EncodeSums(copied.Entries())
			raw := payloadtest.Tar(t, sums, tt.change(copied.Entries(), copied), copied)
			frames, index := payloadtest.Frames(t, raw, 1024)
			index.Sums = payloadtest.Sum(sums)
			p := payloadtest.Open(t, payloadtest.Join(t, nil, frames, index))
			if err := p.Unpack(context.Background(), t.TempDir()); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
}

func TestVerifyNoticesChanges(t *testing.T) {
	p := payloadtest.Open(t, payloadtest.Write(t, nil, tree(), 4096))
	for name, change := range map[string]func(dir string) error{
		"content": func(d string) error { return os.WriteFile(filepath.Join(d, "bin/cni"), []byte("x"), 0o755) },
		"mode":    func(d string) error { return os.Chmod(filepath.Join(d, "bin/cni"), 0o777) },
		"missing": func(d string) error { return os.Remove(filepath.Join(d, "etc/empty")) },
		"list":    func(d string) error { return os.Truncate(filepath.Join(d, payload.SumsFile), 10) },
	} {
		dir := t.TempDir()
		if err := p.Unpack(context.Background(), dir); err != nil {
			t.Fatal(err)
		}
		if err := change(dir); err != nil {
			t.Fatal(err)
		}
		if err := p.Verify(dir); err == nil {
			t.Errorf("%s: not noticed", name)
		}
		if err := p.Check(dir); err == nil {
			t.Errorf("%s: not noticed without reading contents", name)
		}
	}
}

func TestUnpackEndsWithItsContext(t *testing.T) {
	p := payloadtest.Open(t, payloadtest.Write(t, nil, tree(), 512))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := p.Unpack(ctx, t.TempDir()); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want %v", err, context.Canceled)
	}
}

func TestOpenWithoutPayload(t *testing.T) {
	for _, content := range []string{"", "short", strings.Repeat("x", 100)} {
		name := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := payload.Open(name); !errors.Is(err, payload.ErrNone) {
			t.Errorf("%q: error %v, want %v", content, err, payload.ErrNone)
		}
	}
}

func FuzzRead(f *testing.F) {
	whole, err := os.ReadFile(payloadtest.Write(f, []byte("ELF"), payloadtest.Files{"bin/a": "a"}, 512))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\xff\x7fKELSONP1"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := payload.Read(bytes.NewReader(data), int64(len(data)))
		if err == nil && p.Length() > int64(len(data)) {
			t.Errorf("frames of %d bytes in %d", p.Length(), len(data))
		}
	})
}

func FuzzParseSums(f *testing.F) {
	f.Add(payload.EncodeSums(tree().Entries()))
	f.Add([]byte("l - - ../../etc bin/x\n"))
	f.Add([]byte("d 0755 - - ../x\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		entries, err := payload.ParseSums(data)
		if err != nil {
			return
		}
		again, err := payload.ParseSums(payload.EncodeSums(entries))
		if err != nil || len(again) != len(entries) {
			t.Errorf("parsed %d entries, encoded and parsed again %d, err %v", len(entries), len(again), err)
		}
		for _, e := range entries {
			if filepath.IsAbs(e.Path) || strings.HasPrefix(filepath.Clean(e.Path), "..") {
				t.Errorf("path %q leaves the tree", e.Path)
			}
		}
	})
}
