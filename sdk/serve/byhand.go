package serve

import (
	"fmt"

	"github.com/kelson-io/kelson/sdk/plugin"
)

func byHand(proc Process, p plugin.Plugin) int {
	fmt.Fprintf(proc.Stdout, "%s is a plugin of Kelson: %s\n", proc.Name, p.Info().Summary)
	return exitUsage
}
