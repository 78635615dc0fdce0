package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Flag is one flag as it stood on the command line; an option given twice is
// two of them.
type Flag struct{ Name, Value string }

// Inputs are the layers that Load merges.
type Inputs struct {
	Flags    []Flag
	Environ  []string // as os.Environ
	EtcDir   string   // overrides the folder of config.yaml; "" follows the data dir
	Hostname string   // default of node-name; "" asks the kernel
}

// Value is one option's effective value. Texts is empty when neither a layer
// nor the table gives one.
type Value struct {
	Option Option
	Source Source // of the last layer that spoke
	items  []item
}

// Texts returns the values as they were written, a secret as a placeholder.
func (v Value) Texts() []string {
	out := make([]string, len(v.items))
	for i, it := range v.items {
		out[i] = it.text
		if v.Option.Secret {
			out[i] = "<secret>"
		}
	}
	return out
}

// Sources returns the places the values were written at, each once.
func (v Value) Sources() []string {
	out := []string{}
	for _, it := range v.items {
		if s := it.src.String(); !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// layers is the merge in progress.
type layers struct {
	table      table
	values     map[string]Value // by option name; absent: not written anywhere
	problems   []Problem
	warnings   []string
	configFile string // that was read
}

// readLayers merges files, environment and flags.
func readLayers(in Inputs) *layers {
	l := &layers{table: newTable(), values: map[string]Value{}}
	env, flags := l.fromEnv(in.Environ), l.fromFlags(in.Flags)
	path, explicit := configPath(in, env, flags)
	for _, e := range slices.Concat(l.fromFiles(path, explicit), env, flags) {
		l.apply(e)
	}
	return l
}

func (l *layers) apply(e entry) {
	name := e.option.Name
	if e.appends {
		e.items = append(slices.Clone(l.values[name].items), e.items...)
	}
	l.values[name] = Value{Option: e.option, Source: e.src, items: e.items}
}

// add notes a problem once, however many readers of the value find it.
func (l *layers) add(src Source, key, msg, remedy string) {
	p := Problem{Source: src, Key: key, Msg: msg, Remedy: remedy}
	if !slices.Contains(l.problems, p) {
		l.problems = append(l.problems, p)
	}
}

// configPath returns where the configuration file is, and whether the user
// named it.
func configPath(in Inputs, env, flags []entry) (path string, explicit bool) {
	data := DefaultDataDir
	for _, e := range slices.Concat(env, flags) {
		if len(e.items) == 0 {
			continue
		}
		switch e.option.Name {
		case "config":
			path = e.items[0].text
		case "data-dir":
			data = e.items[0].text
		}
	}
	if path != "" {
		return path, true
	}
	etc := in.EtcDir
	if etc == "" {
		etc = EtcDir(data)
	}
	return filepath.Join(etc, "config.yaml"), false
}

// EtcDir is the configuration folder that belongs to a data dir.
func EtcDir(dataDir string) string {
	if filepath.Clean(dataDir) == DefaultDataDir {
		return defaultEtcDir
	}
	return filepath.Join(dataDir, "etc")
}

// fromFiles reads the configuration file and its drop-ins.
func (l *layers) fromFiles(path string, explicit bool) []entry {
	var entries []entry
	files := append([]string{path}, dropIns(path)...)
	for i, file := range files {
		data, err := readFile(file)
		if errors.Is(err, fs.ErrNotExist) && i == 0 && !explicit {
			continue
		}
		if err != nil {
			remedy := "check the path and its permissions"
			if errors.Is(err, fs.ErrNotExist) {
				remedy = "create it, or leave --config out"
			}
			l.add(Source{Kind: FromFile, Name: file}, "", reason(err), remedy)
			continue
		}
		if i == 0 {
			l.configFile = file
		}
		found, problems := parseFile(file, data, l.table)
		entries = append(entries, found...)
		l.problems = append(l.problems, problems...)
	}
	return entries
}

// dropIns returns the files of the folder beside the configuration file, in
// alphabetical order.
func dropIns(path string) []string {
	list, err := os.ReadDir(path + ".d") // sorted by name
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range list {
		if ext := filepath.Ext(e.Name()); !e.IsDir() && (ext == ".yaml" || ext == ".yml") {
			out = append(out, filepath.Join(path+".d", e.Name()))
		}
	}
	return out
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("larger than %d KiB", maxFile>>10)
	}
	return data, err
}

// reason takes the operation and the path off a file error: both are known.
func reason(err error) string {
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		return path.Err.Error()
	}
	return err.Error()
}

// fromEnv reads the KELSON_ variables. Others of that prefix are not refused,
// since pods and units set such names for their own ends.
func (l *layers) fromEnv(environ []string) []entry {
	var entries []entry
	for _, kv := range slices.Sorted(slices.Values(environ)) {
		name, text, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(name, "KELSON_") || text == "" {
			continue
		}
		i, ok := l.table.byEnv[name]
		if !ok {
			l.warnEnv(name)
			continue
		}
		src := Source{Kind: FromEnv, Name: name}
		if e, ok := l.text(l.table.list[i], text, src); ok {
			entries = append(entries, e)
		}
	}
	return entries
}

func (l *layers) warnEnv(name string) {
	var names []string
	for _, o := range l.table.list {
		if o.Status == Supported {
			names = append(names, o.Env)
		}
	}
	for _, known := range names {
		if distance(name, known) <= 2 {
			l.warnings = append(l.warnings, fmt.Sprintf("$%s is not known and ignored; did you mean $%s?", name, known))
			return
		}
	}
}

// fromFlags gathers the occurrences of each flag, in the order of the first.
func (l *layers) fromFlags(flags []Flag) []entry {
	var entries []entry
	position := map[string]int{}
	for _, f := range flags {
		src := Source{Kind: FromFlag, Name: f.Name}
		option, ok := l.table.option(f.Name)
		if !ok {
			l.add(src, f.Name, "unknown flag", l.nearestRemedy(f.Name))
			continue
		}
		e, ok := l.text(option, f.Value, src)
		if !ok {
			continue
		}
		at, again := position[option.Name]
		switch {
		case !again:
			position[option.Name] = len(entries)
			entries = append(entries, e)
		case option.Many():
			entries[at].items = append(entries[at].items, e.items...)
		default:
			entries[at] = e // the last one counts
		}
	}
	return entries
}

func (l *layers) nearestRemedy(name string) string {
	if near := l.table.nearest(name); near != "" {
		return "did you mean --" + near + "?"
	}
	return "run 'kelson server --help' for the list of flags"
}

func (l *layers) text(o Option, text string, src Source) (entry, bool) {
	if msg, remedy := checkType(o, text); msg != "" {
		l.add(src, o.Name, msg, remedy)
		return entry{}, false
	}
	return entry{option: o, src: src, items: splitItems(o, text, src)}, true
}
