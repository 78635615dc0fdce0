package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/kelson-io/kelson/sdk/manifest/strict"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func full(t *testing.T) Manifest {
	t.Helper()
	m, err := Parse(read(t, "testdata/full.yaml"), "full.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestParse(t *testing.T) {
	const empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	want := Manifest{
		APIVersion: APIVersion, Kind: "cni", Name: "flannel", Version: "1.4.0-rc.1+build.7", Summary: "A VXLAN between the nodes.",
		Protocols: []uint32{1, 2}, Capabilities: []string{"dual-stack", "encryption"}, Lifetime: "node",
		Requests: Requests{Caps: []string{"NET_ADMIN", "NET_RAW"}, Paths: []string{"/run/flannel"}, Network: true, Memory: "64Mi"},
		Exec:     "flannel", Args: []string{"serve", "--quiet", "12"},
		Files:        map[string]string{"flannel": empty, "data/table.json": empty},
		ConfigSchema: json.RawMessage(`{"properties":{"backend":{"default":"vxlan","enum":["vxlan","host-gw","true"]},"mtu":{"maximum":65535,"minimum":1.5,"type":"integer"}},"type":"object"}`),
	}
	if got := full(t); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestMarshal(t *testing.T) {
	m := full(t)
	data, err := Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Parse(data, "again.yaml")
	if err != nil || !reflect.DeepEqual(m, again) {
		t.Errorf("got %+v, %v from\n%s", again, err, data)
	}
	second, err := Marshal(again)
	if err != nil || !bytes.Equal(data, second) {
		t.Errorf("not the same again: %v\n%s", err, second)
	}
	m.Exec = "other"
	if _, err := Marshal(m); err == nil {
		t.Error("a manifest was written that Check refuses")
	}
}

// TestBad compares all messages and remedies of every bad file.
func TestBad(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.yaml")
	if err != nil || len(files) < 5 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			_, err := Parse(read(t, file), "plugin.yaml")
			problems, ok := errors.AsType[strict.Problems](err)
			if !ok {
				t.Fatalf("accepted, or another error: %v", err)
			}
			var b strings.Builder
			for _, p := range problems {
				b.WriteString(p.Error() + "\n  hint: " + p.Hint() + "\n")
				if p.Line == 0 || p.Remedy == "" {
					t.Errorf("no line or no remedy: %v", p)
				}
			}
			golden := strings.TrimSuffix(file, ".yaml") + ".golden"
			if *update {
				if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if want := string(read(t, golden)); b.String() != want {
				t.Errorf("got\n%swant\n%s", b.String(), want)
			}
		})
	}
}

func TestBounds(t *testing.T) {
	if _, err := Parse(bytes.Repeat([]byte("# x\n"), 1<<19), "p"); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("a huge file: %v", err)
	}
	deep := "configSchema: " + strings.Repeat("{a: ", 200) + "1" + strings.Repeat("}", 200)
	if _, err := Parse([]byte(deep), "p"); err == nil || !strings.Contains(err.Error(), "too deep") {
		t.Errorf("a deep file: %v", err)
	}
}

func TestVersions(t *testing.T) {
	for version, want := range map[string]bool{
		"1.2.3": true, "0.0.0": true, "1.2.3-rc.1": true, "1.2.3+build": true, "1.2.3-a+b.c": true,
		"": false, "1": false, "1.2": false, "v1.2.3": false, "01.2.3": false, "1.2.3-": false, "1.2.3-01": false,
		"1.2.3/..": false, "..": false, "1.2.3 ": false, "1.2.3\n": false, "1.2.3-" + strings.Repeat("a", 64): false,
	} {
		if got := ValidVersion(version); got != want {
			t.Errorf("%q: got %v", version, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/*/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range append(files, "testdata/full.yaml") {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := Parse(data, "plugin.yaml")
		if err != nil {
			if _, ok := errors.AsType[strict.Problems](err); !ok {
				t.Fatalf("not a list of problems: %v", err)
			}
			return
		}
		out, err := Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse(out, "again.yaml")
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		second, err := Marshal(again)
		if err != nil || !bytes.Equal(out, second) {
			t.Fatalf("not the same again: %v\n%s\n%s", err, out, second)
		}
	})
}
