package catalog

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// The environment of the process that is killed.
const (
	crashAt     = "CATALOG_TEST_CRASH_AT"
	crashRoot   = "CATALOG_TEST_ROOT"
	crashDo     = "CATALOG_TEST_DO"
	crashSource = "CATALOG_TEST_SOURCE"
)

func TestMain(m *testing.M) {
	if os.Getenv(crashRoot) != "" {
		os.Exit(victim())
	}
	os.Exit(m.Run())
}

// victim installs or removes, and kills itself at the n-th step.
func victim() int {
	b := catalogAt(os.Getenv(crashRoot))
	left, err := strconv.Atoi(os.Getenv(crashAt))
	if err != nil {
		return 3
	}
	b.at = func(string) {
		if left--; left < 0 {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	if os.Getenv(crashDo) == "remove" {
		err = b.Remove("addon", "hello", "")
	} else {
		var staged *Staged
		if staged, err = b.Stage(context.Background(), Options{Source: os.Getenv(crashSource)}); err == nil {
			err = staged.Commit()
		}
	}
	if err != nil {
		_, _ = os.Stderr.WriteString(err.Error() + "\n")
		return 1
	}
	return 0
}

// crash runs a victim and reports whether it got to its end.
func crash(t *testing.T, root, do, source string, step int) (done bool) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), crashRoot+"="+root, crashDo+"="+do, crashSource+"="+source, crashAt+"="+strconv.Itoa(step))
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return true
	case errors.As(err, &exit) && strings.Contains(exit.Error(), "killed"):
		return false
	default:
		t.Fatalf("step %d: %v\n%s", step, err, out)
		return false
	}
}

// TestKilledInstall kills an upgrade at each step: what runs is the old version
// or the new one, never a mixture, and installing again completes it.
func TestKilledInstall(t *testing.T) {
	old, upgrade := addon("1.0.0").folder(t), addon("2.0.0").folder(t)
	steps, seen := 0, map[string]int{}
	for done := false; !done; steps++ {
		root := t.TempDir()
		b := openBed(t, root)
		if err := b.tryInstall(Options{Source: old}); err != nil {
			t.Fatal(err)
		}
		done = crash(t, root, "install", upgrade, steps)
		p := b.resolve("addon", "hello")
		seen[p.Version]++
		if done && p.Version != "2.0.0" {
			t.Errorf("resolved %+v", p)
		}
		if err := b.tryInstall(Options{Source: upgrade}); err != nil {
			t.Errorf("step %d: again: %v", steps, err)
		}
		b.clean()
		if p := b.resolve("addon", "hello"); p.Version != "2.0.0" || p.Generation > 3 {
			t.Errorf("step %d: resolved %+v", steps, p)
		}
	}
	if steps < 7 || seen["1.0.0"] < 3 || seen["2.0.0"] < 2 {
		t.Errorf("%d steps, resolved %v", steps, seen)
	}
}

// TestKilledFirstInstall leaves nothing that would run by half.
func TestKilledFirstInstall(t *testing.T) {
	source := addon("1.0.0").folder(t)
	for step, done := 0, false; !done; step++ {
		root := t.TempDir()
		b := openBed(t, root)
		done = crash(t, root, "install", source, step)
		if p, err := b.Resolve("addon", "hello"); err == nil {
			b.resolve("addon", "hello")
		} else if refused(t, err, "addon(hello)", "catalog"); done {
			t.Errorf("resolved %+v, %v", p, err)
		}
		if err := b.tryInstall(Options{Source: source}); err != nil {
			t.Errorf("step %d: again: %v", step, err)
		}
		b.resolve("addon", "hello")
		b.clean()
	}
}

func TestKilledRemove(t *testing.T) {
	source := addon("1.0.0").folder(t)
	for step, done := 0, false; !done; step++ {
		root := t.TempDir()
		b := openBed(t, root)
		if err := b.tryInstall(Options{Source: source}); err != nil {
			t.Fatal(err)
		}
		done = crash(t, root, "remove", "", step)
		if _, err := b.Resolve("addon", "hello"); err == nil {
			b.resolve("addon", "hello")
		}
		if _, err := os.Stat(filepath.Join(b.plugins("addon", "hello"))); err == nil {
			if err := b.Remove("addon", "hello", ""); err != nil {
				t.Errorf("step %d: again: %v", step, err)
			}
		}
		_, err := b.Resolve("addon", "hello")
		refused(t, err, "addon(hello)", "catalog")
	}
}
