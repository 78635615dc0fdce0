package config

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Resolved is a configuration with the place each value came from.
type Resolved struct {
	Server Server
	Values []Value // every supported option, in the order of help
}

// Load merges the layers, checks everything and returns the server's
// configuration. The error is a *UsageError with every problem found.
func Load(in Inputs) (Server, error) {
	r, err := Resolve(in)
	return r.Server, err
}

// Resolve is Load with the sources kept. With an error, Values still holds
// what could be read.
func Resolve(in Inputs) (Resolved, error) {
	l := readLayers(in)
	l.checkStatus()
	b := builder{layers: l, hostname: in.Hostname}
	server := b.server()
	if in.EtcDir != "" {
		server.EtcDir = in.EtcDir
	}
	server.Warnings = append(l.warnings, ignoredFiles(server)...)
	r := Resolved{Server: server, Values: l.effective(server)}
	if len(l.problems) > 0 {
		return r, &UsageError{Problems: sorted(l.problems)}
	}
	return r, nil
}

// ignoredFiles warns of files that K3s would read.
func ignoredFiles(s Server) []string {
	registries := filepath.Join(s.EtcDir, "registries.yaml")
	if _, err := os.Stat(registries); err != nil {
		return nil
	}
	return []string{fmt.Sprintf("%s has no effect: registry settings are not available in this version; put hosts.toml files of containerd below %s instead",
		registries, filepath.Join(s.DataDir, "agent", "etc", "containerd", "certs.d"))}
}

// ValidateFile checks one configuration file by itself, as if it were the only
// layer.
func ValidateFile(path string) (Resolved, error) {
	return Resolve(Inputs{Flags: []Flag{{Name: "config", Value: path}}})
}

// sorted orders problems by layer, file and line, and keeps the order of those
// that have none.
func sorted(problems []Problem) []Problem {
	slices.SortStableFunc(problems, func(a, b Problem) int {
		if d := int(a.Source.Kind) - int(b.Source.Kind); d != 0 {
			return d
		}
		if d := strings.Compare(a.Source.Name, b.Source.Name); d != 0 && a.Source.Kind == FromFile {
			return d
		}
		return a.Source.Line - b.Source.Line
	})
	return problems
}

// checkStatus refuses and warns about what is not supported, and checks values
// of which there are few.
func (l *layers) checkStatus() {
	for _, o := range l.table.list {
		v, written := l.values[o.Name]
		if !written {
			continue
		}
		off := o.Type == Bool && len(v.items) == 1 && v.items[0].text == "false"
		switch {
		case o.Status == Refused && !off:
			l.add(v.Source, o.Name, "not supported: "+o.Note, o.Remedy)
		case o.Status == Warned && !off:
			l.warnings = append(l.warnings, fmt.Sprintf("%s: %s has no effect: %s", v.Source, o.Name, o.Note))
		}
		for _, it := range v.items {
			l.checkChoice(o, it)
		}
	}
}

func (l *layers) checkChoice(o Option, it item) {
	if len(o.Values) == 0 {
		return
	}
	var names []string
	for _, c := range o.Values {
		if c.Value != it.text {
			if c.Status == Supported {
				names = append(names, c.Value)
			}
			continue
		}
		switch c.Status {
		case Refused:
			l.add(it.src, o.Name, fmt.Sprintf("%q is not supported: %s", it.text, c.Note), "use one of: "+supportedValues(o))
		case Warned:
			l.warnings = append(l.warnings, fmt.Sprintf("%s: %s %s has no effect: %s", it.src, o.Name, it.text, c.Note))
		}
		return
	}
	remedy := "use one of: " + supportedValues(o)
	if near := Nearest(it.text, names); near != "" {
		remedy = fmt.Sprintf("did you mean %q?", near)
	}
	l.add(it.src, o.Name, fmt.Sprintf("unknown value %q", it.text), remedy)
}

// supportedValues lists the values that do something, or failing these the
// ones that are accepted.
func supportedValues(o Option) string {
	for _, status := range []Status{Supported, Warned} {
		var names []string
		for _, c := range o.Values {
			if c.Status == status {
				names = append(names, c.Value)
			}
		}
		if len(names) > 0 {
			return strings.Join(names, ", ")
		}
	}
	return ""
}

// get returns the option's value, or the table's default.
func (l *layers) get(name string) Value {
	o, ok := l.table.option(name)
	if !ok {
		return Value{}
	}
	if v, written := l.values[o.Name]; written {
		return v
	}
	v := Value{Option: o}
	if o.Default != "" {
		v.items = splitItems(o, o.Default, Source{})
	}
	return v
}

// one returns a single value as text, "" if there is none.
func (l *layers) one(name string) string {
	v := l.get(name)
	if len(v.items) == 0 {
		return ""
	}
	return v.items[len(v.items)-1].text
}

// flag returns a truth value; what is not one was reported when it was read.
func (l *layers) flag(name string) bool { return l.one(name) == "true" }

// number returns a number; what is not one was reported when it was read.
func (l *layers) number(name string) int {
	n, err := strconv.Atoi(l.one(name))
	if err != nil {
		return 0
	}
	return n
}

// effective lists every supported option with its value, computed defaults
// included.
func (l *layers) effective(s Server) []Value {
	computed := computedDefaults(s)
	var out []Value
	for _, o := range l.table.list {
		if o.Status != Supported {
			continue
		}
		v := l.get(o.Name)
		if text, ok := computed[o.Name]; ok && len(v.items) == 0 {
			v.items = splitItems(o, text, Source{})
		}
		out = append(out, v)
	}
	return out
}

func computedDefaults(s Server) map[string]string {
	return map[string]string{
		"config":                     s.ConfigFile,
		"cluster-cidr":               joinAll(s.Network.ClusterCIDR),
		"service-cidr":               joinAll(s.Network.ServiceCIDR),
		"cluster-dns":                joinAll(s.Network.ClusterDNS),
		"write-kubeconfig":           s.Kubeconfig.Path,
		"default-local-storage-path": s.Addons.LocalStoragePath,
		"node-name":                  s.Node.Name,
	}
}

func joinAll[T fmt.Stringer](list []T) string {
	texts := make([]string, len(list))
	for i, v := range list {
		texts[i] = v.String()
	}
	return strings.Join(texts, ",")
}

// absolute makes path absolute; a path that cannot be resolved stays as it is
// and fails where it is used.
func absolute(path string) string {
	if path == "" {
		return ""
	}
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

func (b *builder) hostName() string {
	name := b.hostname
	if name == "" {
		var err error
		if name, err = os.Hostname(); err != nil {
			return ""
		}
	}
	return strings.ToLower(name)
}
