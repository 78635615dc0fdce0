package config

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// golden compares got with a file, or rewrites the file.
func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs, run with -update and read the diff; got:\n%s", path, got)
	}
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("glob %s: %d files, %v", pattern, len(files), err)
	}
	return files
}

// file makes the inputs for one configuration file.
func file(path string) Inputs {
	return Inputs{Flags: []Flag{{"config", path}}, Hostname: "host"}
}

func TestDiagnosticsGolden(t *testing.T) {
	for _, path := range glob(t, "testdata/bad/*.yaml") {
		t.Run(filepath.Base(path), func(t *testing.T) {
			_, err := Load(file(path))
			var usage *UsageError
			if !errors.As(err, &usage) {
				t.Fatalf("want a usage error, got %v", err)
			}
			var out strings.Builder
			for _, p := range usage.Problems {
				fmt.Fprintf(&out, "%v\nhint: %s\n", p, p.Hint())
				if p.Remedy == "" {
					t.Errorf("no remedy: %v", p)
				}
				if p.Source.Kind == FromFile && p.Source.Line == 0 {
					t.Errorf("no line: %v", p)
				}
			}
			golden(t, strings.TrimSuffix(path, ".yaml")+".golden", out.String())
		})
	}
}

func TestEffectiveGolden(t *testing.T) {
	for _, path := range glob(t, "testdata/good/*.yaml") {
		t.Run(filepath.Base(path), func(t *testing.T) {
			r, err := Resolve(file(path))
			if err != nil {
				t.Fatal(err)
			}
			var out strings.Builder
			for _, v := range r.Values {
				fmt.Fprintf(&out, "%s = %s (%s)\n", v.Option.Name, strings.Join(v.Texts(), ","), v.Source)
			}
			fmt.Fprintf(&out, "\n%s\n", strings.ReplaceAll(fmt.Sprintf("%+v", r.Server), "} ", "}\n"))
			if strings.Contains(out.String(), "hunter2") {
				t.Error("a secret was printed")
			}
			golden(t, strings.TrimSuffix(path, ".yaml")+".golden", out.String())
		})
	}
}

// TestCompatibilityGolden is the answer to every key of K3s.
func TestCompatibilityGolden(t *testing.T) {
	var out strings.Builder
	out.WriteString("| key | status | what happens, what to do instead |\n|---|---|---|\n")
	for _, o := range Options() {
		if o.Ours {
			continue
		}
		names := strings.Join(append([]string{o.Name}, o.Aliases...), ", ")
		note := o.Note
		if o.Remedy != "" {
			note += "; " + o.Remedy
		}
		fmt.Fprintf(&out, "| %s | %s | %s |\n", names, o.Status, note)
		for _, c := range o.Values {
			fmt.Fprintf(&out, "| %s: %s | %s | %s |\n", o.Name, c.Value, c.Status, c.Note)
		}
	}
	golden(t, "testdata/k3s.golden", out.String())
}

// TestEveryK3sKeyIsAnswered keeps the table complete against K3s' own list.
func TestEveryK3sKeyIsAnswered(t *testing.T) {
	data, err := os.ReadFile("testdata/k3s-keys.txt")
	if err != nil {
		t.Fatal(err)
	}
	table := newTable()
	for key := range strings.FieldsSeq(string(data)) {
		o, ok := table.option(key)
		if !ok {
			t.Errorf("key %s of K3s is not in the table", key)
		} else if o.Status != Supported && o.Note == "" {
			t.Errorf("key %s: no reason", key)
		}
	}
}

func TestTableIsSound(t *testing.T) {
	names, env, short := map[string]bool{}, map[string]bool{}, map[rune]string{}
	for _, o := range Options() {
		for _, name := range append([]string{o.Name}, o.Aliases...) {
			if names[name] {
				t.Errorf("%s: twice", name)
			}
			names[name] = true
		}
		if env[o.Env] || !strings.HasPrefix(o.Env, "KELSON_") {
			t.Errorf("%s: variable %s", o.Name, o.Env)
		}
		env[o.Env] = true
		if o.Short != 0 && short[o.Short] != "" {
			t.Errorf("%s: -%c is %s", o.Name, o.Short, short[o.Short])
		}
		short[o.Short] = o.Name
		if o.Help == "" || o.Group == "" {
			t.Errorf("%s: help or group missing", o.Name)
		}
		if o.Default != "" {
			if msg, _ := checkType(o, o.Default); msg != "" {
				t.Errorf("%s: default: %s", o.Name, msg)
			}
		}
	}
}

