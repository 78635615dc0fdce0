package catalog

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/kelson-io/kelson/core/pluginhost/program"
	"github.com/kelson-io/kelson/sdk/manifest"
)

// tick gives every generation a time of its own.
func (b bed) tick() {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	b.now = func() time.Time { now = now.Add(time.Minute); return now }
}

func TestGenerations(t *testing.T) {
	b := newBed(t)
	b.tick()
	_, err := b.Rollback("addon", "hello", "x")
	refused(t, err, "addon(hello)", b.file)
	b.install(addon("1.0.0"))
	first := b.resolve("addon", "hello")
	_, err = b.Rollback("addon", "hello", "crashes")
	refused(t, err, "addon(hello)", "an earlier generation that ran well", "none")
	if p := b.resolve("addon", "hello"); p.Generation != 1 {
		t.Errorf("without another generation it moved to %+v", p)
	}
	if err := b.Good(first); err != nil {
		t.Fatal(err)
	}
	b.install(addon("2.0.0"))
	b.install(addon("3.0.0"))
	if p := b.resolve("addon", "hello"); p.Version != "3.0.0" || p.Generation != 3 {
		t.Errorf("resolved %+v", p)
	}
	// 2.0.0 never ran well: 1.0.0 did.
	p, err := b.Rollback("addon", "hello", "crash loop\n")
	if err != nil || p.Version != "1.0.0" || p.Generation != 1 {
		t.Fatalf("rolled back to %+v, %v", p, err)
	}
	if p := b.resolve("addon", "hello"); p.Version != "1.0.0" {
		t.Errorf("the failed version came back: %+v", p)
	}
	info, err := b.Info("addon", "hello")
	if err != nil || info.Note != "3.0.0 rolled back: crash loop" || info.Version != "3.0.0" || info.Running != "1.0.0" {
		t.Errorf("info %+v, %v", info, err)
	}
	// A new version, or another chance, ends it.
	if err := b.SetEnabled("addon", "hello", true); err != nil {
		t.Fatal(err)
	}
	if p := b.resolve("addon", "hello"); p.Version != "3.0.0" || p.Generation != 3 {
		t.Errorf("resolved %+v", p)
	}
	if _, err := b.Rollback("addon", "hello", ""); err != nil {
		t.Fatal(err)
	}
	b.install(addon("4.0.0"))
	if p := b.resolve("addon", "hello"); p.Version != "4.0.0" || p.Generation != 4 {
		t.Errorf("resolved %+v", p)
	}
	// Old generations go, with their files; the last good one stays.
	for _, v := range []string{"5.0.0", "6.0.0", "7.0.0", "8.0.0"} {
		b.install(addon(v))
	}
	if got := strings.Join(b.versions("addon", "hello"), " "); got != "1.0.0 5.0.0 6.0.0 7.0.0 8.0.0" {
		t.Errorf("versions %s", got)
	}
	if p, err := b.Rollback("addon", "hello", "x"); err != nil || p.Version != "1.0.0" {
		t.Errorf("rolled back to %+v, %v", p, err)
	}
}

func TestRollbackVerifies(t *testing.T) {
	b := newBed(t)
	b.tick()
	b.install(addon("1.0.0"))
	first := b.resolve("addon", "hello")
	if err := b.Good(first); err != nil {
		t.Fatal(err)
	}
	b.install(addon("2.0.0"))
	writeTest(t, first.Path, "#!/bin/sh\n", 0o755)
	_, err := b.Rollback("addon", "hello", "x")
	refused(t, err, first.Path, first.SHA256)
	if p := b.resolve("addon", "hello"); p.Version != "2.0.0" {
		t.Errorf("resolved %+v", p)
	}
	// Nor does a report about files that are gone count.
	if err := b.Good(program.Program{Kind: "addon", Name: "hello", Generation: 2, SHA256: sum("x")}); err != nil {
		t.Fatal(err)
	}
	if info, err := b.Info("addon", "hello"); err != nil || info.Generations[1].Good != nil {
		t.Errorf("info %+v, %v", info, err)
	}
}

