package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
)

// sources is this program, which is an input of every image.
//
//go:embed *.go
var sources embed.FS

// builder turns recipes into image tars.
type builder struct {
	recipes string // folder of the recipes
	out     string // folder of the tars
	lock    string // file that pins the Debian packages
	cache   string // folder of downloaded packages
	arch    string
	log     io.Writer
}

// all builds the recipes one after the other: the Go builds are parallel
// within themselves.
func (b builder) all(ctx context.Context, recipes []recipe) error {
	if err := os.MkdirAll(b.out, 0o755); err != nil {
		return err
	}
	for _, r := range recipes {
		if err := b.one(ctx, r); err != nil {
			return fmt.Errorf("%s: %w", r.Name, err)
		}
	}
	return nil
}

// one writes the recipe's tar, unless it is there and made of the same inputs.
func (b builder) one(ctx context.Context, r recipe) error {
	tarPath := filepath.Join(b.out, r.Name+".tar")
	keyPath := filepath.Join(b.out, "."+r.Name+".key")
	key, err := b.key(r)
	if err != nil {
		return err
	}
	if current(tarPath, keyPath, key) {
		fmt.Fprintf(b.log, "%-50s unchanged\n", r.Reference())
		return nil
	}
	files, labels, err := b.files(ctx, r)
	if err != nil {
		return err
	}
	var buf bytes.Buffer
	img := image{Reference: r.Reference(), Architecture: b.arch, Config: r.config(labels), Files: files}
	if err := img.write(&buf); err != nil {
		return err
	}
	if err := replace(tarPath, buf.Bytes()); err != nil {
		return err
	}
	if err := replace(keyPath, []byte(keyLine(key, buf.Bytes()))); err != nil {
		return err
	}
	fmt.Fprintf(b.log, "%-50s %6.1f MiB\n", r.Reference(), float64(buf.Len())/(1<<20))
	return nil
}

// files returns the layer's content and further labels.
func (b builder) files(ctx context.Context, r recipe) ([]file, map[string]string, error) {
	files := []file{
		{Path: "etc/passwd", Mode: 0o644, Data: []byte(passwd)},
		{Path: "etc/group", Mode: 0o644, Data: []byte(group)},
		{Path: "tmp", Mode: os.ModeDir | os.ModeSticky | 0o777},
	}
	var (
		more   []file
		labels map[string]string
		err    error
	)
	switch {
	case r.Go != nil:
		more, err = b.goFiles(ctx, r)
	case r.C != nil:
		more, err = b.cFiles(ctx, r)
	case r.Debian != nil:
		more, labels, err = b.debianFiles(ctx, r)
	default:
		err = errors.New("recipe has no program")
	}
	return append(files, more...), labels, err
}

const (
	passwd = "root:x:0:0:root:/root:/sbin/nologin\n" +
		"nonroot:x:65532:65532:nonroot:/:/sbin/nologin\n" +
		"nobody:x:65534:65534:nobody:/:/sbin/nologin\n"
	group = "root:x:0:\nnonroot:x:65532:\nnobody:x:65534:\n"
)

func (r recipe) config(labels map[string]string) imageConfig {
	all := map[string]string{
		"org.opencontainers.image.title":    r.Name,
		"org.opencontainers.image.version":  r.Version,
		"org.opencontainers.image.licenses": r.Licence,
		"org.opencontainers.image.source":   r.Source,
		"org.opencontainers.image.vendor":   "Kelson",
	}
	maps.Copy(all, labels)
	return imageConfig{
		User:       r.User,
		Env:        []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		Entrypoint: r.Entrypoint,
		Cmd:        r.Cmd,
		WorkingDir: r.WorkingDir,
		Labels:     all,
	}
}

// key hashes every input: the recipe, its folder, this program, the toolchain.
func (b builder) key(r recipe) (string, error) {
	h := sha256.New()
	row, err := json.Marshal(r)
	if err != nil {
		return "", err
	}
	fmt.Fprintf(h, "%s %s %s\n", runtime.Version(), b.arch, row)
	trees := []fs.FS{sources}
	if r.Debian != nil {
		pin, err := readPin(b.lock, r.Debian.Package, b.arch)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%s\n", pin.SHA256)
	} else {
		trees = append(trees, os.DirFS(filepath.Join(b.recipes, r.Name)))
	}
	for _, tree := range trees {
		if err := hashTree(h, tree); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// hashTree adds the name and content of every file; WalkDir is in order.
func hashTree(h io.Writer, tree fs.FS) error {
	return fs.WalkDir(tree, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(tree, path)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(h, "%s %d %s\n", path, len(data), hexSum(data))
		return err
	})
}

// keyLine names the inputs and the output, so that a damaged tar is rebuilt.
func keyLine(key string, tar []byte) string { return key + " " + hexSum(tar) + "\n" }

func current(tarPath, keyPath, key string) bool {
	line, err := os.ReadFile(keyPath)
	if err != nil {
		return false
	}
	tar, err := os.ReadFile(tarPath)
	return err == nil && string(line) == keyLine(key, tar)
}

// replace writes a file so that a reader sees the old or the new content.
func replace(path string, data []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".tmp-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // gone after the rename
	_, err = tmp.Write(data)
	if err = errors.Join(err, tmp.Chmod(0o644), tmp.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return os.Rename(tmp.Name(), path)
}
