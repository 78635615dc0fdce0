package main

import (
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// auxTools are the programs of bin/aux: name → path in the Debian packages.
// xtables-nft-multi and kmod choose their command by the name they get.
func auxTools() map[string]string {
	return map[string]string{
		"nft": "usr/sbin/nft", "ip": "bin/ip", "conntrack": "usr/sbin/conntrack",
		"mount": "bin/mount", "umount": "bin/umount", "losetup": "sbin/losetup", "blkid": "sbin/blkid",
		"nsenter": "usr/bin/nsenter", "sysctl": "sbin/sysctl",
		"modprobe": "bin/kmod", "lsmod": "bin/kmod", "insmod": "bin/kmod", "rmmod": "bin/kmod", "modinfo": "bin/kmod", "depmod": "bin/kmod",
		"xtables-nft-multi": "usr/sbin/xtables-nft-multi",
		"iptables":          "usr/sbin/xtables-nft-multi", "iptables-save": "usr/sbin/xtables-nft-multi", "iptables-restore": "usr/sbin/xtables-nft-multi",
		"ip6tables": "usr/sbin/xtables-nft-multi", "ip6tables-save": "usr/sbin/xtables-nft-multi", "ip6tables-restore": "usr/sbin/xtables-nft-multi",
		"iptables-nft": "usr/sbin/xtables-nft-multi", "iptables-nft-save": "usr/sbin/xtables-nft-multi", "iptables-nft-restore": "usr/sbin/xtables-nft-multi",
		"ip6tables-nft": "usr/sbin/xtables-nft-multi", "ip6tables-nft-save": "usr/sbin/xtables-nft-multi", "ip6tables-nft-restore": "usr/sbin/xtables-nft-multi",
	}
}

// notAux tells the pinned packages that serve other builds only.
func notAux(pkg string) bool { return pkg == "busybox-static" }

// debTree finds files in the unpacked packages.
type debTree struct {
	pkgs []debPackage
	dirs []string        // of pkgs
	used map[string]bool // by package name: something of it was taken
}

// userspace builds dist/build/aux, the future bin/aux, and the licences of
// the packages that it came from.
func (b *builder) userspace() error {
	pkgs, err := readDebianLock()
	if err != nil {
		return err
	}
	t := debTree{used: map[string]bool{}}
	for _, p := range pkgs {
		dir, err := b.unpackDebian(p)
		if err != nil {
			return err
		}
		if !notAux(p.Name) {
			t.pkgs, t.dirs = append(t.pkgs, p), append(t.dirs, dir)
		}
	}
	aux := b.out("aux")
	if err := os.RemoveAll(aux); err != nil {
		return err
	}
	if err := b.auxPrograms(&t, aux); err != nil {
		return err
	}
	return b.auxLicences(&t)
}

// auxPrograms lays out the tools, the loader, and the libraries that they and
// the xtables modules need.
func (b *builder) auxPrograms(t *debTree, aux string) error {
	lib, exe := filepath.Join(aux, "lib"), filepath.Join(aux, "libexec")
	if err := os.MkdirAll(exe, 0o755); err != nil {
		return err
	}
	if err := b.auxexec(filepath.Join(lib, "auxexec")); err != nil {
		return err
	}
	var need []string // files whose libraries must be there
	for tool, from := range auxTools() {
		program := filepath.Base(from)
		src, err := t.find(from)
		if err != nil {
			return err
		}
		if err := place(src, filepath.Join(exe, program), 0o755); err != nil {
			return err
		}
		if tool != program {
			if err := os.Symlink(program, filepath.Join(exe, tool)); err != nil {
				return err
			}
		}
		if err := os.Symlink("lib/auxexec", filepath.Join(aux, tool)); err != nil {
			return err
		}
		need = append(need, src)
	}
	modules, err := t.glob("usr/lib/x86_64-linux-gnu/xtables/*.so")
	if err != nil {
		return err
	}
	for _, m := range modules {
		// Some modules are links to another: libxt_MASQUERADE.so is libxt_NAT.so.
		module, err := filepath.EvalSymlinks(m)
		if err != nil {
			return fmt.Errorf("module %s: %w", filepath.Base(m), err)
		}
		if err := place(module, filepath.Join(lib, "xtables", filepath.Base(m)), 0o644); err != nil {
			return err
		}
	}
	loader, err := t.find("lib/x86_64-linux-gnu/ld-linux-x86-64.so.2")
	if err != nil {
		return err
	}
	if err := place(loader, filepath.Join(lib, "ld.so"), 0o755); err != nil {
		return err
	}
	return t.libraries(append(need, modules...), lib)
}

// auxexec compiles the starter of all tools.
func (b *builder) auxexec(out string) error {
	bin := b.out("bin", "auxexec")
	const src = "embed/auxexec/auxexec.c"
	s, err := os.Stat(src)
	if err != nil {
		return err
	}
	if o, err := os.Stat(bin); err != nil || o.ModTime().Before(s.ModTime()) {
		if _, err := b.output("gcc", "-Os", "-static", "-Wall", "-Wextra", "-Werror", "-s", "-Wl,--build-id=none", "-o", bin, src); err != nil {
			return err
		}
	}
	return place(bin, out, 0o755)
}

// libraries copies to dir what the given ELF files need, directly or not.
func (t *debTree) libraries(files []string, dir string) error {
	seen := map[string]bool{"ld-linux-x86-64.so.2": true} // placed as ld.so, which answers to this name
	for len(files) > 0 {
		f, err := elf.Open(files[0])
		if err != nil {
			return fmt.Errorf("libraries of %s: %w", files[0], err)
		}
		names, err := f.ImportedLibraries()
		f.Close()
		if err != nil {
			return fmt.Errorf("libraries of %s: %w", files[0], err)
		}
		from := files[0]
		files = files[1:]
		for _, name := range names {
			if seen[name] {
				continue
			}
			seen[name] = true
			src, err := t.find("lib/x86_64-linux-gnu/"+name, "usr/lib/x86_64-linux-gnu/"+name)
			if err != nil {
				return fmt.Errorf("%s needs %s: %w", filepath.Base(from), name, err)
			}
			if err := place(src, filepath.Join(dir, name), 0o644); err != nil {
				return err
			}
			files = append(files, src)
		}
	}
	return nil
}

// find returns the regular file behind the first of the paths that any
// package has.
func (t *debTree) find(paths ...string) (string, error) {
	for _, p := range paths {
		for i, dir := range t.dirs {
			full := filepath.Join(dir, p)
			if _, err := os.Lstat(full); err != nil {
				continue
			}
			file, err := filepath.EvalSymlinks(full)
			if err != nil {
				return "", fmt.Errorf("find %s: %w", p, err)
			}
			t.used[t.pkgs[i].Name] = true
			return file, nil
		}
	}
	return "", fmt.Errorf("no package in %s has %s", debianLock, strings.Join(paths, " or "))
}

// glob returns the regular files, and the links to such, that match.
func (t *debTree) glob(pattern string) ([]string, error) {
	var out []string
	for i, dir := range t.dirs {
		files, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			if st, err := os.Stat(f); err == nil && st.Mode().IsRegular() {
				out = append(out, f)
				t.used[t.pkgs[i].Name] = true
			}
		}
	}
	slices.Sort(out)
	return out, nil
}

