package record

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestPutGetRemove(t *testing.T) {
	d := Dir(filepath.Join(t.TempDir(), "attachments")) // made by Put
	want := Record{Plugin: "flannel", Socket: "/run/x.sock", ContainerID: "4f-1c", IfName: "eth0", Netns: "/run/netns/a\"b\\\n\x01é", Time: "2026-01-02T03:04:05Z"}
	if _, err := d.Get("4f-1c", "eth0"); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("before: %v", err)
	}
	if err := d.Put(want); err != nil {
		t.Fatal(err)
	}
	if got, err := d.Get("4f-1c", "eth0"); err != nil || got != want {
		t.Fatalf("got %+v, %v", got, err)
	}
	path := filepath.Join(string(d), "4f-1c-eth0.json")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var std map[string]string
	if err := json.Unmarshal(raw, &std); err != nil || std["netns"] != want.Netns || std["container_id"] != want.ContainerID || len(std) != 6 {
		t.Fatalf("%s read by encoding/json: %v, %v", raw, std, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
	for range 2 {
		if err := d.Remove("4f-1c", "eth0"); err != nil {
			t.Fatal(err)
		}
	}
	if left, err := os.ReadDir(string(d)); err != nil || len(left) != 0 {
		t.Fatalf("left: %v, %v", left, err)
	}
}

func TestNamesStayInTheFolder(t *testing.T) {
	d := Dir(t.TempDir())
	for _, id := range []string{"", "../x", "a/b", ".x", "a\x00"} {
		if err := d.Put(Record{ContainerID: id, IfName: "eth0"}); err == nil {
			t.Errorf("%q was written", id)
		}
		if _, err := d.Get(id, "eth0"); err == nil {
			t.Errorf("%q was read", id)
		}
		if err := d.Remove("x", "/../"+id); err == nil {
			t.Errorf("interface /../%q was removed", id)
		}
	}
}

func TestListAndReplay(t *testing.T) {
	d := Dir(t.TempDir())
	for _, id := range []string{"b", "a", "c"} {
		if err := d.Put(Record{ContainerID: id, IfName: "eth0", Plugin: "p"}); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"torn.json": `{"contai`, ".a-eth0.json.17": "x", LockName: "", "other": "x"} {
		if err := os.WriteFile(filepath.Join(string(d), name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	list, err := d.List()
	if err == nil || !strings.Contains(err.Error(), "torn.json") {
		t.Errorf("torn file: %v", err)
	}
	if len(list) != 3 || list[0].ContainerID != "a" || list[2].ContainerID != "c" || list[0].Time == "" {
		t.Fatalf("list %+v", list)
	}
	busy := errors.New("busy")
	err = d.Replay(func(r Record) error {
		if r.ContainerID == "b" {
			return busy
		}
		return nil
	})
	if !errors.Is(err, busy) {
		t.Errorf("replay: %v", err)
	}
	if list, _ = d.List(); len(list) != 1 || list[0].ContainerID != "b" {
		t.Fatalf("after replay %+v", list)
	}
	if list, err := Dir(filepath.Join(string(d), "none")).List(); err != nil || list != nil {
		t.Fatalf("no folder: %v, %v", list, err)
	}
}

func TestLookup(t *testing.T) {
	raw := []byte(` {"a":1, "kel\u0073on" : {"socket":"/s","x":[{"socket":"no"}]} , "a":{"b":"\ud83d\ude00"},"e":{}} `)
	if !Valid(raw) {
		t.Fatal("not valid")
	}
	if s, ok := String(Lookup(raw, "kelson", "socket")); !ok || s != "/s" {
		t.Errorf("socket %q, %v", s, ok)
	}
	if s, ok := String(Lookup(raw, "a", "b")); !ok || s != "😀" {
		t.Errorf("last of two keys: %q, %v", s, ok)
	}
	if got := Lookup(raw, "kelson", "none"); got != nil {
		t.Errorf("none: %s", got)
	}
	if got := Lookup(raw, "e", "x"); got != nil {
		t.Errorf("in an empty object: %s", got)
	}
}

// FuzzJSON compares with encoding/json.
func FuzzJSON(f *testing.F) {
	for _, s := range []string{`{"a":{"b":"c"}}`, `[1,-0.5e+7,true,null]`, `{"a":"\ud800x","b":"\ud83d\ude00"}`, ` { } `, `{"a":1,}`, `01`, `"\x"`, "\"\x01\"", `{"a":"x","a":"y"}`} {
		f.Add([]byte(s), "a")
	}
	f.Fuzz(func(t *testing.T, raw []byte, key string) {
		// Deeper than maxDepth is refused here and taken there.
		if got, want := Valid(raw), json.Valid(raw); got != want && (got || strings.Count(string(raw), "[")+strings.Count(string(raw), "{") <= maxDepth) {
			t.Fatalf("valid %v, encoding/json says %v: %q", got, want, raw)
		}
		if !Valid(raw) {
			return
		}
		var std map[string]json.RawMessage
		if json.Unmarshal(raw, &std) == nil && std != nil {
			if got := Lookup(raw, key); string(got) != string(std[key]) {
				t.Fatalf("member %q is %q, encoding/json says %q", key, got, std[key])
			}
		}
		var text *string
		if json.Unmarshal(raw, &text) == nil && text != nil {
			if got, ok := String(raw[space(raw, 0):]); ok && string([]rune(got)) != *text {
				t.Fatalf("string %q, encoding/json says %q", got, *text)
			}
		}
	})
}

func FuzzAppendString(f *testing.F) {
	f.Add("plain")
	f.Add("a\"\\\n\x00\xff😀")
	f.Fuzz(func(t *testing.T, text string) {
		raw := AppendString(nil, text)
		var std string
		if err := json.Unmarshal(raw, &std); err != nil {
			t.Fatalf("%q: %v", raw, err)
		}
		if back, ok := String(raw); !ok || back != std || back != string([]rune(text)) {
			t.Fatalf("%q became %q, encoding/json says %q", text, back, std)
		}
	})
}
