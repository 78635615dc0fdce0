package catalog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/kelson-io/kelson/sdk/manifest"
	"github.com/kelson-io/kelson/sdk/sign"
)

// hostProtocol is the major of each kind's contract that this host speaks.
const hostProtocol = 1

// subject is one plugin on its way through the verification; each step reads
// what those before it found out.
type subject struct {
	entry  Entry
	keys   []sign.PublicKey
	record *Record // nil: the lock does not know the plugin
	dir    string
	source string

	manifest   manifest.Manifest
	digest     string // of plugin.yaml
	raw        []byte // plugin.yaml
	executable string
	sha256     string // of the executable
	signer     string
	unsigned   string // why signer is empty
}

// check is one step; it returns a detail for people.
type check struct {
	name string
	run  func(*subject) (string, error)
}

// checks are the steps from discovery to a program that may be executed.
func (c *Catalog) checks(e Entry) []check {
	if e.Bundled {
		return []check{{"program", c.bundledProgram}, {"pin", c.pinned}, {"platform", checkPlatform}}
	}
	return []check{
		{"folder", checkFolder},
		{"manifest", checkManifest},
		{"signature", checkSignature},
		{"files", checkFiles},
		{"pin", c.pinned},
		{"platform", checkPlatform},
	}
}

func (c *Catalog) subject(e Entry, keys []sign.PublicKey, r *Record) *subject {
	return &subject{entry: e, keys: keys, record: r, dir: c.plugins(e.Kind, e.Name, e.Version)}
}

// verify runs all steps and returns what was found as a generation.
func (c *Catalog) verify(e Entry, keys []sign.PublicKey, r *Record) (Generation, error) {
	s := c.subject(e, keys, r)
	for _, step := range c.checks(e) {
		if _, err := step.run(s); err != nil {
			return Generation{}, withPlugin(err, e.Plugin())
		}
	}
	return c.generation(s), nil
}

func (c *Catalog) generation(s *subject) Generation {
	g := Generation{
		Version: s.entry.Version, Bundled: s.entry.Bundled, Source: s.source, Manifest: s.digest, SHA256: s.sha256, Path: c.relative(s.executable),
		Args: s.manifest.Args, Lifetime: s.manifest.Lifetime, Protocols: s.manifest.Protocols, Signer: s.signer,
	}
	return g
}

// verifyGeneration checks the files of an earlier generation.
func (c *Catalog) verifyGeneration(e Entry, g Generation) error {
	if !g.Bundled {
		s := c.subject(e, nil, nil)
		s.dir, s.entry.Version = c.plugins(e.Kind, e.Name, g.Version), g.Version
		for _, step := range []func(*subject) (string, error){checkFolder, checkManifest, checkFiles} {
			if _, err := step(s); err != nil {
				return withPlugin(err, e.Plugin())
			}
		}
		if s.digest != g.Manifest {
			return &Refused{Plugin: e.Plugin(), Step: "lock", File: filepath.Join(s.dir, manifest.FileName), Expected: "SHA-256 " + g.Manifest, Found: s.digest, Remedy: reinstall(e.Kind, e.Name)}
		}
	}
	f, err := Open(c.program(e, g))
	if err != nil {
		return err
	}
	return f.Close()
}

// bundledProgram takes what the catalog says for the manifest: the payload was
// verified as a whole when it was extracted.
func (c *Catalog) bundledProgram(s *subject) (string, error) {
	e := s.entry
	s.executable, s.source = filepath.Join(c.layout.Bin, Executable), "bundled"
	s.manifest = manifest.Manifest{Kind: e.Kind, Name: e.Name, Version: e.Version, Summary: e.Summary, Args: e.Args, Protocols: e.Protocols, Lifetime: e.Lifetime}
	if s.manifest.Args == nil {
		s.manifest.Args = []string{e.Kind, e.Name}
	}
	if s.manifest.Protocols == nil {
		s.manifest.Protocols = []uint32{hostProtocol}
	}
	if s.manifest.Lifetime == "" {
		s.manifest.Lifetime = map[string]string{"addon": "on-demand"}[e.Kind]
		if s.manifest.Lifetime == "" {
			s.manifest.Lifetime = "node"
		}
	}
	f, sum, err := openHashed(s.executable)
	if err != nil {
		return "", err
	}
	s.sha256 = sum
	return s.executable, f.Close()
}

func checkFolder(s *subject) (string, error) {
	if _, err := os.Lstat(s.dir); err != nil {
		return "", &Refused{Step: "folder", File: s.dir, Expected: "version " + s.entry.Version, Found: "nothing", Remedy: fmt.Sprintf("install it with 'kelson plugin install', or correct the version in %s:%d", s.entry.File, s.entry.Line)}
	}
	_, err := ownedFolder(s.dir)
	return s.dir, err
}

