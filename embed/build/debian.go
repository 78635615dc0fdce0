package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const (
	debianLock = "embed/debian.lock"
	debianHead = "# Debian packages of the payload: name, version, architecture, SHA-256 of the .deb.\n" +
		"# The names are kept by hand; `make debian-lock` renews the rest.\n"
	debianArch = "amd64"
)

// debPackage is one line of embed/debian.lock.
type debPackage struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Arch    string `json:"arch"`
	SHA256  string `json:"sha256"`
}

// file is the name that apt-get download gives the package.
func (p debPackage) file() string {
	return fmt.Sprintf("%s_%s_%s.deb", p.Name, strings.ReplaceAll(p.Version, ":", "%3a"), p.Arch)
}

func readDebianLock() ([]debPackage, error) {
	data, err := os.ReadFile(debianLock)
	if err != nil {
		return nil, err
	}
	return parseDebianLock(data)
}

// parseDebianLock reads the lock file; a line may hold a name only, until
// updateDebianLock fills in the rest.
func parseDebianLock(data []byte) ([]debPackage, error) {
	var out []debPackage
	sc := bufio.NewScanner(bytes.NewReader(data))
	for n := 1; sc.Scan(); n++ {
		line, _, _ := strings.Cut(sc.Text(), "#")
		f := strings.Fields(line)
		switch len(f) {
		case 0:
		case 1:
			out = append(out, debPackage{Name: f[0], Arch: debianArch})
		case 4:
			out = append(out, debPackage{f[0], f[1], f[2], f[3]})
		default:
			return nil, fmt.Errorf("%s:%d: want name, version, architecture, SHA-256", debianLock, n)
		}
	}
	return out, sc.Err()
}

// updateDebianLock pins what the configured mirrors offer now.
func (b *builder) updateDebianLock() error {
	pkgs, err := readDebianLock()
	if err != nil {
		return err
	}
	if _, err := b.output("apt-get", "update", "-qq"); err != nil {
		return err
	}
	versions, err := b.candidates(pkgs)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	out.WriteString(debianHead)
	for _, p := range pkgs {
		p.Version = versions[p.Name]
		if err := b.download(p); err != nil {
			return err
		}
		if p.SHA256, err = sumFile(filepath.Join(b.cache, p.file())); err != nil {
			return err
		}
		fmt.Fprintf(&out, "%s %s %s %s\n", p.Name, p.Version, p.Arch, p.SHA256)
	}
	return os.WriteFile(debianLock, out.Bytes(), 0o644)
}

// candidates asks apt once for what it would install of each package.
func (b *builder) candidates(pkgs []debPackage) (map[string]string, error) {
	args := []string{"policy"}
	for _, p := range pkgs {
		args = append(args, p.Name)
	}
	policy, err := b.output("apt-cache", args...)
	if err != nil {
		return nil, err
	}
	out := parsePolicy(policy)
	for _, p := range pkgs {
		if out[p.Name] == "" {
			return nil, fmt.Errorf("no mirror offers the Debian package %s", p.Name)
		}
	}
	return out, nil
}

// parsePolicy reads name → candidate from the output of apt-cache policy.
func parsePolicy(policy string) map[string]string {
	out := map[string]string{}
	var name string
	for line := range strings.Lines(policy) {
		line = strings.TrimRight(line, "\n")
		if !strings.HasPrefix(line, " ") {
			name = strings.TrimSuffix(line, ":")
			continue
		}
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "Candidate: "); ok && v != "(none)" {
			out[name] = v
		}
	}
	return out
}

// fetch returns the path of the package's verified file in the cache, and
// downloads it first if it is not there.
func (b *builder) fetch(p debPackage) (string, error) {
	if p.SHA256 == "" {
		return "", fmt.Errorf("%s does not pin %s; run: make debian-lock", debianLock, p.Name)
	}
	path := filepath.Join(b.cache, p.file())
	for attempt := range 3 {
		sum, err := sumFile(path)
		switch {
		case err == nil && sum == p.SHA256:
			return path, nil
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return "", err
		}
		// A damaged file goes; a version that apt's lists do not know may be
		// known to newer ones.
		if err == nil {
			if err := os.Remove(path); err != nil {
				return "", err
			}
		}
		if attempt == 1 && os.Geteuid() == 0 {
			if _, err := b.output("apt-get", "update", "-qq"); err != nil {
				return "", err
			}
		}
		if err := b.download(p); err != nil && attempt > 0 {
			return "", fmt.Errorf("the mirror has no %s %s as pinned in %s; after 'apt-get update', pin what it has: make debian-lock: %w",
				p.Name, p.Version, debianLock, err)
		}
	}
	return "", fmt.Errorf("%s %s does not have the SHA-256 pinned in %s; if that is meant: make debian-lock", p.Name, p.Version, debianLock)
}

func (b *builder) download(p debPackage) error {
	if err := os.MkdirAll(b.cache, 0o755); err != nil {
		return err
	}
	cmd := exec.CommandContext(b.ctx, "apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", p.Name+":"+p.Arch+"="+p.Version)
	cmd.Dir = b.cache
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get download %s: %w: %s", p.Name, err, bytes.TrimSpace(out))
	}
	return nil
}

// unpackDebian unpacks a package below dist/build/debian/<name>-<hash>, once.
func (b *builder) unpackDebian(p debPackage) (string, error) {
	dir := b.out("debian", p.Name+"-"+p.SHA256[:min(12, len(p.SHA256))])
	if _, err := os.Stat(dir); err == nil && p.SHA256 != "" {
		return dir, nil
	}
	deb, err := b.fetch(p)
	if err != nil {
		return "", err
	}
	tmp := dir + ".tmp"
	if err := os.RemoveAll(tmp); err != nil {
		return "", err
	}
	if err := os.MkdirAll(tmp, 0o755); err != nil {
		return "", err
	}
	if _, err := b.output("dpkg-deb", "-x", deb, tmp); err != nil {
		return "", err
	}
	return dir, os.Rename(tmp, dir)
}

// unpackOne serves other builds that want a pinned package.
func (b *builder) unpackOne(name string) error {
	pkgs, err := readDebianLock()
	if err != nil {
		return err
	}
	for _, p := range pkgs {
		if p.Name != name {
			continue
		}
		dir, err := b.unpackDebian(p)
		if err != nil {
			return err
		}
		link := b.out("debian", name)
		if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return os.Symlink(filepath.Base(dir), link)
	}
	return fmt.Errorf("%s does not name %s", debianLock, name)
}

func sumFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
