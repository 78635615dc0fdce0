package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/kelson-io/kelson/core/config"
)

type configCmd struct {
	Show     configShowCmd     `cmd:"" help:"Print the effective configuration and where each value comes from."`
	Validate configValidateCmd `cmd:"" help:"Check the configuration without starting anything."`
}

type configShowCmd struct{ output }

// Help gives examples.
func (configShowCmd) Help() string {
	return "Secrets are not printed.\n\nExamples:\n\n    kelson config show\n    kelson config show --config ./config.yaml -o json"
}

// shownValue is one option in the output for machines.
type shownValue struct {
	Name    string   `json:"name"`
	Value   any      `json:"value"`
	Sources []string `json:"sources"`
}

// Run prints every option.
func (c *configShowCmd) Run(g globals, std streams) error {
	r, err := config.Resolve(config.Inputs{Flags: g.flags(), Environ: os.Environ()})
	if err != nil {
		return err
	}
	shown := make([]shownValue, len(r.Values))
	rows := make([][]string, len(r.Values))
	for i, v := range r.Values {
		shown[i] = shownValue{Name: v.Option.Name, Value: machineValue(v), Sources: sources(v)}
		rows[i] = []string{v.Option.Name, strings.Join(v.Texts(), ","), strings.Join(sources(v), ", ")}
	}
	warn(std.Err, r.Server.Warnings)
	return c.emit(std.Out, shown, func(w io.Writer) error { return writeTable(w, "OPTION VALUE SOURCE", rows) })
}

func sources(v config.Value) []string {
	if s := v.Sources(); len(s) > 0 {
		return s
	}
	return []string{v.Source.String()}
}

// machineValue gives the value its own type.
func machineValue(v config.Value) any {
	texts := v.Texts()
	if v.Option.Many() {
		return texts
	}
	text := strings.Join(texts, "")
	switch v.Option.Type {
	case config.Bool:
		return text == "true"
	case config.Number:
		var n int
		if _, err := fmt.Sscan(text, &n); err == nil {
			return n
		}
	}
	return text
}

type configValidateCmd struct {
	File string `arg:"" optional:"" help:"Configuration file to check by itself; without it, everything a server would read."`
}

// Help gives examples.
func (configValidateCmd) Help() string {
	return "Every problem is named with file, line and remedy; the exit code is 2 then.\n\nExamples:\n\n    kelson config validate\n    kelson config validate ./config.yaml"
}

// Run checks one file, or all layers.
func (c *configValidateCmd) Run(g globals, std streams) error {
	in := config.Inputs{Flags: g.flags(), Environ: os.Environ()}
	if c.File != "" {
		in = config.Inputs{Flags: []config.Flag{{Name: "config", Value: c.File}}}
	}
	r, err := config.Resolve(in)
	if err != nil {
		return err
	}
	warn(std.Err, r.Server.Warnings)
	what := r.Server.ConfigFile
	if what == "" {
		what = "no configuration file; the defaults"
	}
	_, err = fmt.Fprintf(std.Out, "%s: valid\n", what)
	return err
}

func warn(w io.Writer, warnings []string) {
	for _, text := range warnings {
		fmt.Fprintf(w, "warning: %s\n", text)
	}
}