// checkManifest reads plugin.yaml and compares it with its path.
func checkManifest(s *subject) (string, error) {
	path := filepath.Join(s.dir, manifest.FileName)
	f, sum, err := openHashed(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if s.raw, err = io.ReadAll(io.LimitReader(f, 2<<20)); err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	if s.manifest, err = manifest.Parse(s.raw, path); err != nil {
		return "", err
	}
	m := s.manifest
	for _, pair := range []struct{ what, want, found string }{{"kind", s.entry.Kind, m.Kind}, {"name", s.entry.Name, m.Name}, {"version", s.entry.Version, m.Version}} {
		if pair.want != pair.found {
			return "", &Refused{Step: "manifest", File: path, Expected: pair.what + " " + pair.want, Found: pair.found, Remedy: "path, catalog and manifest must agree: install the plugin again"}
		}
	}
	if err := speaks(m, path); err != nil {
		return "", err
	}
	s.digest, s.executable = sum, filepath.Join(s.dir, filepath.FromSlash(m.Exec))
	return fmt.Sprintf("%s %s, contract %v", plugin(m.Kind, m.Name), m.Version, m.Protocols), nil
}

// speaks refuses a plugin whose contract this host does not know.
func speaks(m manifest.Manifest, path string) error {
	if slices.Contains(m.Protocols, hostProtocol) {
		return nil
	}
	return &Refused{Step: "contract", File: path, Expected: fmt.Sprintf("version %d of the contract for %s", hostProtocol, m.Kind), Found: fmt.Sprint(m.Protocols), Remedy: "install a version of the plugin that was built for this release of Kelson"}
}

// checkSignature verifies plugin.yaml.minisig over plugin.yaml.
func checkSignature(s *subject) (string, error) {
	path := filepath.Join(s.dir, manifest.SignatureName)
	e := &Refused{Step: "signature", File: path}
	signature, err := os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist) && !s.entry.needsSignature():
		s.unsigned = "not signed"
		return s.unsigned, nil
	case errors.Is(err, os.ErrNotExist):
		e.Expected, e.Found = "a signature by a trusted key", "none"
		e.Remedy = fmt.Sprintf("ask the plugin's author for one; or write 'signature: optional' into the entry for %s in the plugin catalog", s.entry.Plugin())
		return "", e
	case err != nil:
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	signed, err := sign.Verify(bytes.NewReader(s.raw), signature, s.keys)
	switch {
	case err == nil:
		s.signer = signed.By.String()
		return "by key " + s.signer, nil
	case errors.Is(err, sign.ErrUnknownKey) && s.entry.Signature == SignatureOptional:
		s.unsigned = err.Error()
		return s.unsigned, nil
	case errors.Is(err, sign.ErrUnknownKey):
		e.Expected, e.Found = "a signature by a trusted key ("+strings.Join(ids(s.keys), ", ")+")", err.Error()
		if len(s.keys) == 0 {
			e.Expected = "a signature by a trusted key (none is listed)"
		}
		e.Remedy = "add the author's public key under trust.keys of the plugin catalog, or install with --trust KEY.pub"
		return "", e
	default:
		e.Err, e.Remedy = err, "do not use these files: get the plugin from its author again"
		return "", e
	}
}

func ids(keys []sign.PublicKey) []string {
	out := make([]string, len(keys))
	for i, k := range keys {
		out[i] = k.ID.String()
	}
	return out
}

// checkFiles compares every file with its digest in the manifest.
func checkFiles(s *subject) (string, error) {
	for _, name := range slices.Sorted(maps.Keys(s.manifest.Files)) {
		path := filepath.Join(s.dir, filepath.FromSlash(name))
		f, sum, err := openHashed(path)
		if err != nil {
			return "", err
		}
		if err := f.Close(); err != nil {
			return "", err
		}
		want, _ := manifest.ParseDigest(s.manifest.Files[name])
		if sum != want {
			return "", &Refused{Step: "digest", File: path, Expected: "SHA-256 " + want, Found: sum, Remedy: reinstall(s.manifest.Kind, s.manifest.Name)}
		}
		if name == s.manifest.Exec {
			s.sha256 = sum
		}
	}
	return fmt.Sprintf("%d files", len(s.manifest.Files)), nil
}

// pinned holds the program to the catalog's digest, or to the lock's. A program
// that neither pins must be signed by a trusted key.
func (c *Catalog) pinned(s *subject) (string, error) {
	e := s.entry
	if e.SHA256 != "" {
		if e.SHA256 != s.sha256 {
			return "", &Refused{Step: "digest", File: s.executable, Expected: fmt.Sprintf("SHA-256 %s by %s:%d", e.SHA256, e.File, e.Line), Found: s.sha256, Remedy: "install the right program, or correct the catalog if it is meant"}
		}
		return "by the catalog", nil
	}
	if e.Bundled {
		return "", &Refused{Step: "digest", File: fmt.Sprintf("%s:%d", e.File, e.Line), Expected: "sha256 of " + s.executable, Found: "none", Remedy: "nothing runs without a digest: build the payload with 'make build'"}
	}
	if s.record != nil {
		for _, g := range slices.Backward(s.record.Generations) {
			if g.Version != e.Version || g.Bundled {
				continue
			}
			if g.Manifest == s.digest && g.SHA256 == s.sha256 {
				return "by the lock", nil
			}
			return "", &Refused{Step: "lock", File: filepath.Join(s.dir, manifest.FileName), Expected: "SHA-256 " + g.Manifest + " by " + c.lockPath(), Found: s.digest, Remedy: reinstall(e.Kind, e.Name)}
		}
	}
	if s.signer != "" {
		return "by key " + s.signer, nil
	}
	return "", &Refused{Step: "digest", File: fmt.Sprintf("%s:%d", e.File, e.Line), Expected: "sha256, an entry in the lock, or a valid signature", Found: "none", Remedy: fmt.Sprintf("install it with 'kelson plugin install %s', or write sha256: %s", s.dir, s.sha256)}
}

func checkPlatform(s *subject) (string, error) {
	f, err := openOwned(s.executable)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return "runs on this host", runnable(f)
}
