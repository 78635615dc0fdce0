package logging

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/sirupsen/logrus"
	"k8s.io/klog/v2"
)

const fatalCode = 255

type exitReport struct {
	component string
	code      int
	stack     string
}

// TestFatalPathsBlockAndOthersGoOn takes every fatal path of both libraries in a
// goroutine that must not return, and then logs through all of them.
func TestFatalPathsBlockAndOthersGoOn(t *testing.T) {
	for _, c := range []struct {
		name string
		code int
		call func()
		want string // in the log
	}{
		// klog.Exit makes the codes of every later Fatal 1, for good.
		{"klog.Fatal", fatalCode, func() { klog.Fatal("klog is done") }, "[ERROR] klog is done"},
		{"klog.Fatalf", fatalCode, func() { klog.Fatalf("klog is %s", "done") }, "[ERROR] klog is done"},
		{"klog.FlushAndExit", 3, func() {
			klog.ErrorS(errors.New("cause"), "leader lost")
			klog.FlushAndExit(klog.ExitFlushTimeout, 3)
		}, "[ERROR] leader lost: err=cause"},
		{"logrus.Fatal", 1, func() { logrus.Fatal("kine is done") }, "[ERROR] kine is done"},
		{"logrus entry", 1, func() { logrus.WithField("k", "v").Fatalf("kine is %s", "done") }, "[ERROR] kine is done: k=v"},
		{"klog.Exit", 1, func() { klog.Exit("klog left") }, "[ERROR] klog left"},
	} {
		t.Run(c.name, func(t *testing.T) {
			restore(t)
			var out buffer
			Install(New(&out, "text", false), 1)
			reports := make(chan exitReport, 2)
			InstallExitHandlers(func(component string, code int, stack []byte) {
				reports <- exitReport{component, code, string(stack)}
			})
			returned := make(chan struct{}, 2)
			go func() { c.call(); returned <- struct{}{} }()
			got := waitReport(t, reports)
			if got.code != c.code && (c.code != fatalCode || got.code != 1) || !strings.Contains(got.stack, "TestFatalPathsBlockAndOthersGoOn") {
				t.Errorf("report %+v, want code %d and the caller's stack", got, c.code)
			}
			if !strings.Contains(out.String(), c.want) {
				t.Errorf("log lacks %q:\n%s", c.want, out.String())
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				klog.Warning("klog lives")
				klog.InfoS("klog lives, structured")
				klog.Flush()
				logrus.Warn("logrus lives")
			}()
			select {
			case <-done:
			case <-time.After(20 * time.Second):
				t.Fatal("logging hangs after a fatal path")
			}
			for _, line := range []string{"klog lives", "klog lives, structured", "logrus lives"} {
				if !strings.Contains(out.String(), line) {
					t.Errorf("log lacks %q:\n%s", line, out.String())
				}
			}
			select {
			case <-returned:
				t.Error("the fatal call returned")
			default:
			}
		})
	}
}

func TestOnlyTheFirstFatalIsReported(t *testing.T) {
	restore(t)
	Install(New(&buffer{}, "text", false), 0)
	reports := make(chan exitReport, 3)
	var exit func(int)
	InstallExitHandlers(func(component string, code int, stack []byte) {
		reports <- exitReport{component, code, string(stack)}
		if code == 1 {
			go exit(7) // a second failure in the wake of the first
			exit(8)    // and one on the very goroutine
		}
	})
	exit = klog.OsExit
	go logrus.Fatal("first")
	if got := waitReport(t, reports); got.code != 1 {
		t.Errorf("first report has code %d", got.code)
	}
	blocked := make(chan struct{})
	go func() { exit(9); close(blocked) }()
	select {
	case r := <-reports:
		t.Errorf("second report %+v", r)
	case <-blocked:
		t.Error("second exit returned")
	case <-time.After(100 * time.Millisecond): // a wrong report would have been immediate
	}
}

func waitReport(t *testing.T, reports <-chan exitReport) exitReport {
	t.Helper()
	select {
	case r := <-reports:
		return r
	case <-time.After(20 * time.Second):
		t.Fatal("no report")
		return exitReport{}
	}
}

func TestComponent(t *testing.T) {
	files, err := filepath.Glob("testdata/stacks/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no stacks: %v", err)
	}
	for _, file := range files {
		want := strings.TrimSuffix(filepath.Base(file), ".txt")
		t.Run(want, func(t *testing.T) {
			stack, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if got := Component(stack); got != strings.ReplaceAll(want, "_", "/") {
				t.Errorf("got %q", got)
			}
		})
	}
	for stack, want := range map[string]string{
		"":                                 "unknown",
		"goroutine 1 [running]:\n":         "unknown",
		"main.main()\n\t/x/main.go:1\n":    "main",
		"a.b/c.(*T).F(0x1)\n\t/x/y.go:1\n": "a.b/c",
	} {
		if got := Component([]byte(stack)); got != want {
			t.Errorf("%q: got %q, want %q", stack, got, want)
		}
	}
}

func FuzzComponent(f *testing.F) {
	f.Add([]byte("goroutine 1 [running]:\na/b.(*T).F(0x1)\n\t/x/y.go:1\ncreated by c.D in goroutine 2\n"))
	f.Fuzz(func(_ *testing.T, stack []byte) { Component(stack) }) // must not panic
}

func FuzzParseKlogLine(f *testing.F) {
	f.Add([]byte("W0102 03:04:05.678901   12 f.go:1] careful"))
	s := &klogSink{log: hclog.NewNullLogger()}
	f.Fuzz(func(_ *testing.T, line []byte) { s.parseLine(line) }) // must not panic
}
