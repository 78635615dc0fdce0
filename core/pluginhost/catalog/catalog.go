package catalog

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/kelson-io/kelson/core/datadir"
	"github.com/kelson-io/kelson/core/pluginhost/program"
)

// Executable is the name of the program in the payload's bin that holds all
// bundled plugins.
const Executable = "kelson-plugins"

// Deps is what a Catalog works with.
type Deps struct {
	Layout datadir.Layout // Bin is in the payload that holds the bundled plugins
	File   string         // the administrator's catalog; "" for the one in Layout.Etc
	Log    hclog.Logger   // nil: silent
}

// Catalog is the catalogs, the lock and the folders of plugins.
type Catalog struct {
	layout datadir.Layout
	file   string
	chosen bool // file was named: it must exist
	log    hclog.Logger
	now    func() time.Time
	at     func(step string) // tests end the process here
}

// New returns a Catalog. It touches no file.
func New(deps Deps) *Catalog {
	c := &Catalog{layout: deps.Layout, file: deps.File, chosen: deps.File != "", log: deps.Log, now: time.Now, at: func(string) {}}
	if c.file == "" {
		c.file = deps.Layout.EtcPath(FileName)
	}
	if c.log == nil {
		c.log = hclog.NewNullLogger()
	}
	return c
}

// File is the path of the administrator's catalog.
func (c *Catalog) File() string { return c.file }

// Check reads both catalogs and the lock, and reports what is wrong with them.
func (c *Catalog) Check() error {
	if _, err := c.load(); err != nil {
		return err
	}
	_, err := c.readLock()
	return err
}

// plugins returns a path under plugins/ of the data dir.
func (c *Catalog) plugins(elem ...string) string {
	return filepath.Join(append([]string{c.layout.Root, "plugins"}, elem...)...)
}

func (c *Catalog) payload() string     { return filepath.Dir(c.layout.Bin) }
func (c *Catalog) bundledFile() string { return filepath.Join(c.payload(), "etc", FileName) }

// relative is path as the lock keeps it, so that a data dir can be moved.
func (c *Catalog) relative(path string) string {
	if rel, err := filepath.Rel(c.layout.Root, path); err == nil && filepath.IsLocal(rel) {
		return rel
	}
	return path
}

func (c *Catalog) absolute(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(c.layout.Root, path)
}

// Resolve returns the program that runs for a plugin: the one that the catalogs
// name, or the generation that was gone back to when that one had failed. A new
// one becomes a generation of the lock.
func (c *Catalog) Resolve(kind, name string) (program.Program, error) {
	s, err := c.load()
	if err != nil {
		return program.Program{}, err
	}
	e, ok := s.find(kind, name)
	if !ok {
		return program.Program{}, c.unlisted(s, kind, name)
	}
	if !e.On() {
		return program.Program{}, &Refused{Plugin: e.Plugin(), Step: "catalog", File: fmt.Sprintf("%s:%d", e.File, e.Line), Expected: "enabled", Found: "enabled: false", Remedy: fmt.Sprintf("run 'kelson plugin enable %s/%s'", kind, name)}
	}
	var p program.Program
	err = c.change(func(l *lockFile) (changed bool, err error) {
		p, changed, err = c.choose(e, s, l)
		return changed, err
	})
	return p, err
}

// choose verifies what the catalogs name and settles it in the lock.
func (c *Catalog) choose(e Entry, s set, l *lockFile) (program.Program, bool, error) {
	r := l.record(e.Kind, e.Name)
	found, err := c.verify(e, s.keys, r)
	if err != nil {
		return program.Program{}, false, err
	}
	r = l.make(e.Kind, e.Name)
	known := r.of(found)
	switch {
	case known == nil:
		found.Added = c.now().UTC()
		c.forget(r, r.add(found))
		return c.program(e, *r.active()), true, nil
	case known.Failed != "" && r.active() != known:
		g := *r.active()
		if err := c.verifyGeneration(e, g); err != nil {
			return program.Program{}, false, err
		}
		return c.program(e, g), false, nil
	default:
		changed := r.Active != known.Generation || known.Path != found.Path
		r.Active, known.Path = known.Generation, found.Path // a new payload may hold the same program
		return c.program(e, *known), changed, nil
	}
}

func (c *Catalog) program(e Entry, g Generation) program.Program {
	p := program.Program{
		Kind: e.Kind, Name: e.Name, Version: g.Version, Path: c.absolute(g.Path), Args: slices.Clone(g.Args),
		SHA256: g.SHA256, Lifetime: program.Lifetime(g.Lifetime), Protocols: slices.Clone(g.Protocols), Generation: g.Generation,
	}
	p.Dir = filepath.Dir(p.Path)
	if !g.Bundled {
		p.Dir = c.plugins(e.Kind, e.Name, g.Version)
	}
	if e.Lifetime != "" {
		p.Lifetime = program.Lifetime(e.Lifetime)
	}
	return p
}

// Good notes that p ran well: it can be gone back to.
func (c *Catalog) Good(p program.Program) error {
	return c.change(func(l *lockFile) (bool, error) {
		r := l.record(p.Kind, p.Name)
		if r == nil {
			return false, nil // removed meanwhile
		}
		g := r.generation(p.Generation)
		if g == nil || g.SHA256 != p.SHA256 || g.Good != nil && r.Active == g.Generation && g.Failed == "" {
			return false, nil
		}
		now := c.now().UTC()
		g.Good, g.Failed = &now, ""
		return true, nil
	})
}

// Rollback marks the active generation as failed, for the reason given, and
// returns the last one that ran well. Without such a one nothing changes.
func (c *Catalog) Rollback(kind, name, reason string) (program.Program, error) {
	s, err := c.load()
	if err != nil {
		return program.Program{}, err
	}
	e, ok := s.find(kind, name)
	if !ok {
		return program.Program{}, c.unlisted(s, kind, name)
	}
	var p program.Program
	err = c.change(func(l *lockFile) (bool, error) {
		r := l.make(kind, name)
		good := r.lastGood()
		if good == nil {
			return false, &Refused{Plugin: e.Plugin(), Step: "rollback", File: c.lockPath(), Expected: "an earlier generation that ran well", Found: "none", Remedy: fmt.Sprintf("see 'kelson plugin info %s/%s'; install another version", kind, name)}
		}
		if err := c.verifyGeneration(e, *good); err != nil {
			return false, err
		}
		if failed := r.active(); failed != nil {
			failed.Failed = strings.TrimSpace(reason)
			if failed.Failed == "" {
				failed.Failed = "rolled back"
			}
		}
		r.Active = good.Generation
		p = c.program(e, *good)
		return true, nil
	})
	if err == nil {
		c.log.Warn("Plugin rolled back", "plugin", e.Plugin(), "version", p.Version, "generation", p.Generation, "reason", reason)
	}
	return p, err
}

// forget removes the folders of generations that nothing refers to any more.
func (c *Catalog) forget(r *Record, gone []Generation) {
	for _, g := range gone {
		kept := slices.ContainsFunc(r.Generations, func(o Generation) bool { return o.Version == g.Version && !o.Bundled })
		if g.Bundled || kept {
			continue
		}
		if err := os.RemoveAll(c.plugins(r.Kind, r.Name, g.Version)); err != nil {
			c.log.Warn("Old plugin version stays", "plugin", plugin(r.Kind, r.Name), "version", g.Version, "err", err)
		}
	}
}
