package catalog

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kelson-io/kelson/sdk/manifest"
)

// Item is one plugin as `kelson plugin list` shows it.
type Item struct {
	Kind     string   `json:"kind"`
	Name     string   `json:"name"`
	Version  string   `json:"version,omitempty"` // by the catalog
	Versions []string `json:"versions,omitempty"`
	Listed   bool     `json:"listed"`
	Enabled  bool     `json:"enabled"`
	Default  bool     `json:"default"`
	Bundled  bool     `json:"bundled"`
	Active   uint64   `json:"generation,omitempty"`    // of the lock
	Running  string   `json:"activeVersion,omitempty"` // of that generation
	Note     string   `json:"note,omitempty"`          // what is unusual
}

// List returns every plugin that is listed or that lies in the data dir.
func (c *Catalog) List() ([]Item, error) {
	s, err := c.load()
	if err != nil {
		return nil, err
	}
	l, err := c.readLock()
	if err != nil {
		return nil, err
	}
	items := []Item{}
	for _, e := range s.entries {
		items = append(items, c.item(e, l.record(e.Kind, e.Name)))
	}
	for _, kind := range manifest.Kinds() {
		for _, name := range folders(c.plugins(kind)) {
			if _, listed := s.find(kind, name); listed || !manifest.ValidName(name) {
				continue
			}
			versions := c.versions(kind, name)
			items = append(items, Item{Kind: kind, Name: name, Versions: versions, Note: "not listed: never runs"})
		}
	}
	return items, nil
}

func (c *Catalog) item(e Entry, r *Record) Item {
	it := Item{Kind: e.Kind, Name: e.Name, Version: e.Version, Versions: c.versions(e.Kind, e.Name), Listed: true, Enabled: e.On(), Default: e.Default, Bundled: e.Bundled}
	if r != nil && r.active() != nil {
		it.Active, it.Running = r.Active, r.active().Version
		for _, g := range slices.Backward(r.Generations) {
			if g.Version == e.Version && g.Failed != "" && g.Generation != r.Active {
				it.Note = fmt.Sprintf("%s rolled back: %s", g.Version, g.Failed)
				break
			}
		}
	}
	if !e.Bundled && !slices.Contains(it.Versions, e.Version) {
		it.Note = "not installed"
	}
	var unlisted []string
	for _, v := range it.Versions {
		known := r != nil && slices.ContainsFunc(r.Generations, func(g Generation) bool { return g.Version == v && !g.Bundled })
		if (v != e.Version || e.Bundled) && !known {
			unlisted = append(unlisted, v)
		}
	}
	if len(unlisted) > 0 && it.Note == "" {
		it.Note = "not listed, never run: " + strings.Join(unlisted, ", ")
	}
	return it
}

// versions are the installed versions of a plugin, in the order of names.
func (c *Catalog) versions(kind, name string) []string {
	return slices.DeleteFunc(folders(c.plugins(kind, name)), func(v string) bool { return !manifest.ValidVersion(v) })
}

// folders lists the folders in dir; a dir that cannot be read has none.
func folders(dir string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), ".") {
			out = append(out, e.Name())
		}
	}
	return out
}

// Info is everything that is known of one plugin.
type Info struct {
	Item
	Summary      string             `json:"summary,omitempty"`
	Lifetime     string             `json:"lifetime,omitempty"`
	Protocols    []uint32           `json:"protocols,omitempty"`
	Capabilities []string           `json:"capabilities,omitempty"`
	Requests     *manifest.Requests `json:"requests,omitempty"`
	Program      string             `json:"program,omitempty"`
	Signer       string             `json:"signer,omitempty"`
	ListedIn     string             `json:"listedIn,omitempty"` // file:line
	Config       json.RawMessage    `json:"config,omitempty"`
	Secrets      []string           `json:"secrets,omitempty"`
	Schema       json.RawMessage    `json:"configSchema,omitempty"`
	Generations  []Generation       `json:"generations,omitempty"`
	Problem      string             `json:"problem,omitempty"` // why it would not run
	Hint         string             `json:"hint,omitempty"`
}