const bundledCatalog = `apiVersion: plugins.kelson.io/v1
plugins:
  - {kind: cni, name: flannel, version: 1.0.0, default: true, bundled: true, args: [cni, flannel], sha256: %s}
  - {kind: cni, name: bridge, version: 1.0.0, bundled: true, lifetime: host}
`

func TestBundled(t *testing.T) {
	b := newBed(t)
	b.tick()
	const text = "#!/bin/sh\n# v1\n"
	b.bundle(text, fmt.Sprintf(bundledCatalog, sum(text)))
	p := b.resolve("cni", "flannel")
	want := program.Program{
		Kind: "cni", Name: "flannel", Version: "1.0.0", Dir: b.layout.Bin, Path: filepath.Join(b.layout.Bin, Executable),
		Args: []string{"cni", "flannel"}, SHA256: sum(text), Lifetime: program.Node, Protocols: []uint32{1}, Generation: 1,
	}
	if fmt.Sprintf("%+v", p) != fmt.Sprintf("%+v", want) {
		t.Errorf("got  %+v\nwant %+v", p, want)
	}
	_, err := b.Resolve("cni", "bridge")
	refused(t, err, "cni(bridge)", "expected sha256 of", "none")
	_, err = b.Resolve("cni", "flanel")
	refused(t, err, "cni(flanel)")
	if !strings.Contains(hint(err), `"flannel"`) {
		t.Errorf("hint %s", hint(err))
	}
	refused(t, b.Remove("cni", "flannel", ""), "a bundled one")
	if name, err := b.Default("cni"); err != nil || name != "flannel" {
		t.Errorf("default %s, %v", name, err)
	}
	// Another payload with the same program is the same generation.
	if err := b.Good(p); err != nil {
		t.Fatal(err)
	}
	next := openBed(t, b.layout.Root)
	next.layout.Bin = filepath.Join(b.layout.Root, "data", "def", "bin")
	next.tick()
	next.bundle(text, fmt.Sprintf(bundledCatalog, sum(text)))
	if p := next.resolve("cni", "flannel"); p.Generation != 1 || p.Path != filepath.Join(next.layout.Bin, Executable) {
		t.Errorf("resolved %+v", p)
	}
	// One that crashes is left for the one before, as long as its payload is there.
	const broken = "#!/bin/sh\n# v2\n"
	next.layout.Bin = filepath.Join(b.layout.Root, "data", "ghi", "bin")
	next.bundle(broken, fmt.Sprintf(bundledCatalog, sum(broken)))
	if p := next.resolve("cni", "flannel"); p.Generation != 2 {
		t.Errorf("resolved %+v", p)
	}
	if p, err := next.Rollback("cni", "flannel", "crashes"); err != nil || p.SHA256 != sum(text) {
		t.Errorf("rolled back to %+v, %v", p, err)
	}
	writeTest(t, filepath.Join(next.layout.Bin, Executable), "changed\n", 0o755)
	_, err = next.Resolve("cni", "flannel")
	refused(t, err, "SHA-256 "+sum(broken), sum("changed\n"))
}

