package catalog

import (
	"archive/tar"
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/kelson-io/kelson/sdk/manifest"
	"github.com/kelson-io/kelson/sdk/sign"
)

func TestInstallSources(t *testing.T) {
	s := addon("1.2.3")
	s.extra = map[string]string{"data/table.txt": "x"}
	gz := archive(t, ".tar.gz", "", s.files(t))
	zst := archive(t, ".tar.zst", "hello-1.2.3/", s.files(t))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/hello.tar.zst" {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(zst)
	}))
	defer server.Close()
	file := filepath.Join(t.TempDir(), "hello.tar.gz")
	writeTest(t, file, string(gz), 0o644)
	for name, opt := range map[string]Options{
		"folder":             {Source: s.folder(t)},
		"archive":            {Source: file},
		"archive and digest": {Source: file, SHA256: sum(string(gz))},
		"url":                {Source: server.URL + "/hello.tar.zst", SHA256: "sha256:" + sum(string(zst))},
		"url with fragment":  {Source: server.URL + "/hello.tar.zst#sha256:" + sum(string(zst))},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			if err := b.tryInstall(opt); err != nil {
				t.Fatal(err)
			}
			b.clean()
			p := b.resolve("addon", "hello")
			if p.Version != "1.2.3" || p.Generation != 1 || p.Lifetime != "on-demand" || p.Dir != b.plugins("addon", "hello", "1.2.3") || p.SHA256 != sum(s.program()) {
				t.Errorf("resolved %+v", p)
			}
			for name, mode := range map[string]os.FileMode{"hello": 0o555, "data/table.txt": 0o444, manifest.FileName: 0o444} {
				st, err := os.Stat(filepath.Join(p.Dir, name))
				if err != nil || st.Mode() != mode {
					t.Errorf("%s: mode %v, %v", name, st.Mode(), err)
				}
			}
		})
	}
	b := newBed(t)
	for name, c := range map[string]struct {
		opt  Options
		want []string
	}{
		"url without digest": {Options{Source: server.URL + "/hello.tar.zst"}, []string{"expected the SHA-256"}},
		"wrong digest":       {Options{Source: server.URL + "/hello.tar.zst", SHA256: sum("x")}, []string{server.URL, sum("x"), sum(string(zst))}},
		"wrong file digest":  {Options{Source: file, SHA256: sum("x")}, []string{file, sum("x"), sum(string(gz))}},
		"not there":          {Options{Source: server.URL + "/other.tar.gz", SHA256: sum("x")}, []string{"404"}},
		"two digests":        {Options{Source: file + "#sha256:" + sum("y"), SHA256: sum("x")}, []string{"two that differ"}},
		"another scheme":     {Options{Source: "ftp://h/x.tar.gz", SHA256: sum("x")}, []string{"ftp://h/x.tar.gz"}},
		"no such path":       {Options{Source: "/nonexistent"}, []string{"/nonexistent"}},
		"no archive":         {Options{Source: s.folder(t) + "/hello"}, []string{"expected an archive"}},
		"no manifest":        {Options{Source: t.TempDir()}, []string{"plugin.yaml"}},
	} {
		t.Run(name, func(t *testing.T) {
			refused(t, b.tryInstall(c.opt), c.want...)
			b.clean()
		})
	}
}

