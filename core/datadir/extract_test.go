package datadir

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/kelson-io/kelson/core/datadir/payload"
	"github.com/kelson-io/kelson/core/datadir/payload/payloadtest"
)

// In a child process the test binary is an extraction that kills itself.
const (
	envKillAt      = "KELSON_TEST_KILL_AT"
	envKillPayload = "KELSON_TEST_KILL_PAYLOAD"
	envKillRoot    = "KELSON_TEST_KILL_ROOT"
)

func TestMain(m *testing.M) {
	if step := os.Getenv(envKillAt); step != "" {
		fmt.Fprintln(os.Stderr, extractAndDie(step))
		os.Exit(3)
	}
	os.Exit(m.Run())
}

func extractAndDie(step string) error {
	p, err := payload.Open(os.Getenv(envKillPayload))
	if err != nil {
		return err
	}
	err = start(os.Getenv(envKillRoot), p, func(s string) error {
		if s == step {
			return syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
		return nil
	})
	return fmt.Errorf("survived: %w", err)
}

// start is what the start of a server does: extract, then activate.
func start(root string, p *payload.File, step func(string) error) error {
	if _, err := Extract(context.Background(), root, p, ExtractOptions{Step: step}); err != nil {
		return err
	}
	if step == nil {
		return Activate(context.Background(), root, p.SHA256, hclog.NewNullLogger())
	}
	return activate(context.Background(), root, p.SHA256, hclog.NewNullLogger(), step)
}

func files(version string) payloadtest.Files {
	return payloadtest.Files{
		"bin/kelson-host": strings.Repeat("host "+version, 1000),
		"bin/cni":         "#!/bin/sh\nexec sleep 1000\n",
		"cni/bridge":      "→../bin/cni",
		"cni/portmap":     "→../bin/cni",
		"bin/kelson-cni":  "#!/bin/sh\n",
		"cni/kelson-cni":  "→../bin/kelson-cni",
	}
}

func newPayload(t *testing.T, version string) *payload.File {
	t.Helper()
	return payloadtest.Open(t, payloadtest.Write(t, []byte("ELF"), files(version), 2048))
}

func mustActivate(t *testing.T, root string, p *payload.File) string {
	t.Helper()
	if err := start(root, p, nil); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(root, "data", p.SHA256)
}

// checkState fails unless the versions under root are complete and current is
// the given one.
func checkState(t *testing.T, root string, current *payload.File, all ...*payload.File) {
	t.Helper()
	to, err := os.Readlink(filepath.Join(root, "data", "current"))
	if current == nil {
		if err == nil {
			t.Errorf("current → %s, want none", to)
		}
	} else if to != current.SHA256 {
		t.Errorf("current → %q (%v), want %s", to, err, current.SHA256)
	}
	for _, p := range all {
		dir := filepath.Join(root, "data", p.SHA256)
		if err := p.Verify(dir); err != nil && exists(dir) {
			t.Errorf("version %s is not whole: %v", p.SHA256, err)
		}
	}
}

func linkOf(t *testing.T, root, name string) string {
	t.Helper()
	to, err := os.Readlink(filepath.Join(root, "data", name))
	if err != nil && !isNotExist(err) {
		t.Fatal(err)
	}
	return to
}

func TestUpgradeAndBack(t *testing.T) {
	root := t.TempDir()
	p1, p2, p3 := newPayload(t, "1"), newPayload(t, "2"), newPayload(t, "3")
	for i, step := range []struct {
		start             *payload.File
		current, previous *payload.File
	}{
		{p1, p1, nil}, {p1, p1, nil}, {p2, p2, p1}, {p2, p2, p1}, {p1, p1, p2}, {p2, p2, p1}, {p3, p3, p2},
	} {
		mustActivate(t, root, step.start)
		checkState(t, root, step.current, p1, p2, p3)
		want := ""
		if step.previous != nil {
			want = step.previous.SHA256
		}
		if got := linkOf(t, root, "previous"); got != want {
			t.Errorf("step %d: previous → %q, want %q", i, got, want)
		}
	}
	if exists(filepath.Join(root, "data", p1.SHA256)) {
		t.Error("the version before the previous one is still there")
	}
}

func TestVersionOfARunningProgramStays(t *testing.T) {
	root := t.TempDir()
	sleep, err := os.ReadFile("/bin/sleep")
	if err != nil {
		t.Fatal(err)
	}
	f := files("1")
	f["bin/shim"] = string(sleep)
	p1 := payloadtest.Open(t, payloadtest.Write(t, nil, f, 1<<20))
	dir := mustActivate(t, root, p1)
	shim := exec.Command(filepath.Join(dir, "bin", "shim"), "1000")
	if err := shim.Start(); err != nil {
		t.Fatal(err)
	}
	p2, p3, p4 := newPayload(t, "2"), newPayload(t, "3"), newPayload(t, "4")
	mustActivate(t, root, p2)
	mustActivate(t, root, p3)
	if !exists(dir) {
		t.Error("removed under a running program")
	}
	if err := errors.Join(shim.Process.Kill(), ignoreExit(shim.Wait())); err != nil {
		t.Fatal(err)
	}
	mustActivate(t, root, p4)
	if exists(dir) {
		t.Error("kept although nothing runs from it")
	}
}

func ignoreExit(err error) error {
	if _, ok := errors.AsType[*exec.ExitError](err); ok {
		return nil
	}
	return err
}

// A client verb, or a start that is refused later, only extracts.
func TestExtractionMovesNothing(t *testing.T) {
	root := t.TempDir()
	p1, p2, p3 := newPayload(t, "1"), newPayload(t, "2"), newPayload(t, "3")
	extract := func(p *payload.File) {
		t.Helper()
		if _, err := Extract(context.Background(), root, p, ExtractOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	extract(p1)
	if exists(filepath.Join(root, "data", "cni")) || linkOf(t, root, "current") != "" {
		t.Error("an extraction alone activated its version")
	}
	mustActivate(t, root, p1)
	extract(p2)
	extract(p3)
	checkState(t, root, p1, p1, p2, p3)
	for _, p := range []*payload.File{p1, p2, p3} {
		if !exists(filepath.Join(root, "data", p.SHA256)) {
			t.Error("an extraction removed another version")
		}
	}
	if got := linkOf(t, root, "previous"); got != "" {
		t.Errorf("previous → %s, want none", got)
	}
}

func TestActivateRefusesWhatIsNotExtracted(t *testing.T) {
	root := t.TempDir()
	for _, version := range []string{"", "..", "bin", strings.Repeat("a", 64)} {
		err := Activate(context.Background(), root, version, hclog.NewNullLogger())
		var h interface{ Hint() string }
		if err == nil || !errors.As(err, &h) {
			t.Errorf("%q: error %v, want one with a remedy", version, err)
		}
	}
	if exists(filepath.Join(root, "data")) {
		t.Error("a refused activation left files")
	}
}

// At each step the disk "fills up", in an upgrade and in a first start.
func TestErrorAtEachStepLeavesOldOrNew(t *testing.T) {
	for _, step := range Steps() {
		t.Run(step, func(t *testing.T) {
			root := t.TempDir()
			old, p := newPayload(t, "1"), newPayload(t, "2")
			mustActivate(t, root, old)
			err := start(root, p, func(s string) error {
				if s == step {
					return unix.ENOSPC
				}
				return nil
			})
			if !errors.Is(err, unix.ENOSPC) {
				t.Fatalf("error %v, want %v", err, unix.ENOSPC)
			}
			var h interface{ Hint() string }
			if !errors.As(err, &h) || !strings.Contains(h.Hint(), "--data-dir") {
				t.Errorf("no remedy in %v", err)
			}
			want := old
			if step == StepCNI || step == StepGC {
				want = p
			}
			checkState(t, root, want, old, p)
			mustActivate(t, root, p)
			checkState(t, root, p, old, p)
			checkCNI(t, root)
		})
	}
}

func TestKillAtEachStep(t *testing.T) {
	for _, step := range Steps() {
		for _, first := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/first=%t", step, first), func(t *testing.T) {
				root := t.TempDir()
				old := newPayload(t, "1")
				name := payloadtest.Write(t, nil, files("2"), 2048)
				p := payloadtest.Open(t, name)
				want := p
				if !first {
					mustActivate(t, root, old)
				}
				if step != StepCNI && step != StepGC {
					if want = nil; !first {
						want = old
					}
				}
				killAt(t, step, name, root)
				checkState(t, root, want, old, p)
				mustActivate(t, root, p)
				checkState(t, root, p, old, p)
				checkCNI(t, root)
				if left, err := filepath.Glob(filepath.Join(root, "data", "*tmp*")); err != nil || len(left) > 0 {
					t.Errorf("left over: %v, err %v", left, err)
				}
			})
		}
	}
}

