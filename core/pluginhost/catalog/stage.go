package catalog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/kelson-io/kelson/core/datadir"
	"github.com/kelson-io/kelson/sdk/manifest"
	"github.com/kelson-io/kelson/sdk/sign"
)

const stagePrefix = ".stage-"

// Options is what an installation is told.
type Options struct {
	Source   string           // folder, archive, or URL
	SHA256   string           // of the archive; needed for a URL
	Trust    []sign.PublicKey // trusted besides those of the catalog, and added to it
	Unsigned bool             // accept a plugin without a signature by a trusted key
}

// Staged is a plugin that was fetched and checked, and not installed yet.
// Either Commit or Discard must be called.
type Staged struct {
	Manifest manifest.Manifest
	Signer   string   // id of the key; empty: see Unsigned
	Unsigned string   // why there is no signer
	SHA256   string   // of the executable
	Replaces string   // version that is listed now
	Wider    []string // privileges that the listed version did not ask for
	Source   string

	catalog *Catalog
	held    *datadir.Held
	dir     string
	subject *subject
	opt     Options
}

// Stage fetches a plugin into a scratch folder and checks everything that can
// be checked: paths, manifest, digests, signature, platform, schema, what the
// program says of itself, and the configuration that the catalog has for it.
// Nothing that is installed changes. Until the Staged ends, other
// installations wait.
func (c *Catalog) Stage(ctx context.Context, opt Options) (*Staged, error) {
	from, err := parseSource(opt.Source, opt.SHA256)
	if err != nil {
		return nil, err
	}
	all, err := c.load()
	if err != nil {
		return nil, err
	}
	held, err := c.hold(".install.lock")
	if err != nil {
		return nil, err
	}
	s := &Staged{catalog: c, held: held, opt: opt, Source: from.text}
	if err := s.fill(ctx, from, all); err != nil {
		return nil, errors.Join(err, s.Discard())
	}
	return s, nil
}

// Discard forgets the staged files. After Commit it does nothing.
func (s *Staged) Discard() error {
	if s.held == nil {
		return nil
	}
	err := s.catalog.sweep()
	err = errors.Join(err, s.held.Unlock())
	s.held = nil
	return err
}

// sweep removes what an installation left behind; the caller holds its lock.
func (c *Catalog) sweep() error {
	entries, err := os.ReadDir(c.plugins())
	if err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), stagePrefix) {
			errs = append(errs, os.RemoveAll(c.plugins(e.Name())))
		}
	}
	return errors.Join(errs...)
}

func (s *Staged) fill(ctx context.Context, from source, all set) error {
	c := s.catalog
	if err := c.sweep(); err != nil { // of an installation that was killed
		return err
	}
	tmp, err := os.MkdirTemp(c.plugins(), stagePrefix)
	if err != nil {
		return fmt.Errorf("install: %w", err)
	}
	s.dir = filepath.Join(tmp, "files")
	if err := os.Mkdir(s.dir, 0o755); err != nil {
		return fmt.Errorf("install: %w", err)
	}
	c.at("fetch")
	if err := from.fetch(ctx, s.dir); err != nil {
		return err
	}
	c.at("check")
	path := filepath.Join(s.dir, manifest.FileName)
	data, err := os.ReadFile(path)
	if err != nil {
		return &Refused{Step: "install", File: s.Source, Expected: manifest.FileName, Found: "none", Err: err, Remedy: "a plugin has a plugin.yaml at its top: 'PROGRAM manifest' writes one"}
	}
	if s.Manifest, err = manifest.Parse(data, manifest.FileName); err != nil {
		return err
	}
	if err := s.modes(); err != nil {
		return err
	}
	return s.check(ctx, all)
}

// modes refuses files that the manifest does not name, and sets the modes.
func (s *Staged) modes() error {
	return filepath.WalkDir(s.dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.Chmod(p, 0o755)
		}
		rel, err := filepath.Rel(s.dir, p)
		if err != nil {
			return err
		}
		name := filepath.ToSlash(rel)
		if _, ok := s.Manifest.Files[name]; !ok && name != manifest.FileName && name != manifest.SignatureName {
			return &Refused{Step: "files", File: name, Expected: "only files that plugin.yaml names", Found: "one more", Remedy: "leave it out, or add its digest to plugin.yaml"}
		}
		mode := os.FileMode(0o444)
		if name == s.Manifest.Exec {
			mode = 0o555
		}
		return os.Chmod(p, mode)
	})
}

