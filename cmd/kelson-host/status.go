package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/status"
)

// probeTime bounds the live probes of one call.
const probeTime = 5 * time.Second

type statusCmd struct{ output }

// Help gives examples.
func (statusCmd) Help() string {
	return "The exit code is 1 when the server does not run or the cluster is not ready.\n\nExamples:\n\n    kelson status\n    kelson status -o json"
}

// statusReport is what the command prints: the server's own file and what the
// probes found.
type statusReport struct {
	Running bool           `json:"running"`
	Healthy bool           `json:"healthy"`
	Uptime  string         `json:"uptime,omitempty"`
	Server  *status.Status `json:"server,omitempty"`
	Cluster clusterReport  `json:"cluster"`
}

// Run reads the server's file, probes the cluster and prints both.
func (c *statusCmd) Run(g globals, std streams) error {
	d, err := g.dirs()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), probeTime)
	defer cancel()
	report, why := readReport(ctx, d)
	if err := c.emit(std.Out, report, report.table); err != nil {
		return err
	}
	return why
}

// readReport also returns why the server counts as not healthy.
func readReport(ctx context.Context, d dirs) (statusReport, error) {
	s, err := status.Read(d.statusFile())
	if errors.Is(err, fs.ErrNotExist) {
		return statusReport{}, config.Hinted(fmt.Errorf("status: no server runs on %s", d.Root), startHint)
	}
	if errors.Is(err, fs.ErrPermission) {
		return statusReport{}, config.Hinted(err, "run it as root")
	}
	if err != nil {
		return statusReport{}, err
	}
	r := statusReport{Server: &s, Running: alive(s.PID)}
	if !r.Running {
		return r, config.Hinted(fmt.Errorf("status: the server on %s does not run; process %d is gone", d.Root, s.PID), startHint)
	}
	r.Uptime = time.Since(s.StartedAt).Round(time.Second).String()
	r.Cluster = probeCluster(ctx, s)
	r.Healthy = s.State == status.Ready && r.Cluster.healthy(s)
	if r.Healthy {
		return r, nil
	}
	return r, fmt.Errorf("status: not ready: %s", r.reason())
}

const startHint = "start it with 'kelson server', or name its data dir with --data-dir"

// alive reports whether the process exists; another user's does too.
func alive(pid int) bool {
	err := syscall.Kill(pid, 0)
	return pid > 0 && (err == nil || errors.Is(err, syscall.EPERM))
}

// reason is the first thing that is not as it should be.
func (r statusReport) reason() string {
	if r.Server.State != status.Ready {
		return strings.TrimSuffix("the server is "+string(r.Server.State)+": "+r.Server.Reason, ": ")
	}
	return r.Cluster.reason(*r.Server)
}

func (r statusReport) table(w io.Writer) error {
	if r.Server == nil {
		_, err := fmt.Fprintln(w, "server: not running")
		return err
	}
	s := r.Server
	state := string(s.State)
	if !r.Running {
		state = "not running (last seen " + state + ")"
	}
	rows := [][]string{
		{"server", state, strings.TrimSpace(fmt.Sprintf("pid %d, %s %s", s.PID, s.Version, prefixed("up ", r.Uptime)))},
		{"data dir", s.DataDir, ""},
		{"datastore", s.Datastore.Kind, s.Datastore.Durability},
		{"kubeconfig", s.Kubeconfig, ""},
	}
	if r.Running {
		rows = append(rows, pluginRows(s.Plugins)...)
		rows = append(rows, r.Cluster.rows(*s)...)
	}
	if err := writeTable(w, "WHAT STATE DETAIL", rows); err != nil {
		return err
	}
	fmt.Fprintln(w)
	var steps [][]string
	for _, p := range s.Phases {
		for _, step := range p.Steps {
			steps = append(steps, []string{p.Name, step.Name, string(step.State), seconds(step.Took), step.Reason})
		}
	}
	return writeTable(w, "PHASE STEP STATE TOOK REASON", steps)
}

func pluginRows(plugins []status.Plugin) [][]string {
	var rows [][]string
	for _, p := range plugins {
		detail := "version " + p.Version
		if p.PID != 0 {
			detail += fmt.Sprintf(", pid %d", p.PID)
		}
		if p.Restarts > 0 {
			detail += fmt.Sprintf(", %d restarts", p.Restarts)
		}
		if p.Message != "" {
			detail += ": " + p.Message
		}
		rows = append(rows, []string{"plugin " + p.Kind + "/" + p.Name, p.Phase, detail})
	}
	return rows
}

func prefixed(prefix, text string) string {
	if text == "" {
		return ""
	}
	return prefix + text
}

func seconds(s float64) string {
	if s == 0 {
		return "-"
	}
	return strconv.FormatFloat(s, 'f', 2, 64) + "s"
}
