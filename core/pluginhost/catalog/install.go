package catalog

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"

	"github.com/kelson-io/kelson/core/datadir"
	"github.com/kelson-io/kelson/sdk/manifest"
	"github.com/kelson-io/kelson/sdk/sign"
)

// Commit installs what was staged: the folder gets its place, the lock the
// generation, and the administrator's catalog the entry, in this order. Killed
// in between, the plugin is as it was, and installing again completes it. The
// running plugin changes only when the host starts it anew.
func (s *Staged) Commit() error {
	if s.held == nil {
		return errors.New("install: already done")
	}
	return errors.Join(s.commit(), s.Discard())
}

func (s *Staged) commit() error {
	c, m := s.catalog, s.Manifest
	c.at("sync")
	if err := syncTree(s.dir); err != nil {
		return err
	}
	if err := s.place(); err != nil {
		return err
	}
	s.subject.dir = c.plugins(m.Kind, m.Name, m.Version)
	s.subject.executable = filepath.Join(s.subject.dir, filepath.FromSlash(m.Exec))
	err := c.change(func(l *lockFile) (bool, error) {
		g := c.generation(s.subject)
		r := l.make(m.Kind, m.Name)
		if known := r.of(g); known != nil {
			known.Failed, known.Signer, known.Source, r.Active = "", g.Signer, g.Source, known.Generation
			return true, nil
		}
		g.Added = c.now().UTC()
		c.forget(r, r.add(g))
		return true, nil
	})
	if err != nil {
		return err
	}
	if err := c.editFile(s.list); err != nil {
		return err
	}
	if err := c.trust(s.opt.Trust); err != nil {
		return err
	}
	c.at("done")
	return nil
}

// place moves the files to their folder. One that is there with the same files
// is replaced too: it may have been changed.
func (s *Staged) place() error {
	c, m := s.catalog, s.Manifest
	dir := c.plugins(m.Kind, m.Name, m.Version)
	for _, parent := range []string{c.plugins(m.Kind), c.plugins(m.Kind, m.Name)} {
		if err := datadir.MkdirAll(parent, 0o755); err != nil {
			return err
		}
	}
	if err := s.mayReplace(dir); err != nil {
		return err
	}
	c.at("place")
	err := unix.Renameat2(unix.AT_FDCWD, s.dir, unix.AT_FDCWD, dir, unix.RENAME_EXCHANGE)
	if errors.Is(err, fs.ErrNotExist) {
		err = os.Rename(s.dir, dir)
	} else if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) { // not on this file system
		err = os.Rename(dir, s.dir+".old")
		if err == nil {
			err = os.Rename(s.dir, dir)
		}
	}
	if err != nil {
		return fmt.Errorf("install: %w", err)
	}
	for _, p := range []string{filepath.Dir(dir), c.plugins(m.Kind), c.plugins()} {
		if err := syncPath(p); err != nil {
			return err
		}
	}
	c.at("placed")
	return nil
}

// mayReplace refuses other files under a version that was installed before:
// one version is one program.
func (s *Staged) mayReplace(dir string) error {
	l, err := s.catalog.readLock()
	if err != nil {
		return err
	}
	r := l.record(s.Manifest.Kind, s.Manifest.Name)
	if r == nil {
		return nil
	}
	i := slices.IndexFunc(r.Generations, func(g Generation) bool { return g.Version == s.Manifest.Version && !g.Bundled })
	if i < 0 || r.Generations[i].Manifest == s.subject.digest {
		return nil
	}
	return &Refused{
		Plugin: plugin(s.Manifest.Kind, s.Manifest.Name), Step: "install", File: filepath.Join(dir, manifest.FileName),
		Expected: "SHA-256 " + r.Generations[i].Manifest, Found: s.subject.digest,
		Remedy: fmt.Sprintf("version %s is installed with other content: give the new one another version, or run 'kelson plugin remove %s/%s@%s' first", s.Manifest.Version, s.Manifest.Kind, s.Manifest.Name, s.Manifest.Version),
	}
}

// list writes the entry.
func (s *Staged) list(plugins *yaml.Node) {
	e := entryNode(plugins, s.Manifest.Kind, s.Manifest.Name)
	put(e, "version", s.Manifest.Version)
	put(e, "sha256", s.SHA256)
	drop(e, "enabled")
	if s.opt.Unsigned && s.Signer == "" {
		put(e, "signature", SignatureOptional)
	}
}

