package flannel

import (
	"testing"

	"github.com/kelson-io/kelson/plugins/internal/nettest"
	"github.com/kelson-io/kelson/sdk/cnitest"
	"github.com/kelson-io/kelson/sdk/plugintest"
)

// TestConformCNI judges the built program by the contract of its kind. It does
// so with nftables only: the first use of iptables leaves an empty table nat,
// which is no plugin's to remove, and which the kit counts as left behind. What
// is left with iptables is judged by plugin bridge's own tests.
func TestConformCNI(t *testing.T) {
	cnitest.Conform(t, cnitest.Config{
		Program: plugintest.Program{Path: nettest.Build(t), Args: []string{"cni", name}, Lifetime: "node"},
		Shim:    nettest.BuildShim(t), BinDirs: []string{nettest.BinDir(t)}, Path: nettest.Path(),
	})
}
