package serve_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kelson-io/kelson/sdk/internal/sample"
	"github.com/kelson-io/kelson/sdk/manifest"
	"github.com/kelson-io/kelson/sdk/serve"
)

var update = flag.Bool("update", false, "write the golden files")

// byHand runs the sample as a person would.
func byHand(stdin string, args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = sample.Run(serve.Process{
		Name: "sample", Args: args, Getenv: func(string) string { return "" },
		Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: &errs,
	})
	return code, out.String(), errs.String()
}

func TestByHand(t *testing.T) {
	tests := []struct {
		name, stdin    string
		args           []string
		code           int
		stdout, stderr string // what they contain
	}{
		{"nothing", "", nil, 0, "sample 1.2.3, a Kelson plugin of kind addon: Says hello.", ""},
		{"help", "", []string{"--help"}, 0, "sample validate -f FILE", ""},
		{"unknown verb", "", []string{"desrcibe"}, 2, "", `unknown command "desrcibe"`},
		{"describe", "", []string{"describe"}, 0, `"version": "1.2.3"`, ""},
		{"describe more", "", []string{"describe", "it"}, 2, "", `unexpected argument "it"`},
		{"schema", "", []string{"schema"}, 0, `"$schema": "https://json-schema.org/draft/2020-12/schema"`, ""},
		{"validate nothing", "", []string{"validate"}, 2, "", "-f is missing"},
		{"validate as", "", []string{"validate", "-f", "-", "-o", "xml"}, 2, "", "want text or json"},
		{"no such file", "", []string{"validate", "-f", "testdata/none.yaml"}, 1, "", "no such file"},
		{"good", "greeting: hi\npause: 1s\n", []string{"validate", "-f", "-"}, 0, "-: valid\n", ""},
		{"empty", "", []string{"validate", "-f", "-"}, 1, "-:1: error: greeting: is required\n", ""},
		{"warning", "greeting: hi\npause: '0'\n", []string{"validate", "-f", "-"}, 0, "-:2: warning: pause: is nothing\n", ""},
		{"YAML", "a: [", []string{"validate", "-f", "-"}, 1, "-:1: error: neither YAML nor JSON: ", ""},
		{"two documents", "greeting: hi\n---\na: b\n", []string{"validate", "-f", "-"}, 1, ": error: something behind the first document", ""},
		{"alias", "greeting: &a hi\nstyle: *a\n", []string{"validate", "-f", "-"}, 1, "-:1: error: greeting: is an anchor or an alias", ""},
		{"not a mapping", "- a\n", []string{"validate", "-f", "-"}, 1, "-:1: error: must be an object, not a list", ""},
		{"no manifest", "", []string{"manifest"}, 2, "", "--exec is missing"},
		{"manifest help", "", []string{"manifest", "-h"}, 0, "-lifetime", ""},
		{"no program", "", []string{"manifest", "--exec", "testdata/none"}, 1, "", "no such file"},
		{"bad lifetime", "", []string{"manifest", "--exec", "testdata/bad.yaml", "--lifetime", "forever"}, 1, "", "lifetime"},
		{"elsewhere", "", []string{"manifest", "--exec", "testdata/bad.yaml", "--file", "serve.go"}, 1, "", "not in the folder testdata"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			code, stdout, stderr := byHand(tt.stdin, tt.args...)
			if code != tt.code || !strings.Contains(stdout, tt.stdout) || !strings.Contains(stderr, tt.stderr) {
				t.Errorf("code %d, want %d\nstdout %q, want %q\nstderr %q, want %q", code, tt.code, stdout, tt.stdout, stderr, tt.stderr)
			}
			if (tt.stderr == "") != (stderr == "") {
				t.Errorf("stderr %q", stderr)
			}
		})
	}
}

// TestValidateGolden: every finding with its line, from YAML and JSON alike.
func TestValidateGolden(t *testing.T) {
	for _, args := range [][]string{{"bad.yaml"}, {"bad.json"}, {"bad.yaml", "-o", "json"}} {
		code, stdout, stderr := byHand("", append([]string{"validate", "-f", filepath.Join("testdata", args[0])}, args[1:]...)...)
		if code != 1 || stderr != "" {
			t.Errorf("%v: code %d, %s", args, code, stderr)
		}
		golden(t, strings.Join(args, ""), stdout)
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: -update writes it:\n%s", file, got)
	}
}

func TestDescribeIsJSON(t *testing.T) {
	_, stdout, _ := byHand("", "describe")
	var d struct {
		Kind, Name   string
		ConfigSchema map[string]any
	}
	if err := json.Unmarshal([]byte(stdout), &d); err != nil || d.Kind != "addon" || d.Name != "sample" || d.ConfigSchema["type"] != "object" {
		t.Errorf("%v: %s", err, stdout)
	}
}

func TestManifest(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"sample", "LICENSE"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("content of "+name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	code, stdout, stderr := byHand("", "manifest", "--exec", filepath.Join(dir, "sample"), "--file", filepath.Join(dir, "LICENSE"),
		"--arg", "addon", "--arg", "sample", "--cap", "NET_ADMIN", "--path", "/proc/sys/net", "--network", "--memory", "64Mi")
	if code != 0 {
		t.Fatalf("code %d: %s", code, stderr)
	}
	m, err := manifest.Parse([]byte(stdout), "plugin.yaml")
	if err != nil {
		t.Fatalf("%v\n%s", err, stdout)
	}
	if m.Kind != "addon" || m.Name != "sample" || m.Version != "1.2.3" || m.Exec != "sample" || m.Lifetime != "on-demand" ||
		strings.Join(m.Args, " ") != "addon sample" || m.Requests.Memory != "64Mi" || !m.Requests.Network ||
		m.Files["sample"] != "sha256:01125dc355b926e8b6c3682b0f603949b715b49cd9f5e2acc221b7186e840496" || m.Files["LICENSE"] == "" {
		t.Errorf("got %+v", m)
	}
}

// FuzzDocument: no file makes the program panic, and it always says something.
func FuzzDocument(f *testing.F) {
	for _, name := range []string{"bad.yaml", "bad.json"} {
		seed, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(seed))
	}
	f.Add("a: !!binary x\n? [b]\n: c\n<<: {}\n1e3: .inf\nx: 0x1F\ny: 2001-01-01\nz: ~\n")
	f.Fuzz(func(t *testing.T, text string) {
		code, stdout, stderr := byHand(text, "validate", "-f", "-", "-o", "json")
		var answer struct{ Valid bool }
		if err := json.NewDecoder(strings.NewReader(stdout)).Decode(&answer); err != nil && err != io.EOF {
			t.Fatalf("%v: %s", err, stdout)
		}
		if (code == 0) != answer.Valid || stdout == "" && stderr == "" {
			t.Errorf("code %d, %s%s", code, stdout, stderr)
		}
	})
}
