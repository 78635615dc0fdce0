package catalog

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/sdk/manifest"
	"github.com/kelson-io/kelson/sdk/manifest/strict"
	"github.com/kelson-io/kelson/sdk/sign"
)

// FileName is the catalog's name in the payload's etc and in /etc/kelson.
const FileName = "plugin-catalog.yaml"

// The values of Entry.Signature. Without one, a signature is wanted for kinds
// datastore and cni, and must be valid for all where it is there.
const (
	SignatureRequired = "required"
	SignatureOptional = "optional" // none, or one by an unknown key, will do
)

// Entry is one plugin of a catalog.
type Entry struct {
	Kind      string            `yaml:"kind"`
	Name      string            `yaml:"name"`
	Version   string            `yaml:"version"`
	Summary   string            `yaml:"summary"`
	Default   bool              `yaml:"default"` // the one of its kind when none is chosen
	Enabled   *bool             `yaml:"enabled"` // true unless written
	Bundled   bool              `yaml:"bundled"` // in the payload; in the bundled catalog only
	Args      []string          `yaml:"args"`    // of a bundled plugin
	Protocols []uint32          `yaml:"protocols"`
	Lifetime  string            `yaml:"lifetime"`
	SHA256    string            `yaml:"sha256"` // of the executable, hex
	Signature string            `yaml:"signature"`
	Config    json.RawMessage   `yaml:"config"`
	Secrets   map[string]Secret `yaml:"secrets"`

	// File and Line are where the entry is written.
	File string `yaml:"-"`
	Line int    `yaml:"-"`
}

// Secret is where a secret of a plugin is kept.
type Secret struct {
	FromFile string `yaml:"fromFile"`
}

// TrustKey is a key whose signatures are trusted.
type TrustKey struct {
	Name string `yaml:"name"`
	Key  string `yaml:"key"` // as minisign prints it, one line
}

type catalogFile struct {
	APIVersion string `yaml:"apiVersion"`
	Trust      struct {
		Keys []TrustKey `yaml:"keys"`
	} `yaml:"trust"`
	Plugins []Entry `yaml:"plugins"`

	keys []sign.PublicKey
}

// Plugin is kind(name), as errors and logs name a plugin.
func (e Entry) Plugin() string { return plugin(e.Kind, e.Name) }

func plugin(kind, name string) string { return fmt.Sprintf("%s(%s)", kind, name) }

// On reports whether the entry may run.
func (e Entry) On() bool { return e.Enabled == nil || *e.Enabled }

// needsSignature reports whether an unsigned plugin is refused.
func (e Entry) needsSignature() bool {
	return e.Signature == SignatureRequired || e.Signature == "" && (e.Kind == "datastore" || e.Kind == "cni")
}

// set is both catalogs merged.
type set struct {
	entries []Entry // bundled first, in the order of the files
	keys    []sign.PublicKey
}

func (s set) find(kind, name string) (Entry, bool) {
	i := slices.IndexFunc(s.entries, func(e Entry) bool { return e.Kind == kind && e.Name == name })
	if i < 0 {
		return Entry{}, false
	}
	return s.entries[i], true
}

// load reads and merges the catalogs. A missing file is an empty one.
func (c *Catalog) load() (set, error) {
	bundled, err := readCatalog(c.bundledFile(), true)
	if err != nil {
		return set{}, err
	}
	admin, err := readCatalog(c.file, false)
	if _, missing := os.Lstat(c.file); c.chosen && missing != nil {
		return set{}, config.Hinted(fmt.Errorf("read plugin catalog: %w", missing), "correct --plugin-catalog")
	}
	if err != nil {
		return set{}, err
	}
	return merge(bundled, admin)
}

func readCatalog(path string, bundled bool) (catalogFile, error) {
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return catalogFile{}, nil
	case err != nil:
		return catalogFile{}, fmt.Errorf("read plugin catalog: %w", err)
	}
	return parseCatalog(data, path, bundled)
}

func parseCatalog(data []byte, file string, bundled bool) (catalogFile, error) {
	var f catalogFile
	if blank(data) {
		return f, nil
	}
	doc, err := strict.Decode(data, file, &f)
	if err != nil {
		return catalogFile{}, err
	}
	p := &problems{doc: doc}
	p.need(f.APIVersion == manifest.APIVersion, "apiVersion", fmt.Sprintf("want %s, found %q", manifest.APIVersion, f.APIVersion), "write apiVersion: "+manifest.APIVersion)
	for i, k := range f.Trust.Keys {
		key, err := sign.ParsePublicKey([]byte(k.Key))
		p.need(err == nil, at("trust.keys", i, "key"), fmt.Sprint(err), "write the second line of the key's .pub file")
		f.keys = append(f.keys, key)
	}
	for i := range f.Plugins {
		e := &f.Plugins[i]
		e.File, e.Line = file, doc.At(at("plugins", i, ""), "", "").Line
		p.entry(at("plugins", i, ""), *e, bundled)
		if j := slices.IndexFunc(f.Plugins[:i], func(o Entry) bool { return o.Kind == e.Kind && o.Name == e.Name }); j >= 0 {
			p.need(false, at("plugins", i, "name"), fmt.Sprintf("%s is listed before, in line %d", e.Plugin(), f.Plugins[j].Line), "keep one of the two")
		}
	}
	if err := p.found.OrNil(); err != nil {
		return catalogFile{}, err
	}
	return f, nil
}

