package bridge

import (
	"testing"

	"github.com/kelson-io/kelson/plugins/internal/nettest"
	"github.com/kelson-io/kelson/sdk/plugintest"
)

// TestConform judges the built program by its socket.
func TestConform(t *testing.T) {
	plugintest.Conform(t, plugintest.Program{Path: nettest.Build(t), Args: []string{"cni", name}, Lifetime: "node"})
}
