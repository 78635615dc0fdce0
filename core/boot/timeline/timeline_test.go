package timeline

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/kelson-io/kelson/core/boot"
)

var update = flag.Bool("update", false, "write the golden files")

var t0 = time.Date(2026, 3, 14, 9, 26, 53, 0, time.UTC)

func at(ms int) time.Time { return t0.Add(time.Duration(ms) * time.Millisecond) }

// event returns the two events of a step that began and was ready then.
func observe(r *Recorder, phase, step string, began, started, ready int, err error) {
	r.Observe(boot.Event{Phase: phase, Step: step, Action: boot.ActionStart, Began: at(began), Ended: at(started)})
	r.Observe(boot.Event{Phase: phase, Step: step, Action: boot.ActionReady, Began: at(started), Ended: at(ready), Err: err})
}

func launchEnv(key string) string {
	for _, kv := range LaunchEnv(at(0), at(12), at(840)) {
		if k, v, _ := strings.Cut(kv, "="); k == key {
			return v
		}
	}
	return ""
}

// goodBoot is fed out of order, as concurrent steps do.
func goodBoot(t *testing.T) Boot {
	t.Helper()
	r := &Recorder{}
	if err := r.Launch(launchEnv, at(1000)); err != nil {
		t.Fatal(err)
	}
	observe(r, "host", "kernel", 1002, 1020, 1021, nil)
	observe(r, "storage", "containerd", 1021, 1030, 1210, nil)
	observe(r, "storage", "kine", 1021, 1060, 1062, nil)
	observe(r, "api", "images", 1300, 1301, 2900, nil)
	observe(r, "api", "apiserver", 1300, 1310, 3120, nil)
	r.Span("identity", "authorities", at(1211), at(1240))
	r.Span("identity", "leaf-certificates", at(1240), at(1299))
	r.Span("identity", "bootstrap-key", at(1211), at(1220))
	observe(r, "control-plane", "scheduler", 3121, 3122, 3400, nil)
	observe(r, "control-plane", `<evil & "step">`, 3121, 3130, 3500, nil)
	r.Ready(at(3501))
	observe(r, "late", "step", 9000, 9001, 9002, nil)
	return r.Boot("v1.37.2+kelson1")
}

func failedBoot() Boot {
	r := &Recorder{}
	observe(r, "host", "kernel", 0, 5, 6, nil)
	err := errors.New("GET /readyz: 500\n\tetcd <failed>")
	observe(r, "api", "apiserver", 7, 9, 60007, err)
	observe(r, "api", "images", 7, 8, 4100, nil)
	r.Observe(boot.Event{Phase: "host", Step: "kernel", Action: boot.ActionStop, Began: at(60010), Ended: at(61000)})
	r.Fail(fmt.Errorf("phase api: step apiserver: not ready after 60s: %w", err))
	return r.Boot("v1.37.2+kelson1")
}