func killAt(t *testing.T, step, payloadFile, root string) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command(exe)
	child.Env = append(os.Environ(), envKillAt+"="+step, envKillPayload+"="+payloadFile, envKillRoot+"="+root)
	out, err := child.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("child: %v, want death by SIGKILL\n%s", err, out)
	}
}

func TestRealFullDisk(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	if err := unix.Mount("tmpfs", root, "tmpfs", 0, "size=64m,mode=0755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(root, 0); err != nil {
			t.Error(err)
		}
	})
	old := newPayload(t, "1")
	mustActivate(t, root, old)
	big := files("2")
	big["bin/big"] = strings.Repeat("0123456789abcdef", 1<<18) // 4 MiB
	p := payloadtest.Open(t, payloadtest.Write(t, nil, big, 1<<20))
	balloon := filepath.Join(root, "balloon")
	_, err := Extract(context.Background(), root, p, ExtractOptions{Step: func(s string) error {
		if s != StepUnpack {
			return nil
		}
		var st unix.Statfs_t
		if err := unix.Statfs(root, &st); err != nil {
			return err
		}
		return os.WriteFile(balloon, make([]byte, int64(st.Bavail)*st.Bsize-1<<20), 0o600)
	}})
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("error %v, want %v", err, unix.ENOSPC)
	}
	checkState(t, root, old, old, p)
	// Now the lack is seen before anything is written.
	if _, err := Extract(context.Background(), root, p, ExtractOptions{}); err == nil || !strings.Contains(err.Error(), "MiB are needed") {
		t.Errorf("error %v, want the space that is needed", err)
	}
	checkState(t, root, old, old, p)
	if err := os.Remove(balloon); err != nil {
		t.Fatal(err)
	}
	mustActivate(t, root, p)
	checkState(t, root, p, old, p)
}

