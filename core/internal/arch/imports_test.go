package arch

import (
	"slices"
	"strings"
	"testing"
)

// levels is the order of the core: a folder imports only folders of a lower
// level, never a sibling. A new folder under core gets its place here.
var levels = map[string]int{
	"boot": 0, "config": 0, "version": 0, "logging": 0,
	"status":     1,
	"datadir":    1, // below pki and process: they write through datadir.WriteFile
	"pluginhost": 2, "pki": 2, "bootstrap": 2, "process": 2, "kube": 2,
	"agent": 3, "controlplane": 3, "deploy": 3, "supervisor": 3, "datastore": 3,
	"node": 4,
}

// only is a set of importers: folders with everything below them.
type only []string

func (o only) has(pkg string) bool {
	return slices.ContainsFunc(o, func(dir string) bool { return pkg == dir || strings.HasPrefix(pkg, dir+"/") })
}

// ownership names who may import what from outside.
var ownership = []struct {
	prefix  string // of the import path
	allowed only
	reason  string
}{
	{"k8s.io/kubernetes", only{"core/kube", "core/internal/bench/stock"}, "one door to Kubernetes' own packages: an upgrade touches one folder"},
	{"github.com/alecthomas/kong", only{"cmd"}, "the command line ends at cmd; the core takes config values"},
	{"github.com/spf13/cobra", only{"cmd", "core/kube", "embed"}, "the command line is kong; cobra comes only with kubectl, ctr and Kubernetes' options"},
	{"github.com/hashicorp/go-plugin", only{"core/pluginhost", "sdk"}, "lifecycle only, and replaceable"},
	{"github.com/k3s-io/kine", only{"core/datastore", "sdk/kineadapter", "plugins/datastore"}, "one door to the datastore's library"},
	{"github.com/sirupsen/logrus", only{"core/logging", "core/node", "embed"}, "hclog is the logger; logrus is adapted in core/logging, and core/node takes its fatal path in a test"},
	{"github.com/stretchr/testify", only{}, "plain testing"},
	{"C", only{}, "cgo stays in the modules that need it"},
	{"io/ioutil", only{}, "deprecated: use os and io"},
	{module + "/embed", only{"cmd", "embed"}, "the payload is passed down as fs.FS"},
	{module + "/manifests", only{"cmd", "manifests"}, "manifests are passed down as fs.FS"},
	{module + "/plugins", only{"cmd", "plugins"}, "the core knows plugins by contract only"},
	{module + "/core", only{"cmd", "core", "embed/build"}, "sdk and plugins stand without the core; the payload's packer shares its format with the extraction"},
	{module + "/cmd", only{}, "a command is the end of the import graph"},
	{module + "/core/internal/testkit", only{"core/internal"}, "test support never ships"},
	{module + "/core/internal", only{"core"}, "internal to the core"},
}

// bans names what a folder must not import.
var bans = []struct {
	folder only
	prefix []string
	reason string
}{
	{
		only{"core/boot", "core/version", "core/internal/arch"},
		[]string{"external"},
		"standard library only",
	},
	{
		only{"core/config", "core/datadir", "core/process", "cmd/kelson"},
		[]string{"k8s.io/", "sigs.k8s.io/controller-runtime", "github.com/containerd/"},
		"the launcher and the leaf packages stay small",
	},
	{
		only{"core/internal/testkit", "core/internal/e2e", "core/internal/bench"},
		[]string{"k8s.io/", "github.com/containerd/", module + "/core/node", module + "/core/kube"},
		"end-to-end tests know the shipped file only from outside",
	},
	{
		only{"sdk"},
		[]string{"k8s.io/", "github.com/k3s-io/", module + "/core", module + "/plugins", module + "/cmd"},
		"third parties compile the SDK in seconds",
	},
}

func TestImportOwnership(t *testing.T) {
	r := newReport(t, "ownership")
	for _, s := range sources(t) {
		s.imports(func(p string, line int) {
			for _, rule := range ownership {
				if within(p, rule.prefix) && !rule.allowed.has(s.pkg) && !kineModule(s.pkg) {
					r.breaks(s.path, s.path, line, "imports %s, which is for %v only (%s)", p, []string(rule.allowed), rule.reason)
				}
			}
		})
	}
}

func TestImportBans(t *testing.T) {
	r := newReport(t, "bans")
	for _, s := range sources(t) {
		for _, rule := range bans {
			if !rule.folder.has(s.pkg) || under(s.pkg, "core/internal/bench/stock") || kineModule(s.pkg) {
				continue
			}
			s.imports(func(p string, line int) {
				for _, prefix := range rule.prefix {
					if strings.HasPrefix(p, prefix) || prefix == "external" && external(p) {
						r.breaks(s.path, s.path, line, "imports %s (%s)", p, rule.reason)
					}
				}
			})
		}
	}
}

func TestImportDirection(t *testing.T) {
	r := newReport(t, "direction")
	for _, s := range sources(t) {
		from, ok := coreFolder(s.pkg)
		if !ok {
			continue
		}
		level, ok := levels[from]
		if !ok {
			r.breaks(s.pkg, s.path, 0, "core/%s has no place in the import order: add it to levels in core/internal/arch", from)
			continue
		}
		s.imports(func(p string, line int) {
			inner, ours := strings.CutPrefix(p, module+"/")
			to, isCore := coreFolder(inner)
			if !ours || !isCore || to == from {
				return
			}
			switch target, known := levels[to]; {
			case known && target < level:
			case s.test && known && target == level:
				// A test may drive two siblings together.
			default:
				r.breaks(s.path, s.path, line, "core/%s (level %d) imports core/%s (level %d): declare an interface here instead", from, level, to, target)
			}
		})
	}
}

// TestPluginsAreApart keeps every plugin independent of its neighbours.
func TestPluginsAreApart(t *testing.T) {
	r := newReport(t, "plugins")
	for _, s := range sources(t) {
		self := pluginOf(s.pkg)
		if self == "" {
			continue
		}
		s.imports(func(p string, line int) {
			inner, ours := strings.CutPrefix(p, module+"/")
			if other := pluginOf(inner); ours && other != "" && other != self {
				r.breaks(s.path, s.path, line, "plugin %s imports plugin %s", self, other)
			}
		})
	}
}

// coreFolder is the folder directly under core that holds pkg; internal
// packages are test support and outside the order.
func coreFolder(pkg string) (string, bool) {
	rest, ok := strings.CutPrefix(pkg, "core/")
	folder, _, _ := strings.Cut(rest, "/")
	return folder, ok && folder != "internal"
}

// pluginOf is "kind/name" for a package under plugins/<kind>/<name>.
func pluginOf(pkg string) string {
	parts := strings.Split(pkg, "/")
	if len(parts) < 3 || parts[0] != "plugins" || parts[1] == "internal" {
		return ""
	}
	return parts[1] + "/" + parts[2]
}

func within(importPath, prefix string) bool {
	return importPath == prefix || strings.HasPrefix(importPath, prefix+"/")
}

func under(pkg, dir string) bool { return only{dir}.has(pkg) }

// kineModule tells the SDK's nested modules that may link kine and etcd.
func kineModule(pkg string) bool {
	return under(pkg, "sdk/kineadapter") || under(pkg, "sdk/storagesuite")
}

// external tells an import that is neither the standard library's nor ours.
func external(importPath string) bool {
	first, _, _ := strings.Cut(importPath, "/")
	return strings.Contains(first, ".") && !within(importPath, module)
}
