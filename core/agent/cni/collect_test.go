package cni

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func testPaths(t *testing.T) paths {
	t.Helper()
	dir := t.TempDir()
	return paths{
		conflist: filepath.Join(dir, "net.d", conflistName), socket: filepath.Join(dir, "s.sock"),
		ipam: filepath.Join(dir, "networks"), records: filepath.Join(dir, "attachments"),
		journal: filepath.Join(dir, "journal"), cache: filepath.Join(dir, "cache"),
	}
}

func TestKnown(t *testing.T) {
	p := testPaths(t)
	write(t, filepath.Join(p.ipam, "kelson", "10.42.0.2"), "aaa\r\neth0")
	write(t, filepath.Join(p.ipam, "kelson", "last_reserved_ip.0"), "10.42.0.2")
	write(t, filepath.Join(p.ipam, "kelson", "lock"), "")
	write(t, filepath.Join(p.records, "aaa-eth0.json"), `{"container_id":"aaa","ifname":"eth0","plugin":"x"}`)
	write(t, filepath.Join(p.records, "bbb-eth0.json"), `{"container_id":"bbb","ifname":"eth0"}`)
	write(t, filepath.Join(p.records, "torn.json"), `{"contai`)
	write(t, filepath.Join(p.journal, "ccc-eth0.json"), `{"container_id":"ccc","ifname":"eth0"}`)
	got, err := p.known()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]attachment{{"aaa", "eth0"}, {"bbb", "eth0"}, {"ccc", "eth0"}}, got); diff != "" {
		t.Error(diff)
	}
	if err := p.forget(map[string]bool{"aaa": true, "ccc": true}); err != nil {
		t.Fatal(err)
	}
	if got, err = p.known(); err != nil {
		t.Fatal(err)
	}
	// The address is the plugin's to give back.
	if diff := cmp.Diff([]attachment{{"aaa", "eth0"}, {"bbb", "eth0"}}, got); diff != "" {
		t.Error(diff)
	}
}

// A sandbox must be missing for a minute: one in the making is not listed yet.
func TestValid(t *testing.T) {
	now := time.Unix(1000, 0)
	c := &collector{missing: map[string]time.Time{}, now: func() time.Time { return now }}
	known := []attachment{{"runs", "eth0"}, {"new", "eth0"}, {"gone", "eth0"}}
	running := map[string]bool{"runs": true}

	keep, gone, due := c.valid(known, running)
	if len(keep) != 3 || len(gone) != 0 || !due {
		t.Errorf("first look: keep %v, gone %v, due %v", keep, gone, due)
	}
	now = now.Add(goneFor)
	running["new"] = true
	keep, gone, due = c.valid(known, running)
	if diff := cmp.Diff([]attachment{{"runs", "eth0"}, {"new", "eth0"}}, keep); diff != "" || due {
		t.Error(diff, due)
	}
	if diff := cmp.Diff(map[string]bool{"gone": true}, gone); diff != "" {
		t.Error(diff)
	}
	if c.valid(nil, running); len(c.missing) != 0 {
		t.Errorf("still remembered: %v", c.missing)
	}
}

func TestAnnounce(t *testing.T) {
	p := testPaths(t)
	if err := p.make(); err != nil {
		t.Fatal(err)
	}
	if err := p.announce("flannel"); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(p.conflist)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.announce("flannel"); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(p.conflist)
	if err != nil || !os.SameFile(before, after) {
		t.Errorf("written again though nothing changed: %v", err)
	}
	if err := p.announce("bridge"); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(filepath.Dir(p.conflist))
	if err != nil || len(entries) != 1 {
		t.Errorf("conf dir holds %v, %v", entries, err)
	}
}