// trust adds keys to the administrator's catalog.
func (c *Catalog) trust(keys []sign.PublicKey) error {
	if len(keys) == 0 {
		return nil
	}
	all, err := c.load()
	if err != nil {
		return err
	}
	return c.editRoot(func(root *yaml.Node) {
		list := child(child(root, "trust", yaml.MappingNode), "keys", yaml.SequenceNode)
		for _, k := range keys {
			if slices.ContainsFunc(all.keys, func(o sign.PublicKey) bool { return o.String() == k.String() }) {
				continue
			}
			n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
			put(n, "name", k.ID.String())
			put(n, "key", k.String())
			list.Content = append(list.Content, n)
		}
		list.Style = 0
	})
}

// Remove takes a plugin out of the administrator's catalog and the lock, then
// deletes its files. With a version, only that one goes, which must not be the
// one that is listed or runs.
func (c *Catalog) Remove(kind, name, version string) error {
	s, err := c.load()
	if err != nil {
		return err
	}
	e, listed := s.find(kind, name)
	versions := c.versions(kind, name)
	switch {
	case listed && e.Bundled && len(versions) == 0:
		return &Refused{Plugin: e.Plugin(), Step: "remove", File: c.bundledFile(), Expected: "an installed plugin", Found: "a bundled one", Remedy: fmt.Sprintf("'kelson plugin disable %s/%s' keeps it from running", kind, name)}
	case !listed && len(versions) == 0:
		return c.unlisted(s, kind, name)
	case version != "" && !slices.Contains(versions, version):
		return &Refused{Plugin: plugin(kind, name), Step: "remove", File: c.plugins(kind, name), Expected: "version " + version, Found: fmt.Sprint(versions), Remedy: "see 'kelson plugin list'"}
	case version != "" && listed && e.Version == version && !e.Bundled && len(versions) > 1:
		return &Refused{Plugin: e.Plugin(), Step: "remove", File: fmt.Sprintf("%s:%d", e.File, e.Line), Expected: "a version that is not listed", Found: version, Remedy: "install another version first, or remove the plugin as a whole"}
	}
	held, err := c.hold(".install.lock")
	if err != nil {
		return err
	}
	if version != "" && len(versions) > 1 {
		err = c.removeVersion(kind, name, version)
	} else {
		err = c.removeAll(kind, name)
	}
	return errors.Join(err, c.sweep(), held.Unlock())
}

func (c *Catalog) removeVersion(kind, name, version string) error {
	err := c.change(func(l *lockFile) (bool, error) {
		r := l.record(kind, name)
		if r == nil {
			return false, nil
		}
		if g := r.active(); g != nil && g.Version == version {
			return false, &Refused{Plugin: plugin(kind, name), Step: "remove", File: c.lockPath(), Expected: "a version that does not run", Found: version, Remedy: "install another version first, or remove the plugin as a whole"}
		}
		before := len(r.Generations)
		r.Generations = slices.DeleteFunc(r.Generations, func(g Generation) bool { return g.Version == version && !g.Bundled })
		return len(r.Generations) != before, nil
	})
	if err != nil {
		return err
	}
	return c.trash(c.plugins(kind, name, version))
}

func (c *Catalog) removeAll(kind, name string) error {
	admin, err := readCatalog(c.file, false)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(admin.Plugins, func(e Entry) bool { return e.Kind == kind && e.Name == name }) {
		err := c.editFile(func(plugins *yaml.Node) { removeNode(plugins, entryNode(plugins, kind, name)) })
		if err != nil {
			return err
		}
	}
	err = c.change(func(l *lockFile) (bool, error) {
		before := len(l.Plugins)
		l.Plugins = slices.DeleteFunc(l.Plugins, func(r *Record) bool { return r.Kind == kind && r.Name == name })
		return len(l.Plugins) != before, nil
	})
	if err != nil {
		return err
	}
	return c.trash(c.plugins(kind, name))
}

// trash moves a folder away in one step; sweep deletes it.
func (c *Catalog) trash(dir string) error {
	tmp, err := os.MkdirTemp(c.plugins(), stagePrefix)
	if err != nil {
		return fmt.Errorf("remove: %w", err)
	}
	c.at("trash")
	if err := os.Rename(dir, filepath.Join(tmp, "old")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove: %w", err)
	}
	return nil
}
