package deploy

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSplit(t *testing.T) {
	cases := map[string]struct {
		in   string
		want []string // "line:index:data"
	}{
		"empty":               {"", nil},
		"only comments":       {"# a\n\n# b\n", nil},
		"one":                 {"a: 1\n", []string{"1:1:a: 1\n"}},
		"leading separator":   {"---\na: 1\n", []string{"2:1:a: 1\n"}},
		"comment first":       {"# c\n---\na: 1\n", []string{"3:1:a: 1\n"}},
		"two":                 {"a: 1\n---\nb: 2", []string{"1:1:a: 1\n", "3:2:b: 2"}},
		"separator with note": {"a: 1\n--- # next\nb: 2\n", []string{"1:1:a: 1\n", "3:2:b: 2\n"}},
		"carriage returns":    {"a: 1\r\n---\r\nb: 2\r\n", []string{"1:1:a: 1\r\n", "3:2:b: 2\r\n"}},
		"in a block scalar":   {"a: |\n  ---\n  x\n", []string{"1:1:a: |\n  ---\n  x\n"}},
		"four hyphens":        {"a: 1\n----\n", []string{"1:1:a: 1\n----\n"}},
		"empty in the middle": {"a: 1\n---\n---\nb: 2\n", []string{"1:1:a: 1\n", "3:2:", "4:3:b: 2\n"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, d := range split([]byte(c.in)) {
				got = append(got, fmt.Sprintf("%d:%d:%s", d.Line, d.Index, d.Data))
			}
			if strings.Join(got, "|") != strings.Join(c.want, "|") {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestDecodeFaults(t *testing.T) {
	good := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n---\n"
	cases := map[string]struct{ in, want string }{
		"syntax":         {good + "a: b: c\n", "f.yaml:5: document 2: yaml: line 5: mapping values"},
		"duplicate key":  {good + "a: 1\na: 2\n", "line 6: key \"a\" already set"},
		"no kind":        {"apiVersion: v1\n", "document 1: kind is missing"},
		"no apiVersion":  {"kind: X\nmetadata: {name: x}\n", "X: apiVersion is missing"},
		"no name":        {"apiVersion: v1\nkind: X\n", "X: metadata.name is missing"},
		"generated name": {"apiVersion: v1\nkind: X\nmetadata: {generateName: g-}\n", "generateName is not supported"},
		"no string":      {"apiVersion: v1\nkind: X\nmetadata: {name: x, namespace: n}\n", "X x: metadata.namespace is not a string"},
		"a list":         {"[1]\n", "not a mapping"},
		"a string":       {"hello\n", "not a mapping"},
		"bad item":       {"apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: X}]\n", "X: metadata.name is missing"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := decode("f.yaml", []byte(c.in))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q in it", err, c.want)
			}
		})
	}
}

func TestDecodeCleansAndExpands(t *testing.T) {
	in := `apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: ConfigMap, metadata: {name: a, resourceVersion: "1", creationTimestamp: null}, status: {x: 1}}
- {apiVersion: v1, kind: ConfigMap, metadata: {name: b}}
`
	objects, err := decode("f.yaml", []byte(in))
	if err != nil || len(objects) != 2 {
		t.Fatalf("got %v, %v", objects, err)
	}
	if got := fmt.Sprint(objects[0].Object); got != "map[apiVersion:v1 kind:ConfigMap metadata:map[name:a]]" {
		t.Errorf("got %s", got)
	}
}

func TestPlanOrdersWaves(t *testing.T) {
	in := `{apiVersion: apiregistration.k8s.io/v1, kind: APIService, metadata: {name: hook}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: work}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: setting}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: foundation}}
---
{apiVersion: v1, kind: Service, metadata: {name: setting2}}
`
	objects, err := decode("f.yaml", []byte(in))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, w := range plan(objects) {
		var names []string
		for _, o := range w {
			names = append(names, o.GetName())
		}
		got = append(got, strings.Join(names, "+"))
	}
	if want := "foundation setting+setting2 work hook"; strings.Join(got, " ") != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

func TestRenderRefusesTwice(t *testing.T) {
	in := []byte(configMap("x"))
	r := render(source{Addon: "a", Files: []sourceFile{{"a/1.yaml", in}, {"a/2.yaml", in}}})
	if len(r.Faults) != 1 || !strings.Contains(r.Faults[0].Error(), "a/2.yaml:1: ConfigMap x is already in a/1.yaml:1") {
		t.Errorf("got %v", r.Faults)
	}
}

func TestScanFaults(t *testing.T) {
	dir := t.TempDir()
	mustWrite := func(name string, size int) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(filepath.Join(dir, name), int64(size)); err != nil {
			t.Fatal(err)
		}
	}
	mustWrite("big.yaml", 100<<20) // a hole: takes no room
	mustWrite("same.yaml", 0)
	mustWrite("same/x.yaml", 0)
	mustWrite("bad name.yaml", 0)
	mustWrite("ok.yaml", 0)
	mustWrite("base/skipped.yaml", 0)
	mustWrite("skipped.yaml.skip", 0)
	if err := os.Symlink(".", filepath.Join(dir, "same", "loop")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("gone", filepath.Join(dir, "dangling.yaml")); err != nil {
		t.Fatal(err)
	}
	sources, err := scan(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"big": "100 MiB is more than", "same": "same.yaml: ignored, the name same is taken", "bad name": "is no name for an addon",
		"ok": "", "base": "",
	}
	if len(sources) != len(want) {
		t.Errorf("found %d addons, want %d: %v", len(sources), len(want), sources)
	}
	for _, s := range sources {
		if got := fmt.Sprint(s.Faults); !strings.Contains(got, want[s.Addon]) || (want[s.Addon] == "") != (len(s.Faults) == 0) {
			t.Errorf("%s: faults %s, want %q", s.Addon, got, want[s.Addon])
		}
		if s.Skipped != (s.Addon == "base") {
			t.Errorf("%s: skipped is %t", s.Addon, s.Skipped)
		}
	}
}

// FuzzSplit: nothing but separator lines is lost, and lines are counted right.
func FuzzSplit(f *testing.F) {
	for _, seed := range []string{"", "---", "a: 1\n---\nb: 2\n", "--- #x\r\n---\n\n", "# c\n---\na", "a\n--- b\nc"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		lines := bytes.SplitAfter(data, []byte("\n"))
		for i, d := range split(data) {
			if d.Index != i+1 {
				t.Fatalf("document %d is numbered %d", i+1, d.Index)
			}
			rest := bytes.Join(lines[d.Line-1:], nil)
			if !bytes.HasPrefix(rest, d.Data) {
				t.Fatalf("document %d is not what stands at line %d", d.Index, d.Line)
			}
			for _, line := range bytes.SplitAfter(d.Data, []byte("\n")) {
				if isSeparator(line) {
					t.Fatalf("document %d holds a separator: %q", d.Index, d.Data)
				}
			}
		}
	})
}

// FuzzDecode: any input gives objects or an error, never a panic.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(configMap("x")))
	f.Add([]byte("apiVersion: v1\nkind: List\nitems: [1, null, {}]\n"))
	f.Add([]byte("a: &a [*a]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		objects, err := decode("f.yaml", data)
		for _, o := range objects {
			if o.GetName() == "" || o.GetKind() == "" {
				t.Fatalf("nameless object %v, %v", o, err)
			}
		}
	})
}
