package datastore

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/kelson-io/kelson/core/boot"
	"github.com/kelson-io/kelson/core/boot/boottest"
	"github.com/kelson-io/kelson/core/bootstrap"
	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/datadir"
)

// layout is a data dir with a short run dir: socket paths hold 108 bytes.
func layout(t *testing.T) datadir.Layout {
	t.Helper()
	run, err := os.MkdirTemp("", "kds") //nolint:usetesting // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(run) })
	root := t.TempDir()
	return datadir.Layout{Root: root, Run: run}
}

func start(t *testing.T, l datadir.Layout) *Kine {
	t.Helper()
	k := New(l, config.Datastore{}, hclog.NewNullLogger())
	if err := k.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, k) })
	if err := k.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	return k
}

func stop(t *testing.T, k *Kine) {
	t.Helper()
	if err := k.Stop(context.Background()); err != nil {
		t.Error(err)
	}
}

func TestStep(t *testing.T) {
	boottest.TestStep(t, func() boot.Step {
		return New(layout(t), config.Datastore{}, hclog.NewNullLogger())
	})
}

func TestKV(t *testing.T) {
	l := layout(t)
	kv := KV{start(t, l).Client}
	ctx := t.Context()
	if value, rev, err := kv.Get(ctx, "/bootstrap/a"); err != nil || rev != 0 || value != nil {
		t.Fatalf("absent key: %q %d %v", value, rev, err)
	}
	if err := kv.Create(ctx, "/bootstrap/a", nil); err != nil {
		t.Fatal(err)
	}
	if err := kv.Create(ctx, "/bootstrap/a", []byte("x")); !errors.Is(err, bootstrap.ErrExists) {
		t.Errorf("second create: %v", err)
	}
	_, rev, err := kv.Get(ctx, "/bootstrap/a")
	if err != nil || rev == 0 {
		t.Fatalf("locked key: revision %d, %v", rev, err)
	}
	blob := bytes.Repeat([]byte{0, 1, 255}, 10000)
	if err := kv.Update(ctx, "/bootstrap/a", blob, rev); err != nil {
		t.Fatal(err)
	}
	if err := kv.Update(ctx, "/bootstrap/a", nil, rev); !errors.Is(err, bootstrap.ErrConflict) {
		t.Errorf("stale update: %v", err)
	}
	list, err := kv.List(ctx, "/bootstrap/")
	if err != nil || len(list) != 1 || !bytes.Equal(list[0].Value, blob) {
		t.Errorf("list: %d entries, %v", len(list), err)
	}
}

func TestDataSurvivesARestart(t *testing.T) {
	l := layout(t)
	k := start(t, l)
	if err := (KV{k.Client}).Create(t.Context(), "/bootstrap/a", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := k.MarkCreated(); err != nil {
		t.Fatal(err)
	}
	stop(t, k)
	if value, _, err := (KV{start(t, l).Client}).Get(t.Context(), "/bootstrap/a"); err != nil || string(value) != "x" {
		t.Errorf("after the restart: %q %v", value, err)
	}
}

func TestDamageIsRefusedAndKept(t *testing.T) {
	for _, tc := range []struct {
		name   string
		damage func(t *testing.T, path string)
		want   error
	}{
		{"bytes in the middle overwritten", func(t *testing.T, path string) {
			edit(t, path, func(b []byte) []byte { copy(b[4096:], bytes.Repeat([]byte{0xff}, len(b)-4096)); return b })
		}, ErrCorrupt},
		{"cut to half", func(t *testing.T, path string) {
			edit(t, path, func(b []byte) []byte { return b[:len(b)/2] })
		}, ErrCorrupt},
		{"not a database", func(t *testing.T, path string) {
			edit(t, path, func([]byte) []byte { return []byte(strings.Repeat("hello ", 100)) })
		}, ErrCorrupt},
		{"emptied", func(t *testing.T, path string) {
			edit(t, path, func([]byte) []byte { return nil })
		}, ErrEmpty},
		{"removed", func(t *testing.T, path string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}, ErrEmpty},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := layout(t)
			k := start(t, l)
			for _, key := range []string{"/registry/a", "/registry/b", "/registry/c"} {
				if err := (KV{k.Client}).Create(t.Context(), key, bytes.Repeat([]byte("v"), 5000)); err != nil {
					t.Fatal(err)
				}
			}
			if err := k.MarkCreated(); err != nil {
				t.Fatal(err)
			}
			stop(t, k)
			path := l.Server("db", "state.db")
			tc.damage(t, path)
			before := snapshot(t, filepath.Dir(path))

			err := New(l, config.Datastore{}, hclog.NewNullLogger()).Start(t.Context())
			if !errors.Is(err, tc.want) {
				t.Fatalf("got %v, want %v", err, tc.want)
			}
			if config.Hint(err) == "" {
				t.Error("no remedy")
			}
			if after := snapshot(t, filepath.Dir(path)); after != before {
				t.Errorf("files were changed:\n%s\nbefore:\n%s", after, before)
			}
		})
	}
}

func TestAKilledFirstStartIsNotDamage(t *testing.T) {
	l := layout(t)
	if err := os.MkdirAll(l.Server("db"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(l.Server("db", "state.db"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	start(t, l)
}

func edit(t *testing.T, path string, change func([]byte) []byte) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, change(data), 0o600); err != nil {
		t.Fatal(err)
	}
}

// snapshot is the names and contents of a folder; SQLite's shared-memory index
// is rebuilt by readers and holds no data.
func snapshot(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), "-shm") {
			continue
		}
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(e.Name(), "-wal") && len(data) == 0 {
			continue
		}
		out.WriteString(e.Name() + "=" + string(data) + "\n")
	}
	return out.String()
}