// TestMerge lays the administrator's catalog over the bundled one.
func TestMerge(t *testing.T) {
	b := newBed(t)
	const text = "#!/bin/sh\n# v1\n"
	b.bundle(text, fmt.Sprintf(bundledCatalog, sum(text)))
	secret := filepath.Join(t.TempDir(), "psk")
	writeTest(t, secret, "s3cret\n", 0o600)
	b.catalog("apiVersion: plugins.kelson.io/v1\nplugins:\n  - {kind: cni, name: flannel, lifetime: host, config: {backend: vxlan}, secrets: {psk: {fromFile: " + secret + "}}}\n  - {kind: cni, name: bridge, default: true, enabled: false}\n")
	if p := b.resolve("cni", "flannel"); p.Lifetime != program.Host || p.Version != "1.0.0" {
		t.Errorf("resolved %+v", p)
	}
	s, err := b.Settings("cni", "flannel")
	if err != nil || string(s.Config) != `{"backend":"vxlan"}` || string(s.Secrets["psk"]) != `"s3cret"` {
		t.Errorf("settings %+v, %v", s, err)
	}
	_, err = b.Resolve("cni", "bridge")
	refused(t, err, "cni(bridge)", b.file+":4", "enabled: false")
	if name, err := b.Default("cni"); err != nil || name != "" {
		t.Errorf("default %q, %v", name, err)
	}
	if err := b.SetEnabled("cni", "bridge", true); err != nil {
		t.Fatal(err)
	}
	if name, err := b.Default("cni"); err != nil || name != "bridge" {
		t.Errorf("default %q, %v", name, err)
	}
	writeTest(t, secret, "s3cret\n", 0o640)
	_, err = b.Settings("cni", "flannel")
	refused(t, err, secret, "0640")
	// A program of its own takes the bundled one's place.
	s2 := sample{kind: "cni", name: "flannel", version: "2.0.0"}
	b.catalog("")
	b.install(s2)
	if p := b.resolve("cni", "flannel"); p.Version != "2.0.0" || p.Dir != b.plugins("cni", "flannel", "2.0.0") {
		t.Errorf("resolved %+v", p)
	}
	if err := b.Remove("cni", "flannel", ""); err != nil {
		t.Fatal(err)
	}
	if p := b.resolve("cni", "flannel"); p.Version != "1.0.0" {
		t.Errorf("resolved %+v", p)
	}
	// Disabling and enabling a bundled plugin leaves no entry behind.
	for _, on := range []bool{false, true} {
		if err := b.SetEnabled("cni", "flannel", on); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Resolve("cni", "flannel"); (err == nil) != on {
			t.Errorf("enabled %v: %v", on, err)
		}
	}
	if data, err := os.ReadFile(b.file); err != nil || strings.Contains(string(data), "flannel") {
		t.Errorf("left %s, %v", data, err)
	}
}

func TestBadCatalogs(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"version":    {"apiVersion: v2\nplugins: []", "f:1: apiVersion: want plugins.kelson.io/v1"},
		"unknown":    {"apiVersion: plugins.kelson.io/v1\nplugin: []", "f:2: plugin: unknown key"},
		"kind":       {"apiVersion: plugins.kelson.io/v1\nplugins:\n  - {kind: net, name: x, version: 1.0.0}", "f:3: plugins.0.kind: want one of datastore, cni, addon"},
		"range":      {"apiVersion: plugins.kelson.io/v1\nplugins:\n  - {kind: cni, name: x, version: ~1.4}", "f:3: plugins.0.version: want"},
		"digest":     {"apiVersion: plugins.kelson.io/v1\nplugins:\n  - {kind: cni, name: x, version: 1.0.0, sha256: abc}", "f:3: plugins.0.sha256: want 64"},
		"bundled":    {"apiVersion: plugins.kelson.io/v1\nplugins:\n  - {kind: cni, name: x, version: 1.0.0, bundled: true}", "f:3: plugins.0: bundled"},
		"signature":  {"apiVersion: plugins.kelson.io/v1\nplugins:\n  - {kind: cni, name: x, version: 1.0.0, signature: never}", "plugins.0.signature: want one of"},
		"secret":     {"apiVersion: plugins.kelson.io/v1\nplugins:\n  - {kind: cni, name: x, version: 1.0.0, secrets: {a: {fromFile: b}}}", "plugins.0.secrets.a.fromFile: want an absolute path"},
		"twice":      {"apiVersion: plugins.kelson.io/v1\nplugins:\n  - {kind: cni, name: x, version: 1.0.0}\n  - {kind: cni, name: x, version: 2.0.0}", "f:4: plugins.1.name: cni(x) is listed before, in line 3"},
		"key":        {"apiVersion: plugins.kelson.io/v1\ntrust: {keys: [{name: a, key: b}]}", "f:2: trust.keys.0.key: public key"},
		"no version": {"apiVersion: plugins.kelson.io/v1\nplugins:\n  - {kind: cni, name: x}", "f:3: version: is needed"},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := parseCatalog([]byte(c.text), "f", false)
			if err == nil {
				_, err = merge(catalogFile{}, f)
			}
			refused(t, err, c.want)
		})
	}
}

