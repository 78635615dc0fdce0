package plugintest

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
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

// TestFaultsAreFound: each fault fails the checks that are meant for it, and a
// fault of one thing does not condemn the others.
func TestFaultsAreFound(t *testing.T) {
	found := map[sample.Fault][]string{
		sample.FaultDescribe:   {"describe"},
		sample.FaultName:       nil, // the SDK does not even serve it
		sample.FaultSchema:     {"schema"},
		sample.FaultLax:        {"unknown-keys", "wrong-types", "malformed"},
		sample.FaultPathless:   {"unknown-keys", "wrong-types"},
		sample.FaultHang:       {"cancellation"},
		sample.FaultSilent:     {"configure", "health", "heartbeat"},
		sample.FaultReason:     {"health"},
		sample.FaultLeak:       {"secrets"},
		sample.FaultLeakMetric: {"secrets"},
		sample.FaultDrain:      {"drain"},
		sample.FaultSigterm:    {"drain", "sigterm", "restarts"},
		sample.FaultSocket:     {"restarts"},
		sample.FaultOrphan:     {"host-gone"},
		sample.FaultMortal:     {"node-lifetime"},
		sample.FaultEager:      {"by-hand"},
	}
	_ = found
	for _, fault := range sample.Faults() {
		t.Run(string(fault), func(t *testing.T) {
			var failed []string
			for _, c := range checks() {
				if c.slow {
					continue
				}
				r := &run{Program: program(fault), ctx: t.Context()}
				if err := c.judge(r); err != nil {
					failed = append(failed, c.name)
					t.Logf("%s: %.300s", c.name, err)
				}
				r.cleanUp()
			}
			t.Log(strings.Join(failed, " "), slices.Contains(failed, ""))
		})
	}
}