// blank reports whether there is nothing but comments.
func blank(data []byte) bool {
	for line := range strings.Lines(string(data)) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			return false
		}
	}
	var n yaml.Node
	return yaml.Unmarshal(data, &n) == nil // even a comment must be text
}

// problems collects what is wrong with a catalog.
type problems struct {
	doc   *strict.Document
	found strict.Problems
}

func (p *problems) need(ok bool, key, msg, remedy string) {
	if !ok {
		p.found = append(p.found, p.doc.At(key, msg, remedy))
	}
}

func (p *problems) oneOf(key, value string, allowed ...string) {
	list := strings.Join(allowed, ", ")
	p.need(slices.Contains(allowed, value), key, fmt.Sprintf("want one of %s, found %q", list, value), "write one of "+list)
}

func (p *problems) entry(key string, e Entry, bundled bool) {
	p.oneOf(key+".kind", e.Kind, manifest.Kinds()...)
	p.need(manifest.ValidName(e.Name), key+".name", fmt.Sprintf("want a plugin's name, found %q", e.Name), "use lower-case letters, digits and dashes, beginning with a letter")
	p.need(e.Version == "" && !bundled || manifest.ValidVersion(e.Version), key+".version", fmt.Sprintf("want a semantic version, found %q", e.Version), "write it like 1.2.3, without a leading v")
	p.need(e.SHA256 == "" || validHex(e.SHA256), key+".sha256", fmt.Sprintf("want 64 hexadecimal digits, found %q", e.SHA256), "take them from sha256sum of the executable")
	if e.Lifetime != "" {
		p.oneOf(key+".lifetime", e.Lifetime, manifest.Lifetimes()...)
	}
	if e.Signature != "" {
		p.oneOf(key+".signature", e.Signature, SignatureRequired, SignatureOptional)
	}
	if bundled {
		p.need(e.Bundled, key+".bundled", "want true in the bundled catalog", "write bundled: true")
	} else {
		p.need(!e.Bundled && e.Args == nil && e.Protocols == nil, key, "bundled, args and protocols are for the bundled catalog", "remove them: they are in plugin.yaml")
	}
	for _, name := range slices.Sorted(maps.Keys(e.Secrets)) {
		path := e.Secrets[name].FromFile
		p.need(filepath.IsAbs(path), key+".secrets."+name+".fromFile", fmt.Sprintf("want an absolute path, found %q", path), "write the path of the file that holds the secret")
	}
}

// merge lays the administrator's entries over the bundled ones. An entry for a
// bundled plugin that names neither another version nor a digest changes its
// settings; any other one takes its place.
func merge(bundled, admin catalogFile) (set, error) {
	s := set{entries: slices.Clone(bundled.Plugins), keys: slices.Concat(bundled.keys, admin.keys)}
	var found strict.Problems
	for _, e := range admin.Plugins {
		if e.Default {
			for i := range s.entries {
				s.entries[i].Default = s.entries[i].Default && s.entries[i].Kind != e.Kind
			}
		}
		i := slices.IndexFunc(s.entries, func(o Entry) bool { return o.Kind == e.Kind && o.Name == e.Name })
		switch {
		case i >= 0 && e.SHA256 == "" && (e.Version == "" || e.Version == s.entries[i].Version):
			s.entries[i] = s.entries[i].with(e)
		case e.Version == "":
			found = append(found, strict.Problem{File: e.File, Line: e.Line, Key: "version", Msg: "is needed: " + e.Plugin() + " is not bundled", Remedy: "write the version that is installed"})
		case i >= 0:
			s.entries[i] = e
		default:
			s.entries = append(s.entries, e)
		}
	}
	return s, found.OrNil()
}

// with is e with the settings of the administrator's entry.
func (e Entry) with(admin Entry) Entry {
	e.File, e.Line = admin.File, admin.Line
	e.Default = e.Default || admin.Default
	e.Enabled, e.Config, e.Secrets = admin.Enabled, admin.Config, admin.Secrets
	if admin.Lifetime != "" {
		e.Lifetime = admin.Lifetime
	}
	return e
}

// unlisted says that nothing allows the plugin.
func (c *Catalog) unlisted(s set, kind, name string) error {
	e := &Refused{Plugin: plugin(kind, name), Step: "catalog", File: c.file, Expected: "an entry", Found: "none"}
	e.Remedy = "install it with 'kelson plugin install'"
	var names []string
	for _, o := range s.entries {
		if o.Kind == kind {
			names = append(names, o.Name)
		}
	}
	if near := config.Nearest(name, names); near != "" {
		e.Remedy = fmt.Sprintf("did you mean %q?", near)
	} else if versions := c.versions(kind, name); len(versions) > 0 {
		e.Remedy = fmt.Sprintf("version %s lies in %s, but what is not listed never runs: 'kelson plugin install %s' lists it",
			versions[len(versions)-1], c.plugins(kind, name), c.plugins(kind, name, versions[len(versions)-1]))
	}
	return e
}

func at(list string, i int, key string) string {
	return strings.TrimSuffix(list+"."+strconv.Itoa(i)+"."+key, ".")
}

func validHex(s string) bool {
	raw, err := hex.DecodeString(s)
	return err == nil && len(raw) == 32 && hex.EncodeToString(raw) == s
}