func TestGolden(t *testing.T) {
	for name, b := range map[string]Boot{"good": goodBoot(t), "failed": failedBoot(), "empty": (&Recorder{}).Boot("dev")} {
		for ext, write := range map[string]func(io.Writer) error{"txt": b.WriteTable, "json": b.WriteJSON, "svg": b.WriteSVG} {
			t.Run(name+"."+ext, func(t *testing.T) {
				var out bytes.Buffer
				if err := write(&out); err != nil {
					t.Fatal(err)
				}
				golden := filepath.Join("testdata", name+"."+ext)
				if *update {
					if err := os.WriteFile(golden, out.Bytes(), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				want, err := os.ReadFile(golden)
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(out.Bytes(), want) {
					t.Errorf("differs from %s:\n%s", golden, out.String())
				}
			})
		}
	}
}

func TestCriticalPath(t *testing.T) {
	for _, c := range []struct {
		name  string
		spans string // "name began ended" separated by commas
		want  string
	}{
		{"single", "a 0 5", "a"},
		{"last to finish", "a 0 5,b 0 9,c 0 7", "b"},
		{"what it waited for", "a 0 4,b 0 3,c 4 9,d 3 6", "a c"},
		{"gap", "a 0 2,b 0 3,c 5 9", "b c"},
		{"part of a step", "a 0 9,a-first 0 3,a-second 3 8", "a"},
		{"no length", "a 0 0,b 0 0", "a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &Recorder{}
			for span := range strings.SplitSeq(c.spans, ",") {
				var name string
				var began, ended int
				if _, err := fmt.Sscan(span, &name, &began, &ended); err != nil {
					t.Fatal(err)
				}
				r.Span("p", name, at(began), at(ended))
			}
			var got []string
			for _, e := range r.Boot("").Entries {
				if e.Critical {
					got = append(got, e.Step)
				}
			}
			if strings.Join(got, " ") != c.want {
				t.Errorf("got %v, want %s", got, c.want)
			}
		})
	}
}

func TestWriteAndRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "boot.json")
	if _, err := Read(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	for _, b := range []Boot{failedBoot(), goodBoot(t)} {
		if err := b.Write(path); err != nil {
			t.Fatal(err)
		}
		var got, want bytes.Buffer
		read, err := Read(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(read.WriteSVG(&got), b.WriteSVG(&want)); err != nil {
			t.Fatal(err)
		}
		if got.String() != want.String() || len(read.Entries) != len(b.Entries) {
			t.Errorf("read %+v\nwrote %+v", read, b)
		}
	}
	files, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(files) != 1 {
		t.Errorf("files left: %v, %v", files, err)
	}
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(path); err == nil {
		t.Error("torn file read without an error")
	}
}

func TestLaunch(t *testing.T) {
	for _, c := range []struct{ name, started, extract, want, wantErr string }{
		{"unset", "", "", "", ""},
		{"no extraction", "1000", "", "exec 1000-9000", ""},
		{"extraction", "1000", "2000:5000", "prepare 1000-2000 extract 2000-5000 exec 5000-9000", ""},
		{"not a number", "soon", "", "", "read launch times: invalid syntax"},
		{"no colon", "1000", "2000", "", `read KELSON_EXTRACT: "2000" has no colon`},
		{"wrong order", "1000", "5000:2000", "", "not in order"},
		{"from the future", "10000", "", "", "not in order"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &Recorder{}
			err := r.Launch(func(key string) string {
				return map[string]string{EnvLaunchStarted: c.started, EnvExtract: c.extract}[key]
			}, time.Unix(0, 9000))
			if (err == nil) != (c.wantErr == "") || err != nil && !strings.Contains(err.Error(), c.wantErr) {
				t.Errorf("error %v, want %q", err, c.wantErr)
			}
			var got []string
			for _, e := range r.Boot("").Entries {
				got = append(got, fmt.Sprintf("%s %d-%d", e.Step, e.Began.UnixNano(), e.Ended.UnixNano()))
			}
			if strings.Join(got, " ") != c.want {
				t.Errorf("got %v, want %s", got, c.want)
			}
		})
	}
}

// TestRecorderTakesTheEngine runs a boot and looks for every step in order.
func TestRecorderTakesTheEngine(t *testing.T) {
	r := &Recorder{}
	exited := make(chan error, 1)
	err := boot.Run(t.Context(), boot.Sequence{
		{Name: "one", Steps: []boot.Step{step{name: "a", exited: exited}}},
		{Name: "two", Steps: []boot.Step{step{name: "b"}}},
	}, boot.Options{OnEvent: r.Observe, OnReady: func() { r.Ready(time.Now()); exited <- io.EOF }})
	r.Fail(err)
	b := r.Boot("dev")
	var got []string
	for _, e := range b.Entries {
		got = append(got, e.Phase+"/"+e.Step+e.Error)
	}
	if !reflect.DeepEqual(got, []string{"one/a", "two/b"}) || !b.Ready || b.Error != "" {
		t.Errorf("got %+v", b)
	}
}

func FuzzSVGIsXML(f *testing.F) {
	f.Add("phase", "</text><script>", "a & b \x00 \xff")
	f.Fuzz(func(t *testing.T, phase, step, reason string) {
		b := Boot{Version: reason, Error: reason, Entries: []Entry{{Phase: phase, Step: step, Error: reason}}}
		var out bytes.Buffer
		if err := b.WriteSVG(&out); err != nil {
			t.Fatal(err)
		}
		dec := xml.NewDecoder(&out)
		for {
			token, err := dec.Token()
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if e, ok := token.(xml.StartElement); ok && e.Name.Local == "script" {
				t.Fatal("text became an element")
			}
		}
	})
}
