package process

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "child.log")
	l := &logFile{path: path, max: 10, backups: 2}
	if err := l.rotate(); err != nil {
		t.Errorf("no file yet: %v", err)
	}
	for i := range 4 {
		out, err := l.open()
		if err != nil {
			t.Fatal(err)
		}
		// One descriptor over the rotation, as the child has.
		fmt.Fprintf(out, "generation %d\n", i)
		if err := l.rotate(); err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(out, "small")
		if err := l.rotate(); err != nil {
			t.Fatal(err)
		}
		out.Close()
		if why := contains(path, "small")(); why != "" {
			t.Error(why)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	for i, want := range map[string]string{".1": "generation 3\n", ".2": "generation 2\n"} {
		if got, err := os.ReadFile(path + i); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v, want %q", i, got, err, want)
		}
	}
	if _, err := os.Stat(path + ".3"); !os.IsNotExist(err) {
		t.Errorf("a third backup: %v", err)
	}
}

// TestRotationUnderAWritingChild checks with a real child that it writes on
// after a rotation, at the start of the file and in whole lines.
func TestRotationUnderAWritingChild(t *testing.T) {
	spec := player(t, "spam")
	start(t, spec)
	l := &logFile{path: spec.LogFile, max: 4096, backups: 1}
	for range 3 {
		eventually(t, "log grows", func() string {
			info, err := os.Stat(spec.LogFile)
			if err != nil {
				return err.Error()
			}
			if info.Size() <= l.max {
				return fmt.Sprintf("%d bytes", info.Size())
			}
			return ""
		})
		if err := l.rotate(); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(spec.LogFile + ".1")
		if err != nil {
			t.Fatal(err)
		}
		if int64(len(data)) <= l.max || strings.ContainsRune(string(data), 0) || !strings.HasPrefix(string(data), "line ") {
			t.Errorf("backup of %d bytes starts %q", len(data), data[:min(20, len(data))])
		}
	}
}

func TestTail(t *testing.T) {
	path := filepath.Join(t.TempDir(), "child.log")
	if err := os.WriteFile(path, []byte("an earlier run\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l := &logFile{path: path, max: 1 << 20, backups: 1}
	out, err := l.open()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if got := l.last(); got != "" {
		t.Errorf("nothing written yet: %q", got)
	}
	fmt.Fprint(out, strings.Repeat("x", 2*tailBytes), "\none\ntwo\nthree\n\n")
	if got, want := l.last(), "one | two | three"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := (&logFile{}).last(); got != "" {
		t.Errorf("no file: %q", got)
	}
}
