package runner

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/kelson-io/kelson/core/config"
)

func TestParseLine(t *testing.T) {
	for _, c := range []struct {
		line, message string
		level         hclog.Level
		fields        string
	}{
		{"plain words", "plain words", hclog.Info, "[]"},
		{"", "", hclog.Info, "[]"},
		{`{"@level":"debug","@message":"m","@module":"x","@timestamp":"2026-01-01T00:00:00Z","k":"v"}`, "m", hclog.Debug, "[module x k v]"},
		{`{"time":"t","level":"WARN","msg":"m","n":1.5,"o":{"a":[1]}}`, "m", hclog.Warn, `[n 1.5 o {"a":[1]}]`},
		{`{"level":"ERROR+2","msg":"m"}`, "m", hclog.Error, "[]"},
		{`{"level":"fatal","message":"m"}`, "m", hclog.Error, "[]"},
		{`{"@message":1}`, "1", hclog.Info, "[]"},
		{`{"@level":[1],"@message":{"a":1},"@timestamp":true}`, `{"a":1}`, hclog.Info, "[]"},
		{`{"msg":null}`, "", hclog.Info, "[]"},
		{`{"msg":"two\nlines\u001b[2J"}`, "two lines\uFFFD[2J", hclog.Info, "[]"},
		{`{broken`, `{broken`, hclog.Info, "[]"},
		{`{}{}`, `{}{}`, hclog.Info, "[]"},
		{`[1,2]`, `[1,2]`, hclog.Info, "[]"},
		{"[WARN] low", "low", hclog.Warn, "[]"},
		{"[ERR] bad", "bad", hclog.Error, "[]"},
		{"panic: x", "panic: x", hclog.Error, "[]"},
		{"\xff\x00", "\uFFFD\uFFFD", hclog.Info, "[]"},
	} {
		e := parseLine(c.line)
		if e.message != c.message || e.level != c.level || fmt.Sprint(append([]any{}, e.fields...)) != c.fields {
			t.Errorf("%q: %q %v %v", c.line, e.message, e.level, e.fields)
		}
	}
	var many strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&many, `"k%d":1,`, i)
	}
	if e := parseLine("{" + many.String() + `"msg":"m"}`); len(e.fields) != 2*maxFields+2 {
		t.Errorf("%d fields", len(e.fields))
	}
}

func FuzzParseLine(f *testing.F) {
	for _, seed := range []string{`{"@message":1}`, `{"@level":{},"@timestamp":[]}`, "panic: x", "[WARN] x", strings.Repeat("[", 100)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, line string) {
		e := parseLine(line)
		if strings.ContainsAny(e.message, "\n\r\x1b\x00") || len(e.fields)%2 != 0 || len(e.fields) > 2*maxFields+2 {
			t.Fatalf("%q %v", e.message, e.fields)
		}
	})
}

