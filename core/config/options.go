package config

import (
	"slices"
	"strings"
)

// Type is the shape of an option's value.
type Type int

// The shapes. A List is split at commas; an Args item is taken whole, since
// component arguments contain commas.
const (
	Text Type = iota
	Bool
	Number
	List
	Args
)

// String names the shape the way diagnostics do.
func (t Type) String() string {
	return [...]string{"text", "true or false", "a number", "a list", "a list of name=value"}[t]
}

// Status says what becomes of a key that K3s knows.
type Status int

// The statuses.
const (
	Supported Status = iota
	Warned           // accepted, has no effect, said so in a warning
	Refused          // nothing starts
)

// String is the word in the compatibility table.
func (s Status) String() string {
	return [...]string{"supported", "warning", "refused"}[s]
}

// Option describes one key of config.yaml, which is also a flag and an
// environment variable.
type Option struct {
	Name    string
	Aliases []string
	Short   rune
	Type    Type
	Default string // in the form a user would write; "" when empty or computed
	Shown   string // what help prints for a computed default
	Env     string // variable name; Options fills in KELSON_<NAME>
	Group   string
	Help    string
	Values  []Choice // the accepted values, if they are few
	Secret  bool     // never printed
	Hidden  bool     // not in help
	Global  bool     // a flag of every verb
	NoFile  bool     // cannot be written in a file
	Ours    bool     // K3s has no such key
	Status  Status
	Note    string // why it is not supported
	Remedy  string // what to do instead
}

// Choice is one accepted or known value of an option.
type Choice struct {
	Value  string
	Status Status
	Note   string
	Remedy string
}

// choices makes plain supported choices.
func choices(values ...string) []Choice {
	out := make([]Choice, len(values))
	for i, v := range values {
		out[i] = Choice{Value: v}
	}
	return out
}

// Many reports whether the option holds more than one value.
func (o Option) Many() bool { return o.Type == List || o.Type == Args }

// Options returns the whole table, in the order of help.
func Options() []Option {
	all := slices.Concat(
		generalOptions(), listenerOptions(), networkOptions(), clientOptions(),
		datastoreOptions(), componentOptions(), nodeOptions(), foreignOptions(),
	)
	for i := range all {
		if all[i].Env == "" {
			all[i].Env = envName(all[i].Name)
		}
	}
	return all
}

func envName(option string) string {
	return "KELSON_" + strings.ToUpper(strings.ReplaceAll(option, "-", "_"))
}

// table is Options with its look-ups.
type table struct {
	list   []Option
	byName map[string]int // names and aliases
	byEnv  map[string]int
}

func newTable() table {
	t := table{list: Options(), byName: map[string]int{}, byEnv: map[string]int{}}
	for i, o := range t.list {
		t.byName[o.Name] = i
		for _, alias := range o.Aliases {
			t.byName[alias] = i
		}
		t.byEnv[o.Env] = i
	}
	return t
}

// option finds a key by name or alias.
func (t table) option(name string) (Option, bool) {
	i, ok := t.byName[name]
	if !ok {
		return Option{}, false
	}
	return t.list[i], true
}

// nearest returns the supported key that a user most likely meant, or "".
func (t table) nearest(name string) string {
	var names []string
	for _, o := range t.list {
		if o.Status == Supported {
			names = append(names, o.Name)
		}
	}
	return Nearest(name, names)
}
