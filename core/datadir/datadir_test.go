package datadir

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// needRoot skips a test that mounts or changes owners. Continuous integration
// runs as root and must not skip.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("must run as root")
		}
		t.Skip("SKIPPED: needs root")
	}
}

// lockedBuffer is a log that a test can wait on.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func (b *lockedBuffer) waitFor(t *testing.T, text string) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.After(30 * time.Second)
	for !strings.Contains(b.String(), text) {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("the log never said %q:\n%s", text, b)
		}
	}
}

func TestNew(t *testing.T) {
	tests := []struct{ root, etc, wantRoot, wantEtc, wantRun string }{
		{"/var/lib/kelson", "", "/var/lib/kelson", "/etc/kelson", "/run/kelson/default"},
		{"/var/lib/kelson/", "", "/var/lib/kelson", "/etc/kelson", "/run/kelson/default"},
		{"/srv/../srv/k", "", "/srv/k", "/srv/k/etc", "/run/kelson/" + runID("/srv/k")},
		{"/srv/k", "/opt/etc", "/srv/k", "/opt/etc", "/run/kelson/" + runID("/srv/k")},
	}
	for _, tt := range tests {
		l, err := New(tt.root, tt.etc)
		if err != nil || l.Root != tt.wantRoot || l.Etc != tt.wantEtc || l.Run != tt.wantRun {
			t.Errorf("New(%q, %q) = %+v, %v", tt.root, tt.etc, l, err)
		}
	}
	if runID("/a") == runID("/b") {
		t.Error("two data dirs share a run dir")
	}
}

func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	for _, content := range []string{"first", "second, longer", ""} {
		if err := WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != content {
			t.Errorf("content %q, err %v, want %q", got, err, content)
		}
	}
	if st, err := os.Stat(path); err != nil || st.Mode() != 0o600 {
		t.Errorf("mode %v, err %v", st.Mode(), err)
	}
	if err := WriteFile(filepath.Join(dir, "no", "f"), nil, 0o600); err == nil {
		t.Error("wrote into a folder that does not exist")
	}
	// A target that cannot be replaced: no temporary file may stay.
	if err := os.MkdirAll(filepath.Join(dir, "d", "x"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(filepath.Join(dir, "d"), nil, 0o600); err == nil {
		t.Error("replaced a folder")
	}
	if left, err := filepath.Glob(filepath.Join(dir, ".*tmp*")); err != nil || len(left) > 0 {
		t.Errorf("left over: %v, err %v", left, err)
	}
}

func TestMkdirAll(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a", "b")
	for _, before := range []os.FileMode{0, 0o777, 0o700, 0o500} {
		if before != 0 {
			if err := os.Chmod(path, before); err != nil {
				t.Fatal(err)
			}
		}
		if err := MkdirAll(path, 0o700); err != nil {
			t.Fatal(err)
		}
		if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o700 {
			t.Errorf("mode was %v: now %v, err %v", before, st.Mode(), err)
		}
	}
	if err := os.Symlink(path, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := MkdirAll(filepath.Join(dir, "link"), 0o700); err == nil {
		t.Error("followed a link")
	}
}

func TestMkdirAllRefusesAnothersFolder(t *testing.T) {
	needRoot(t)
	path := filepath.Join(t.TempDir(), "a")
	if err := errors.Join(os.Mkdir(path, 0o700), os.Chown(path, 4711, 4711)); err != nil {
		t.Fatal(err)
	}
	if err := MkdirAll(path, 0o700); err == nil || !strings.Contains(err.Error(), "4711") {
		t.Errorf("error %v, want one that names the owner", err)
	}
}

func TestCheck(t *testing.T) {
	needRoot(t)
	tests := map[string]struct {
		prepare func(t *testing.T, root string) error
		need    int64
		want    string // in the error; "": no error
	}{
		"good":         {func(_ *testing.T, r string) error { return os.Mkdir(r, 0o755) }, 1, ""},
		"missing":      {func(*testing.T, string) error { return nil }, 1, ""},
		"a file":       {func(_ *testing.T, r string) error { return os.WriteFile(r, nil, 0o644) }, 1, "not a folder"},
		"another's":    {func(_ *testing.T, r string) error { return errors.Join(os.Mkdir(r, 0o755), os.Chown(r, 4711, 0)) }, 1, "4711"},
		"open to all":  {func(_ *testing.T, r string) error { return errors.Join(os.Mkdir(r, 0o755), os.Chmod(r, 0o777)) }, 1, "0777"},
		"no space":     {func(_ *testing.T, r string) error { return os.Mkdir(r, 0o755) }, 1 << 60, "MiB are needed"},
		"read-only fs": {mountReadOnly, 1, "read-only"},
		"below a file": {func(_ *testing.T, r string) error {
			return errors.Join(os.RemoveAll(filepath.Dir(r)), os.WriteFile(filepath.Dir(r), nil, 0o644))
		}, 1, "not a"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			root := filepath.Join(t.TempDir(), "above", "root")
			if err := errors.Join(os.MkdirAll(filepath.Dir(root), 0o755), tt.prepare(t, root)); err != nil {
				t.Fatal(err)
			}
			before := fmt.Sprint(os.Lstat(root))
			err := Check(root, tt.need)
			if after := fmt.Sprint(os.Lstat(root)); after != before {
				t.Errorf("the check changed the folder: %s → %s", before, after)
			}
			if tt.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			var h interface{ Hint() string }
			if err == nil || !strings.Contains(err.Error(), tt.want) || !errors.As(err, &h) || !strings.Contains(h.Hint(), "--data-dir") {
				t.Errorf("error %v, want one with %q and a remedy", err, tt.want)
			}
		})
	}
}

func mountReadOnly(t *testing.T, root string) error {
	if err := os.Mkdir(root, 0o755); err != nil {
		return err
	}
	t.Cleanup(func() {
		if err := unix.Unmount(root, 0); err != nil {
			t.Error(err)
		}
	})
	return unix.Mount("tmpfs", root, "tmpfs", unix.MS_RDONLY, "mode=0755")
}

func TestSecondLockNamesTheHolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, err := Lock(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Lock(path)
	var held *HeldError
	if !errors.As(err, &held) || held.PID != os.Getpid() || !strings.Contains(held.Hint(), fmt.Sprint(os.Getpid())) {
		t.Errorf("error %v, want one that names process %d", err, os.Getpid())
	}
	if err := first.Unlock(); err != nil {
		t.Fatal(err)
	}
	again, err := Lock(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Unlock(); err != nil {
		t.Error(err)
	}
}
