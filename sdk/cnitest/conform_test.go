package cnitest

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kelson-io/kelson/sdk/cni"
	"github.com/kelson-io/kelson/sdk/plugin"
	"github.com/kelson-io/kelson/sdk/plugintest"
	"github.com/kelson-io/kelson/sdk/serve"
)

const breakKey = "KELSON_CNITEST_BREAK"

// TestMain is the reference network when the test's program is started as a
// plugin.
func TestMain(m *testing.M) {
	if os.Getenv(serve.CookieKey) != "" {
		os.Exit(serve.Main(plugin.New(&base{}), cni.Register(&reference{broken: os.Getenv(breakKey)})))
	}
	os.Exit(m.Run())
}

// TestReference is the kit against a network that keeps the contract.
func TestReference(t *testing.T) {
	Conform(t, config(t, ""))
}

func TestReferenceDualStack(t *testing.T) {
	c := config(t, "")
	c.PodCIDRs = []netip.Prefix{netip.MustParsePrefix("fd00:77::/64"), netip.MustParsePrefix("10.244.77.0/24")}
	c.ClusterCIDRs = []netip.Prefix{netip.MustParsePrefix("fd00::/16"), netip.MustParsePrefix("10.244.0.0/16")}
	Conform(t, c)
}

// TestJudge is the kit against one that does not; TestBroken runs it.
func TestJudge(t *testing.T) {
	broken := os.Getenv("KELSON_CNITEST_JUDGE")
	if broken == "" {
		t.Skip("is run by TestBroken")
	}
	c := config(t, broken)
	c.Settle = time.Second
	Conform(t, c)
}

// TestBroken proves that the kit finds what is wrong.
func TestBroken(t *testing.T) {
	config(t, "") // skips where the kit cannot run
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for broken, check := range map[string]string{
		"preflight":        "preflight",
		"early-socket":     "start",
		"del":              "attach-1.0.0",
		"del-needs-netns":  "attach-1.1.0",
		"check":            "check-finds-damage",
		"address":          "parallel",
		"collect-nothing":  "collect",
		"collect-all":      "collect",
		"status":           "shim",
		"start-cuts":       "restart-keeps-pods",
		"crash":            "crash-leaks-nothing",
		"teardown":         "teardown",
		"teardown-cuts":    "teardown",
		"teardown-forgets": "teardown",
	} {
		t.Run(broken, func(t *testing.T) {
			cmd := exec.Command(self, "-test.v", "-test.run", "^TestJudge$/^(start|"+check+")$")
			cmd.Env = append(os.Environ(), "KELSON_CNITEST_JUDGE="+broken)
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(string(out), "--- FAIL: TestJudge/"+check+" ") {
				t.Errorf("not found: %v\n%s", err, out)
			}
		})
	}
}

func config(t *testing.T, broken string) Config {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	if testing.Short() {
		t.Skip("makes network namespaces")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return Config{
		Program: plugintest.Program{Path: self, Env: []string{breakKey + "=" + broken}},
		Shim:    built(t, "kelson-cni", "./cmd/kelson-cni"),
		BinDirs: []string{binaries(t)},
	}
}

// repository is the folder of the module that the SDK lies in.
const repository = "../.."

// built builds a command of the repository.
func built(t *testing.T, name, pkg string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	cmd := exec.Command("go", "build", "-ldflags", "-s -w", "-o", path, pkg)
	cmd.Dir = repository
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("the kit's own tests need the repository: %v: %s", err, out)
	}
	return path
}

// binaries are the standard plugins: those of the payload, or built.
func binaries(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	payload, err := filepath.Abs(repository + "/dist/payload/bin/cni")
	if err != nil {
		t.Fatal(err)
	}
	for name, kind := range map[string]string{"bridge": "main", "host-local": "ipam", "portmap": "meta", "bandwidth": "meta"} {
		if _, err := os.Stat(payload); err == nil {
			if err := os.Symlink(payload, filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
			continue
		}
		path := built(t, name, "github.com/containernetworking/plugins/plugins/"+kind+"/"+name)
		if err := os.Rename(path, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestDifference(t *testing.T) {
	if err := difference("a\nb\nb", "b\na\nb"); err != nil {
		t.Errorf("same: %v", err)
	}
	err := difference("a\nb\nb", "b\nc")
	if err == nil || strings.Contains(err.Error(), "+ b") || !slices.Equal(strings.Split(strings.TrimSpace(err.Error()), "\n")[1:], []string{"+ c", "- a", "- b"}) {
		t.Errorf("different: %v", err)
	}
}

// TestNamespaces makes one, pings in it, and leaves nothing.
func TestNamespaces(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	n, err := newNamespace()
	if err != nil {
		t.Fatal(err)
	}
	defer n.close()
	k := &kit{Config: Config{Path: os.Getenv("PATH")}}
	lo := netip.MustParseAddr("127.0.0.1")
	if err := n.ping(lo, 1, 1e8); err == nil {
		t.Error("lo answers while it is down")
	}
	if out, err := k.run(n, "ip", "link", "set", "lo", "up"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, address := range []netip.Addr{lo, netip.MustParseAddr("::1")} {
		if err := n.ping(address, 1, settleTime); err != nil {
			t.Error(err)
		}
	}
	if list, err := n.interfaces(); err != nil || len(list) != 0 {
		t.Errorf("interfaces %v, %v", list, err)
	}
}
