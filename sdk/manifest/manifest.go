// Package manifest is plugin.yaml, the file beside a plugin's program that says
// what the plugin is, what it asks for, and which digest each of its files has.
//
// Invariants: a Manifest that Parse returned is sound by Check; Parse of what
// Marshal wrote gives the same Manifest. plugin.yaml is what gets signed, and
// it pins all other files. The package does no I/O and keeps no state.
package manifest

import (
	"encoding/json"
	"slices"

	"github.com/kelson-io/kelson/sdk/manifest/strict"
)

const (
	// APIVersion is the version of the file's format.
	APIVersion = "plugins.kelson.io/v1"
	// FileName is the file's name in the plugin's folder.
	FileName = "plugin.yaml"
	// SignatureName is the name of its signature, beside it.
	SignatureName = FileName + ".minisig"
)

// Manifest is the content of plugin.yaml.
type Manifest struct {
	APIVersion   string            `yaml:"apiVersion"`
	Kind         string            `yaml:"kind"` // datastore, cni or addon
	Name         string            `yaml:"name"`
	Version      string            `yaml:"version"` // semantic, without a leading v
	Summary      string            `yaml:"summary"`
	Protocols    []uint32          `yaml:"protocols"` // majors of the kind's contract
	Capabilities []string          `yaml:"capabilities"`
	Lifetime     string            `yaml:"lifetime"` // host, node or on-demand
	Requests     Requests          `yaml:"requests"`
	Exec         string            `yaml:"exec"`         // the program, one of Files
	Args         []string          `yaml:"args"`         // behind the program's name
	Files        map[string]string `yaml:"files"`        // path in the folder → "sha256:<hex>"
	ConfigSchema json.RawMessage   `yaml:"configSchema"` // JSON Schema of the configuration, an object; may be empty
}

// Requests is what the plugin needs beyond running as an ordinary process. The
// administrator sees it before the plugin is installed.
type Requests struct {
	Caps    []string `yaml:"caps"`    // Linux capabilities without CAP_, such as NET_ADMIN
	Paths   []string `yaml:"paths"`   // absolute paths that it reads or writes outside its folders
	Network bool     `yaml:"network"` // speaks to the network
	Memory  string   `yaml:"memory"`  // at most, such as 64Mi; empty: not stated
}

// Kinds are the kinds of plugin.
func Kinds() []string { return []string{"datastore", "cni", "addon"} }

// Lifetimes are how long a plugin's process may live: as long as the host
// process, beyond it, or while it is needed.
func Lifetimes() []string { return []string{"host", "node", "on-demand"} }

// Parse reads a manifest; file stands in the messages. The error is of type
// strict.Problems: all that is wrong, each with file, line, key and remedy.
func Parse(data []byte, file string) (Manifest, error) {
	var m Manifest
	doc, err := strict.Decode(data, file, &m)
	if err != nil {
		return Manifest{}, err
	}
	var found strict.Problems
	for _, p := range m.problems() {
		found = append(found, doc.At(p.Key, p.Msg, p.Remedy))
	}
	slices.SortStableFunc(found, func(a, b strict.Problem) int { return a.Line - b.Line })
	if err := found.OrNil(); err != nil {
		return Manifest{}, err
	}
	return m, nil
}

// Check reports everything that is wrong with the values, as strict.Problems
// without file and line.
func (m Manifest) Check() error { return m.problems().OrNil() }
