package catalog

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/kelson-io/kelson/core/datadir"
	"github.com/kelson-io/kelson/core/pluginhost/program"
	"github.com/kelson-io/kelson/sdk/manifest"
	"github.com/kelson-io/kelson/sdk/sign"
)

// sample is a plugin to be, as files of a folder.
type sample struct {
	kind, name, version string
	script              string // of the program; "" for one that behaves
	change              func(*manifest.Manifest)
	key                 *sign.SecretKey
	extra               map[string]string // further files, which the manifest names
}

func addon(version string) sample { return sample{kind: "addon", name: "hello", version: version} }

const behaved = `#!/bin/sh
case "$1" in
describe) echo '{"kind":"%[1]s","name":"%[2]s","version":"%[3]s","protocols":[1],"configSchema":{"type":"object","additionalProperties":false,"properties":{"size":{"type":"integer","minimum":1}}}}' ;;
*) [ "$KELSON_PLUGIN" = kelson.plugin.v1 ] || exit 2; echo "1|1|unix|$PLUGIN_UNIX_SOCKET_DIR/s|grpc"; read line ;;
esac
`

func (s sample) program() string {
	if s.script != "" {
		return s.script
	}
	return fmt.Sprintf(behaved, s.kind, s.name, s.version)
}

// files returns the folder's content by name.
func (s sample) files(t *testing.T) map[string]string {
	t.Helper()
	m := manifest.Manifest{
		APIVersion: manifest.APIVersion, Kind: s.kind, Name: s.name, Version: s.version, Summary: "Says hello.",
		Protocols: []uint32{1}, Lifetime: "on-demand", Exec: "hello", Files: map[string]string{},
		ConfigSchema: []byte(`{"type":"object","additionalProperties":false,"properties":{"size":{"type":"integer","minimum":1}}}`),
		Requests:     manifest.Requests{Network: true},
	}
	out := map[string]string{"hello": s.program()}
	maps.Copy(out, s.extra)
	for name, text := range out {
		m.Files[name] = "sha256:" + sum(text)
	}
	if s.change != nil {
		s.change(&m)
	}
	data, err := manifest.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	out[manifest.FileName] = string(data)
	if s.key != nil {
		signature, err := s.key.Sign(bytes.NewReader(data), s.name+" "+s.version)
		if err != nil {
			t.Fatal(err)
		}
		out[manifest.SignatureName] = string(signature)
	}
	return out
}

// folder writes the files.
func (s sample) folder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range s.files(t) {
		writeTest(t, filepath.Join(dir, name), text, 0o644)
	}
	return dir
}

func sum(text string) string {
	s := sha256.Sum256([]byte(text))
	return hex.EncodeToString(s[:])
}

func writeTest(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	_ = os.Remove(path)
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

// archive packs entries; names of the map come in any order.
func archive(t *testing.T, kind, prefix string, files map[string]string) []byte {
	t.Helper()
	var plain bytes.Buffer
	w := tar.NewWriter(&plain)
	for name, text := range files {
		if err := w.WriteHeader(&tar.Header{Name: prefix + name, Mode: 0o6755, Size: int64(len(text)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	return compress(t, kind, w, &plain)
}

func compress(t *testing.T, kind string, w *tar.Writer, plain *bytes.Buffer) []byte {
	t.Helper()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	switch kind {
	case ".tar.gz", ".tgz":
		z := gzip.NewWriter(&out)
		if _, err := z.Write(plain.Bytes()); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
	case ".tar.zst":
		z, err := zstd.NewWriter(nil)
		if err != nil {
			t.Fatal(err)
		}
		return z.EncodeAll(plain.Bytes(), nil)
	default:
		return plain.Bytes()
	}
	return out.Bytes()
}

// bed is a data dir with a catalog.
type bed struct {
	*Catalog
	t *testing.T
}

func newBed(t *testing.T) bed {
	t.Helper()
	return openBed(t, t.TempDir())
}

func openBed(t *testing.T, root string) bed {
	t.Helper()
	return bed{catalogAt(root), t}
}

func catalogAt(root string) *Catalog {
	return New(Deps{Layout: datadir.Layout{Root: root, Etc: filepath.Join(root, "etc"), Bin: filepath.Join(root, "data", "abc", "bin")}})
}

func (b bed) install(s sample) {
	b.t.Helper()
	if err := b.tryInstall(Options{Source: s.folder(b.t), Unsigned: true}); err != nil {
		b.t.Fatal(err)
	}
}

func (b bed) tryInstall(opt Options) error {
	staged, err := b.Stage(b.t.Context(), opt)
	if err != nil {
		return err
	}
	return staged.Commit()
}

func (b bed) resolve(kind, name string) program.Program {
	b.t.Helper()
	p, err := b.Resolve(kind, name)
	if err != nil {
		b.t.Fatal(err)
	}
	f, err := Open(p)
	if err != nil {
		b.t.Fatal(err)
	}
	_ = f.Close()
	return p
}

func (b bed) catalog(text string) {
	b.t.Helper()
	writeTest(b.t, b.file, text, 0o644)
}

// bundle makes a payload with one bundled plugin.
func (b bed) bundle(program, catalog string) {
	b.t.Helper()
	writeTest(b.t, filepath.Join(b.layout.Bin, Executable), program, 0o755)
	writeTest(b.t, b.bundledFile(), catalog, 0o644)
}

// clean fails when an installation left something behind.
func (b bed) clean() {
	b.t.Helper()
	entries, err := os.ReadDir(b.plugins())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		b.t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), stagePrefix) {
			b.t.Errorf("%s was left behind", e.Name())
		}
	}
}

// refused fails unless err is a refusal that names all of what is wanted and
// has a remedy.
func refused(t *testing.T, err error, want ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("accepted")
	}
	for _, part := range want {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q is missing in: %v", part, err)
		}
	}
	if hint(err) == "" {
		t.Errorf("no remedy: %v", err)
	}
}

func newKey(t *testing.T) *sign.SecretKey {
	t.Helper()
	k, err := sign.Generate()
	if err != nil {
		t.Fatal(err)
	}
	return &k
}
