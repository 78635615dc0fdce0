// Command kelson-plugins holds the network plugins that come with Kelson in one
// file: kelson-plugins KIND NAME is the plugin. The host starts it so; run by
// hand it tells what there is, and each plugin answers describe, schema,
// validate and manifest.
package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"

	"google.golang.org/grpc"

	"github.com/kelson-io/kelson/plugins/cni/bridge"
	"github.com/kelson-io/kelson/plugins/cni/flannel"
	"github.com/kelson-io/kelson/sdk/cni"
	"github.com/kelson-io/kelson/sdk/plugin"
	"github.com/kelson-io/kelson/sdk/serve"
)

// version is set by the linker.
var version = "0.0.0"

const exitUsage = 2

// bundled is one plugin of this file.
type bundled struct {
	kind, name string
	make       func(log *slog.Logger) (plugin.Plugin, func(grpc.ServiceRegistrar))
}

func all() []bundled {
	return []bundled{
		{"cni", "flannel", func(log *slog.Logger) (plugin.Plugin, func(grpc.ServiceRegistrar)) {
			p := flannel.New(version, log)
			return plugin.New(p), cni.RegisterWith(p, cni.Options{Log: log})
		}},
		{"cni", "bridge", func(log *slog.Logger) (plugin.Plugin, func(grpc.ServiceRegistrar)) {
			p := bridge.New(version, log)
			return plugin.New(p), cni.RegisterWith(p, cni.Options{Log: log})
		}},
	}
}

func main() { os.Exit(run(serve.OS())) }

func run(proc serve.Process) int {
	if len(proc.Args) < 2 {
		help(proc.Stdout)
		return exitUsage
	}
	for _, b := range all() {
		if b.kind == proc.Args[0] && b.name == proc.Args[1] {
			p, service := b.make(plugin.NewLogger(proc.Stderr, slog.LevelInfo))
			proc.Name += " " + b.kind + " " + b.name
			proc.Args = proc.Args[2:]
			return serve.Run(proc, p, service)
		}
	}
	fmt.Fprintf(proc.Stderr, "there is no plugin %s of kind %s in this file\n\n", proc.Args[1], proc.Args[0])
	help(proc.Stderr)
	return exitUsage
}

func help(w io.Writer) {
	fmt.Fprint(w, "Plugins of Kelson. The host starts them; by hand:\n\n  kelson-plugins KIND NAME [describe | schema | validate | manifest]\n\n")
	for _, b := range all() {
		p, _ := b.make(slog.New(slog.DiscardHandler))
		fmt.Fprintf(w, "  %-6s %-10s %s\n", b.kind, b.name, p.Info().Summary)
	}
}