// TestRefusals changes an installed plugin in every way that must be noticed.
func TestRefusals(t *testing.T) {
	root := os.Geteuid() == 0
	for name, c := range map[string]struct {
		change func(b bed, p program.Program)
		want   []string
		root   bool
	}{
		"program":       {func(_ bed, p program.Program) { writeTest(t, p.Path, "#!/bin/sh\n", 0o755) }, []string{"digest", sum("#!/bin/sh\n")}, false},
		"other file":    {func(_ bed, p program.Program) { writeTest(t, filepath.Join(p.Dir, "data"), "y", 0o644) }, []string{"data", sum("x"), sum("y")}, false},
		"missing file":  {func(_ bed, p program.Program) { _ = os.Remove(filepath.Join(p.Dir, "data")) }, []string{"data"}, false},
		"missing":       {func(_ bed, p program.Program) { _ = os.RemoveAll(p.Dir) }, []string{"folder", "version 1.0.0", "nothing"}, false},
		"a link":        {func(_ bed, p program.Program) { _ = os.Rename(p.Path, p.Path+"2"); _ = os.Symlink(p.Path+"2", p.Path) }, []string{"symbolic link"}, false},
		"a fifo":        {func(_ bed, p program.Program) { _ = os.Remove(p.Path); _ = exec.Command("mkfifo", p.Path).Run() }, []string{"a regular file"}, false},
		"writable":      {func(_ bed, p program.Program) { _ = os.Chmod(p.Path, 0o757) }, []string{"permission", "0757"}, false},
		"writable dir":  {func(_ bed, p program.Program) { _ = os.Chmod(p.Dir, 0o777) }, []string{"permission", "0777"}, false},
		"writable kind": {func(b bed, _ program.Program) { _ = os.Chmod(b.plugins("addon"), 0o775) }, []string{"permission", b0("addon"), "0775"}, false},
		"owner":         {func(_ bed, p program.Program) { _ = os.Chown(p.Path, 4711, 0) }, []string{"owner root", "4711"}, true},
		"owner of dir":  {func(b bed, _ program.Program) { _ = os.Chown(b.plugins("addon", "hello"), 4711, 0) }, []string{"owner root", "4711"}, true},
		"not runnable":  {func(_ bed, p program.Program) { _ = os.Chmod(p.Path, 0o444) }, []string{"0444"}, false},
		"manifest": {func(_ bed, p program.Program) {
			s := addon("1.0.0")
			s.script = "#!/bin/sh\n# another\n"
			s.extra = map[string]string{"data": "x"}
			for name, text := range s.files(t) {
				writeTest(t, filepath.Join(p.Dir, name), text, 0o755)
			}
		}, []string{"expected SHA-256"}, false},
		"version": {func(_ bed, p program.Program) {
			s := addon("1.0.1")
			writeTest(t, filepath.Join(p.Dir, manifest.FileName), s.files(t)[manifest.FileName], 0o644)
		}, []string{"plugin.yaml", "expected version 1.0.0", "found 1.0.1"}, false},
		"not a manifest": {func(_ bed, p program.Program) {
			writeTest(t, filepath.Join(p.Dir, manifest.FileName), "kind: 1\n", 0o644)
		}, []string{"plugin.yaml:1: kind"}, false},
		"catalog's digest": {func(b bed, _ program.Program) {
			b.catalog("apiVersion: plugins.kelson.io/v1\nplugins:\n  - {kind: addon, name: hello, version: 1.0.0, sha256: " + sum("z") + "}\n")
		}, []string{"expected SHA-256 " + sum("z"), "plugin-catalog.yaml:3"}, false},
		"signature wanted": {func(b bed, _ program.Program) {
			b.catalog("apiVersion: plugins.kelson.io/v1\nplugins:\n  - {kind: addon, name: hello, version: 1.0.0, signature: required}\n")
		}, []string{"plugin.yaml.minisig", "expected a signature"}, false},
		"no pin": {func(b bed, _ program.Program) {
			b.catalog("apiVersion: plugins.kelson.io/v1\nplugins:\n  - {kind: addon, name: hello, version: 1.0.0}\n")
			_ = os.Remove(b.lockPath())
		}, []string{"sha256, an entry in the lock, or a valid signature"}, false},
		"broken lock": {func(b bed, _ program.Program) { writeTest(t, b.lockPath(), "{", 0o644) }, []string{LockName}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if c.root && !root {
				t.Skip("needs root")
			}
			b := newBed(t)
			s := addon("1.0.0")
			s.extra = map[string]string{"data": "x"}
			b.install(s)
			c.change(b, b.resolve("addon", "hello"))
			_, err := b.Resolve("addon", "hello")
			refused(t, err, c.want...)
		})
	}
}

