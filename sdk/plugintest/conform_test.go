package plugintest

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/kelson-io/kelson/sdk/internal/sample"
)

// built is the sample's program.
var built string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "sample")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	built = filepath.Join(dir, "sample")
	if out, err := exec.Command("go", "build", "-o", built, "../internal/sample/program").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the sample: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

func program(fault sample.Fault) Program {
	return Program{
		Path: built, Env: []string{sample.FaultKey + "=" + string(fault)}, Lifetime: "node",
		Config: json.RawMessage(`{"greeting":"hello","times":2,"password":{"secret":"door"},"labels":{"a":"b"}}`),
	}
}

func TestSampleConforms(t *testing.T) { Conform(t, program("")) }

// TestFaultsAreFound: each fault fails the checks that are meant for it, and
// none of the others named beside it.
func TestFaultsAreFound(t *testing.T) {
	tests := map[sample.Fault]struct{ fails, passes []string }{
		sample.FaultDescribe:   {[]string{"describe"}, []string{"validate"}},
		sample.FaultName:       {[]string{"starts"}, []string{"by-hand"}}, // the SDK does not even serve it
		sample.FaultSchema:     {[]string{"schema"}, []string{"describe"}},
		sample.FaultLax:        {[]string{"unknown-keys", "wrong-types", "malformed"}, []string{"validate"}},
		sample.FaultPathless:   {[]string{"unknown-keys", "wrong-types"}, []string{"malformed"}},
		sample.FaultTwice:      {[]string{"configure"}, []string{"validate", "health"}},
		sample.FaultHang:       {[]string{"cancellation"}, []string{"describe"}},
		sample.FaultSilent:     {[]string{"health"}, []string{"describe", "drain"}},
		sample.FaultReason:     {[]string{"health"}, []string{"unknown-keys"}},
		sample.FaultLeak:       {[]string{"secrets"}, []string{"configure"}},
		sample.FaultLeakMetric: {[]string{"secrets"}, []string{"metrics"}},
		sample.FaultDrain:      {[]string{"drain"}, []string{"health"}},
		sample.FaultSigterm:    {[]string{"sigterm"}, []string{"configure"}},
		sample.FaultSocket:     {[]string{"restarts"}, []string{"starts"}},
		sample.FaultOrphan:     {[]string{"host-gone"}, []string{"node-lifetime"}},
		sample.FaultMortal:     {[]string{"node-lifetime"}, []string{"host-gone"}},
		sample.FaultEager:      {[]string{"by-hand"}, []string{"starts"}},
	}
	for _, fault := range sample.Faults() {
		t.Run(string(fault), func(t *testing.T) {
			t.Parallel()
			tt, ok := tests[fault]
			if !ok {
				t.Fatal("this fault is not tested")
			}
			for _, name := range tt.fails {
				if err := judge(t, fault, name); err == nil {
					t.Errorf("%s passes", name)
				} else {
					t.Logf("%s: %.300s", name, err)
				}
			}
			for _, name := range tt.passes {
				if err := judge(t, fault, name); err != nil {
					t.Errorf("%s fails: %v", name, err)
				}
			}
		})
	}
}

func judge(t *testing.T, fault sample.Fault, name string) error {
	t.Helper()
	i := slices.IndexFunc(checks(), func(c check) bool { return c.name == name })
	if i < 0 {
		t.Fatalf("no check %s", name)
	}
	r := &run{Program: program(fault), ctx: t.Context()}
	defer r.cleanUp()
	return checks()[i].judge(r)
}
