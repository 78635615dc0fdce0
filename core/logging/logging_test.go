package logging

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	stdlog "log"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/sirupsen/logrus"
	"k8s.io/klog/v2"
)

// buffer is an output that goroutines may share with the test.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// untimed returns the lines without their time.
func (b *buffer) untimed() string {
	var out strings.Builder
	for line := range strings.Lines(b.String()) {
		_, rest, _ := strings.Cut(line, " ")
		out.WriteString(rest)
	}
	return out.String()
}

// restore puts the libraries' globals back when the test ends.
func restore(t *testing.T) {
	t.Helper()
	std, def, osExit := logrus.StandardLogger(), slog.Default(), klog.OsExit
	exit, out, format, level := std.ExitFunc, std.Out, std.Formatter, std.Level
	stdOut, flags := stdlog.Writer(), stdlog.Flags()
	t.Cleanup(func() {
		klog.ClearLogger()
		var v klog.Level
		_ = v.Set("0")
		klog.OsExit = osExit
		std.ReplaceHooks(logrus.LevelHooks{})
		std.SetOutput(out)
		std.SetFormatter(format)
		std.SetLevel(level)
		std.ExitFunc = exit
		slog.SetDefault(def)
		stdlog.SetOutput(stdOut)
		stdlog.SetFlags(flags)
	})
}

func TestNew(t *testing.T) {
	for _, c := range []struct {
		name, format string
		debug        bool
		wantLines    int
	}{
		{"text", "text", false, 1},
		{"text debug", "text", true, 2},
		{"json", "json", false, 1},
		{"json debug", "json", true, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			log := New(&out, c.format, c.debug)
			log.Info("hello", "k", "v w")
			log.Debug("details")
			lines := strings.Split(strings.TrimSpace(out.String()), "\n")
			if len(lines) != c.wantLines {
				t.Fatalf("%d lines, want %d: %s", len(lines), c.wantLines, out.String())
			}
			var fields map[string]any
			isJSON := json.Unmarshal([]byte(lines[0]), &fields) == nil && fields["k"] == "v w"
			if isJSON != (c.format == "json") {
				t.Errorf("format %s gave %s", c.format, lines[0])
			}
		})
	}
}

type pod struct{ name string }

func (p *pod) String() string { return "pod/" + p.name }

func klogLines() {
	klog.Info("plain info")
	klog.Infof("formatted %d", 1)
	klog.V(2).Info("verbose 2")
	klog.V(5).Info("verbose 5")
	klog.Warning("a warning")
	klog.Errorf("an %s", "error")
	klog.InfoS("structured", "pod", klog.KRef("ns", "a"), "n", 1)
	klog.V(2).InfoS("structured 2")
	klog.ErrorS(errors.New("cause"), "structured error", "ptr", (*pod)(nil))
	log := klog.FromContext(context.Background()).WithName("sub").WithValues("odd")
	log.Info("contextual")
	log.V(2).Info("contextual 2")
	log.V(5).Info("contextual 5")
	log.Error(nil, "contextual error", "who", &pod{"b"})
}