// entry is what the catalog will say of the plugin.
func (s *Staged) entry(all set) Entry {
	m := s.Manifest
	e, listed := all.find(m.Kind, m.Name)
	if listed && !e.Bundled {
		s.Replaces = e.Version
	}
	if e.Bundled {
		s.Replaces = e.Version + ", bundled"
		e.Bundled, e.Args, e.Protocols, e.Lifetime, e.SHA256 = false, nil, nil, "", ""
	}
	e.Kind, e.Name, e.Version = m.Kind, m.Name, m.Version
	if s.opt.Unsigned {
		e.Signature = SignatureOptional
	}
	return e
}

func (s *Staged) check(ctx context.Context, all set) error {
	c, e := s.catalog, s.entry(all)
	s.subject = &subject{entry: e, keys: slices.Concat(all.keys, s.opt.Trust), dir: s.dir, source: s.Source}
	for _, step := range []func(*subject) (string, error){checkManifest, checkSignature, checkFiles, checkPlatform, checkSettings} {
		if _, err := step(s.subject); err != nil {
			return withPlugin(err, e.Plugin())
		}
	}
	s.Signer, s.Unsigned, s.SHA256 = s.subject.signer, s.subject.unsigned, s.subject.sha256
	f, err := openOwned(s.subject.executable)
	if err != nil {
		return err
	}
	defer f.Close()
	c.at("describe")
	if err := describe(ctx, f, s.Manifest); err != nil {
		return withPlugin(err, e.Plugin())
	}
	s.Wider = c.wider(all, s.Manifest)
	return nil
}

// wider lists the privileges that the installed version did not ask for.
func (c *Catalog) wider(all set, m manifest.Manifest) []string {
	e, ok := all.find(m.Kind, m.Name)
	if !ok || e.Bundled || e.Version == m.Version {
		return nil
	}
	file := c.plugins(e.Kind, e.Name, e.Version, manifest.FileName)
	data, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	old, err := manifest.Parse(data, file)
	if err != nil {
		return nil
	}
	before, out := Privileges(old.Requests), []string{}
	for _, p := range Privileges(m.Requests) {
		if !slices.Contains(before, p) {
			out = append(out, p)
		}
	}
	return out
}

// Privileges names what a plugin asks for, for people.
func Privileges(r manifest.Requests) []string {
	out := []string{}
	for _, name := range r.Caps {
		out = append(out, "capability "+name)
	}
	for _, p := range r.Paths {
		out = append(out, "path "+p)
	}
	if r.Network {
		out = append(out, "network")
	}
	if r.Memory != "" {
		out = append(out, "memory up to "+r.Memory)
	}
	return out
}

// checkSettings compiles the schema and holds the catalog's configuration to it.
func checkSettings(s *subject) (string, error) {
	set, err := s.entry.settings()
	if err != nil {
		return "", err
	}
	raw := s.manifest.ConfigSchema
	if len(raw) == 0 {
		return "no schema", nil
	}
	e := &Refused{Step: "schema", File: filepath.Join(s.dir, manifest.FileName), Remedy: "ask the plugin's author: configSchema must be a JSON Schema that stands for itself"}
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(string(raw)))
	if err != nil {
		e.Err = err
		return "", e
	}
	compiler := jsonschema.NewCompiler()
	compiler.UseLoader(noLoader{})
	const self = "plugin:///configSchema"
	if err := compiler.AddResource(self, doc); err != nil {
		e.Err = err
		return "", e
	}
	schema, err := compiler.Compile(self)
	if err != nil {
		e.Err = err
		return "", e
	}
	if len(set.Config) == 0 {
		return "no configuration", nil
	}
	config, err := jsonschema.UnmarshalJSON(strings.NewReader(string(set.Config)))
	if err == nil {
		err = schema.Validate(config)
	}
	if err != nil {
		return "", &Refused{Step: "config", File: fmt.Sprintf("%s:%d", s.entry.File, s.entry.Line), Err: oneLine(err), Remedy: fmt.Sprintf("correct the entry's config; 'kelson plugin info %s/%s -o yaml' shows the schema", s.entry.Kind, s.entry.Name)}
	}
	return fmt.Sprintf("valid, %d secrets", len(set.Secrets)), nil
}

// noLoader keeps a schema from reading files or URLs.
type noLoader struct{}

// Load refuses.
func (noLoader) Load(url string) (any, error) {
	return nil, fmt.Errorf("the schema refers to %s: it must stand for itself", path.Base(url))
}

// oneLine names each wrong value by its path.
func oneLine(err error) error {
	invalid, ok := errors.AsType[*jsonschema.ValidationError](err)
	if !ok {
		return err
	}
	var leaves []string
	var walk func(v *jsonschema.ValidationError)
	walk = func(v *jsonschema.ValidationError) {
		if len(v.Causes) == 0 {
			leaves = append(leaves, strings.ReplaceAll(v.Error(), "\n", " "))
		}
		for _, cause := range v.Causes {
			walk(cause)
		}
	}
	walk(invalid)
	return errors.New(strings.Join(leaves, "; "))
}