func TestDamagedPayloadIsRefused(t *testing.T) {
	root := t.TempDir()
	old := newPayload(t, "1")
	mustActivate(t, root, old)
	name := payloadtest.Write(t, []byte("ELF"), files("2"), 2048)
	whole, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	whole[3+payloadtest.Open(t, name).Length()/2] ^= 0x40
	if err := os.WriteFile(name, whole, 0o755); err != nil {
		t.Fatal(err)
	}
	p := payloadtest.Open(t, name)
	if _, err := Extract(context.Background(), root, p, ExtractOptions{}); err == nil {
		t.Error("a damaged payload was accepted")
	}
	checkState(t, root, old, old)
	if exists(filepath.Join(root, "data", p.SHA256)) {
		t.Error("the damaged version is there")
	}
}

func TestCallersWaitForARunningExtraction(t *testing.T) {
	root := t.TempDir()
	p := newPayload(t, "1")
	inside, leave := make(chan struct{}), make(chan struct{})
	first := make(chan error, 1)
	go func() {
		_, err := Extract(context.Background(), root, p, ExtractOptions{Step: func(s string) error {
			if s == StepRename {
				close(inside)
				<-leave
			}
			return nil
		}})
		first <- err
	}()
	<-inside
	var log lockedBuffer
	second := make(chan error, 1)
	go func() {
		_, err := Extract(context.Background(), root, p, ExtractOptions{Log: hclog.New(&hclog.LoggerOptions{Output: &log})})
		second <- err
	}()
	log.waitFor(t, fmt.Sprintf("locked by process %d", os.Getpid()))
	select {
	case err := <-second:
		t.Fatalf("the second caller did not wait: %v", err)
	default:
	}
	close(leave)
	if err := errors.Join(<-first, <-second); err != nil {
		t.Fatal(err)
	}
	checkState(t, root, nil, p)
}

func TestWaitingEndsWithItsContext(t *testing.T) {
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "data"), 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := Lock(filepath.Join(root, "data", ".lock"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = Extract(ctx, root, newPayload(t, "1"), ExtractOptions{})
	var held *HeldError
	if !errors.Is(err, context.Canceled) || !errors.As(err, &held) {
		t.Errorf("error %v, want the end of the context and the holder", err)
	}
	if err := l.Unlock(); err != nil {
		t.Error(err)
	}
}

func checkCNI(t *testing.T, root string) {
	t.Helper()
	for _, name := range []string{"bridge", "portmap"} {
		got, err := os.ReadFile(filepath.Join(root, "data", "cni", name))
		if err != nil || !bytes.HasPrefix(got, []byte("#!/bin/sh")) {
			t.Errorf("data/cni/%s does not lead to the plugin: %v", name, err)
		}
	}
}

func TestCNIIsRepairedAndForeignFilesStay(t *testing.T) {
	root := t.TempDir()
	p := newPayload(t, "1")
	cni := filepath.Join(root, "data", "cni")
	if err := os.MkdirAll(cni, 0o755); err != nil {
		t.Fatal(err)
	}
	foreign := map[string]string{"calico": "binary", "portmap": "somebody's own portmap"}
	for name, content := range foreign {
		if err := os.WriteFile(filepath.Join(cni, name), []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	links := map[string]string{
		"cilium":   "/opt/cilium/cni", // foreign
		"bridge":   "../" + strings.Repeat("a", 64) + "/bin/cni",
		"vanished": "../current/bin/cni",
	}
	for name, to := range links {
		if err := os.Symlink(to, filepath.Join(cni, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, round := range []string{"first start", "fast path"} {
		mustActivate(t, root, p)
		for name, want := range foreign {
			if got, err := os.ReadFile(filepath.Join(cni, name)); err != nil || string(got) != want {
				t.Errorf("%s: foreign file %s: %q, err %v", round, name, got, err)
			}
		}
		for name, want := range map[string]string{"cni/cilium": "/opt/cilium/cni", "cni/bridge": "../current/bin/cni", "cni/kelson-cni": "../current/bin/kelson-cni", "cni/vanished": ""} {
			if got := linkOf(t, root, name); got != want {
				t.Errorf("%s: %s → %q, want %q", round, name, got, want)
			}
		}
		if err := os.Remove(filepath.Join(cni, "bridge")); err != nil {
			t.Fatal(err)
		}
	}
}
