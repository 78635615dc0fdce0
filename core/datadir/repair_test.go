package datadir

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/kelson-io/kelson/core/datadir/payload"
)

// A damaged tree is put right without touching it before the new one is whole.
func TestDamagedTreeIsRepaired(t *testing.T) {
	p := newPayload(t, "1")
	for name, damage := range map[string]func(dir string) error{
		"truncated": func(d string) error { return os.Truncate(filepath.Join(d, "bin/cni"), 3) },
		"missing":   func(d string) error { return os.Remove(filepath.Join(d, "bin/kelson-host")) },
		"folder":    func(d string) error { return os.RemoveAll(filepath.Join(d, "cni")) },
		"mode":      func(d string) error { return os.Chmod(filepath.Join(d, "bin/cni"), 0o644) },
		"kind": func(d string) error {
			return errors.Join(os.Remove(filepath.Join(d, "bin/cni")), os.MkdirAll(filepath.Join(d, "bin/cni/x"), 0o755))
		},
		"link": func(d string) error {
			return errors.Join(os.Remove(filepath.Join(d, "cni/bridge")), os.Symlink("/bin/sh", filepath.Join(d, "cni/bridge")))
		},
		"list": func(d string) error { return os.WriteFile(filepath.Join(d, payload.SumsFile), nil, 0o644) },
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			dir := mustActivate(t, root, p)
			if err := damage(dir); err != nil {
				t.Fatal(err)
			}
			before := snapshot(t, dir)
			untouched := func(s string) error {
				if s == StepRename && !maps.Equal(before, snapshot(t, dir)) {
					t.Error("touched before the new tree was whole")
				}
				return nil
			}
			if _, err := Extract(t.Context(), root, p, ExtractOptions{Step: untouched}); err != nil {
				t.Fatal(err)
			}
			if err := p.Verify(dir); err != nil {
				t.Error(err)
			}
			if left, err := filepath.Glob(dir + "-*"); err != nil || len(left) > 0 {
				t.Errorf("left over: %v, %v", left, err)
			}
		})
	}
}

// snapshot maps the files below dir to what they are.
func snapshot(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.Walk(dir, func(path string, st os.FileInfo, err error) error {
		if err == nil {
			all[path] = fmt.Sprint(st.Mode(), st.Size(), st.ModTime())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// What runs from the tree keeps its file while others are replaced.
func TestRepairLeavesWholeFilesAlone(t *testing.T) {
	root, p := t.TempDir(), newPayload(t, "1")
	dir := mustActivate(t, root, p)
	host, err := os.Stat(filepath.Join(dir, "bin/kelson-host"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(dir, "bin/cni"), 0); err != nil {
		t.Fatal(err)
	}
	mustActivate(t, root, p)
	if now, err := os.Stat(filepath.Join(dir, "bin/kelson-host")); err != nil || !os.SameFile(host, now) {
		t.Errorf("a whole file was replaced: %v", err)
	}
}