func TestPrecedence(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("etc/config.yaml", "node-name: main\ncluster-domain: main.example\nnode-label: [a=1]\ntls-san: [main]\ndisable: coredns\nlog-format: json\n")
	write("etc/config.yaml.d/10-a.yaml", "cluster-domain: ten.example\nnode-label+: [b=2]\ntls-san: [ten]\nservice-node-port-range: 30000-30100\n")
	write("etc/config.yaml.d/20-b.yml", "node-label+: c=3\nservice-node-port-range: 31000-31100\nhttps-listen-port: 7443\n")
	write("etc/config.yaml.d/30-ignored.txt", "nonsense")
	s, err := Load(Inputs{
		Flags:    []Flag{{"data-dir", dir}, {"tls-san", "flag"}, {"https-listen-port", "9443"}, {"tls-san", "flag2"}},
		Environ:  []string{"KELSON_HTTPS_LISTEN_PORT=8443", "KELSON_SUPERVISOR_PORT=9999", "KELSON_TOKEN=t", "KELSON_TOKN=x", "OTHER=1"},
		Hostname: "host",
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		got  any
		want any
	}{
		{"file", s.Node.Name, "main"},
		{"drop-in over file", s.Network.ClusterDomain, "ten.example"},
		{"later drop-in", s.Network.NodePortMin, 31000},
		{"append", strings.Join(s.Node.Labels, " "), "a=1 b=2 c=3"},
		{"flag replaces lists", strings.Join(s.API.TLSSan, " "), "flag flag2"},
		{"flag over environment", s.API.Port, 9443},
		{"environment", s.Supervisor.Port, 9999},
		{"secret", s.Token.Value, "t"},
		{"untouched", strings.Join(s.Addons.Disable, " "), "coredns"},
		{"etc follows data dir", s.EtcDir, filepath.Join(dir, "etc")},
		{"kubeconfig follows", s.Kubeconfig.Path, filepath.Join(dir, "etc", "kelson.yaml")},
		{"file read", s.ConfigFile, filepath.Join(dir, "etc", "config.yaml")},
		{"warning", strings.Join(s.Warnings, "; "), "$KELSON_TOKN is not known and ignored; did you mean $KELSON_TOKEN?; $KELSON_SUPERVISOR_PORT: supervisor-port has no effect: joining nodes is not available in this version"},
	} {
		if fmt.Sprint(c.got) != fmt.Sprint(c.want) {
			t.Errorf("%s: got %v, want %v", c.name, c.got, c.want)
		}
	}
}

func TestFlagAndEnvironmentProblems(t *testing.T) {
	_, err := Load(Inputs{
		Flags:    []Flag{{"data-dir", t.TempDir()}, {"cluster-cdr", "x"}, {"debug", "maybe"}, {"cluster-cidr", "10.0.0.0/16"}, {"service-cidr", "10.0.0.0/20"}},
		Environ:  []string{"KELSON_HTTPS_LISTEN_PORT=abc"},
		Hostname: "Under_Score",
	})
	if err == nil {
		t.Fatal("accepted")
	}
	golden(t, "testdata/flags.golden", err.Error()+"\n")
}

func TestConfigFileIsMissing(t *testing.T) {
	dir := t.TempDir()
	if _, err := Load(Inputs{Flags: []Flag{{"data-dir", dir}}, Hostname: "host"}); err != nil {
		t.Errorf("default file missing: %v", err)
	}
	path := filepath.Join(dir, "named.yaml")
	_, err := Load(Inputs{Flags: []Flag{{"data-dir", dir}, {"config", path}}, Hostname: "host"})
	if err == nil || !strings.Contains(err.Error(), path+": no such file") {
		t.Errorf("named file missing: %v", err)
	}
}

func TestFindEarly(t *testing.T) {
	dir := t.TempDir()
	other := filepath.Join(dir, "other")
	path := filepath.Join(dir, "c.yaml")
	text := "data-dir: " + other + "\nprefer-bundled-bin: true\nnonsense: 1\nwrite-kubeconfig: /k\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		args []string
		env  []string
		want Early
	}{
		{"nothing", nil, []string{"KELSON_CONFIG_FILE=" + dir + "/none"}, Early{DefaultDataDir, "/etc/kelson", "/etc/kelson/kelson.yaml", false}},
		{"flag", []string{"server", "--data-dir=/x", "--prefer-bundled-bin"}, nil, Early{"/x", "/x/etc", "/x/etc/kelson.yaml", true}},
		{"short flag", []string{"-d", "/x"}, nil, Early{"/x", "/x/etc", "/x/etc/kelson.yaml", false}},
		{"environment", nil, []string{"KELSON_DATA_DIR=/y"}, Early{"/y", "/y/etc", "/y/etc/kelson.yaml", false}},
		{"file", []string{"--config", path}, nil, Early{other, filepath.Join(other, "etc"), "/k", true}},
		{"flag over file", []string{"-c", path, "-d", "/x"}, nil, Early{"/x", "/x/etc", "/k", true}},
		{"behind a tool", []string{"kubectl", "-d", "/x"}, []string{"KELSON_DATA_DIR=/y"}, Early{"/y", "/y/etc", "/y/etc/kelson.yaml", false}},
		{"value missing", []string{"--data-dir"}, []string{"KELSON_DATA_DIR=/y"}, Early{"/y", "/y/etc", "/y/etc/kelson.yaml", false}},
	} {
		got, err := FindEarly(c.args, c.env)
		if err != nil || got != c.want {
			t.Errorf("%s: got %+v, %v; want %+v", c.name, got, err, c.want)
		}
	}
}

