package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/pluginhost/catalog"
)

type pluginVerifyCmd struct {
	Plugins []string `arg:"" optional:"" name:"plugin" placeholder:"KIND/NAME" help:"Plugins to verify. Default: all that may run."`
	output
}

// Help gives examples.
func (pluginVerifyCmd) Help() string {
	return "Files, owners, digests, signatures, architecture and configuration are checked as before each start; nothing is run. The exit code is 1 when one is refused.\n\nExamples:\n\n    kelson plugin verify\n    kelson plugin verify cni/mynet -o json"
}

// verified is the verdict on one plugin.
type verified struct {
	Plugin string            `json:"plugin"`
	Result string            `json:"result"`
	Detail string            `json:"detail,omitempty"`
	Hint   string            `json:"hint,omitempty"`
	Steps  []catalog.Finding `json:"steps"`
}

// Run verifies one plugin after the other.
func (c *pluginVerifyCmd) Run(env pluginEnv, std streams) error {
	names := c.Plugins
	if len(names) == 0 {
		items, err := env.List()
		if err != nil {
			return err
		}
		for _, it := range items {
			if it.Listed && it.Enabled {
				names = append(names, it.Kind+"/"+it.Name)
			}
		}
	}
	ctx, stop := signalContext()
	defer stop()
	all, failed := []verified{}, 0
	for _, ref := range names {
		kind, name, err := pluginRef{ref}.find(env)
		if err != nil {
			return err
		}
		v := verdict(kind+"/"+name, env.Examine(ctx, kind, name, false))
		if v.Result == catalog.Failed {
			failed++
		}
		all = append(all, v)
	}
	err := c.emit(std.Out, all, func(w io.Writer) error { return verifyTable(w, all) })
	if err == nil && failed > 0 {
		err = config.Hinted(fmt.Errorf("verify: %d of %d plugins refused", failed, len(all)), "'kelson plugin doctor KIND/NAME' explains it")
	}
	return err
}

func verdict(plugin string, steps []catalog.Finding) verified {
	v := verified{Plugin: plugin, Result: catalog.OK, Steps: steps}
	for _, f := range steps {
		if f.Result == catalog.Failed {
			v.Result, v.Detail, v.Hint = f.Result, f.Detail, f.Hint
		}
	}
	return v
}

func verifyTable(w io.Writer, all []verified) error {
	rows := make([][]string, len(all))
	for i, v := range all {
		rows[i] = []string{v.Plugin, v.Result, v.Detail}
	}
	return writeTable(w, "PLUGIN RESULT DETAIL", rows)
}

type pluginDoctorCmd struct {
	pluginRef
	NoStart bool `help:"Do not run the program."`
	output
}

// Help gives examples.
func (pluginDoctorCmd) Help() string {
	return "It walks from the catalog over the files to a first start, with the time that each step took, and stops at the first that fails. The program is run twice: without privileges, to describe itself, and up to its handshake. It is not configured, and a plugin that runs is left alone. The exit code is 1 when a step failed.\n\nExamples:\n\n    kelson plugin doctor cni/mynet\n    kelson plugin doctor cni/mynet --no-start -o json"
}

// Run prints the steps.
func (c *pluginDoctorCmd) Run(env pluginEnv, std streams) error {
	kind, name, err := c.find(env)
	if err != nil {
		return err
	}
	ctx, stop := signalContext()
	defer stop()
	steps := env.Examine(ctx, kind, name, !c.NoStart)
	if err := c.emit(std.Out, steps, func(w io.Writer) error { return doctorTable(w, steps) }); err != nil {
		return err
	}
	for _, f := range steps {
		if f.Result == catalog.Failed {
			return config.Hinted(fmt.Errorf("doctor: %s/%s would not run: step %s failed", kind, name, f.Step), f.Hint)
		}
	}
	return nil
}

func doctorTable(w io.Writer, steps []catalog.Finding) error {
	rows := make([][]string, len(steps))
	for i, f := range steps {
		took := "-"
		if f.Result != catalog.Skipped {
			took = fmt.Sprintf("%.1f ms", f.Took*1000)
		}
		rows[i] = []string{f.Step, f.Result, took, f.Detail}
	}
	return writeTable(w, "STEP RESULT TOOK DETAIL", rows)
}

type pluginLogsCmd struct {
	pluginRef
	Follow bool `short:"f" help:"Go on printing what is added."`
	Lines  int  `short:"n" default:"200" placeholder:"N" help:"Lines from the end; 0 for all. Default: 200."`
}

// Help gives examples.
func (pluginLogsCmd) Help() string {
	return "Plugins that outlive the server have a log of their own. What other plugins write is in the server's log, under their name.\n\nExamples:\n\n    kelson plugin logs cni/flannel\n    kelson plugin logs cni/flannel -f -n 20"
}

// Run prints the log's end.
func (c *pluginLogsCmd) Run(env pluginEnv, std streams) error {
	kind, name, err := c.find(env)
	if err != nil {
		return err
	}
	path := filepath.Join(env.dirs.Root, "plugins", "state", kind, name, "plugin.log")
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return config.Hinted(fmt.Errorf("logs: %s/%s has no log of its own", kind, name), "it has not run yet, or it lives with the server and writes to the server's log")
	}
	if err != nil {
		return fmt.Errorf("logs: %w", err)
	}
	defer f.Close()
	if err := tailLines(std.Out, f, c.Lines); err != nil || !c.Follow {
		return err
	}
	ctx, stop := signalContext()
	defer stop()
	return follow(ctx, std.Out, f, path)
}

// maxTail is how much of a log's end is looked at.
const maxTail = 4 << 20

// tailLines prints the last n lines, all for 0, and leaves f at its end.
func tailLines(w io.Writer, f *os.File, n int) error {
	if n > 0 {
		st, err := f.Stat()
		if err != nil {
			return fmt.Errorf("logs: %w", err)
		}
		if _, err := f.Seek(max(0, st.Size()-maxTail), io.SeekStart); err != nil {
			return fmt.Errorf("logs: %w", err)
		}
	}
	data, err := io.ReadAll(f)
	if err != nil {
		return fmt.Errorf("logs: %w", err)
	}
	lines := strings.SplitAfter(string(data), "\n")
	if lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1]
	}
	if n > 0 && len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	_, err = io.WriteString(w, strings.Join(lines, ""))
	return err
}

// follow prints what is added until ctx ends; a log that was rotated is read
// from its new file's beginning.
func follow(ctx context.Context, w io.Writer, f *os.File, path string) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := io.Copy(w, f); err != nil {
			return fmt.Errorf("logs: %w", err)
		}
		now, errNow := os.Stat(path)
		was, errWas := f.Stat()
		if errNow == nil && errWas == nil && !os.SameFile(now, was) {
			next, err := os.Open(path)
			if err != nil {
				return fmt.Errorf("logs: %w", err)
			}
			defer next.Close()
			f = next
		} else if at, err := f.Seek(0, io.SeekCurrent); err == nil && errWas == nil && was.Size() < at {
			if _, err := f.Seek(0, io.SeekStart); err != nil { // emptied in place
				return fmt.Errorf("logs: %w", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
