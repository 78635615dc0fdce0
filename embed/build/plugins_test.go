package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestPinCatalog(t *testing.T) {
	dir := t.TempDir()
	program, from, to := filepath.Join(dir, "program"), filepath.Join(dir, "from"), filepath.Join(dir, "to")
	write := func(path, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(program, "abc")
	write(from, "# kept\nplugins:\n  - name: a\n    version: 1.0.0\n    bundled: true\n  - name: b\n    version: 1.0.0\n    bundled: true\n")
	if err := pinCatalog(from, program, to); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(to)
	if err != nil {
		t.Fatal(err)
	}
	const digest = "\n    sha256: ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\n"
	if strings.Count(string(got), digest) != 2 || !strings.HasPrefix(string(got), "# kept\n") {
		t.Errorf("got\n%s", got)
	}
	if version, err := bundledVersion(from); err != nil || version != "1.0.0" {
		t.Errorf("version %q, %v", version, err)
	}
	write(from, "plugins:\n  - name: a\n    version: 1.0.0\n  - name: b\n    version: 1.0.1\n")
	if err := pinCatalog(from, program, to); err == nil {
		t.Error("a catalog without bundled plugins was pinned")
	}
	if _, err := bundledVersion(from); err == nil {
		t.Error("two versions of one program were accepted")
	}
}