// auxLicences writes dist/build/etc: the list of packages that bin/aux came
// from, and their copyright files. A pinned package that nothing was taken
// from is an error, so that the lock stays true.
func (b *builder) auxLicences(t *debTree) error {
	etc := b.out("etc")
	if err := os.RemoveAll(etc); err != nil {
		return err
	}
	// The texts that the copyright files refer to.
	common, err := t.glob("usr/share/common-licenses/*")
	if err != nil {
		return err
	}
	for _, f := range common {
		if err := place(f, filepath.Join(etc, "licenses/common", filepath.Base(f)), 0o644); err != nil {
			return err
		}
	}
	for i, p := range t.pkgs {
		if !t.used[p.Name] {
			continue
		}
		// A package may share the documentation of another by a link.
		doc := p.Name
		if to, err := os.Readlink(filepath.Join(t.dirs[i], "usr/share/doc", doc)); err == nil {
			doc = filepath.Base(to)
		}
		src, err := t.find("usr/share/doc/" + doc + "/copyright")
		if err != nil {
			return err
		}
		if err := place(src, filepath.Join(etc, "licenses/debian", p.Name), 0o644); err != nil {
			return err
		}
	}
	var unused []error
	for _, p := range t.pkgs {
		if !t.used[p.Name] {
			unused = append(unused, fmt.Errorf("%s names %s, but nothing of it is used", debianLock, p.Name))
		}
	}
	if err := errors.Join(unused...); err != nil {
		return err
	}
	data, err := json.MarshalIndent(t.pkgs, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(etc, "debian-packages.json"), append(data, '\n'), 0o644)
}
