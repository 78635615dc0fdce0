package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/kelson-io/kelson/core/agent/kernel"
	"github.com/kelson-io/kelson/core/agent/preflight"
	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/status"
)

// checkTime bounds all checks together.
const checkTime = time.Minute

type checkCmd struct{ output }

// Help gives examples.
func (checkCmd) Help() string {
	return "Nothing is changed. The exit code is 1 when a check failed; a warning does not keep a server from working. The ports are not looked at while a server runs on this data dir.\n\nExamples:\n\n    kelson check\n    kelson check -o json"
}

// Run performs the checks for the server that the configuration describes.
func (c *checkCmd) Run(g globals, std streams) error {
	cfg, err := config.Load(config.Inputs{Flags: g.flags(), Environ: os.Environ()})
	if err != nil {
		return err
	}
	d, err := g.dirs()
	if err != nil {
		return err
	}
	opt := preflight.Options{
		DataDir: cfg.DataDir,
		Search:  kernel.SearchPath(d.Bin, os.Getenv("PATH"), cfg.PreferBundledBin),
		NodeIP:  len(cfg.Node.IP) > 0,
		IPv6:    hasIPv6(cfg.Network),
		Agent:   !cfg.Node.Disabled,
	}
	if s, err := status.Read(d.statusFile()); err != nil || !alive(s.PID) {
		opt.Ports = usedPorts(cfg)
	}
	ctx, cancel := context.WithTimeout(context.Background(), checkTime)
	defer cancel()
	results := preflight.Run(ctx, opt)
	if err := c.emit(std.Out, results, func(w io.Writer) error { return checkTable(w, results) }); err != nil {
		return err
	}
	if failed := countFailed(results); failed > 0 {
		return fmt.Errorf("check: %d of %d checks failed", failed, len(results))
	}
	return nil
}

// usedPorts leaves out the join API's: nothing listens there in this version.
func usedPorts(cfg config.Server) []preflight.Port {
	return slices.DeleteFunc(preflight.ServerPorts(cfg), func(p preflight.Port) bool {
		return p.Number == cfg.Supervisor.Port
	})
}

func hasIPv6(n config.Network) bool {
	for _, p := range n.ClusterCIDR {
		if p.Addr().Is6() {
			return true
		}
	}
	return false
}

func checkTable(w io.Writer, results []preflight.Result) error {
	rows := make([][]string, len(results))
	for i, r := range results {
		rows[i] = []string{r.Name, string(r.Status), r.Detail}
	}
	if err := writeTable(w, "CHECK STATUS DETAIL", rows); err != nil {
		return err
	}
	for _, r := range results {
		if r.Hint != "" && (r.Status == preflight.Warning || r.Status == preflight.Failed) {
			fmt.Fprintf(w, "\n%s: %s\n", r.Name, r.Hint)
		}
	}
	return nil
}

func countFailed(results []preflight.Result) int {
	n := 0
	for _, r := range results {
		if r.Status == preflight.Failed {
			n++
		}
	}
	return n
}
