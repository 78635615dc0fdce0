package plugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"

	"github.com/kelson-io/kelson/sdk/config"
)

// The types of configurations, under the names by which authors meet them.
type (
	// Diagnostic is one remark about a configuration.
	Diagnostic = config.Diagnostic
	// Diagnostics is what there is to say about a configuration.
	Diagnostics = config.Diagnostics
	// Secret is a value that no encoder, logger or formatting verb prints.
	Secret = config.Secret
)

// Errorf is an error at a path of the configuration ("peers.0.address").
func Errorf(path, format string, args ...any) Diagnostic {
	return config.Errorf(path, format, args...)
}

// Warnf is a warning at a path of the configuration.
func Warnf(path, format string, args ...any) Diagnostic {
	return config.Warnf(path, format, args...)
}

// The kinds of plugins.
const (
	KindDatastore = "datastore"
	KindCNI       = "cni"
	KindAddon     = "addon"
)

// Info says what a plugin is. It must agree with the plugin's manifest.
type Info struct {
	Kind string `json:"kind"`
	// Name is lower-case letters, digits and dashes, a letter first; at most 40.
	Name string `json:"name"`
	// Version is semantic, without a leading v.
	Version string `json:"version"`
	// Summary is one sentence for humans.
	Summary string `json:"summary,omitempty"`
	// Protocols are the major versions of the kind's contract that are served.
	Protocols []uint32 `json:"protocols"`
	// Capabilities are optional abilities that the kind's contract names.
	Capabilities []string `json:"capabilities,omitempty"`
}

// Check tells what is wrong with the Info.
func (i Info) Check() error {
	var errs []error
	if !slices.Contains([]string{KindDatastore, KindCNI, KindAddon}, i.Kind) {
		errs = append(errs, fmt.Errorf("kind %q: want datastore, cni or addon", i.Kind))
	}
	if len(i.Name) > 40 || !regexp.MustCompile(`^[a-z][a-z0-9-]*$`).MatchString(i.Name) {
		errs = append(errs, fmt.Errorf("name %q: want at most 40 lower-case letters, digits and dashes, a letter first", i.Name))
	}
	if !regexp.MustCompile(semver).MatchString(i.Version) {
		errs = append(errs, fmt.Errorf("version %q: want a semantic version without a leading v", i.Version))
	}
	if len(i.Protocols) == 0 || slices.Contains(i.Protocols, 0) {
		errs = append(errs, fmt.Errorf("protocols %v: want at least one, counted from 1", i.Protocols))
	}
	return errors.Join(errs...)
}

// semver is the expression that semver.org suggests.
const semver = `^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)` +
	`(-(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(\.(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*)?` +
	`(\+[0-9a-zA-Z-]+(\.[0-9a-zA-Z-]+)*)?$`

// Host is what a plugin may know of the host that runs it.
type Host struct {
	// Version is Kelson's release.
	Version  string
	NodeName string
	// StateDir is a folder of the plugin's own, kept over restarts and upgrades.
	StateDir string
	// RunDir is a folder of the plugin's own for sockets, gone after a reboot.
	RunDir string
}

// Settings is what Configure applies.
type Settings struct {
	// Config is a JSON object.
	Config json.RawMessage
	// Secrets are JSON strings by name; never nil.
	Secrets map[string]json.RawMessage
	Host    Host
	// Generation grows with each change of the configuration.
	Generation uint64
}

// Plugin is the base contract, with the configuration as JSON. Authors rather
// implement Typed, of which New makes a Plugin.
//
//	Info, Schema, Validate … ─► Configure ─► Configure … ─► Drain
type Plugin interface {
	// Info is constant.
	Info() Info
	// Schema is the JSON Schema of the configuration, constant.
	Schema() json.RawMessage
	// Validate judges a configuration, without side effects and without secrets.
	Validate(ctx context.Context, raw json.RawMessage) Diagnostics
	// Configure applies settings as a whole or changes nothing. It is not called
	// again with settings that it accepted last. An error that wraps ErrRestart
	// accepts settings that need a new process.
	Configure(ctx context.Context, s Settings) error
	// Health is the reporter that the plugin sets; always the same one.
	Health() *Health
}

// Typed is the base contract for a plugin whose configuration is a T (see
// package config).
type Typed[T any] interface {
	// Info is constant.
	Info() Info
	// Validate judges what T's tags cannot say; its secrets may have no value
	// yet. It has no side effects.
	Validate(ctx context.Context, c T) Diagnostics
	// Configure applies a valid configuration as a whole or changes nothing. It
	// is not called again with settings that it accepted last. An error that
	// wraps ErrRestart accepts settings that need a new process.
	Configure(ctx context.Context, c T, h Host) error
	// Health is the reporter that the plugin sets; always the same one.
	Health() *Health
}

// Metrics is implemented by plugins that have metrics of their own.
type Metrics interface {
	// Metrics writes the Prometheus text format, at most 1 MiB. The host adds the
	// labels kind and plugin.
	Metrics(ctx context.Context) ([]byte, error)
}

// Drainer is implemented by plugins that have something to finish before their
// process ends.
type Drainer interface {
	// Drain finishes what is under way and takes no more work. When it returns,
	// all that must survive is on the disk. It is not called again once it
	// succeeded.
	Drain(ctx context.Context) error
}

// ErrRestart is wrapped by Configure for settings that are good, but can only
// be applied by a new process: the plugin goes on with what it has.
var ErrRestart = errors.New("restart required")

// New makes a Plugin of a typed one.
func New[T any](p Typed[T]) Plugin { return &typed[T]{p} }

// typed adapts Typed to Plugin.
type typed[T any] struct{ plugin Typed[T] }

// Info is the typed plugin's.
func (t *typed[T]) Info() Info { return t.plugin.Info() }

// Schema is of T.
func (t *typed[T]) Schema() json.RawMessage { return config.Schema[T]() }

// Health is the typed plugin's.
func (t *typed[T]) Health() *Health { return t.plugin.Health() }

// Validate decodes, then asks the typed plugin.
func (t *typed[T]) Validate(ctx context.Context, raw json.RawMessage) Diagnostics {
	c, found := config.Decode[T](raw, nil)
	if found.HasErrors() {
		return found
	}
	return append(found, t.plugin.Validate(ctx, c)...)
}

// Configure validates first: not every host does.
func (t *typed[T]) Configure(ctx context.Context, s Settings) error {
	c, found := config.Decode[T](s.Config, s.Secrets)
	if !found.HasErrors() {
		found = append(found, t.plugin.Validate(ctx, c)...)
	}
	if err := found.Err(); err != nil {
		return err
	}
	return t.plugin.Configure(ctx, c, s.Host)
}

func (t *typed[T]) unwrap() any { return t.plugin }

// optional finds an optional interface of a plugin or of what New wrapped.
func optional[I any](p Plugin) (I, bool) {
	if found, ok := p.(I); ok {
		return found, true
	}
	var none I
	w, ok := p.(interface{ unwrap() any })
	if !ok {
		return none, false
	}
	found, ok := w.unwrap().(I)
	return found, ok
}