// TestPumpLogs feeds a real logger.
func TestPumpLogs(t *testing.T) {
	var out bytes.Buffer
	p := newPump(hclog.New(&hclog.LoggerOptions{Output: &out, Level: hclog.Trace, JSONFormat: true}), []string{"hunter22", `q"uote`, "abc", "hunter2"})
	p.read(strings.NewReader(strings.Join([]string{
		"the password is hunter22", `{"@message":"hunter22","pw":"q\"uote"}`, `{"msg":"\u0068unter22"}`, "abc is too short to blot out",
		"panic: boom", "goroutine 1 [running]:", "end without newline",
	}, "\n")))
	got := out.String()
	for _, never := range []string{"hunter2", "uote"} {
		if strings.Contains(got, never) || strings.Contains(strings.Join(p.kept.last(100), "\n"), "the password is "+never) {
			t.Errorf("secret in\n%s", got)
		}
	}
	for _, want := range []string{`"@message":"the password is ***"`, `"pw":"***"`, "abc is too short", `"@level":"error","@message":"goroutine 1 [running]:"`, "end without newline"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
}

func TestPumpLeavesOut(t *testing.T) {
	var out bytes.Buffer
	p := newPump(hclog.New(&hclog.LoggerOptions{Output: &out}), nil)
	p.window = time.Now().Add(time.Hour) // a second that does not end
	p.read(strings.NewReader(strings.Repeat("x\n", linesASecond+500)))
	p.flush()
	if n := strings.Count(out.String(), "\n"); n != linesASecond+1 || !strings.Contains(out.String(), "lines left out: lines=500") {
		t.Errorf("%d lines logged, the last: %s", n, out.String()[out.Len()-200:])
	}
	if n := len(p.kept.last(1 << 20)); n != linesASecond+500 {
		t.Errorf("%d lines kept", n)
	}
}

func TestRing(t *testing.T) {
	var r ring
	for i := range 100000 {
		r.add(fmt.Sprintf("line %d", i))
		if r.size > 2*maxRing {
			t.Fatalf("%d bytes", r.size)
		}
	}
	last := r.last(3)
	if fmt.Sprint(last) != "[line 99997 line 99998 line 99999]" {
		t.Errorf("last %v", last)
	}
	if all := r.last(1 << 20); len(strings.Join(all, "\n")) < maxRing-100 {
		t.Errorf("only %d lines kept", len(all))
	}
	r.add(strings.Repeat("y", 10*maxRing))
	if r.size > 3*maxRing {
		t.Errorf("%d bytes after a long line", r.size)
	}
}

func TestHandshakeLine(t *testing.T) {
	for line, want := range map[string]string{
		"1|1|unix|/x/y|grpc|": "", "1|1|unix|/x/y|grpc": "", " 1|1|unix|/x/y|grpc|\r": "", "1|1|unix|/x/y|grpc||true": "",
		"":                              "its first line is",
		"1|1|unix|/x":                   "its first line is",
		"2|1|unix|/x|grpc|":             "field 1",
		"1|2|unix|/x|grpc|":             "field 2",
		"1|1|tcp|/x|grpc|":              "field 3",
		"1|1|unix|/x|netrpc|":           "field 5",
		"1|1|unix|/x|grpc|MIIB":         "TLS",
		strings.Repeat("1|", 3<<10):     "its first line is",
		"1|1|unix|/x|\x1b[2Jgrpc\xff|x": "field 5",
	} {
		err := checkHandshake(line)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v", line, err)
		}
		if err != nil && (strings.Contains(err.Error(), "\x1b") || strings.Contains(err.Error(), "\xff") || len(err.Error()) > 1000 || want != "TLS" && config.Hint(err) == "") {
			t.Errorf("%.40q: error %q", line, err)
		}
	}
	for log, want := range map[string]string{
		"1|1|unix|/x|grpc|\n": "1|1|unix|/x|grpc|", "hello\n{}\n1|1|unix|/x|grpc|\nmore\n": "1|1|unix|/x|grpc|",
		"1|1|unix|/x|grpc|": "", "a|b\n": "", "": "", "12345|1|unix|/x|grpc|\n": "", "|1|unix|/x|grpc|\n": "",
	} {
		if got, ok := findHandshake([]byte(log)); got != want || ok != (want != "") {
			t.Errorf("%q: %q %v", log, got, ok)
		}
	}
}

func TestStartTime(t *testing.T) {
	fields := " S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20 21"
	for _, c := range []struct {
		stat string
		want uint64
		ok   bool
	}{
		{"7 (sh)" + fields, 4242, true}, {"7 (a) b (c) 1 2)" + fields, 4242, true}, {"7 (sh) S 1 2", 0, false}, {"", 0, false},
	} {
		got, err := startTime([]byte(c.stat))
		if got != c.want || (err == nil) != c.ok {
			t.Errorf("%q: %d, %v", c.stat, got, err)
		}
	}
}
