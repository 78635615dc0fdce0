package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/kelson-io/kelson/core/datadir/payload/payloadtest"
)

// The test binary is the launcher too: copied behind the name "kelson" with a
// payload appended, it launches when this is set.
const envLaunch = "KELSON_TEST_LAUNCH"

func TestMain(m *testing.M) {
	if os.Getenv(envLaunch) != "" {
		main()
	}
	os.Exit(m.Run())
}

// host stands for kelson-host: it tells how it was started.
const host = "#!/bin/sh\necho \"host $VERSION_OF_HOST\"\necho \"path $PATH\"\nfor a in \"$@\"; do echo \"arg $a\"; done\nexit 7\n"

// newLauncher makes a launcher whose payload has the given version.
func newLauncher(t *testing.T, version string) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	name := payloadtest.Write(t, self, payloadtest.Files{
		"bin/kelson-host": strings.Replace(host, "$VERSION_OF_HOST", version, 1),
		"bin/cni":         "x",
		"cni/bridge":      "→../bin/cni",
	}, 4096)
	return name
}

type outcome struct {
	code        int
	out, stderr string
}

// start runs a launcher; configure may change the command first.
func start(t *testing.T, launcher string, configure func(*exec.Cmd), args ...string) outcome {
	t.Helper()
	cmd := exec.Command(launcher, args...)
	cmd.Env = []string{envLaunch + "=1", "PATH=/usr/bin:/bin", "HOME=" + t.TempDir()}
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if configure != nil {
		configure(cmd)
	}
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return outcome{cmd.ProcessState.ExitCode(), out.String(), stderr.String()}
}

func TestLaunchExtractsAndBecomesTheHost(t *testing.T) {
	root := filepath.Join(t.TempDir(), "data-dir")
	launcher := newLauncher(t, "one")
	r := start(t, launcher, nil, "server", "--data-dir", root, "--node-name", "a b")
	if r.code != 7 || !strings.Contains(r.out, "host one\n") {
		t.Fatalf("%+v, want the host's output and exit code 7", r)
	}
	for _, want := range []string{"arg server\narg --data-dir\narg " + root + "\narg --node-name\narg a b\n"} {
		if !strings.Contains(r.out, want) {
			t.Errorf("arguments changed:\n%s", r.out)
		}
	}
	lock, prepare := strings.Index(r.stderr, "Acquiring lock file "+root+"/data/.lock"), strings.Index(r.stderr, "Preparing data dir "+root+"/data/")
	if lock < 0 || prepare < lock {
		t.Errorf("the log does not tell the story:\n%s", r.stderr)
	}
	again := start(t, launcher, nil, "status", "-d", root)
	if again.code != 7 || again.stderr != "" {
		t.Errorf("second start: %+v, want silence", again)
	}
}

func TestLaunchFindsTheDataDir(t *testing.T) {
	tests := map[string]struct {
		args func(root string) []string
		env  func(root string) string
	}{
		"flag":       {func(r string) []string { return []string{"status", "--data-dir", r} }, nil},
		"flag=":      {func(r string) []string { return []string{"status", "--data-dir=" + r} }, nil},
		"before":     {func(r string) []string { return []string{"-d", r, "kubectl", "get", "--data-dir=/nowhere"} }, nil},
		"env":        {func(string) []string { return []string{"status"} }, func(r string) string { return "KELSON_DATA_DIR=" + r }},
		"configfile": {func(r string) []string { return []string{"status", "--config", r + ".yaml"} }, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			root := filepath.Join(t.TempDir(), "chosen")
			if err := os.WriteFile(root+".yaml", []byte("data-dir: "+root+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			r := start(t, newLauncher(t, "x"), func(c *exec.Cmd) {
				if tt.env != nil {
					c.Env = append(c.Env, tt.env(root))
				}
			}, tt.args(root)...)
			if r.code != 7 || !strings.Contains(r.out, "path "+root+"/data/cni:"+root+"/data/") {
				t.Errorf("%+v, want a host in %s", r, root)
			}
		})
	}
}

func TestLaunchKeepsTheName(t *testing.T) {
	root := t.TempDir()
	launcher := newLauncher(t, "x")
	link := filepath.Join(t.TempDir(), "kubectl")
	if err := os.Symlink(launcher, link); err != nil {
		t.Fatal(err)
	}
	r := start(t, link, func(c *exec.Cmd) { c.Env = append(c.Env, "KELSON_DATA_DIR="+root) }, "server", "-d", "/nowhere")
	if r.code != 7 || !strings.Contains(r.out, "path "+root) || exists("/nowhere") {
		t.Errorf("%+v: kubectl's own arguments were taken for Kelson's", r)
	}
	if got := verbOf([]string{"/usr/local/bin/crictl", "server"}); got != "crictl" {
		t.Errorf("verb %q, want crictl", got)
	}
}

func TestStartIsRefusedBeforeAnythingChanges(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: needs root to become another user")
	}
	launcher := newLauncher(t, "x")
	if err := reachable(filepath.Dir(launcher)); err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(t.TempDir(), "data-dir")
	r := start(t, launcher, func(c *exec.Cmd) {
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 4711, Gid: 4711}}
	}, "server", "--data-dir", root)
	if r.code != 1 || !strings.Contains(r.stderr, "root") || !strings.Contains(r.stderr, "→") || exists(root) {
		t.Errorf("not root: %+v", r)
	}
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(root, 4711, 4711); err != nil {
		t.Fatal(err)
	}
	r = start(t, launcher, nil, "server", "--data-dir", root)
	if r.code != 1 || !strings.Contains(r.stderr, "4711") || exists(filepath.Join(root, "data")) {
		t.Errorf("another's data dir: %+v", r)
	}
}