// Info describes a plugin; that it would not run is part of the answer.
func (c *Catalog) Info(kind, name string) (Info, error) {
	s, err := c.load()
	if err != nil {
		return Info{}, err
	}
	l, err := c.readLock()
	if err != nil {
		return Info{}, err
	}
	e, ok := s.find(kind, name)
	if !ok {
		return Info{}, c.unlisted(s, kind, name)
	}
	r := l.record(kind, name)
	info := Info{Item: c.item(e, r), ListedIn: fmt.Sprintf("%s:%d", e.File, e.Line), Config: e.Config, Summary: e.Summary}
	for name := range e.Secrets {
		info.Secrets = append(info.Secrets, name)
	}
	slices.Sort(info.Secrets)
	if r != nil {
		info.Generations = r.Generations
	}
	at := c.subject(e, s.keys, r)
	for _, step := range c.checks(e) {
		if _, err := step.run(at); err != nil {
			err = withPlugin(err, e.Plugin())
			info.Problem, info.Hint = err.Error(), hint(err)
			break
		}
	}
	m := at.manifest
	info.Lifetime, info.Protocols, info.Capabilities, info.Schema = m.Lifetime, m.Protocols, m.Capabilities, m.ConfigSchema
	info.Program, info.Signer = at.executable, at.signer
	if e.Lifetime != "" {
		info.Lifetime = e.Lifetime
	}
	if m.Summary != "" {
		info.Summary = m.Summary
	}
	if !e.Bundled && m.Name != "" {
		info.Requests = &m.Requests
	}
	return info, nil
}

func hint(err error) string {
	var h interface{ Hint() string }
	if errors.As(err, &h) {
		return h.Hint()
	}
	return ""
}

// Default is the name of the kind's plugin that runs when none is chosen, "" if
// there is none.
func (c *Catalog) Default(kind string) (string, error) {
	s, err := c.load()
	if err != nil {
		return "", err
	}
	for _, e := range s.entries {
		if e.Kind == kind && e.Default && e.On() {
			return e.Name, nil
		}
	}
	return "", nil
}

// Settings is what the catalog sets for a plugin.
type Settings struct {
	Config  json.RawMessage            // an object; empty: none
	Secrets map[string]json.RawMessage // as JSON strings
}

// Settings reads the plugin's configuration and its secrets. A secret's file
// must not be readable by other users.
func (c *Catalog) Settings(kind, name string) (Settings, error) {
	s, err := c.load()
	if err != nil {
		return Settings{}, err
	}
	e, ok := s.find(kind, name)
	if !ok {
		return Settings{}, c.unlisted(s, kind, name)
	}
	return e.settings()
}

func (e Entry) settings() (Settings, error) {
	out := Settings{Config: e.Config, Secrets: map[string]json.RawMessage{}}
	for name, from := range e.Secrets {
		value, err := readSecret(from.FromFile)
		if err != nil {
			return Settings{}, withPlugin(err, e.Plugin())
		}
		if out.Secrets[name], err = json.Marshal(value); err != nil {
			return Settings{}, fmt.Errorf("secret %s: %w", name, err)
		}
	}
	return out, nil
}

// maxSecret bounds a secret's file.
const maxSecret = 64 << 10

func readSecret(path string) (string, error) {
	e := &Refused{Step: "secret", File: path}
	var st unix.Stat_t
	err := unix.Stat(path, &st)
	switch me := uint32(os.Geteuid()); {
	case err != nil:
		e.Err, e.Remedy = err, "write the secret into this file, or correct fromFile in the plugin catalog"
	case st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size > maxSecret:
		e.Expected, e.Found, e.Remedy = fmt.Sprintf("a file of at most %d bytes", maxSecret), "something else", "correct fromFile in the plugin catalog"
	case st.Uid != 0 && st.Uid != me || st.Mode&0o077 != 0:
		e.Expected, e.Found, e.Remedy = "a file that only root can read", fmt.Sprintf("mode %04o, user id %d", st.Mode&0o7777, st.Uid), "chown root "+path+" && chmod 0600 "+path
	default:
		data, err := os.ReadFile(path)
		if err != nil {
			return "", fmt.Errorf("read secret: %w", err)
		}
		return strings.TrimRight(string(data), "\r\n"), nil
	}
	return "", e
}
