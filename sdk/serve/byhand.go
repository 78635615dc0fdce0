package serve

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/kelson-io/kelson/sdk/config"
	"github.com/kelson-io/kelson/sdk/plugin"
)

// verb is one word that the program answers by hand.
type verb struct {
	name, usage, help string
	run               func(proc Process, p plugin.Plugin, args []string) error
}

func verbs() []verb {
	return []verb{
		{"describe", "", "print what the plugin is, as JSON", describe},
		{"schema", "", "print the JSON Schema of its configuration", schema},
		{"validate", "-f FILE [-o json]", "judge a configuration in YAML or JSON; - is the standard input", validate},
		{"manifest", "--exec FILE [flags]", "print the plugin.yaml for this built program; -h lists the flags", writeManifest},
	}
}

// usageError is a call that the program does not understand.
type usageError struct{ error }

// errInvalid ends validate after the diagnostics have been printed.
var errInvalid = errors.New("invalid")

// byHand answers a person, or a tool that installs the plugin.
func byHand(proc Process, p plugin.Plugin) int {
	if len(proc.Args) == 0 || proc.Args[0] == "help" || proc.Args[0] == "-h" || proc.Args[0] == "--help" {
		help(proc.Stdout, proc.Name, p.Info())
		return exitDone
	}
	for _, v := range verbs() {
		if v.name != proc.Args[0] {
			continue
		}
		err := v.run(proc, p, proc.Args[1:])
		var usage usageError
		switch {
		case err == nil || errors.Is(err, flag.ErrHelp):
			return exitDone
		case errors.As(err, &usage):
			fmt.Fprintf(proc.Stderr, "%s %s: %v\nusage: %s %s %s\n", proc.Name, v.name, err, proc.Name, v.name, v.usage)
			return exitUsage
		case !errors.Is(err, errInvalid):
			fmt.Fprintf(proc.Stderr, "%s %s: %v\n", proc.Name, v.name, err)
		}
		return exitFailed
	}
	fmt.Fprintf(proc.Stderr, "%s: unknown command %q; %s help lists the commands\n", proc.Name, proc.Args[0], proc.Name)
	return exitUsage
}

func help(w io.Writer, name string, i plugin.Info) {
	fmt.Fprintf(w, "%s %s, a Kelson plugin of kind %s: %s\n\n", i.Name, i.Version, i.Kind, i.Summary)
	fmt.Fprintf(w, "Kelson starts this program by itself, once it is installed (kelson plugin install)\nand listed in the plugin catalog. By hand it answers:\n\n")
	for _, v := range verbs() {
		fmt.Fprintf(w, "  %s %s\n        %s\n", name, v.name+" "+v.usage, v.help)
	}
}

// flags parses the arguments of a verb, which takes no others.
func flags(proc Process, name string, args []string, define func(*flag.FlagSet)) error {
	set := flag.NewFlagSet(name, flag.ContinueOnError)
	set.SetOutput(io.Discard)
	define(set)
	err := set.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		set.SetOutput(proc.Stdout)
		set.PrintDefaults()
		return err
	case err != nil:
		return usageError{err}
	case set.NArg() > 0:
		return usageError{fmt.Errorf("unexpected argument %q", set.Arg(0))}
	}
	return nil
}

func nothing(*flag.FlagSet) {}

func describe(proc Process, p plugin.Plugin, args []string) error {
	if err := flags(proc, "describe", args, nothing); err != nil {
		return err
	}
	if err := p.Info().Check(); err != nil {
		return err
	}
	return indented(proc.Stdout, struct {
		plugin.Info

		ConfigSchema json.RawMessage `json:"configSchema"`
	}{p.Info(), p.Schema()})
}

func schema(proc Process, p plugin.Plugin, args []string) error {
	if err := flags(proc, "schema", args, nothing); err != nil {
		return err
	}
	return indented(proc.Stdout, p.Schema())
}

func indented(w io.Writer, value any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(value)
}

// finding is a diagnostic with its place in the file.
type finding struct {
	File string `json:"file"`
	Line int    `json:"line"`
	config.Diagnostic
}

func validate(proc Process, p plugin.Plugin, args []string) error {
	var name, output string
	err := flags(proc, "validate", args, func(set *flag.FlagSet) {
		set.StringVar(&name, "f", "", "`FILE` with the configuration; - is the standard input")
		set.StringVar(&output, "o", "text", "text or json")
	})
	switch {
	case err != nil:
		return err
	case name == "":
		return usageError{errors.New("-f is missing")}
	case output != "text" && output != "json":
		return usageError{fmt.Errorf("-o %s: want text or json", output)}
	}
	data, err := read(proc.Stdin, name)
	if err != nil {
		return err
	}
	doc, found := readDocument(data)
	if !found.HasErrors() {
		found = p.Validate(context.Background(), doc.json)
	}
	findings := make([]finding, len(found))
	for i, d := range found {
		findings[i] = finding{File: name, Line: doc.line(d.Path), Diagnostic: d}
	}
	slices.SortStableFunc(findings, func(a, b finding) int { return a.Line - b.Line })
	if output == "json" {
		err = indented(proc.Stdout, map[string]any{"valid": !found.HasErrors(), "diagnostics": findings})
	} else {
		printFindings(proc.Stdout, name, findings)
	}
	if err == nil && found.HasErrors() {
		return errInvalid
	}
	return err
}

func printFindings(w io.Writer, name string, findings []finding) {
	if len(findings) == 0 {
		fmt.Fprintf(w, "%s: valid\n", name)
	}
	for _, f := range findings {
		fmt.Fprintf(w, "%s:%d: %s: %s\n", f.File, f.Line, f.Severity, f.Diagnostic)
		if f.Detail != "" {
			fmt.Fprintf(w, "    %s\n", f.Detail)
		}
	}
}

// maxFile bounds a configuration, as the contract does.
const maxFile = 1 << 20

func read(stdin io.Reader, name string) ([]byte, error) {
	from := stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		from = f
	}
	data, err := io.ReadAll(io.LimitReader(from, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("read %s: more than %d bytes", name, maxFile)
	}
	return data, nil
}