func b0(elem string) string { return "plugins/" + elem }

// TestSignedNeedsNoOtherPin is the way of a plugin that was put in place by hand.
func TestSignedNeedsNoOtherPin(t *testing.T) {
	b, key := newBed(t), newKey(t)
	s := sample{kind: "cni", name: "hello", version: "1.0.0", key: key}
	for name, text := range s.files(t) {
		writeTest(t, b.plugins("cni", "hello", "1.0.0", name), text, 0o755)
	}
	b.catalog("apiVersion: plugins.kelson.io/v1\ntrust: {keys: [{name: me, key: " + key.Public().String() + "}]}\nplugins:\n  - {kind: cni, name: hello, version: 1.0.0}\n")
	if p := b.resolve("cni", "hello"); p.Generation != 1 {
		t.Errorf("resolved %+v", p)
	}
}

func TestConcurrentResolve(t *testing.T) {
	b := newBed(t)
	b.install(addon("1.0.0"))
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			p, err := New(Deps{Layout: b.layout}).Resolve("addon", "hello")
			if err == nil {
				err = b.Good(p)
			}
			if err != nil || p.Generation != 1 {
				t.Errorf("resolved %+v, %v", p, err)
			}
		})
	}
	all.Wait()
}

func TestExamine(t *testing.T) {
	b := newBed(t)
	b.install(addon("1.0.0"))
	for _, f := range b.Examine(t.Context(), "addon", "hello", true) {
		if f.Result != OK || f.Took < 0 {
			t.Errorf("%+v", f)
		}
	}
	mute := addon("2.0.0")
	mute.script = strings.Replace(mute.program(), `echo "1|1`, `echo "7|1`, 1)
	b.install(mute)
	findings := b.Examine(t.Context(), "addon", "hello", true)
	last := findings[len(findings)-1]
	if last.Step != "start" || last.Result != Failed || !strings.Contains(last.Detail, "7|1|unix") || last.Hint == "" {
		t.Errorf("%+v", last)
	}
	findings = b.Examine(t.Context(), "addon", "other", true)
	if findings[0].Result != Failed || findings[1].Result != Skipped || findings[1].Took != 0 {
		t.Errorf("%+v", findings)
	}
}

func FuzzLock(f *testing.F) {
	f.Add([]byte(`{"format":1,"plugins":[{"kind":"cni","name":"x","active":1,"generations":[{"generation":1,"version":"1.0.0","sha256":"` + sum("x") + `","path":"p","lifetime":"node","protocols":[1],"added":"2026-01-02T03:04:05Z"}]}]}`))
	f.Add([]byte(`{"format":1,"plugins":[null]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := parseLock(data)
		if err != nil {
			return
		}
		for _, r := range l.Plugins {
			before := len(r.Generations)
			r.add(Generation{Version: "9.9.9", SHA256: sum("y"), Path: "p"})
			if r.active() == nil || r.active().Version != "9.9.9" || len(r.Generations) > max(history, before) {
				t.Fatalf("%+v", r)
			}
		}
		out, err := json.Marshal(l)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseLock(out); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzCatalog(f *testing.F) {
	f.Add([]byte("apiVersion: plugins.kelson.io/v1\nplugins:\n  - {kind: cni, name: x, version: 1.0.0, config: {a: [1, {b: c}]}}\n"))
	f.Add([]byte(fmt.Sprintf(bundledCatalog, sum("x"))))
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := parseCatalog(data, "f", false); err != nil {
			return
		}
		out, err := edit(data, onPlugins(func(plugins *yaml.Node) { put(entryNode(plugins, "addon", "fuzz"), "version", "1.0.0") }))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseCatalog(out, "f", false); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	})
}
