package status

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"
)

func TestRoundTrip(t *testing.T) {
	want := Status{
		Version: "v1", PID: 7, StartedAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), State: Ready, DataDir: "/d",
		Datastore: Datastore{Kind: "sqlite", Durability: "fast"}, Snapshotter: "native",
		Phases: []Phase{{Name: "api", Steps: []Step{{Name: "apiserver", State: Ready, Took: 1.5}, {Name: "images", State: Failed, Reason: "why"}, {Name: "node", State: Launched, Reason: "not yet"}}}},
	}
	data, err := want.Encode()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), FileName)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := Read(path)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
}

func TestReadRefuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), FileName)
	if _, err := Read(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(path); err == nil {
		t.Error("half a file was accepted")
	}
}