func TestDataDirThatCannotBeUsedIsRefusedFirst(t *testing.T) {
	root := filepath.Join(t.TempDir(), "a b")
	r := start(t, newLauncher(t, "x"), nil, "server", "--data-dir", root)
	if r.code != 2 || !strings.Contains(r.stderr, "white space") || exists(root) {
		t.Errorf("%+v, want a refusal with exit code 2 and nothing made", r)
	}
}

// Neither help nor the answer that there are no agents yet leaves a data dir.
func TestNeutralCommandsMakeNoDataDir(t *testing.T) {
	root := filepath.Join(t.TempDir(), "data-dir")
	for _, args := range [][]string{{"agent", "--data-dir", root}, {"server", "--data-dir", root, "--help"}, {"check", "-d", root}, {"-d", root, "version"}} {
		if r := start(t, newLauncher(t, "x"), nil, args...); r.code != 7 || exists(root) {
			t.Errorf("%q: %+v, want the host's answer and no data dir", args, r)
		}
	}
}

// reachable lets other users reach a test's folder.
func reachable(dir string) error {
	for ; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			return err
		}
	}
	return nil
}

func TestUserWithoutDataDirGetsOne(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: needs root to become another user")
	}
	launcher := newLauncher(t, "x")
	home := t.TempDir()
	for _, d := range []string{filepath.Dir(launcher), home} {
		if err := reachable(d); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(home, 4711, 4711); err != nil {
		t.Fatal(err)
	}
	user := func(home string) func(*exec.Cmd) {
		return func(c *exec.Cmd) {
			c.Env = append(c.Env, "HOME="+home)
			c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 4711, Gid: 4711}}
		}
	}
	if r := start(t, launcher, user(home), "version"); r.code != 7 || !strings.Contains(r.out, "path "+home+"/.kelson/data/cni") {
		t.Errorf("own home: %+v", r)
	}
	root := t.TempDir()
	if r := start(t, launcher, nil, "server", "-d", root); r.code != 7 {
		t.Fatalf("%+v", r)
	}
	if err := reachable(root); err != nil {
		t.Fatal(err)
	}
	if r := start(t, launcher, user("/nonexistent"), "version", "-d", root); r.code != 7 || !strings.Contains(r.out, "path "+root) {
		t.Errorf("what root extracted: %+v", r)
	}
	tmp := filepath.Join(os.TempDir(), "kelson-4711") //nolint:usetesting // the launcher's own choice
	t.Cleanup(func() {
		if err := os.RemoveAll(tmp); err != nil {
			t.Error(err)
		}
	})
	if r := start(t, launcher, user("/nonexistent"), "version"); r.code != 7 || !strings.Contains(r.out, "path "+tmp) {
		t.Errorf("without a home: %+v", r)
	}
}

func TestFileWithoutPayload(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if r := start(t, exe, nil, "version"); r.code != 1 || !strings.Contains(r.stderr, "no payload") {
		t.Errorf("%+v, want a refusal", r)
	}
}

func TestWithPath(t *testing.T) {
	t.Setenv("PATH", "/usr/bin")
	for bundledFirst, want := range map[bool]string{
		false: "PATH=/d/cni:/d/v/bin:/usr/bin:/d/v/bin/aux",
		true:  "PATH=/d/cni:/d/v/bin:/d/v/bin/aux:/usr/bin",
	} {
		got := withPath([]string{"A=1", "PATH=/usr/bin", "B=2"}, "/d/cni", "/d/v/bin", bundledFirst)
		if want := []string{"A=1", "B=2", want}; !slices.Equal(got, want) {
			t.Errorf("bundled first %t: %v, want %v", bundledFirst, got, want)
		}
	}
	t.Setenv("PATH", "")
	if got := fmt.Sprint(withPath(nil, "/c", "/b", false)); got != "[PATH=/c:/b:/b/aux]" {
		t.Errorf("empty PATH: %s", got)
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
