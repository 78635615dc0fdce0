package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"sort"
	"strings"
)

// debianPin is one line of the lock file that the payload's packages share.
type debianPin struct {
	Package string
	Version string
	Arch    string
	SHA256  string // of the package file
}

// file is the name that apt-get download gives the package.
func (p debianPin) file() string {
	return p.Package + "_" + strings.ReplaceAll(p.Version, ":", "%3a") + "_" + p.Arch + ".deb"
}

// debianFiles takes the program out of the pinned package.
func (b builder) debianFiles(ctx context.Context, r recipe) ([]file, map[string]string, error) {
	pin, err := readPin(b.lock, r.Debian.Package, b.arch)
	if err != nil {
		return nil, nil, err
	}
	deb, err := b.fetch(ctx, pin)
	if err != nil {
		return nil, nil, err
	}
	content, err := unpack(ctx, deb, r.Debian.File, r.Debian.Licence)
	if err != nil {
		return nil, nil, err
	}
	files := []file{
		{Path: r.Target, Mode: 0o755, Data: content[r.Debian.File]},
		{Path: "licenses/" + r.Name + "/copyright", Mode: 0o644, Data: content[r.Debian.Licence]},
	}
	if r.Debian.Applets {
		links, err := applets(ctx, r.Target, content[r.Debian.File])
		if err != nil {
			return nil, nil, err
		}
		files = append(files, links...)
	}
	return files, map[string]string{
		"io.kelson.debian.package": pin.Package,
		"io.kelson.debian.version": pin.Version,
		"io.kelson.debian.sha256":  pin.SHA256,
	}, nil
}

// readPin finds a package's line: name, version, architecture, SHA-256.
func readPin(lock, name, arch string) (debianPin, error) {
	data, err := os.ReadFile(lock)
	if err != nil {
		return debianPin{}, err
	}
	for line := range strings.SplitSeq(string(data), "\n") {
		if f := strings.Fields(line); len(f) == 4 && f[0] == name && f[2] == arch {
			return debianPin{Package: f[0], Version: f[1], Arch: f[2], SHA256: f[3]}, nil
		}
	}
	return debianPin{}, fmt.Errorf("%s pins no %s for %s", lock, name, arch)
}

// fetch returns the path of the pinned package, downloading it once. apt
// checks the archive's signature; the pin checks that it is the same package.
func (b builder) fetch(ctx context.Context, pin debianPin) (string, error) {
	kept := filepath.Join(b.cache, pin.file())
	if data, err := os.ReadFile(kept); err == nil && hexSum(data) == pin.SHA256 {
		return kept, nil
	}
	if err := os.MkdirAll(b.cache, 0o755); err != nil {
		return "", err
	}
	err := b.download(ctx, pin, kept)
	if err != nil {
		// The package lists may be absent or old, as in a fresh machine.
		if _, upErr := run(ctx, "", "apt-get", "update", "-qq"); upErr != nil {
			return "", errors.Join(err, upErr)
		}
		err = b.download(ctx, pin, kept)
	}
	if err != nil {
		return "", fmt.Errorf("%w\n(if the mirror has moved on, pin what it has: make debian-lock)", err)
	}
	return kept, nil
}

func (b builder) download(ctx context.Context, pin debianPin, kept string) error {
	dir, err := os.MkdirTemp(b.cache, ".fetch-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if _, err := run(ctx, dir, "apt-get", "-qq", "-o", "APT::Sandbox::User=root",
		"download", pin.Package+":"+pin.Arch+"="+pin.Version); err != nil {
		return err
	}
	found, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(found) != 1 {
		return fmt.Errorf("download %s: got %d files", pin.Package, len(found))
	}
	data, err := os.ReadFile(found[0])
	if err != nil {
		return err
	}
	if got := hexSum(data); got != pin.SHA256 {
		return fmt.Errorf("download %s %s: sha256 is %s, pinned is %s", pin.Package, pin.Version, got, pin.SHA256)
	}
	return replace(kept, data)
}

// unpack returns the named files of a package.
func unpack(ctx context.Context, deb string, names ...string) (map[string][]byte, error) {
	stream, err := run(ctx, "", "dpkg-deb", "--fsys-tarfile", deb)
	if err != nil {
		return nil, err
	}
	wanted := map[string]bool{}
	for _, n := range names {
		wanted[n] = true
	}
	content := map[string][]byte{}
	tr := tar.NewReader(bytes.NewReader(stream))
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("unpack %s: %w", deb, err)
		}
		name := strings.TrimPrefix(path.Clean(h.Name), "./")
		if h.Typeflag != tar.TypeReg || !wanted[name] {
			continue
		}
		if content[name], err = io.ReadAll(tr); err != nil {
			return nil, fmt.Errorf("unpack %s: %w", deb, err)
		}
	}
	for _, n := range names {
		if content[n] == nil {
			return nil, fmt.Errorf("unpack %s: no file %s", deb, n)
		}
	}
	return content, nil
}

// applets asks busybox for its applets and links each beside it.
func applets(ctx context.Context, target string, program []byte) ([]file, error) {
	dir, err := os.MkdirTemp("", "kelson-image-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	bin := filepath.Join(dir, "busybox")
	if err := os.WriteFile(bin, program, 0o755); err != nil {
		return nil, err
	}
	list, err := run(ctx, "", bin, "--list")
	if err != nil {
		return nil, err
	}
	names := strings.Fields(string(list))
	sort.Strings(names)
	var links []file
	for _, name := range names {
		if name == path.Base(target) {
			continue
		}
		links = append(links, file{Path: path.Join(path.Dir(target), name), Mode: 0o777, Link: path.Base(target)})
	}
	return links, nil
}

// run returns a command's output; its complaints become the error.
func run(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(said.Bytes()))
	}
	return out, nil
}