func TestKlog(t *testing.T) {
	errs := `[ERROR] an error
[ERROR] structured error: ptr="<panic: runtime error: invalid memory address or nil pointer dereference>" err=cause
[ERROR] sub: contextual error: odd="(missing)" who=pod/b
`
	info := func(level, warning string) string {
		return strings.NewReplacer("[L]", level, "[W]", warning).Replace(`[L] plain info
[L] formatted 1
[W] a warning
[ERROR] an error
[L] structured: pod=ns/a n=1
[ERROR] structured error: ptr="<panic: runtime error: invalid memory address or nil pointer dereference>" err=cause
[L] sub: contextual: odd="(missing)"
[ERROR] sub: contextual error: odd="(missing)" who=pod/b
`)
	}
	verbose := `[INFO]  plain info
[INFO]  formatted 1
[INFO]  verbose 2
[WARN]  a warning
[ERROR] an error
[INFO]  structured: pod=ns/a n=1
[INFO]  structured 2
[ERROR] structured error: ptr="<panic: runtime error: invalid memory address or nil pointer dereference>" err=cause
[INFO]  sub: contextual: odd="(missing)"
[INFO]  sub: contextual 2: odd="(missing)"
[ERROR] sub: contextual error: odd="(missing)" who=pod/b
`
	for _, c := range []struct {
		name      string
		verbosity int
		debug     bool
		want      string
	}{
		{"quiet", 0, false, errs},
		{"debug", 0, true, info("[DEBUG]", "[DEBUG]")},
		{"verbosity 1", 1, false, info("[INFO] ", "[WARN] ")},
		{"verbosity 2", 2, false, verbose},
	} {
		t.Run(c.name, func(t *testing.T) {
			restore(t)
			var out buffer
			InstallKlog(New(&out, "text", c.debug), c.verbosity)
			klogLines()
			if got := out.untimed(); got != c.want {
				t.Errorf("got:\n%s\nwant:\n%s", got, c.want)
			}
		})
	}
}

func TestParseKlogLine(t *testing.T) {
	s := &klogSink{log: hclog.NewNullLogger(), info: hclog.Debug, warn: hclog.Warn}
	for _, c := range []struct {
		line, msg string
		level     hclog.Level
	}{
		{"W0102 03:04:05.678901   12 f.go:1] careful [a] b\n", "careful [a] b", hclog.Warn},
		{"F0102 03:04:05.678901   12 f.go:1] end\n", "end", hclog.Error},
		{"I0102 03:04:05.678901   12 f.go:1] two\nlines\n", "two\nlines", hclog.Debug},
		{"Without a header] text", "Without a header] text", hclog.Debug},
		{"Error] text", "Error] text", hclog.Debug},
		{"", "", hclog.Debug},
	} {
		if level, msg := s.parseLine([]byte(c.line)); level != c.level || msg != c.msg {
			t.Errorf("%q: got %s %q, want %s %q", c.line, level, msg, c.level, c.msg)
		}
	}
}

func TestLogrus(t *testing.T) {
	restore(t)
	var out buffer
	InstallLogrus(New(&out, "text", false))
	logrus.Info("Kine available")
	logrus.WithError(errors.New("cause")).WithField("a", 1).Warn("slow")
	logrus.Error("bad")
	logrus.Debug("hidden")
	want := "[INFO]  Kine available\n[WARN]  slow: a=1 error=cause\n[ERROR] bad\n"
	if got := out.untimed(); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestSlog(t *testing.T) {
	restore(t)
	var out buffer
	InstallSlog(New(&out, "text", false))
	slog.Info("one", "k", "v", slog.Group("g", "x", 1))
	slog.Default().WithGroup("a").With("b", 2).Warn("two", "c", errors.New("cause"))
	slog.Debug("hidden")
	slog.Error("three")
	stdlog.Print("standard library")
	want := "[INFO]  one: k=v g.x=1\n[WARN]  two: a.b=2 a.c=cause\n[ERROR] three\n[INFO]  standard library\n"
	if got := out.untimed(); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func BenchmarkKlogDropped(b *testing.B) {
	InstallKlog(New(io.Discard, "text", false), 0)
	b.Cleanup(klog.ClearLogger)
	for b.Loop() {
		klog.InfoS("dropped", "k", 1)
	}
}

func TestSettlingHoldsErrorsBack(t *testing.T) {
	for _, c := range []struct {
		name      string
		verbosity int
		want      string
	}{
		{"quiet", 0, "[ERROR] later\n"},
		{"verbose", 1, "[ERROR] at boot\n[ERROR] structured\n[ERROR] later\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			restore(t)
			var out buffer
			settling := InstallKlog(New(&out, "text", false), c.verbosity)
			settling.Set(true)
			klog.Error("at boot")
			klog.ErrorS(nil, "structured")
			settling.Set(false)
			klog.Error("later")
			if got := out.untimed(); got != c.want {
				t.Errorf("got:\n%s\nwant:\n%s", got, c.want)
			}
		})
	}
}
