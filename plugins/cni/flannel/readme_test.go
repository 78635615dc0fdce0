package flannel

import (
	"flag"
	"log/slog"
	"testing"

	"github.com/kelson-io/kelson/plugins/internal/readme"
	"github.com/kelson-io/kelson/sdk/plugin"
)

var update = flag.Bool("update", false, "write the generated part of README.md")

func TestReadme(t *testing.T) {
	readme.Check(t, plugin.New(New("0.0.0", slog.New(slog.DiscardHandler))), *update)
}