func TestDataDirThatProgramsWouldMisread(t *testing.T) {
	for path, char := range map[string]string{
		"/srv/a?b": "'?'", "/srv/100%": "'%'", "/srv/#1": "'#'", "/srv/a b": "' '", "/srv/a\tb": `'\t'`, "/srv/a\n": `'\n'`, "/srv/\x7f": `'\x7f'`, "/srv/a\u00a0b": `'\u00a0'`,
	} {
		args := []string{"server", "--data-dir", path}
		_, early := FindEarly(args, nil)
		_, load := Load(Inputs{Flags: []Flag{{"data-dir", path}}, Hostname: "host"})
		for name, err := range map[string]error{"launcher": early, "server": load} {
			var usage *UsageError
			if !errors.As(err, &usage) || !strings.Contains(err.Error(), char) || Hint(err) == "" {
				t.Errorf("%s: %q: error %v, want a usage error that names %s, with a remedy", name, path, err, char)
			}
		}
	}
	for _, path := range []string{"/srv/kelson-1.2_x@y:z,w", "/srv/größe"} {
		if _, err := Load(Inputs{Flags: []Flag{{"data-dir", path}}, Hostname: "host"}); err != nil {
			t.Errorf("%q: %v", path, err)
		}
	}
}

func TestRegistriesFileIsNotIgnoredInSilence(t *testing.T) {
	dir := t.TempDir()
	in := Inputs{Flags: []Flag{{"data-dir", dir}}, Hostname: "host"}
	if s, err := Load(in); err != nil || len(s.Warnings) > 0 {
		t.Fatalf("without the file: %v, %v", s.Warnings, err)
	}
	path := filepath.Join(dir, "etc", "registries.yaml")
	if err := errors.Join(os.Mkdir(filepath.Dir(path), 0o755), os.WriteFile(path, []byte("mirrors: {}\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	s, err := Load(in)
	if err != nil || len(s.Warnings) != 1 || !strings.Contains(s.Warnings[0], path) || !strings.Contains(s.Warnings[0], dir+"/agent/etc/containerd/certs.d") {
		t.Errorf("warnings %q, %v", s.Warnings, err)
	}
}

func TestBuiltInEndpoint(t *testing.T) {
	for endpoint, ok := range map[string]bool{
		"": true, "sqlite": true, "sqlite://": true, "sqlite:///srv/state.db": false, "sqlite://?mode=ro": false, "mysql://u@h/d": false, "nonsense": false,
	} {
		_, err := Load(Inputs{Flags: []Flag{{"data-dir", t.TempDir()}, {"datastore-endpoint", endpoint}}, Hostname: "host"})
		if (err == nil) != ok || !ok && Hint(err) == "" {
			t.Errorf("%q: %v", endpoint, err)
		}
	}
}

func TestTokenIsNeverPrinted(t *testing.T) {
	s, err := Load(Inputs{Flags: []Flag{{"data-dir", t.TempDir()}, {"token", "hunter2"}}, Hostname: "host"})
	if err != nil || s.Token.Value != "hunter2" {
		t.Fatalf("%v, %v", s.Token, err)
	}
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		if strings.Contains(fmt.Sprintf(format, s), "hunter2") {
			t.Errorf("%s prints the token", format)
		}
	}
}

func TestNearest(t *testing.T) {
	names := []string{"cluster-cidr", "cluster-dns", "node-name"}
	for word, want := range map[string]string{
		"cluser-cidr": "cluster-cidr", "cluster_dns": "cluster-dns", "NODE-NAME": "node-name", "nodename": "node-name", "xyz": "", "": "",
	} {
		if got := Nearest(word, names); got != want {
			t.Errorf("%q: got %q, want %q", word, got, want)
		}
	}
}

func FuzzParseFile(f *testing.F) {
	for _, pattern := range []string{"testdata/bad/*.yaml", "testdata/good/*.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, path := range files {
			data, err := os.ReadFile(path)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
		}
	}
	f.Add([]byte("a: &x [*x]\n? {}\n: 1\n<<: *x\n"))
	table := newTable()
	f.Fuzz(func(t *testing.T, data []byte) {
		entries, problems := parseFile("f", data, table)
		lines := strings.Count(string(data), "\n") + strings.Count(string(data), "\r") + 2
		for _, p := range problems {
			if p.Source.Line > lines || p.Error() == "" {
				t.Errorf("line %d of %d: %v", p.Source.Line, lines, p)
			}
		}
		for _, e := range entries {
			if !e.option.Many() && len(e.items) != 1 {
				t.Errorf("%s: %d values", e.option.Name, len(e.items))
			}
		}
	})
}