func TestHostileArchives(t *testing.T) {
	good := addon("1.0.0").files(t)
	entry := func(h tar.Header, body string) func(*tar.Writer) {
		return func(w *tar.Writer) {
			if h.Size == 0 {
				h.Size = int64(len(body))
			}
			h.Mode = 0o755
			if err := w.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
			_, _ = w.Write([]byte(body))
		}
	}
	many := func(w *tar.Writer) {
		for i := range maxFiles + 1 {
			entry(tar.Header{Name: "f" + strconv.Itoa(i)}, "")(w)
		}
	}
	for name, c := range map[string]struct {
		add  func(*tar.Writer)
		want string
	}{
		"upwards":       {entry(tar.Header{Name: "../evil"}, "x"), "../evil"},
		"deep upwards":  {entry(tar.Header{Name: "a/../../evil"}, "x"), "evil"},
		"absolute":      {entry(tar.Header{Name: "/etc/evil"}, "x"), "/etc/evil"},
		"symbolic link": {entry(tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/etc"}, ""), "a symbolic link"},
		"hard link":     {entry(tar.Header{Name: "l", Typeflag: tar.TypeLink, Linkname: "hello"}, ""), "a hard link"},
		"device":        {entry(tar.Header{Name: "d", Typeflag: tar.TypeChar}, ""), "type '3'"},
		"twice":         {entry(tar.Header{Name: "./hello"}, "x"), "hello"},
		"huge":          {entry(tar.Header{Name: "big", Size: maxUnpacked}, ""), "at most 1024 MiB"},
		"many":          {many, "at most 1000 files"},
		"unnamed file":  {entry(tar.Header{Name: "more"}, "x"), "only files that plugin.yaml names"},
	} {
		t.Run(name, func(t *testing.T) {
			var plain bytes.Buffer
			w := tar.NewWriter(&plain)
			for name, text := range good {
				entry(tar.Header{Name: name}, text)(w)
			}
			c.add(w)
			_ = w.Flush()
			file := filepath.Join(t.TempDir(), "x.tar")
			writeTest(t, file, plain.String(), 0o644)
			b := newBed(t)
			refused(t, b.tryInstall(Options{Source: file}), c.want)
			b.clean()
			if items, err := b.List(); err != nil || len(items) != 0 {
				t.Errorf("left %+v, %v", items, err)
			}
		})
	}
	for _, kind := range []string{".tar.gz", ".tar.zst", ".tar"} {
		file := filepath.Join(t.TempDir(), "x"+kind)
		writeTest(t, file, "this is no archive at all, but it is longer than a header "+strings.Repeat("x", 600), 0o644)
		refused(t, newBed(t).tryInstall(Options{Source: file}), "unpack")
	}
}

func TestHostileFolders(t *testing.T) {
	for name, c := range map[string]struct {
		s      sample
		change func(dir string)
		want   []string
	}{
		"tampered":     {s: addon("1.0.0"), change: func(dir string) { writeTest(t, dir+"/hello", "#!/bin/sh\n", 0o755) }, want: []string{"hello", "expected SHA-256 " + sum(addon("1.0.0").program()), sum("#!/bin/sh\n")}},
		"a link":       {s: addon("1.0.0"), change: func(dir string) { _ = os.Remove(dir + "/hello"); _ = os.Symlink("/bin/sh", dir+"/hello") }, want: []string{"hello", "regular file"}},
		"missing":      {s: addon("1.0.0"), change: func(dir string) { _ = os.Remove(dir + "/hello") }, want: []string{"hello"}},
		"lies":         {s: sample{kind: "addon", name: "hello", version: "1.0.0", script: strings.ReplaceAll(addon("1.0.1").program(), "", "")}, want: []string{"describe", "expected version 1.0.0", "found 1.0.1"}},
		"no JSON":      {s: sample{kind: "addon", name: "hello", version: "1.0.0", script: "#!/bin/sh\necho hello\n"}, want: []string{"describe", "JSON"}},
		"fails":        {s: sample{kind: "addon", name: "hello", version: "1.0.0", script: "#!/bin/sh\necho the reason >&2; exit 3\n"}, want: []string{"exit status 3", "the reason"}},
		"floods":       {s: sample{kind: "addon", name: "hello", version: "1.0.0", script: "#!/bin/sh\nwhile :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done\n"}, want: []string{"describe"}},
		"interpreter":  {s: sample{kind: "addon", name: "hello", version: "1.0.0", script: "#!/nonexistent/python9\n"}, want: []string{"platform", "/nonexistent/python9"}},
		"no program":   {s: sample{kind: "addon", name: "hello", version: "1.0.0", script: "MZ is not for this system"}, want: []string{"ELF"}},
		"contract":     {s: sample{kind: "addon", name: "hello", version: "1.0.0", change: func(m *manifest.Manifest) { m.Protocols = []uint32{7} }}, want: []string{"version 1 of the contract", "found [7]"}},
		"schema":       {s: sample{kind: "addon", name: "hello", version: "1.0.0", change: func(m *manifest.Manifest) { m.ConfigSchema = []byte(`{"type":"object","properties":5}`) }}, want: []string{"schema"}},
		"schema refer": {s: sample{kind: "addon", name: "hello", version: "1.0.0", change: func(m *manifest.Manifest) { m.ConfigSchema = []byte(`{"$ref":"file:///etc/passwd"}`) }}, want: []string{"schema"}},
		"unsigned cni": {s: sample{kind: "cni", name: "hello", version: "1.0.0"}, want: []string{"cni(hello)", "plugin.yaml.minisig", "expected a signature"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir, b := c.s.folder(t), newBed(t)
			if c.change != nil {
				c.change(dir)
			}
			refused(t, b.tryInstall(Options{Source: dir}), c.want...)
			b.clean()
		})
	}
}

func TestNoPrivilegesWhileDescribing(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to drop it")
	}
	t.Setenv("CANARY", "sing")
	out := filepath.Join(t.TempDir(), "out")
	writeTest(t, out, "", 0o666)
	s := addon("1.0.0")
	s.script = strings.Replace(s.program(), "describe)", "describe) { id -u; env; } > "+out+";", 1)
	if err := os.Chmod(filepath.Dir(filepath.Dir(out)), 0o755); err != nil {
		t.Fatal(err)
	}
	newBed(t).install(s)
	got, err := os.ReadFile(out)
	if err != nil || !strings.HasPrefix(string(got), "65534\n") || strings.Contains(string(got), "CANARY") {
		t.Errorf("%v\n%s", err, got)
	}
}

func TestSignatures(t *testing.T) {
	key, other := newKey(t), newKey(t)
	s := sample{kind: "cni", name: "hello", version: "1.0.0", key: key}
	dir := s.folder(t)
	trust := []sign.PublicKey{key.Public()}

	b := newBed(t)
	refused(t, b.tryInstall(Options{Source: dir}), "signature", "none is listed", key.Public().ID.String())
	refused(t, b.tryInstall(Options{Source: dir, Trust: []sign.PublicKey{other.Public()}}), "signature", other.Public().ID.String())
	if err := b.tryInstall(Options{Source: dir, Trust: trust}); err != nil {
		t.Fatal(err)
	}
	b.resolve("cni", "hello")
	// The key is in the catalog now.
	next := s
	next.version = "1.1.0"
	if err := b.tryInstall(Options{Source: next.folder(t)}); err != nil {
		t.Fatal(err)
	}
	if p := b.resolve("cni", "hello"); p.Version != "1.1.0" {
		t.Errorf("resolved %+v", p)
	}
	// A signature that does not fit is refused whatever the policy.
	forged := next.folder(t)
	writeTest(t, filepath.Join(forged, manifest.SignatureName), s.files(t)[manifest.SignatureName], 0o644)
	refused(t, b.tryInstall(Options{Source: forged, Unsigned: true}), "signature", "does not fit")
	// An addon's signature must be known too, unless that is waived.
	hello := addon("1.0.0")
	hello.key = other
	refused(t, b.tryInstall(Options{Source: hello.folder(t)}), "signature", other.Public().ID.String())
	if err := b.tryInstall(Options{Source: hello.folder(t), Unsigned: true}); err != nil {
		t.Fatal(err)
	}
	// A key that is no longer trusted stops its plugins.
	data, err := os.ReadFile(b.file)
	if err != nil {
		t.Fatal(err)
	}
	b.catalog(strings.Replace(string(data), key.Public().String(), other.Public().String(), 1))
	_, err = b.Resolve("cni", "hello")
	refused(t, err, "cni(hello)", "signature", key.Public().ID.String())
}

func TestReinstallAndUpgrade(t *testing.T) {
	b := newBed(t)
	b.catalog("# kept\napiVersion: plugins.kelson.io/v1\nplugins:\n  # mine\n  - kind: addon\n    name: hello # why\n    version: 1.0.0\n    config: {size: 3}\n")
	b.install(addon("1.0.0"))
	first := b.resolve("addon", "hello")
	if err := b.Good(first); err != nil {
		t.Fatal(err)
	}
	// The same again repairs.
	writeTest(t, first.Path, "#!/bin/sh\n# changed\n", 0o755)
	_, err := b.Resolve("addon", "hello")
	refused(t, err, first.Path, first.SHA256, sum("#!/bin/sh\n# changed\n"))
	b.install(addon("1.0.0"))
	if p := b.resolve("addon", "hello"); p.Generation != 1 {
		t.Errorf("resolved %+v", p)
	}
	// Other content under the same version is refused.
	changed := addon("1.0.0")
	changed.script = changed.program() + "# other\n"
	refused(t, b.tryInstall(Options{Source: changed.folder(t)}), "plugin.yaml", "expected SHA-256", "found")
	// So is a configuration that does not fit.
	staged, err := b.Stage(t.Context(), Options{Source: addon("2.0.0").folder(t)})
	if err != nil {
		t.Fatal(err)
	}
	if staged.Replaces != "1.0.0" || len(staged.Wider) != 0 {
		t.Errorf("staged %+v", staged)
	}
	if err := staged.Commit(); err != nil {
		t.Fatal(err)
	}
	if p := b.resolve("addon", "hello"); p.Version != "2.0.0" || p.Generation != 2 {
		t.Errorf("resolved %+v", p)
	}
	data, err := os.ReadFile(b.file)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"# kept", "# mine", "name: hello # why", "version: 2.0.0", "config: {size: 3}", "sha256: " + sum(addon("2.0.0").program())} {
		if !strings.Contains(string(data), want) {
			t.Errorf("%q is missing in the catalog:\n%s", want, data)
		}
	}
	b.catalog(strings.Replace(string(data), "size: 3", "size: 0", 1))
	refused(t, b.tryInstall(Options{Source: addon("3.0.0").folder(t)}), b.file, "size")
	wide := addon("3.0.0")
	wide.change = func(m *manifest.Manifest) { m.Requests.Caps = []string{"NET_ADMIN"} }
	b.catalog(string(data))
	staged, err = b.Stage(t.Context(), Options{Source: wide.folder(t)})
	if err != nil || strings.Join(staged.Wider, " ") != "capability NET_ADMIN" {
		t.Errorf("staged %+v, %v", staged, err)
	}
	if err := staged.Discard(); err != nil {
		t.Fatal(err)
	}
	b.clean()
}

func TestRemove(t *testing.T) {
	b := newBed(t)
	b.install(addon("1.0.0"))
	b.install(addon("2.0.0"))
	refused(t, b.Remove("addon", "hello", "2.0.0"), "2.0.0")
	refused(t, b.Remove("addon", "hello", "3.0.0"), "3.0.0")
	refused(t, b.Remove("addon", "other", ""), "addon(other)")
	if err := b.Remove("addon", "hello", "1.0.0"); err != nil {
		t.Fatal(err)
	}
	if p := b.resolve("addon", "hello"); p.Version != "2.0.0" {
		t.Errorf("resolved %+v", p)
	}
	if err := b.Remove("addon", "hello", ""); err != nil {
		t.Fatal(err)
	}
	_, err := b.Resolve("addon", "hello")
	refused(t, err, "addon(hello)", b.file)
	if items, err := b.List(); err != nil || len(items) != 0 {
		t.Errorf("left %+v, %v", items, err)
	}
	b.clean()
}
